//! Files of the engine: the same bits go on, and nothing else is read.

use std::sync::LazyLock;

use betaedit_core::Error;
use betaedit_core::InverseGram;
use betaedit_core::error::FileError;
use betaedit_core::faer::{Mat, MatRef, Par};
use betaedit_core::format::engine;
use tempfile::TempDir;

use crate::common::Random;

const SEQ: Par = Par::Seq;

fn bits(matrix: MatRef<'_, f64>) -> Vec<u64> {
    matrix.col_iter().flat_map(|column| column.iter().map(|x| x.to_bits())).collect()
}

/// Every kind of event, over the borders of blocks. The keys are `f32`, so that a rounded copy is used where there is one.
fn event(Q: &mut InverseGram, keys: &Mat<f32>, t: usize) {
    match t % 11 {
        4 => Q.discount(0.93).unwrap(),
        7 => Q.release(keys.as_ref().subcols(t - 1, 1)).unwrap(),
        9 => Q.absorb(keys.as_ref().subcols(t, 3)).unwrap(),
        _ => Q.absorb(keys.as_ref().subcols(t, 1)).unwrap(),
    }
    if t == 60 {
        Q.constrain(keys.as_ref().subcols(0, 1)).unwrap();
    }
}

#[test]
fn an_engine_that_is_read_goes_on_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("engine");
    // One panel, and more than one.
    for (d, every) in [(7, 1), (300, 29)] {
        let keys = Random::new(30).matrix::<f32>(d, 160);
        let start = InverseGram::isotropic(d, 2.0, SEQ).unwrap();
        for start in [start.clone(), start.with_rounded_copy().unwrap()] {
            let (mut whole, mut in_parts) = (start.clone(), start);
            for t in 0..150 {
                event(&mut whole, &keys, t);
                event(&mut in_parts, &keys, t);
                if t % every == 0 {
                    engine::write(&path, &in_parts).unwrap();
                    in_parts = engine::read(&path, SEQ).unwrap();
                }
                if t % 10 == 0 || t == 149 {
                    assert_eq!(bits(whole.to_dense().as_ref()), bits(in_parts.to_dense().as_ref()), "{d}, step {t}");
                    assert_eq!(whole.measure_drift().to_bits(), in_parts.measure_drift().to_bits());
                    let next = [&whole, &in_parts].map(|Q| Q.solve(keys.as_ref().subcols(150, 1)).unwrap());
                    assert_eq!(bits(next[0].directions()), bits(next[1].directions()), "{d}, step {t}");
                }
            }
        }
    }
}

/// A small engine with unsettled keys and a base that waits to be scaled.
fn small() -> InverseGram {
    let keys = Random::new(31).matrix::<f32>(3, 9);
    let mut Q = InverseGram::isotropic(3, 1.0, SEQ).unwrap().with_rounded_copy().unwrap();
    Q.absorb(keys.as_ref().subcols(0, 8)).unwrap();
    Q.discount(0.9).unwrap();
    Q.absorb(keys.as_ref().subcols(8, 1)).unwrap();
    Q
}

/// In memory where there is such a place: thousands of files are written over each other.
static FOLDER: LazyLock<TempDir> =
    LazyLock::new(|| tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap());

#[track_caller]
fn refused(bytes: &[u8], text: &str) {
    let path = FOLDER.path().join(format!("{:?}-stream.inverse", std::thread::current().id()));
    std::fs::write(&path, bytes).unwrap();
    match engine::read(&path, SEQ) {
        Ok(_) => panic!("read, expected `{text}`"),
        Err(error @ Error::File(FileError::Format { .. })) => {
            let error = error.to_string();
            assert!(error.contains("stream.inverse") && error.contains(text), "`{error}` does not say `{text}`");
        }
        Err(other) => panic!("{other:?}"),
    }
}

fn written(Q: &InverseGram) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("engine");
    engine::write(&path, Q).unwrap();
    std::fs::read(&path).unwrap()
}

/// The file with another number at a place in its contents, and the right hash.
fn forged(good: &[u8], at: usize, bytes: [u8; 8]) -> Vec<u8> {
    let mut forged = good[..good.len() - blake3::OUT_LEN].to_vec();
    forged[at..at + 8].copy_from_slice(&bytes);
    let hash = blake3::hash(&forged);
    forged.extend(hash.as_bytes());
    forged
}

#[test]
fn damage_at_any_byte_and_any_truncation_are_refused() {
    let good = written(&small());
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        let text = match at {
            0..16 => "not a file of an inverse Gram matrix",
            16..24 => "of the layout, expected 1",
            _ => "damaged: its hash does not match",
        };
        refused(&bytes, text);
    }
    for length in 0..good.len() {
        let text = match length {
            0..24 => "not a file of an inverse Gram matrix",
            24..56 => "too short",
            _ => "damaged",
        };
        refused(&good[..length], text);
    }
    refused(&[&good[..], &[0]].concat(), "damaged");
}

/// A hash says nothing about who wrote it.
#[test]
fn sizes_and_numbers_are_not_trusted() {
    let good = written(&small());
    refused(&forged(&good, 16, 2_u64.to_le_bytes()), "version 2 of the layout, expected 1");
    for dim in [0, 1 << 20, 1 << 32, u64::MAX] {
        refused(&forged(&good, 24, dim.to_le_bytes()), &format!("it announces keys of length {dim}, "));
    }
    for dim in [1, 2, 4, 8] {
        let bytes = forged(&good, 24, u64::to_le_bytes(dim));
        refused(&bytes, "");
    }
    for (at, what) in [(40, "scale"), (48, "scale")] {
        for x in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            refused(&forged(&good, at, f64::to_le_bytes(x)), what);
        }
    }
    // The base, 9 numbers from byte 56 on; then two counts and 3 x 64 pending numbers; then the two bounds.
    for at in [56, 144] {
        refused(&forged(&good, at, f64::NAN.to_le_bytes()), "not finite");
    }
    for count in [65, u64::MAX] {
        refused(&forged(&good, 128, count.to_le_bytes()), "a length is out of range");
    }
    let bounds = 144 + 8 * 3 * 64;
    for at in [bounds, bounds + 8] {
        refused(&forged(&good, at, f64::NAN.to_le_bytes()), "out of range");
    }
    for length in [1, 3 * 60, 1 << 40, u64::MAX] {
        refused(&forged(&good, bounds + 16, length.to_le_bytes()), "");
    }
    // As it is, with its hash made anew, it is read.
    let (folder, same) = (tempfile::tempdir().unwrap(), forged(&good, 16, 1_u64.to_le_bytes()));
    let path = folder.path().join("engine");
    std::fs::write(&path, same).unwrap();
    assert_eq!(engine::read(&path, SEQ).unwrap().to_dense(), small().to_dense());
}

#[test]
fn a_file_that_is_not_there_or_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for error in [
        engine::read(folder.path().join("no-such-file"), SEQ).map(drop).unwrap_err(),
        engine::write(folder.path().join("no-such-folder/no-such-file"), &small()).unwrap_err(),
        engine::read(folder.path(), SEQ).map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, Error::File(FileError::Io { .. })), "{error:?}");
        assert!(error.to_string().contains(folder.path().to_str().unwrap()), "{error}");
    }
}
