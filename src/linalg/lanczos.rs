//! The largest singular value of a large matrix.

use faer::{Mat, MatRef, Par};

use crate::error::numerics::{NumericsError, Result};
use crate::linalg::{self, Need, Svd, svd};
use crate::scalar::Scalar;
use crate::util::{random, validate};

/// Steps between two convergence checks.
const STEPS: usize = 8;

/// Relative residual at which a singular value has converged. The error of the value is the square of this.
const CONVERGED: f64 = 1e-10;

/// The largest singular value `|A|_2` of any matrix, by Lanczos bidiagonalisation (Golub, Kahan 1965) from a random vector, with
/// full orthogonalisation.
///
/// Cost: two passes over the matrix per step. Weights of language models take some tens of steps, more if their largest
/// singular values are close together. Copies the matrix to `f64`.
///
/// # Errors
/// An empty matrix, NaN, not enough memory, or a decomposition that fails its verification.
///
/// ```
/// use betaedit_core::{faer::{mat, Par}, restraint::spectral_norm};
/// let A = mat![[3.0, 0.0], [0.0, -4.0]];
/// assert!((spectral_norm(A.as_ref(), Par::Seq)? - 4.0).abs() < 1e-14);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
pub fn spectral_norm<T: Scalar>(matrix: MatRef<'_, T>, par: Par) -> Result<f64> {
    validate::not_empty("matrix", matrix)?;
    let (rows, cols) = matrix.shape();
    Need::new("the largest singular value of a matrix", rows, cols).matrix::<f64>(rows, cols).reserve()?;
    validate::finite("matrix", matrix)?;
    // From the smaller side: its dimension bounds the number of steps.
    let (A, scale) = linalg::unit_scaled(if matrix.nrows() < matrix.ncols() { matrix.transpose() } else { matrix });
    if A.norm_l2() == 0.0 {
        return Ok(0.0);
    }
    // A V = U B with the upper bidiagonal B of `diagonal` and `above`.
    let (mut U, mut V) = (Mat::<f64>::zeros(A.nrows(), 0), Mat::<f64>::zeros(A.ncols(), 0));
    let (mut diagonal, mut above) = (Vec::new(), Vec::new());
    let mut v = unit(Mat::from_fn(A.ncols(), 1, {
        let start = random::normal(0, A.ncols());
        move |i, _| start[i]
    }))
    .0;
    loop {
        append(&mut V, &v);
        let (u, length) = unit(orthogonal(linalg::product(A.as_ref(), v.as_ref(), par), &U, par));
        append(&mut U, &u);
        diagonal.push(length);
        let (next, length) = unit(orthogonal(linalg::product(A.transpose(), u.as_ref(), par), &V, par));
        v = next;
        let k = diagonal.len();
        let last = k == A.ncols() || !(length > f64::EPSILON) || !(diagonal[k - 1] > 0.0);
        if last || k % STEPS == 0 {
            let B = Mat::from_fn(k, k, |i, j| match j.checked_sub(i) {
                Some(0) => diagonal[i],
                Some(1) => above[i],
                _ => 0.0,
            });
            let Svd { U, S, .. } = svd(B.as_ref(), Par::Seq)?;
            // |Aᵀ u - s v| for the approximate singular vectors.
            if last || length * U[(k - 1, 0)].abs() <= CONVERGED * S[0] {
                let value = S[0] * scale;
                return if value.is_finite() {
                    Ok(value)
                } else {
                    Err(NumericsError::Overflow { step: "the largest singular value", scalar: f64::NAME })
                };
            }
        }
        above.push(length);
    }
}

/// Orthogonalises a column against an orthonormal basis, twice, which is enough for full precision.
fn orthogonal(mut x: Mat<f64>, basis: &Mat<f64>, par: Par) -> Mat<f64> {
    for _ in 0..2 {
        let coordinates = linalg::product(basis.transpose(), x.as_ref(), par);
        x -= linalg::product(basis.as_ref(), coordinates.as_ref(), par);
    }
    x
}

/// A column scaled to unit length, and its length. A zero column stays zero.
fn unit(x: Mat<f64>) -> (Mat<f64>, f64) {
    let length = x.norm_l2();
    if length > 0.0 { (x * faer::Scale(1.0 / length), length) } else { (x, 0.0) }
}

fn append(columns: &mut Mat<f64>, column: &Mat<f64>) {
    let n = columns.ncols();
    columns.resize_with(column.nrows(), n + 1, |i, _| column[(i, 0)]);
}
