//! Whole streams of every method against nalgebra, which shares no line with the kernels underneath the engine.

use std::sync::Arc;

use betaedit_core::editor::{ClosedFormEditor, METHODS, Space};
use betaedit_core::editor::{History, Hyperparameters};
use betaedit_core::faer::{Mat, Par};
use betaedit_core::metrics::{Gauges, Interference, Retention, RunningTotal, expected_loss, stability, write_errors};
use betaedit_core::{EditBatch, Editor, Spectrum, Threshold, Update};
use nalgebra::DMatrix;

use crate::common::Random;

fn to_nalgebra(matrix: &Mat<f64>) -> DMatrix<f64> {
    DMatrix::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)])
}

#[track_caller]
fn assert_close(ours: &DMatrix<f64>, theirs: &DMatrix<f64>, tolerance: f64) {
    let error = (ours - theirs).norm() / theirs.norm().max(1e-300);
    assert!(error <= tolerance, "off by {error:e}");
}

#[test]
fn gradients_must_fit_and_come_first() {
    let mut random = Random::new(23);
    let moment = Arc::new(random.moment(20, 12, 1e-2));
    let [fitting, other] = [5, 6].map(|d_out| Arc::new(random.moment(d_out, d_out, 1e-2)));
    let update = Update::from_factors(random.matrix::<f64>(5, 2), random.matrix::<f64>(2, 20)).unwrap();
    let total = || RunningTotal::new(&moment, 5, 1, Par::Seq).unwrap();
    assert!(total().with_gradients(&other).is_err());
    let mut late = total();
    assert_eq!(late.record(&update).unwrap().unwrap().expected_loss, None);
    assert!(late.with_gradients(&fitting).is_err());
    assert!(expected_loss(&update, &moment, &other, Par::Seq).is_err());
    assert!(expected_loss(&update, &fitting, &fitting, Par::Seq).is_err());
}

/// The eigenvectors of `C` below `tau`, by nalgebra.
fn projector(C: &DMatrix<f64>, tau: f64) -> DMatrix<f64> {
    let eigen = C.clone().symmetric_eigen();
    let kept: Vec<usize> = (0..C.nrows()).filter(|&i| eigen.eigenvalues[i] < tau).collect();
    let V = eigen.eigenvectors.select_columns(&kept);
    &V * V.transpose()
}

#[test]
fn every_method_agrees_with_nalgebra_in_updates_and_in_every_metric() {
    let (d_in, d_out, tau) = (30, 7, 0.05);
    // Random keys and ideal editors have equations of their own, see test `family`.
    for entry in METHODS.iter().filter(|entry| !["memit-r", "simie"].contains(&entry.name())) {
        let mut random = Random::new(21);
        let moment = Arc::new(random.moment(d_in, d_in, 1e-3));
        let spectrum = Arc::new(Spectrum::new(&moment, Par::Seq).unwrap());
        let mut h = Hyperparameters::default();
        (h.lambda, h.lambda1, h.lambda2, h.threshold) = (25.0, 12.0, 0.4, Threshold::Absolute(tau));
        let recipe = entry.recipe(&h);
        let mut editor = ClosedFormEditor::<f64>::new(entry.name(), recipe, &spectrum, Par::Seq).unwrap();

        let C = to_nalgebra(&moment.to_mean(Par::Seq).unwrap());
        // Fewer gradients than outputs.
        let gradients = Arc::new(random.moment(d_out, d_out - 2, 1e-3));
        let G = to_nalgebra(&gradients.to_mean(Par::Seq).unwrap());
        let identity = DMatrix::<f64>::identity(d_in, d_in);
        let P = if recipe.space == Space::Whole { identity.clone() } else { projector(&C, tau) };
        let A0 = &P * (&C * recipe.weight + &identity * recipe.ridge) * &P;
        let A0_inverse = A0.clone().pseudo_inverse(1e-9).unwrap();
        let mut H = DMatrix::<f64>::zeros(d_in, d_in);
        let mut D = DMatrix::<f64>::zeros(d_out, d_in);
        let (mut K_all, mut goals) = (vec![], vec![]);
        let mut updates: Vec<Update<f64>> = vec![];
        let mut total = RunningTotal::new(&moment, d_out, 1, Par::Seq).unwrap().with_gradients(&gradients).unwrap();
        let mut retention = Retention::new(d_in, d_out);
        for n in [1, 1, 3, 2, 8, 1] {
            let (K, R) = (random.matrix::<f64>(d_in, n), random.matrix::<f64>(d_out, n));
            let batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap();
            let update = editor.edit(&batch).unwrap();
            let (k, r) = (to_nalgebra(&K), to_nalgebra(&R));
            let A = &P * (&H + &C * recipe.weight + &identity * recipe.ridge) * &P;
            let Y = A.pseudo_inverse(1e-9).unwrap() * &k;
            let e = if n == 1 { recipe.slack.single } else { recipe.slack.batch };
            let small = k.transpose() * &Y + DMatrix::identity(n, n) * e;
            let delta = &r * small.lu().solve(&Y.transpose()).unwrap();
            assert_close(&to_nalgebra(&update.to_dense(Par::Seq)), &delta, 1e-11);
            assert!((update.frobenius_norm() - delta.norm()).abs() < 1e-12 * delta.norm());
            let spectral = delta.singular_values().max();
            assert!((update.spectral_norm().unwrap() - spectral).abs() < 1e-10 * spectral);

            retention.record(&batch, total.total().unwrap(), Par::Seq).unwrap();
            let measured = total.record(&update).unwrap().unwrap();
            let interference = D.dot(&delta);
            for j in 0..n {
                K_all.push(k.column(j).into_owned());
                goals.push(&D * k.column(j) + r.column(j));
            }
            D += &delta;
            let close = |ours: f64, theirs: f64| (ours - theirs).abs() <= 1e-11 * theirs.abs().max(1e-6);
            assert!(close(measured.leakage, (&D * &C * D.transpose()).trace()));
            assert!(close(measured.drift, D.norm()));
            assert!(close(measured.expected_loss.unwrap(), (&G * &D * &C * D.transpose()).trace() / 2.0));
            let alone = expected_loss(&update, &moment, &gradients, Par::Seq).unwrap();
            assert!(close(alone, (&G * &delta * &C * delta.transpose()).trace() / 2.0));
            assert!(close(measured.update_leakage, (&delta * &C * delta.transpose()).trace()));
            assert!(close(measured.update_norm, delta.norm()));
            assert!(close(measured.interference, interference));
            let s = stability(&editor.projector().unwrap(), recipe.weight, recipe.ridge, K.as_ref(), Par::Seq).unwrap();
            assert_eq!(s, editor.stability(K.as_ref()).unwrap().unwrap());
            let missed = write_errors(&update, &batch, Par::Seq).unwrap();
            for j in 0..n {
                let key = k.column(j);
                assert!(close(s[j], (key.transpose() * &A0_inverse * key)[(0, 0)]));
                let expected = (&delta * key - r.column(j)).norm();
                assert!((missed[j] - expected).abs() <= 1e-11 * r.column(j).norm());
            }
            if recipe.history == History::Absorbed {
                H += &k * k.transpose();
            }
            updates.push(update);
        }
        let Gauges { leakage, drift, expected_loss, .. } = total.afresh().unwrap();
        let last = total.measure().unwrap();
        let (kept, afresh) = (last.expected_loss.unwrap(), expected_loss.unwrap());
        assert!((kept - afresh).abs() < 1e-12 * afresh, "{kept} {afresh}");
        assert!((last.leakage - leakage).abs() < 1e-12 * leakage && (last.drift - drift).abs() < 1e-12 * drift);
        for (i, error) in retention.errors(total.total().unwrap(), Par::Seq).unwrap().into_iter().enumerate() {
            let expected = (&D * &K_all[i] - &goals[i]).norm();
            assert!((error - expected).abs() < 1e-10 * expected.max(1.0));
        }
        let interference = Interference::new(&updates, Par::Seq).unwrap();
        let dense: Vec<DMatrix<f64>> = updates.iter().map(|update| to_nalgebra(&update.to_dense(Par::Seq))).collect();
        for i in 0..dense.len() {
            for j in 0..dense.len() {
                let expected = dense[i].dot(&dense[j]);
                assert!((interference.matrix()[(i, j)] - expected).abs() < 1e-11 * dense[i].norm() * dense[j].norm());
                assert!(
                    (updates[i].inner(&updates[j]).unwrap() - expected).abs()
                        < 1e-11 * dense[i].norm() * dense[j].norm()
                );
            }
        }
    }
}

#[test]
fn a_stride_gives_the_same_numbers_less_often() {
    let mut random = Random::new(22);
    let moment = Arc::new(random.moment(20, 12, 1e-2));
    let mut every = RunningTotal::new(&moment, 5, 1, Par::Seq).unwrap();
    let mut third = RunningTotal::new(&moment, 5, 3, Par::Seq).unwrap();
    let mut measured = 0;
    for step in 1..=10 {
        let update = Update::from_factors(random.matrix::<f64>(5, 2), random.matrix::<f64>(2, 20)).unwrap();
        let a = every.record(&update).unwrap().unwrap();
        if let Some(b) = third.record(&update).unwrap() {
            assert_eq!((step % 3, b.edits), (0, 2 * step));
            assert!((a.leakage - b.leakage).abs() < 1e-12 * a.leakage && (a.drift - b.drift).abs() < 1e-12 * a.drift);
            measured += 1;
        }
    }
    assert_eq!(measured, 3);
    let (a, b) = (every.measure().unwrap(), third.measure().unwrap());
    assert!((a.leakage - b.leakage).abs() < 1e-12 * a.leakage && (a.drift - b.drift).abs() < 1e-12 * a.drift);
}

#[cfg(feature = "nalgebra")]
#[test]
fn conversions_keep_every_entry_in_place() {
    use betaedit_core::SecondMoment;
    use betaedit_core::interop::{faer_view, to_faer};

    let K = DMatrix::from_fn(3, 5, |i, j| (10 * i + j) as f64);
    let view = faer_view(&K);
    assert!((0..3).all(|i| (0..5).all(|j| view[(i, j)] == K[(i, j)])));
    assert_eq!(to_faer(&K).as_ref(), view);
    assert_eq!(betaedit_core::interop::to_nalgebra(view.transpose()), K.transpose());
    // Static sizes are views as well, and an empty matrix stays empty.
    assert_eq!(faer_view(&nalgebra::matrix![1.0_f32, 2.0; 3.0, 4.0])[(1, 0)], 3.0);
    assert_eq!(faer_view(&DMatrix::<f64>::zeros(0, 4)).shape(), (0, 4));
    let mut moment = SecondMoment::new(3);
    moment.observe(faer_view(&K), Par::Seq).unwrap();
    assert_close(
        &betaedit_core::interop::to_nalgebra(moment.to_sum(Par::Seq).unwrap().as_ref()),
        &(&K * K.transpose()),
        1e-15,
    );
}
