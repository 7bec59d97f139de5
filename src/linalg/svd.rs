//! Thin QR and singular value decompositions, verified.

use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj,
};
use faer::linalg::qr::no_pivoting::factor::{qr_in_place, qr_in_place_scratch, recommended_block_size};
use faer::linalg::svd::{ComputeSvdVectors, SvdError, svd_scratch};
use faer::{Conj, Mat, MatRef, Par};

use super::{Need, product, tolerance, unit_scaled};
use crate::error::numerics::{NumericsError, Result};
use crate::scalar::Scalar;

/// A matrix as an orthonormal basis times a triangle times a power of two.
pub(crate) struct Qr {
    pub(crate) basis: Mat<f64>,
    pub(crate) triangle: Mat<f64>,
    pub(crate) scale: f64,
}

/// The thin QR decomposition, by Householder reflections.
pub(crate) fn qr<T: Scalar>(factor: MatRef<'_, T>, par: Par) -> Result<Qr> {
    let (mut factor, scale) = unit_scaled(factor);
    let (rows, cols) = factor.shape();
    let size = rows.min(cols);
    let block = recommended_block_size::<f64>(rows, cols);
    let mut coefficients = Mat::zeros(block, size);
    let factoring = qr_in_place_scratch::<f64>(rows, cols, block, par, Default::default());
    let forming = apply_block_householder_sequence_on_the_left_in_place_scratch::<f64>(rows, block, size);
    let mut buffer = scratch(StackReq::any_of(&[factoring, forming]), (rows, cols))?;
    let stack = MemStack::new(&mut buffer);
    qr_in_place(factor.as_mut(), coefficients.as_mut(), par, stack, Default::default());
    let triangle = Mat::from_fn(size, cols, |i, j| if i <= j { factor[(i, j)] } else { 0.0 });
    let mut basis = Mat::identity(rows, size);
    apply_block_householder_sequence_on_the_left_in_place_with_conj(
        factor.as_ref().subcols(0, size),
        coefficients.as_ref(),
        Conj::No,
        basis.as_mut(),
        par,
        stack,
    );
    Ok(Qr { basis, triangle, scale })
}

pub(crate) struct Svd {
    pub(crate) U: Mat<f64>,
    pub(crate) S: Vec<f64>,
    pub(crate) V: Mat<f64>,
}

/// The thin singular value decomposition, descending, verified.
pub(crate) fn svd(matrix: MatRef<'_, f64>, par: Par) -> Result<Svd> {
    let failed =
        |check, measured, allowed| NumericsError::Decomposition { argument: "the update", check, measured, allowed };
    let (rows, cols) = matrix.shape();
    let size = rows.min(cols);
    let (mut U, mut S, mut V) = (Mat::zeros(rows, size), faer::Col::zeros(size), Mat::zeros(cols, size));
    let thin = ComputeSvdVectors::Thin;
    let mut buffer = scratch(svd_scratch::<f64>(rows, cols, thin, thin, par, Default::default()), (rows, cols))?;
    faer::linalg::svd::svd(
        matrix,
        S.as_diagonal_mut(),
        Some(U.as_mut()),
        Some(V.as_mut()),
        par,
        MemStack::new(&mut buffer),
        Default::default(),
    )
    .map_err(|SvdError::NoConvergence| failed("convergence", f64::INFINITY, 0.0))?;
    let S: Vec<f64> = S.iter().copied().collect();
    let allowed = tolerance::decomposition(rows.max(cols));
    let check = |name, error: f64, norm: f64| {
        if error <= allowed * norm { Ok(()) } else { Err(failed(name, error / norm, allowed)) }
    };
    let US = Mat::from_fn(rows, size, |i, j| U[(i, j)] * S[j]);
    check("residual", (product(US.as_ref(), V.transpose(), par) - matrix).norm_l2(), matrix.norm_l2())?;
    for basis in [&U, &V] {
        let gram = product(basis.transpose(), basis.as_ref(), par);
        check("orthogonality", (gram - Mat::<f64>::identity(size, size)).norm_l2(), (size as f64).sqrt())?;
    }
    let descends = S.windows(2).all(|pair| pair[0] >= pair[1]) && S.iter().all(|s| *s >= 0.0);
    if descends { Ok(Svd { U, S, V }) } else { Err(failed("descending order of the values", f64::INFINITY, 0.0)) }
}

fn scratch(asked: StackReq, (rows, cols): (usize, usize)) -> Result<MemBuffer> {
    let need = Need::new("the compression of an update", rows, cols).bytes(asked.size_bytes());
    MemBuffer::try_new(asked).map_err(|_| need.missing())
}
