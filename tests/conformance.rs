//! The field's conformance tests: one library against what the papers' equations say, written out densely.

use std::sync::Arc;

use betaedit_core::editor::History;
use betaedit_core::error::NumericsError;
use betaedit_core::faer::{Mat, MatRef, Par};
use betaedit_core::metrics::leakage;
use betaedit_core::projector::{HistoryWeighting, ProjectorBuilder};
use betaedit_core::{
    AlphaEdit, BetaEdit, EditBatch, Editor, InverseGram, Memit, Method, Projector, Refresh, RefreshRule, SecondMoment,
    Spectrum, Threshold,
};

use crate::common::{Random, distance, lu_solve, spectrum, textbook_update};

/// A layer with random statistics, and the residual that a target asks for on the weight as edited so far.
struct Layer {
    random: Random,
    moment: SecondMoment,
    spectrum: Arc<Spectrum>,
    W: Mat<f64>,
}

impl Layer {
    fn new(seed: u64, d_in: usize, d_out: usize) -> Self {
        let mut random = Random::new(seed);
        let moment = random.moment(d_in, d_in, 1e-3);
        let W = random.matrix(d_out, d_in);
        Self { spectrum: spectrum(&moment), random, moment, W }
    }

    fn C(&self) -> Mat<f64> {
        self.moment.to_mean(Par::Seq).unwrap()
    }
}

/// A stream of single edits towards fixed targets, every residual measured on the weight as edited so far.
fn closed_loop(
    editor: &mut impl Editor<f64>,
    W: &mut Mat<f64>,
    K: MatRef<'_, f64>,
    V: MatRef<'_, f64>,
    order: &[usize],
) {
    for &i in order {
        let k = K.subcols(i, 1);
        let r = V.subcols(i, 1) - &*W * k;
        let update = editor.edit(&EditBatch::new(k, r.as_ref()).unwrap()).unwrap();
        *W += update.to_dense(Par::Seq);
    }
}

/// `argmin sum_i |(W0 + D) k_i - v_i|² + tr(D A0 Dᵀ)`, by normal equations and LU.
fn one_shot_ridge(W0: MatRef<'_, f64>, A0: MatRef<'_, f64>, K: MatRef<'_, f64>, V: MatRef<'_, f64>) -> Mat<f64> {
    let system = A0 + K * K.transpose();
    let right = K * (V - W0 * K).transpose();
    W0 + lu_solve(system.as_ref(), right.as_ref()).transpose()
}

#[test]
fn conformance_1_the_symmetric_form_equals_the_published_solve() {
    for (seed, d) in [(1, 5), (2, 33), (3, 70)] {
        let mut layer = Layer::new(seed, d, 7);
        for kept in [1, d / 2, d] {
            for n in [1, 3, d + 5] {
                let P = ProjectorBuilder::new(&layer.spectrum).threshold(Threshold::Directions(kept));
                let P = P.build(Par::Seq).unwrap();
                let past = layer.random.matrix::<f64>(d, 4);
                let A = layer.C() * betaedit_core::faer::Scale(3.0) + &past * past.transpose();
                let (K, R) = (layer.random.matrix::<f64>(d, n), layer.random.matrix::<f64>(7, n));

                let Q = InverseGram::new(&P, A.as_ref(), 0.5, Par::Seq).unwrap();
                let ours = &R * Q.solve(K.as_ref()).unwrap().directions().transpose();
                let dense = P.to_dense(Par::Seq);
                let theirs = textbook_update(dense.as_ref(), A.as_ref(), 0.5, K.as_ref(), R.as_ref());
                let error = distance(ours.as_ref(), theirs.as_ref());
                assert!(error < 1e-10, "d = {d}, r = {kept}, n = {n}: {error:e}");
            }
        }
    }
}

#[test]
fn conformance_2_a_stream_in_any_order_is_the_one_shot_ridge_solution() {
    let (d, d_out, n) = (40, 9, 25);
    let mut layer = Layer::new(4, d, d_out);
    let (K, V) = (layer.random.matrix::<f64>(d, n), layer.random.matrix::<f64>(d_out, n));
    let mut shuffled: Vec<usize> = (0..n).collect();
    shuffled.sort_by_key(|i| (i * 7 + 3) % n);

    // MEMIT-H: A0 = lambda C on the whole space.
    let A0 = layer.C() * betaedit_core::faer::Scale(2.0);
    let expected = one_shot_ridge(layer.W.as_ref(), A0.as_ref(), K.as_ref(), V.as_ref());
    for order in [(0..n).collect::<Vec<_>>(), (0..n).rev().collect(), shuffled.clone()] {
        let method = Memit::default().with_lambda(2.0).with_history(History::Absorbed);
        let mut editor = method.editor::<f64>(&layer.spectrum, Par::Seq).unwrap();
        let mut W = layer.W.clone();
        closed_loop(&mut editor, &mut W, K.as_ref(), V.as_ref(), &order);
        assert!(distance(W.as_ref(), expected.as_ref()) < 1e-11);
    }

    // BetaEdit with a fixed projector: the same inside range(P), in the coordinates of its basis.
    let threshold = Threshold::Directions(d / 2);
    let P = ProjectorBuilder::new(&layer.spectrum).threshold(threshold).build(Par::Seq).unwrap();
    let basis = P.basis();
    let mut A0 = basis.transpose() * layer.C() * basis * betaedit_core::faer::Scale(2.0);
    (0..d / 2).for_each(|i| A0[(i, i)] += 0.3);
    let coordinates = basis.transpose() * &K;
    let goals = &V - &layer.W * &K;
    let zero = Mat::<f64>::zeros(d_out, d / 2);
    let change = one_shot_ridge(zero.as_ref(), A0.as_ref(), coordinates.as_ref(), goals.as_ref());
    let expected = &layer.W + change * basis.transpose();
    for order in [(0..n).collect::<Vec<_>>(), shuffled] {
        let method = BetaEdit::default().with_lambda1(2.0).with_lambda2(0.3).with_threshold(threshold);
        let mut editor = method.with_refresh(Refresh::Never).editor::<f64>(&layer.spectrum, Par::Seq).unwrap();
        let mut W = layer.W.clone();
        closed_loop(&mut editor, &mut W, K.as_ref(), V.as_ref(), &order);
        assert!(distance(W.as_ref(), expected.as_ref()) < 1e-11);
    }
}

#[test]
fn conformance_2_undoing_an_edit_leaves_the_ridge_solution_over_the_others() {
    let (d, d_out, n) = (30, 6, 12);
    let mut layer = Layer::new(5, d, d_out);
    let (K, V) = (layer.random.matrix::<f64>(d, n), layer.random.matrix::<f64>(d_out, n));
    let A0 = layer.C() * betaedit_core::faer::Scale(20.0);
    for undone in [0, n / 2, n - 1] {
        let P = Projector::identity(&layer.spectrum);
        let mut Q = InverseGram::diagonal(&P, 20.0, 0.0, Par::Seq).unwrap();
        let mut W = layer.W.clone();
        for i in 0..n {
            let (k, v) = (K.as_ref().subcols(i, 1), V.as_ref().subcols(i, 1));
            let step = Q.solve(k).unwrap();
            W += (v - &W * k) * step.directions().transpose();
            Q.absorb(k).unwrap();
        }
        // W <- W - (v - W k) zᵀ / (1 - g), with z = Q k and g = kᵀ z.
        let (k, v) = (K.as_ref().subcols(undone, 1), V.as_ref().subcols(undone, 1));
        let z = Q.product(k).unwrap();
        let g = (k.transpose() * &z)[(0, 0)];
        W -= (v - &W * k) * z.transpose() * betaedit_core::faer::Scale(1.0 / (1.0 - g));
        Q.release(k).unwrap();

        let others: Vec<usize> = (0..n).filter(|&i| i != undone).collect();
        let pick = |X: &Mat<f64>| Mat::from_fn(X.nrows(), n - 1, |i, j| X[(i, others[j])]);
        let expected = one_shot_ridge(layer.W.as_ref(), A0.as_ref(), pick(&K).as_ref(), pick(&V).as_ref());
        let error = distance(W.as_ref(), expected.as_ref());
        assert!(error < 1e-10, "{undone} {error:e}");
        let Gram = &A0 + pick(&K) * pick(&K).transpose();
        let inverse = lu_solve(Gram.as_ref(), Mat::identity(d, d).as_ref());
        assert!(distance(Q.to_dense().as_ref(), inverse.as_ref()) < 1e-10);
    }
}

#[test]
fn conformance_3_emmet_is_memit_with_the_product_of_its_weights() {
    let mut layer = Layer::new(6, 24, 5);
    let (K, R) = (layer.random.matrix::<f64>(24, 4), layer.random.matrix::<f64>(5, 4));
    let batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap();
    let (lambda, e) = (40.0, 0.1);
    // EMMET as printed: R (Kᵀ (lambda C)⁻¹ K + e I)⁻¹ Kᵀ (lambda C)⁻¹.
    let Z = lu_solve((layer.C() * betaedit_core::faer::Scale(lambda)).as_ref(), K.as_ref());
    let small = K.transpose() * &Z + Mat::<f64>::identity(4, 4) * betaedit_core::faer::Scale(e);
    let emmet = &R * lu_solve(small.as_ref(), Z.transpose());
    let memit = |lambda: f64| {
        let editor = Memit::default().with_lambda(lambda).editor::<f64>(&layer.spectrum, Par::Seq).unwrap();
        editor.propose(&batch).unwrap()
    };
    assert!(distance(memit(lambda * e).update().to_dense(Par::Seq).as_ref(), emmet.as_ref()) < 1e-12);
    // With e = 0 it writes exactly, whatever lambda: the limit of a vanishing weight.
    let written = memit(1e-13).update().product(K.as_ref(), Par::Seq).unwrap();
    assert!(distance(written.as_ref(), R.as_ref()) < 1e-9);
}

#[test]
fn conformance_4_one_step_leaks_and_disturbs_no_more_than_its_residual_allows() {
    let (d, d_out, tau) = (50, 8, 0.05);
    let mut layer = Layer::new(7, d, d_out);
    let (lambda1, lambda2) = (20.0, 0.5);
    let method = BetaEdit::default().with_lambda1(lambda1).with_lambda2(lambda2);
    let method = method.with_threshold(Threshold::Absolute(tau)).with_refresh(Refresh::Never);
    let mut editor = method.editor::<f64>(&layer.spectrum, Par::Seq).unwrap();
    let mut past = Mat::<f64>::zeros(d, 0);
    for _ in 0..30 {
        let (k, r) = (layer.random.matrix::<f64>(d, 1), layer.random.matrix::<f64>(d_out, 1));
        let update = editor.edit(&EditBatch::new(k.as_ref(), r.as_ref()).unwrap()).unwrap();
        let norm = update.frobenius_norm().powi(2);
        let leak = leakage(&update, &layer.moment, Par::Seq).unwrap();
        assert!(leak <= tau * norm, "{leak} {norm}");
        let missed = (update.product(k.as_ref(), Par::Seq).unwrap() - &r).squared_norm_l2();
        let disturbed = update.product(past.as_ref(), Par::Seq).unwrap().squared_norm_l2();
        let spent = missed + lambda1 * leak + disturbed + lambda2 * norm;
        assert!(spent <= r.squared_norm_l2() * (1.0 + 1e-12), "{spent} {}", r.squared_norm_l2());
        past = Mat::from_fn(d, past.ncols() + 1, |i, j| if j < past.ncols() { past[(i, j)] } else { k[(i, 0)] });
    }
}

#[test]
fn conformance_5_the_projector_depends_on_the_mean_and_a_sum_is_refused() {
    let mut random = Random::new(8);
    let K = random.matrix::<f64>(20, 4_000);
    let mut moment = SecondMoment::new(20);
    moment.observe(K.as_ref(), Par::Seq).unwrap();
    let mut twice = moment.clone();
    twice.merge(&moment).unwrap();
    assert_eq!(twice.tokens(), Some(8_000));
    assert!(distance(twice.to_mean(Par::Seq).unwrap().as_ref(), moment.to_mean(Par::Seq).unwrap().as_ref()) < 1e-14);
    // tr C = E |k|²
    let squared = K.squared_norm_l2() / 4_000.0;
    assert!((moment.trace() - squared).abs() < 1e-10 * squared);

    let (sum, mean) = (moment.to_sum(Par::Seq).unwrap(), moment.to_mean(Par::Seq).unwrap());
    let witness = K.as_ref().subcols(0, 3);
    assert!(matches!(
        SecondMoment::from_mean(sum.as_ref(), Some(4_000), witness),
        Err(NumericsError::Scale { argument: "mean", .. })
    ));
    assert!(matches!(
        SecondMoment::from_sum(mean.as_ref(), 4_000, witness),
        Err(NumericsError::Scale { argument: "sum", .. })
    ));
    let right = [
        SecondMoment::from_mean(mean.as_ref(), Some(4_000), witness).unwrap(),
        SecondMoment::from_sum(sum.as_ref(), 4_000, witness).unwrap(),
        SecondMoment::from_mean(mean.as_ref(), None, witness).unwrap(),
    ];
    for moment in right {
        assert!(distance(moment.to_mean(Par::Seq).unwrap().as_ref(), mean.as_ref()) < 1e-14);
    }
}

#[test]
fn conformance_7_a_refused_or_dropped_proposal_leaves_no_trace() {
    let mut layer = Layer::new(10, 16, 4);
    let method = BetaEdit::default().with_threshold(Threshold::Directions(9));
    let mut editor = method.editor::<f64>(&layer.spectrum, Par::Seq).unwrap();
    let (K, R) = (layer.random.matrix::<f64>(16, 2), layer.random.matrix::<f64>(4, 2));
    let _ = editor.edit(&EditBatch::new(K.as_ref(), R.as_ref()).unwrap()).unwrap();
    let (state, Q) = (editor.state(), editor.inverse_gram().to_dense());

    let mut poisoned = R.clone();
    poisoned[(3, 1)] = f64::NAN;
    assert!(matches!(
        EditBatch::new(K.as_ref(), poisoned.as_ref()),
        Err(NumericsError::NonFinite { argument: "residuals", row: 3, col: 1, .. })
    ));
    // A guard that does not like an update drops it.
    drop(editor.propose(&EditBatch::new(K.as_ref(), R.as_ref()).unwrap()).unwrap());
    assert_eq!(editor.state(), state);
    assert_eq!(editor.inverse_gram().to_dense(), Q);
}

#[test]
fn conformance_8_mean_reproduces_the_published_matrix_and_sum_leaves_the_gram_diagonal() {
    let d = 30;
    let mut layer = Layer::new(11, d, 4);
    let K = layer.random.matrix::<f64>(d, 7);
    let mut history = SecondMoment::new(d);
    history.observe(K.as_ref(), Par::Seq).unwrap();
    let H = &K * K.transpose();

    let mean = HistoryWeighting::Mean { lambda1: 50.0 };
    let M = mean.protected_matrix(&layer.spectrum, &history, Par::Seq).unwrap();
    let expected = Mat::from_fn(d, d, |i, j| (H[(i, j)] / 7.0 + 50.0 * layer.C()[(i, j)]) / 51.0);
    assert!(distance(M.as_ref(), expected.as_ref()) < 1e-13);

    let P = ProjectorBuilder::new(&layer.spectrum).threshold(Threshold::Directions(12));
    let P = P.history(&history, HistoryWeighting::Sum { weight: 1.0 }).build(Par::Seq).unwrap();
    let Gram = P.basis().transpose() * (layer.C() + H) * P.basis();
    for i in 0..12 {
        for j in 0..12 {
            let expected = if i == j { P.kept_values()[i] } else { 0.0 };
            assert!((Gram[(i, j)] - expected).abs() < 1e-12);
        }
    }
}

#[test]
fn a_refreshed_editor_equals_one_built_from_scratch_on_the_same_space() {
    for weighting in [HistoryWeighting::Mean { lambda1: 5.0 }, HistoryWeighting::Sum { weight: 1.0 }] {
        let (d, d_out) = (36, 5);
        let mut layer = Layer::new(12, d, d_out);
        let method = BetaEdit::default().with_lambda1(5.0).with_lambda2(0.2).with_threshold(Threshold::Absolute(0.1));
        let refresh = Refresh::Every { edits: 6, rule: RefreshRule::Full(weighting) };
        let mut editor = method.with_refresh(refresh).editor::<f64>(&layer.spectrum, Par::Seq).unwrap();
        let mut K = Mat::<f64>::zeros(d, 0);
        let (mut refreshes, mut P) = (0, editor.projector().unwrap());
        for step in 0..9 {
            let (k, r) = (layer.random.matrix::<f64>(d, 2), layer.random.matrix::<f64>(d_out, 2));
            let report = editor.refresh_if_due().unwrap();
            assert_eq!(report.is_some(), step > 0 && step % 3 == 0);
            if let Some(report) = report {
                refreshes += 1;
                let mut H = SecondMoment::new(d);
                H.observe(K.as_ref(), Par::Seq).unwrap();
                let builder = ProjectorBuilder::new(&layer.spectrum).threshold(Threshold::Absolute(0.1));
                P = builder.history(&H, weighting).build(Par::Seq).unwrap();
                let moved = P.distance_squared(&editor.projector().unwrap(), Par::Seq).unwrap();
                assert_eq!(report.kept_after, P.kept());
                assert!((report.moved.unwrap() - moved).abs() < 1e-10);
            }
            // The textbook with the projector of this moment and the history so far.
            let A = layer.C() * betaedit_core::faer::Scale(5.0) + &K * K.transpose();
            let expected = textbook_update(P.to_dense(Par::Seq).as_ref(), A.as_ref(), 0.2, k.as_ref(), r.as_ref());
            let update = editor.edit(&EditBatch::new(k.as_ref(), r.as_ref()).unwrap()).unwrap();
            assert!(distance(update.to_dense(Par::Seq).as_ref(), expected.as_ref()) < 1e-10);
            let old = K.ncols();
            K = Mat::from_fn(d, old + 2, |i, j| if j < old { K[(i, j)] } else { k[(i, j - old)] });
        }
        assert_eq!((refreshes, editor.state().refreshes, editor.state().edits), (2, 2, 18));
    }
}

#[test]
fn protected_keys_are_not_moved_by_later_edits() {
    let mut layer = Layer::new(13, 30, 5);
    let method = AlphaEdit::default().with_lambda2(1e-6).with_threshold(Threshold::Directions(20));
    let mut editor = method.editor::<f64>(&layer.spectrum, Par::Seq).unwrap();
    let precious = layer.random.matrix::<f64>(30, 3);
    let (k, r) = (layer.random.matrix::<f64>(30, 1), layer.random.matrix::<f64>(5, 1));
    let batch = EditBatch::new(k.as_ref(), r.as_ref()).unwrap();
    let before = editor.propose(&batch).unwrap().update().product(precious.as_ref(), Par::Seq).unwrap().norm_l2();
    editor.protect(precious.as_ref()).unwrap();
    let after = editor.propose(&batch).unwrap().update().product(precious.as_ref(), Par::Seq).unwrap().norm_l2();
    assert!(before > 0.1 && after < 1e-5 * before, "{before} {after}");
    assert_eq!(editor.state().edits, 0);
}

#[test]
fn a_key_comes_back_out_of_the_history_as_it_went_in_or_not_at_all() {
    let mut random = Random::new(14);
    for squared in [1.0, 1e2, 1e4, 1e5, 1e6, 1e8, 1e12] {
        let k = random.matrix::<f64>(64, 1);
        let k = &k * betaedit_core::faer::Scale((squared / k.squared_norm_l2()).sqrt());
        let mut Q = InverseGram::isotropic(64, 1.0, Par::Seq).unwrap();
        Q.absorb(k.as_ref()).unwrap();
        let before = Q.to_dense();
        match Q.release(k.as_ref()) {
            Ok(()) => {
                assert!(squared <= 1e5);
                assert!((Q.to_dense() - Mat::<f64>::identity(64, 64)).norm_l2() < 1e-3);
            }
            Err(error) => {
                assert!(squared >= 1e6 && matches!(error, NumericsError::Singular { .. }), "{squared:e}: {error}");
                assert_eq!(Q.to_dense(), before);
            }
        }
    }
}

#[test]
fn a_key_that_rounding_hides_is_refused_instead_of_written_wrongly() {
    let mut random = Random::new(15);
    for squared in [1e2, 1e6, 1e10, 1e14, 1e17] {
        let k = random.matrix::<f64>(40, 1);
        let k = &k * betaedit_core::faer::Scale((squared / k.squared_norm_l2()).sqrt());
        let mut Q = InverseGram::isotropic(40, 1.0, Par::Seq).unwrap();
        Q.absorb(k.as_ref()).unwrap();
        // The second time it has the gain s / (1 + s), nearly 1, whatever its length.
        match Q.solve(k.as_ref()) {
            Ok(solution) => assert!((solution.gains()[0] - 1.0).abs() < 0.02, "{squared:e} {:?}", solution.gains()),
            Err(error) => assert!(squared > 1e10 && matches!(error, NumericsError::Singular { .. })),
        }
    }
}

#[test]
fn a_solution_is_absorbed_once_and_by_the_engine_it_was_found_in() {
    let k = Random::new(16).matrix::<f64>(5, 1);
    let mut Q = InverseGram::isotropic(5, 1.0, Par::Seq).unwrap();
    let mut larger = InverseGram::isotropic(6, 1.0, Par::Seq).unwrap();
    let solution = Q.solve(k.as_ref()).unwrap();
    assert!(matches!(larger.absorb_solution(&solution), Err(NumericsError::StaleProposal)));
    assert!(matches!(Q.absorb_solution(&Default::default()), Err(NumericsError::StaleProposal)));
    Q.absorb_solution(&solution).unwrap();
    assert!(matches!(Q.absorb_solution(&solution), Err(NumericsError::StaleProposal)));
}

#[test]
fn an_editor_whose_space_is_full_can_go_on_without_refreshing() {
    let C = Mat::from_fn(3, 3, |i, j| if i == j { [1e-3, 1e-3, 1.0][i] } else { 0.0 });
    let spectrum = Arc::new(Spectrum::from_matrix(C.as_ref(), Par::Seq).unwrap());
    let refresh = Refresh::Every { edits: 2, rule: RefreshRule::Full(HistoryWeighting::Sum { weight: 1.0 }) };
    let mut editor = BetaEdit::default().with_refresh(refresh).editor::<f64>(&spectrum, Par::Seq).unwrap();
    let (K, r) = (Mat::<f64>::identity(3, 2), Mat::full(1, 1, 1.0));
    let batch = |i: usize| EditBatch::new(K.as_ref().subcols(i, 1), r.as_ref()).unwrap();
    let _ = editor.edit(&batch(0)).unwrap();
    let _ = editor.edit(&batch(1)).unwrap();
    assert!(matches!(editor.edit(&batch(0)), Err(NumericsError::NothingKept { .. })));
    assert_eq!(editor.state().edits, 2);
    editor.stop_refreshing();
    let _ = editor.edit(&batch(0)).unwrap();
    assert_eq!((editor.state().edits, editor.state().kept_directions), (3, 2));
}

#[test]
fn a_batch_in_sequence_is_its_single_edits() {
    use betaedit_core::editor::{ClosedFormEditor, METHODS};
    let mut layer = Layer::new(17, 40, 6);
    let (K, R) = (layer.random.matrix::<f64>(40, 90), layer.random.matrix::<f64>(6, 90));
    for entry in METHODS {
        let mut h = betaedit_core::editor::Hyperparameters::default();
        (h.lambda, h.lambda1, h.lambda2, h.threshold) = (3.0, 2.0, 0.5, Threshold::Directions(25));
        let editor =
            || ClosedFormEditor::<f64>::new(entry.name(), entry.recipe(&h), &layer.spectrum, Par::Seq).unwrap();
        if entry.name() == "memit-r" {
            let batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap().in_sequence();
            assert!(matches!(editor().propose(&batch), Err(NumericsError::Unsupported { .. })));
            continue;
        }
        let (mut one_by_one, mut in_blocks) = (editor(), editor());
        let mut expected = Mat::<f64>::zeros(6, 40);
        for t in 0..90 {
            let (k, r) = (K.as_ref().subcols(t, 1), R.as_ref().subcols(t, 1));
            expected += one_by_one.edit(&EditBatch::new(k, r).unwrap()).unwrap().to_dense(Par::Seq);
        }
        let mut total = Mat::<f64>::zeros(6, 40);
        for start in (0..90).step_by(35) {
            let n = 35.min(90 - start);
            let (k, r) = (K.as_ref().subcols(start, n), R.as_ref().subcols(start, n));
            let batch = EditBatch::new(k, r).unwrap().in_sequence();
            total += in_blocks.edit(&batch).unwrap().to_dense(Par::Seq);
        }
        assert!(distance(total.as_ref(), expected.as_ref()) < 1e-11, "{}", entry.name());
        assert_eq!(in_blocks.state(), one_by_one.state());
        let (a, b) = (in_blocks.inverse_gram().to_dense(), one_by_one.inverse_gram().to_dense());
        assert!(distance(a.as_ref(), b.as_ref()) < 1e-11);
    }
}
