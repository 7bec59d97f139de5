//! How much of its residual an edit writes.

use faer::{Mat, MatRef, Par};

use crate::batch::EditBatch;
use crate::error::numerics::Result;
use crate::linalg;
use crate::scalar::{Scalar, cast};
use crate::update::Update;
use crate::util::validate;

/// How much of its residuals a batch writes, see [`written`](fn@written).
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Written {
    /// By edit. `None` for a residual of zero, which asks for nothing.
    pub edits: Vec<Option<WrittenShare>>,
    /// In all: `<Delta K, R> / |R|²` and `|Delta K - R| / |R|`, in Frobenius norms. `None` if all residuals are zero.
    pub all: Option<WrittenShare>,
}

/// How much of a residual is written.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WrittenShare {
    /// The share of the residual that is written, `<Delta k, r> / |r|²`: 1 if the residual is met, 0 if the update does
    /// nothing for it. An edit on its own writes `g / (1 + g)`.
    pub share: f64,
    /// The share that is missed, `|Delta k - r| / |r|`.
    pub error: f64,
}

/// How much of its residual each edit of a batch writes, and how much all of them.
///
/// For edits that are written [together](crate::batch::Order::Together). Cost: `O(n² (d_in + d_out))`.
///
/// # Examples
/// ```
/// use betaedit_core::{EditBatch, Update, faer::{mat, Par}, metrics};
///
/// let (K, R) = (mat![[1.0, 0.0], [0.0, 1.0]], mat![[2.0, 0.0]]);
/// let update = Update::from_factors(mat![[1.0]], mat![[1.5, 0.0]])?;
/// let written = metrics::written(&update, &EditBatch::new(K.as_ref(), R.as_ref())?, Par::Seq)?;
/// assert_eq!(written.edits[0].unwrap().share, 0.75);
/// assert_eq!(written.edits[1], None);
/// assert_eq!(written.all.unwrap().error, 0.25);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
///
/// # Errors
/// A batch whose shape differs from that of the update, or overflow.
pub fn written<T: Scalar>(update: &Update<T>, batch: &EditBatch<'_, T>, par: Par) -> Result<Written> {
    let R = cast::<T, f64>(batch.residuals());
    let done = change(update, batch, par)?;
    validate::no_overflow("the change at the edited keys", done.as_ref())?;
    let edits = (0..batch.len()).map(|j| share(R.as_ref().subcols(j, 1), done.as_ref().subcols(j, 1))).collect();
    Ok(Written { edits, all: share(R.as_ref(), done.as_ref()) })
}

/// What `done` is of `R`.
fn share(R: MatRef<'_, f64>, done: MatRef<'_, f64>) -> Option<WrittenShare> {
    // Of moderate size, so that no square leaves the range.
    let (R, scale) = linalg::unit_scaled(R);
    let size = R.norm_l2();
    let done = done * faer::Scale(1.0 / scale);
    let share = linalg::inner(done.as_ref(), R.as_ref()) / (size * size);
    (size > 0.0).then(|| WrittenShare { share, error: (done - R).norm_l2() / size })
}

/// The room left for keys: the share of a residual that can be written now, relative to the share at the first edit,
/// `(g / (1 + g)) / (s / (1 + s))`. The smallest over the keys; 1 in an editor without edits.
///
/// * `gains`: `g = kᵀ Q k` with the present `Q`, from [`Proposal::gains`](crate::Proposal::gains)
/// * `stability`: `s = kᵀ A0⁻¹ k`, from [`Editor::stability`](crate::Editor::stability)
///
/// `None` unless both know every key.
///
/// ```
/// use betaedit_core::metrics::room;
/// assert_eq!(room(&[1.0, 3.0], &[3.0, 3.0]), Some(0.5 / 0.75));
/// ```
#[must_use]
pub fn room(gains: &[f64], stability: &[f64]) -> Option<f64> {
    if gains.len() != stability.len() {
        return None;
    }
    let share = |x: f64| x / (1.0 + x);
    // A key of zero has no room, and never had.
    let one = |(&g, &s): (&f64, &f64)| if s > 0.0 { (share(g) / share(s)).min(1.0) } else { 0.0 };
    gains.iter().zip(stability).map(one).reduce(f64::min)
}

/// `Delta K`, in `f64`.
pub(super) fn change<T: Scalar>(update: &Update<T>, batch: &EditBatch<'_, T>, par: Par) -> Result<Mat<f64>> {
    validate::shape("keys", batch.keys(), update.d_in(), batch.len())?;
    validate::shape("residuals", batch.residuals(), update.d_out(), batch.len())?;
    let [L, R, K] = [update.left(), update.right().transpose(), batch.keys()].map(|matrix| cast::<T, f64>(matrix));
    let RK = linalg::product(R.transpose(), K.as_ref(), par);
    Ok(linalg::product(L.as_ref(), RK.as_ref(), par))
}
