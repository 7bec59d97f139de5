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
/// A product of the matrix with random vectors has all directions of its range. The error is a difference of squares, exact to about
/// 2e-8 of the norm.
pub(crate) fn range_of<T: Scalar>(matrix: MatRef<'_, T>, share: f64, par: Par) -> Result<Range> {
    let (rows, cols) = matrix.shape();
    Need::new("the range of a matrix", rows, cols).matrix::<f64>(rows, cols).reserve()?;
    let (D, scale) = unit_scaled(matrix);
    let (whole, largest) = (D.squared_norm_l2(), rows.min(cols));
    let (mut basis, mut within, mut held) = (Mat::zeros(rows, 0), Mat::zeros(0, cols), 0.0);
    loop {
        let missing = (whole - held).max(0.0).sqrt();
        let held_enough = basis.ncols() > 0 && missing <= share * whole.sqrt();
        if held_enough || basis.ncols() == largest {
            return Ok(Range { basis, within, scale, missing });
        }
        let more = basis.ncols().max(FIRST).min(largest - basis.ncols());
        let normal = random::normal(basis.ncols() as u64, cols * more);
        let random = Mat::from_fn(cols, more, |i, j| normal[j * cols + i]);
        let mut found = product(D.as_ref(), random.as_ref(), par);
        // Twice is enough: what is left of a column that the basis holds is rounding, and becomes a direction of its own.
        for _ in 0..2 {
            let inside = product(basis.transpose(), found.as_ref(), par);
            found -= product(basis.as_ref(), inside.as_ref(), par);
            found = qr(found.as_ref(), par)?.basis;
        }
        let new = product(found.transpose(), D.as_ref(), par);
        held += new.squared_norm_l2();
        basis = side_by_side(basis.as_ref(), found.as_ref());
        within = side_by_side(within.transpose(), new.transpose()).transpose().to_owned();
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
