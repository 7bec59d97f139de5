//! The verified eigendecomposition of a symmetric positive semidefinite matrix, computed once, with progress and cancellation.

mod stages;
#[cfg(feature = "files")]
mod state;
mod verification;
mod watch;

pub use watch::{DecompositionProgress, DecompositionStage};

use std::ops::ControlFlow;

use faer::linalg::evd::EvdError;
use faer::{Mat, MatRef, Par};

use verification::probes;
use watch::Watch;

use crate::error::numerics::{NumericsError, Result};
use crate::linalg::{self, Need, tolerance};
use crate::second_moment::SecondMoment;
use crate::util::shown::shown;
use crate::util::validate;

/// Eigenvalues and eigenvectors of a symmetric positive semidefinite matrix, `C = U diag(s) Uᵀ`.
///
/// The eigenvalues ascend: the directions that the model hardly uses come first. Once this is computed, a projector for
/// any threshold is free, and the start of every method is diagonal in the eigenbasis. Share it between editors through
/// an [`Arc`](std::sync::Arc).
///
/// # Accuracy
/// The matrix is scaled to unit magnitude and decomposed in `f64`. The result is verified before it is returned: the
/// ascending order, the trace, and, on a block of 16 random vectors, the residual `C - U diag(s) Uᵀ` and the
/// orthogonality `UᵀU - I`. A relative error `e` in either of these, above the tolerance, goes unnoticed with a
/// probability that falls like `(tolerance / e)^16`. If a check fails, the decomposition is repeated once without
/// threads. If it fails again, that is an error.
///
/// # Determinism
/// The bits of the eigenvectors depend on the number of threads. Only equal `Par` guarantees equal bits.
///
/// # Cost
/// About `9 d³` flops. Memory: `5 d²` numbers, the matrix and the result included. On one core of a small server:
///
/// | `d` | time | memory |
/// |---|---|---|
/// | 512 | 0.03 s | 10 MB |
/// | 1024 | 0.2 s | 42 MB |
/// | 2048 | 1.5 s | 170 MB |
/// | 4096 | 17 s | 670 MB |
/// | 8192 | 2.2 min | 2.7 GB |
/// | 14336 | 12 min | 8.2 GB |
///
/// The times up to 4096 are measured, the others are extrapolated by `d³`. Threads pay off from a `d` of a few thousand: at 2048,
/// two threads take as long as one, at 4096 they take 9 s. From there on the first stage is four fifths of the whole, and
/// it is bound by memory more than by arithmetic.
///
/// # Long decompositions
/// [`new_watched`](Self::new_watched) reports its progress and can be cancelled. A decomposition keeps its thread busy, so
/// give it one of its own. In an asynchronous program, pass the same closure to `tokio::task::spawn_blocking` (or to the
/// equivalent of your runtime), and await the result; a decomposition inside an ordinary task would block the executor.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use std::sync::{Arc, mpsc};
/// use betaedit_core::{SecondMoment, Spectrum, faer::{Mat, Par}};
///
/// let mut moment = SecondMoment::new(50);
/// moment.observe(Mat::from_fn(50, 200, |i, j| ((i * j) as f64).sin()).as_ref(), Par::Seq)?;
///
/// let stop = Arc::new(AtomicBool::new(false)); // set it in any thread to cancel
/// let (progress, shown) = mpsc::channel();
/// let worker = std::thread::spawn({
///     let stop = Arc::clone(&stop);
///     move || {
///         Spectrum::new_watched(&moment, Par::Seq, |now| {
///             let _ = progress.send(now);
///             if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
///         })
///     }
/// });
/// for now in shown {
///     println!("{}, {:.0} % done", now.stage, 100.0 * now.done);
/// }
/// let spectrum = worker.join().expect("a decomposition does not panic")?;
/// assert_eq!(spectrum.dim(), 50);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
///
/// # Examples
/// ```
/// use betaedit_core::{SecondMoment, Spectrum, faer::{mat, Par}};
///
/// let mut moment = SecondMoment::new(2);
/// moment.observe(mat![[3.0, 3.0], [0.1, -0.1]].as_ref(), Par::Seq)?;
/// let spectrum = Spectrum::new(&moment, Par::Seq)?;
/// assert!((spectrum.values()[0] - 0.01).abs() < 1e-12);
/// assert!((spectrum.values()[1] - 9.0).abs() < 1e-12);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Spectrum {
    values: Vec<f64>,
    vectors: Mat<f64>,
    residual: f64,
    orthogonality: f64,
}

shown!([] Spectrum, "Spectrum", self => {
    "dim": self.dim(),
    "smallest": self.values[0],
    "largest": self.largest(),
    "residual": self.residual,
    "orthogonality": self.orthogonality,
});

impl Spectrum {
    /// Decomposes the mean of a [`SecondMoment`].
    ///
    /// # Errors
    /// As [`from_matrix`](Self::from_matrix), and statistics without tokens.
    pub fn new(moment: &SecondMoment, par: Par) -> Result<Self> {
        Self::new_watched(moment, par, &mut unwatched)
    }

    /// As [`new`](Self::new), to the last bit, with a watch: it is called before every stage, after every block of the
    /// back-transformation, and at the end. If it returns `Break`, the decomposition is cancelled.
    ///
    /// The first two stages cannot be divided, so a break takes effect after at most four fifths of the whole time. If the
    /// verification fails and the decomposition is repeated without threads, `done` begins at 0 again.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`NumericsError::Cancelled`] if the watch returns `Break`.
    pub fn new_watched(
        moment: &SecondMoment,
        par: Par,
        mut watch: impl FnMut(DecompositionProgress) -> ControlFlow<()>,
    ) -> Result<Self> {
        if moment.tokens() == Some(0) {
            return Err(NumericsError::Empty { argument: "second moment", item: "key" });
        }
        Self::need(moment.d_in()).reserve()?;
        Self::decompose_watched("second moment", moment.to_mean(par)?, par, &mut Watch(&mut watch))
    }

    /// Decomposes any symmetric positive semidefinite `d x d` matrix.
    ///
    /// Eigenvalues that are negative within the rounding of `f32` statistics count as zero.
    ///
    /// # Errors
    /// A matrix that is not square, empty, not symmetric, or has NaN or clearly negative eigenvalues; not enough
    /// memory; a decomposition that fails its verification.
    pub fn from_matrix(matrix: MatRef<'_, f64>, par: Par) -> Result<Self> {
        Self::from_matrix_watched(matrix, par, &mut unwatched)
    }

    /// As [`from_matrix`](Self::from_matrix), with a watch: see [`new_watched`](Self::new_watched).
    ///
    /// # Errors
    /// As [`from_matrix`](Self::from_matrix), and [`NumericsError::Cancelled`] if the watch returns `Break`.
    pub fn from_matrix_watched(
        matrix: MatRef<'_, f64>,
        par: Par,
        mut watch: impl FnMut(DecompositionProgress) -> ControlFlow<()>,
    ) -> Result<Self> {
        validate::square("matrix", matrix)?;
        Self::need(matrix.nrows()).reserve()?;
        validate::finite("matrix", matrix)?;
        validate::symmetric("matrix", matrix, tolerance::SYMMETRY)?;
        Self::decompose_watched("matrix", matrix.to_owned(), par, &mut Watch(&mut watch))
    }

    /// What a decomposition holds at once, with the matrix that is decomposed.
    pub(crate) fn need(n: usize) -> Need {
        stages::need(n).matrix::<f64>(n, n)
    }

    /// Wraps a known decomposition, computed elsewhere or earlier.
    ///
    /// * `values`: the `d` eigenvalues, ascending, none negative
    /// * `vectors`: `d x d`, column `i` belongs to eigenvalue `i`
    ///
    /// The orthogonality of the vectors is verified as for a computed decomposition. Cost: `O(d²)`.
    ///
    /// # Errors
    /// Shapes that do not fit, NaN, values out of order or negative, vectors that are not orthonormal.
    pub fn from_parts(values: Vec<f64>, vectors: Mat<f64>, par: Par) -> Result<Self> {
        if values.is_empty() {
            return Err(NumericsError::Empty { argument: "values", item: "value" });
        }
        validate::shape("vectors", vectors.as_ref(), values.len(), values.len())?;
        validate::finite("vectors", vectors.as_ref())?;
        validate::finite("values", MatRef::from_column_major_slice(&values, values.len(), 1))?;
        if let Some(index) = values.windows(2).position(|pair| pair[0] > pair[1]) {
            let (value, next) = (values[index], values[index + 1]);
            return Err(NumericsError::Unsorted { argument: "values", index, value, next });
        }
        validate::non_negative("the smallest eigenvalue", values[0])?;
        let X = probes(values.len());
        let coordinates = linalg::product(vectors.transpose(), X.as_ref(), par);
        let identity = linalg::product(vectors.as_ref(), coordinates.as_ref(), par) - &X;
        let (orthogonality, allowed) = (identity.norm_l2() / X.norm_l2(), tolerance::decomposition(values.len()));
        if !(orthogonality <= allowed) {
            return Err(NumericsError::NotOrthonormal { argument: "vectors", error: orthogonality, allowed });
        }
        Ok(Self { values, vectors, residual: 0.0, orthogonality })
    }

    /// Decomposes a symmetric positive semidefinite matrix. Only the lower triangle is read.
    pub(crate) fn decompose(argument: &'static str, matrix: Mat<f64>, par: Par) -> Result<Self> {
        Self::decompose_watched(argument, matrix, par, &mut Watch(&mut unwatched))
    }

    fn decompose_watched(argument: &'static str, matrix: Mat<f64>, par: Par, watch: &mut Watch<'_>) -> Result<Self> {
        let mut spectrum = Self::symmetric(argument, matrix, par, watch)?;
        let (smallest, largest) = (spectrum.values[0], spectrum.largest());
        // Relative to the largest magnitude, so that the squares stay in range.
        let magnitude = largest.abs().max(smallest.abs()).max(f64::MIN_POSITIVE);
        let frobenius = spectrum.values.iter().map(|s| (s / magnitude).powi(2)).sum::<f64>().sqrt();
        if smallest / magnitude < -tolerance::NEGATIVE_EIGENVALUE * frobenius {
            return Err(NumericsError::NotPositiveSemidefinite { argument, smallest, largest });
        }
        spectrum.values.iter_mut().for_each(|s| *s = s.max(0.0));
        Ok(spectrum)
    }

    /// Decomposes any symmetric matrix. Only the lower triangle is read; eigenvalues may be negative.
    pub(crate) fn from_symmetric(argument: &'static str, matrix: Mat<f64>, par: Par) -> Result<Self> {
        Self::symmetric(argument, matrix, par, &mut Watch(&mut unwatched))
    }

    fn symmetric(argument: &'static str, mut matrix: Mat<f64>, par: Par, watch: &mut Watch<'_>) -> Result<Self> {
        validate::not_empty(argument, matrix.as_ref())?;
        validate::finite(argument, matrix.as_ref())?;
        // faer's divide and conquer loses digits far from unit magnitude (measured: 7e-4 at 1e150, 6e-2 at 1e-160).
        // A power of two scales without rounding.
        let scale = linalg::power_of_two(matrix.norm_max());
        linalg::mirror(matrix.as_mut());
        faer::zip!(&mut matrix).for_each(|faer::unzip!(x)| *x /= scale);

        let mut spectrum = match Self::verified(argument, &matrix, par, watch) {
            Err(NumericsError::Decomposition { .. }) if par != Par::Seq => {
                Self::verified(argument, &matrix, Par::Seq, watch)?
            }
            outcome => outcome?,
        };
        spectrum.values.iter_mut().for_each(|s| *s *= scale);
        validate::in_range("an eigenvalue", &spectrum.values)?;
        Ok(spectrum)
    }

    fn verified(argument: &'static str, matrix: &Mat<f64>, par: Par, watch: &mut Watch<'_>) -> Result<Self> {
        let failed = |check, measured, allowed| NumericsError::Decomposition { argument, check, measured, allowed };
        let eigen = stages::decompose(matrix.as_ref(), par, watch)?
            .map_err(|EvdError::NoConvergence| failed("convergence", f64::INFINITY, 0.0))?;
        watch.begins(DecompositionStage::Verification)?;
        let errors = eigen.verify(matrix, par, failed)?;
        watch.ends()?;
        Ok(Self {
            values: eigen.values,
            vectors: eigen.vectors,
            residual: errors.residual,
            orthogonality: errors.orthogonality,
        })
    }

    /// The size `d` of the matrix.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.values.len()
    }

    /// The eigenvalues, ascending, none negative.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The eigenvectors, `d x d`; column `i` belongs to eigenvalue `i`.
    #[must_use]
    pub fn vectors(&self) -> MatRef<'_, f64> {
        self.vectors.as_ref()
    }

    /// Number of eigenvalues below `threshold`.
    #[must_use]
    pub fn count_below(&self, threshold: f64) -> usize {
        self.values.partition_point(|&s| s < threshold)
    }

    /// The largest eigenvalue.
    #[must_use]
    pub fn largest(&self) -> f64 {
        self.values[self.dim() - 1]
    }

    /// The sum of the eigenvalues.
    #[must_use]
    pub fn trace(&self) -> f64 {
        self.values.iter().sum()
    }

    /// The verified relative residual `|C X - U diag(s) Uᵀ X| / (|C| |X|)` on the random block.
    #[must_use]
    pub fn residual(&self) -> f64 {
        self.residual
    }

    /// The verified orthogonality error `|U Uᵀ X - X| / |X|` on the random block.
    #[must_use]
    pub fn orthogonality(&self) -> f64 {
        self.orthogonality
    }

    /// The matrix itself, `U diag(s) Uᵀ`. Cost: `2 d³` flops and two `d x d` matrices.
    #[must_use]
    pub fn to_matrix(&self, par: Par) -> Mat<f64> {
        let n = self.dim();
        let root = Mat::from_fn(n, n, |i, j| self.vectors[(i, j)] * self.values[j].sqrt());
        let mut matrix = Mat::zeros(n, n);
        linalg::add_self_outer(matrix.as_mut(), root.as_ref(), 1.0, par);
        matrix
    }
}

/// A watch that never breaks.
fn unwatched(_: DecompositionProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}
