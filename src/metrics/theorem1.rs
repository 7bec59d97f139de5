//! The paper's Theorem 1, with the conditions under which it is true.

use std::sync::Arc;

use faer::{Mat, Par};

use crate::batch::EditBatch;
use crate::engine::InverseGram;
use crate::error::numerics::Result;
use crate::linalg;
use crate::projector::Projector;
use crate::scalar::Scalar;
use crate::spectrum::Spectrum;
use crate::util::validate;

/// A stream of single edits run with and without history on **the same residuals**, and the conditions under which
/// history reduces the drift.
///
/// The BetaEdit paper claims `|sum_i Delta_i|_F` to be smaller with history than without for all streams whose updates
/// do not conflict (`<Delta_i, Delta_j> >= 0`). As printed that is not true. With `A0` what protects the model,
/// `h_t` and `v_t` the right factors with and without history (`Delta_t = r_t h_tᵀ`), and `<x, y> = xᵀ A0 y`, it
/// follows from
///
/// 1. the same residuals for both (so here, by construction);
/// 2. the norm `tr(D A0 Dᵀ)`, the leakage; the Frobenius norm only if `A0 = a I`;
/// 3. `s_t = k_tᵀ A0⁻¹ k_t <= 1` for all `t`;
/// 4. `r_i · r_j >= 0` and `0 <= <h_i, h_j> <= <v_i, v_j>` for all `i != j`.
///
/// What is true without any of these, for the residuals of the weight as edited so far, is stronger: history-aware
/// editing is recursive least squares, so its total is the one-shot ridge solution.
///
/// # Examples
/// The counterexample: two keys with `|k|² = 10` and `k1 · k2 = 5`, orthogonal residuals, `A0 = I`.
/// ```
/// use std::sync::Arc;
/// use betaedit_core::{EditBatch, Spectrum, faer::{mat, Mat, Par}, metrics::Theorem1};
///
/// let keys = mat![[10.0_f64.sqrt(), 2.5_f64.sqrt()], [0.0, 7.5_f64.sqrt()]];
/// let residuals = Mat::<f64>::identity(2, 2);
/// let A0 = Arc::new(Spectrum::from_matrix(Mat::identity(2, 2).as_ref(), Par::Seq)?);
/// let run = Theorem1::run(&A0, &EditBatch::new(keys.as_ref(), residuals.as_ref())?, Par::Seq)?;
///
/// assert!((run.drift_without[1].powi(2) - 0.16529).abs() < 1e-5);
/// assert!((run.drift_with[1].powi(2) - 0.18139).abs() < 1e-5);
/// assert!(run.non_conflicting && !run.small_keys && !run.drift_cannot_grow());
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Theorem1 {
    /// `|D_t|_F` after every edit, without history.
    pub drift_without: Vec<f64>,
    /// `|D_t|_F` after every edit, with history.
    pub drift_with: Vec<f64>,
    /// `tr(D_t A0 D_tᵀ)` after every edit, without history: the leakage in units of the protection `A0`, so with
    /// `A0 = lambda C` it is `lambda` times [`leakage`](super::leakage).
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
    ///
    /// # Errors
    /// Keys of another length, a singular `A0`, or overflow.
    pub fn run<T: Scalar>(A0: &Arc<Spectrum>, edits: &EditBatch<'_, T>, par: Par) -> Result<Self> {
        validate::shape("keys", edits.keys(), A0.dim(), edits.len())?;
        let [K, R] = [edits.keys(), edits.residuals()].map(|matrix| crate::scalar::cast::<T, f64>(matrix));
        let (d, t) = K.shape();
        let Q0 = InverseGram::diagonal(&Projector::identity(A0), 1.0, 0.0, par)?;
        let mut Q = Q0.clone();
        let (mut without, mut with) = (Mat::zeros(d, t), Mat::zeros(d, t));
        let mut s = Vec::with_capacity(t);
        for i in 0..t {
            let k = K.as_ref().subcols(i, 1);
            let first = Q0.solve(k)?;
            let aware = Q.solve(k)?;
            Q.absorb_solution(&aware)?;
            s.push(first.gains()[0]);
            without.as_mut().col_mut(i).copy_from(first.directions().col(0));
            with.as_mut().col_mut(i).copy_from(aware.directions().col(0));
        }

        let residuals = linalg::product(R.transpose(), R.as_ref(), par);
        let in_frobenius = |X: &Mat<f64>| linalg::product(X.transpose(), X.as_ref(), par);
        let in_A0 = |X: &Mat<f64>| {
            let coordinates = linalg::product(A0.vectors().transpose(), X.as_ref(), par);
            let scaled = Mat::from_fn(d, t, |i, j| coordinates[(i, j)] * A0.values()[i].sqrt());
            linalg::product(scaled.transpose(), scaled.as_ref(), par)
        };
        let (frobenius_without, frobenius_with) = (in_frobenius(&without), in_frobenius(&with));
        let (A0_without, A0_with) = (in_A0(&without), in_A0(&with));

        // Inner products are compared up to rounding of the norms involved.
        let norms = |M: &Mat<f64>, i: usize, j: usize| (M[(i, i)] * M[(j, j)]).sqrt();
        let slack = |M: &Mat<f64>, i: usize, j: usize| ROUNDING * norms(M, i, j);
        let pairs = || (0..t).flat_map(|i| (0..i).map(move |j| (i, j)));
        let agree = |M: &Mat<f64>| pairs().all(|(i, j)| M[(i, j)] >= -slack(M, i, j));
        let non_conflicting = [&frobenius_without, &frobenius_with].into_iter().all(|M| {
            pairs().all(|(i, j)| residuals[(i, j)] * M[(i, j)] >= -ROUNDING * norms(&residuals, i, j) * norms(M, i, j))
        });
        let reduced = pairs().all(|(i, j)| A0_with[(i, j)] <= A0_without[(i, j)] + slack(&A0_without, i, j));
        let leakage_without = running_norms(&residuals, &A0_without);
        let leakage_with = running_norms(&residuals, &A0_with);
        let squares_without = running_norms(&residuals, &frobenius_without);
        let squares_with = running_norms(&residuals, &frobenius_with);
        for curve in [&leakage_without, &leakage_with, &squares_without, &squares_with] {
            validate::in_range("the drift of the stream", curve)?;
        }
        let root = |squares: Vec<f64>| squares.into_iter().map(f64::sqrt).collect();
        Ok(Self {
            drift_without: root(squares_without),
            drift_with: root(squares_with),
            leakage_without,
            leakage_with,
            non_conflicting,
            isotropic: A0.largest() - A0.values()[0] <= 1e-12 * A0.largest(),
            small_keys: s.iter().all(|&s| s <= 1.0 + ROUNDING),
            residuals_agree: agree(&residuals),
            interference_reduced: reduced && agree(&A0_with),
            s,
        })
    }

    /// Whether conditions 3 and 4 hold: then the leakage with history is at most the leakage without.
    #[must_use]
    pub fn leakage_cannot_grow(&self) -> bool {
        self.small_keys && self.residuals_agree && self.interference_reduced
    }

    /// Whether condition 2 holds as well: then the drift with history is at most the drift without.
    #[must_use]
    pub fn drift_cannot_grow(&self) -> bool {
        self.isotropic && self.leakage_cannot_grow()
    }
}

/// Relative rounding that comparisons of inner products allow for.
const ROUNDING: f64 = 1e-12;

/// `|sum_{i <= t} r_i x_iᵀ|²` for every `t`, from the inner products of the residuals and of the right factors.
fn running_norms(residuals: &Mat<f64>, factors: &Mat<f64>) -> Vec<f64> {
    let mut sum = 0.0;
    let term = |i: usize, j: usize| residuals[(i, j)] * factors[(i, j)];
    (0..residuals.nrows())
        .map(|i| {
            sum += term(i, i) + 2.0 * (0..i).map(|j| term(i, j)).sum::<f64>();
            linalg::clamped(sum)
        })
        .collect()
}
