//! Sizes that no machine has the memory for: an error that names the whole need, never an abort.

use std::sync::Arc;

use betaedit_core::error::{Error, NumericsError};
use betaedit_core::faer::{Mat, MatRef, Par};
use betaedit_core::metrics::{Interference, Retention, RunningTotal};
use betaedit_core::projector::ProjectorBuilder;
use betaedit_core::refresh::Headroom;
use betaedit_core::regmean::RegMean;
use betaedit_core::{
    EditBatch, Editor, InverseGram, Memit, Method, Projector, SecondMoment, Spectrum, Threshold, Update,
};

const SEQ: Par = Par::Seq;
const HUGE: usize = 10_000_000;
const ENDLESS: usize = usize::MAX / 2;

/// A matrix of any size that takes the memory of one number.
fn of_ones(rows: usize, cols: usize) -> MatRef<'static, f64> {
    MatRef::from_repeated_ref(&1.0, rows, cols)
}

/// The call is refused with this need, and with this text.
#[track_caller]
fn too_much<V, E: Into<Error>>(result: Result<V, E>, text: &str) {
    let Err(error) = result else { panic!("accepted, expected: {text}") };
    let error = error.into();
    assert!(matches!(error, Error::Numerics(NumericsError::OutOfMemory { .. })), "{error:?}");
    assert_eq!(error.to_string(), format!("not enough memory: {text}"));
}

#[test]
fn statistics_allocate_with_the_first_key() {
    for d_in in [HUGE, ENDLESS, usize::MAX] {
        let mut empty = SecondMoment::new(d_in);
        empty.merge(&SecondMoment::new(d_in)).unwrap();
        assert_eq!((empty.d_in(), empty.tokens(), empty.trace()), (d_in, Some(0), 0.0));
        assert!(matches!(Spectrum::new(&empty, SEQ), Err(NumericsError::Empty { .. })));
        assert!(RunningTotal::new(&Arc::new(empty), usize::MAX, 1, SEQ).is_err());
        assert!(Retention::new(d_in, d_in).is_empty());
    }
    let mut moment = SecondMoment::new(HUGE);
    too_much(moment.observe(of_ones(HUGE, 1), SEQ), "a second moment of size 10000000 x 10000000 needs 400.1 TB");
    assert_eq!(moment.tokens(), Some(0));
    too_much(moment.to_mean(SEQ), "a second moment as a dense matrix of size 10000000 x 10000000 needs 800.0 TB");
    assert!(moment.to_sum(SEQ).is_err());
    assert_eq!(moment.product(of_ones(HUGE, 1), SEQ).unwrap(), Mat::<f64>::zeros(HUGE, 1));
    let endless = format!("a second moment of size {ENDLESS} x {ENDLESS} needs more memory than can be addressed");
    too_much(SecondMoment::new(ENDLESS).observe(of_ones(ENDLESS, 1), SEQ), &endless);
    too_much(SecondMoment::from_sum(of_ones(ENDLESS, ENDLESS), 5, of_ones(ENDLESS, 1)), &endless);
    too_much(SecondMoment::from_mean(of_ones(ENDLESS, ENDLESS), None, of_ones(ENDLESS, 1)), &endless);
    let small = SecondMoment::new(3);
    too_much(
        small.product(of_ones(3, ENDLESS), SEQ),
        &format!("the product C X of size 3 x {ENDLESS} needs more memory than can be addressed"),
    );
}

/// Before their first key, statistics are what they were when they held zeros from the start.
#[test]
fn empty_statistics_are_zeros() {
    let empty = SecondMoment::new(3);
    assert_eq!(empty.to_mean(SEQ).unwrap(), Mat::<f64>::zeros(3, 3));
    assert_eq!(empty.to_sum(SEQ).unwrap(), Mat::<f64>::zeros(3, 3));
    assert_eq!(empty.product(of_ones(3, 2), SEQ).unwrap(), Mat::<f64>::zeros(3, 2));
    let mut counted = SecondMoment::new(3);
    counted.observe(of_ones(3, 2), SEQ).unwrap();
    let mut merged = empty.clone();
    merged.merge(&counted).unwrap();
    counted.merge(&empty).unwrap();
    assert_eq!(merged.to_sum(SEQ).unwrap(), of_ones(3, 3) * 2.0);
    assert_eq!(merged.to_sum(SEQ).unwrap(), counted.to_sum(SEQ).unwrap());
    assert_eq!((merged.tokens(), merged.trace()), (Some(2), 3.0));
}

#[test]
fn a_decomposition_names_all_that_it_needs() {
    too_much(
        Spectrum::from_matrix(of_ones(HUGE, HUGE), SEQ),
        "a decomposition of a matrix of size 10000000 x 10000000 needs 4.0 PB",
    );
    too_much(
        Spectrum::from_matrix(of_ones(ENDLESS, ENDLESS), SEQ),
        &format!("a decomposition of a matrix of size {ENDLESS} x {ENDLESS} needs more memory than can be addressed"),
    );
}

#[test]
fn engines_and_batches_name_all_that_they_need() {
    too_much(
        InverseGram::isotropic(HUGE, 1.0, SEQ),
        "an inverse Gram matrix of size 10000000 x 10000000 needs 400.0 TB",
    );
    for d_in in [ENDLESS, usize::MAX] {
        assert!(matches!(InverseGram::isotropic(d_in, 1.0, SEQ), Err(NumericsError::OutOfMemory { .. })));
    }
    let Q = InverseGram::isotropic(2, 1.0, SEQ).unwrap();
    let batch = of_ones(2, HUGE);
    let text = "the system of a batch of size 10000000 x 10000000 needs 2.4 PB";
    too_much(Q.solve(batch), text);
    too_much(Q.solve_in_sequence(batch), text);
    too_much(Q.solve_each(batch), text);
    too_much(Q.clone().absorb(batch), text);
    too_much(Q.clone().release(batch), text);

    let spectrum = Arc::new(Spectrum::from_matrix(Mat::<f64>::identity(2, 2).as_ref(), SEQ).unwrap());
    let editor = Memit::default().editor::<f64>(&spectrum, SEQ).unwrap();
    too_much(editor.propose(&EditBatch::new(batch, of_ones(1, HUGE)).unwrap()), text);
    too_much(
        Projector::identity(&spectrum).apply(of_ones(2, ENDLESS), SEQ),
        &format!("a projected matrix of size 2 x {ENDLESS} needs more memory than can be addressed"),
    );
    let P = ProjectorBuilder::new(&spectrum).threshold(Threshold::Absolute(2.0)).build(SEQ).unwrap();
    let mut headroom = Headroom::new(&P, 1.0, SEQ).unwrap();
    let text = "the headroom of a batch of size 10000000 x 10000000 needs 6.4 PB";
    too_much(headroom.absorb(batch), text);
}

#[test]
fn a_gram_matrix_of_updates_names_all_that_it_needs() {
    let update = Update::from_factors(Mat::full(1, HUGE, 1e-4), Mat::full(HUGE, 1, 1e-4)).unwrap();
    let text = "the interference of updates of size 10000000 x 10000000 needs 2.4 PB";
    too_much(Interference::new(std::slice::from_ref(&update), SEQ), text);
    let mut moment = SecondMoment::new(1);
    moment.observe(of_ones(1, 1), SEQ).unwrap();
    let text = "the leakage of an update of size 10000000 x 10000000 needs 1.6 PB";
    too_much(betaedit_core::metrics::leakage(&update, &moment, SEQ), text);
    too_much(update.inner(&update), "the inner product of two updates of size 10000000 x 10000000 needs 1.6 PB");
    let text = "the spectral norm of an update of size 10000000 x 10000000 needs 4.8 PB";
    too_much(update.spectral_norm(), text);
    too_much(
        betaedit_core::restraint::spectral_norm(of_ones(HUGE, HUGE), SEQ),
        "the largest singular value of a matrix of size 10000000 x 10000000 needs 800.0 TB",
    );
}

#[test]
fn a_merge_names_all_that_it_needs() {
    let empty = SecondMoment::new(HUGE);
    let models = [(of_ones(1, HUGE), &empty)];
    let text = "a merge of models of size 1 x 10000000 needs 1.6 PB";
    too_much(RegMean::default().merge(&models, SEQ), text);
}
