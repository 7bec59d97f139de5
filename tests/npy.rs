//! Matrices of numpy: those that numpy wrote are read, what is written has its bytes.

use std::path::PathBuf;
use std::sync::Arc;

use betaedit_core::error::{FileError, NumericsError};
use betaedit_core::faer::{Mat, Par};
use betaedit_core::format::{Precision, npy};
use betaedit_core::projector::ProjectorBuilder;
use betaedit_core::{Error, Spectrum, Threshold};
use tempfile::TempDir;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/npy").join(name)
}

/// The matrix of `tests/python/make_npy.py`.
fn matrix() -> Mat<f64> {
    Mat::from_fn(4, 3, |i, j| (7.0 * i as f64 - 5.0 * j as f64 + 2.0) / 16.0)
}

#[test]
fn arrays_of_numpy_are_read_whatever_their_type_byte_order_and_layout() {
    for name in ["f64.npy", "f32-fortran.npy", "f16.npy", "f64-big-endian-fortran.npy", "f32-big-endian-v2.npy"] {
        assert_eq!(npy::read::<f64>(data(name)).unwrap(), matrix(), "{name}");
        let single: Mat<f32> = npy::read(data(name)).unwrap();
        assert_eq!(Mat::from_fn(4, 3, |i, j| f64::from(single[(i, j)])), matrix(), "{name}");
    }
    let vector: Mat<f64> = npy::read(data("vector-v3.npy")).unwrap();
    assert_eq!(vector.as_ref(), matrix().as_ref().subcols(0, 1));
}

#[test]
fn other_arrays_are_refused_with_the_name_of_the_file() {
    for (name, says) in [
        ("integers.npy", "type `<i8`"),
        ("three-dimensions.npy", "[2, 2, 3]"),
        ("nothing.npy", "empty"),
        ("scalar.npy", "[]"),
        ("nan.npy", "row 2, column 0"),
        ("../stored-f32.npz", "not a numpy array"),
        ("none.npy", "none.npy"),
    ] {
        let error = npy::read::<f64>(data(name)).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains(name.trim_start_matches("../")), "{name}: {error}");
    }
    let error = npy::read::<f32>(data("beyond-f32.npy")).unwrap_err().to_string();
    assert!(error.contains("beyond-f32.npy") && error.contains("read as f32"), "{error}");
    npy::read::<f64>(data("beyond-f32.npy")).unwrap();
}

/// A file that lies about its length, its shape or its header gives an error before anything is allocated for it.
#[test]
fn lies_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("lie.npy");
    let good = std::fs::read(data("f64.npy")).unwrap();
    let text = |from: &str, to: &str| {
        let mut bytes = good.clone();
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        bytes.splice(at..at + from.len(), to.bytes());
        // The spaces at the end of the header take up the difference.
        let end = bytes.iter().position(|&byte| byte == b'\n').unwrap();
        let header = end + good.len() - bytes.len();
        if bytes.len() >= good.len() {
            bytes.drain(header..end);
        }
        bytes
    };
    for (bytes, says) in [
        (good[..good.len() - 1].to_vec(), "there are 95 bytes"),
        ([&good[..], &[0]].concat(), "there are 97 bytes"),
        (text("(4, 3)", "(4, 9999999999)"), "9999999999"),
        (text("(4, 3)", "(4, 18446744073709551615)"), "announces"),
        (text("(4, 3)", "(4, 18446744073709551616)"), "not understood"),
        (text("(4, 3)", "(0, 9999)"), "there are 96 bytes"),
        (text("<f8", "<f0"), "announces"),
        (text("<f8", "<O8"), "type `<O8`"),
        (good[..40].to_vec(), "lie.npy"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = npy::read::<f64>(&path).unwrap_err();
        assert!(matches!(error, Error::File(FileError::Format { .. })), "{error:?}");
        assert!(error.to_string().contains(says), "`{error}` does not say `{says}`");
    }
}

#[test]
fn what_is_written_is_what_numpy_writes() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("written.npy");
    npy::write(&path, matrix().as_ref(), Precision::F64).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(data("f64.npy")).unwrap());
    // A view is written as it looks.
    npy::write(&path, matrix().transpose(), Precision::F32).unwrap();
    assert_eq!(npy::read::<f64>(&path).unwrap(), matrix().transpose());

    let kept = std::fs::read(&path).unwrap();
    let refused = |matrix: &Mat<f64>, precision| npy::write(&path, matrix.as_ref(), precision).unwrap_err();
    let numbers = |error| match error {
        Error::File(FileError::Numbers { error, .. }) => *error,
        other => panic!("{other:?}"),
    };
    let huge = Mat::full(1, 2, 1e200);
    assert!(matches!(numbers(refused(&huge, Precision::F32)), NumericsError::Overflow { scalar: "f32", .. }));
    assert!(matches!(numbers(refused(&Mat::new(), Precision::F64)), NumericsError::Empty { .. }));
    let infinite = Mat::full(1, 2, f64::INFINITY);
    assert!(matches!(numbers(refused(&infinite, Precision::F64)), NumericsError::NonFinite { .. }));
    assert!(refused(&huge, Precision::Bf16).to_string().contains("bf16"));
    assert_eq!(std::fs::read(&path).unwrap(), kept);
}

#[test]
fn a_projector_is_written_dense() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("projector.npy");
    let C = Mat::from_fn(3, 3, |i, j| if i == j { [2.0, 0.001, 0.003][i] } else { 0.0 });
    let spectrum = Arc::new(Spectrum::from_matrix(C.as_ref(), Par::Seq).unwrap());
    let P = ProjectorBuilder::new(&spectrum).threshold(Threshold::Absolute(0.1)).build(Par::Seq).unwrap();
    npy::write_projector(&path, &P, Precision::F64, Par::Seq).unwrap();
    let expected = Mat::from_fn(3, 3, |i, j| if i == j && i > 0 { 1.0 } else { 0.0 });
    assert!((npy::read::<f64>(&path).unwrap() - expected).norm_l2() < 1e-15);
}
