//! A start on the whole space, from a Cholesky factorisation.

use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Mat, MatRef, Par};

use super::InverseGram;
use crate::error::numerics::{NumericsError, Result};
use crate::linalg::{self, Need, tolerance};
use crate::projector::singular_start;
use crate::scalar::{Scalar, cast};
use crate::second_moment::SecondMoment;
use crate::util::validate;

/// The lower Cholesky factor of `A0 = weight C + ridge I`.
#[derive(Clone)]
pub(crate) struct WholeStart {
    L: Mat<f64>,
    ridge: f64,
}

impl WholeStart {
    /// Factors `A0`. Cost: `d_in³ / 3` flops, and `8 d_in²` bytes.
    pub(crate) fn new(C: &SecondMoment, weight: f64, ridge: f64, par: Par) -> Result<Self> {
        validate::non_negative("weight", weight)?;
        validate::non_negative("ridge", ridge)?;
        let n = C.d_in();
        Self::need(n).reserve()?;
        let mut A = C.to_mean(par)?;
        for j in 0..n {
            A.as_mut().col_mut(j).iter_mut().for_each(|x| *x *= weight);
            A[(j, j)] += ridge;
        }
        validate::no_overflow("the protected Gram matrix", A.as_ref())?;
        let floors: Vec<f64> = (0..n).map(|i| tolerance::singular(n) * A[(i, i)]).collect();
        Ok(Self { L: linalg::cholesky(A, &floors, singular_start, par)?, ridge })
    }

    /// What a start with keys of length `d` holds while it is computed: the factor and its inverse.
    pub(crate) fn need(d: usize) -> Need {
        Need::new("a start on the whole space", d, d).matrix::<f64>(d, d).matrix::<f64>(d, d)
    }

    pub(crate) fn dim(&self) -> usize {
        self.L.nrows()
    }

    /// `Q = A0⁻¹`. Cost: `4/3 d_in³` flops.
    pub(crate) fn inverse(&self, par: Par) -> Result<InverseGram> {
        let n = self.dim();
        let need = InverseGram::need(n, n);
        need.reserve()?;
        let mut inverse = need.zeros(n, n)?;
        invert_lower_triangular(inverse.as_mut(), self.L.as_ref(), par);
        // The trace bounds the largest eigenvalue. So does `1 / ridge`, even after keys are released.
        let largest = if self.ridge > 0.0 { 1.0 / self.ridge } else { inverse.squared_norm_l2() };
        // `Q = L⁻ᵀ L⁻¹`, a product of a matrix with its transpose, so it is symmetric and semidefinite.
        InverseGram::from_root(inverse.transpose(), largest, need, par)
    }

    /// `s = kᵀ A0⁻¹ k` of every key. Cost: `d_in² n` flops.
    pub(crate) fn stability<T: Scalar>(&self, keys: MatRef<'_, T>, par: Par) -> Result<Vec<f64>> {
        validate::columns("keys", keys, self.dim())?;
        validate::finite("keys", keys)?;
        let mut whitened = cast::<T, f64>(keys);
        solve_lower_triangular_in_place(self.L.as_ref(), whitened.as_mut(), par);
        let s = linalg::squared_column_norms(whitened.as_ref());
        validate::in_range("the whitened norm of a key", &s)?;
        Ok(s)
    }
}

impl InverseGram {
    /// `Q = (weight C + ridge I)⁻¹` on the whole space, by a Cholesky factorisation of the moment: no eigendecomposition is needed.
    ///
    /// * `C`: the second moment of keys of length `d_in`
    /// * `weight`: `lambda` of MEMIT
    ///
    /// Cost: about `5/3 d_in³` flops at the speed of a matrix product, where the decomposition takes `9 d_in³` at half of it;
    /// `16 d_in²` bytes of workspace.
    ///
    /// # Errors
    /// A moment of no key, negative or non-finite numbers; [`NumericsError::Singular`] if the matrix is not positive definite to working
    /// precision: use a ridge.
    pub fn from_moment(C: &SecondMoment, weight: f64, ridge: f64, par: Par) -> Result<Self> {
        WholeStart::new(C, weight, ridge, par)?.inverse(par)
    }
}

/// A recipe that needs the eigenvectors of the statistics.
pub(crate) fn needs_spectrum(what: &str) -> NumericsError {
    NumericsError::Unsupported { what: format!("{what} without the spectrum of the statistics: decompose them") }
}
