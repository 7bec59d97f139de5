//! The engine: an inverse that is updated, never recomputed.

mod change;
mod discount;
mod drift;
mod probe;
mod rounding;
mod solution;
mod solve;
mod state;
mod token;
mod unsettled;
mod whole;

pub(crate) use change::Constraint;
pub use solution::{Solution, Workspace};
pub use token::StateToken;
pub(crate) use whole::{WholeStart, needs_spectrum};

use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Mat, MatRef, Par};

use probe::Probe;
use unsettled::Unsettled;

use crate::error::numerics::{NumericsError, Result};
use crate::linalg::symmetric::Symmetric;
use crate::linalg::{self, Need, tolerance};
use crate::projector::{Projector, singular_start};
use crate::scalar::{Scalar, cast};
use crate::util::shown::shown;
use crate::util::validate;

/// `Q = V (Vᵀ A V + lambda2 I)⁻¹ Vᵀ`, the inverse of the protected Gram matrix `A` on the space that may be edited.
///
/// `Q` (`d_in x d_in`) is symmetric and positive semidefinite, and its range lies inside the range of `V`. It is the
/// only state of size `d_in²` that editing needs. Every closed-form editor of the field computes
///
/// ```text
/// Delta = R (I + G)⁻¹ Zᵀ,    Z = Q K,    G = Kᵀ Z
/// ```
///
/// from some `Q`, and every event in the life of an editor is a low-rank change of `Q`:
///
/// | event | change | method |
/// |---|---|---|
/// | keys join the history, `A + K Kᵀ` | `Q - Z (I + G)⁻¹ Zᵀ` | [`absorb`](Self::absorb) |
/// | keys leave it, `A - K Kᵀ` | `Q + Z (I - G)⁻¹ Zᵀ` | [`release`](Self::release) |
/// | directions are constrained | `Q - Q N (Nᵀ Q N)⁺ Nᵀ Q` | [`constrain`](Self::constrain) |
/// | the history is discounted, `factor A` | `Q / factor` | [`discount`](Self::discount) |
///
/// Changes are kept as pending factors. When there are 64 columns, one matrix product folds them in. This is
/// recursive least squares.
///
/// # Precision and memory
/// `Q` is kept in `f64` for keys of either type. Only its lower triangle is stored: `4 d_in²` bytes, as many as a
/// full `f32` matrix, and a product reads as many. So 10,000 edits do not accumulate the rounding errors of `f32`, at
/// no extra cost.
///
/// # Examples
/// ```
/// use betaedit_core::{InverseGram, faer::{mat, Par}};
///
/// let k = mat![[1.0_f64], [2.0]];
/// let mut Q = InverseGram::isotropic(2, 5.0, Par::Seq)?; // (5 I)⁻¹
/// Q.absorb(k.as_ref())?; //                                 (5 I + k kᵀ)⁻¹
/// assert!((Q.to_dense()[(0, 0)] - 0.18).abs() < 1e-15);
/// Q.release(k.as_ref())?; //                                (5 I)⁻¹ again
/// assert!((Q.to_dense()[(0, 0)] - 0.2).abs() < 1e-15);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone)]
pub struct InverseGram {
    Q: Symmetric,
    /// Upper bound of the eigenvalues of `Q`; its rounding errors are relative to this.
    largest: f64,
    /// What `largest` may rise to when keys are released; equal to it until the history is discounted.
    limit: f64,
    /// Identifies the state that a solution was found in.
    token: StateToken,
    /// Does not include the unsettled keys.
    probe: Probe,
    unsettled: Unsettled,
}

shown!([] InverseGram, "InverseGram", self => {
    "dim": self.dim(),
    "largest": self.largest,
    "unsettled": self.unsettled.fates.len(),
});

const START: &str = "the inverse Gram matrix";

impl InverseGram {
    /// `Q = V diag(1 / (weight s_i + ridge)) Vᵀ`: the start of every method, where `A = weight C` is diagonal in the
    /// eigenbasis that the projector was cut from.
    ///
    /// * `projector`: cut from the spectrum of `C` itself, not from that of a refresh
    /// * `weight`: `lambda` of MEMIT, `lambda1` of BetaEdit, 0 for AlphaEdit
    /// * `ridge`: `lambda2`
    ///
    /// Cost: `d_in² r` flops, and `d_in r` numbers of workspace.
    ///
    /// # Errors
    /// Negative or non-finite numbers; [`NumericsError::Singular`] if `weight s_i + ridge` is zero to working precision
    /// for a kept direction.
    pub fn diagonal(projector: &Projector, weight: f64, ridge: f64, par: Par) -> Result<Self> {
        let A = projector.protection(weight, ridge)?;
        let smallest = A.iter().copied().fold(f64::INFINITY, f64::min);
        let V = projector.basis();
        let need = Self::need(V.nrows(), V.ncols());
        need.reserve()?;
        let root = Mat::from_fn(V.nrows(), V.ncols(), |i, j| V[(i, j)] / A[j].sqrt());
        Self::from_root(root.as_ref(), 1.0 / smallest, need, par)
    }

    /// `Q = V (Vᵀ A V + ridge I)⁻¹ Vᵀ` for any symmetric positive semidefinite `A` (`d_in x d_in`), the start after a
    /// full refresh. Cost: about `6 d_in² r` flops and an `r x r` Cholesky factorisation.
    ///
    /// # Errors
    /// Wrong shapes, NaN; [`NumericsError::Singular`] if `Vᵀ A V + ridge I` is not positive definite.
    pub fn new(projector: &Projector, A: MatRef<'_, f64>, ridge: f64, par: Par) -> Result<Self> {
        validate::shape("A", A, projector.dim(), projector.dim())?;
        let need = Self::need(projector.dim(), projector.kept()).matrix::<f64>(projector.kept(), projector.kept());
        need.reserve()?;
        validate::finite("A", A)?;
        validate::symmetric("A", A, tolerance::SYMMETRY)?;
        validate::non_negative("ridge", ridge)?;
        let V = projector.basis();
        let AV = linalg::product(A, V, par);
        let mut S = linalg::product(V.transpose(), AV.as_ref(), par);
        drop(AV);
        let n = S.nrows();
        for i in 0..n {
            S[(i, i)] += ridge;
        }
        validate::no_overflow("the protected Gram matrix", S.as_ref())?;
        let floors: Vec<f64> = (0..n).map(|i| tolerance::singular(n) * S[(i, i)]).collect();
        let L = linalg::cholesky(S, &floors, singular_start, par)?;
        // `Q = (L⁻¹ Vᵀ)ᵀ (L⁻¹ Vᵀ)`, a product of a matrix with its transpose, so it is symmetric and semidefinite.
        let mut root = V.to_owned();
        solve_lower_triangular_in_place(L.as_ref(), root.as_mut().transpose_mut(), par);
        // The trace bounds the largest eigenvalue. So does `1 / ridge`, even after keys are released.
        let largest = if ridge > 0.0 { 1.0 / ridge } else { root.squared_norm_l2() };
        Self::from_root(root.as_ref(), largest, need, par)
    }

    /// `Q = I / a` on all of `d_in` dimensions.
    ///
    /// # Errors
    /// `d_in = 0`, an `a` that is not a positive number, or not enough memory.
    pub fn isotropic(d_in: usize, a: f64, par: Par) -> Result<Self> {
        validate::positive("a", a)?;
        if d_in == 0 {
            return Err(NumericsError::Parameter { parameter: "d_in", value: 0.0, allowed: "at least 1" });
        }
        validate::in_range(START, &[1.0 / a])?;
        let need = Self::need(d_in, 0);
        need.reserve()?;
        Ok(Self::started(Symmetric::identity(d_in, 1.0 / a, need, par)?, 1.0 / a))
    }

    /// What an engine with keys of length `d` holds at its start, from a root with `r` columns.
    pub(crate) fn need(d: usize, r: usize) -> Need {
        let need = Need::new("an inverse Gram matrix", d, d).bytes(Symmetric::bytes(d));
        // The root, and the probe.
        need.matrix::<f64>(d, r.saturating_add(2))
    }

    fn started(Q: Symmetric, largest: f64) -> Self {
        Self {
            probe: Probe::new(&Q),
            Q,
            largest,
            limit: largest,
            token: StateToken::new(),
            unsettled: Unsettled::default(),
        }
    }

    fn from_root(root: MatRef<'_, f64>, largest: f64, need: Need, par: Par) -> Result<Self> {
        validate::in_range(START, &[largest])?;
        let Q = Symmetric::from_root(root, need, par)?;
        if Q.is_finite() {
            Ok(Self::started(Q, largest))
        } else {
            Err(NumericsError::Overflow { step: START, scalar: f64::NAME })
        }
    }

    /// Length of the keys, `d_in`.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.Q.dim()
    }

    /// `Z = Q K` for `d_in x n` keys. Cost: one pass over `Q` and the pending columns.
    ///
    /// # Errors
    /// Wrong shape, NaN or infinity.
    pub fn product<T: Scalar>(&self, keys: MatRef<'_, T>) -> Result<Mat<f64>> {
        validate::shape("keys", keys, self.dim(), keys.ncols())?;
        validate::finite("keys", keys)?;
        let mut Z = Mat::new();
        self.Q.product(cast::<T, f64>(keys).as_ref(), &mut Z, &mut Default::default());
        Ok(Z)
    }

    /// `Q` as a dense matrix, `d_in x d_in`, exactly symmetric.
    #[must_use]
    pub fn to_dense(&self) -> Mat<f64> {
        let mut settled = self.clone();
        settled.settle();
        settled.Q.to_dense()
    }
}
