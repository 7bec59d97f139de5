//! Every tolerance of the library, with the reason for its size.

/// Relative asymmetry that counts as rounding of `f32` statistics. Their entries are accurate to 6e-8, and sums
/// accumulated in different orders differ by a small multiple of that.
pub(crate) const SYMMETRY: f64 = 1e-5;

/// Largest relative error of a verified eigendecomposition of size `n`: faer reaches about `1e-15 sqrt(n)`.
pub(crate) fn decomposition(n: usize) -> f64 {
    1e-12 + 8.0 * f64::EPSILON * n as f64
}

/// Eigenvalues of statistics down to minus this multiple of the Frobenius norm count as zero: rounding the entries
/// of a singular matrix to `f32` moves its eigenvalues by up to `f32::EPSILON / 2` times that norm, and a sum over
/// many batches in `f32` by a few times more.
pub(crate) const NEGATIVE_EIGENVALUE: f64 = 8.0 * f32::EPSILON as f64;

/// A symmetric `n x n` matrix whose smallest eigenvalue is below this multiple of the largest has no usable inverse.
pub(crate) fn singular(n: usize) -> f64 {
    n as f64 * f64::EPSILON
}

/// A direction whose `nᵀ Q n` is below this many roundings is constrained already.
pub(crate) const CONSTRAINED: f64 = 64.0;

/// Directions that use all but this share of their headroom count as saturated. Directions this close to the threshold,
/// relative to it, are left out when the headroom is built: their inverse headroom would drown all others in rounding.
pub(crate) const HEADROOM: f64 = 1e-9;

/// Allowed error of a direction from the rounded copy of `Q`, relative to what is left of it when its key is absorbed.
pub(crate) const ROUNDED: f64 = 2e-6;

/// Allowed distance from 0 and 1 of the eigenvalues of a projector that another program computed in or rounded to
/// `f32`.
#[cfg(feature = "safetensors")]
pub(crate) const IDEMPOTENCE: f64 = 1e-3;
