//! Every method of the family against its equations, written out densely.

use std::sync::Arc;

use betaedit_core::editor::Anchors;
use betaedit_core::editor::{Base, ClosedFormEditor, METHODS, Merging, Share, Simulation, Slack, method};
use betaedit_core::editor::{Emmet, Encore, History, Hyperparameters, NullSpace, Pmet, RlsEdit, SimIe};
use betaedit_core::error::NumericsError;
use betaedit_core::faer::{Mat, MatRef, Par, Scale};
use betaedit_core::projector::{HistoryWeighting, ProjectorBuilder};
use betaedit_core::{EditBatch, Editor, Memit, Method, Refresh, RefreshRule, SecondMoment, Spectrum, Threshold};
use proptest::prelude::{any, prop_assert, proptest};

use crate::common::{Random, distance, lu_solve, property_config};

/// A layer, and batches of edits for it.
struct Problem {
    C: Mat<f64>,
    spectrum: Arc<Spectrum>,
    W: Mat<f64>,
    batches: Vec<(Mat<f64>, Mat<f64>)>,
    h: Hyperparameters,
}

impl Problem {
    fn random(seed: u64) -> Self {
        let (d_in, d_out) = (30, 7);
        let mut random = Random::new(seed);
        let moment = random.moment(d_in, d_in, 1e-3);
        let batches = [1, 3, 1, 4, 2, 1, 5];
        let batches = batches.map(|n| (random.matrix(d_in, n), random.matrix(d_out, n))).to_vec();
        let mut h = Hyperparameters::default();
        (h.lambda, h.lambda2, h.anchors, h.threshold) =
            (25.0, 0.7, Anchors { mu: 1.5, nu: 0.4 }, Threshold::Directions(20));
        let rule = RefreshRule::Full(HistoryWeighting::Sum { weight: 1e-3 });
        h.refresh = Some(Refresh::Every { edits: 4, rule });
        Self::new(&moment, random.matrix(d_out, d_in), batches, h)
    }

    fn new(moment: &SecondMoment, W: Mat<f64>, batches: Vec<(Mat<f64>, Mat<f64>)>, h: Hyperparameters) -> Self {
        let spectrum = Arc::new(Spectrum::new(moment, Par::Seq).unwrap());
        Self { C: moment.to_mean(Par::Seq).unwrap(), spectrum, W, batches, h }
    }

    /// The recording of a real layer.
    #[cfg(feature = "safetensors")]
    fn recorded() -> Self {
        use betaedit_core::{Adapter, adapter::RecordedStream};
        let path = crate::common::data("smollm2-layer10-slice.safetensors");
        let mut stream = RecordedStream::<f64>::open(path, Par::Seq).unwrap();
        let edits: Vec<usize> = (0..13).collect();
        let mut batch = |some: &[usize]| (stream.keys(10, some).unwrap(), stream.residuals(10, some).unwrap());
        let batches = [0..1, 1..2, 2..6, 6..12, 12..13].map(|some| batch(&edits[some])).to_vec();
        let mut h = Hyperparameters::default();
        (h.lambda, h.anchors) = (1_500.0, Anchors { mu: 0.5, nu: 2.0 });
        let rule = RefreshRule::Full(HistoryWeighting::Sum { weight: 1.0 });
        h.refresh = Some(Refresh::Every { edits: 5, rule });
        Self::new(stream.second_moment(), stream.weight().to_owned(), batches, h)
    }

    fn editor(&self, method: &impl Method) -> ClosedFormEditor<f64> {
        method.editor(&self.spectrum, Par::Seq).unwrap()
    }

    fn by_name(&self, name: &str) -> ClosedFormEditor<f64> {
        method(name).unwrap().editor(&self.h, &self.spectrum, Par::Seq).unwrap()
    }

    /// Holds an editor's updates against `expected(batch number, K, R)`.
    #[track_caller]
    fn check(&self, mut editor: ClosedFormEditor<f64>, mut expected: impl FnMut(&Mat<f64>, &Mat<f64>) -> Mat<f64>) {
        for (step, (K, R)) in self.batches.iter().enumerate() {
            let update = editor.edit(&EditBatch::new(K.as_ref(), R.as_ref()).unwrap()).unwrap();
            let error = distance(update.to_dense(Par::Seq).as_ref(), expected(K, R).as_ref());
            assert!(error < 1e-9, "{}, batch {step}: off by {error:e}", editor.name());
        }
    }

    fn identity(&self) -> Mat<f64> {
        Mat::identity(self.C.nrows(), self.C.nrows())
    }
}

/// On random layers, and a real one.
fn problems() -> Vec<Problem> {
    let problems = vec![Problem::random(1), Problem::random(2)];
    #[cfg(feature = "safetensors")]
    let problems = problems.into_iter().chain([Problem::recorded()]).collect();
    problems
}

/// `R Kᵀ (A + K Kᵀ)⁻¹`
fn least_squares(A: &Mat<f64>, K: &Mat<f64>, R: &Mat<f64>) -> Mat<f64> {
    R * lu_solve((A + K * K.transpose()).as_ref(), K.as_ref()).transpose()
}

/// `R (Kᵀ A⁻¹ K + e I)⁻¹ Kᵀ A⁻¹`
fn constrained(A: &Mat<f64>, e: f64, K: &Mat<f64>, R: &Mat<f64>) -> Mat<f64> {
    let Y = lu_solve(A.as_ref(), K.as_ref());
    let small = K.transpose() * &Y + Mat::<f64>::identity(K.ncols(), K.ncols()) * Scale(e);
    R * lu_solve(small.as_ref(), Y.transpose())
}

#[test]
fn encore_is_memit_with_history_and_a_ridge() {
    for problem in problems() {
        let mut A = &problem.C * Scale(problem.h.lambda) + problem.identity() * Scale(problem.h.lambda2);
        problem.check(problem.by_name("encore"), |K, R| {
            let update = least_squares(&A, K, R);
            A += K * K.transpose();
            update
        });
        let method = Encore::default().with_lambda(problem.h.lambda).with_mu(problem.h.lambda2);
        assert_eq!(method.recipe(), *problem.by_name("encore").recipe());
    }
}

/// As its authors compute it: an explicit inverse, updated by the Woodbury identity.
#[test]
fn rlsedit_is_its_recursion_and_the_one_shot_solution() {
    for problem in problems() {
        let (h, Anchors { mu, nu }) = (&problem.h, problem.h.anchors);
        let A0 = &problem.C * Scale(mu * mu * h.lambda) + problem.identity() * Scale(nu * nu);
        let mut G = lu_solve(A0.as_ref(), problem.identity().as_ref());
        problem.check(problem.by_name("rlsedit"), |K, R| {
            let F = &G * K;
            let S = Mat::<f64>::identity(K.ncols(), K.ncols()) + K.transpose() * &F;
            G -= &F * lu_solve(S.as_ref(), F.transpose());
            R * (&G * K).transpose()
        });

        // Towards fixed targets, the weight is the minimum of the fit and both anchors.
        let mut editor = problem.editor(&RlsEdit::default().with_lambda(h.lambda).with_anchors(h.anchors));
        let (mut D, mut A, mut right) = (Mat::<f64>::zeros(problem.W.nrows(), problem.W.ncols()), A0, None::<Mat<f64>>);
        for (K, R) in &problem.batches {
            let missed = R - &D * K; // the target is W0 K + R
            D += editor.edit(&EditBatch::new(K.as_ref(), missed.as_ref()).unwrap()).unwrap().to_dense(Par::Seq);
            A += K * K.transpose();
            right = Some(right.map_or(R * K.transpose(), |right| right + R * K.transpose()));
        }
        let one_shot = lu_solve(A.as_ref(), right.unwrap().transpose()).transpose().to_owned();
        assert!(distance(D.as_ref(), one_shot.as_ref()) < 1e-9);
    }
}

#[test]
fn emmet_is_its_constrained_solution_with_and_without_history() {
    for problem in problems() {
        for history in [History::Ignored, History::Absorbed] {
            for slack in [
                Slack { single: 0.0, batch: 0.1 },
                Slack { single: 0.1, batch: 0.1 },
                Slack { single: 3.0, batch: 0.0 },
            ] {
                let method = Emmet::default().with_lambda(problem.h.lambda).with_slack(slack).with_history(history);
                let mut A = &problem.C * Scale(problem.h.lambda);
                problem.check(problem.editor(&method), |K, R| {
                    let update = constrained(&A, if K.ncols() == 1 { slack.single } else { slack.batch }, K, R);
                    if history == History::Absorbed {
                        A += K * K.transpose();
                    }
                    update
                });
            }
        }
    }
}

#[test]
fn emmet_is_memit_of_another_weight_and_without_slack_meets_every_residual() {
    for problem in problems() {
        let emmet = Emmet::default().with_lambda(problem.h.lambda);
        let memit = Memit::default().with_lambda(problem.h.lambda * 0.1);
        let exact = emmet.with_slack(Slack { single: 0.0, batch: 0.0 });
        let (emmet, memit, exact, elsewhere) = (
            problem.editor(&emmet),
            problem.editor(&memit),
            problem.editor(&exact),
            problem.editor(&exact.with_lambda(7.0 * problem.h.lambda)),
        );
        for (K, R) in &problem.batches {
            let batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap();
            let update = |editor: &ClosedFormEditor<f64>| editor.propose(&batch).unwrap().update().to_dense(Par::Seq);
            if K.ncols() > 1 {
                assert!(distance(update(&emmet).as_ref(), update(&memit).as_ref()) < 1e-9);
            }
            let met = update(&exact);
            assert!(distance((&met * K).as_ref(), R.as_ref()) < 1e-9);
            assert!(distance(update(&elsewhere).as_ref(), met.as_ref()) < 1e-8);
        }
    }
}

/// The same stream in one sequence and in batches of one.
#[test]
fn emmet_in_f32_is_that_of_f64() {
    let problem = Problem::random(3);
    let narrow = |matrix: &Mat<f64>| betaedit_core::scalar::cast::<f64, f32>(matrix.as_ref());
    let method = Emmet::default().with_lambda(25.0).with_history(History::Absorbed);
    let (mut wide, mut single) = (problem.editor(&method), method.editor::<f32>(&problem.spectrum, Par::Seq).unwrap());
    for (K, R) in &problem.batches {
        let (k, r) = (narrow(K), narrow(R));
        let update = single.edit(&EditBatch::new(k.as_ref(), r.as_ref()).unwrap()).unwrap().to_dense(Par::Seq);
        let (K, R) = (betaedit_core::scalar::cast(k.as_ref()), betaedit_core::scalar::cast(r.as_ref()));
        let expected = wide.edit(&EditBatch::new(K.as_ref(), R.as_ref()).unwrap()).unwrap().to_dense(Par::Seq);
        assert!(distance(betaedit_core::scalar::cast::<f32, f64>(update.as_ref()).as_ref(), expected.as_ref()) < 1e-6);
    }
}

#[test]
fn pmet_is_memit_with_another_share() {
    let problem = Problem::random(4);
    for (pmet, memit) in [("pmet", "memit"), ("pmet-h", "memit-h"), ("pmet-ns", "memit-ns")] {
        let (pmet, memit) = (*problem.by_name(pmet).recipe(), *problem.by_name(memit).recipe());
        assert_eq!((pmet.share, memit.share), (Share::SquareRoot, Share::Even));
        let mut even = pmet;
        even.share = Share::Even;
        assert_eq!(even, memit);
    }
    assert_eq!(Pmet::default().with_lambda(25.0).recipe(), *problem.by_name("pmet").recipe());
}

/// The paper's Figure 5: the solve of the method, on a space that is cut anew from what is protected.
#[test]
fn history_through_the_null_space_is_the_method_on_a_refreshed_space() {
    for problem in problems() {
        let h = &problem.h;
        let Some(Refresh::Every { edits: period, rule: RefreshRule::Full(weighting) }) = h.refresh else {
            unreachable!()
        };
        for name in ["memit-ns", "pmet-ns", "emmet-ns"] {
            let C = &problem.C * Scale(h.lambda);
            let mut H = SecondMoment::new(C.nrows());
            let (mut edits, mut last) = (0, 0);
            let start = ProjectorBuilder::new(&problem.spectrum).threshold(h.threshold);
            let mut V = start.clone().build(Par::Seq).unwrap().basis().to_owned();
            problem.check(problem.by_name(name), |K, R| {
                if edits - last >= period {
                    let refreshed = start.clone().history(&H, weighting).build(Par::Seq).unwrap();
                    (V, last) = (refreshed.basis().to_owned(), edits);
                }
                // In the coordinates of the space, the equations are those of the method.
                let (A, k) = (V.transpose() * (&C + H.to_sum(Par::Seq).unwrap()) * &V, V.transpose() * K);
                let small = match (name, K.ncols()) {
                    ("emmet-ns", 1) => constrained(&A, 0.0, &k, R),
                    ("emmet-ns", _) => constrained(&A, 0.1, &k, R),
                    _ => least_squares(&A, &k, R),
                };
                H.observe(K.as_ref(), Par::Seq).unwrap();
                edits += K.ncols();
                small * V.transpose()
            });
            assert!(last > 0);
        }
        let method = NullSpace::new(Emmet::default().with_lambda(h.lambda).with_history(History::Absorbed));
        let method = method.with_threshold(h.threshold).with_refresh(h.refresh.unwrap());
        assert_eq!((&*method.name(), method.recipe()), ("emmet-ns", *problem.by_name("emmet-ns").recipe()));
    }
}

#[test]
fn random_keys_stand_in_for_the_history() {
    for problem in problems() {
        let d_in = problem.C.nrows();
        let pool = Arc::new(Random::new(5).matrix::<f64>(d_in, 1));
        // One key to draw from is drawn every time.
        let mut A = &problem.C * Scale(problem.h.lambda);
        problem.check(problem.by_name("memit-r").with_random_keys(&pool).unwrap(), |K, R| {
            let update = least_squares(&A, K, R);
            A += &*pool * pool.transpose() * Scale(K.ncols() as f64);
            update
        });
    }
    // Without a pool, the keys have the second moment of the text, and a seed draws the same ones again, however batched.
    let problem = Problem::random(6);
    let d_in = problem.C.nrows();
    let drawn = |seed: u64, batch: usize| {
        let random = Memit::default().with_lambda(1.0).with_ridge(1.0).with_history(History::Random { seed });
        let mut editor = problem.editor(&random);
        let (K, R) = (Mat::from_fn(d_in, batch, |_, _| 1.0), Mat::zeros(2, batch));
        for _ in 0..4_000 / batch {
            let _ = editor.edit(&EditBatch::new(K.as_ref(), R.as_ref()).unwrap()).unwrap();
        }
        // Q = (C + I + sum of the drawn)⁻¹
        let A = lu_solve(editor.inverse_gram().to_dense().as_ref(), problem.identity().as_ref());
        (A - &problem.C - problem.identity()) * Scale(1.0 / 4_000.0)
    };
    let mean = drawn(0, 100);
    assert!(distance(mean.as_ref(), problem.C.as_ref()) < 0.2);
    assert!(distance(drawn(0, 1).as_ref(), mean.as_ref()) < 1e-9);
    assert!(distance(drawn(1, 100).as_ref(), mean.as_ref()) > 1e-3);
}

#[test]
fn edits_with_the_same_key_become_one() {
    for problem in problems() {
        let mut random = Random::new(7);
        let (d_in, d_out) = (problem.C.nrows(), problem.W.nrows());
        let base = problem.batches.iter().find(|(K, _)| K.ncols() > 2).unwrap().0.subcols(0, 3).to_owned();
        // Facts 0, 2 and 4 share a subject, 1 and 5 another; 3 is alone.
        let subject = [0, 1, 0, 2, 0, 1];
        let size = base.col(0).norm_l2() / (d_in as f64).sqrt();
        let K = Mat::from_fn(d_in, 6, |i, j| base[(i, subject[j])] + 1e-3 * size * random.normal());
        let R: Mat<f64> = random.matrix(d_out, 6);
        let mean = |matrix: &Mat<f64>| {
            Mat::from_fn(matrix.nrows(), 3, |i, g| {
                let group: Vec<usize> = (0..6).filter(|&j| subject[j] == g).collect();
                group.iter().map(|&j| matrix[(i, j)]).sum::<f64>() / group.len() as f64
            })
        };
        let expected = least_squares(&(&problem.C * Scale(problem.h.lambda)), &mean(&K), &mean(&R));
        let mut editor = problem.by_name("memit-merge");
        let update = editor.edit(&EditBatch::new(K.as_ref(), R.as_ref()).unwrap()).unwrap();
        assert!(distance(update.to_dense(Par::Seq).as_ref(), expected.as_ref()) < 1e-9);
        // Six edits, though three columns.
        assert_eq!((update.rank(), update.edits(), editor.state().edits), (3, 6, 6));
        // In sequence, every edit is a batch of its own.
        let batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap().in_sequence();
        assert_eq!(editor.propose(&batch).unwrap().update().rank(), 6);
    }
    let merging = Merging::Alike { cosine: 1.5 };
    let refused = Memit::default().with_merging(merging).editor::<f64>(&Problem::random(1).spectrum, Par::Seq);
    assert!(matches!(refused, Err(NumericsError::Parameter { .. })));
}

/// `S_t = S_{t-1} + X Xᵀ`, `W_t = W_{t-1} + (W' - W_{t-1}) X Xᵀ S_t⁻¹`, around methods with and without history.
#[test]
fn simie_is_its_recursion_around_any_method() {
    for problem in problems() {
        let lambda = problem.batches[0].0.squared_norm_l2();
        let (first, present) = (Base::First, Base::Present);
        let (ignored, absorbed) = (History::Ignored, History::Absorbed);
        for (base, tokens, history) in
            [(first, 0, ignored), (first, 4, absorbed), (present, 0, absorbed), (present, 2, ignored)]
        {
            let memit = Memit::default().with_lambda(problem.h.lambda).with_history(history);
            let mut editor = problem
                .editor(&SimIe::new(memit).with_simulation(Simulation::default().with_lambda(lambda).with_base(base)));
            let mut random = Random::new(8);
            let mut S = problem.identity() * Scale(lambda);
            let mut A = &problem.C * Scale(problem.h.lambda);
            let (W0, mut W) = (problem.W.clone(), problem.W.clone());
            for (K, R) in &problem.batches {
                let noise: Mat<f64> = random.matrix(K.nrows(), tokens);
                let X = Mat::from_fn(K.nrows(), K.ncols() + tokens, |i, j| {
                    if j < K.ncols() { K[(i, j)] } else { noise[(i, j - K.ncols())] }
                });
                let mut batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap();
                if tokens > 0 {
                    batch = batch.with_context(X.as_ref()).unwrap();
                }
                let target = &W * K + R;
                let start = if base == Base::First { &W0 } else { &W };
                let ideal = start + least_squares(&A, K, &(&target - start * K));
                S += &X * X.transpose();
                let step = (ideal - &W) * &X * lu_solve(S.as_ref(), X.as_ref()).transpose();
                let update = editor.edit(&batch).unwrap();
                assert!(distance(update.to_dense(Par::Seq).as_ref(), step.as_ref()) < 1e-9);
                W += step;
                if history == History::Absorbed {
                    A += K * K.transpose();
                }
            }
            assert_eq!(editor.state().edits, problem.batches.iter().map(|(K, _)| K.ncols()).sum::<usize>());
            assert!(matches!(editor.release(problem.batches[0].0.as_ref()), Err(NumericsError::NotReversible)));
        }
    }
}

#[test]
fn any_method_is_wrapped_by_a_value() {
    let problem = Problem::random(9);
    let mut h = problem.h;
    assert!(method("simie").unwrap().recipe(&h).simulation == Some(Simulation::default()));
    let simulation = Simulation::default().with_lambda(3.0).with_base(Base::Present);
    h.simulation = Some(simulation);
    let memit = Memit::default().with_lambda(h.lambda);
    assert_eq!(method("memit").unwrap().recipe(&h), SimIe::new(memit).with_simulation(simulation).recipe());
    let emmet = Emmet::default().with_lambda(h.lambda);
    assert_eq!(method("simie").unwrap().recipe(&h), SimIe::new(emmet).with_simulation(simulation).recipe());
}

#[test]
fn every_method_goes_on_from_a_saved_state() {
    for problem in [Problem::random(10), Problem::random(11)] {
        for entry in METHODS {
            for simulation in [None, Some(Simulation::default().with_lambda(5.0))] {
                let mut h = problem.h;
                h.simulation = simulation;
                let editor = || {
                    ClosedFormEditor::<f64>::new(entry.name(), entry.recipe(&h), &problem.spectrum, Par::Seq).unwrap()
                };
                let (mut one, mut other) = (editor(), editor());
                for (i, (K, R)) in problem.batches.iter().enumerate() {
                    let batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap();
                    if i == 4 {
                        let mut bytes = Vec::new();
                        one.save(&mut bytes).unwrap();
                        other.load(&mut bytes.as_slice()).unwrap();
                        // What is cut off is refused, and nothing changes.
                        for cut in [0, 8, bytes.len() / 2, bytes.len() - 1] {
                            assert!(other.load(&mut &bytes[..cut]).is_err(), "{}", entry.name());
                        }
                    }
                    let update = one.edit(&batch).unwrap();
                    if i >= 4 {
                        let again = other.edit(&batch).unwrap();
                        assert_eq!((update.left(), update.right()), (again.left(), again.right()), "{}", entry.name());
                        assert_eq!(one.state(), other.state());
                    }
                }
            }
        }
    }
}

#[test]
fn numbers_out_of_range_are_refused() {
    let problem = Problem::random(12);
    let refused = |change: fn(&mut Hyperparameters), name: &str| {
        let mut h = problem.h;
        change(&mut h);
        let recipe = method(name).unwrap().recipe(&h);
        let made = ClosedFormEditor::<f64>::new("x", recipe, &problem.spectrum, Par::Seq);
        assert!(matches!(made, Err(NumericsError::Parameter { .. })), "{name}");
    };
    refused(|h| h.slack.batch = -0.1, "emmet");
    refused(|h| h.slack.single = f64::NAN, "emmet-h");
    refused(|h| h.simulation = Some(Simulation::default().with_lambda(0.0)), "memit");
    refused(|h| h.alike = f64::NAN, "memit-merge");
    refused(|h| h.lambda = f64::INFINITY, "encore");
    let keys = |rows, x| Arc::new(Mat::from_fn(rows, 2, |_, _| x));
    assert!(problem.by_name("memit-r").with_random_keys(&keys(29, 1.0)).is_err());
    assert!(problem.by_name("memit-r").with_random_keys(&keys(30, f64::NAN)).is_err());
}

/// What no constraint can meet is refused: a key of zero, dependent keys without slack, a key outside of the space.
#[test]
fn residuals_that_cannot_be_met_are_refused() {
    let problem = Problem::random(13);
    let editor = problem.editor(&Emmet::default().with_slack(Slack { single: 0.0, batch: 0.0 }));
    let (K, R) = &problem.batches[1];
    let refused = |keys: &Mat<f64>| {
        let R = Mat::from_fn(R.nrows(), keys.ncols(), |i, _| R[(i, 0)]);
        let outcome = editor.propose(&EditBatch::new(keys.as_ref(), R.as_ref()).unwrap());
        assert!(matches!(outcome, Err(NumericsError::Singular { .. })));
    };
    refused(&Mat::zeros(30, 1));
    refused(&Mat::from_fn(30, 2, |i, _| K[(i, 0)]));
    refused(&Mat::from_fn(30, 31, |i, j| ((i * 7 + j * 3) % 11) as f64));
    let method =
        NullSpace::new(Emmet::default()).with_threshold(Threshold::Directions(20)).with_refresh(Refresh::Never);
    let editor = problem.editor(&method);
    let k = editor.projector().unwrap().complement().subcols(0, 1).to_owned();
    let r: MatRef<'_, f64> = R.as_ref().subcols(0, 1);
    assert!(matches!(editor.propose(&EditBatch::new(k.as_ref(), r).unwrap()), Err(NumericsError::Singular { .. })));
    // The same key in a larger batch with slack is no problem.
    let pair = Mat::from_fn(30, 2, |i, _| k[(i, 0)]);
    assert!(editor.propose(&EditBatch::new(pair.as_ref(), R.as_ref().subcols(0, 2)).unwrap()).is_ok());
}

proptest! {
    #![proptest_config(property_config())]

    /// Whatever a batch looks like: a finite update, or an error and no trace.
    #[test]
    fn degenerate_batches_leave_every_method_sound(
        seed in any::<u64>(), n in 1_usize..8, rank in 1_usize..12, duplicated in any::<bool>(), zero in any::<bool>(),
    ) {
        let mut random = Random::new(seed);
        let d = 12;
        let moment = random.moment(d, rank, 1e-2);
        let spectrum = Arc::new(Spectrum::new(&moment, Par::Seq).unwrap());
        let mut K: Mat<f64> = random.matrix(d, n);
        if duplicated {
            K = Mat::from_fn(d, n, |i, _| K[(i, 0)]);
        }
        let R = if zero { Mat::zeros(3, n) } else { random.matrix(3, n) };
        let (k, r): (Mat<f64>, Mat<f64>) = (random.matrix(d, 1), random.matrix(3, 1));
        for entry in METHODS {
            let mut h = Hyperparameters::default();
            (h.lambda, h.anchors, h.threshold) = (10.0, Anchors { mu: 1.0, nu: 0.3 }, Threshold::Directions(9));
            h.refresh = Some(Refresh::Every { edits: 3, rule: RefreshRule::Full(HistoryWeighting::Mean { lambda1: 10.0 }) });
            let mut recipe = entry.recipe(&h);
            recipe.ridge += 1e-3;
            let editor = || ClosedFormEditor::<f64>::new(entry.name(), recipe, &spectrum, Par::Seq).unwrap();
            let mut tried = editor();
            let (batch, next) = (EditBatch::new(K.as_ref(), R.as_ref()).unwrap(), EditBatch::new(k.as_ref(), r.as_ref()).unwrap());
            match tried.edit(&batch) {
                Ok(update) => {
                    let Delta = update.to_dense(Par::Seq);
                    prop_assert!(Delta.is_all_finite(), "{}", entry.name());
                    prop_assert!(!zero || Delta.norm_l2() == 0.0, "{}", entry.name());
                    prop_assert!(tried.inverse_gram().to_dense().is_all_finite());
                }
                Err(NumericsError::Singular { .. }) => {
                    let mut fresh = editor();
                    let (a, b) = (tried.edit(&next), fresh.edit(&next));
                    prop_assert!(a.is_ok() == b.is_ok());
                    if let (Ok(a), Ok(b)) = (a, b) {
                        prop_assert!(a.to_dense(Par::Seq) == b.to_dense(Par::Seq), "{}", entry.name());
                    }
                }
                Err(other) => prop_assert!(false, "{}: {other}", entry.name()),
            }
        }
    }
}
