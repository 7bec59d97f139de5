//! Merging by regression means against the published formula, written out densely in numpy and here.

use betaedit_core::SecondMoment;
use betaedit_core::error::NumericsError;
use betaedit_core::faer::linalg::solvers::Solve;
use betaedit_core::faer::{Mat, MatRef, Par, Scale};
use betaedit_core::regmean::{ModelWeighting, RegMean};
use proptest::prelude::*;

use crate::common::{Matrices, Random, distance, property_config};

const SEQ: Par = Par::Seq;

/// The second moment of inputs, `d_in x n`.
fn moment(X: MatRef<'_, f64>) -> SecondMoment {
    let mut moment = SecondMoment::new(X.nrows());
    moment.observe(X, SEQ).unwrap();
    moment
}

#[test]
fn the_numbers_are_those_of_numpy() {
    let golden = Matrices::read("regmean.json");
    let weights: Vec<Mat<f64>> = (0..3).map(|i| golden.get(&format!("W{i}"))).collect();
    let moments: Vec<SecondMoment> = (0..3).map(|i| moment(golden.get(&format!("X{i}")).transpose())).collect();
    let models: Vec<_> = weights.iter().map(Mat::as_ref).zip(&moments).collect();
    let published = RegMean::default();
    for (name, regmean) in [
        ("published", published),
        ("tokens", published.with_weighting(ModelWeighting::Tokens)),
        ("full", published.with_off_diagonal(1.0)),
        ("diagonal", published.with_off_diagonal(0.0)),
    ] {
        let error = distance(regmean.merge(&models, SEQ).unwrap().as_ref(), golden.get(name).as_ref());
        assert!(error < 1e-13, "{name}: {error:e}");
    }
}

proptest! {
    #![proptest_config(property_config())]

    /// `W = (sum W_i G_i) (sum G_i)⁻¹`; for equal weights, exactly that weight.
    #[test]
    fn merging_is_its_formula(
        seed in any::<u64>(), d in 1_usize..9, d_out in 1_usize..5, models in 1_usize..4,
        a in 0.0_f64..=1.0, ridge in prop::option::of(1e-6_f64..0.1), tokens in any::<bool>(),
    ) {
        let mut random = Random::new(seed);
        let weighting = if tokens { ModelWeighting::Tokens } else { ModelWeighting::Equal };
        let regmean = RegMean::default().with_off_diagonal(a).with_ridge(ridge.unwrap_or(0.0)).with_weighting(weighting);
        let weights: Vec<Mat<f64>> = (0..models).map(|_| random.matrix(d_out, d)).collect();
        let inputs: Vec<Mat<f64>> = (0..models).map(|i| random.matrix(d, 3 * d + 10 * i)).collect();
        let moments: Vec<SecondMoment> = inputs.iter().map(|X| moment(X.as_ref())).collect();
        let given: Vec<_> = weights.iter().map(Mat::as_ref).zip(&moments).collect();
        let found = regmean.merge(&given, SEQ).unwrap();

        let (mut numerator, mut total) = (Mat::<f64>::zeros(d_out, d), Mat::<f64>::zeros(d, d));
        for (W, X) in weights.iter().zip(&inputs) {
            let count = if tokens { 1.0 } else { X.ncols() as f64 };
            let G = X * X.transpose() * Scale(1.0 / count);
            let mean = (0..d).map(|i| G[(i, i)]).sum::<f64>() / d as f64;
            let G = Mat::from_fn(d, d, |i, j| if i == j { G[(i, i)] + ridge.unwrap_or(0.0) * mean } else { a * G[(i, j)] });
            numerator += W * &G;
            total += &G;
        }
        let expected = numerator * total.partial_piv_lu().solve(Mat::<f64>::identity(d, d));
        let error = distance(found.as_ref(), expected.as_ref());
        prop_assert!(error < 1e-9, "{:e}", error);

        let same: Vec<_> = moments.iter().map(|moment| (weights[0].as_ref(), moment)).collect();
        prop_assert_eq!(regmean.merge(&same, SEQ).unwrap(), weights[0].clone());
    }
}

/// Inputs that no text reaches: an error that says what to do, and a ridge that does it.
#[test]
fn statistics_without_full_rank() {
    let mut random = Random::new(1);
    let W: Mat<f64> = random.matrix(3, 6);
    // Two tokens of six inputs, the last of which is always zero.
    let X: Mat<f64> = random.matrix(6, 2);
    let X = Mat::from_fn(6, 2, |i, j| if i == 5 { 0.0 } else { X[(i, j)] });
    let few = moment(X.as_ref());
    let models = [(W.as_ref(), &few), (W.as_ref(), &few)];
    for off_diagonal in [1.0, 0.9] {
        let error = RegMean::default().with_off_diagonal(off_diagonal).merge(&models, SEQ).unwrap_err();
        assert!(matches!(error, NumericsError::Singular { .. }) && error.to_string().contains("`ridge`"), "{error}");
    }
    assert_eq!(RegMean::default().with_ridge(1e-6).merge(&models, SEQ).unwrap(), W);
}

#[test]
fn wrong_input_is_named() {
    let (W, M) = (Mat::<f64>::full(2, 3, 1.0), moment(Mat::<f64>::identity(3, 3).as_ref()));
    let regmean = RegMean::default();
    let none: [(MatRef<'_, f64>, &SecondMoment); 0] = [];
    assert!(matches!(regmean.merge(&none, SEQ), Err(NumericsError::Empty { argument: "models", .. })));
    let other = Mat::<f64>::full(3, 2, 1.0);
    let error = regmean.merge(&[(W.as_ref(), &M), (other.as_ref(), &M)], SEQ).unwrap_err();
    assert!(matches!(error, NumericsError::Shape { argument: "weight", .. }), "{error:?}");
    let error = regmean.merge(&[(other.as_ref(), &M)], SEQ).unwrap_err();
    assert!(matches!(error, NumericsError::Shape { argument: "moment", .. }), "{error:?}");
    for regmean in [regmean.with_off_diagonal(1.1), regmean.with_off_diagonal(f64::NAN), regmean.with_ridge(-1.0)] {
        assert!(matches!(regmean.merge(&[(W.as_ref(), &M)], SEQ), Err(NumericsError::Parameter { .. })));
    }
    let witness = Mat::<f64>::identity(3, 3);
    let unknown = SecondMoment::from_mean(Mat::<f64>::identity(3, 3).as_ref(), None, witness.as_ref()).unwrap();
    let by_tokens = regmean.with_weighting(ModelWeighting::Tokens);
    let error = by_tokens.merge(&[(W.as_ref(), &unknown)], SEQ).unwrap_err();
    assert!(matches!(error, NumericsError::UnknownTokenCount { .. }), "{error:?}");
    assert!(regmean.merge(&[(W.as_ref(), &unknown)], SEQ).is_ok());
}
