//! Files that are not what they say: typed errors, no panic, no allocation that the file does not justify.
//!
//! A program of its own: it counts the allocations of its whole process, so its tests take turns.
//! `BETAEDIT_FUZZ_SECONDS=600` mutates for that long per reader; without it, a fixed number of times.

#![allow(non_snake_case)]

use std::alloc::System;
use std::collections::HashMap;
use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use betaedit_core::adapter::RecordedStream;
use betaedit_core::error::FileError;
use betaedit_core::faer::{Mat, MatRef, Par};
use betaedit_core::format::{Checkpoint, Fingerprint, Precision, Statistics, Updates, delta, spectrum};
use betaedit_core::{Adapter, Error, Orientation, Result, SecondMoment, Spectrum, Update};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tempfile::TempDir;
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

static TURN: Mutex<()> = Mutex::new(());

static READERS: LazyLock<Vec<Reader>> = LazyLock::new(readers);

const SEQ: Par = Par::Seq;

/// What a reader may allocate, all its allocations together: this, and so many times the length of the file.
const SPARE: usize = 8 << 20;
const TIMES: usize = 256;

/// A reader, by the name of its target in `fuzz/`, the name of a file for it, and files that it reads.
struct Reader {
    name: &'static str,
    file: &'static str,
    read: fn(&Path) -> Result<()>,
    good: Vec<Vec<u8>>,
}

/// A folder in memory where there is one: thousands of small files are written over each other.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn finite(matrix: MatRef<'_, f64>) {
    assert!(matrix.col_iter().all(|column| column.iter().all(|x| x.is_finite())));
}

fn readers() -> Vec<Reader> {
    let folder = scratch();
    let path = folder.path().join("file");
    let written = |write: &dyn Fn(&Path)| {
        write(&path);
        std::fs::read(&path).unwrap()
    };
    let d = 6;
    let mut moment = SecondMoment::new(d);
    let keys = Mat::from_fn(d, 90, |i, j| ((i * 7 + j * 3) as f64).sin());
    moment.observe(keys.as_ref(), SEQ).unwrap();
    let fingerprint = Fingerprint { model: "m".to_owned(), layer: 3, text: "t".to_owned() };
    let statistics = Statistics::of(&moment, fingerprint.clone(), "1 of 1", SEQ).unwrap();
    let of_moment = Spectrum::new(&moment, SEQ).unwrap();
    let update = Update::from_factors(Mat::full(4, 2, 0.5_f32), Mat::full(2, 5, 0.25)).unwrap();
    let updates = Updates::from([("a.weight".to_owned(), update)]);
    let fixture =
        |name: &str| std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)).unwrap();
    let tensors = |tensors: &[(&str, Dtype, usize, usize)]| {
        let number = |dtype, i: usize| match dtype {
            Dtype::F32 => (((i * 5) as f32).sin()).to_le_bytes().to_vec(),
            Dtype::F64 => (if i.is_multiple_of(5) { 1.0_f64 } else { 0.0 }).to_le_bytes().to_vec(),
            _ => vec![i as u8, 0x3c],
        };
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|&(_, dtype, rows, cols)| (0..rows * cols).flat_map(|i| number(dtype, i)).collect())
            .collect();
        let views = tensors.iter().zip(&bytes).map(|(&(name, dtype, rows, cols), bytes)| {
            (name, TensorView::new(dtype, vec![rows, cols], bytes).unwrap())
        });
        safetensors::serialize(views, None).unwrap()
    };
    let weights = tensors(&[
        ("a.weight", Dtype::F32, 4, 5),
        ("b.weight", Dtype::BF16, 5, 4),
        ("c.weight", Dtype::F16, 4, 4),
        ("d", Dtype::F64, 1, 3),
    ]);
    let stream = tensors(&[
        ("second_moment", Dtype::F64, 4, 4),
        ("weight", Dtype::F32, 3, 4),
        ("keys", Dtype::F32, 2, 4),
        ("residuals", Dtype::F32, 2, 3),
    ]);
    let index =
        |file: &str| format!(r#"{{"metadata":{{"total_size":12}},"weight_map":{{"a":"{file}","b":"x.safetensors"}}}}"#);
    vec![
        Reader {
            name: "npz",
            file: "f.npz",
            read: |path| {
                let read = Statistics::read_npz(path)?;
                finite(read.sum());
                assert!(read.tokens() > 0);
                Ok(())
            },
            good: vec![
                fixture("stored-f32.npz"),
                fixture("deflated-f64.npz"),
                fixture("big-endian-fortran.npz"),
                written(&|path| statistics.write_npz(path, Precision::F32, None).unwrap()),
            ],
        },
        Reader {
            name: "statistics",
            file: "f.safetensors",
            read: |path| {
                let read = Statistics::read(path)?;
                finite(read.sum());
                assert!(read.tokens() > 0);
                Ok(())
            },
            good: vec![written(&|path| statistics.write(path).unwrap())],
        },
        Reader {
            name: "spectrum",
            file: "f.safetensors",
            read: |path| {
                let (read, _) = spectrum::read(path, SEQ)?;
                assert!(read.values().is_sorted() && read.values()[0] >= 0.0);
                finite(read.vectors());
                Ok(())
            },
            good: vec![written(&|path| spectrum::write(path, &of_moment, &fingerprint).unwrap())],
        },
        Reader {
            name: "projector",
            file: "f.safetensors",
            read: |path| {
                let P = spectrum::read_projector(path, "P", SEQ)?;
                finite(P.basis());
                assert!(P.kept() > 0);
                Ok(())
            },
            good: vec![tensors(&[("P", Dtype::F64, 4, 4)])],
        },
        Reader {
            name: "delta",
            file: "f.safetensors",
            read: |path| {
                for update in delta::read::<f32>(path)?.values() {
                    assert!(update.frobenius_norm().is_finite());
                }
                Ok(())
            },
            good: vec![written(&|path| delta::write(path, &updates).unwrap())],
        },
        Reader {
            name: "checkpoint",
            file: "f.safetensors",
            read: |path| {
                let checkpoint = Checkpoint::open(path)?;
                for name in checkpoint.names().take(4) {
                    let weight: Mat<f64> = checkpoint.weight(name, Orientation::InputsByOutputs)?;
                    finite(weight.as_ref());
                }
                Ok(())
            },
            good: vec![weights],
        },
        Reader {
            name: "index",
            file: "f.json",
            read: |path| {
                let checkpoint = Checkpoint::open(path)?;
                for name in checkpoint.names().take(4) {
                    let _ = checkpoint.precision(name);
                }
                Ok(())
            },
            good: vec![index("y.safetensors").into_bytes(), index("model-00001-of-00002.safetensors").into_bytes()],
        },
        Reader {
            name: "stream",
            file: "f.safetensors",
            read: |path| {
                let mut stream = RecordedStream::<f32>::open(path, SEQ)?;
                let layer = stream.layers()[0];
                stream.keys(layer, &[0])?;
                Ok(())
            },
            good: vec![stream],
        },
    ]
}

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

/// splitmix64
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A few random changes: of bits, of whole numbers in binary and in text, of length, of order.
fn mutated(random: &mut Random, good: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.one_of(good).clone();
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        match random.below(9) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => {
                let number =
                    *random.one_of(&[u64::MAX, 0, 1 << 62, 1 << 32, 1 << 40, 0x7FFF_FFFF, 100_000_000, 0xFFFF]);
                let width = *random.one_of(&[1, 2, 4, 8]);
                let end = (at + width).min(bytes.len());
                bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
            }
            4 => {
                // A number in a text, in its width or another.
                let digits: Vec<_> = (0..bytes.len()).filter(|&i| bytes[i].is_ascii_digit()).collect();
                let Some(&start) = digits.get(random.below(digits.len())) else { continue };
                let end = (start..bytes.len()).find(|&i| !bytes[i].is_ascii_digit()).unwrap_or(bytes.len());
                let number =
                    *random.one_of(&["0", "1", "-1", "9", "4294967296", "18446744073709551615", "1e9", "99999999"]);
                if random.below(2) == 0 {
                    bytes.splice(start..end, number.bytes());
                    // The header of a safetensors file keeps its announced length.
                    if let Some(first) = bytes.first_chunk::<8>() {
                        let length = u64::from_le_bytes(*first).wrapping_add((number.len() + start) as u64);
                        bytes[..8].copy_from_slice(&length.wrapping_sub(end as u64).to_le_bytes());
                    }
                } else {
                    (start..end).zip(number.bytes()).for_each(|(i, digit)| bytes[i] = digit);
                }
            }
            5 => {
                let piece = bytes[at..(at + 1 + random.below(40)).min(bytes.len())].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            6 => {
                bytes.drain(at..(at + 1 + random.below(16)).min(bytes.len()));
            }
            7 => {
                let other = random.one_of(good);
                let from = random.below(other.len());
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
            _ => {
                let to = random.below(bytes.len());
                bytes.swap(at, to);
            }
        }
    }
    bytes
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
        (b"\x93NUMPX\x01\x00\x01\x00{".to_vec(), "not an array of numpy"),
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
    refused("spectrum", &spectrum(&[2.0, 1.0], identity), "ascending");
    refused("spectrum", &spectrum(&[-1.0, 1.0], identity), "smallest eigenvalue");
    refused("spectrum", &spectrum(&[1.0, f64::NAN], identity), "NaN");
    refused("spectrum", &spectrum(&[1.0, 2.0, 3.0], identity), "expected 3 x 3");
    refused("spectrum", &spectrum(&[1.0, 2.0], &[1.0, 0.0, 0.1, 1.0]), "orthogonality");
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
