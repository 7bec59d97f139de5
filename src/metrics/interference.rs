//! Interference: whether updates help or undo each other.

use faer::{Mat, MatRef, Par};

use crate::error::numerics::{NumericsError, Result};
use crate::linalg::{self, Need};
use crate::scalar::{Scalar, cast};
use crate::update::Update;
use crate::util::shown::{Shown, shown};
use crate::util::validate;

/// The inner products `<Delta_i, Delta_j> = tr(Delta_i Delta_jᵀ)` of a list of updates.
///
/// # Examples
/// ```
/// use betaedit_core::{Update, faer::{mat, Par}, metrics::Interference};
///
/// let a = Update::from_factors(mat![[1.0]], mat![[1.0, 1.0]])?;
/// let b = Update::from_factors(mat![[-1.0]], mat![[0.0, 1.0]])?;
/// let interference = Interference::new(&[a, b], Par::Seq)?;
/// assert_eq!(interference.matrix()[(0, 1)], -1.0);
/// assert_eq!(interference.worst(), Some((1, 0, -1.0 / 2.0_f64.sqrt())));
/// assert!(!interference.is_non_conflicting(1e-12));
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Interference {
    matrix: Mat<f64>,
}

shown!([] Interference, "Interference", self => {
    "matrix": Shown::from(self.matrix.shape()),
    "worst": self.worst(),
});

impl Interference {
    /// Computes all pairs, in `f64`. Cost: `O(N² (d_in + d_out))` for updates with `N` columns in total, and two
    /// `N x N` matrices. For the updates of a long run, take a sample.
    ///
    /// # Errors
    /// An empty list, updates of different weights, or overflow.
    pub fn new<T: Scalar>(updates: &[Update<T>], par: Par) -> Result<Self> {
        let Some(first) = updates.first() else {
            return Err(NumericsError::Empty { argument: "updates", item: "update" });
        };
        let total: usize = updates.iter().map(Update::rank).sum();
        // The factors, and two matrices of inner products.
        let (d, n) = (first.d_out().saturating_add(first.d_in()), total);
        let need = Need::new("the interference of updates", n, n).matrix::<f64>(d, n);
        need.matrix::<f64>(n, n.saturating_mul(3)).reserve()?;
        let mut L = Mat::<f64>::zeros(first.d_out(), total);
        let mut R = Mat::<f64>::zeros(first.d_in(), total);
        let mut starts = Vec::with_capacity(updates.len());
        let mut start = 0;
        for update in updates {
            let n = update.rank();
            update.check_shape("updates", first.d_out(), first.d_in())?;
            L.as_mut().subcols_mut(start, n).copy_from(cast::<T, f64>(update.left()));
            R.as_mut().subcols_mut(start, n).copy_from(cast::<T, f64>(update.right().transpose()));
            starts.push((start, n));
            start += n;
        }
        let LL = linalg::product(L.transpose(), L.as_ref(), par);
        let RR = linalg::product(R.transpose(), R.as_ref(), par);
        let matrix = Mat::from_fn(updates.len(), updates.len(), |i, j| {
            let ((a, n), (b, m)) = (starts[i], starts[j]);
            linalg::inner(LL.as_ref().submatrix(a, b, n, m), RR.as_ref().submatrix(a, b, n, m))
        });
        validate::no_overflow("the inner products of the updates", matrix.as_ref())?;
        Ok(Self { matrix })
    }

    /// The symmetric matrix of inner products; the diagonal holds the squared norms.
    #[must_use]
    pub fn matrix(&self) -> MatRef<'_, f64> {
        self.matrix.as_ref()
    }

    /// The most conflicting pair, `(later, earlier, cosine)`. If no pair conflicts, the pair that agrees least. `None`
    /// if fewer than two updates are nonzero.
    #[must_use]
    pub fn worst(&self) -> Option<(usize, usize, f64)> {
        let M = &self.matrix;
        let pairs = (0..M.nrows()).flat_map(|i| (0..i).map(move |j| (i, j)));
        pairs
            .map(|(i, j)| (i, j, M[(i, j)] / (M[(i, i)].sqrt() * M[(j, j)].sqrt())))
            .filter(|(_, _, cosine)| cosine.is_finite())
            .min_by(|a, b| a.2.total_cmp(&b.2))
    }

    /// Whether no pair has a cosine below `-tolerance`: the non-conflict assumption of the BetaEdit paper's Theorem 1.
    #[must_use]
    pub fn is_non_conflicting(&self, tolerance: f64) -> bool {
        self.worst().is_none_or(|(_, _, cosine)| cosine >= -tolerance)
    }
}
