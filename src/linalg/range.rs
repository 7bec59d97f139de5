//! The range of a matrix of low rank.

use faer::{Mat, MatRef, Par};

use super::svd::qr;
use super::{Need, product, side_by_side, unit_scaled};
use crate::error::numerics::Result;
use crate::scalar::Scalar;
use crate::util::random;

/// Columns that the basis grows by at first; then it doubles.
const FIRST: usize = 16;

/// A matrix as `scale basis within`, but for what is missing.
pub(crate) struct Range {
    /// `rows x r`, orthonormal.
    pub(crate) basis: Mat<f64>,
    /// `r x cols`.
    pub(crate) within: Mat<f64>,
    pub(crate) scale: f64,
    /// Frobenius norm of what the basis does not hold, before the scale.
    pub(crate) missing: f64,
}

/// A basis that holds a matrix but for a share of its Frobenius norm.
///
/// Products of the matrix with random vectors have all directions of its range. Their basis is made anew when it grows: reflections give
/// orthonormal columns also where the products have no more directions. The error is a difference of squares, exact to about 2e-8 of the
/// norm.
pub(crate) fn range_of<T: Scalar>(matrix: MatRef<'_, T>, share: f64, par: Par) -> Result<Range> {
    let (rows, cols) = matrix.shape();
    let need = |columns: usize| {
        // Products and basis, the random vectors or what is within, and the new half of each.
        let need = Need::new("the range of a matrix", rows, cols).matrix::<f64>(rows, cols);
        need.matrix::<f64>(rows, 2 * columns).matrix::<f64>(cols, 2 * columns)
    };
    need(FIRST).reserve()?;
    let (D, scale) = unit_scaled(matrix);
    let (whole, largest) = (D.squared_norm_l2(), rows.min(cols));
    let mut products = Mat::zeros(rows, 0);
    loop {
        let (before, columns) =
            (products.ncols(), (2 * products.ncols()).clamp(FIRST, largest.max(FIRST)).min(largest));
        need(columns).reserve()?;
        let mut random = Mat::zeros(cols, columns - before);
        for (j, column) in random.col_iter_mut().enumerate() {
            let normal = random::normal((before + j) as u64, cols);
            column.iter_mut().zip(normal).for_each(|(to, x)| *to = x);
        }
        products = side_by_side(products.as_ref(), product(D.as_ref(), random.as_ref(), par).as_ref());
        drop(random);
        let basis = qr(products.as_ref(), par)?.basis;
        let within = product(basis.transpose(), D.as_ref(), par);
        let missing = (whole - within.squared_norm_l2()).max(0.0).sqrt();
        if missing <= share * whole.sqrt() || columns == largest {
            return Ok(Range { basis, within, scale, missing });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn low(rows: usize, cols: usize, rank: usize) -> Mat<f64> {
        let (a, b) = (random::normal(1, rows * rank), random::normal(2, cols * rank));
        let left = Mat::from_fn(rows, rank, |i, j| a[j * rows + i]);
        left * Mat::from_fn(rank, cols, |i, j| b[i * cols + j] * 10.0_f64.powi((i % 9) as i32 - 6))
    }

    /// Directions of the range that a larger basis has no more of: it holds them once.
    #[test]
    fn rows_and_columns_of_zeros_are_held() {
        let some = |at: usize, n: usize| at.is_multiple_of(n);
        let rows = Mat::from_fn(50, 80, |i, j| if i < 20 { ((i * 80 + j) as f64).sin() } else { 0.0 });
        let fourth = Mat::from_fn(300, 400, |i, j| if some(i, 4) { ((i * 7 + j * j) as f64).cos() } else { 0.0 });
        let diagonal =
            |n: usize, ones: usize| Mat::from_fn(n, n, |i, j| if i == j && i < ones { 1.0 + i as f64 } else { 0.0 });
        for D in [rows, fourth.transpose().to_owned(), fourth, diagonal(60, 20), diagonal(60, 40), diagonal(60, 17)] {
            let range = range_of(D.as_ref(), 1e-7, Par::Seq).unwrap();
            let error = (&range.basis * &range.within * faer::Scale(range.scale) - &D).norm_l2();
            assert!(error <= 1.5e-7 * D.norm_l2(), "{error:e}");
            let gram = range.basis.transpose() * &range.basis;
            assert!((&gram - Mat::<f64>::identity(gram.nrows(), gram.nrows())).norm_max() < 1e-13);
        }
    }

    #[test]
    fn a_range_holds_its_matrix() {
        for (rows, cols, rank) in [(1, 1, 1), (30, 80, 3), (80, 30, 17), (50, 50, 50), (40, 60, 0), (200, 150, 33)] {
            for scale in [1e-150, 1.0, 1e150] {
                let D = low(rows, cols, rank) * faer::Scale(scale);
                let range = range_of(D.as_ref(), 1e-7, Par::Seq).unwrap();
                let found = &range.basis * &range.within * faer::Scale(range.scale);
                let size = D.norm_l2();
                assert!((&found - &D).norm_l2() <= 1.5e-7 * size, "{rows} {cols} {rank} {scale}");
                assert!(range.missing * range.scale <= 1e-7 * size);
                assert!(range.basis.ncols() <= (2 * rank.max(FIRST)).min(rows.min(cols)));
                let gram = range.basis.transpose() * &range.basis;
                let r = gram.nrows();
                assert!((gram - Mat::<f64>::identity(r, r)).norm_max() < 1e-13);
            }
        }
    }
}
