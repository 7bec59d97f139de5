//! The eigendecomposition of a symmetric matrix, stage by stage.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::tridiag::tridiag_in_place;
use faer::linalg::evd::{ComputeEigenvectors, EvdError, self_adjoint_evd_scratch, tridiagonal_self_adjoint_evd};
use faer::linalg::householder::apply_block_householder_on_the_left_in_place_with_conj;
use faer::linalg::qr::no_pivoting::factor::recommended_block_size;
use faer::linalg::temp_mat_zeroed;
use faer::mat::AsMatMut;
use faer::{Conj, Mat, MatMut, MatRef, Par};

use super::watch::{DecompositionStage, Watch};
use crate::error::numerics::Result;
use crate::linalg::Need;

/// Eigenvalues, ascending, and eigenvectors.
pub(super) struct Eigen {
    pub(super) values: Vec<f64>,
    pub(super) vectors: Mat<f64>,
}

/// Bytes that [`decompose`] holds at once, the result included.
pub(super) fn need(n: usize) -> Need {
    // The vectors, the reduced matrix, and two matrices for divide and conquer; blocks of reflections, vectors.
    Need::new("a decomposition of a matrix", n, n).matrix::<f64>(n, n.saturating_mul(4)).matrix::<f64>(n, 320)
}

/// Decomposes a symmetric matrix, of which only the lower triangle is read. The result is bit for bit that of
/// `faer::linalg::evd::self_adjoint_evd`, which has the same stages in one call.
pub(super) fn decompose(
    matrix: MatRef<'_, f64>,
    par: Par,
    watch: &mut Watch<'_>,
) -> Result<std::result::Result<Eigen, EvdError>> {
    let (n, need) = (matrix.nrows(), need(matrix.nrows()));
    watch.begins(DecompositionStage::Reduction)?;
    need.reserve()?;
    let mut vectors = need.zeros::<f64>(n, n)?;
    let mut values = faer::Col::<f64>::zeros(n);
    let scratch = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, par, Default::default());
    let mut buffer = MemBuffer::try_new(scratch).map_err(|_| need.missing())?;
    let stack = MemStack::new(&mut buffer);

    let (mut reduced, stack) = temp_mat_zeroed::<f64, _, _>(n, n, stack);
    let mut reduced: MatMut<'_, f64> = reduced.as_mat_mut();
    reduced.copy_from_triangular_lower(matrix);
    let block = recommended_block_size::<f64>(n, n);
    let (mut reflections, stack) = temp_mat_zeroed::<f64, _, _>(block, n - 1, stack);
    let mut reflections: MatMut<'_, f64> = reflections.as_mat_mut();
    tridiag_in_place(reduced.as_mut(), reflections.as_mut(), par, stack, Default::default());
    let (reduced, reflections) = (reduced.as_ref(), reflections.as_ref());

    watch.begins(DecompositionStage::Solution)?;
    let diagonal = faer::Col::from_fn(n, |i| reduced[(i, i)]);
    let below = faer::Col::from_fn(n, |i| if i + 1 < n { reduced[(i + 1, i)] } else { 0.0 });
    let (into, params) = (values.as_diagonal_mut(), Default::default());
    let (diagonal, below) = (diagonal.as_diagonal(), below.as_diagonal());
    if let Err(error) = tridiagonal_self_adjoint_evd(diagonal, below, into, Some(vectors.as_mut()), par, stack, params)
    {
        return Ok(Err(error));
    }

    watch.begins(DecompositionStage::BackTransformation)?;
    transform_back(reduced, reflections, vectors.as_mut(), par, stack, watch)?;
    Ok(Ok(Eigen { values: values.iter().copied().collect(), vectors }))
}

/// Applies the reflections of the reduction to the eigenvectors, the last block first.
fn transform_back(
    reduced: MatRef<'_, f64>,
    reflections: MatRef<'_, f64>,
    mut vectors: MatMut<'_, f64>,
    par: Par,
    stack: &mut MemStack,
    watch: &mut Watch<'_>,
) -> Result<()> {
    let n = reduced.nrows() - 1;
    let basis = reduced.submatrix(1, 0, n, n);
    let block = reflections.nrows();
    for first in (0..n).step_by(block).rev() {
        let width = block.min(n - first);
        apply_block_householder_on_the_left_in_place_with_conj(
            basis.submatrix(first, first, n - first, width),
            reflections.submatrix(0, first, width, width),
            Conj::No,
            vectors.as_mut().subrows_mut(1 + first, n - first),
            par,
            stack,
        );
        // A block costs as much as it has rows.
        watch.transformed((1.0 - first as f64 / n as f64).powi(2))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use faer::linalg::evd::self_adjoint_evd;

    use super::*;

    /// Sizes around those at which block sizes, the algorithm, and the use of threads change.
    #[test]
    fn the_stages_are_the_whole_to_the_last_bit() {
        for n in [1, 2, 3, 16, 17, 33, 127, 128, 129, 300, 520] {
            let entry = |i: usize, j: usize| ((i * j * 37 + i + j) as f64).sin() + f64::from(i == j) * (i % 7) as f64;
            let matrix = Mat::from_fn(n, n, entry);
            for par in [Par::Seq, Par::rayon(2), Par::rayon(3)] {
                let scratch = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, par, Default::default());
                assert!(scratch.size_bytes() <= need(n).total(), "{n}");
                let (mut U, mut S) = (Mat::<f64>::zeros(n, n), faer::Col::<f64>::zeros(n));
                self_adjoint_evd(
                    matrix.as_ref(),
                    S.as_diagonal_mut(),
                    Some(U.as_mut()),
                    par,
                    MemStack::new(&mut MemBuffer::new(scratch)),
                    Default::default(),
                )
                .unwrap();
                let mut never = |_| ControlFlow::Continue(());
                let eigen = decompose(matrix.as_ref(), par, &mut Watch(&mut never)).unwrap().unwrap();
                assert!(eigen.values.iter().zip(S.iter()).all(|(a, b)| a.to_bits() == b.to_bits()), "{n} {par:?}");
                let same =
                    |j| eigen.vectors.col(j).iter().zip(U.col(j).iter()).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!((0..n).all(same), "{n} {par:?}");
            }
        }
    }
}
