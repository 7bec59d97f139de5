//! Checks of arguments, all of them made before the first arithmetic.

use faer::{ColRef, MatRef};

use crate::error::numerics::{NumericsError, Result, Shape};
use crate::scalar::Scalar;
use crate::util::vectorized::vectorized;

pub(crate) fn shape<T>(argument: &'static str, matrix: MatRef<'_, T>, rows: usize, cols: usize) -> Result<()> {
    let expected = Shape { rows, cols };
    let found = Shape::from(matrix.shape());
    if found == expected { Ok(()) } else { Err(NumericsError::Shape { argument, expected, found }) }
}

/// At least one row and one column, and `rows` rows.
pub(crate) fn columns<T>(argument: &'static str, matrix: MatRef<'_, T>, rows: usize) -> Result<()> {
    shape(argument, matrix, rows, matrix.ncols())?;
    not_empty(argument, matrix)
}

pub(crate) fn square<T>(argument: &'static str, matrix: MatRef<'_, T>) -> Result<()> {
    shape(argument, matrix, matrix.nrows(), matrix.nrows())?;
    not_empty(argument, matrix)
}

pub(crate) fn not_empty<T>(argument: &'static str, matrix: MatRef<'_, T>) -> Result<()> {
    let item = match matrix.shape() {
        (0, 0) => "row and one column",
        (0, _) => "row",
        (_, 0) => "column",
        _ => return Ok(()),
    };
    Err(NumericsError::Empty { argument, item })
}

/// The matrix or its transpose: the one whose columns are contiguous in memory, if either is.
pub(crate) fn along_memory<T>(matrix: MatRef<'_, T>) -> MatRef<'_, T> {
    if matrix.row_stride() == 1 { matrix } else { matrix.transpose() }
}

pub(crate) fn finite<T: Scalar>(argument: &'static str, matrix: MatRef<'_, T>) -> Result<()> {
    // Along contiguous memory, and without an early exit, this runs in vector registers.
    let all_finite = |line: ColRef<'_, T>| match line.try_as_col_major() {
        Some(line) => vectorized(
            #[inline(always)]
            || {
                let mut all = true;
                for x in line.as_slice() {
                    all &= x.to_f64().is_finite();
                }
                all
            },
        ),
        None => line.iter().all(|x| x.to_f64().is_finite()),
    };
    if along_memory(matrix).col_iter().all(all_finite) {
        return Ok(());
    }
    for (col, column) in matrix.col_iter().enumerate() {
        for (row, x) in column.iter().enumerate() {
            let value = x.to_f64();
            if !value.is_finite() {
                return Err(NumericsError::NonFinite { argument, row, col, value });
            }
        }
    }
    Ok(())
}

/// Like [`finite`], for results: finite inputs can still overflow.
pub(crate) fn no_overflow<T: Scalar>(step: &'static str, matrix: MatRef<'_, T>) -> Result<()> {
    match finite(step, matrix) {
        Ok(()) => Ok(()),
        Err(_) => Err(NumericsError::Overflow { step, scalar: T::NAME }),
    }
}

/// Checks that all results are in range.
pub(crate) fn in_range(step: &'static str, values: &[f64]) -> Result<()> {
    if values.iter().all(|x| x.is_finite()) { Ok(()) } else { Err(NumericsError::Overflow { step, scalar: f64::NAME }) }
}

/// Symmetric to a relative `tolerance` of the largest entry.
pub(crate) fn symmetric<T: Scalar>(argument: &'static str, matrix: MatRef<'_, T>, tolerance: f64) -> Result<()> {
    let (mut worst, mut at, mut largest) = (0.0_f64, (0, 0), 0.0_f64);
    for j in 0..matrix.ncols() {
        largest = largest.max(matrix[(j, j)].to_f64().abs());
        for i in j + 1..matrix.nrows() {
            let (lower, upper) = (matrix[(i, j)].to_f64(), matrix[(j, i)].to_f64());
            largest = largest.max(lower.abs()).max(upper.abs());
            let difference = (lower - upper).abs();
            if difference > worst {
                (worst, at) = (difference, (i, j));
            }
        }
    }
    if worst <= tolerance * largest {
        Ok(())
    } else {
        Err(NumericsError::NotSymmetric { argument, row: at.0, col: at.1, difference: worst })
    }
}

/// Refuses NaN and infinity.
pub(crate) fn finite_number(parameter: &'static str, value: f64) -> Result<()> {
    if value.is_finite() {
        Ok(())
    } else {
        Err(NumericsError::Parameter { parameter, value, allowed: "a finite number" })
    }
}

pub(crate) fn non_negative(parameter: &'static str, value: f64) -> Result<()> {
    if value >= 0.0 && value.is_finite() {
        Ok(())
    } else {
        Err(NumericsError::Parameter { parameter, value, allowed: "a finite number that is not negative" })
    }
}

pub(crate) fn positive(parameter: &'static str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        Ok(())
    } else {
        Err(NumericsError::Parameter { parameter, value, allowed: "a finite number above zero" })
    }
}
