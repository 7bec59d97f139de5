//! Leakage: how much an update changes what the model already knows.

use faer::Par;

use crate::error::numerics::{NumericsError, Result};
use crate::linalg::{self, Need};
use crate::scalar::{Scalar, cast};
use crate::second_moment::SecondMoment;
use crate::update::Update;
use crate::util::validate;

/// Leakage of one update, `tr(Delta C Deltaᵀ) = E |Delta k|²`: the mean squared change of the layer's output over the
/// keys of the statistics (the BetaEdit paper's `|Delta K0|²`, per token).
///
/// For an update inside a null space of `C` with threshold `tau` it is at most `tau |Delta|_F²`. The same bound holds
/// after a refresh by `Sum`. After a refresh by `Mean` the bound is `tau (lambda1 + 1) / lambda1 |Delta|_F²`, because
/// the mean scales `C`. One step of BetaEdit leaks at most `|r|² / lambda1`.
///
/// Cost: one pass over `C`.
///
/// # Examples
/// ```
/// use betaedit_core::{SecondMoment, Update, faer::{mat, Par}, metrics};
///
/// let mut moment = SecondMoment::new(2);
/// moment.observe(mat![[2.0], [0.0]].as_ref(), Par::Seq)?; // C = diag(4, 0)
/// let update = Update::from_factors(mat![[3.0]], mat![[1.0, 7.0]])?;
/// assert_eq!(metrics::leakage(&update, &moment, Par::Seq)?, 36.0);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
///
/// # Errors
/// Statistics of another key length, or overflow.
pub fn leakage<T: Scalar>(update: &Update<T>, moment: &SecondMoment, par: Par) -> Result<f64> {
    if update.d_in() != moment.d_in() {
        let (expected, found) = ((update.d_in(), update.d_in()).into(), (moment.d_in(), moment.d_in()).into());
        return Err(NumericsError::Shape { argument: "moment", expected, found });
    }
    let (d, n) = (update.d_out().saturating_add(update.d_in()), update.rank());
    let need = Need::new("the leakage of an update", n, n).matrix::<f64>(d, n.saturating_mul(2));
    need.matrix::<f64>(n, n.saturating_mul(2)).reserve()?;
    let (L, R) = (cast::<T, f64>(update.left()), cast::<T, f64>(update.right().transpose()));
    let CR = moment.product(R.as_ref(), par)?;
    let LL = linalg::product(L.transpose(), L.as_ref(), par);
    let RCR = linalg::product(R.transpose(), CR.as_ref(), par);
    let leakage = linalg::clamped(linalg::inner(LL.as_ref(), RCR.as_ref()));
    validate::in_range("the leakage", &[leakage])?;
    Ok(leakage)
}
