//! Editors in the whole space that start from a moment alone, without an eigendecomposition.

use betaedit_core::editor::{ClosedFormEditor, Hyperparameters, METHODS, method};
use betaedit_core::error::NumericsError;
use betaedit_core::faer::{Mat, Par};
use betaedit_core::{EditBatch, Editor, InverseGram, Memit, Method, Orientation, Scalar, SecondMoment};

use crate::common::{Random, distance, lu_solve, spectrum, textbook_update};

const D: usize = 70;
const SEQ: Par = Par::Seq;

fn moment() -> SecondMoment {
    Random::new(5).moment(D, D, 1e-2)
}

/// Against a dense LU of the same matrix, which no line of the library shares.
#[test]
fn the_start_is_the_inverse() {
    let moment = moment();
    for (weight, ridge, par) in [(3.0, 0.0, SEQ), (0.5, 2.0, Par::rayon(2)), (0.0, 4.0, SEQ)] {
        let Q = InverseGram::from_moment(&moment, weight, ridge, par).unwrap().to_dense();
        let mut A = moment.to_mean(SEQ).unwrap() * weight;
        (0..D).for_each(|i| A[(i, i)] += ridge);
        let expected = lu_solve(A.as_ref(), Mat::identity(D, D).as_ref());
        assert!(distance(Q.as_ref(), expected.as_ref()) < 1e-11, "{weight}, {ridge}");
        assert!(Q == Q.transpose());
    }
}

/// A stream of every method in the whole space, from the moment and from its spectrum: the same updates, gauges and undo.
fn streams<T: Scalar>(tolerance: f64) {
    let (moment, par) = (moment(), SEQ);
    let spectrum = spectrum(&moment);
    let mut hyperparameters = Hyperparameters::default();
    hyperparameters.lambda = 2.0;
    let (mut whole, mut others) = (0, 0);
    let names = METHODS.iter().map(|entry| entry.name().to_owned()).chain(["simie-memit".into()]);
    for name in names {
        let method = method(&name).unwrap().method(&hyperparameters);
        if method.recipe().needs_spectrum() {
            let refused = method.editor_from_moment::<T>(&moment, par).unwrap_err();
            assert!(matches!(refused, NumericsError::Unsupported { .. }), "{name}: {refused}");
            others += 1;
            continue;
        }
        whole += 1;
        let mut ours: ClosedFormEditor<T> = method.editor_from_moment(&moment, par).unwrap();
        let mut theirs: ClosedFormEditor<T> = method.editor(&spectrum, par).unwrap();
        assert!(ours.projector().is_err() && theirs.projector().is_ok());
        assert_eq!(ours.state(), theirs.state(), "{name}");
        let mut random = Random::new(9);
        let mut first = None;
        for n in [1, 3, 2] {
            let (K, R) = (random.matrix::<T>(D, n), random.matrix::<T>(6, n));
            let [s, expected] = [&ours, &theirs].map(|editor| editor.stability(K.as_ref()).unwrap().unwrap());
            assert!(s.iter().zip(&expected).all(|(s, e)| (s - e).abs() < 1e-9 * e), "{name}: {s:?} for {expected:?}");
            let batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap();
            let [one, other] = [&mut ours, &mut theirs].map(|editor| editor.edit(&batch).unwrap());
            let error = distance(one.to_dense(par).as_ref(), other.to_dense(par).as_ref());
            assert!(error < tolerance, "{name}: {error:e}");
            assert_eq!(ours.state(), theirs.state(), "{name}");
            first.get_or_insert(K);
        }
        let K = first.unwrap();
        let [one, other] = [&mut ours, &mut theirs].map(|editor| editor.release(K.as_ref()).is_ok());
        assert_eq!(one, other, "{name}");
        let [one, other] = [&ours, &theirs].map(|editor| editor.inverse_gram().to_dense());
        assert!(distance(one.as_ref(), other.as_ref()) < 1e-9, "{name}");
        // A saved state is that of this editor.
        let mut bytes = vec![];
        ours.save(&mut bytes).unwrap();
        let mut loaded: ClosedFormEditor<T> = method.editor_from_moment(&moment, par).unwrap();
        loaded.load(&mut &bytes[..]).unwrap();
        assert!(loaded.inverse_gram().to_dense() == ours.inverse_gram().to_dense(), "{name}");
    }
    assert!(whole >= 8 && others >= 7, "{whole} in the whole space, {others} not");
}

#[test]
fn a_stream_from_the_moment_is_that_from_the_spectrum() {
    streams::<f64>(1e-9);
    streams::<f32>(3e-5);
}

/// Against the dense solve that the papers print.
#[test]
fn the_first_update_is_the_textbooks() {
    let moment = moment();
    let mut random = Random::new(2);
    let (K, R) = (random.matrix::<f64>(D, 4), random.matrix::<f64>(5, 4));
    let mut editor = Memit::default().with_lambda(2.0).editor_from_moment::<f64>(&moment, SEQ).unwrap();
    let update = editor.edit(&EditBatch::new(K.as_ref(), R.as_ref()).unwrap()).unwrap();
    let A = moment.to_mean(SEQ).unwrap() * 2.0;
    let expected = textbook_update(Mat::identity(D, D).as_ref(), A.as_ref(), 0.0, K.as_ref(), R.as_ref());
    let mut W = Mat::zeros(5, D);
    update.apply_to(W.as_mut(), Orientation::OutputsByInputs, SEQ).unwrap();
    assert!(distance(W.as_ref(), expected.as_ref()) < 1e-10);
}

/// Nothing that cannot be inverted passes.
#[test]
fn a_singular_start_is_refused() {
    let poor = Random::new(1).moment(D, 3, 0.0);
    let refused = InverseGram::from_moment(&poor, 1.0, 0.0, SEQ).unwrap_err();
    assert!(matches!(refused, NumericsError::Singular { .. }), "{refused}");
    assert!(InverseGram::from_moment(&poor, 1.0, 1.0, SEQ).is_ok());
    assert!(InverseGram::from_moment(&poor, -1.0, 1.0, SEQ).is_err());
    assert!(InverseGram::from_moment(&poor, 1.0, f64::NAN, SEQ).is_err());
    assert!(InverseGram::from_moment(&SecondMoment::new(4), 1.0, 0.0, SEQ).is_err());
}
