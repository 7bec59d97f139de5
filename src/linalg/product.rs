//! The few dense kernels that every room needs, on top of faer.

use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};

use crate::scalar::Scalar;

/// `dst <- alpha lhs rhs`, or `dst <- dst + alpha lhs rhs`.
///
/// Every thread has its own rows or columns. With a `d x d` matrix and some hundred columns this keeps two threads busy
/// 97 % of the time; one shared product keeps them busy 75 to 90 %.
pub(crate) fn matmul<T: Scalar>(
    dst: MatMut<'_, T>,
    accum: Accum,
    lhs: MatRef<'_, T>,
    rhs: MatRef<'_, T>,
    alpha: T,
    par: Par,
) {
    use faer::linalg::matmul::matmul;
    let (rows, columns) = (dst.nrows(), dst.ncols());
    let threads = if rows * columns * lhs.ncols() < WORTH_SHARING { 1 } else { par.degree() };
    if threads > 1 && rows >= threads * ROWS {
        let parts = dst.par_row_partition_mut(threads).zip(lhs.par_row_partition(threads));
        parts.for_each(|(dst, lhs)| matmul(dst, accum, lhs, rhs, alpha, Par::Seq));
    } else if threads > 1 && columns >= threads * COLUMNS {
        let parts = dst.par_col_partition_mut(threads).zip(rhs.par_col_partition(threads));
        parts.for_each(|(dst, rhs)| matmul(dst, accum, lhs, rhs, alpha, Par::Seq));
    } else {
        matmul(dst, accum, lhs, rhs, alpha, par);
    }
}

/// The least work for a thread: this many rows or columns.
const ROWS: usize = 128;
const COLUMNS: usize = 64;

/// Number of multiplications from which threads pay off.
const WORTH_SHARING: usize = 1 << 17;

/// `lhs * rhs`.
pub(crate) fn product<T: Scalar>(lhs: MatRef<'_, T>, rhs: MatRef<'_, T>, par: Par) -> Mat<T> {
    let mut dst = Mat::zeros(lhs.nrows(), rhs.ncols());
    matmul(dst.as_mut(), Accum::Replace, lhs, rhs, T::from_f64(1.0), par);
    dst
}

/// `dst += alpha F Fᵀ` for a symmetric `dst`, which stays exactly symmetric.
pub(crate) fn add_self_outer<T: Scalar>(mut dst: MatMut<'_, T>, F: MatRef<'_, T>, alpha: f64, par: Par) {
    triangular::matmul(
        dst.as_mut(),
        BlockStructure::TriangularLower,
        Accum::Add,
        F,
        BlockStructure::Rectangular,
        F.transpose(),
        BlockStructure::Rectangular,
        T::from_f64(alpha),
        par,
    );
    mirror(dst);
}

/// `F Fᵀ`, exactly symmetric.
pub(crate) fn self_outer(F: MatRef<'_, f64>, par: Par) -> Mat<f64> {
    let mut dst = Mat::zeros(F.nrows(), F.nrows());
    add_self_outer(dst.as_mut(), F, 1.0, par);
    dst
}

/// Copies the lower triangle onto the upper one, tile by tile so that both sides stay in cache.
pub(crate) fn mirror<T: Scalar>(mut matrix: MatMut<'_, T>) {
    const TILE: usize = 32;
    let n = matrix.nrows();
    for col in (0..n).step_by(TILE) {
        for row in (col..n).step_by(TILE) {
            for j in col..(col + TILE).min(n) {
                for i in row.max(j + 1)..(row + TILE).min(n) {
                    matrix[(j, i)] = matrix[(i, j)];
                }
            }
        }
    }
}

/// `tr(A Bᵀ)`, the inner product of two matrices of the same shape.
pub(crate) fn inner(A: MatRef<'_, f64>, B: MatRef<'_, f64>) -> f64 {
    A.col_iter().zip(B.col_iter()).map(|(a, b)| a.iter().zip(b.iter()).map(|(x, y)| x * y).sum::<f64>()).sum()
}

/// The squared Euclidean norm of every column.
pub(crate) fn squared_column_norms<T: Scalar>(matrix: MatRef<'_, T>) -> Vec<f64> {
    matrix.col_iter().map(|column| column.iter().map(|x| x.to_f64() * x.to_f64()).sum()).collect()
}

/// The Euclidean norm of every column, accurate whenever the columns themselves are in range.
pub(crate) fn column_norms<T: Scalar>(matrix: MatRef<'_, T>) -> Vec<f64> {
    let norm = |column: faer::ColRef<'_, T>| {
        let sum: f64 = column.iter().map(|x| x.to_f64() * x.to_f64()).sum();
        if (1e-280..1e280).contains(&sum) {
            return sum.sqrt();
        }
        let largest = column.iter().fold(0.0_f64, |max, x| max.max(x.to_f64().abs()));
        let sum: f64 = column.iter().map(|x| (x.to_f64() / largest).powi(2)).sum();
        if largest > 0.0 { largest * sum.sqrt() } else { 0.0 }
    };
    matrix.col_iter().map(norm).collect()
}

/// The largest absolute value.
pub(crate) fn largest<T: Scalar>(matrix: MatRef<'_, T>) -> f64 {
    matrix.col_iter().flat_map(|column| column.iter()).fold(0.0, |max, x| max.max(x.to_f64().abs()))
}

/// The matrix divided by a power of two that brings its largest entry to unit magnitude, and that power.
pub(crate) fn unit_scaled<T: Scalar>(matrix: MatRef<'_, T>) -> (Mat<f64>, f64) {
    let scale = power_of_two(largest(matrix));
    (Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)].to_f64() / scale), scale)
}

/// The power of two at or below a positive number, 1 for zero.
pub(crate) fn power_of_two(x: f64) -> f64 {
    if x > 0.0 { x.log2().floor().exp2().max(f64::MIN_POSITIVE) } else { 1.0 }
}

/// A sum of squares that rounding may have made negative. NaN stays NaN.
pub(crate) fn clamped(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

/// Columns `[A, B]` side by side.
pub(crate) fn side_by_side(A: MatRef<'_, f64>, B: MatRef<'_, f64>) -> Mat<f64> {
    Mat::from_fn(A.nrows(), A.ncols() + B.ncols(), |i, j| if j < A.ncols() { A[(i, j)] } else { B[(i, j - A.ncols())] })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shared out by rows, by columns, and not; added and replaced.
    #[test]
    fn a_product_is_the_same_however_it_is_shared_out() {
        let entry = |i: usize, j: usize| ((i * 37 + j * 101) % 64) as f64 / 32.0 - 1.0;
        for (rows, inner, columns) in [(5, 3, 4), (1031, 70, 9), (1030, 300, 1), (7, 200, 403), (600, 40, 500)] {
            let (A, B) = (Mat::from_fn(rows, inner, entry), Mat::from_fn(inner, columns, |i, j| entry(j, i + 5)));
            let once = Mat::from_fn(rows, columns, |i, j| (0..inner).map(|k| A[(i, k)] * B[(k, j)]).sum::<f64>());
            for par in [Par::Seq, Par::rayon(2), Par::rayon(5)] {
                let mut twice = product(A.as_ref(), B.as_ref(), par);
                matmul(twice.as_mut(), Accum::Add, A.as_ref(), B.as_ref(), 1.0, par);
                let error = (&twice - 2.0 * &once).norm_max() / inner as f64;
                assert!(error < 1e-15, "{rows} x {inner} x {columns}: {error:e}");
            }
        }
    }
}
