//! Every public call with one thing broken: the error names the argument, and nothing has changed.
//!
//! Tests that are ignored state what should hold and does not yet; each says why.

use std::sync::Arc;

use betaedit_core::editor::History;
use betaedit_core::editor::Proposal;
use betaedit_core::editor::{ClosedFormEditor, Penalty, method};
use betaedit_core::engine::StateToken;
use betaedit_core::error::{FileError, ModelError, NumericsError};
use betaedit_core::faer::{Mat, Par};
use betaedit_core::metrics::{Interference, Retention, RunningTotal, leakage, stability, write_errors};
use betaedit_core::projector::{HistoryWeighting, ProjectorBuilder};
use betaedit_core::{
    AlphaEdit, BetaEdit, EditBatch, Editor, Error, InverseGram, Memit, Method, Orientation, Projector, Refresh,
    RefreshRule, Result, Scalar, SecondMoment, Spectrum, Threshold, Update,
};

use crate::common::Random;

const SEQ: Par = Par::Seq;
/// The valid problem: `d_in`, `d_out`, edits of a batch, and the eigenvalues of the statistics.
const D: usize = 5;
const OUT: usize = 3;
const N: usize = 2;
const EIGENVALUES: [f64; D] = [0.001, 0.004, 0.01, 1.0, 4.0];

/// Runs a generic case in both number types.
macro_rules! in_both_types {
    ($($(#[$attribute:meta])* $case:ident)*) => {$(
        mod $case {
            #[test]
            $(#[$attribute])*
            fn f32() { super::$case::<f32>() }
            #[test]
            $(#[$attribute])*
            fn f64() { super::$case::<f64>() }
        }
    )*};
}

/// The result is this error in every field, and the message names what is broken.
#[track_caller]
pub fn refused<V, E: Into<Error>>(result: Result<V, E>, expected: &Error) {
    let Err(error) = result else { panic!("accepted, expected {expected:?}") };
    let mut error: Error = error.into();
    // Where a factorisation fails depends on rounding; that it says where is enough.
    if let Error::Numerics(NumericsError::Singular { pivot, .. }) = &mut error {
        assert!(pivot.take().is_some(), "no pivot");
    }
    assert_eq!(format!("{error:?}"), format!("{expected:?}"));
    let (named, text) = (culprit(expected), error.to_string());
    assert!(text.contains(&named), "`{text}` does not name {named}");
}

/// The state of an object, to the last bit of what a caller can find out about it.
pub trait State {
    fn bits(&self) -> String;
}

impl State for SecondMoment {
    fn bits(&self) -> String {
        format!("{:?} {:?}", self.tokens(), self.to_sum(SEQ))
    }
}

impl State for InverseGram {
    fn bits(&self) -> String {
        format!("{:?} {:?}", self.to_dense(), self.measure_drift())
    }
}

impl<T: Scalar> State for ClosedFormEditor<T> {
    fn bits(&self) -> String {
        let mut state = Vec::new();
        self.save(&mut state).unwrap();
        format!("{:?} {:?} {state:?}", self.recipe(), self.state())
    }
}

impl State for Retention {
    fn bits(&self) -> String {
        format!("{} {:?}", self.len(), self.errors(Mat::full(OUT, D, 0.5).as_ref(), SEQ))
    }
}

impl State for RunningTotal {
    fn bits(&self) -> String {
        format!("{self:?} {:?}", self.after(&update::<f64>(OUT, D)))
    }
}

impl<T: Scalar> State for Mat<T> {
    fn bits(&self) -> String {
        format!("{self:?}")
    }
}

/// A call that is refused and leaves the object as it was.
#[track_caller]
pub fn unmoved<S: State, V, E: Into<Error>>(
    object: &mut S,
    call: impl FnOnce(&mut S) -> Result<V, E>,
    expected: &Error,
) {
    let before = object.bits();
    refused(call(object), expected);
    assert!(object.bits() == before, "changed by a call that failed with {expected:?}");
}

/// What the message has to name: an argument in backquotes, or the step that failed.
fn culprit(error: &Error) -> String {
    match error {
        Error::Numerics(NumericsError::Shape { argument, .. })
        | Error::Numerics(NumericsError::Empty { argument, .. })
        | Error::Numerics(NumericsError::NonFinite { argument, .. })
        | Error::Numerics(NumericsError::NotSymmetric { argument, .. })
        | Error::Numerics(NumericsError::NotPositiveSemidefinite { argument, .. })
        | Error::Numerics(NumericsError::Scale { argument, .. }) => format!("`{argument}`"),
        Error::Numerics(NumericsError::Parameter { parameter, .. }) => format!("`{parameter}`"),
        Error::Numerics(NumericsError::UnknownName { name, .. }) => format!("`{name}`"),
        Error::Numerics(NumericsError::Overflow { step, .. })
        | Error::Numerics(NumericsError::Singular { step, .. }) => (*step).to_owned(),
        Error::Numerics(NumericsError::NothingKept { .. }) => "threshold".to_owned(),
        Error::Numerics(NumericsError::UnknownTokenCount { argument }) => (*argument).to_owned(),
        Error::Numerics(NumericsError::StaleProposal) => "compute it again".to_owned(),
        Error::Numerics(NumericsError::RefreshDue { .. }) => "`refresh_if_due`".to_owned(),
        Error::File(FileError::Io { path, .. }) | Error::File(FileError::Format { path, .. }) => {
            path.display().to_string()
        }
        Error::Model(ModelError::UnknownLayer { layer, .. }) => format!("layer {layer}"),
        Error::Model(ModelError::UnknownRequest { index, .. }) => format!("request {index}"),
        Error::Numerics(NumericsError::OutOfMemory { purpose, .. }) => (*purpose).to_owned(),
        other => panic!("no case expects {other:?}"),
    }
}

fn shape(argument: &'static str, expected: (usize, usize), found: (usize, usize)) -> Error {
    NumericsError::Shape { argument, expected: expected.into(), found: found.into() }.into()
}

fn parameter(parameter: &'static str, value: f64, allowed: &'static str) -> Error {
    NumericsError::Parameter { parameter, value, allowed }.into()
}

fn singular(step: &'static str, advice: &'static str) -> Error {
    NumericsError::Singular { step, pivot: None, advice }.into()
}

fn singular_start() -> Error {
    let advice = "the weight of the statistics (`lambda`) and the ridge are zero, or the statistics have directions without \
                 energy: use a larger ridge (`lambda2` of some methods), or statistics \
                  over more tokens";
    singular("inverting the protected Gram matrix", advice)
}

fn overflow<T: Scalar>(step: &'static str) -> Error {
    NumericsError::Overflow { step, scalar: T::NAME }.into()
}

/// What an argument's shape is held against: its own number of rows alone, both dimensions, or each other.
#[derive(Clone, Copy, PartialEq)]
enum Fixed {
    Rows,
    Both,
    Square,
}

/// The argument in every wrong shape.
fn misshapen<T: Scalar>(argument: &'static str, good: &Mat<T>, fixed: Fixed) -> Vec<(Mat<T>, Error)> {
    let (r, c) = good.shape();
    let shapes = match fixed {
        Fixed::Rows => vec![(r - 1, c), (r + 1, c), (0, c), (c, r), (0, 0)],
        Fixed::Both => vec![(r - 1, c), (r + 1, c), (0, c), (r, c - 1), (r, c + 1), (r, 0), (r - 1, c + 1), (0, 0)],
        Fixed::Square => vec![(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1), (r, 0)],
    };
    let bad = |(rows, cols)| {
        let expected = match fixed {
            Fixed::Rows => (r, cols),
            Fixed::Both => (r, c),
            Fixed::Square => (rows, rows),
        };
        (Mat::from_fn(rows, cols, |i, j| good[(i % r, j % c)]), shape(argument, expected, (rows, cols)))
    };
    shapes.into_iter().map(bad).collect()
}

/// The argument with one entry that is not a number, at either end.
fn poisoned<T: Scalar>(argument: &'static str, good: &Mat<T>) -> Vec<(Mat<T>, Error)> {
    let mut cases = vec![];
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for (row, col) in [(0, 0), (good.nrows() - 1, good.ncols() - 1)] {
            let mut bad = good.clone();
            bad[(row, col)] = T::from_f64(value);
            cases.push((bad, NumericsError::NonFinite { argument, row, col, value }.into()));
        }
    }
    cases
}

/// The argument broken in every way: shapes, no columns (where their number is free), NaN, infinities.
fn broken<T: Scalar>(argument: &'static str, good: &Mat<T>, fixed: Fixed) -> Vec<(Mat<T>, Error)> {
    let mut cases = misshapen(argument, good, fixed);
    match fixed {
        Fixed::Rows => {
            cases.push((Mat::zeros(good.nrows(), 0), NumericsError::Empty { argument, item: "column" }.into()));
        }
        Fixed::Square => {
            cases.push((Mat::zeros(0, 0), NumericsError::Empty { argument, item: "row and one column" }.into()));
        }
        Fixed::Both => {}
    }
    cases.extend(poisoned(argument, good));
    cases
}

/// A parameter that has to be finite and not negative: values that are refused.
fn not_non_negative(name: &'static str) -> Vec<(f64, Error)> {
    let bad = [-1.0, -f64::MIN_POSITIVE, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    bad.map(|x| (x, parameter(name, x, "a finite number that is not negative"))).into()
}

fn diagonal(values: &[f64]) -> Mat<f64> {
    Mat::from_fn(values.len(), values.len(), |i, j| if i == j { values[i] } else { 0.0 })
}

fn spectrum_of(values: &[f64]) -> Arc<Spectrum> {
    Arc::new(Spectrum::from_matrix(diagonal(values).as_ref(), SEQ).unwrap())
}

fn statistics() -> Arc<Spectrum> {
    spectrum_of(&EIGENVALUES)
}

fn keys<T: Scalar>() -> Mat<T> {
    Random::new(1).matrix(D, N)
}

fn residuals<T: Scalar>() -> Mat<T> {
    Random::new(2).matrix(OUT, N)
}

fn moment(d: usize) -> SecondMoment {
    let mut moment = SecondMoment::new(d);
    moment.observe(Random::new(3).matrix::<f64>(d, 3 * d.max(1)).as_ref(), SEQ).unwrap();
    moment
}

/// Statistics that are a mean over nobody knows how many tokens.
fn uncounted() -> SecondMoment {
    SecondMoment::from_mean(diagonal(&EIGENVALUES).as_ref(), None, keys::<f64>().as_ref()).unwrap()
}

/// Statistics with a positive diagonal and eigenvalues -1 and 3, which no check before the decomposition sees.
fn indefinite() -> Mat<f64> {
    Mat::from_fn(2, 2, |i, j| if i == j { 1.0 } else { 2.0 })
}

fn projector(d: usize) -> Projector {
    let spectrum = spectrum_of(&EIGENVALUES[..d.min(D)].iter().copied().chain((D..d).map(|_| 5.0)).collect::<Vec<_>>());
    ProjectorBuilder::new(&spectrum).build(SEQ).unwrap()
}

/// An engine with pending factors, so that a spoilt fold would show.
fn engine<T: Scalar>() -> InverseGram {
    let mut Q = InverseGram::isotropic(D, 2.0, SEQ).unwrap();
    Q.absorb(keys::<T>().as_ref()).unwrap();
    Q
}

fn update<T: Scalar>(d_out: usize, d_in: usize) -> Update<T> {
    let mut random = Random::new(4);
    Update::from_factors(random.matrix(d_out, N), random.matrix(N, d_in)).unwrap()
}

fn every<T: Scalar>(edits: usize, rule: HistoryWeighting) -> ClosedFormEditor<T> {
    let refresh = Refresh::Every { edits, rule: RefreshRule::Full(rule) };
    BetaEdit::default().with_refresh(refresh).editor(&statistics(), SEQ).unwrap()
}

/// One editor of every kind: no space, no history, history, refreshed.
fn editors<T: Scalar>() -> [ClosedFormEditor<T>; 4] {
    [
        Memit::default().editor(&statistics(), SEQ).unwrap(),
        AlphaEdit::default().editor(&statistics(), SEQ).unwrap(),
        AlphaEdit::default().with_history(History::Absorbed).editor(&statistics(), SEQ).unwrap(),
        every(100, HistoryWeighting::Sum { weight: 1.0 }),
    ]
}

// Statistics.

fn observing_broken_keys_counts_nothing<T: Scalar>() {
    let mut C = moment(D);
    for (bad, error) in broken("keys", &keys::<T>(), Fixed::Rows) {
        unmoved(&mut C, |C| C.observe(bad.as_ref(), SEQ), &error);
    }
    unmoved(
        &mut uncounted(),
        |C| C.observe(keys::<T>().as_ref(), SEQ),
        &Error::Numerics(NumericsError::UnknownTokenCount { argument: "self" }),
    );
    let empty = Error::Numerics(NumericsError::Empty { argument: "keys", item: "row" });
    unmoved(&mut SecondMoment::new(0), |C| C.observe(Mat::<T>::zeros(0, 3).as_ref(), SEQ), &empty);
}
in_both_types!(observing_broken_keys_counts_nothing);

#[test]
fn merging_what_does_not_fit_adds_nothing() {
    let mut C = moment(D);
    for d in [0, D - 1, D + 1] {
        unmoved(&mut C, |C| C.merge(&SecondMoment::new(d)), &shape("other", (D, D), (d, d)));
    }
    unmoved(
        &mut C,
        |C| C.merge(&uncounted()),
        &Error::Numerics(NumericsError::UnknownTokenCount { argument: "other" }),
    );
    unmoved(
        &mut uncounted(),
        |C| C.merge(&moment(D)),
        &Error::Numerics(NumericsError::UnknownTokenCount { argument: "self" }),
    );
}

fn statistics_are_not_made_from_broken_matrices<T: Scalar>() {
    type Make<T> = fn(&Mat<T>, &Mat<T>) -> Result<SecondMoment>;
    let makers: [(&'static str, Make<T>); 3] = [
        ("sum", |C, witness| Ok(SecondMoment::from_sum(C.as_ref(), 9, witness.as_ref())?)),
        ("mean", |C, witness| Ok(SecondMoment::from_mean(C.as_ref(), Some(9), witness.as_ref())?)),
        ("mean", |C, witness| Ok(SecondMoment::from_mean(C.as_ref(), None, witness.as_ref())?)),
    ];
    let (C, K) = (betaedit_core::scalar::cast::<f64, T>(diagonal(&EIGENVALUES).as_ref()), keys::<T>());
    for (argument, make) in makers {
        make(&C, &K).unwrap();
        for (bad, error) in broken(argument, &C, Fixed::Square) {
            refused(make(&bad, &K), &error);
        }
        for (bad, error) in broken("witness", &K, Fixed::Rows) {
            refused(make(&C, &bad), &error);
        }
        let mut bad = C.clone();
        bad[(1, 3)] = T::from_f64(0.5);
        refused(
            make(&bad, &K),
            &Error::Numerics(NumericsError::NotSymmetric { argument, row: 3, col: 1, difference: 0.5 }),
        );
        bad = C.clone();
        bad[(2, 2)] = T::from_f64(-0.25);
        let (smallest, largest) = (-0.25, 4.0);
        refused(
            make(&bad, &K),
            &Error::Numerics(NumericsError::NotPositiveSemidefinite { argument, smallest, largest }),
        );
    }
    let zero = parameter("tokens", 0.0, "at least 1");
    refused(SecondMoment::from_sum(C.as_ref(), 0, K.as_ref()), &zero);
    refused(SecondMoment::from_mean(C.as_ref(), Some(0), K.as_ref()), &zero);
}
in_both_types!(statistics_are_not_made_from_broken_matrices);

#[test]
fn a_sum_does_not_pass_for_a_mean_nor_a_mean_for_a_sum() {
    let (C, K) = (diagonal(&[1.0, 3.0]), diagonal(&[2.0, 2.0]));
    let sum = &C * betaedit_core::faer::Scale(1e6);
    let scale = |argument, claimed, implied, advice| {
        Error::Numerics(NumericsError::Scale { argument, claimed, implied, witnessed: 4.0, advice })
    };
    let error = scale("mean", "a mean", 4e6, "it looks like a sum over tokens, not yet divided by their number");
    for tokens in [None, Some(1_000_000)] {
        refused(SecondMoment::from_mean(sum.as_ref(), tokens, K.as_ref()), &error);
    }
    let advice = "it looks like a mean, already divided by the token count";
    let error = scale("sum", "a sum over that many tokens", 4e-6, advice);
    refused(SecondMoment::from_sum(C.as_ref(), 1_000_000, K.as_ref()), &error);
    // Keys that are all zero witness nothing.
    let nothing = Mat::<f64>::zeros(2, 2);
    assert!(matches!(SecondMoment::from_mean(C.as_ref(), None, nothing.as_ref()), Err(NumericsError::Scale { .. })));
}

#[test]
fn a_spectrum_is_not_made_from_a_broken_matrix() {
    for (bad, error) in broken("matrix", &diagonal(&EIGENVALUES), Fixed::Square) {
        refused(Spectrum::from_matrix(bad.as_ref(), SEQ), &error);
    }
    let mut bad = diagonal(&EIGENVALUES);
    bad[(0, 4)] = -2.0;
    let error = Error::Numerics(NumericsError::NotSymmetric { argument: "matrix", row: 4, col: 0, difference: 2.0 });
    refused(Spectrum::from_matrix(bad.as_ref(), SEQ), &error);
    refused(
        Spectrum::new(&SecondMoment::new(0), SEQ),
        &Error::Numerics(NumericsError::Empty { argument: "second moment", item: "key" }),
    );

    let damaged = SecondMoment::from_mean(indefinite().as_ref(), None, diagonal(&[1.0, 1.0]).as_ref()).unwrap();
    for (argument, result) in
        [("matrix", Spectrum::from_matrix(indefinite().as_ref(), SEQ)), ("second moment", Spectrum::new(&damaged, SEQ))]
    {
        let Err(NumericsError::NotPositiveSemidefinite { argument: found, smallest, largest }) = result else {
            panic!()
        };
        assert_eq!(found, argument);
        assert!((smallest + 1.0).abs() < 1e-14 && (largest - 3.0).abs() < 1e-14, "{smallest} {largest}");
    }
    for values in [[-1.0; 3], [-1e-3, 0.0, 1.0]] {
        let (smallest, largest) = (values[0], values[2]);
        let error = Error::Numerics(NumericsError::NotPositiveSemidefinite { argument: "matrix", smallest, largest });
        refused(Spectrum::from_matrix(diagonal(&values).as_ref(), SEQ), &error);
    }
}

// The projector.

#[test]
fn thresholds_without_sense_are_refused() {
    let (spectrum, above_zero, fraction) = (statistics(), "a finite number above zero", "a fraction in (0, 1]");
    let bad = |x: f64, make: fn(f64) -> Threshold, allowed| (make(x), parameter("threshold", x, allowed));
    let mut cases = vec![(Threshold::Directions(0), parameter("threshold", 0.0, "at least one direction"))];
    for x in [0.0, -0.02, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        cases.push(bad(x, Threshold::Absolute, above_zero));
        cases.push(bad(x, Threshold::RelativeToLargest, fraction));
        cases.push(bad(x, Threshold::KeptEnergy, fraction));
    }
    cases.push(bad(1.0 + f64::EPSILON, Threshold::RelativeToLargest, fraction));
    cases.push(bad(2.0, Threshold::KeptEnergy, fraction));
    for (threshold, error) in cases {
        refused(ProjectorBuilder::new(&spectrum).threshold(threshold).build(SEQ), &error);
        refused(AlphaEdit::default().with_threshold(threshold).editor::<f32>(&spectrum, SEQ), &error);
        refused(BetaEdit::default().with_threshold(threshold).editor::<f64>(&spectrum, SEQ), &error);
    }
    let all = ProjectorBuilder::new(&spectrum).threshold(Threshold::Directions(usize::MAX)).build(SEQ).unwrap();
    assert_eq!(all.kept(), D);
}

#[test]
fn a_threshold_that_keeps_nothing_says_what_it_is_held_against() {
    let spectrum = spectrum_of(&[0.25, 1.0, 4.0]);
    for (threshold, absolute) in [
        (Threshold::Absolute(0.25), 0.25),
        (Threshold::Absolute(1e-300), 1e-300),
        (Threshold::RelativeToLargest(0.0625), 0.25),
        (Threshold::KeptEnergy(0.01), 0.25),
    ] {
        let error = Error::Numerics(NumericsError::NothingKept { threshold: absolute, smallest: 0.25 });
        refused(ProjectorBuilder::new(&spectrum).threshold(threshold).build(SEQ), &error);
        refused(AlphaEdit::default().with_threshold(threshold).editor::<f64>(&spectrum, SEQ), &error);
    }
}

#[test]
fn a_history_that_does_not_fit_protects_nothing() {
    let spectrum = statistics();
    for d in [1, D - 1, D + 1] {
        for weighting in [HistoryWeighting::Sum { weight: 1.0 }, HistoryWeighting::Mean { lambda1: 1.0 }] {
            let (history, error) = (moment(d), shape("history", (D, D), (d, d)));
            refused(weighting.protected_matrix(&spectrum, &history, SEQ), &error);
            refused(ProjectorBuilder::new(&spectrum).history(&history, weighting).build(SEQ), &error);
        }
    }
    for (lambda1, error) in not_non_negative("lambda1") {
        let weighting = HistoryWeighting::Mean { lambda1 };
        refused(weighting.protected_matrix(&spectrum, &moment(D), SEQ), &error);
        refused(ProjectorBuilder::new(&spectrum).history(&moment(D), weighting).build(SEQ), &error);
    }
    let damaged = SecondMoment::from_mean(indefinite().as_ref(), None, diagonal(&[1.0, 1.0]).as_ref()).unwrap();
    let spectrum = spectrum_of(&[0.01, 0.01]);
    let result = ProjectorBuilder::new(&spectrum).history(&damaged, HistoryWeighting::Sum { weight: 1.0 }).build(SEQ);
    assert!(matches!(result, Err(NumericsError::NotPositiveSemidefinite { argument: "protected matrix", .. })));
}

// The engine.

#[test]
fn an_engine_does_not_start_from_broken_input() {
    let (P, A) = (projector(D), diagonal(&EIGENVALUES));
    for (x, error) in not_non_negative("weight") {
        refused(InverseGram::diagonal(&P, x, 1.0, SEQ), &error);
    }
    for (x, error) in not_non_negative("ridge") {
        refused(InverseGram::diagonal(&P, 1.0, x, SEQ), &error);
        refused(InverseGram::new(&P, A.as_ref(), x, SEQ), &error);
    }
    for (bad, error) in broken("A", &A, Fixed::Both) {
        refused(InverseGram::new(&P, bad.as_ref(), 1.0, SEQ), &error);
    }
    for a in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let error = parameter("a", a, "a finite number above zero");
        refused(InverseGram::isotropic(D, a, SEQ), &error);
    }
    assert!(matches!(InverseGram::isotropic(0, 1.0, SEQ), Err(NumericsError::Parameter { .. })));
}

fn a_singular_start_says_what_to_do<T: Scalar>() {
    let flat = spectrum_of(&[0.0, 0.0, 1.0]);
    let (P, everything) = (ProjectorBuilder::new(&flat).build(SEQ).unwrap(), Projector::identity(&flat));
    let error = singular_start();
    refused(InverseGram::diagonal(&P, 0.0, 0.0, SEQ), &error);
    refused(InverseGram::diagonal(&P, 1.0, 0.0, SEQ), &error);
    refused(InverseGram::diagonal(&everything, 1.0, 1e-17, SEQ), &error);
    refused(InverseGram::new(&everything, diagonal(&[0.0, 0.0, 1.0]).as_ref(), 0.0, SEQ), &error);
    refused(InverseGram::new(&everything, diagonal(&[-2.0, 1.0, 1.0]).as_ref(), 1.0, SEQ), &error);
    // Positive definite, but by no more than rounding.
    let (plane, almost) = (Projector::identity(&spectrum_of(&[1.0, 2.0])), 1.0 - f64::EPSILON / 2.0);
    let A = Mat::from_fn(2, 2, |i, j| if i == j { 1.0 } else { almost });
    refused(InverseGram::new(&plane, A.as_ref(), 0.0, SEQ), &error);
    refused(Memit::default().editor::<T>(&flat, SEQ), &error);
    refused(Memit::default().with_lambda(0.0).editor::<T>(&statistics(), SEQ), &error);
    refused(AlphaEdit::default().with_lambda2(0.0).editor::<T>(&statistics(), SEQ), &error);
    refused(BetaEdit::default().with_lambda2(0.0).editor::<T>(&flat, SEQ), &error);
    let dropped = BetaEdit::default().with_lambda2(0.0).with_penalty(Penalty::Dropped);
    refused(dropped.editor::<T>(&statistics(), SEQ), &error);
}
in_both_types!(a_singular_start_says_what_to_do);

fn an_engine_that_refuses_a_call_is_what_it_was<T: Scalar>() {
    type Call<T> = fn(&mut InverseGram, &Mat<T>) -> Result<()>;
    let calls: [(&'static str, Call<T>); 4] = [
        ("keys", |Q, K| Ok(Q.solve(K.as_ref()).map(drop)?)),
        ("keys", |Q, K| Ok(Q.absorb(K.as_ref())?)),
        ("keys", |Q, K| Ok(Q.release(K.as_ref())?)),
        ("directions", |Q, K| Ok(Q.constrain(K.as_ref())?)),
    ];
    for (argument, call) in calls {
        let (mut Q, mut spared) = (engine::<T>(), engine::<T>());
        for (bad, error) in broken(argument, &keys::<T>(), Fixed::Rows) {
            unmoved(&mut Q, |Q| call(Q, &bad), &error);
        }
        // The next valid call finds nothing amiss.
        call(&mut Q, &keys()).unwrap();
        call(&mut spared, &keys()).unwrap();
        assert_eq!(Q.to_dense(), spared.to_dense());
    }
    let advice = "release only keys that were absorbed, each once; if they were absorbed, their norm is too large \
                  for the precision: start with a larger ridge (`lambda2` of some methods)";
    let never_absorbed = Mat::from_fn(D, 1, |i, _| T::from_f64(10.0 * (i + 1) as f64));
    let error = singular("releasing keys, I - Kᵀ Q K", advice);
    unmoved(&mut engine::<T>(), |Q| Q.release(never_absorbed.as_ref()), &error);
}
in_both_types!(an_engine_that_refuses_a_call_is_what_it_was);

// Batches and updates.

fn a_broken_batch_is_refused<T: Scalar>() {
    let (K, R) = (keys::<T>(), residuals::<T>());
    for (bad, error) in poisoned("keys", &K) {
        refused(EditBatch::new(bad.as_ref(), R.as_ref()), &error);
    }
    for (bad, error) in poisoned("residuals", &R) {
        refused(EditBatch::new(K.as_ref(), bad.as_ref()), &error);
    }
    for (rows, cols, item) in [(0, 0, "row and one column"), (D, 0, "column"), (0, N, "row")] {
        let empty = Mat::<T>::zeros(rows, cols);
        refused(
            EditBatch::new(empty.as_ref(), R.as_ref()),
            &Error::Numerics(NumericsError::Empty { argument: "keys", item }),
        );
        refused(
            EditBatch::new(K.as_ref(), empty.as_ref()),
            &Error::Numerics(NumericsError::Empty { argument: "residuals", item }),
        );
    }
    for n in [N - 1, N + 1] {
        let bad = Mat::<T>::zeros(OUT, n);
        refused(EditBatch::new(K.as_ref(), bad.as_ref()), &shape("residuals", (OUT, N), (OUT, n)));
    }
}
in_both_types!(a_broken_batch_is_refused);

fn an_update_is_not_made_from_broken_factors<T: Scalar>() {
    let (left, right) = (Random::new(4).matrix::<T>(OUT, N), Random::new(5).matrix::<T>(N, D));
    for (bad, error) in poisoned("left", &left) {
        refused(Update::from_factors(bad, right.clone()), &error);
    }
    for (bad, error) in poisoned("right", &right) {
        refused(Update::from_factors(left.clone(), bad), &error);
    }
    for (rows, cols, item) in [(0, 0, "row and one column"), (OUT, 0, "column"), (0, N, "row")] {
        let empty = || Mat::<T>::zeros(rows, cols);
        refused(
            Update::from_factors(empty(), right.clone()),
            &Error::Numerics(NumericsError::Empty { argument: "left", item }),
        );
        refused(
            Update::from_factors(left.clone(), empty()),
            &Error::Numerics(NumericsError::Empty { argument: "right", item }),
        );
    }
    for n in [N - 1, N + 1] {
        let bad = Mat::<T>::zeros(n, D);
        refused(Update::from_factors(left.clone(), bad), &shape("right", (N, D), (n, D)));
    }
}
in_both_types!(an_update_is_not_made_from_broken_factors);

fn a_weight_that_does_not_fit_is_not_touched<T: Scalar>() {
    let update = update::<T>(OUT, D);
    let weight = Random::new(6).matrix::<T>(OUT, D);
    for (orientation, weight) in
        [(Orientation::OutputsByInputs, weight.clone()), (Orientation::InputsByOutputs, weight.transpose().to_owned())]
    {
        let mut swapped = misshapen("weight", &weight, Fixed::Both);
        swapped
            .push((weight.transpose().to_owned(), shape("weight", weight.shape(), (weight.ncols(), weight.nrows()))));
        for (mut bad, error) in swapped {
            unmoved(&mut bad, |W| update.apply_to(W.as_mut(), orientation, SEQ), &error);
            unmoved(&mut bad, |W| update.subtract_from(W.as_mut(), orientation, SEQ), &error);
        }
    }
}
in_both_types!(a_weight_that_does_not_fit_is_not_touched);

fn products_need_matching_rows<T: Scalar>() {
    let (Q, update) = (engine::<T>(), update::<T>(OUT, D));
    for (bad, error) in misshapen("X", &keys::<f64>(), Fixed::Rows) {
        refused(moment(D).product(bad.as_ref(), SEQ), &error);
        refused(projector(D).apply(bad.as_ref(), SEQ), &error);
    }
    for (bad, error) in misshapen("X", &keys::<T>(), Fixed::Rows) {
        refused(update.product(bad.as_ref(), SEQ), &error);
    }
    for (bad, error) in misshapen("keys", &keys::<T>(), Fixed::Rows) {
        refused(Q.product(bad.as_ref()), &error);
    }
    // No column is no product, but no error either.
    let nothing = Mat::<f64>::zeros(D, 0);
    assert_eq!(moment(D).product(nothing.as_ref(), SEQ).unwrap().shape(), (D, 0));
    assert_eq!(projector(D).apply(nothing.as_ref(), SEQ).unwrap().shape(), (D, 0));
    assert_eq!(update.product(Mat::zeros(D, 0).as_ref(), SEQ).unwrap().shape(), (OUT, 0));
    assert_eq!(Q.product(Mat::<f64>::zeros(D, 0).as_ref()).unwrap().shape(), (D, 0));
}
in_both_types!(products_need_matching_rows);

fn updates_of_different_weights_are_not_compared<T: Scalar>() {
    fn names<V, E: Into<Error>>(result: Result<V, E>, expected: &str) {
        let error = result.err().map(Into::into);
        assert!(matches!(error, Some(Error::Numerics(NumericsError::Shape { argument, .. })) if argument == expected));
    }
    let ours = update::<T>(OUT, D);
    for (d_out, d_in) in [(OUT - 1, D), (OUT + 1, D), (OUT, D - 1), (OUT, D + 1), (D, OUT)] {
        let other = update::<T>(d_out, d_in);
        names(ours.inner(&other), "other");
        names(Interference::new(&[ours.clone(), other.clone()], SEQ), "updates");
        let mut total = RunningTotal::new(&Arc::new(moment(D)), OUT, 1, SEQ).unwrap();
        total.record(&ours).unwrap();
        let before = total.bits();
        names(total.record(&other), "update");
        assert_eq!(total.bits(), before);
    }
    refused(
        Interference::new::<T>(&[], SEQ),
        &Error::Numerics(NumericsError::Empty { argument: "updates", item: "update" }),
    );
    for d in [D - 1, D + 1] {
        names(projector(D).distance_squared(&projector(d), SEQ), "other");
        assert!(matches!(leakage(&ours, &moment(d), SEQ), Err(NumericsError::Shape { .. })));
    }
}
in_both_types!(updates_of_different_weights_are_not_compared);

#[test]
fn an_update_beyond_f32_is_not_cast() {
    let of = |l: f64, r: f64| Update::from_factors(Mat::full(OUT, N, l), Mat::full(N, D, r)).unwrap();
    let (conversion, product) = ("the conversion of the update", "the update");
    for (l, r, step) in [(1e39, 1.0, conversion), (1.0, -1e39, conversion), (1e20, 1e19, product)] {
        refused(of(l, r).cast::<f32>(), &overflow::<f32>(step));
        let _ = of(l, r).cast::<f64>().unwrap();
    }
    let halved = of(1e30, 0.5).cast::<f32>().unwrap();
    assert_eq!(halved.to_dense(SEQ)[(0, 0)], 1e30_f32);
}

// Editors.

fn hyperparameters_outside_their_range_are_refused<T: Scalar>() {
    let spectrum = statistics();
    let memit = Memit::default();
    let (alpha, beta) = (AlphaEdit::default(), BetaEdit::default());
    for (x, error) in not_non_negative("lambda") {
        refused(memit.with_lambda(x).editor::<T>(&spectrum, SEQ), &error);
    }
    for (x, error) in not_non_negative("lambda1") {
        refused(beta.with_lambda1(x).editor::<T>(&spectrum, SEQ), &error);
        refused(beta.with_penalty(Penalty::Dropped).with_lambda1(x).editor::<T>(&spectrum, SEQ), &error);
    }
    for (x, error) in not_non_negative("ridge") {
        refused(memit.with_ridge(x).editor::<T>(&spectrum, SEQ), &error);
    }
    for (x, error) in not_non_negative("lambda2") {
        refused(alpha.with_lambda2(x).editor::<T>(&spectrum, SEQ), &error);
        refused(beta.with_lambda2(x).editor::<T>(&spectrum, SEQ), &error);
    }
    for (lambda1, error) in not_non_negative("lambda1") {
        let rule = RefreshRule::Full(HistoryWeighting::Mean { lambda1 });
        refused(beta.with_refresh(Refresh::Every { edits: 1, rule }).editor::<T>(&spectrum, SEQ), &error);
    }
    let rule = RefreshRule::Full(HistoryWeighting::Sum { weight: 1.0 });
    let error = parameter("refresh period", 0.0, "at least 1 edit; for no refresh, use `Refresh::Never`");
    let never = beta.with_refresh(Refresh::Every { edits: 0, rule });
    refused(never.editor::<T>(&spectrum, SEQ), &error);
    refused(ClosedFormEditor::<T>::new("mine", never.recipe(), &spectrum, SEQ), &error);
}
in_both_types!(hyperparameters_outside_their_range_are_refused);

#[test]
fn an_unknown_method_lists_the_known_ones() {
    for name in ["", "rome", "MEMIT", "memit "] {
        let known = "memit, memit-h, memit-r, memit-merge, memit-ns, pmet, pmet-h, pmet-ns, emmet, emmet-h, emmet-ns, \
                     encore, rlsedit, simie, alphaedit, alphaedit-h, betaedit, NAME-ns, simie-NAME"
            .to_owned();
        refused(
            method(name),
            &Error::Numerics(NumericsError::UnknownName { kind: "method", name: name.to_owned(), known }),
        );
    }
}

fn an_editor_that_refuses_a_call_is_what_it_was<T: Scalar>() {
    let (K, R) = (keys::<T>(), residuals::<T>());
    let batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap();
    for mut editor in editors::<T>() {
        let _ = editor.edit(&batch).unwrap();
        let update = editor.propose(&batch).unwrap();
        for d in [1, D - 1, D + 1] {
            let (K, error) = (Mat::<T>::zeros(d, N), shape("keys", (D, N), (d, N)));
            let batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap();
            unmoved(&mut editor, |editor| editor.propose(&batch), &error);
            unmoved(&mut editor, |editor| editor.edit(&batch), &error);
        }
        for (bad, error) in broken("keys", &K, Fixed::Rows) {
            unmoved(&mut editor, |editor| editor.protect(bad.as_ref()), &error);
            unmoved(&mut editor, |editor| editor.stability(bad.as_ref()), &error);
        }
        // Even the update proposed before all this is still good.
        editor.commit(update).unwrap();
        assert_eq!(editor.state().edits, 2 * N);
    }
}
in_both_types!(an_editor_that_refuses_a_call_is_what_it_was);

fn only_an_editors_own_update_in_its_present_state_is_committed<T: Scalar>() {
    let (K, R) = (keys::<T>(), residuals::<T>());
    let batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap();
    for (mut editor, twin) in editors::<T>().into_iter().zip(editors::<T>()) {
        let stale = &Error::Numerics(NumericsError::StaleProposal);
        let [before_commit, before_protect, own] = std::array::from_fn(|_| editor.propose(&batch).unwrap());
        // A stranger's memo and token, the memo of one method in another, an equal editor's proposal.
        let remade = Proposal::new(own.update().clone(), (), &StateToken::new());
        for foreign in [remade, twin.propose(&batch).unwrap()] {
            unmoved(&mut editor, |editor| editor.commit(foreign), stale);
        }
        // A clone in the same state takes what the original proposed; from the first change on they differ. Without
        // history, a commit is no change.
        let mut clone = editor.clone();
        clone.commit(editor.propose(&batch).unwrap()).unwrap();
        if editor.recipe().history == History::Absorbed {
            unmoved(&mut editor, |editor| editor.commit(clone.propose(&batch).unwrap()), stale);
            editor.commit(own).unwrap();
            unmoved(&mut editor, |editor| editor.commit(clone.propose(&batch).unwrap()), stale);
            unmoved(&mut editor, |editor| editor.commit(before_commit), stale);
        } else {
            for proposal in [own, before_commit, clone.propose(&batch).unwrap()] {
                editor.commit(proposal).unwrap();
            }
        }
        let own = editor.propose(&batch).unwrap();
        editor.protect(K.as_ref()).unwrap();
        for update in [own, before_protect] {
            unmoved(&mut editor, |editor| editor.commit(update), stale);
        }
    }
    let mut editor = every::<T>(N, HistoryWeighting::Mean { lambda1: 3000.0 });
    let [own, late] = std::array::from_fn(|_| editor.propose(&batch).unwrap());
    editor.commit(own).unwrap();
    unmoved(&mut editor, |editor| editor.propose(&batch), &Error::Numerics(NumericsError::RefreshDue { edits: N }));
    editor.refresh_if_due().unwrap().unwrap();
    unmoved(&mut editor, |editor| editor.commit(late), &Error::Numerics(NumericsError::StaleProposal));
    assert!(editor.propose(&batch).is_ok());
}
in_both_types!(only_an_editors_own_update_in_its_present_state_is_committed);

fn a_refresh_that_leaves_no_direction_leaves_the_editor_alone<T: Scalar>() {
    let K = Mat::<T>::identity(D, 3); // all that is kept
    let R = Mat::<T>::identity(OUT, 3);
    let batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap();
    let mut editor = every::<T>(3, HistoryWeighting::Sum { weight: 1.0 });
    let _ = editor.edit(&batch).unwrap();
    for _ in 0..2 {
        let before = editor.bits();
        for result in [editor.refresh_if_due().map(drop), editor.edit(&batch).map(drop)] {
            let Err(NumericsError::NothingKept { threshold, smallest }) = result else { panic!("{result:?}") };
            assert!(threshold == 0.02 && (smallest - 1.0).abs() < 0.01, "{threshold} {smallest}");
        }
        assert_eq!(editor.bits(), before);
        unmoved(&mut editor, |editor| editor.propose(&batch), &Error::Numerics(NumericsError::RefreshDue { edits: 3 }));
    }
}
in_both_types!(a_refresh_that_leaves_no_direction_leaves_the_editor_alone);

fn an_edit_that_fails_after_its_refresh_keeps_the_refresh_alone<T: Scalar>() {
    let rule = RefreshRule::Full(HistoryWeighting::Mean { lambda1: 3000.0 });
    let mut method = BetaEdit::default().with_lambda1(0.0).with_lambda2(1e-3);
    method.refresh = Some(Refresh::Every { edits: N, rule });
    let mut editor = method.editor::<T>(&statistics(), SEQ).unwrap();
    let (K, R, huge) = (keys::<T>(), residuals::<T>(), Mat::full(OUT, N, T::from_f64(T::MAX)));
    let _ = editor.edit(&EditBatch::new(K.as_ref(), R.as_ref()).unwrap()).unwrap();
    let mut refreshed = editor.clone();
    refreshed.refresh_if_due().unwrap().unwrap();
    let others = Random::new(8).matrix::<T>(D, N) * betaedit_core::faer::Scale(T::from_f64(0.1));
    refused(editor.edit(&EditBatch::new(others.as_ref(), huge.as_ref()).unwrap()), &overflow::<T>("the update"));
    assert_eq!(format!("{editor:?}"), format!("{refreshed:?}"));
}
in_both_types!(an_edit_that_fails_after_its_refresh_keeps_the_refresh_alone);

// Metrics.

fn metrics_refuse_what_does_not_fit<T: Scalar>() {
    let (K, R) = (keys::<T>(), residuals::<T>());
    let batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap();
    let mut retention = Retention::new(D, OUT);
    let total = Random::new(7).matrix::<f64>(OUT, D);
    retention.record(&batch, total.as_ref(), SEQ).unwrap();
    for (d_in, d_out, error) in [
        (D - 1, OUT, shape("keys", (D, N), (D - 1, N))),
        (D + 1, OUT, shape("keys", (D, N), (D + 1, N))),
        (D, OUT - 1, shape("residuals", (OUT, N), (OUT - 1, N))),
        (D, OUT + 1, shape("residuals", (OUT, N), (OUT + 1, N))),
    ] {
        let (K, R) = (Mat::<T>::zeros(d_in, N), Mat::<T>::zeros(d_out, N));
        let other = EditBatch::new(K.as_ref(), R.as_ref()).unwrap();
        refused(write_errors(&update::<T>(OUT, D), &other, SEQ), &error);
        unmoved(&mut retention, |retention| retention.record(&other, total.as_ref(), SEQ), &error);
    }
    for (bad, error) in misshapen("total", &total, Fixed::Both) {
        unmoved(&mut retention, |retention| retention.record(&batch, bad.as_ref(), SEQ), &error);
        unmoved(&mut retention, |retention| retention.errors(bad.as_ref(), SEQ), &error);
    }
    for (bad, error) in broken("keys", &K, Fixed::Rows) {
        refused(stability(&projector(D), 1.0, 1.0, bad.as_ref(), SEQ), &error);
    }
    for (x, error) in not_non_negative("weight") {
        refused(stability(&projector(D), x, 1.0, K.as_ref(), SEQ), &error);
    }
    for (x, error) in not_non_negative("ridge") {
        refused(stability(&projector(D), 1.0, x, K.as_ref(), SEQ), &error);
    }
}
in_both_types!(metrics_refuse_what_does_not_fit);

#[test]
fn a_running_total_needs_a_stride_rows_and_memory() {
    let moment = Arc::new(moment(D));
    for (d_out, stride, name) in [(OUT, 0, "stride"), (0, 1, "d_out"), (0, 0, "stride")] {
        let error = parameter(name, 0.0, "at least 1");
        refused(RunningTotal::new(&moment, d_out, stride, SEQ), &error);
    }
    let error = Error::Numerics(NumericsError::OutOfMemory {
        purpose: "the total update",
        size: (usize::MAX, D).into(),
        bytes: usize::MAX,
    });
    refused(RunningTotal::new(&moment, usize::MAX, 1, SEQ), &error);
    // Nothing recorded is nothing measured, not a panic.
    let nothing = RunningTotal::new(&moment, OUT, 3, SEQ).unwrap().measure().unwrap();
    assert_eq!((nothing.edits, nothing.drift, nothing.leakage), (0, 0.0, 0.0));
    for (d_in, d_out) in [(D, OUT), (0, OUT), (D, 0), (0, 0)] {
        let errors = Retention::new(d_in, d_out).errors(Mat::zeros(d_out, d_in).as_ref(), SEQ);
        assert!(errors.unwrap().is_empty());
    }
}

// Finite inputs of any size: an overflow is an error, never an infinity in an update, a weight or a state.

/// Sizes whose squares, or whose sums, leave the range.
fn huge<T: Scalar>() -> [f64; 4] {
    let [square, root] = if T::NAME == "f32" { [1e30, 1e19] } else { [1e200, 1e154] };
    [root, square, T::MAX / 2.0, T::MAX]
}

fn all_finite<T: Scalar>(matrix: &Mat<T>) -> bool {
    matrix.col_iter().all(|column| column.iter().all(|x| x.to_f64().is_finite()))
}

/// An overflow, or a value that passes.
#[track_caller]
fn finite_or_overflow<V, E: Into<Error>>(case: &str, result: Result<V, E>, finite: impl FnOnce(V) -> bool) {
    match result.map_err(Into::into) {
        Ok(value) => assert!(finite(value), "{case}: an infinity or NaN gets through"),
        Err(Error::Numerics(NumericsError::Overflow { .. })) => {}
        Err(other) => panic!("{case}: {other:?}"),
    }
}

#[test]
fn an_overflow_names_the_step_that_overflowed() {
    let key = |x: f64| Mat::full(D, 1, x);
    for (a, x, step) in [(1.0, 1e200, "the small system Kᵀ Q K"), (1e-200, 1e200, "the product Q K")] {
        let mut Q = InverseGram::isotropic(D, a, SEQ).unwrap();
        let error = overflow::<f64>(step);
        unmoved(&mut Q, |Q| Q.solve(key(x).as_ref()), &error);
        unmoved(&mut Q, |Q| Q.absorb(key(x).as_ref()), &error);
        unmoved(&mut Q, |Q| Q.release(key(x).as_ref()), &error);
        // Only the direction counts here.
        Q.constrain(key(x).as_ref()).unwrap();
    }
    let start = "the inverse Gram matrix";
    refused(InverseGram::isotropic(D, 1e-320, SEQ), &overflow::<f64>(start));
    refused(AlphaEdit::default().with_lambda2(1e-320).editor::<f64>(&statistics(), SEQ), &overflow::<f64>(start));
}

fn huge_input_never_spoils_an_engine<T: Scalar>() {
    let cases = huge::<T>().into_iter().flat_map(|x| [1e-12, 1.0, 1e12].map(|a| (x, a)));
    for (x, a) in cases {
        let mut Q = InverseGram::isotropic(D, a, SEQ).unwrap();
        let one = Mat::from_fn(D, 1, |i, _| T::from_f64(if i == 1 { x } else { 0.5 * x }));
        let many = Mat::from_fn(D, 3, |i, j| T::from_f64(if (i + j) % 2 == 0 { x } else { -0.25 * x }));
        for K in [one, many] {
            let case = format!("keys of {x:e} on Q = 1 / {a:e}");
            match Q.solve(K.as_ref()) {
                Ok(solution) => assert!(all_finite(&solution.directions().to_owned()), "{case}"),
                // A key so large that Q is nothing against it may be too much for the small system as well.
                Err(error) => {
                    assert!(
                        matches!(error, NumericsError::Overflow { .. } | NumericsError::Singular { .. }),
                        "{case}: {error}"
                    );
                }
            }
            for call in [InverseGram::absorb, InverseGram::release, InverseGram::constrain] {
                let before = Q.bits();
                if call(&mut Q, K.as_ref()).is_err() {
                    assert_eq!(Q.bits(), before, "{case}");
                }
                assert!(all_finite(&Q.to_dense()), "{case}");
            }
        }
    }
}
in_both_types!(huge_input_never_spoils_an_engine);

#[test]
fn huge_hyperparameters_never_spoil_a_start() {
    let P = projector(D);
    for x in huge::<f64>() {
        for a in [x, 1.0 / x] {
            finite_or_overflow("isotropic", InverseGram::isotropic(D, a, SEQ), |Q| all_finite(&Q.to_dense()));
            let ridge = InverseGram::diagonal(&P, 0.0, a, SEQ);
            finite_or_overflow("ridge", ridge, |Q| all_finite(&Q.to_dense()));
            let weight = InverseGram::diagonal(&P, a, 1e-320, SEQ);
            finite_or_overflow("weight", weight, |Q| all_finite(&Q.to_dense()));
            let A = diagonal(&EIGENVALUES) * betaedit_core::faer::Scale(a / 4.0);
            finite_or_overflow("A", InverseGram::new(&P, A.as_ref(), 0.0, SEQ), |Q| all_finite(&Q.to_dense()));
        }
    }
}

fn huge_edits_never_spoil_an_editor_or_an_update<T: Scalar>() {
    for x in huge::<T>() {
        for (key, residual) in [(x, 1.0), (1.0, x), (x, x), (1.0 / x, x)] {
            let K = Mat::from_fn(D, N, |i, j| T::from_f64(if i == j { key } else { -0.5 * key }));
            let R = Mat::from_fn(OUT, N, |i, j| T::from_f64(if i == j { residual } else { -0.5 * residual }));
            let batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap();
            for mut editor in editors::<T>() {
                let case = format!("{}: keys {key:e}, residuals {residual:e}", editor.name());
                let mut weight = Mat::<T>::zeros(OUT, D);
                for _ in 0..3 {
                    let before = editor.bits();
                    match editor.edit(&batch) {
                        Err(_) => assert_eq!(editor.bits(), before, "{case}"),
                        Ok(update) => {
                            assert!(all_finite(&update.left().to_owned()), "{case}");
                            assert!(all_finite(&update.right().to_owned()), "{case}");
                            assert!(all_finite(&update.to_dense(SEQ)), "{case}");
                            update.apply_to(weight.as_mut(), Orientation::OutputsByInputs, SEQ).unwrap();
                            assert!(all_finite(&weight), "{case}");
                            update.subtract_from(weight.as_mut(), Orientation::OutputsByInputs, SEQ).unwrap();
                        }
                    }
                    if editor.protect(K.as_ref()).is_err() {
                        editor.protect(keys::<T>().as_ref()).unwrap();
                    }
                    assert!(all_finite(&editor.inverse_gram().to_dense()), "{case}");
                }
            }
            let factors = Update::from_factors(R.clone(), K.transpose().to_owned());
            finite_or_overflow("from_factors", factors, |update| all_finite(&update.to_dense(SEQ)));
        }
    }
}
in_both_types!(huge_edits_never_spoil_an_editor_or_an_update);

#[test]
fn a_key_beyond_the_history_is_proposed_but_not_committed() {
    // Q = P / 1e300 makes small work of this key; its square is infinite all the same.
    let mut method = BetaEdit::default().with_lambda1(0.0).with_lambda2(1e300);
    method.refresh = Some(Refresh::Every { edits: 1, rule: RefreshRule::Full(HistoryWeighting::Sum { weight: 1.0 }) });
    let mut editor = method.editor::<f64>(&statistics(), SEQ).unwrap();
    let (K, R) = (Mat::full(D, 1, 1e154), Mat::full(OUT, 1, 1.0));
    let batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap();
    let update = editor.propose(&batch).unwrap();
    let error = overflow::<f64>("the squared norm of the keys");
    unmoved(&mut editor, |editor| editor.commit(update), &error);
    unmoved(&mut editor, |editor| editor.edit(&batch), &error);
    unmoved(&mut editor, |editor| editor.protect(K.as_ref()), &error);
    unmoved(&mut moment(D), |moment| moment.observe(K.as_ref(), SEQ), &error);
}

#[test]
fn indefinite_matrices_are_told_from_semidefinite_ones_at_every_scale() {
    for scale in [1e-200, 1e-160, 1e-80, 1e80, 1e155, 1e200, 1e300] {
        let ones = Mat::from_fn(3, 3, |_, _| scale);
        assert!(Spectrum::from_matrix(ones.as_ref(), SEQ).is_ok(), "semidefinite at {scale:e}");
        let bad = diagonal(&[-scale, 0.0, scale]);
        let error = Error::Numerics(NumericsError::NotPositiveSemidefinite {
            argument: "matrix",
            smallest: -scale,
            largest: scale,
        });
        refused(Spectrum::from_matrix(bad.as_ref(), SEQ), &error);
    }
}

#[test]
fn eigenvalues_are_finite_or_an_overflow() {
    let ones = Mat::from_fn(3, 3, |_, _| 1e308);
    finite_or_overflow("spectrum", Spectrum::from_matrix(ones.as_ref(), SEQ), |s| s.largest().is_finite());
}

#[test]
fn sums_of_statistics_are_finite_or_an_overflow() {
    let observed = |x: f64| {
        let mut moment = SecondMoment::new(2);
        moment.observe(diagonal(&[x, 0.0]).as_ref(), SEQ).map(|()| moment)
    };
    let finite =
        |moment: SecondMoment| all_finite(&moment.to_sum(SEQ).unwrap()) && all_finite(&moment.to_mean(SEQ).unwrap());
    let (C, K, smaller) = (diagonal(&[1e308, 1.0]), diagonal(&[1e154, 1.0]), diagonal(&[1e153, 1.0]));
    let (mut twice, half) = (observed(1.2e154).unwrap(), observed(1.2e154).unwrap());
    finite_or_overflow("merge", twice.merge(&half).map(|()| twice.clone()), finite);
    let mut twice = half.clone();
    let again = twice.observe(diagonal(&[1.2e154, 0.0]).as_ref(), SEQ);
    finite_or_overflow("observe", again.map(|()| twice.clone()), finite);
    finite_or_overflow("from_mean", SecondMoment::from_mean(C.as_ref(), Some(100), K.as_ref()), finite);
    finite_or_overflow("from_sum", SecondMoment::from_sum(C.as_ref(), 100, smaller.as_ref()), finite);
}

#[test]
fn token_counts_do_not_wrap() {
    let (sum, K) = (diagonal(&[1e19, 1e19]), diagonal(&[1.0, 1.0]));
    let moment = SecondMoment::from_sum(sum.as_ref(), u64::MAX, K.as_ref()).unwrap();
    let mut more = moment.clone();
    assert!(more.observe(K.as_ref(), SEQ).is_err() && more.tokens() == Some(u64::MAX));
    assert!(more.merge(&moment).is_err() && more.tokens() == Some(u64::MAX));
}

#[test]
fn a_witness_that_overflows_vouches_for_nothing() {
    let (C, K) = (diagonal(&[1e9, 1e9]), diagonal(&[1e200, 1e200]));
    assert!(matches!(SecondMoment::from_mean(C.as_ref(), None, K.as_ref()), Err(NumericsError::Overflow { .. })));
    assert!(matches!(SecondMoment::from_sum(C.as_ref(), 9, K.as_ref()), Err(NumericsError::Overflow { .. })));
}

#[test]
fn a_protected_matrix_is_finite_or_an_overflow() {
    let (spectrum, history) = (statistics(), moment(D));
    for lambda1 in [1e300, f64::MAX] {
        let weighting = HistoryWeighting::Mean { lambda1 };
        finite_or_overflow("matrix", weighting.protected_matrix(&spectrum, &history, SEQ), |M| all_finite(&M));
        let built = ProjectorBuilder::new(&spectrum).history(&history, weighting).build(SEQ);
        finite_or_overflow("projector", built, |P| P.kept() > 0);
    }
}

#[test]
fn an_overflow_is_not_called_singular() {
    let everything = Projector::identity(&statistics());
    let diagonal_start = |weight, ridge| InverseGram::diagonal(&everything, weight, ridge, SEQ);
    finite_or_overflow("weight", diagonal_start(f64::MAX, 1.0), |Q| all_finite(&Q.to_dense()));
    finite_or_overflow("ridge", diagonal_start(f64::MAX, f64::MAX), |Q| all_finite(&Q.to_dense()));
    let A = diagonal(&[f64::MAX; D]);
    finite_or_overflow("A", InverseGram::new(&everything, A.as_ref(), f64::MAX, SEQ), |Q| all_finite(&Q.to_dense()));
    // kᵀ Q k is within the range, twice that is not.
    let k = Mat::from_fn(D, 1, |i, _| if i == 0 { 1.2e154 } else { 0.0 });
    let Q = InverseGram::isotropic(D, 1.0, SEQ).unwrap();
    finite_or_overflow("solve", Q.solve(k.as_ref()), |solution| all_finite(&solution.directions().to_owned()));
}

#[test]
fn constraining_and_releasing_at_the_end_of_the_range_works_or_overflows() {
    let everything = Projector::identity(&statistics());
    let ones = Mat::<f64>::full(D, 1, 1.0);
    let A = diagonal(&[1e-307; D]);
    for mut Q in
        [InverseGram::new(&everything, A.as_ref(), 0.0, SEQ).unwrap(), InverseGram::isotropic(D, 1e-308, SEQ).unwrap()]
    {
        let outcome = Q.constrain(ones.as_ref());
        let left = Q.product(ones.as_ref()).unwrap().norm_l2();
        finite_or_overflow("constrain", outcome, |()| left < 1e-12 * 1e307);
    }
    let mut Q = InverseGram::isotropic(1, 1e-300, SEQ).unwrap();
    let k = Mat::full(1, 1, 1e-150 * (1.0 - 1e-15));
    // It was never absorbed, and what would come back is beyond the range.
    assert!(matches!(Q.release(k.as_ref()), Err(NumericsError::Singular { .. } | NumericsError::Overflow { .. })));
    assert!(all_finite(&Q.to_dense()));
}

#[test]
fn an_asymmetric_gram_matrix_is_refused() {
    let mut A = diagonal(&EIGENVALUES);
    A[(1, 3)] = 2.0;
    let error = Error::Numerics(NumericsError::NotSymmetric { argument: "A", row: 3, col: 1, difference: 2.0 });
    refused(InverseGram::new(&Projector::identity(&statistics()), A.as_ref(), 1.0, SEQ), &error);
}

#[test]
fn an_isotropic_engine_of_impossible_size_is_refused() {
    refused(InverseGram::isotropic(0, 1.0, SEQ), &parameter("d_in", 0.0, "at least 1"));
    let endless = InverseGram::isotropic(1 << 40, 1.0, SEQ);
    assert!(matches!(endless, Err(NumericsError::OutOfMemory { .. })));
}

fn not_a_number_is_refused_in_every_factor<T: Scalar>() {
    let (Q, update) = (engine::<T>(), update::<T>(OUT, D));
    for (bad, error) in poisoned("keys", &keys::<T>()) {
        refused(Q.product(bad.as_ref()), &error);
    }
    for (bad, error) in poisoned("X", &keys::<T>()) {
        refused(update.product(bad.as_ref(), SEQ), &error);
    }
    for (bad, error) in poisoned("X", &keys::<f64>()) {
        refused(moment(D).product(bad.as_ref(), SEQ), &error);
        refused(projector(D).apply(bad.as_ref(), SEQ), &error);
    }
}
in_both_types!(not_a_number_is_refused_in_every_factor);

fn a_total_that_is_not_a_number_is_not_recorded<T: Scalar>() {
    let (K, R) = (keys::<T>(), residuals::<T>());
    let batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap();
    let mut retention = Retention::new(D, OUT);
    for (bad, error) in poisoned("total", &Mat::zeros(OUT, D)) {
        unmoved(&mut retention, |retention| retention.record(&batch, bad.as_ref(), SEQ), &error);
        unmoved(&mut retention, |retention| retention.errors(bad.as_ref(), SEQ), &error);
    }
    let (K, total) = (Mat::full(D, 1, T::from_f64(1e30)), Mat::full(OUT, D, 1e300));
    let batch = EditBatch::new(K.as_ref(), R.as_ref().subcols(0, 1)).unwrap();
    let recorded = retention.record(&batch, total.as_ref(), SEQ);
    finite_or_overflow("record", recorded, |()| retention.errors(total.as_ref(), SEQ).unwrap()[0].is_finite());
}
in_both_types!(a_total_that_is_not_a_number_is_not_recorded);

fn a_weight_never_overflows<T: Scalar>() {
    let root = Mat::full(1, 1, T::from_f64((0.75 * T::MAX).sqrt()));
    let update = Update::from_factors(root.clone(), root).unwrap();
    for sign in [1.0, -1.0] {
        let mut weight = Mat::full(1, 1, T::from_f64(sign * 0.75 * T::MAX));
        let changed = match sign {
            1.0 => update.apply_to(weight.as_mut(), Orientation::OutputsByInputs, SEQ),
            _ => update.subtract_from(weight.as_mut(), Orientation::InputsByOutputs, SEQ),
        };
        finite_or_overflow("weight", changed, |()| all_finite(&weight));
    }
}
in_both_types!(a_weight_never_overflows);

fn a_weight_that_is_not_a_number_is_refused<T: Scalar>() {
    let update = update::<T>(OUT, D);
    for (mut bad, error) in poisoned("weight", &Mat::zeros(OUT, D)) {
        unmoved(&mut bad, |W| update.apply_to(W.as_mut(), Orientation::OutputsByInputs, SEQ), &error);
    }
}
in_both_types!(a_weight_that_is_not_a_number_is_refused);

fn stability_without_protection_is_singular<T: Scalar>() {
    let keys = keys::<T>();
    let flat = Projector::identity(&spectrum_of(&[0.0, 0.0, 0.0, 1.0, 4.0]));
    for (P, weight) in [(projector(D), 0.0), (flat, 1.0)] {
        for K in [&keys, &Mat::zeros(D, 1)] {
            assert!(matches!(stability(&P, weight, 0.0, K.as_ref(), SEQ), Err(NumericsError::Singular { .. })));
        }
    }
}
in_both_types!(stability_without_protection_is_singular);

#[test]
fn metrics_of_huge_updates_are_finite_or_an_overflow() {
    // Rank 2 with cancelling columns, so that products give inf - inf.
    let of = |x: f64| {
        let left = Mat::from_fn(1, 2, |_, j| if j == 0 { x } else { -0.5 * x });
        Update::from_factors(left, Mat::full(2, 2, x)).unwrap()
    };
    let K = Mat::from_fn(2, 2, |i, j| if i == j { 1.0 } else { 0.5 });
    let mut C = SecondMoment::new(2);
    C.observe(K.as_ref(), SEQ).unwrap();
    let C = Arc::new(C);
    for x in [1e70, 1e80, 1e100, 1e150] {
        let (a, positive) = (of(x), |value: f64| value > 0.0 && value.is_finite());
        finite_or_overflow("norm", Ok::<_, Error>(a.frobenius_norm()), positive);
        finite_or_overflow("spectral norm", a.spectral_norm(), positive);
        finite_or_overflow("inner", a.inner(&a), positive);
        finite_or_overflow("leakage", leakage(&a, &C, SEQ), positive);
        let mut total = RunningTotal::new(&C, 1, 1, SEQ).unwrap();
        for _ in 0..2 {
            let measured = total.record(&a).map(Option::unwrap);
            finite_or_overflow("running", measured, |m| [m.drift, m.leakage, m.update_norm].into_iter().all(positive));
        }
        let one = EditBatch::new(K.as_ref(), K.as_ref().subrows(0, 1)).unwrap();
        finite_or_overflow("write errors", write_errors(&a, &one, SEQ), |errors| errors.into_iter().all(positive));
        let keys = Mat::full(D, 1, x * x);
        let s = stability(&projector(D), 1.0, 1.0, keys.as_ref(), SEQ);
        finite_or_overflow("stability", s, |s| s.into_iter().all(positive));
    }
}

#[test]
fn a_conflict_is_a_conflict_at_every_scale() {
    for x in [1e-60, 1e-45, 1.0, 1e45, 1e60] {
        let of = |sign: f64| Update::from_factors(Mat::full(1, 1, sign * x), Mat::full(1, 2, x)).unwrap();
        let interference = Interference::new(&[of(1.0), of(-1.0)], SEQ);
        finite_or_overflow(&format!("{x:e}"), interference, |conflict| !conflict.is_non_conflicting(0.5));
    }
}

#[test]
fn hyperparameters_are_named_as_the_method_names_them() {
    let spectrum = statistics();
    for (name, result) in [
        ("lambda", Memit::default().with_lambda(-1.0).editor::<f64>(&spectrum, SEQ)),
        ("lambda1", BetaEdit::default().with_lambda1(-1.0).editor(&spectrum, SEQ)),
        ("lambda2", BetaEdit::default().with_lambda2(-1.0).editor(&spectrum, SEQ)),
        ("lambda2", AlphaEdit::default().with_lambda2(-1.0).editor(&spectrum, SEQ)),
    ] {
        refused(result, &parameter(name, -1.0, "a finite number that is not negative"));
    }
}

#[test]
fn the_shape_reported_is_that_of_the_argument() {
    let ours = update::<f64>(OUT, D);
    for (d_out, d_in) in [(OUT + 1, D), (OUT, D + 1)] {
        let other = update::<f64>(d_out, d_in);
        let error = |argument| shape(argument, (OUT, D), (d_out, d_in));
        refused(ours.inner(&other), &error("other"));
        refused(Interference::new(&[ours.clone(), other.clone()], SEQ), &error("updates"));
        let mut total = RunningTotal::new(&Arc::new(moment(D)), OUT, 1, SEQ).unwrap();
        unmoved(&mut total, |total| total.record(&other), &error("update"));
    }
    let d = D + 1;
    refused(projector(D).distance_squared(&projector(d), SEQ), &shape("other", (D, D), (d, d)));
    refused(leakage(&ours, &moment(d), SEQ), &shape("moment", (D, D), (d, d)));
}

#[test]
fn an_overflow_of_f64_has_other_advice_than_f64() {
    assert!(!overflow::<f64>("the update").to_string().contains("compute in f64"));
}

#[test]
fn an_unknown_token_count_says_whose_and_what_to_do() {
    let text = moment(D).merge(&uncounted()).unwrap_err().to_string();
    assert!(text.contains("`other`") && text.contains("with a count"), "{text}");
}

/// A solution belongs to one engine and one state: that of an engine of equal size and age is refused.
fn a_solution_of_another_engine_is_refused<T: Scalar>() {
    let K = keys::<T>();
    let twin = || InverseGram::isotropic(D, 2.0, SEQ).unwrap();
    let (mut ours, mut other) = (twin(), twin());
    let mut elsewhere = other.solve(K.as_ref()).unwrap();
    let stale = &Error::Numerics(NumericsError::StaleProposal);
    unmoved(&mut ours, |Q| Q.absorb_solution(&elsewhere), stale);
    // After equally many changes as well.
    ours.absorb(K.as_ref()).unwrap();
    other.absorb(K.as_ref()).unwrap();
    elsewhere = other.solve(K.as_ref()).unwrap();
    unmoved(&mut ours, |Q| Q.absorb_solution(&elsewhere), stale);
    // A clone is in the same state until one of the two changes.
    let mut clone = other.clone();
    clone.absorb_solution(&elsewhere).unwrap();
    unmoved(&mut clone, |Q| Q.absorb_solution(&elsewhere), stale);
    other.absorb_solution(&elsewhere).unwrap();
    let late = clone.solve(K.as_ref()).unwrap();
    unmoved(&mut other, |Q| Q.absorb_solution(&late), stale);
}
in_both_types!(a_solution_of_another_engine_is_refused);
