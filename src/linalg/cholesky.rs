//! Cholesky factorisation with a floor for every pivot.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::{self, factor::LltError};
use faer::{Mat, Par};

use crate::error::numerics::{NumericsError, Result};
use crate::linalg::Need;

/// The lower Cholesky factor of a symmetric matrix. Only the lower triangle is read; the strict upper triangle of the
/// factor is zero.
///
/// `floors` holds, for each row, the smallest squared pivot that is more than rounding. `singular` makes the error for
/// a pivot below it.
pub(crate) fn cholesky(
    mut matrix: Mat<f64>,
    floors: &[f64],
    singular: impl FnOnce(usize) -> NumericsError,
    par: Par,
) -> Result<Mat<f64>> {
    let n = matrix.nrows();
    let scratch = llt::factor::cholesky_in_place_scratch::<f64>(n, par, Default::default());
    let need = Need::new("a Cholesky factorisation", n, n).bytes(scratch.size_bytes());
    let mut buffer = MemBuffer::try_new(scratch).map_err(|_| need.missing())?;
    let factored = llt::factor::cholesky_in_place(
        matrix.as_mut(),
        Default::default(),
        par,
        MemStack::new(&mut buffer),
        Default::default(),
    );
    let too_small = |&i: &usize| !(matrix[(i, i)] * matrix[(i, i)] > floors[i]);
    match factored {
        Err(LltError::NonPositivePivot { index }) => return Err(singular(index)),
        Ok(_) => {
            if let Some(pivot) = (0..n).find(too_small) {
                return Err(singular(pivot));
            }
        }
    }
    for j in 1..n {
        matrix.as_mut().col_mut(j).subrows_mut(0, j).fill(0.0);
    }
    Ok(matrix)
}
