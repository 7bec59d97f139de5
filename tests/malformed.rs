//! Files that are not what they say: typed errors, no panic, no allocation that the file does not justify.
//!
//! A program of its own: it counts the allocations of its whole process, so its tests take turns.
//! `BETAEDIT_FUZZ_SECONDS=600` mutates for that long per reader; without it, a fixed number of times.

#![allow(non_snake_case)]

#[path = "malformed/mutation.rs"]
mod mutation;
#[path = "malformed/readers.rs"]
mod readers;

use std::alloc::System;
use std::collections::HashMap;
use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use betaedit_core::error::FileError;
use betaedit_core::faer::Par;
use betaedit_core::llm::Model;
use betaedit_core::{Error, Result};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

use self::mutation::{Random, mutated};
use self::readers::{Reader, scratch};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

static TURN: Mutex<()> = Mutex::new(());

static READERS: LazyLock<Vec<Reader>> = LazyLock::new(readers::readers);

const SEQ: Par = Par::Seq;

/// What a reader may allocate, all its allocations together: this, and so many times the length of the file.
const SPARE: usize = 8 << 20;
const TIMES: usize = 256;

/// Reads a file; asserts what it allocates; whether it was taken.
fn read(reader: &Reader, path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).unwrap();
    let region = Region::new(ALLOCATOR);
    let outcome = (reader.read)(path);
    let allocated = region.change().bytes_allocated;
    let allowed = SPARE + TIMES * bytes.len();
    assert!(allocated <= allowed, "{}: {allocated} bytes for a file of {}: {outcome:?}", reader.name, bytes.len());
    if let Err(error) = &outcome {
        assert!(
            error.to_string().contains(path.file_name().unwrap().to_str().unwrap()),
            "{error} does not name the file"
        );
    }
    outcome
}

#[test]
fn mutated_files_are_refused_or_sound() {
    let _turn = TURN.lock();
    let folder = scratch();
    let seconds = std::env::var("BETAEDIT_FUZZ_SECONDS").ok().map(|seconds| seconds.parse::<u64>().unwrap());
    for reader in READERS.iter() {
        let path = folder.path().join(reader.file);
        for good in &reader.good {
            read(reader, &path, good).unwrap_or_else(|error| panic!("{}: {error}", reader.name));
        }
        let mut random = Random(20);
        let start = Instant::now();
        let (mut runs, mut taken) = (0_u64, 0_u64);
        loop {
            let more = match seconds {
                Some(seconds) => start.elapsed() < Duration::from_secs(seconds),
                None => runs < 3000,
            };
            if !more {
                break;
            }
            let bytes = mutated(&mut random, &reader.good);
            taken += u64::from(read(reader, &path, &bytes).is_ok());
            runs += 1;
        }
        println!("{}: {runs} files, {taken} taken", reader.name);
        assert!(taken < runs, "{}: all taken", reader.name);
    }
}

/// Without a look at the allocations: errors of candle hold a stack where the environment asks for it.
#[test]
fn mutated_gguf_files_are_refused_or_models() {
    let _turn = TURN.lock();
    let folder = scratch();
    let reader = READERS.iter().find(|reader| reader.name == "gguf").unwrap();
    let path = folder.path().join(reader.file);
    std::fs::write(&path, &reader.good[0]).unwrap();
    assert_eq!(Model::open(&path, SEQ).unwrap().0.config().intermediate, 64);
    let (mut random, mut taken) = (Random(21), 0);
    let runs = if std::env::var_os("BETAEDIT_LONG").is_some() { 300_000 } else { 3000 };
    for _ in 0..runs {
        std::fs::write(&path, mutated(&mut random, &reader.good)).unwrap();
        match Model::open(&path, SEQ) {
            Ok((model, _)) => taken += usize::from(model.config().layers == 1),
            Err(error) => assert!(error.to_string().contains("f.gguf"), "{error}"),
        }
    }
    assert!((1..runs).contains(&taken), "{taken}");
}

#[test]
#[ignore = "writes into fuzz/corpus, what the fuzzer starts from"]
fn seeds() {
    for reader in READERS.iter() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(reader.name);
        std::fs::create_dir_all(&folder).unwrap();
        for (i, good) in reader.good.iter().enumerate() {
            std::fs::write(folder.join(format!("good-{i}")), good).unwrap();
        }
    }
}

#[test]
fn files_cut_at_any_length_are_refused() {
    let _turn = TURN.lock();
    let folder = scratch();
    for reader in READERS.iter() {
        let path = folder.path().join(reader.file);
        for good in &reader.good {
            for length in 0..good.len() {
                assert!(read(reader, &path, &good[..length]).is_err(), "{}: {length}", reader.name);
            }
        }
    }
}

/// A header and so many bytes of zeros.
fn with_header(header: &str, zeros: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; zeros]].concat()
}

#[track_caller]
fn refused(name: &str, bytes: &[u8], text: &str) {
    let folder = scratch();
    let reader = READERS.iter().find(|reader| reader.name == name).unwrap();
    match read(reader, &folder.path().join(reader.file), bytes) {
        Ok(()) => panic!("{name}: taken, expected `{text}`"),
        Err(error @ (Error::File(FileError::Format { .. }) | Error::File(FileError::Numbers { .. }))) => {
            assert!(error.to_string().contains(text), "`{error}` does not say `{text}`");
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn headers_that_announce_more_than_the_file_has() {
    let _turn = TURN.lock();
    for length in [9, 1000, 100_000_000, 100_000_001, u64::from(u32::MAX), u64::MAX - 7, u64::MAX] {
        let bytes = [&length.to_le_bytes()[..], b"{}"].concat();
        refused("checkpoint", &bytes, &format!("a header of {length} bytes is announced"));
    }
    refused("checkpoint", &[], "too short");
    refused("checkpoint", &[1, 2, 3], "too short");
    let deep = "[".repeat(200_000);
    refused("checkpoint", &with_header(&deep, 0), "not a readable safetensors file");
    refused("checkpoint", &with_header(&r#"{"a":"#.repeat(50_000), 0), "not a readable safetensors file");
    refused("index", deep.as_bytes(), "not a readable index");
    refused("index", format!(r#"{{"metadata":{deep}"#).as_bytes(), "not a readable index");
}

#[test]
fn absurd_shapes_and_offsets() {
    let _turn = TURN.lock();
    let tensor = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
    };
    let unreadable = "not a readable safetensors file";
    for (shape, from, to) in [
        ("[18446744073709551615,18446744073709551615]", 0, 8),
        ("[9223372036854775808,2]", 0, 0),
        ("[4294967296,4294967296]", 0, 0),
        ("[1099511627776,1]", 0, 1 << 42),
        ("[1,3]", 0, 8),
        ("[1,2]", 8, 16),
        ("[1,2]", 8, 0),
        ("[-1,2]", 0, 8),
        ("[1.5,2]", 0, 8),
        ("[1e3,2]", 0, 8),
        ("2", 0, 8),
    ] {
        refused("checkpoint", &with_header(&tensor("F32", shape, from, to), 8), unreadable);
    }
    refused("checkpoint", &with_header(&tensor("F32", "[1,2]", 0, 8), 9), "describes 8 bytes of tensors, there are 9");
    refused("checkpoint", &with_header(&tensor("F32", "[0,2]", 0, 0), 0), "is empty");
    refused("checkpoint", &with_header(&tensor("F32", "[2]", 0, 8), 8), "has 1 dimensions");
    refused("checkpoint", &with_header(&tensor("F32", "[1,1,2]", 0, 8), 8), "has 3 dimensions");
    refused("checkpoint", &with_header(&tensor("F32", "[]", 0, 4), 4), "has 0 dimensions");
    for dtype in ["I64", "U64", "C64"] {
        refused("checkpoint", &with_header(&tensor(dtype, "[1,1]", 0, 8), 8), &format!("is of type {dtype}"));
    }
    refused("checkpoint", &with_header(&tensor("BOOL", "[1,8]", 0, 8), 8), "is of type BOOL");
    refused("checkpoint", &with_header(&tensor("F128", "[1,1]", 0, 16), 16), unreadable);
}

/// A statistics file with some of its metadata, or its sum, changed.
fn statistics_file(changes: &[(&str, Option<&str>)], sum: &[f64], rows: usize) -> Vec<u8> {
    let good = [
        ("format", "betaedit.statistics.1"),
        ("tokens", "10"),
        ("model", "m"),
        ("layer", "1"),
        ("text", "t"),
        ("parts", r#"["1"]"#),
    ];
    let mut metadata: HashMap<_, _> =
        good.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    for (key, value) in changes {
        metadata.remove(*key);
        metadata.extend(value.map(|value| ((*key).to_owned(), value.to_owned())));
    }
    let bytes: Vec<u8> = sum.iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F64, vec![rows, sum.len() / rows], &bytes).unwrap();
    safetensors::serialize([("sum", view)], Some(metadata)).unwrap()
}

#[test]
fn statistics_that_are_none() {
    let _turn = TURN.lock();
    let sum = [2.0, 1.0, 1.0, 2.0];
    for (key, value, text) in [
        ("format", None, "`nothing` as its `format`"),
        ("format", Some("betaedit.statistics.2"), "expected `betaedit.statistics.1`"),
        ("format", Some("pt"), "expected `betaedit.statistics.1`"),
        ("tokens", None, "no `tokens`"),
        ("tokens", Some("0"), "`tokens` is 0"),
        ("tokens", Some("-1"), "no number"),
        ("tokens", Some("1e3"), "no number"),
        ("tokens", Some("99999999999999999999"), "no number"),
        ("layer", Some("first"), "no number"),
        ("model", None, "no `model`"),
        ("text", None, "no `text`"),
        ("parts", Some("1"), "`parts`"),
        ("parts", Some("[1]"), "`parts`"),
        ("parts", Some(r#"["#), "`parts`"),
    ] {
        refused("statistics", &statistics_file(&[(key, value)], &sum, 2), text);
    }
    refused("statistics", &statistics_file(&[], &[1.0, 2.0], 1), "expected 1 x 1");
    refused("statistics", &statistics_file(&[], &[1.0, 2.0, 3.0, 4.0], 2), "not symmetric");
    refused("statistics", &statistics_file(&[], &[-1.0, 0.0, 0.0, 1.0], 2), "not positive semidefinite");
    refused("statistics", &statistics_file(&[], &[f64::NAN, 0.0, 0.0, 1.0], 2), "NaN");
    refused("statistics", &statistics_file(&[], &[1.0, f64::INFINITY, f64::INFINITY, 1.0], 2), "inf");
}

/// A member of an archive: the header of an array, in a version of its format, and its bytes.
fn array(line: &str, bytes: &[u8]) -> Vec<u8> {
    [b"\x93NUMPY\x01\x00", &(line.len() as u16).to_le_bytes()[..], line.as_bytes(), bytes].concat()
}

fn npz(members: &[(&str, Vec<u8>)], method: CompressionMethod) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        archive.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn line(descr: &str, shape: &str) -> String {
    format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n")
}

#[test]
fn archives_that_are_no_statistics() {
    let _turn = TURN.lock();
    let stored = CompressionMethod::Stored;
    let count = || ("mom2.count.npy", array(&line("<i8", "()"), &9_i64.to_le_bytes()));
    let sum = || ("mom2.mom2.npy", array(&line("<f4", "(1, 1)"), &1_f32.to_le_bytes()));
    let with_sum = |array: Vec<u8>| npz(&[count(), ("mom2.mom2.npy", array)], stored);
    let with_count = |array: Vec<u8>| npz(&[("mom2.count.npy", array), sum()], stored);
    let good = npz(&[count(), sum()], stored);
    let reader = READERS.iter().find(|reader| reader.name == "npz").unwrap();
    let folder = scratch();
    read(reader, &folder.path().join("f.npz"), &good).unwrap();

    refused("npz", b"no archive", "not a readable npz archive");
    refused("npz", &npz(&[count()], stored), "`mom2.mom2` is missing; there are: mom2.count");
    refused("npz", &npz(&[("mom2.npy", vec![1]), sum()], stored), "`mom2.count` is missing");
    for (bytes, text) in [
        (array(&line("<f4", "(18446744073709551615, 18446744073709551615)"), &[0; 4]), "announces"),
        (array(&line("<f4", "(4294967296, 4294967296)"), &[0; 4]), "announces"),
        (array(&line("<f4", "(100000, 100000)"), &[0; 4]), "announces"),
        (array(&line("<f4", "(2, 2)"), &[0; 12]), "announces"),
        (array(&line("<f4", "(2, 2)"), &[0; 20]), "announces"),
        (array(&line("<f4", "(1, 2)"), &[0; 8]), "expected a square matrix"),
        (array(&line("<f4", "(0, 0)"), &[]), "expected a square matrix"),
        (array(&line("<f4", "(4,)"), &[0; 16]), "expected two dimensions"),
        (array(&line("<f4", "(1, 1, 1)"), &[0; 4]), "expected two dimensions"),
        (array(&line("<i4", "(1, 1)"), &[0; 4]), "expected f2, f4 or f8"),
        (array(&line("|O8", "(1, 1)"), &[0; 8]), "expected f2, f4 or f8"),
        (array(&line("<f4", "(1, 1)"), &f32::NAN.to_le_bytes()), "NaN"),
        (array(&line("<f4", "(1, 1)"), &(-1_f32).to_le_bytes()), "not positive semidefinite"),
        (array(&line("<f4", "(-1, 1)"), &[0; 4]), "not understood"),
        (array(&line("f4", "(1, 1)"), &[0; 4]), "not understood"),
        (array(&line("<", "(1, 1)"), &[0; 4]), "not understood"),
        (array(&line("<é", "(1, 1)"), &[0; 4]), "not understood"),
        (array(&line("<fx", "(1, 1)"), &[0; 4]), "of type `fx`"),
        (array(&line("<f-4", "(1, 1)"), &[0; 4]), "of type `f-4`"),
        (array("{'descr': '<f4', 'shape': (1, 1), }", &[0; 4]), "not understood"),
        (array("{'descr': '<f4', 'fortran_order': Maybe, 'shape': (1, 1), }", &[0; 4]), "not understood"),
        (array("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (1, 1), }", &[0; 4]), "not understood"),
        (
            array("{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (1, 1), }", &[0; 4]),
            "not understood",
        ),
        (array("{", &[]), "not understood"),
        (array("", &[]), "not understood"),
        (b"\x93NUMPX\x01\x00\x01\x00{".to_vec(), "not a numpy array"),
        (b"\x93NUMPY\x04\x00\x01\x00{".to_vec(), "version 4"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{".to_vec(), "a header of 4294967295 bytes"),
        (b"\x93NUMPY\x02\x00\x00\x10\x00\x00{".to_vec(), "`mom2.mom2`"),
        (b"\x93NUM".to_vec(), "`mom2.mom2`"),
        (array("\u{fe}", &[]), "not understood"),
    ] {
        refused("npz", &with_sum(bytes), text);
    }
    for (bytes, text) in [
        (array(&line("<i8", "()"), &(-3_i64).to_le_bytes()), "is negative"),
        (array(&line("<i4", "()"), &(-3_i32).to_le_bytes()), "is negative"),
        (array(&line("<i8", "()"), &0_i64.to_le_bytes()), "`tokens` is 0"),
        (array(&line("<f8", "()"), &9_f64.to_le_bytes()), "is no count"),
        (array(&line("<i8", "(2,)"), &[1; 16]), "is no count"),
        (array(&line("<i2", "()"), &[1; 2]), "is no count"),
        (array(&line("<i16", "()"), &[1; 16]), "is no count"),
    ] {
        refused("npz", &with_count(bytes), text);
    }
    // A wrong checksum.
    let mut damaged = good.clone();
    let at = good.windows(4).rposition(|bytes| bytes == 1_f32.to_le_bytes()).unwrap();
    damaged[at] ^= 1;
    refused("npz", &damaged, "`mom2.mom2`");
}

#[test]
fn archives_that_unpack_to_more_than_they_are() {
    let _turn = TURN.lock();
    let count = ("mom2.count.npy", array(&line("<i8", "()"), &9_i64.to_le_bytes()));
    let d = 4000;
    let bomb = array(&line("<f4", &format!("({d}, {d})")), &vec![0; 4 * d * d]);
    let bytes = npz(&[count, ("mom2.mom2.npy", bomb)], CompressionMethod::Deflated);
    assert!(bytes.len() < 100_000);
    refused("npz", &bytes, "no statistics do");
    // The same by a lie: the sizes of the directory changed to huge ones.
    let reader = READERS.iter().find(|reader| reader.name == "npz").unwrap();
    for file in &reader.good {
        let size = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let starts = (0..file.len() - 46).filter(|&at| file[at..].starts_with(b"PK\x01\x02"));
        for start in starts {
            for (packed, unpacked) in [(size(start + 20), 0xFFFF_FFF0), (0xFFFF_FFF0, 0xFFFF_FFF0), (0x7FFF_FFFF, 100)]
            {
                let mut lie: Vec<u8> = file.clone();
                lie[start + 20..start + 24].copy_from_slice(&packed.to_le_bytes());
                lie[start + 24..start + 28].copy_from_slice(&u32::to_le_bytes(unpacked));
                let folder = scratch();
                let needed = [&b"mom2.count"[..], b"mom2.mom2"].iter().any(|name| file[start + 46..].starts_with(name));
                let outcome = read(reader, &folder.path().join("f.npz"), &lie);
                assert!(outcome.is_err() || !needed, "{outcome:?}");
            }
        }
    }
}

#[test]
fn spectra_projectors_and_deltas_that_are_none() {
    let _turn = TURN.lock();
    let file = |format: &str, tensors: &[(&str, usize, &[f64])]| {
        let bytes: Vec<Vec<u8>> =
            tensors.iter().map(|(.., numbers)| numbers.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
        let views = tensors.iter().zip(&bytes).map(|((name, rows, numbers), bytes)| {
            (*name, TensorView::new(Dtype::F64, vec![*rows, numbers.len() / rows], bytes).unwrap())
        });
        let entries = [("format", format), ("model", "m"), ("layer", "1"), ("text", "t")];
        let metadata = entries.map(|(key, value)| (key.to_owned(), value.to_owned()));
        safetensors::serialize(views, Some(HashMap::from(metadata))).unwrap()
    };
    let identity: &[f64] = &[1.0, 0.0, 0.0, 1.0];
    let spectrum = |values: &[f64], vectors: &[f64]| {
        file("betaedit.spectrum.1", &[("values", 1, values), ("vectors", 2, vectors)])
    };
    refused("spectrum", &spectrum(&[2.0, 1.0], identity), "must ascend");
    refused("spectrum", &spectrum(&[-1.0, 1.0], identity), "smallest eigenvalue");
    refused("spectrum", &spectrum(&[1.0, f64::NAN], identity), "NaN");
    refused("spectrum", &spectrum(&[1.0, 2.0, 3.0], identity), "expected 3 x 3");
    refused("spectrum", &spectrum(&[1.0, 2.0], &[1.0, 0.0, 0.1, 1.0]), "not orthonormal");
    let delta = |tensors: &[(&str, usize, &[f64])]| file("betaedit.delta.1", tensors);
    refused("delta", &delta(&[("a.left", 2, &[1.0, 2.0])]), "`a.right` is missing");
    refused("delta", &delta(&[("a.right", 2, &[1.0, 2.0])]), "has no left one");
    refused("delta", &delta(&[("a.left", 2, &[1.0, 2.0]), ("a.right", 2, identity)]), "expected 1 x 2");
    refused("delta", &delta(&[("a", 2, &[1.0, 2.0])]), "`a` is no factor");
    refused("delta", &delta(&[("a.left", 1, &[1e200]), ("a.right", 1, &[1.0])]), "inf");
    refused("projector", &file("", &[("P", 2, &[1.0, 0.5, 0.0, 1.0])]), "not symmetric");
    refused("projector", &file("", &[("P", 2, &[0.5, 0.0, 0.0, 1.0])]), "is no projector");
    refused("projector", &file("", &[("P", 1, &[1.0, 0.0])]), "expected 2 x 2");
    refused("projector", &file("", &[("Q", 2, identity)]), "`P` is missing; there are: Q");
}
