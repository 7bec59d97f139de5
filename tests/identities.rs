//! Identities of the engine and the editors, on random and degenerate problems, in f32 and f64.
//!
//! The problems are the same at every run. `PROPTEST_CASES` sets how many each property sees (default 48), and
//! `PROPTEST_RNG_SEED` draws others.

use std::sync::Arc;

use betaedit_core::faer::{Mat, MatRef, Par};
use betaedit_core::metrics::{leakage, write_errors};
use betaedit_core::projector::ProjectorBuilder;
use betaedit_core::scalar::cast;
use betaedit_core::{
    AlphaEdit, EditBatch, Editor, InverseGram, Memit, Method, Projector, Scalar, SecondMoment, Spectrum, Threshold,
};
use proptest::prelude::*;

use crate::common::{Random, distance, property_config, spectrum, textbook_update};

/// A random problem; sizes include n = 1, n > d_in, and statistics without full rank.
#[derive(Clone, Debug)]
struct Problem {
    seed: u64,
    d: usize,
    d_out: usize,
    n: usize,
    rank: usize,
    kept: usize,
    weight: f64,
    ridge: f64,
    /// Keys and the square root of the statistics are multiplied by this power of two, residuals by the other.
    key_scale: i32,
    residual_scale: i32,
}

fn problems() -> impl Strategy<Value = Problem> {
    (any::<u64>(), 1..24_usize, 1..6_usize, 1..32_usize, 0.0..1.0_f64, 0.0..1.0_f64, 0..3_u8, -20..20, -20..20)
        .prop_map(|(seed, d, d_out, n, rank, kept, weight, key_scale, residual_scale)| Problem {
            seed,
            d,
            d_out,
            n,
            rank: 1 + (rank * (d - 1) as f64).round() as usize,
            kept: 1 + (kept * (d - 1) as f64).round() as usize,
            weight: [0.0, 1.0, 100.0][usize::from(weight)],
            ridge: 0.5,
            key_scale,
            residual_scale,
        })
}

/// A problem made concrete. The ridge and the statistics scale with the squared keys, so every scale is as well
/// conditioned as scale 1.
struct Setting<T: Scalar> {
    random: Random,
    moment: SecondMoment,
    spectrum: Arc<Spectrum>,
    P: Projector,
    ridge: f64,
    K: Mat<T>,
    R: Mat<T>,
}

impl<T: Scalar> Setting<T> {
    fn new(p: &Problem) -> Self {
        let mut random = Random::new(p.seed);
        let scale = 2.0_f64.powi(p.key_scale);
        let unscaled = random.moment(p.d, p.rank, 1e-2);
        let C = unscaled.to_mean(Par::Seq).unwrap() * betaedit_core::faer::Scale(scale * scale);
        let K = random.matrix::<f64>(p.d, p.n) * betaedit_core::faer::Scale(scale);
        let R = random.matrix::<f64>(p.d_out, p.n) * betaedit_core::faer::Scale(2.0_f64.powi(p.residual_scale));
        let (K, R) = (cast::<f64, T>(K.as_ref()), cast::<f64, T>(R.as_ref()));
        let witness = Mat::from_fn(p.d, 1, |_, _| scale);
        let moment = SecondMoment::from_mean(C.as_ref(), Some(1_000_000), witness.as_ref()).unwrap();
        let spectrum = spectrum(&moment);
        let P = ProjectorBuilder::new(&spectrum).threshold(Threshold::Directions(p.kept)).build(Par::Seq).unwrap();
        Self { random, moment, spectrum, P, ridge: p.ridge * scale * scale, K, R }
    }

    fn Q(&self, p: &Problem) -> InverseGram {
        InverseGram::diagonal(&self.P, p.weight, self.ridge, Par::Seq).unwrap()
    }

    fn k(&self, j: usize) -> MatRef<'_, T> {
        self.K.as_ref().subcols(j, 1)
    }

    fn batch(&self) -> EditBatch<'_, T> {
        EditBatch::new(self.K.as_ref(), self.R.as_ref()).unwrap()
    }
}

/// Rounding of `T`, with room for sums over the sizes above and for condition numbers up to a few hundred.
fn rounding<T: Scalar>() -> f64 {
    3e4 * T::EPSILON
}

/// The engine works in `f64` whatever the keys are, so `f32` problems are solved to the rounding of `f64`.
fn close(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Result<(), TestCaseError> {
    close_to(a, b, b.norm_l2())
}

/// `|a - b| <= rounding * scale`, for quantities that are small differences of larger ones.
fn close_to(a: MatRef<'_, f64>, b: MatRef<'_, f64>, scale: f64) -> Result<(), TestCaseError> {
    let error = (a - b).norm_l2();
    prop_assert!(error <= rounding::<f64>() * scale, "off by {:e} of {:e}", error, scale);
    Ok(())
}

fn solve_is_the_textbook<T: Scalar>(p: &Problem) -> Result<(), TestCaseError> {
    let s = Setting::<T>::new(p);
    let A = s.moment.to_mean(Par::Seq).unwrap() * betaedit_core::faer::Scale(p.weight);
    let [K, R] = [&s.K, &s.R].map(|matrix| cast::<T, f64>(matrix.as_ref()));
    let ours = &R * s.Q(p).solve(s.K.as_ref()).unwrap().directions().transpose();
    let theirs = textbook_update(s.P.to_dense(Par::Seq).as_ref(), A.as_ref(), s.ridge, K.as_ref(), R.as_ref());
    close(ours.as_ref(), theirs.as_ref())
}

fn absorbing_is_associative_and_commutative<T: Scalar>(p: &Problem) -> Result<(), TestCaseError> {
    let s = Setting::<T>::new(p);
    let (mut at_once, mut forwards, mut backwards) = (s.Q(p), s.Q(p), s.Q(p));
    at_once.absorb(s.K.as_ref()).unwrap();
    for j in 0..p.n {
        forwards.absorb(s.k(j)).unwrap();
        backwards.absorb(s.k(p.n - 1 - j)).unwrap();
    }
    let scale = s.Q(p).to_dense().norm_l2();
    close_to(forwards.to_dense().as_ref(), at_once.to_dense().as_ref(), scale)?;
    close_to(backwards.to_dense().as_ref(), at_once.to_dense().as_ref(), scale)
}

fn a_sequence_is_its_single_edits<T: Scalar>(p: &Problem) -> Result<(), TestCaseError> {
    let s = Setting::<T>::new(p);
    let mut Q = s.Q(p);
    let mut in_blocks = Q.clone();
    let sequence = Q.solve_in_sequence(s.K.as_ref()).unwrap();
    let each = Q.solve_each(s.K.as_ref()).unwrap();
    let first = Q.clone();
    let scale = Q.to_dense().norm_l2() * s.K.norm_l2().to_f64();
    for t in 0..p.n {
        let alone = Q.solve(s.k(t)).unwrap();
        close_to(sequence.directions().subcols(t, 1), alone.directions(), scale)?;
        let gain = alone.gains()[0];
        prop_assert!((sequence.gains()[t] - gain).abs() <= rounding::<f64>() * (1.0 + each.gains()[t]));
        close_to(each.directions().subcols(t, 1), first.solve(s.k(t)).unwrap().directions(), scale)?;
        Q.absorb_solution(&alone).unwrap();
    }
    in_blocks.absorb_solution(&sequence).unwrap();
    close_to(in_blocks.to_dense().as_ref(), Q.to_dense().as_ref(), first.to_dense().norm_l2())
}

fn release_undoes_absorb<T: Scalar>(p: &Problem) -> Result<(), TestCaseError> {
    let s = Setting::<T>::new(p);
    let (before, mut Q) = (s.Q(p).to_dense(), s.Q(p));
    // What rounding costs when 1/(1 + s) is subtracted from 1 and recovered: a factor (1 + s) for every key.
    let largest = Q.solve(s.K.as_ref()).unwrap().gains().iter().copied().fold(0.0, f64::max);
    let n = p.n.min(3);
    for j in 0..n {
        Q.absorb(s.k(j)).unwrap();
    }
    for j in 0..n {
        Q.release(s.k(j)).unwrap();
    }
    close_to(Q.to_dense().as_ref(), before.as_ref(), before.norm_l2() * (1.0 + largest))
}

fn constrained_directions_are_untouchable<T: Scalar>(p: &Problem) -> Result<(), TestCaseError> {
    let mut s = Setting::<T>::new(p);
    let mut Q = s.Q(p);
    let before = Q.to_dense();
    let scale = before.norm_l2();
    // Dependent, parallel and zero columns as well.
    let one = s.random.matrix::<f64>(p.d, 1);
    let N = cast::<f64, T>(Mat::from_fn(p.d, 4, |i, j| one[(i, 0)] * [1.0, -4.0, 0.0, 2.0_f64.powi(-20)][j]).as_ref());
    Q.constrain(N.as_ref()).unwrap();
    let unit = N.as_ref().subcols(0, 1);
    let gone = Q.product(unit).unwrap().norm_l2();
    prop_assert!(gone <= rounding::<f64>() * scale * unit.norm_l2().to_f64(), "Q N = {gone:e}");
    // Q - Q n nᵀ Q / nᵀ Q n
    let n = cast::<T, f64>(unit);
    let Qn = &before * &n;
    let share = (n.transpose() * &Qn)[(0, 0)];
    if share > 1e-3 * scale * n.squared_norm_l2() {
        let expected = &before - &Qn * Qn.transpose() * betaedit_core::faer::Scale(1.0 / share);
        close_to(Q.to_dense().as_ref(), expected.as_ref(), scale * 1e3)?;
    }
    // And stay so, whatever is absorbed later; doing it again changes nothing.
    Q.absorb(s.K.as_ref()).unwrap();
    let again = Q.to_dense();
    Q.constrain(N.as_ref()).unwrap();
    close_to(Q.to_dense().as_ref(), again.as_ref(), scale)?;
    let gone = Q.product(unit).unwrap().norm_l2();
    prop_assert!(gone <= rounding::<f64>() * scale * unit.norm_l2().to_f64(), "Q N = {gone:e}");
    Ok(())
}

fn parallel_keys_add_their_squares<T: Scalar>(p: &Problem) -> Result<(), TestCaseError> {
    let s = Setting::<T>::new(p);
    let (mut together, mut merged) = (s.Q(p), s.Q(p));
    // k, k and 3k in one batch: k kᵀ (1 + 1 + 9).
    let k = cast::<T, f64>(s.k(0));
    let K = Mat::from_fn(p.d, 3, |i, j| k[(i, 0)] * [1.0, 1.0, 3.0][j]);
    together.absorb(K.as_ref()).unwrap();
    merged.absorb(Mat::from_fn(p.d, 1, |i, _| k[(i, 0)] * 11.0_f64.sqrt()).as_ref()).unwrap();
    let scale = s.Q(p).to_dense().norm_l2();
    close_to(together.to_dense().as_ref(), merged.to_dense().as_ref(), scale)
}

fn nothing_asked_nothing_done<T: Scalar>(p: &Problem) -> Result<(), TestCaseError> {
    let s = Setting::<T>::new(p);
    let editor = AlphaEdit::default().with_lambda2(s.ridge).with_threshold(Threshold::Directions(p.kept));
    let mut editor = editor.editor::<T>(&s.spectrum, Par::Seq).unwrap();
    let zero = Mat::<T>::zeros(p.d_out, p.n);
    let update = editor.edit(&EditBatch::new(s.K.as_ref(), zero.as_ref()).unwrap()).unwrap();
    prop_assert_eq!(update.frobenius_norm(), 0.0);
    let Q = editor.inverse_gram().to_dense();
    let update =
        editor.edit(&EditBatch::new(Mat::zeros(p.d, 1).as_ref(), zero.as_ref().subcols(0, 1)).unwrap()).unwrap();
    prop_assert_eq!(update.frobenius_norm(), 0.0);
    prop_assert_eq!(editor.inverse_gram().to_dense(), Q);
    Ok(())
}

/// `tau |Delta|²`, when rounding lets a little of the update out of the kept space: a product `Q k` is right to the
/// rounding of `|Q| |k|`, however small it is itself. The triangle inequality in the norm `sqrt(tr(X C Xᵀ))`.
fn leak_bound<T: Scalar>(tau: f64, norm: f64, s: &Setting<T>, K: MatRef<'_, T>, R: MatRef<'_, T>) -> f64 {
    let outside = rounding::<T>() * K.norm_l2().to_f64() * R.norm_l2().to_f64() / s.ridge;
    let largest = s.spectrum.largest();
    (tau.sqrt() * norm + largest.sqrt() * outside).powi(2) + rounding::<f64>() * largest * norm * norm
}

fn certificates_hold<T: Scalar>(p: &Problem) -> Result<(), TestCaseError> {
    let mut s = Setting::<T>::new(p);
    let mut Q = s.Q(p);
    let past = cast::<f64, T>(s.random.matrix::<f64>(p.d, 3).as_ref());
    let scale = T::from_f64(2.0_f64.powi(p.key_scale));
    let past = Mat::from_fn(p.d, 3, |i, j| past[(i, j)] * scale);
    Q.absorb(past.as_ref()).unwrap();
    let (k, r) = (s.k(0), s.R.as_ref().subcols(0, 1));
    let directions = cast::<f64, T>(Q.solve(k).unwrap().directions());
    let update = betaedit_core::Update::from_factors(r.to_owned(), directions.transpose().to_owned()).unwrap();
    let norm = update.frobenius_norm().powi(2);
    let leak = leakage(&update, &s.moment, Par::Seq).unwrap();
    let slack = 1.0 + rounding::<T>();
    let largest_kept = s.P.kept_values().last().unwrap();
    let bound = leak_bound(*largest_kept, update.frobenius_norm(), &s, k, r);
    prop_assert!(leak <= bound, "leak {leak:e}, allowed {bound:e}");
    let missed = write_errors(&update, &EditBatch::new(k, r).unwrap(), Par::Seq).unwrap()[0].powi(2);
    let disturbed = update.product(past.as_ref(), Par::Seq).unwrap().squared_norm_l2().to_f64();
    let spent = missed + p.weight * leak + disturbed + s.ridge * norm;
    let budget = r.squared_norm_l2().to_f64();
    let noise = bound - largest_kept * norm;
    prop_assert!(spent <= budget * slack + p.weight * noise, "spent {spent:e} of {budget:e}");
    Ok(())
}

fn updates_scale_as_the_equations_do<T: Scalar>(p: &Problem) -> Result<(), TestCaseError> {
    let scaled = Setting::<T>::new(p);
    let plain_problem = Problem { key_scale: 0, residual_scale: 0, ..p.clone() };
    let plain = Setting::<T>::new(&plain_problem);
    let update = |s: &Setting<T>, p: &Problem| {
        let directions = s.Q(p).solve(s.K.as_ref()).unwrap().directions().to_owned();
        cast::<T, f64>(s.R.as_ref()) * directions.transpose()
    };
    let (ours, base) = (update(&scaled, p), update(&plain, &plain_problem));
    // Delta ~ R / K; all scales are powers of two.
    let factor = 2.0_f64.powi(p.residual_scale - p.key_scale);
    let expected = Mat::from_fn(p.d_out, p.d, |i, j| base[(i, j)] * factor);
    close(ours.as_ref(), expected.as_ref())
}

fn statistics_without_full_rank_serve_the_null_space_methods<T: Scalar>(p: &Problem) -> Result<(), TestCaseError> {
    let s = Setting::<T>::new(p);
    let editor = AlphaEdit::default().with_lambda2(s.ridge).with_threshold(Threshold::RelativeToLargest(1e-6));
    match editor.editor::<T>(&s.spectrum, Par::Seq) {
        Ok(editor) => {
            // What is left is the exact null space, so nothing leaks.
            prop_assert_eq!(editor.state().kept_directions, p.d - p.rank);
            let update = editor.propose(&s.batch()).unwrap();
            let leak = leakage(update.update(), &s.moment, Par::Seq).unwrap();
            let bound = leak_bound(0.0, update.update().frobenius_norm(), &s, s.K.as_ref(), s.R.as_ref());
            prop_assert!(leak <= bound, "{leak:e} {bound:e}");
        }
        Err(_) => prop_assert_eq!(p.rank, p.d),
    }
    let memit = Memit::default().with_lambda(1.0).editor::<T>(&s.spectrum, Par::Seq);
    prop_assert_eq!(memit.is_ok(), p.rank == p.d);
    let ridged = Memit::default().with_lambda(1.0).with_ridge(s.ridge).editor::<T>(&s.spectrum, Par::Seq);
    prop_assert!(ridged.unwrap().propose(&s.batch()).is_ok());
    Ok(())
}

macro_rules! for_f32_and_f64 {
    ($($property:ident),* $(,)?) => {
        mod f32 { use super::*; proptest! {
            #![proptest_config(property_config())]
            $(#[test] fn $property(problem in problems()) { super::$property::<f32>(&problem)?; })*
        } }
        mod f64 { use super::*; proptest! {
            #![proptest_config(property_config())]
            $(#[test] fn $property(problem in problems()) { super::$property::<f64>(&problem)?; })*
        } }
    };
}

for_f32_and_f64! {
    solve_is_the_textbook,
    absorbing_is_associative_and_commutative,
    a_sequence_is_its_single_edits,
    release_undoes_absorb,
    constrained_directions_are_untouchable,
    parallel_keys_add_their_squares,
    nothing_asked_nothing_done,
    certificates_hold,
    updates_scale_as_the_equations_do,
    statistics_without_full_rank_serve_the_null_space_methods,
}

#[test]
fn pending_factors_and_folded_ones_are_the_same_matrix() {
    // 150 single keys cross the block of 64 twice; a batch of 100 is wider than a block; releases change the sign.
    let mut random = Random::new(77);
    let moment = random.moment(20, 20, 1e-2);
    let P = Projector::identity(&spectrum(&moment));
    let mut Q = InverseGram::diagonal(&P, 1.0, 0.1, Par::Seq).unwrap();
    let K = random.matrix::<f64>(20, 250);
    (0..150).for_each(|j| Q.absorb(K.as_ref().subcols(j, 1)).unwrap());
    Q.absorb(K.as_ref().subcols(150, 100)).unwrap();
    (0..10).for_each(|j| Q.release(K.as_ref().subcols(7 * j, 1)).unwrap());
    let mut A = moment.to_mean(Par::Seq).unwrap();
    (0..20).for_each(|i| A[(i, i)] += 0.1);
    for j in (0..250).filter(|j| j % 7 != 0 || *j >= 70) {
        A += K.as_ref().subcols(j, 1) * K.as_ref().subcols(j, 1).transpose();
    }
    let identity = Mat::<f64>::identity(20, 20);
    assert!(distance((&A * Q.to_dense()).as_ref(), identity.as_ref()) < 1e-10);
}

/// The gauge of drift is not blind: where rounding is bad, it says how bad.
#[test]
fn drift_is_rounding_after_a_stream_and_large_where_digits_are_lost() {
    let mut random = Random::new(78);
    let mut Q = InverseGram::isotropic(30, 1.0, Par::Seq).unwrap();
    let K = random.matrix::<f64>(30, 200);
    (0..200).for_each(|j| Q.absorb(K.as_ref().subcols(j, 1)).unwrap());
    Q.release(K.as_ref().subcols(0, 50)).unwrap();
    Q.constrain(K.as_ref().subcols(60, 2)).unwrap();
    assert!(Q.measure_drift() < 1e-11, "{:e}", Q.measure_drift());
    // A key of squared norm s that is absorbed and released leaves an error of about 1e-16 s².
    let mut Q = InverseGram::isotropic(30, 1.0, Par::Seq).unwrap();
    for j in 0..20 {
        let k = K.as_ref().subcols(j, 1) * betaedit_core::faer::Scale(5e4_f64.sqrt() / K.col(j).norm_l2());
        Q.absorb(k.as_ref()).unwrap();
        Q.release(k.as_ref()).unwrap();
    }
    let error = (Q.to_dense() - Mat::<f64>::identity(30, 30)).norm_l2() / 30.0_f64.sqrt();
    assert!(error > 1e-9, "the test tests nothing: {error:e}");
    assert!(
        Q.measure_drift() > 0.1 * error && Q.measure_drift() < 10.0 * error,
        "{:e} of {error:e}",
        Q.measure_drift()
    );
}
