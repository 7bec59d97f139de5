//! Messages as a user reads them: what was found, where, and what to do, in words that fit the call.

use std::sync::Arc;

use betaedit_core::error::{Error, NumericsError};
use betaedit_core::faer::{Mat, Par, mat};
use betaedit_core::projector::ProjectorBuilder;
use betaedit_core::refresh::Headroom;
use betaedit_core::{EditBatch, InverseGram, SecondMoment, Spectrum, Threshold, Update};

const SEQ: Par = Par::Seq;

#[track_caller]
fn says<V, E: Into<Error>>(result: Result<V, E>, text: &str) {
    let Err(error) = result else { panic!("accepted, expected: {text}") };
    assert_eq!(error.into().to_string(), text);
}

#[test]
fn what_is_empty_is_named_with_what_it_lacks() {
    let none = Mat::<f64>::zeros(3, 0);
    says(EditBatch::new(none.as_ref(), none.as_ref()), "`keys` is empty: give at least one column");
    says(
        Spectrum::from_matrix(Mat::zeros(0, 0).as_ref(), SEQ),
        "`matrix` is empty: give at least one row and one column",
    );
    says(Spectrum::from_parts(vec![], Mat::zeros(0, 0), SEQ), "`values` is empty: give at least one value");
    says(Spectrum::new(&SecondMoment::new(4), SEQ), "`second moment` is empty: give at least one key");
    says(Update::<f64>::stacked(&[]), "`updates` is empty: give at least one update");
    says(InverseGram::isotropic(0, 1.0, SEQ), "`d_in` is 0; allowed: at least 1");
}

#[test]
fn numbers_have_few_digits() {
    let indefinite = mat![[1.0 / 3.0, 0.0], [0.0, -2.0 / 3.0]];
    says(
        Spectrum::from_matrix(indefinite.as_ref(), SEQ),
        "`matrix` is not positive semidefinite: its smallest eigenvalue is -0.6667, its largest 0.3333; a second moment \
         has no negative eigenvalues, so the statistics are damaged or are not a second moment",
    );
    let skewed = mat![[1.0, 1.0 / 3.0], [0.0, 1.0]];
    says(
        Spectrum::from_matrix(skewed.as_ref(), SEQ),
        "`matrix` is not symmetric: entries (1, 0) and (0, 1), counted from 0, differ by 0.3333, which is more than \
         rounding; pass the symmetric matrix itself, not a triangle or a factor of it",
    );
    let spectrum = Arc::new(Spectrum::from_matrix(Mat::<f64>::identity(2, 2).as_ref(), SEQ).unwrap());
    says(
        ProjectorBuilder::new(&spectrum).threshold(Threshold::Absolute(1.0 / 3e5)).build(SEQ),
        "the projector keeps no direction: the threshold is 3.333e-6, the smallest eigenvalue 1; use a larger threshold, \
         or, if past edits have filled the space, a smaller refresh weight, or `stop_refreshing` (outside of a session)",
    );
    let P = ProjectorBuilder::new(&spectrum).threshold(Threshold::Absolute(1.0 + 1e-12)).build(SEQ).unwrap();
    says(
        Headroom::new(&P, 1.0, SEQ),
        "`threshold` is 1.000000000001; allowed: a value farther from every kept eigenvalue; use \
         `Projector::with_headroom`",
    );
    says(
        ProjectorBuilder::new(&spectrum).threshold(Threshold::KeptEnergy(1.0 + f64::EPSILON)).build(SEQ),
        "`threshold` is 1.0000000000000002; allowed: a fraction in (0, 1]",
    );
}

#[test]
fn a_known_decomposition_is_told_what_is_wrong_with_it() {
    let basis = Mat::<f64>::identity(3, 3);
    says(
        Spectrum::from_parts(vec![1.0, 3.0, 2.5], basis.clone(), SEQ),
        "`values` must ascend: entry 1 (from 0) is 3, the next is 2.5; sort the pairs first",
    );
    let Err(error) = Spectrum::from_parts(vec![1.0, 2.0, 3.0], &basis * 2.0, SEQ) else { panic!() };
    assert!(matches!(error, NumericsError::NotOrthonormal { argument: "vectors", error: 3.0, .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("the columns of `vectors` are not orthonormal: the error is 3, allowed 1.00"), "{text}");
}

#[test]
fn a_bad_entry_is_found_by_numpy_indices() {
    let keys = mat![[0.0, f64::NAN], [0.0, 0.0], [f64::INFINITY, 0.0]];
    let residuals = Mat::full(1, 2, 1.0);
    says(
        EditBatch::new(keys.as_ref(), residuals.as_ref()),
        "`keys` holds inf at row 2, column 0 (from 0): every entry must be finite",
    );
    says(
        EditBatch::new(keys.as_ref().subcols(1, 1), residuals.as_ref().subcols(1, 1)),
        "`keys` holds NaN at row 0, column 0 (from 0): every entry must be finite",
    );
}

/// No message tells a caller to use a function that is out of reach of the call.
#[test]
fn advice_fits_the_call() {
    let (C, k) = (Mat::<f64>::identity(2, 2), mat![[1.0], [0.0]]);
    let sum = SecondMoment::from_mean((&C * 1e6).as_ref(), Some(1_000_000), k.as_ref());
    says(
        sum,
        "`mean` does not look like a mean: it implies keys of mean squared norm 2e6, but the witness keys have 1; it looks \
         like a sum over tokens, not yet divided by their number",
    );
    let uncounted = SecondMoment::from_mean(C.as_ref(), None, k.as_ref()).unwrap();
    says(
        SecondMoment::new(2).merge(&uncounted),
        "the token count of `other` is unknown, so nothing can be added to it, removed from it or merged with it: use \
         statistics with a count",
    );
    says(
        InverseGram::isotropic(2, 1.0, SEQ).unwrap().release((&k * 2.0).as_ref()),
        "releasing keys, I - Kᵀ Q K: the matrix is singular to working precision (at pivot 0); release only keys that \
         were absorbed, each once; if they were absorbed, their norm is too large for the precision: start with a larger \
         ridge (`lambda2` of some methods)",
    );
}

/// A recording, one of whose tensors is damaged: the error begins with the name of the file.
#[cfg(feature = "safetensors")]
#[test]
fn an_error_from_a_file_names_the_file() {
    use betaedit_core::adapter::RecordedStream;
    use betaedit_core::format::{Checkpoint, Statistics, Updates, delta, spectrum};
    use safetensors::Dtype::F64;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream.safetensors");
    let bytes = |numbers: &[f64]| numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let write = |weight: f64, moment: f64, key: f64| {
        let tensors = [
            ("second_moment", F64, vec![2, 2], bytes(&[1.0, moment, 0.0, 1.0])),
            ("weight", F64, vec![1, 2], bytes(&[weight, 0.0])),
            ("keys", F64, vec![1, 2], bytes(&[key, 0.0])),
            ("residuals", F64, vec![1, 1], bytes(&[1.0])),
        ];
        std::fs::write(&path, crate::common::safetensors_file(&tensors)).unwrap();
    };
    let here = path.display().to_string();
    for (weight, moment, key, text) in [
        (1.0, 0.0, 1e300, "keys left the range of f32"),
        (1e300, 0.0, 1.0, "weight left the range of f32"),
        (f64::NAN, 0.0, 1.0, "`weight` holds NaN at row 0, column 0 (from 0)"),
        (1.0, 0.5, 1.0, "`second_moment` is not symmetric"),
        (1.0, 0.0, 1e-9, "`second_moment` does not look like a mean"),
    ] {
        write(weight, moment, key);
        let error = RecordedStream::<f32>::open(&path, SEQ).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{here}: {text}")), "{error}");
    }
    let readers: [(&str, Error); 4] = [
        ("statistics", Statistics::read(&path).unwrap_err()),
        ("spectrum", spectrum::read(&path, SEQ).unwrap_err()),
        ("delta", delta::read::<f64>(&path).unwrap_err()),
        ("projector", spectrum::read_projector(&path, "weight", SEQ).unwrap_err()),
    ];
    for (reader, error) in readers {
        assert!(error.to_string().starts_with(&format!("{here}: ")), "{reader}: {error}");
    }
    write(1.0, 0.0, 1.0);
    let update = Update::from_factors(mat![[1.0]], mat![[1.0, 2.0, 3.0]]).unwrap();
    let updates = Updates::from([("weight".to_owned(), update)]);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let error = checkpoint.apply(&updates, betaedit_core::Orientation::OutputsByInputs, SEQ).unwrap_err().to_string();
    assert_eq!(error, format!("{here}: tensor `weight`: `update` is 1 x 3, expected 2 columns"));
}

/// An error that holds another says all of its causes, each once.
#[test]
fn the_causes_of_a_foreign_error_are_said() {
    #[derive(Debug, thiserror::Error)]
    #[error("forward pass")]
    struct Outer(#[source] Inner);
    #[derive(Debug, thiserror::Error)]
    #[error("out of memory on device 0")]
    struct Inner;
    #[derive(Debug, thiserror::Error)]
    #[error("again: {0}")]
    struct Repeats(#[source] Inner);

    use betaedit_core::error::ModelError;
    for (error, expected) in [
        (ModelError::Failed(Box::new(Outer(Inner))), "the model failed: forward pass: out of memory on device 0"),
        (ModelError::Adapter(Box::new(Repeats(Inner))), "the adapter failed: again: out of memory on device 0"),
    ] {
        assert_eq!(error.to_string(), expected);
    }
    let error = NumericsError::Editor(Box::new(Outer(Inner)));
    assert_eq!(error.to_string(), "the editor failed: forward pass: out of memory on device 0");
}

/// Only what is wrong about a shape is said, and a matrix that seems transposed is asked about.
#[test]
fn a_wrong_shape_says_what_is_wrong_with_it() {
    use betaedit_core::error::Shape;
    let says = |found: (usize, usize), expected: (usize, usize)| {
        let (expected, found): (Shape, Shape) = (expected.into(), found.into());
        NumericsError::Shape { argument: "keys", expected, found }.to_string()
    };
    assert_eq!(says((500, 4), (4, 4)), "`keys` is 500 x 4, expected 4 rows: is it transposed?");
    assert_eq!(says((5, 1), (6, 1)), "`keys` is 5 x 1, expected 6 rows");
    assert_eq!(says((3, 1), (3, 2)), "`keys` is 3 x 1, expected 2 columns");
    assert_eq!(says((3, 7), (1, 7)), "`keys` is 3 x 7, expected 1 row");
    assert_eq!(says((2, 5), (5, 2)), "`keys` is 2 x 5, expected 5 x 2: is it transposed?");
    assert_eq!(says((2, 5), (3, 4)), "`keys` is 2 x 5, expected 3 x 4");
}
