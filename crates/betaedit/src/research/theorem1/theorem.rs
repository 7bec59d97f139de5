//! The paper's Theorem 1, with the conditions under which it is true.

use std::sync::Arc;

use betaedit_core::faer::linalg::matmul::matmul;
use betaedit_core::faer::{Accum, Mat, MatRef};
use betaedit_core::{EditBatch, InverseGram, Projector, Spectrum};

use super::PAR;
use crate::terminal::Done;

/// A stream of single edits run with and without history on **the same residuals**, and the conditions under which
/// history reduces the drift.
///
/// The BetaEdit paper claims `|sum_i Delta_i|_F` to be smaller with history than without for all streams whose updates
/// do not conflict (`<Delta_i, Delta_j> >= 0`). As printed, this is not true. Let `A0` be the protection of the model, `h_t`
/// and `v_t` the right factors with and without history (`Delta_t = r_t h_tᵀ`), and `<x, y> = xᵀ A0 y`. Then the claim
/// follows from
///
/// 1. the same residuals for both (here by construction);
/// 2. the norm `tr(D A0 Dᵀ)`, the leakage; the Frobenius norm only if `A0 = a I`;
/// 3. `s_t = k_tᵀ A0⁻¹ k_t <= 1` for all `t`;
/// 4. `r_i · r_j >= 0` and `0 <= <h_i, h_j> <= <v_i, v_j>` for all `i != j`.
///
/// What is true without any of these, for the residuals of the weight as edited so far, is stronger: history-aware
/// editing is recursive least squares, so its total is the one-shot ridge solution.
pub struct Theorem1 {
    /// `|D_t|_F` after every edit, without history.
    pub drift_without: Vec<f64>,
    /// `|D_t|_F` after every edit, with history.
    pub drift_with: Vec<f64>,
    /// `tr(D_t A0 D_tᵀ)` after every edit, without history: the leakage in units of the protection `A0`, so with
    /// `A0 = lambda C` it is `lambda` times the leakage.
    pub leakage_without: Vec<f64>,
    /// `tr(D_t A0 D_tᵀ)` after every edit, with history.
    pub leakage_with: Vec<f64>,
    /// `s_t = k_tᵀ A0⁻¹ k_t` of every edit.
    pub s: Vec<f64>,
    /// The paper's own condition, on both streams: no pair of updates has a negative Frobenius inner product.
    pub non_conflicting: bool,
    /// Condition 2: `A0` is a multiple of the identity, so that leakage and squared drift are one quantity.
    pub isotropic: bool,
    /// Condition 3: no `s_t` exceeds 1.
    pub small_keys: bool,
    /// Condition 4, first half: no two residuals point away from each other.
    pub residuals_agree: bool,
    /// Condition 4, second half: history reduces the overlap of every pair of right factors, and none is negative.
    pub interference_reduced: bool,
}

impl Theorem1 {
    /// Runs the stream: the columns of `edits`, one at a time, against the protection `A0` (`d_in x d_in`, full rank).
    ///
    /// Cost: `O(t d_in²)`, and the `t x t` inner products.
    pub fn run(A0: &Arc<Spectrum>, edits: &EditBatch<'_, f64>) -> Done<Self> {
        let Factors { s, without, with } = Factors::of(A0, edits.keys())?;
        let residuals = product(edits.residuals().transpose(), edits.residuals());
        let in_frobenius = |X: &Mat<f64>| product(X.transpose(), X.as_ref());
        let in_A0 = |X: &Mat<f64>| {
            let coordinates = product(A0.vectors().transpose(), X.as_ref());
            let (d, t) = X.shape();
            let scaled = Mat::from_fn(d, t, |i, j| coordinates[(i, j)] * A0.values()[i].sqrt());
            product(scaled.transpose(), scaled.as_ref())
        };
        let (frobenius_without, frobenius_with) = (in_frobenius(&without), in_frobenius(&with));
        let (A0_without, A0_with) = (in_A0(&without), in_A0(&with));

        let leakage_without = running_norms(&residuals, &A0_without);
        let leakage_with = running_norms(&residuals, &A0_with);
        let squares_without = running_norms(&residuals, &frobenius_without);
        let squares_with = running_norms(&residuals, &frobenius_with);
        let all = [&leakage_without, &leakage_with, &squares_without, &squares_with];
        if !all.into_iter().flatten().all(|x| x.is_finite()) {
            return Err("the drift of the stream is beyond f64: bring keys and residuals nearer to 1".into());
        }
        let root = |squares: Vec<f64>| squares.into_iter().map(f64::sqrt).collect();
        Ok(Self {
            drift_without: root(squares_without),
            drift_with: root(squares_with),
            leakage_without,
            leakage_with,
            non_conflicting: [&frobenius_without, &frobenius_with]
                .into_iter()
                .all(|factors| updates_agree(&residuals, factors)),
            isotropic: A0.largest() - A0.values()[0] <= 1e-12 * A0.largest(),
            small_keys: s.iter().all(|&s| s <= 1.0 + ROUNDING),
            residuals_agree: agree(&residuals),
            interference_reduced: reduced(&A0_without, &A0_with) && agree(&A0_with),
            s,
        })
    }

    /// Whether conditions 3 and 4 hold: then the leakage with history is at most the leakage without.
    pub fn leakage_cannot_grow(&self) -> bool {
        self.small_keys && self.residuals_agree && self.interference_reduced
    }

    /// Whether condition 2 holds as well: then the drift with history is at most the drift without.
    pub fn drift_cannot_grow(&self) -> bool {
        self.isotropic && self.leakage_cannot_grow()
    }
}

/// The right factors of the updates, one column per edit.
struct Factors {
    s: Vec<f64>,
    without: Mat<f64>,
    with: Mat<f64>,
}

impl Factors {
    fn of(A0: &Arc<Spectrum>, K: MatRef<'_, f64>) -> Done<Self> {
        let Q0 = InverseGram::diagonal(&Projector::identity(A0), 1.0, 0.0, PAR)?;
        let mut Q = Q0.clone();
        let (mut without, mut with) = (Mat::zeros(A0.dim(), K.ncols()), Mat::zeros(A0.dim(), K.ncols()));
        let mut s = Vec::with_capacity(K.ncols());
        for i in 0..K.ncols() {
            let k = K.subcols(i, 1);
            let first = Q0.solve(k)?;
            let aware = Q.solve(k)?;
            Q.absorb_solution(&aware)?;
            s.push(first.gains()[0]);
            without.as_mut().col_mut(i).copy_from(first.directions().col(0));
            with.as_mut().col_mut(i).copy_from(aware.directions().col(0));
        }
        Ok(Self { s, without, with })
    }
}

/// Relative rounding that comparisons of inner products allow for.
const ROUNDING: f64 = 1e-12;

fn product(lhs: MatRef<'_, f64>, rhs: MatRef<'_, f64>) -> Mat<f64> {
    let mut product = Mat::zeros(lhs.nrows(), rhs.ncols());
    matmul(&mut product, Accum::Replace, lhs, rhs, 1.0, PAR);
    product
}

fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(|i| (0..i).map(move |j| (i, j)))
}

/// The product of the norms of two vectors, from the matrix of inner products.
fn norms(M: &Mat<f64>, i: usize, j: usize) -> f64 {
    (M[(i, i)] * M[(j, j)]).sqrt()
}

/// Whether no inner product is negative, up to rounding.
fn agree(M: &Mat<f64>) -> bool {
    pairs(M.nrows()).all(|(i, j)| M[(i, j)] >= -ROUNDING * norms(M, i, j))
}

/// Whether no two updates point against each other, up to rounding.
fn updates_agree(residuals: &Mat<f64>, factors: &Mat<f64>) -> bool {
    pairs(residuals.nrows())
        .all(|(i, j)| residuals[(i, j)] * factors[(i, j)] >= -ROUNDING * norms(residuals, i, j) * norms(factors, i, j))
}

/// Whether no inner product is larger with history than without, up to rounding.
fn reduced(without: &Mat<f64>, with: &Mat<f64>) -> bool {
    pairs(with.nrows()).all(|(i, j)| with[(i, j)] <= without[(i, j)] + ROUNDING * norms(without, i, j))
}

/// `|sum_{i <= t} r_i x_iᵀ|²` for every `t`, from the inner products of the residuals and of the right factors.
fn running_norms(residuals: &Mat<f64>, factors: &Mat<f64>) -> Vec<f64> {
    let mut sum = 0.0;
    let term = |i: usize, j: usize| residuals[(i, j)] * factors[(i, j)];
    (0..residuals.nrows())
        .map(|i| {
            sum += term(i, i) + 2.0 * (0..i).map(|j| term(i, j)).sum::<f64>();
            // Rounding may make a sum of squares negative; NaN stays NaN.
            if sum < 0.0 { 0.0 } else { sum }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;

    fn spectrum(diagonal: &[f64]) -> Arc<Spectrum> {
        let n = diagonal.len();
        let matrix = Mat::from_fn(n, n, |i, j| if i == j { diagonal[i] } else { 0.0 });
        Arc::new(Spectrum::from_matrix(matrix.as_ref(), PAR).unwrap())
    }

    fn run(A0: &[f64], K: &Mat<f64>, R: &Mat<f64>) -> Done<Theorem1> {
        Theorem1::run(&spectrum(A0), &EditBatch::new(K.as_ref(), R.as_ref())?)
    }

    #[test]
    fn it_fails_on_the_counterexample() {
        let (a, b, c) = (10.0_f64.sqrt(), 2.5_f64.sqrt(), 7.5_f64.sqrt());
        let K = Mat::from_fn(2, 2, |i, j| [[a, b], [0.0, c]][i][j]);
        let run = run(&[1.0; 2], &K, &Mat::identity(2, 2)).unwrap();
        let squares = [run.drift_without[1].powi(2), run.drift_with[1].powi(2)];
        assert!((squares[0] - 20.0 / 121.0).abs() < 1e-14); // 0.16529
        assert!((squares[1] - 0.18139).abs() < 1e-5);
        assert!(run.non_conflicting && run.isotropic && run.residuals_agree && run.interference_reduced);
        assert!(!run.small_keys && !run.drift_cannot_grow());
    }

    /// Small keys that share a direction, and residuals that agree.
    #[test]
    fn it_holds_under_its_conditions() {
        let (mut random, mut held) = (Random::new(9), 0);
        for _ in 0..200 {
            let shared: Vec<f64> = (0..12).map(|_| random.normal()).collect();
            let K = Mat::from_fn(12, 6, |i, _| 0.15 * shared[i] + 0.02 * random.normal());
            let R = Mat::from_fn(5, 6, |_, _| random.normal().abs());
            let run = run(&[1.0; 12], &K, &R).unwrap();
            if run.drift_cannot_grow() {
                held += 1;
                assert!(run.drift_with.iter().zip(&run.drift_without).all(|(h, v)| *h <= v * (1.0 + 1e-12)));
                assert!(run.leakage_with.iter().zip(&run.leakage_without).all(|(h, v)| *h <= v * (1.0 + 1e-12)));
            }
        }
        assert!(held > 100, "the conditions held in {held} streams only: the test tests nothing");
    }

    /// Keys of another length, a protection that is singular, a drift beyond the largest number.
    #[test]
    fn what_cannot_be_measured_is_refused() {
        let error = |A0: &[f64], K: &Mat<f64>, R: &Mat<f64>| match run(A0, K, R) {
            Ok(_) => panic!("{A0:?} is accepted"),
            Err(error) => error.to_string(),
        };
        let identity = Mat::<f64>::identity(3, 3);
        assert!(error(&[1.0; 4], &identity, &identity).contains("keys"));
        assert!(error(&[0.0, 1.0, 1.0], &identity, &identity).contains("singular"));
        for x in [1e70_f64, 1e80, 1e100, 1e150] {
            let K = Mat::from_fn(2, 2, |i, j| if i == j { 1.0 } else { 0.5 });
            let R = Mat::from_fn(1, 2, |_, j| if j == 0 { x * x } else { -x * x });
            match run(&[1.0; 2], &K, &R) {
                Ok(run) => assert!(run.drift_with.iter().chain(&run.leakage_with).all(|x| *x > 0.0 && x.is_finite())),
                Err(error) => assert!(error.to_string().contains("beyond f64"), "{error}"),
            }
        }
    }
}
