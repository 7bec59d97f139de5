//! Refreshes without an eigendecomposition, held against eigendecompositions.

use std::sync::Arc;

use betaedit_core::editor::ClosedFormEditor;
use betaedit_core::error::NumericsError;
use betaedit_core::faer::{Mat, MatRef, Par};
use betaedit_core::projector::ProjectorBuilder;
use betaedit_core::refresh::{Capacity, Headroom};
use betaedit_core::scalar::cast;
use betaedit_core::{
    BetaEdit, EditBatch, Editor, Method, Projector, Refresh, RefreshRule, Scalar, SecondMoment, Spectrum, Threshold,
};
use proptest::prelude::*;

use crate::common::{Random, distance, property_config, spectrum};

const TAU: f64 = 0.05;

/// A stream of edits with refreshes in between.
#[derive(Clone, Debug)]
struct Problem {
    seed: u64,
    d: usize,
    weight: f64,
    lambda1: f64,
    lambda2: f64,
    key_norm: f64,
    /// Keys of each batch, and edits between refreshes.
    batches: Vec<usize>,
    every: usize,
}

fn problems() -> impl Strategy<Value = Problem> {
    let batches = prop::collection::vec(1..4_usize, 1..8);
    (any::<u64>(), 6..36_usize, 0..3_u8, 0..3_u8, -1.5..0.5_f64, batches, 1..5_usize).prop_map(
        |(seed, d, weight, lambda1, key_norm, batches, every)| Problem {
            seed,
            d,
            weight: [1.0, 0.1, 1e-3][usize::from(weight)],
            lambda1: [0.0, 1.0, 50.0][usize::from(lambda1)],
            lambda2: 0.3,
            key_norm: 10.0_f64.powf(key_norm),
            batches,
            every,
        },
    )
}

struct Setting {
    random: Random,
    moment: SecondMoment,
    spectrum: Arc<Spectrum>,
}

impl Setting {
    fn new(p: &Problem) -> Self {
        let mut random = Random::new(p.seed);
        let moment = random.moment(p.d, p.d, 1e-4);
        Self { spectrum: spectrum(&moment), random, moment }
    }

    fn method(p: &Problem, refresh: Refresh) -> BetaEdit {
        let method = BetaEdit::default().with_lambda1(p.lambda1).with_lambda2(p.lambda2);
        method.with_threshold(Threshold::Absolute(TAU)).with_refresh(refresh)
    }

    fn keys(&mut self, p: &Problem, n: usize) -> Mat<f64> {
        let scale = p.key_norm / (p.d as f64).sqrt();
        Mat::from_fn(p.d, n, |_, _| self.random.normal() * scale)
    }

    /// `C + weight H`.
    fn protected(&self, K: &Mat<f64>, weight: f64) -> Mat<f64> {
        self.moment.to_mean(Par::Seq).unwrap() + K * K.transpose() * betaedit_core::faer::Scale(weight)
    }
}

fn appended(K: &Mat<f64>, more: &Mat<f64>) -> Mat<f64> {
    let n = K.ncols();
    Mat::from_fn(more.nrows(), n + more.ncols(), |i, j| if j < n { K[(i, j)] } else { more[(i, j - n)] })
}

/// An orthonormal basis of the range of `Q`, which is the space that may be edited.
fn range(editor: &ClosedFormEditor<f64>) -> Mat<f64> {
    let kept = editor.state().kept_directions;
    if kept == 0 {
        return Mat::zeros(editor.d_in(), 0);
    }
    let Q = Spectrum::from_matrix(editor.inverse_gram().to_dense().as_ref(), Par::Seq).unwrap();
    let d = Q.dim();
    // The gap between what is kept and rounding is wide.
    if kept < d {
        assert!(Q.values()[d - kept - 1] < 1e-9 * Q.largest(), "{} {}", Q.values()[d - kept - 1], Q.largest());
    }
    assert!(Q.values()[d - kept] > 1e-7 * Q.largest());
    Q.vectors().subcols(d - kept, kept).to_owned()
}

/// The eigenvalues of `M` restricted to a space, ascending.
fn restricted(M: &Mat<f64>, V: MatRef<'_, f64>) -> Vec<f64> {
    if V.ncols() == 0 {
        return vec![];
    }
    let form = V.transpose() * M * V;
    let form = Mat::from_fn(form.nrows(), form.nrows(), |i, j| 0.5 * (form[(i, j)] + form[(j, i)]));
    Spectrum::from_matrix(form.as_ref(), Par::Seq).unwrap().values().to_vec()
}

/// `V (Vᵀ A V + ridge I)⁻¹ Vᵀ` from scratch.
fn from_scratch(V: MatRef<'_, f64>, A: &Mat<f64>, ridge: f64) -> Mat<f64> {
    let mut small = V.transpose() * A * V;
    (0..small.nrows()).for_each(|i| small[(i, i)] += ridge);
    V * crate::common::lu_solve(small.as_ref(), V.transpose())
}

/// Runs a stream and checks, after every batch, everything that can be checked against dense matrices.
fn check_stream(p: &Problem, refresh: Refresh, rule: RefreshRule) -> Result<(), TestCaseError> {
    let (RefreshRule::Maximal { weight } | RefreshRule::Nested { weight }) = rule else { unreachable!() };
    let mut s = Setting::new(p);
    let Ok(mut editor) = Setting::method(p, refresh).editor::<f64>(&s.spectrum, Par::Seq) else { return Ok(()) };
    let mut K = Mat::<f64>::zeros(p.d, 0);
    // The keys that the present space knows of.
    let mut known = K.clone();
    let mut space = range(&editor);
    for &n in &p.batches {
        match editor.refresh_if_due() {
            Ok(None) => {}
            Ok(Some(report)) => {
                let M = s.protected(&K, weight);
                let new = K.subcols(known.ncols(), K.ncols() - known.ncols()).to_owned();
                known = K.clone();
                let before = space;
                space = range(&editor);
                prop_assert_eq!(report.kept_after, space.ncols());
                match rule {
                    RefreshRule::Maximal { .. } => {
                        let below = Spectrum::from_matrix(M.as_ref(), Par::Seq).unwrap().count_below(TAU);
                        prop_assert_eq!(report.kept_after, below, "of the eigenvalues below the threshold");
                    }
                    _ => {
                        // Inside the old space, and no smaller than the inertia of the form asks for.
                        let outside = &space - &before * (before.transpose() * &space);
                        prop_assert!(outside.norm_l2() < 1e-7, "{:e} outside", outside.norm_l2());
                        let below = restricted(&M, before.as_ref()).into_iter().filter(|m| *m < TAU).count();
                        prop_assert_eq!(report.kept_after, below, "of {} new keys", new.ncols());
                    }
                }
            }
            // By `Full`, once there are many keys, it has another name.
            Err(NumericsError::CapacityExhausted { .. } | NumericsError::NothingKept { .. }) => return Ok(()),
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        }
        // Every update inside the space leaks less than tau |Delta|².
        let largest = restricted(&s.protected(&known, weight), space.as_ref()).last().copied().unwrap_or(0.0);
        prop_assert!(largest < TAU * (1.0 + 1e-9), "a Rayleigh quotient is {} of tau", largest / TAU);

        let (k, r) = (s.keys(p, n), s.random.matrix::<f64>(2, n));
        match editor.edit(&EditBatch::new(k.as_ref(), r.as_ref()).unwrap()) {
            Ok(_) => {}
            Err(NumericsError::CapacityExhausted { .. }) => return Ok(()),
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        }
        K = appended(&K, &k);
        if matches!(refresh, Refresh::Continuous { .. }) {
            let before = space;
            space = range(&editor);
            let outside = &space - &before * (before.transpose() * &space);
            prop_assert!(outside.norm_l2() < 1e-7);
            let below = restricted(&s.protected(&K, weight), before.as_ref()).into_iter().filter(|m| *m < TAU).count();
            prop_assert_eq!(space.ncols(), below);
            known = K.clone();
        }
        // Q is what a build from scratch on the same space gives.
        if space.ncols() > 0 {
            let A = s.protected(&Mat::zeros(p.d, 0), 0.0) * betaedit_core::faer::Scale(p.lambda1) + &K * K.transpose();
            let expected = from_scratch(space.as_ref(), &A, p.lambda2);
            let error = distance(editor.inverse_gram().to_dense().as_ref(), expected.as_ref());
            prop_assert!(error < 1e-7, "Q is {error:e} off");
            let drift = editor.inverse_gram().measure_drift();
            prop_assert!(drift < 1e-7, "a drift of {drift:e}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(property_config())]

    #[test]
    fn maximal_keeps_the_guarantee_and_as_many_directions_as_any_space_can(p in problems()) {
        let rule = RefreshRule::Maximal { weight: p.weight };
        check_stream(&p, Refresh::Every { edits: p.every, rule }, rule)?;
    }

    #[test]
    fn nested_keeps_the_guarantee_releases_nothing_and_is_minimal(p in problems()) {
        let rule = RefreshRule::Nested { weight: p.weight };
        check_stream(&p, Refresh::Every { edits: p.every, rule }, rule)?;
    }

    #[test]
    fn continuous_keeps_the_guarantee_after_every_edit(p in problems()) {
        let rule = RefreshRule::Nested { weight: p.weight };
        check_stream(&p, Refresh::Continuous { weight: p.weight }, rule)?;
    }
}

/// A projector, its headroom, and keys in its space.
fn gauge() -> (Projector, Headroom, Mat<f64>) {
    let mut random = Random::new(5);
    let moment = random.moment(20, 20, 1e-4);
    let P = ProjectorBuilder::new(&spectrum(&moment)).threshold(Threshold::Absolute(TAU)).build(Par::Seq).unwrap();
    let headroom = Headroom::new(&P, 0.5, Par::Seq).unwrap();
    (P, headroom, random.matrix::<f64>(20, 3))
}

#[test]
fn the_gauge_says_what_a_key_would_use_before_it_is_edited() {
    let (P, mut headroom, K) = gauge();
    let used = headroom.used(K.as_ref()).unwrap();
    for (j, used) in used.iter().enumerate() {
        let coordinates = P.basis().transpose() * K.as_ref().subcols(j, 1);
        let expected: f64 = (0..P.kept()).map(|i| 0.5 * coordinates[(i, 0)].powi(2) / (TAU - P.kept_values()[i])).sum();
        assert!((used - expected).abs() < 1e-10 * expected);
    }
    // A key that is small enough is absorbed without loss; the same again uses more of what is left.
    let k = K.as_ref().subcols(0, 1) * betaedit_core::faer::Scale((0.4 / used[0]).sqrt());
    assert!((headroom.used(k.as_ref()).unwrap()[0] - 0.4).abs() < 1e-12);
    assert_eq!(headroom.absorb(k.as_ref()).unwrap(), 0);
    assert!((headroom.used(k.as_ref()).unwrap()[0] - 0.4 / 0.6).abs() < 1e-10);
    assert_eq!(headroom.absorb(k.as_ref()).unwrap(), 0);
    assert_eq!(headroom.absorb(k.as_ref()).unwrap(), 1);
    // Saturated: nothing of it is left in the space, so it uses nothing any more.
    assert!(headroom.used(k.as_ref()).unwrap()[0].abs() < 1e-8);
    assert_eq!(headroom.kept(), P.kept() - 1);
}

fn capacity_warns_and_then_refuses<T: Scalar>(refresh: Refresh) {
    let mut random = Random::new(6);
    let moment = random.moment(24, 24, 1e-4);
    let method = BetaEdit::default().with_threshold(Threshold::Absolute(TAU)).with_refresh(refresh);
    let mut editor = method.editor::<T>(&spectrum(&moment), Par::Seq).unwrap();
    let (first, mut seen) = (editor.state().kept_directions, vec![]);
    let r = Mat::full(1, 1, T::from_f64(1.0));
    loop {
        let k = cast::<f64, T>(random.matrix::<f64>(24, 1).as_ref());
        let before = (editor.state(), editor.inverse_gram().to_dense());
        match editor.edit(&EditBatch::new(k.as_ref(), r.as_ref()).unwrap()) {
            Ok(_) => seen.push(editor.state().capacity),
            Err(NumericsError::CapacityExhausted { edits, first: of }) => {
                assert_eq!((edits, of), (editor.state().edits, first));
                assert_eq!(before, (editor.state(), editor.inverse_gram().to_dense()));
                break;
            }
            Err(other) => panic!("{other}"),
        }
        let state = editor.state();
        assert_eq!(state.kept_directions + state.removed_directions, first);
        assert!(state.edits < 100, "it never ends");
    }
    assert_eq!(seen[0], Capacity::Ample);
    assert!(seen.contains(&Capacity::Low));
    // The documented way on, where a direction is left.
    if editor.state().kept_directions > 0 {
        editor.stop_refreshing();
        let k = cast::<f64, T>(random.matrix::<f64>(24, 1).as_ref());
        let _ = editor.edit(&EditBatch::new(k.as_ref(), r.as_ref()).unwrap()).unwrap();
    }
}

#[test]
fn capacity_warns_early_and_an_exhausted_space_is_refused() {
    capacity_warns_and_then_refuses::<f64>(Refresh::Continuous { weight: 1.0 });
    capacity_warns_and_then_refuses::<f32>(Refresh::Continuous { weight: 1.0 });
    let nested = RefreshRule::Nested { weight: 1.0 };
    capacity_warns_and_then_refuses::<f64>(Refresh::Every { edits: 1, rule: nested });
}

#[test]
fn weights_and_thresholds_that_make_no_sense_are_refused() {
    let spectrum = spectrum(&Random::new(7).moment(8, 8, 1e-3));
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        for refresh in [
            Refresh::Continuous { weight },
            Refresh::Every { edits: 1, rule: RefreshRule::Nested { weight } },
            Refresh::Every { edits: 1, rule: RefreshRule::Maximal { weight } },
        ] {
            let refused = BetaEdit::default().with_refresh(refresh).editor::<f64>(&spectrum, Par::Seq);
            assert!(matches!(refused, Err(NumericsError::Parameter { parameter: "refresh weight", .. })));
        }
    }
    // Without a threshold there is no headroom.
    let all =
        BetaEdit::default().with_threshold(Threshold::Directions(8)).with_refresh(Refresh::Continuous { weight: 1.0 });
    assert!(matches!(
        all.editor::<f64>(&spectrum, Par::Seq),
        Err(NumericsError::Parameter { parameter: "threshold", .. })
    ));
    assert!(Headroom::new(&Projector::identity(&spectrum), 1.0, Par::Seq).is_err());
}

/// An `f32` editor multiplies by a rounded copy; what it takes out of the space is that of an `f64` editor, and is gone.
#[test]
fn continuous_in_f32_decides_as_in_f64_and_leaves_nothing_of_a_saturated_key() {
    let mut random = Random::new(8);
    let d = 300;
    let moment = random.moment(d, d, 1e-4);
    let refresh = Refresh::Continuous { weight: 0.05 };
    let method = BetaEdit::default().with_lambda1(20.0).with_lambda2(0.3);
    let method = method.with_threshold(Threshold::Absolute(TAU)).with_refresh(refresh);
    let mut single = method.editor::<f32>(&spectrum(&moment), Par::Seq).unwrap();
    let mut double = method.editor::<f64>(&spectrum(&moment), Par::Seq).unwrap();
    let (first, mut removed) = (single.state().kept_directions, Vec::new());
    let mut worst = 0.0_f64;
    let fixed: Vec<Mat<f64>> = (0..5).map(|_| random.matrix::<f64>(d, 1)).collect();
    for edit in 0..200 {
        // Some keys come near again.
        let length = if edit % 3 == 0 { 0.02 } else { 0.2 };
        let k = random.matrix::<f64>(d, 1) + &fixed[edit % 5];
        let k = cast::<f64, f32>((k * betaedit_core::faer::Scale(length)).as_ref());
        let r = random.matrix::<f32>(3, 1);
        let before = single.state().kept_directions;
        let update = single.edit(&EditBatch::new(k.as_ref(), r.as_ref()).unwrap()).unwrap();
        let (k, r) = (cast::<f32, f64>(k.as_ref()), cast::<f32, f64>(r.as_ref()));
        let expected = double.edit(&EditBatch::new(k.as_ref(), r.as_ref()).unwrap()).unwrap();
        assert_eq!(single.state(), double.state());
        let error = distance(cast::<f32, f64>(update.right()).as_ref(), expected.right());
        worst = worst.max(error);
        if single.state().kept_directions < before {
            removed.push(k);
        }
    }
    assert!((30..200).contains(&removed.len()) && removed.len() < first - 30, "{} of {first}", removed.len());
    assert!(worst < 2e-6, "an update is {worst:e} off");
    // Directions that were taken away stay away.
    let (single, double) = (single.inverse_gram(), double.inverse_gram());
    let largest = double.to_dense().norm_l2();
    for k in &removed {
        let left = single.product(k.as_ref()).unwrap().norm_l2() / (largest * k.norm_l2());
        assert!(left < 1e-7, "{left:e} of a saturated key is left");
    }
    let difference = distance(single.to_dense().as_ref(), double.to_dense().as_ref());
    assert!(difference < 1e-6, "Q is {difference:e} off");
    assert!(single.measure_drift() < 1e-6, "a drift of {:e}", single.measure_drift());
}

/// With a threshold that is itself an eigenvalue, a direction may be left without headroom. The refresh succeeds all the same.
#[test]
fn a_maximal_refresh_goes_on_where_its_small_systems_are_singular() {
    let text = Mat::from_fn(64, 1000, |i, t| ((t * (2 * i + 1)) as f64).sin() / (1.0 + i as f64));
    let mut moment = SecondMoment::new(64);
    moment.observe(text.as_ref(), Par::Seq).unwrap();
    let spectrum = Arc::new(Spectrum::new(&moment, Par::Seq).unwrap());
    let refresh = Refresh::Every { edits: 2, rule: RefreshRule::Maximal { weight: 1.0 } };
    let method = BetaEdit::default().with_threshold(Threshold::KeptEnergy(0.05)).with_lambda1(1.0).with_lambda2(0.01);
    let mut editor = method.with_refresh(refresh).editor::<f64>(&spectrum, Par::Seq).unwrap();
    let (mut keys, mut saved) = (SecondMoment::new(64), vec![]);
    for t in 0..12 {
        let k = Mat::from_fn(64, 1, |i, _| ((i * (t + 7)) as f64).sin());
        let _ = editor.edit(&EditBatch::new(&k, &Mat::full(1, 1, 1.0)).unwrap()).unwrap();
        keys.observe(k.as_ref(), Par::Seq).unwrap();
        saved.clear();
        editor.save(&mut saved).unwrap();
    }
    editor.refresh_if_due().unwrap();
    // The guarantee: on the space, C + H stays below the threshold.
    let M = moment.to_mean(Par::Seq).unwrap() + keys.to_sum(Par::Seq).unwrap();
    let Q = editor.inverse_gram().to_dense();
    let range = Spectrum::from_matrix(Q.as_ref(), Par::Seq).unwrap();
    let kept = editor.state().kept_directions;
    let V = range.vectors().subcols(64 - kept, kept);
    let largest = *Spectrum::from_matrix((V.transpose() * M * V).as_ref(), Par::Seq).unwrap().values().last().unwrap();
    assert!(largest <= editor.projector().unwrap().threshold() * (1.0 + 1e-6), "{largest}");
}

/// A refresh that outgrows its rule, and then leaves no direction, changes nothing.
#[test]
fn a_maximal_refresh_that_fails_leaves_no_trace() {
    let mut random = Random::new(12);
    let moment = random.moment(24, 24, 1e-4);
    let refresh = Refresh::Every { edits: 30, rule: RefreshRule::Maximal { weight: 1.0 } };
    let method = BetaEdit::default().with_threshold(Threshold::Absolute(TAU)).with_refresh(refresh);
    let mut editor = method.editor::<f64>(&spectrum(&moment), Par::Seq).unwrap();
    let saved = |editor: &ClosedFormEditor<f64>| {
        let mut bytes = vec![];
        editor.save(&mut bytes).unwrap();
        bytes
    };
    for _ in 0..30 {
        let k = random.matrix::<f64>(24, 1);
        let _ = editor.edit(&EditBatch::new(k.as_ref(), Mat::full(1, 1, 1.0).as_ref()).unwrap()).unwrap();
    }
    let before = saved(&editor);
    for _ in 0..2 {
        let error = editor.refresh_if_due().unwrap_err();
        assert!(matches!(error, NumericsError::NothingKept { .. }), "{error:?}");
        assert!(saved(&editor) == before);
    }
    editor.stop_refreshing();
    let k = random.matrix::<f64>(24, 1);
    assert!(editor.edit(&EditBatch::new(k.as_ref(), Mat::full(1, 1, 1.0).as_ref()).unwrap()).is_ok());
}
