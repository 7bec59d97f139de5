//! Restraints against a sort and against direct singular value decompositions.

use std::sync::Arc;

use betaedit_core::editor::History;
use betaedit_core::error::NumericsError;
use betaedit_core::faer::{Mat, MatRef, Par};
use betaedit_core::restraint::{Damping, Prune, Rect, spectral_norm};
use betaedit_core::scalar::cast;
use betaedit_core::update::Weight;
use betaedit_core::{EditBatch, Editor, Orientation, Scalar, Spectrum, Update};
use nalgebra::{DMatrix, Dyn, SVD};
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use crate::common::{Random, distance, property_config};

fn to_nalgebra(matrix: MatRef<'_, f64>) -> DMatrix<f64> {
    DMatrix::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)])
}

fn random_update<T: Scalar>(random: &mut Random, d_out: usize, d_in: usize, n: usize) -> Update<T> {
    Update::from_factors(random.matrix(d_out, n), random.matrix(n, d_in)).unwrap()
}

/// The entries that stay, by sorting all of them.
fn sorted<T: Scalar>(Delta: &Mat<T>, W: &Mat<T>, kept: usize) -> Mat<T> {
    let change = |i: usize, j: usize| {
        let (d, w) = (Delta[(i, j)].to_f64().abs(), W[(i, j)].to_f64().abs());
        if d == 0.0 { 0.0 } else { T::from_f64(d / w).to_f64() }
    };
    let mut order: Vec<(usize, usize)> =
        (0..Delta.ncols()).flat_map(|j| (0..Delta.nrows()).map(move |i| (i, j))).collect();
    order.sort_by(|a, b| change(b.0, b.1).total_cmp(&change(a.0, a.1)));
    let mut left = Mat::zeros(Delta.nrows(), Delta.ncols());
    order[..kept].iter().for_each(|&(i, j)| left[(i, j)] = Delta[(i, j)]);
    left
}

fn rect_keeps_the_largest_relative_changes<T: Scalar>() {
    let mut random = Random::new(31);
    for (d_out, d_in) in [(7, 20), (20, 7), (1, 9), (9, 1), (6, 6)] {
        let update = random_update::<T>(&mut random, d_out, d_in, 2);
        // Signs, zeros, and entries that tie.
        let W = Mat::from_fn(d_out, d_in, |i, j| match (i + 3 * j) % 5 {
            0 => T::default(),
            1 => update.to_dense(Par::Seq)[(i, j)],
            _ => T::from_f64(random.normal()),
        });
        for kept in [0.01, 0.2, 0.4, 0.5, 0.99, 1.0] {
            let expected = sorted(&update.to_dense(Par::Seq), &W, (kept * (d_out * d_in) as f64).ceil() as usize);
            let restrained = Rect::default().with_kept(kept).restrain(&update, W.as_ref(), Par::Seq).unwrap();
            assert_eq!(restrained.to_dense(Par::Seq), expected);

            // All that an update can do, a dense one can.
            let product = restrained.left() * restrained.right();
            assert!(distance(product.as_ref(), expected.as_ref()) < 4.0 * T::EPSILON);
            let wide = cast::<T, f64>(expected.as_ref());
            let close = |a: f64, b: f64| (a - b).abs() <= (4.0 * T::EPSILON).max(1e-9) * b.abs();
            assert!(close(restrained.frobenius_norm(), wide.norm_l2()));
            assert!(close(restrained.spectral_norm().unwrap(), to_nalgebra(wide.as_ref()).singular_values().max()));
            assert!(close(restrained.inner(&restrained).unwrap(), wide.squared_norm_l2()));
            let X: Mat<T> = random.matrix(d_in, 3);
            let applied = restrained.product(X.as_ref(), Par::Seq).unwrap();
            assert!(distance(applied.as_ref(), (&expected * &X).as_ref()) < 20.0 * T::EPSILON);
            for orientation in [Orientation::OutputsByInputs, Orientation::InputsByOutputs] {
                let transposed = orientation == Orientation::InputsByOutputs;
                let stored = if transposed { W.transpose().to_owned() } else { W.clone() };
                let mut weight = Weight::new(stored.clone(), orientation).unwrap();
                weight.apply(&restrained, Par::Seq).unwrap();
                assert!(distance(weight.outputs_by_inputs(), (&W + &expected).as_ref()) < 2.0 * T::EPSILON);
                let mut back = weight.into_matrix();
                restrained.subtract_from(back.as_mut(), orientation, Par::Seq).unwrap();
                assert!(distance(back.as_ref(), stored.as_ref()) < 20.0 * T::EPSILON);
            }
            // Where all stay, it is the factors that are cast.
            let other = restrained.cast::<f64>().unwrap();
            assert!(distance(other.to_dense(Par::Seq).as_ref(), wide.as_ref()) < 4.0 * T::EPSILON);
        }
    }
}

#[test]
fn rect_keeps_the_largest_relative_changes_in_both_number_types() {
    rect_keeps_the_largest_relative_changes::<f64>();
    rect_keeps_the_largest_relative_changes::<f32>();
}

#[test]
fn what_a_restraint_is_given_is_checked() {
    let mut random = Random::new(32);
    let update = random_update::<f64>(&mut random, 3, 4, 1);
    let (W, mut bad) = (random.matrix::<f64>(3, 4), random.matrix::<f64>(3, 4));
    bad[(1, 1)] = f64::NAN;
    for kept in [0.0, -1.0, 1.1, f64::NAN] {
        let refused = Rect::default().with_kept(kept).restrain(&update, W.as_ref(), Par::Seq);
        assert!(matches!(refused, Err(NumericsError::Parameter { parameter: "kept", .. })));
    }
    assert!(matches!(
        Rect::default().restrain(&update, W.transpose(), Par::Seq),
        Err(NumericsError::Shape { argument: "weight", .. })
    ));
    assert!(matches!(Rect::default().restrain(&update, bad.as_ref(), Par::Seq), Err(NumericsError::NonFinite { .. })));
    for base in [1.0, 0.5, f64::NAN, f64::INFINITY] {
        let prune = Prune::default().with_damping(Damping::Logarithm { base });
        assert!(matches!(prune.restrain(&update, 0.1, Par::Seq), Err(NumericsError::Parameter { .. })));
    }
    assert!(Prune::default().restrain(&update, f64::NAN, Par::Seq).is_err());
    assert!(Prune::default().correction(bad.as_ref(), 0.1, Par::Seq).is_err());
    assert!(spectral_norm(Mat::<f64>::zeros(0, 3).as_ref(), Par::Seq).is_err());
    assert!(spectral_norm(bad.as_ref(), Par::Seq).is_err());
}

fn dampings() -> Vec<Damping> {
    let logarithm = |base| Damping::Logarithm { base };
    vec![logarithm(std::f64::consts::E), logarithm(2.0), logarithm(1.5), logarithm(1.2), Damping::Linear]
}

/// As published, of the decomposed sum of all updates.
fn pruned(mut svd: SVD<f64, Dyn, Dyn>, damping: Damping, largest: f64) -> DMatrix<f64> {
    svd.singular_values.iter_mut().for_each(|s| {
        if *s > largest {
            let damped = match damping {
                Damping::Logarithm { base } => s.log(base) - largest.log(base) + largest,
                _ => (*s + largest) / 2.0,
            };
            *s = damped.min(*s);
        }
    });
    svd.recompose().unwrap()
}

#[track_caller]
fn check_prune(total: &Update<f64>) {
    let D = total.to_dense(Par::Seq);
    let direct = to_nalgebra(D.as_ref()).svd(true, true);
    let mut values: Vec<f64> = direct.singular_values.iter().copied().collect();
    values.sort_by(f64::total_cmp);
    values.reverse();
    for largest in [0.9 * values[0], 0.5 * (values[1] + values[2]), 0.3 * values[0], 2.0 * values[0]] {
        for damping in dampings() {
            let prune = Prune::default().with_damping(damping);
            let expected = Mat::from_fn(D.nrows(), D.ncols(), {
                let pruned = pruned(direct.clone(), damping, largest);
                move |i, j| pruned[(i, j)]
            });
            let restrained = prune.restrain(total, largest, Par::Seq).unwrap();
            assert!(distance(restrained.to_dense(Par::Seq).as_ref(), expected.as_ref()) < 1e-9);
            let correction = prune.correction(D.as_ref(), largest, Par::Seq).unwrap();
            let above = values.iter().filter(|s| **s > largest).count();
            assert_eq!(correction.as_ref().map_or(0, Update::rank), above);
            let corrected = correction.map_or(D.clone(), |correction| &D + correction.to_dense(Par::Seq));
            assert!(distance(corrected.as_ref(), expected.as_ref()) < 1e-9);
            if above == 0 {
                assert_eq!((restrained.left(), restrained.right()), (total.left(), total.right()));
            }
        }
    }
}

#[test]
fn prune_is_its_decomposition_on_random_updates() {
    let mut random = Random::new(33);
    for (d_out, d_in, n) in [(8, 20, 5), (20, 8, 5), (6, 9, 30)] {
        check_prune(&random_update(&mut random, d_out, d_in, n));
    }
}

#[cfg(feature = "safetensors")]
#[test]
fn restraints_on_a_real_recording() {
    use betaedit_core::{Adapter, Memit, Method, adapter::RecordedStream, metrics};
    let path = crate::common::data("smollm2-layer10-slice.safetensors");
    let mut stream = RecordedStream::<f64>::open(path, Par::Seq).unwrap();
    let spectrum = Arc::new(Spectrum::new(stream.second_moment(), Par::Seq).unwrap());
    let mut editor = Memit::default().with_lambda(1_500.0).editor::<f64>(&spectrum, Par::Seq).unwrap();
    let mut updates = Vec::new();
    for edits in (0..40).collect::<Vec<usize>>().chunks(8) {
        let (K, R) = (stream.keys(10, edits).unwrap(), stream.residuals(10, edits).unwrap());
        updates.push(editor.edit(&EditBatch::new(K.as_ref(), R.as_ref()).unwrap()).unwrap());
    }
    let norm = spectral_norm(stream.weight(), Par::Seq).unwrap();
    let expected = to_nalgebra(stream.weight()).svd(false, false).singular_values.max();
    assert!((norm - expected).abs() < 1e-9 * expected, "{norm} {expected}");
    check_prune(&Update::stacked(&updates).unwrap());
    for kept in [0.2, 0.4] {
        let restrained = Rect::default().with_kept(kept).restrain(&updates[0], stream.weight(), Par::Seq).unwrap();
        let all = updates[0].d_out() * updates[0].d_in();
        let expected =
            sorted(&updates[0].to_dense(Par::Seq), &stream.weight().to_owned(), (kept * all as f64).ceil() as usize);
        assert_eq!(restrained.to_dense(Par::Seq), expected);
        // Its leakage, by the factors and directly.
        let C = stream.second_moment().to_mean(Par::Seq).unwrap();
        let direct: f64 = (&expected * &C * expected.transpose()).diagonal().column_vector().iter().sum();
        let leakage = metrics::leakage(&restrained, stream.second_moment(), Par::Seq).unwrap();
        assert!((leakage - direct).abs() < 1e-9 * direct);
    }
}

/// A restrained update is committed as the one that was proposed.
#[test]
fn a_restrained_update_is_committed() {
    let mut random = Random::new(34);
    let moment = random.moment(12, 12, 1e-2);
    let spectrum = Arc::new(Spectrum::new(&moment, Par::Seq).unwrap());
    let W: Mat<f64> = random.matrix(5, 12);
    for entry in betaedit_core::editor::METHODS {
        let mut h = betaedit_core::editor::Hyperparameters::default();
        (h.lambda, h.threshold) = (5.0, betaedit_core::Threshold::Directions(8));
        let editor = || {
            betaedit_core::editor::ClosedFormEditor::<f64>::new(entry.name(), entry.recipe(&h), &spectrum, Par::Seq)
                .unwrap()
        };
        let (mut plain, mut rect, mut prune) = (editor(), editor(), editor());
        for n in [2, 1, 3] {
            let (K, R): (Mat<f64>, Mat<f64>) = (random.matrix(12, n), random.matrix(5, n));
            let batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap();
            let _ = plain.edit(&batch).unwrap();
            let keep_some = |update: &Update<f64>| Rect::default().restrain(update, W.as_ref(), Par::Seq);
            let [proposal, late] =
                std::array::from_fn(|_| rect.propose(&batch).unwrap().map_update(keep_some).unwrap());
            assert_eq!(proposal.update().edits(), n);
            rect.commit(proposal).unwrap();
            // Only where the first has changed what the second depends on.
            let stale = matches!(rect.clone().commit(late), Err(NumericsError::StaleProposal));
            let recipe = rect.recipe();
            assert_eq!(stale, recipe.history != History::Ignored || recipe.simulation.is_some(), "{}", entry.name());
            let damp =
                |update: &Update<f64>| Prune::default().restrain(update, 0.1 * update.frobenius_norm(), Par::Seq);
            let proposal = prune.propose(&batch).unwrap().map_update(damp).unwrap();
            prune.commit(proposal).unwrap();
            for restrained in [&rect, &prune] {
                assert_eq!(restrained.state(), plain.state());
                assert_eq!(restrained.inverse_gram().to_dense(), plain.inverse_gram().to_dense());
            }
        }
    }
}

proptest! {
    #![proptest_config(property_config())]

    #[test]
    fn the_spectral_norm_is_the_largest_singular_value(
        seed in any::<u64>(), rows in 1_usize..40, cols in 1_usize..40, rank in 1_usize..40, repeated in any::<bool>(),
        magnitude in -100_i32..100,
    ) {
        let mut random = Random::new(seed);
        let A = if repeated {
            // All singular values are equal.
            random.rotation(rows.max(cols)).submatrix(0, 0, rows, cols.min(rows)).to_owned()
        } else {
            random.matrix::<f64>(rows, rank) * random.matrix::<f64>(rank, cols)
        } * betaedit_core::faer::Scale(10.0_f64.powi(magnitude));
        let expected = to_nalgebra(A.as_ref()).singular_values().max();
        let found = spectral_norm(A.as_ref(), Par::Seq).unwrap();
        prop_assert!((found - expected).abs() <= 1e-10 * expected, "{found:e} {expected:e}");
    }

    /// Degenerate updates: zero, of rank one, with equal entries.
    #[test]
    fn degenerate_updates_are_restrained(seed in any::<u64>(), zero in any::<bool>(), equal in any::<bool>()) {
        let mut random = Random::new(seed);
        let (mut left, mut right): (Mat<f64>, Mat<f64>) = (random.matrix(4, 3), random.matrix(3, 6));
        if equal {
            (left, right) = (Mat::full(4, 3, 1.0), Mat::full(3, 6, 1.0));
        }
        if zero {
            left = Mat::zeros(4, 3);
        }
        let update = Update::from_factors(left, right).unwrap();
        let W = Mat::full(4, 6, 2.0);
        let kept = Rect::default().with_kept(0.5).restrain(&update, W.as_ref(), Par::Seq).unwrap().to_dense(Par::Seq);
        let nonzero = kept.col_iter().flat_map(|column| column.iter()).filter(|x| **x != 0.0).count();
        prop_assert_eq!(nonzero, if zero { 0 } else { 12 });
        for largest in [0.0, 0.3] {
            let pruned = Prune::default().restrain(&update, largest, Par::Seq).unwrap();
            prop_assert!(pruned.frobenius_norm() <= update.frobenius_norm() * (1.0 + 1e-12));
        }
    }
}
