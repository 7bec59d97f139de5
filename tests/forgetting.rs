//! Exponential forgetting against dense weighted least squares by nalgebra.

use betaedit_core::error::NumericsError;
use betaedit_core::faer::{Mat, MatRef, Par};
use betaedit_core::projector::ProjectorBuilder;
use betaedit_core::scalar::cast;
use betaedit_core::{InverseGram, Orientation, Scalar, Threshold, Update};
use nalgebra::DMatrix;
use proptest::prelude::*;

use crate::common::{Random, distance, property_config, spectrum};

const SEQ: Par = Par::Seq;
const LINEAR: Orientation = Orientation::OutputsByInputs;

/// A stream of `n` keys a step with their values, from a system that drifts.
#[derive(Clone, Debug)]
struct Stream {
    seed: u64,
    d: usize,
    n: usize,
    steps: usize,
    factor: f64,
    lambda: f64,
}

/// Long memories and short ones; the base is scaled lazily for the first, and at once for the second.
fn streams() -> impl Strategy<Value = Stream> {
    let factor = prop_oneof![0.3..0.9_f64, 0.9..0.999_f64, Just(1.0)];
    (any::<u64>(), 1..12_usize, 1..4_usize, 1..200_usize, factor, -6.0..1.0_f64).prop_map(
        |(seed, d, n, steps, factor, lambda)| Stream { seed, d, n, steps, factor, lambda: 10.0_f64.powf(lambda) },
    )
}

fn dense<T: Scalar>(matrix: MatRef<'_, T>) -> DMatrix<f64> {
    DMatrix::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)].to_f64())
}

/// `sum_t factor^(T-t) ..` by its definition, from the first step to the last.
fn weighted(blocks: &[(DMatrix<f64>, DMatrix<f64>)], factor: f64) -> DMatrix<f64> {
    let steps = blocks.len();
    let weight = |t: usize| factor.powi(i32::try_from(steps - 1 - t).unwrap());
    blocks.iter().enumerate().map(|(t, (left, right))| left * right.transpose() * weight(t)).sum()
}

fn the_engine_is_the_weighted_inverse<T: Scalar>(
    s: &Stream,
    start: InverseGram,
    rounding: f64,
) -> Result<(), TestCaseError> {
    let mut random = Random::new(s.seed);
    let d_out = 2;
    let (mut Q, mut W) = (start, Mat::<f64>::zeros(d_out, s.d));
    let (mut keys, mut values, mut largest) = (vec![], vec![], 0.0_f64);
    for t in 0..s.steps {
        let K = random.matrix::<T>(s.d, s.n);
        let system = Mat::from_fn(d_out, s.d, |i, j| (0.01 * t as f64 + (i + 2 * j) as f64).cos());
        let K64 = cast::<T, f64>(K.as_ref());
        let V = system * &K64;
        Q.discount(s.factor).unwrap();
        largest = largest.max(Q.to_dense().norm_l2());
        let solution = Q.solve(K.as_ref()).unwrap();
        let update = Update::from_factors(&V - &W * &K64, solution.directions().transpose().to_owned()).unwrap();
        update.apply_to(W.as_mut(), LINEAR, SEQ).unwrap();
        Q.absorb_solution(&solution).unwrap();
        keys.push((dense(K.as_ref()), dense(K.as_ref())));
        values.push((dense(V.as_ref()), dense(K.as_ref())));
    }
    let start = DMatrix::identity(s.d, s.d) * (s.lambda * s.factor.powi(i32::try_from(s.steps).unwrap()));
    let A = weighted(&keys, s.factor) + start;
    let eigenvalues = A.clone().symmetric_eigen().eigenvalues;
    let condition = eigenvalues.max() / eigenvalues.min();
    // The cofactors that `try_inverse` uses for small matrices lose the square of the condition number.
    let expected = A.cholesky().unwrap().inverse();
    // Rounding of the inverse, of the oracle's as well; of the largest `Q` on the way to this one; and of a history as long as
    // the memory.
    let lost = largest / expected.norm();
    let allowed = rounding * condition.max(lost) * (1.0 + 1.0 / (1.0 - s.factor).max(1.0 / s.steps as f64));
    let error = (dense(Q.to_dense().as_ref()) - &expected).norm() / expected.norm();
    prop_assert!(error <= allowed, "Q is off by {:e}, allowed {:e}", error, allowed);
    let ridge = weighted(&values, s.factor) * expected;
    let error = (dense(W.as_ref()) - &ridge).norm() / ridge.norm();
    prop_assert!(error <= allowed, "W is off by {:e}, allowed {:e}", error, allowed);
    Ok(())
}

proptest! {
    #![proptest_config(property_config())]

    #[test]
    fn f64_keys(s in streams()) {
        let Q = InverseGram::isotropic(s.d, s.lambda, SEQ).unwrap();
        the_engine_is_the_weighted_inverse::<f64>(&s, Q, 1e-13)?;
    }

    #[test]
    fn f32_keys(s in streams()) {
        let Q = InverseGram::isotropic(s.d, s.lambda, SEQ).unwrap();
        the_engine_is_the_weighted_inverse::<f32>(&s, Q, 1e-13)?;
    }

    /// Products from the `f32` copy leave pending factors that are not settled yet when the history is discounted.
    #[test]
    fn f32_keys_by_the_rounded_copy(s in streams()) {
        let Q = InverseGram::isotropic(s.d, s.lambda, SEQ).unwrap().with_rounded_copy().unwrap();
        the_engine_is_the_weighted_inverse::<f32>(&s, Q, 1e-6)?;
    }
}

/// Releases, constraints, unsettled keys and a change of sign of the pending columns, all under discounts.
#[test]
fn every_event_goes_with_discounts() {
    let d = 9;
    let mut random = Random::new(5);
    let K = random.matrix::<f32>(d, 60);
    let N = random.matrix::<f64>(d, 1);
    for copy in ["without", "with a rounded copy"] {
        let mut Q = InverseGram::isotropic(d, 0.5, SEQ).unwrap();
        if copy != "without" {
            Q = Q.with_rounded_copy().unwrap();
        }
        let mut A = Mat::<f64>::identity(d, d) * betaedit_core::faer::Scale(0.5);
        let wide = cast::<f32, f64>(K.as_ref());
        let outer = |j: usize| wide.col(j) * wide.col(j).transpose();
        for t in 0..60 {
            Q.discount(0.97).unwrap();
            A *= betaedit_core::faer::Scale(0.97);
            Q.absorb(K.as_ref().subcols(t, 1)).unwrap();
            A += outer(t);
            if t % 7 == 6 {
                // What is left of the key of three steps before.
                let left = wide.as_ref().subcols(t - 3, 1) * betaedit_core::faer::Scale(0.97_f64.powf(1.5));
                Q.release(left.as_ref()).unwrap();
                A -= &left * left.transpose();
            }
        }
        let inverse = dense(A.as_ref()).try_inverse().unwrap();
        let allowed = if copy == "without" { 1e-12 } else { 1e-5 };
        let error = (dense(Q.to_dense().as_ref()) - &inverse).norm() / inverse.norm();
        assert!(error < allowed, "{copy}: {error:e}");
        // A constraint holds on, and the rest is the inverse on the complement of the direction.
        Q.constrain(N.as_ref()).unwrap();
        Q.discount(0.97).unwrap();
        let n = dense(N.as_ref());
        let Qn = &inverse * &n;
        let rest = (&inverse - &Qn * Qn.transpose() / (n.transpose() * &Qn)[(0, 0)]) / 0.97;
        let error = (dense(Q.to_dense().as_ref()) - &rest).norm() / rest.norm();
        assert!(error < allowed, "{copy}, constrained: {error:e}");
        assert!(Q.measure_drift() < allowed, "{copy}: {:e}", Q.measure_drift());
    }
}

/// Ten thousand memories later the engine is as exact as at the start, and takes keys of any length.
#[test]
fn a_long_stream_does_not_wear_the_engine_out() {
    let (d, factor) = (12, 0.9);
    let mut random = Random::new(6);
    let mut Q = InverseGram::isotropic(d, 1e-6, SEQ).unwrap();
    let mut keys = vec![];
    for t in 0..20_000 {
        let k = random.matrix::<f64>(d, 1);
        Q.discount(factor).unwrap();
        Q.absorb(k.as_ref()).unwrap();
        if t >= 19_000 {
            keys.push((dense(k.as_ref()), dense(k.as_ref())));
        }
    }
    let inverse = weighted(&keys, factor).try_inverse().unwrap();
    let error = (dense(Q.to_dense().as_ref()) - &inverse).norm() / inverse.norm();
    assert!(error < 1e-12 && Q.measure_drift() < 1e-12, "{error:e} {:e}", Q.measure_drift());
    // Rounding is that of the present engine, not of the first one: a key of gain near 10⁴ can still be released.
    let long = random.matrix::<f64>(d, 1) * betaedit_core::faer::Scale(100.0);
    let before = Q.to_dense();
    Q.absorb(long.as_ref()).unwrap();
    Q.release(long.as_ref()).unwrap();
    assert!(distance(Q.to_dense().as_ref(), before.as_ref()) < 1e-6);
}

/// Without excitation `Q` winds up as `factor^-T`; a little of every direction in turn holds it.
#[test]
fn wind_up_is_as_documented() {
    let (d, factor, lambda) = (4, 0.95, 0.1);
    let k = Mat::from_fn(d, 1, |i, _| if i == 0 { 1.0 } else { 0.0 });
    let gain = |Q: &InverseGram, i: usize| Q.to_dense()[(i, i)];
    let (mut alone, mut held) =
        (InverseGram::isotropic(d, lambda, SEQ).unwrap(), InverseGram::isotropic(d, lambda, SEQ).unwrap());
    for t in 0..400 {
        for Q in [&mut alone, &mut held] {
            Q.discount(factor).unwrap();
            Q.absorb(k.as_ref()).unwrap();
        }
        let length = (d as f64 * (1.0 - factor) * lambda).sqrt();
        let in_turn = Mat::from_fn(d, 1, |i, _| if i == t % d { length } else { 0.0 });
        held.absorb(in_turn.as_ref()).unwrap();
    }
    let wound_up = factor.powi(-400) / lambda;
    assert!((gain(&alone, 3) / wound_up - 1.0).abs() < 1e-10, "{:e}", gain(&alone, 3));
    assert!((1..d).all(|i| gain(&held, i) < 1.2 / lambda), "{:e}", gain(&held, 3));
    for Q in [&alone, &held] {
        assert!((gain(Q, 0) - (1.0 - factor)).abs() < 0.01, "{:e}", gain(Q, 0));
    }
}

/// Rounding outside of a space winds up as documented. In the coordinates of the space there is no outside.
#[test]
fn a_space_is_kept_in_its_coordinates() {
    let (d, kept, factor) = (12, 6, 0.99);
    let mut random = Random::new(7);
    let moment = random.moment(d, d, 1e-3);
    let P = ProjectorBuilder::new(&spectrum(&moment)).threshold(Threshold::Directions(kept)).build(SEQ).unwrap();
    let mut in_space = InverseGram::diagonal(&P, 0.0, 1.0, SEQ).unwrap();
    let mut in_coordinates = InverseGram::isotropic(kept, 1.0, SEQ).unwrap();
    let V = P.basis();
    let lifted = |Q: &InverseGram| V * Q.to_dense() * V.transpose();
    let mut keys = vec![];
    for t in 1..=6000 {
        let k = random.matrix::<f64>(d, 1);
        let coordinates = V.transpose() * &k;
        if t <= 2000 {
            in_space.discount(factor).unwrap();
            in_space.absorb(k.as_ref()).unwrap();
        }
        in_coordinates.discount(factor).unwrap();
        in_coordinates.absorb(coordinates.as_ref()).unwrap();
        keys.push((dense(coordinates.as_ref()), dense(coordinates.as_ref())));
        let error = distance(in_space.to_dense().as_ref(), lifted(&in_coordinates).as_ref());
        match t {
            500 => assert!((1e-14..1e-11).contains(&error), "{error:e}"),
            2000 => assert!((1e-8..1e-4).contains(&error), "{error:e}"),
            _ => {}
        }
    }
    let expected = weighted(&keys, factor).try_inverse().unwrap();
    let error = (dense(in_coordinates.to_dense().as_ref()) - &expected).norm() / expected.norm();
    assert!(error < 1e-11, "{error:e}");
}

#[test]
fn factors_out_of_range_and_results_out_of_range_change_nothing() {
    let mut Q = InverseGram::isotropic(3, 1.0, SEQ).unwrap();
    Q.absorb(Mat::full(3, 1, 2.0).as_ref()).unwrap();
    let (before, solution) = (Q.to_dense(), Q.solve(Mat::full(3, 1, 1.0).as_ref()).unwrap());
    for factor in [0.0, -0.5, 1.0 + f64::EPSILON, 2.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let refused = Q.discount(factor);
        assert!(matches!(refused, Err(NumericsError::Parameter { parameter: "factor", .. })), "{factor}: {refused:?}");
    }
    assert!(matches!(Q.discount(f64::from_bits(1)), Err(NumericsError::Overflow { .. })));
    Q.discount(1.0).unwrap();
    assert_eq!(Q.to_dense(), before);
    // Still the same state: a solution is fresh until the history is discounted.
    Q.clone().absorb_solution(&solution).unwrap();
    Q.discount(0.5).unwrap();
    assert!(matches!(Q.absorb_solution(&solution), Err(NumericsError::StaleProposal)));

    // Down to the end of the range, and no further.
    let mut steps = 0;
    let error = loop {
        let before = Q.to_dense();
        match Q.discount(1e-10) {
            Ok(()) => steps += 1,
            Err(error) => break (error, before),
        }
    };
    assert!(matches!(error.0, NumericsError::Overflow { .. }), "{:?}", error.0);
    assert_eq!(Q.to_dense(), error.1);
    assert_eq!(steps, 30);
    assert!(Q.to_dense().as_ref().is_all_finite());
}

/// The copy in `f32` stays in its range however far the engine winds up.
#[test]
fn the_rounded_copy_follows_a_wind_up() {
    let d = 5;
    let mut Q = InverseGram::isotropic(d, 1.0, SEQ).unwrap().with_rounded_copy().unwrap();
    let k = Random::new(8).matrix::<f32>(d, 1);
    Q.absorb(k.as_ref()).unwrap();
    for _ in 0..60 {
        Q.discount(1e-4).unwrap();
    }
    let other = Random::new(9).matrix::<f32>(d, 1);
    let solution = Q.solve(other.as_ref()).unwrap();
    // `g (1 + g)⁻¹` of the residual is written; `g` is beyond the range of `f32`.
    assert!(solution.gains()[0] > 1e200, "{:e}", solution.gains()[0]);
    let written = (cast::<f32, f64>(other.as_ref()).transpose() * solution.directions())[(0, 0)];
    assert!((written - 1.0).abs() < 1e-5, "{written}");
}
