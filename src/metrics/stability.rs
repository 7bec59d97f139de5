//! Stability: how large a key is relative to what protects the model.

use faer::{MatRef, Par};

use crate::error::numerics::Result;
use crate::linalg;
use crate::projector::Projector;
use crate::scalar::{Scalar, cast};
use crate::util::validate;

/// `s = kᵀ A0⁻¹ k` of every key, with `A0 = weight C + ridge I` on the projector's space: the squared norm of the key,
/// whitened by the protected Gram matrix.
///
/// At `s <= 1`, history-aware editing drifts less than history-agnostic editing, under the conditions that
/// `docs/design.md` lists ("Theorem 1"). Far above 1, a key overwhelms the protection. With an empty history, an edit
/// writes the share `s / (1 + s)` of its residual.
///
/// * `projector`: cut from the spectrum of `C`
/// * `keys`: `d_in x n`
///
/// Cost: one pass over `V`, `2 d_in r n` flops in `f64`.
///
/// # Errors
/// Wrong shape, empty, NaN, overflow; [`Singular`](crate::error::NumericsError::Singular) if `A0` is not positive on the space.
pub fn stability<T: Scalar>(
    projector: &Projector,
    weight: f64,
    ridge: f64,
    keys: MatRef<'_, T>,
    par: Par,
) -> Result<Vec<f64>> {
    validate::columns("keys", keys, projector.dim())?;
    validate::finite("keys", keys)?;
    let A = projector.protection(weight, ridge)?;
    let coordinates = linalg::product(projector.basis().transpose(), cast::<T, f64>(keys).as_ref(), par);
    let whitened = |column: faer::ColRef<'_, f64>| column.iter().zip(&A).map(|(x, a)| x * x / a).sum();
    let s: Vec<f64> = coordinates.col_iter().map(whitened).collect();
    validate::in_range("the whitened norm of a key", &s)?;
    Ok(s)
}
