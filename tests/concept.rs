//! Concept editing against the published formulas, written out densely in numpy and here.

use betaedit_core::concept::{ConceptEdit, Speed, Uce};
use betaedit_core::editor::{AlphaEdit, Emmet};
use betaedit_core::error::NumericsError;
use betaedit_core::faer::linalg::solvers::Solve;
use betaedit_core::faer::{Mat, MatRef, Par, Scale};
use betaedit_core::{Memit, Threshold};
use proptest::prelude::*;

use crate::common::{Matrices, Random, distance, property_config};

const SEQ: Par = Par::Seq;

fn inverse(A: &Mat<f64>) -> Mat<f64> {
    A.partial_piv_lu().solve(Mat::<f64>::identity(A.nrows(), A.nrows()))
}

#[test]
fn the_numbers_are_those_of_numpy() {
    let golden = Matrices::read("concept.json");
    let get = |name| golden.get(name);
    let W = get("W");
    let [keys, anchors, values] = ["keys", "anchors", "values"].map(|name| get(name).transpose().to_owned());
    let [preserved, invariant] = ["preserved", "invariant"].map(|name| get(name).transpose().to_owned());
    let edited = |edit: &ConceptEdit| &W + edit.update_to_anchors(W.as_ref(), anchors.as_ref()).unwrap().to_dense(SEQ);
    let uce = Uce::default().edit(keys.as_ref(), Some(preserved.as_ref()), SEQ).unwrap();
    let to_values = &W + uce.update(W.as_ref(), values.as_ref()).unwrap().to_dense(SEQ);
    assert!(distance(to_values.as_ref(), get("uce to values").as_ref()) < 1e-13);
    assert_eq!(format!("{uce:?}"), "ConceptEdit { d_in: 9, keys: 3, .. }");
    let uce = Uce::default().with_ridge(0.1).with_edit_weight(2.0).with_preserve_weight(0.3);
    let uce = uce.edit(keys.as_ref(), Some(preserved.as_ref()), SEQ).unwrap();
    assert!(distance(edited(&uce).as_ref(), get("uce to anchors").as_ref()) < 1e-13);
    for (name, speed) in [
        ("speed", Speed::default()),
        ("speed with slack", Speed::default().with_threshold(Threshold::Absolute(0.1)).with_ridge(0.7).with_slack(0.3)),
    ] {
        let speed = speed.edit(keys.as_ref(), preserved.as_ref(), Some(invariant.as_ref()), SEQ).unwrap();
        let error = distance(edited(&speed).as_ref(), get(name).as_ref());
        assert!(error < 1e-12, "{name}: {error:e}");
    }
}

proptest! {
    #![proptest_config(property_config())]

    /// `W' = (l W + e V Kᵀ + p W C Cᵀ) (l I + e K Kᵀ + p C Cᵀ)⁻¹`, also with more keys than inputs and more than a block of preserved ones.
    #[test]
    fn uce_is_its_formula(
        seed in any::<u64>(), d in 1_usize..10, d_out in 1_usize..6, n in 1_usize..14, m in 0_usize..300,
        l in 0.05_f64..3.0, e in 0.1_f64..3.0, p in 0.0_f64..3.0,
    ) {
        let mut random = Random::new(seed);
        let (W, K) = (random.matrix::<f64>(d_out, d), random.matrix::<f64>(d, n));
        let (V, C) = (random.matrix::<f64>(d_out, n), random.matrix::<f64>(d, m));
        let uce = Uce::default().with_ridge(l).with_edit_weight(e).with_preserve_weight(p);
        let preserved = (m > 0).then_some(C.as_ref());
        let edit = uce.edit(K.as_ref(), preserved, SEQ).unwrap();
        let found = &W + edit.update(W.as_ref(), V.as_ref()).unwrap().to_dense(SEQ);
        let CC = &C * C.transpose() * Scale(p);
        let numerator = &W * Scale(l) + &V * K.transpose() * Scale(e) + &W * &CC;
        let denominator = Mat::<f64>::identity(d, d) * Scale(l) + &K * K.transpose() * Scale(e) + &CC;
        let expected = numerator * inverse(&denominator);
        let error = distance(found.as_ref(), expected.as_ref());
        prop_assert!(error < 1e-10, "{:e}", error);
    }

    /// The published bracket, with the projector computed from the preserved keys themselves.
    #[test]
    fn speed_is_its_formula(
        seed in any::<u64>(), d in 4_usize..10, d_out in 1_usize..6, n in 1_usize..12, r in 0.1_f64..3.0,
        l in prop::option::of(0.05_f64..2.0),
    ) {
        let mut random = Random::new(seed);
        let (W, K, A) = (random.matrix::<f64>(d_out, d), random.matrix::<f64>(d, n), random.matrix::<f64>(d, n));
        // Orthonormal directions, of which the first half is preserved.
        let (U, K2) = (random.rotation(d), random.matrix::<f64>(d, 1));
        let protected = d / 2;
        let C = Mat::from_fn(d, protected, |i, j| 3.0 * U[(i, j)]);
        let speed = Speed::default().with_ridge(r).with_slack(l.unwrap_or(0.0));
        let edit = speed.edit(K.as_ref(), C.as_ref(), Some(K2.as_ref()), SEQ).unwrap();
        let found = edit.update_to_anchors(W.as_ref(), A.as_ref()).unwrap().to_dense(SEQ);

        let I = Mat::<f64>::identity(d, d);
        let P = U.subcols(protected, d - protected) * U.subcols(protected, d - protected).transpose();
        let S = &K * K.transpose() * Scale(1.0 / n as f64);
        let moved = (&A - &K) * K.transpose() * Scale(1.0 / n as f64);
        let M = inverse(&(&S * &P + &I * Scale(r)));
        let inner = K2.transpose() * &P * &M * &K2 + Mat::<f64>::identity(1, 1) * Scale(l.unwrap_or(0.0));
        let expected = &W * moved * &P * (&I - &M * &K2 * inverse(&inner) * K2.transpose() * &P) * &M;
        let error = (&found - &expected).norm_l2() / W.norm_l2();
        prop_assert!(error < 1e-9, "{:e}", error);
        // What it promises: preserved keys keep their outputs, and the invariant one if there is no slack.
        prop_assert!((&found * &C).norm_l2() < 1e-9 * W.norm_l2());
        prop_assert!(l.is_some() || (&found * &K2).norm_l2() < 1e-8 * W.norm_l2());
    }
}

/// Methods for language models, with the preserved keys as statistics: their formulas.
#[test]
fn other_methods_are_their_formulas() {
    let mut random = Random::new(3);
    let (d, d_out, n, m) = (7, 4, 3, 20);
    let (W, K, C) = (random.matrix::<f64>(d_out, d), random.matrix::<f64>(d, n), random.matrix::<f64>(d, m));
    let V = random.matrix::<f64>(d_out, n);
    let mean = &C * C.transpose() * Scale(1.0 / m as f64);
    let residuals = &V - &W * &K;
    let update = |edit: ConceptEdit| edit.update(W.as_ref(), V.as_ref()).unwrap().to_dense(SEQ);

    let memit = ConceptEdit::with_method(&Memit::default().with_lambda(0.7), K.as_ref(), C.as_ref(), SEQ).unwrap();
    let expected = &residuals * K.transpose() * inverse(&(&mean * Scale(0.7) + &K * K.transpose()));
    assert!(distance(update(memit).as_ref(), expected.as_ref()) < 1e-11);

    let method = AlphaEdit::default().with_lambda2(0.4).with_threshold(Threshold::Directions(4));
    let alphaedit = ConceptEdit::with_method(&method, K.as_ref(), C.as_ref(), SEQ).unwrap();
    let eigen = mean.self_adjoint_eigen(betaedit_core::faer::Side::Lower).unwrap();
    let P = eigen.U().subcols(0, 4) * eigen.U().subcols(0, 4).transpose();
    let system = &P * &K * K.transpose() + Mat::<f64>::identity(d, d) * Scale(0.4);
    let expected = (inverse(&system) * &P * &K * residuals.transpose()).transpose().to_owned();
    assert!(distance(update(alphaedit).as_ref(), expected.as_ref()) < 1e-11);

    // EMMET with slack 0 meets the values.
    let method = Emmet::default().with_lambda(1.0).with_slack(betaedit_core::editor::Slack { single: 0.0, batch: 0.0 });
    let emmet = ConceptEdit::with_method(&method, K.as_ref(), C.as_ref(), SEQ).unwrap();
    assert!((update(emmet) * &K - residuals).norm_l2() < 1e-10);
}

#[test]
fn wrong_input_is_named() {
    let (K, C) = (Mat::<f64>::full(3, 2, 1.0), Mat::<f64>::full(3, 5, 0.5));
    let shape = |error: NumericsError, name: &str| match error {
        NumericsError::Shape { argument, .. } => assert_eq!(argument, name),
        other => panic!("{other:?}"),
    };
    let uce = Uce::default();
    let other = Mat::<f64>::full(4, 5, 1.0);
    shape(uce.edit(K.as_ref(), Some(other.as_ref()), SEQ).unwrap_err(), "preserved");
    shape(Speed::default().edit(K.as_ref(), C.as_ref(), Some(other.as_ref()), SEQ).unwrap_err(), "invariant");
    let edit = uce.edit(K.as_ref(), Some(C.as_ref()), SEQ).unwrap();
    shape(edit.update(other.as_ref(), K.as_ref()).unwrap_err(), "weight");
    shape(edit.update(K.as_ref().transpose(), K.as_ref()).unwrap_err(), "values");
    shape(edit.update_to_anchors(K.as_ref().transpose(), C.as_ref()).unwrap_err(), "anchors");
    for uce in [uce.with_ridge(0.0), uce.with_edit_weight(f64::NAN), uce.with_preserve_weight(-1.0)] {
        assert!(matches!(uce.edit(K.as_ref(), None, SEQ), Err(NumericsError::Parameter { .. })));
    }
    assert!(matches!(uce.edit(Mat::<f64>::zeros(3, 0).as_ref(), None, SEQ), Err(NumericsError::Empty { .. })));
    let nan: MatRef<'_, f64> = MatRef::from_column_major_slice(&[1.0, f64::NAN, 0.0], 3, 1);
    for error in [
        uce.edit(nan, None, SEQ).unwrap_err(),
        uce.edit(K.as_ref(), Some(nan), SEQ).unwrap_err(),
        Speed::default().edit(K.as_ref(), nan, None, SEQ).unwrap_err(),
        Speed::default().edit(K.as_ref(), C.as_ref(), Some(nan), SEQ).unwrap_err(),
    ] {
        assert!(matches!(error, NumericsError::NonFinite { .. }), "{error:?}");
    }
}

/// An error of the engine names what the caller can change.
#[test]
fn keys_that_are_too_large_for_the_ridge_are_refused() {
    let mut random = Random::new(4);
    let (K, C) = (random.matrix::<f64>(5, 2), random.matrix::<f64>(5, 9));
    let error = Uce::default().with_ridge(1e-18).edit(K.as_ref(), Some(C.as_ref()), SEQ).unwrap_err();
    assert!(matches!(error, NumericsError::Singular { .. }) && error.to_string().contains("larger ridge"), "{error}");
}
