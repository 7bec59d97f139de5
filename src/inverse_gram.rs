//! The engine: an inverse that is updated, never recomputed.

use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{Accum, Mat, MatRef, Par};

use crate::error::{EditError, Result};
use crate::projector::Projector;
use crate::scalar::{Scalar, cast};
use crate::spectrum::Spectrum;
use crate::{check, dense, tolerance};

/// Columns of pending factors before they are folded into the base by one matrix product.
const BLOCK: usize = 64;

/// Columns of `Q` that are formed in `f64` at a time while it is built.
const BUILD_BLOCK: usize = 256;

/// `Q = V (Vᵀ A V + lambda2 I)⁻¹ Vᵀ`, the inverse of the protected Gram matrix `A` on the space that may be edited.
///
/// `Q` (`d_in x d_in`) is symmetric, positive semidefinite, and its range lies inside the range of `V`. It is the only
/// state of size `d_in²` that editing needs. Every closed-form editor of the field is
///
/// ```text
/// Delta = R (I + G)⁻¹ Zᵀ,    Z = Q K,    G = Kᵀ Z
/// ```
///
/// on some `Q`, and every event in an editor's life is a low-rank change of `Q`:
///
/// | event | change | method |
/// |---|---|---|
/// | keys join the history, `A + K Kᵀ` | `Q - Z (I + G)⁻¹ Zᵀ` | [`absorb`](Self::absorb) |
/// | keys leave it, `A - K Kᵀ` | `Q + Z (I - G)⁻¹ Zᵀ` | [`release`](Self::release) |
/// | directions become untouchable | `Q - Q N (Nᵀ Q N)⁺ Nᵀ Q` | [`constrain`](Self::constrain) |
///
/// Changes are kept as pending factors, `Q = base ± F Fᵀ`, and folded into the base by one matrix product when 64
/// columns have gathered. This is recursive least squares.
///
/// # Precision
/// `Q` is built in `f64` and rounded to `T` once. Products with `Q` are in `T`, the `n x n` systems always in `f64`.
///
/// # Memory
/// One `d_in x d_in` matrix and a block of 64 columns, both of type `T`.
///
/// # Examples
/// ```
/// use betaedit_core::{InverseGram, faer::{mat, Par}};
///
/// let k = mat![[1.0_f64], [2.0]];
/// let mut Q = InverseGram::isotropic(2, 5.0, Par::Seq)?; // (5 I)⁻¹
/// Q.absorb(k.as_ref())?; //                                 (5 I + k kᵀ)⁻¹
/// assert!((Q.dense()[(0, 0)] - 0.18).abs() < 1e-15);
/// Q.release(k.as_ref())?; //                                as if it had never been
/// assert!((Q.dense()[(0, 0)] - 0.2).abs() < 1e-15);
/// # Ok::<(), betaedit_core::EditError>(())
/// ```
#[derive(Clone, Debug)]
pub struct InverseGram<T: Scalar> {
    base: Mat<T>,
    /// `F`: the first `used` columns.
    pending: Mat<T>,
    used: usize,
    sign: Sign,
    /// Largest eigenvalue that `Q` can have: what its rounding errors are relative to.
    largest: f64,
    par: Par,
}

/// What the pending factors do: `Q = base - F Fᵀ` or `Q = base + F Fᵀ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Minus,
    Plus,
}

impl Sign {
    fn factor(self) -> f64 {
        match self {
            Self::Minus => -1.0,
            Self::Plus => 1.0,
        }
    }
}

/// What [`InverseGram::solve`] finds for a batch of `n` keys.
#[derive(Clone, Debug)]
pub struct Solution<T: Scalar> {
    directions: Mat<T>,
    factor: Mat<T>,
    gains: Vec<f64>,
}

impl<T: Scalar> Solution<T> {
    /// `Z (I + G)⁻¹`, `d_in x n`: the update is `Delta = R directionsᵀ`.
    #[must_use]
    pub fn directions(&self) -> MatRef<'_, T> {
        self.directions.as_ref()
    }

    /// `g = kᵀ Q k` of every key: how strongly the present state lets it write. The update reaches the share
    /// `g / (1 + g)` of its residual when `n = 1`.
    #[must_use]
    pub fn gains(&self) -> &[f64] {
        &self.gains
    }
}

impl<T: Scalar> InverseGram<T> {
    /// `Q = V diag(1 / (weight s_i + ridge)) Vᵀ`: the start of every method, where `A = weight C` is diagonal in the
    /// eigenbasis that the projector was cut from.
    ///
    /// * `projector`: cut from the spectrum of `C` itself, not from a refreshed one
    /// * `weight`: `lambda` of MEMIT, `lambda1` of BetaEdit, 0 for AlphaEdit
    /// * `ridge`: `lambda2`
    ///
    /// Cost: `d_in² r` multiply-adds.
    ///
    /// # Errors
    /// Negative or non-finite numbers; [`EditError::Singular`] if `weight s_i + ridge` is zero to working precision
    /// for a kept direction.
    pub fn diagonal(projector: &Projector, weight: f64, ridge: f64, par: Par) -> Result<Self> {
        check::non_negative("weight", weight)?;
        check::non_negative("ridge", ridge)?;
        let A: Vec<f64> = projector.kept_values().iter().map(|s| weight * s + ridge).collect();
        let largest = A.iter().copied().fold(0.0, f64::max);
        let smallest = A.iter().copied().fold(f64::INFINITY, f64::min);
        if !(smallest > tolerance::singular(A.len()) * largest) {
            return Err(singular_start());
        }
        let V = projector.basis();
        let root = Mat::from_fn(V.nrows(), V.ncols(), |i, j| V[(i, j)] / A[j].sqrt());
        Self::of_root(&root, 1.0 / smallest, par)
    }

    /// `Q = V (Vᵀ A V + ridge I)⁻¹ Vᵀ` for any symmetric positive semidefinite `A` (`d_in x d_in`), the start after a
    /// refresh. Cost: about `3 d_in² r` multiply-adds and an `r x r` Cholesky factorisation.
    ///
    /// # Errors
    /// Wrong shapes, NaN; [`EditError::Singular`] if `Vᵀ A V + ridge I` is not positive definite.
    pub fn new(projector: &Projector, A: MatRef<'_, f64>, ridge: f64, par: Par) -> Result<Self> {
        check::shape("A", A, projector.dim(), projector.dim())?;
        check::finite("A", A)?;
        check::non_negative("ridge", ridge)?;
        let V = projector.basis();
        let AV = dense::product(A, V, par);
        let mut S = dense::product(V.transpose(), AV.as_ref(), par);
        drop(AV);
        for i in 0..S.nrows() {
            S[(i, i)] += ridge;
        }
        let n = S.nrows();
        let L = dense::cholesky(S, |diagonal| tolerance::singular(n) * diagonal, singular_start, par)?;
        // Rows of L⁻¹ Vᵀ: Q = (L⁻¹ Vᵀ)ᵀ (L⁻¹ Vᵀ), a product of a matrix with itself, so symmetric and semidefinite.
        let mut root = V.to_owned();
        solve_lower_triangular_in_place(L.as_ref(), root.as_mut().transpose_mut(), par);
        let largest = root.squared_norm_l2();
        Self::of_root(&root, largest, par)
    }

    /// `Q = I / a` on all of `d_in` dimensions.
    ///
    /// # Errors
    /// `d_in = 0`, or an `a` that is not a positive number.
    pub fn isotropic(d_in: usize, a: f64, par: Par) -> Result<Self> {
        check::positive("a", a)?;
        let base = Mat::from_fn(d_in, d_in, |i, j| T::of_f64(if i == j { 1.0 / a } else { 0.0 }));
        check::not_empty("Q", base.as_ref())?;
        Self::of_base(base, 1.0 / a, par)
    }

    /// `root rootᵀ`, formed in `f64` a few columns at a time and rounded to `T` once.
    fn of_root(root: &Mat<f64>, largest: f64, par: Par) -> Result<Self> {
        let d = root.nrows();
        let mut base = dense::zeros::<T>(d, d, "the inverse Gram matrix")?;
        let mut columns = dense::zeros::<f64>(d, BUILD_BLOCK.min(d), "the inverse Gram matrix")?;
        for start in (0..d).step_by(BUILD_BLOCK) {
            let n = BUILD_BLOCK.min(d - start);
            let mut block = columns.as_mut().submatrix_mut(0, 0, d - start, n);
            let below = root.as_ref().subrows(start, d - start);
            matmul(block.as_mut(), Accum::Replace, below, below.subrows(0, n).transpose(), 1.0, par);
            for j in 0..n {
                let to = base.as_mut().col_mut(start + j).subrows_mut(start, d - start);
                to.iter_mut().zip(block.as_ref().col(j).iter()).for_each(|(to, from)| *to = T::of_f64(*from));
            }
        }
        dense::mirror(base.as_mut());
        Self::of_base(base, largest, par)
    }

    fn of_base(base: Mat<T>, largest: f64, par: Par) -> Result<Self> {
        check::no_overflow("the inverse Gram matrix", base.as_ref())?;
        let pending = dense::zeros(base.nrows(), BLOCK, "pending factors")?;
        Ok(Self { base, pending, used: 0, sign: Sign::Minus, largest, par })
    }

    /// Length of the keys, `d_in`.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.base.nrows()
    }

    /// `Z = Q K` for `d_in x n` keys. Cost: one pass over `Q` and the pending block.
    ///
    /// # Errors
    /// Wrong shape.
    pub fn product(&self, keys: MatRef<'_, T>) -> Result<Mat<T>> {
        check::shape("keys", keys, self.dim(), keys.ncols())?;
        let mut Z = dense::product(self.base.as_ref(), keys, self.par);
        if self.used > 0 {
            let F = self.pending.as_ref().subcols(0, self.used);
            let coordinates = dense::product(F.transpose(), keys, self.par);
            matmul(&mut Z, Accum::Add, F, &coordinates, T::of_f64(self.sign.factor()), self.par);
        }
        Ok(Z)
    }

    /// Solves for a batch of keys; changes nothing.
    ///
    /// * `keys`: `d_in x n`, any `n` of at least 1, also above `d_in`
    ///
    /// Cost: one pass over `Q`, `O(d_in n²)`, and an `n x n` Cholesky factorisation.
    ///
    /// # Errors
    /// Wrong shape, empty batch, NaN, and [`EditError::Overflow`] if finite keys lead beyond the range of `T`.
    pub fn solve(&self, keys: MatRef<'_, T>) -> Result<Solution<T>> {
        let (Z, G) = self.small_system(keys)?;
        let gains = (0..G.nrows()).map(|i| G[(i, i)]).collect();
        let (factor, L) = self.factor(Z, G, Sign::Minus, || EditError::Singular {
            step: "the small system I + Kᵀ Q K",
            advice: "rounding has made Q indefinite; use f64, a larger lambda2, or smaller batches",
        })?;
        let mut directions = factor.clone();
        solve_upper_triangular_in_place(L.transpose(), directions.as_mut().transpose_mut(), self.par);
        let (directions, factor) = (cast::<f64, T>(directions.as_ref()), cast::<f64, T>(factor.as_ref()));
        check::no_overflow("the solution of the edit", directions.as_ref())?;
        check::no_overflow("the solution of the edit", factor.as_ref())?;
        Ok(Solution { directions, factor, gains })
    }

    /// The keys join the history: `A <- A + K Kᵀ`.
    ///
    /// # Errors
    /// As [`solve`](Self::solve); nothing is changed then.
    pub fn absorb(&mut self, keys: MatRef<'_, T>) -> Result<()> {
        let solution = self.solve(keys)?;
        self.absorb_solution(&solution);
        Ok(())
    }

    /// As [`absorb`](Self::absorb), with the solution that `solve` found for these keys in this very state.
    pub(crate) fn absorb_solution(&mut self, solution: &Solution<T>) {
        self.push(solution.factor.as_ref(), Sign::Minus);
    }

    /// The keys leave the history: `A <- A - K Kᵀ`, the exact reverse of [`absorb`](Self::absorb), in any order.
    ///
    /// Only keys that are in the history may be released; for others the result is meaningless even where no error
    /// can be seen.
    ///
    /// # Errors
    /// As [`solve`](Self::solve), and [`EditError::Singular`] if `I - G` is not positive definite, which means that
    /// the keys are not in the history, or that rounding has eaten all they left (`kᵀ Q k = 1 - 1/(1 + s)` with a
    /// huge `s`). Nothing is changed then.
    pub fn release(&mut self, keys: MatRef<'_, T>) -> Result<()> {
        let (Z, G) = self.small_system(keys)?;
        let (factor, _) = self.factor(Z, G, Sign::Plus, || EditError::Singular {
            step: "releasing keys, I - Kᵀ Q K",
            advice: "release only keys that were absorbed, each once; if they were, their norm is too large for the \
                     precision: use f64 or a larger lambda2",
        })?;
        let factor = cast::<f64, T>(factor.as_ref());
        check::no_overflow("releasing keys", factor.as_ref())?;
        self.push(factor.as_ref(), Sign::Plus);
        Ok(())
    }

    /// The directions become untouchable: `Q N = 0` from now on, for the columns `N` (`d_in x m`, any length, also
    /// dependent or constrained already).
    ///
    /// Keys along them are never written again, and no later [`release`](Self::release) brings them back.
    ///
    /// # Errors
    /// Wrong shape, empty, NaN, overflow. Nothing is changed then.
    pub fn constrain(&mut self, directions: MatRef<'_, T>) -> Result<()> {
        check::columns("directions", directions, self.dim())?;
        check::finite("directions", directions)?;
        let mut N = cast::<T, f64>(directions);
        for column in N.col_iter_mut() {
            // faer's norm neither overflows nor underflows on the way.
            let norm = column.norm_l2();
            if norm > 0.0 {
                column.iter_mut().for_each(|x| *x /= norm);
            }
        }
        let Z = cast::<T, f64>(self.product(cast::<f64, T>(N.as_ref()).as_ref())?.as_ref());
        let S = dense::product(N.transpose(), Z.as_ref(), self.par);
        let spectrum = Spectrum::of_symmetric("Nᵀ Q N", S, self.par)?;
        let rounding = tolerance::CONSTRAINED * T::EPSILON * self.largest;
        let first = spectrum.values().partition_point(|&s| s <= rounding);
        let rest = spectrum.dim() - first;
        if rest == 0 {
            return Ok(());
        }
        let root = Mat::from_fn(spectrum.dim(), rest, |i, j| {
            spectrum.vectors()[(i, first + j)] / spectrum.values()[first + j].sqrt()
        });
        let factor = cast::<f64, T>(dense::product(Z.as_ref(), root.as_ref(), self.par).as_ref());
        check::no_overflow("constraining directions", factor.as_ref())?;
        self.push(factor.as_ref(), Sign::Minus);
        Ok(())
    }

    /// `Q` as a dense matrix, `d_in x d_in`, exactly symmetric.
    #[must_use]
    pub fn dense(&self) -> Mat<T> {
        let mut Q = self.base.clone();
        let F = self.pending.as_ref().subcols(0, self.used);
        dense::add_self_outer(Q.as_mut(), F, self.sign.factor(), self.par);
        Q
    }

    /// `Z = Q K` and `G = Kᵀ Z`, in `f64` from here on.
    fn small_system(&self, keys: MatRef<'_, T>) -> Result<(Mat<f64>, Mat<f64>)> {
        check::columns("keys", keys, self.dim())?;
        check::finite("keys", keys)?;
        let Z = self.product(keys)?;
        check::no_overflow("the product Q K", Z.as_ref())?;
        let (K, Z) = (cast::<T, f64>(keys), cast::<T, f64>(Z.as_ref()));
        let G = dense::product(K.transpose(), Z.as_ref(), self.par);
        check::no_overflow("the small system Kᵀ Q K", G.as_ref())?;
        Ok((Z, G))
    }

    /// `F = Z L⁻ᵀ` with `I ± G = L Lᵀ`, so that `F Fᵀ` is the change of `Q`, and `L`.
    fn factor(
        &self,
        mut Z: Mat<f64>,
        G: Mat<f64>,
        change: Sign,
        singular: impl FnOnce() -> EditError,
    ) -> Result<(Mat<f64>, Mat<f64>)> {
        let identity = |i, j| if i == j { 1.0 } else { 0.0 };
        let system =
            Mat::from_fn(G.nrows(), G.nrows(), |i, j| identity(i, j) - change.factor() * 0.5 * (G[(i, j)] + G[(j, i)]));
        // I + G is at least 1; I - G is what rounding in `T` leaves of 1.
        let epsilon = match change {
            Sign::Minus => f64::EPSILON,
            Sign::Plus => T::EPSILON,
        };
        let n = G.nrows() as f64;
        let L = dense::cholesky(system, |diagonal| n * epsilon * diagonal.max(1.0), singular, self.par)?;
        solve_lower_triangular_in_place(L.as_ref(), Z.as_mut().transpose_mut(), self.par);
        Ok((Z, L))
    }

    /// `Q <- Q ± F Fᵀ`.
    fn push(&mut self, F: MatRef<'_, T>, sign: Sign) {
        let n = F.ncols();
        if sign != self.sign || self.used + n > BLOCK {
            self.fold();
        }
        self.sign = sign;
        if n > BLOCK {
            dense::add_self_outer(self.base.as_mut(), F, sign.factor(), self.par);
        } else {
            self.pending.as_mut().subcols_mut(self.used, n).copy_from(F);
            self.used += n;
        }
    }

    fn fold(&mut self) {
        let F = self.pending.as_ref().subcols(0, self.used);
        dense::add_self_outer(self.base.as_mut(), F, self.sign.factor(), self.par);
        self.used = 0;
    }
}

fn singular_start() -> EditError {
    EditError::Singular {
        step: "inverting the protected Gram matrix",
        advice: "the statistics have directions without energy: use lambda2 > 0, statistics over more tokens, or a \
                 projector",
    }
}
