//! The `.npz` statistics of the MEMIT family: those that numpy wrote are read, what is written has their members.

use std::io::Read;
use std::path::PathBuf;

use betaedit_core::error::NumericsError;
use betaedit_core::faer::{Mat, Par};
use betaedit_core::format::{Fingerprint, Precision, Statistics};
use betaedit_core::{Error, SecondMoment};
use tempfile::TempDir;

const SEQ: Par = Par::Seq;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The keys of `tests/python/make_npz.py`.
fn keys() -> Mat<f64> {
    Mat::from_fn(5, 640, |i, t| ((3 * i + 5 * t) % 7) as f64 - 2.0)
}

fn statistics() -> Statistics {
    let mut moment = SecondMoment::new(5);
    moment.observe(keys().as_ref(), SEQ).unwrap();
    Statistics::from_moment(&moment, Fingerprint::default(), "all", SEQ).unwrap()
}

#[test]
fn files_of_numpy_are_read_whatever_their_types_byte_order_and_compression() {
    for name in ["stored-f32.npz", "deflated-f64.npz", "big-endian-fortran.npz"] {
        let read = Statistics::read_npz(data(name)).unwrap();
        assert_eq!((read.sum(), read.tokens()), (statistics().sum(), 640), "{name}");
        assert_eq!(read.fingerprint(), None);
        let moment = read.moment(keys().as_ref().subcols(0, 4)).unwrap();
        assert_eq!(moment.to_mean(SEQ).unwrap(), &keys() * keys().transpose() / 640.0);
    }
}

/// The classic mistake: the sum taken for the mean, or a mean in the place of the sum.
#[test]
fn a_mean_in_the_place_of_the_sum_is_refused() {
    let witness = keys();
    let read = Statistics::read_npz(data("stored-f32.npz")).unwrap();
    let tokens = read.tokens();
    let mean = Mat::from_fn(5, 5, |i, j| read.sum()[(i, j)] / tokens as f64);
    assert!(matches!(
        SecondMoment::from_sum(mean.as_ref(), tokens, witness.as_ref()),
        Err(NumericsError::Scale { .. })
    ));
    assert!(matches!(
        SecondMoment::from_mean(read.sum(), Some(tokens), witness.as_ref()),
        Err(NumericsError::Scale { .. })
    ));
}

#[test]
fn what_is_written_is_what_numpy_writes() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("written.npz");
    let unzip = |path: &PathBuf| {
        let mut archive = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
        let mut members = Vec::new();
        for i in 0..archive.len() {
            let mut member = archive.by_index(i).unwrap();
            let (mut bytes, name) = (Vec::new(), member.name().unwrap().into_owned());
            member.read_to_end(&mut bytes).unwrap();
            members.push((name, bytes));
        }
        members
    };
    // The members of a file by numpy, byte for byte.
    statistics().write_npz(&path, Precision::F32, Some(100)).unwrap();
    assert_eq!(unzip(&path), unzip(&data("stored-f32.npz")));

    for (precision, samples) in [(Precision::F64, None), (Precision::F32, Some(7))] {
        statistics().write_npz(&path, precision, samples).unwrap();
        let read = Statistics::read_npz(&path).unwrap();
        assert_eq!((read.sum(), read.tokens()), (statistics().sum(), 640));
        let (_, samples_array) = unzip(&path).pop().unwrap();
        let last: [u8; 8] = *samples_array.last_chunk().unwrap();
        // `None` is a NaN of these bits.
        assert_eq!(u64::from_le_bytes(last), samples.unwrap_or(0xFFF8_0000_0000_0002));
    }
}

#[test]
fn what_does_not_fit_is_not_written() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("refused.npz");
    let error = statistics().write_npz(&path, Precision::Bf16, None).unwrap_err();
    assert!(error.to_string().contains("bf16"), "{error}");
    let samples = statistics().write_npz(&path, Precision::F32, Some(u64::MAX));
    assert!(matches!(samples, Err(Error::Numerics(NumericsError::Parameter { parameter: "samples", .. }))));
    let mut moment = SecondMoment::new(2);
    moment.observe(Mat::full(2, 1, 1e30).as_ref(), SEQ).unwrap();
    let huge = Statistics::from_moment(&moment, Fingerprint::default(), "all", SEQ).unwrap();
    let error = huge.write_npz(&path, Precision::F32, None);
    assert!(matches!(error, Err(Error::Numerics(NumericsError::Overflow { scalar: "f32", .. }))));
    assert!(!path.exists());
    huge.write_npz(&path, Precision::F64, None).unwrap();
    assert_eq!(Statistics::read_npz(&path).unwrap().sum(), huge.sum());
}
