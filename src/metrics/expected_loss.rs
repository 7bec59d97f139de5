//! The expected loss: how much an update makes the model worse at its texts.

use faer::Par;

use crate::error::numerics::{NumericsError, Result};
use crate::linalg::{self, Need};
use crate::scalar::{Scalar, cast};
use crate::second_moment::SecondMoment;
use crate::update::Update;
use crate::util::validate;

/// The growth of the model's loss that one update is expected to cause, `tr(G Delta C Deltaᵀ) / 2`, in nats a token: leakage, weighted by
/// how sensitive the model is to the directions that leak.
///
/// `G` is the second moment of the gradients of the loss by the layer's output, as `llm::GradientCollector`
/// collects it. Leakage and drift do not say how much a model suffers. This does: what was measured is 1.0 to 1.7 times what was expected
/// (`docs/experiments.md`). The layers' numbers add up.
///
/// The second order of the loss with the empirical Fisher matrix for its curvature, inputs and gradients taken as independent (K-FAC:
/// Martens and Grosse, ICML 2015).
///
/// * `moment`: `C`, `d_in x d_in`
/// * `gradients`: `G`, `d_out x d_out`
///
/// Cost: one pass over `C` and one over `G`.
///
/// # Examples
/// ```
/// use betaedit_core::{SecondMoment, Update, faer::{mat, Par}, metrics};
///
/// let (mut moment, mut gradients) = (SecondMoment::new(2), SecondMoment::new(1));
/// moment.observe(mat![[2.0], [0.0]].as_ref(), Par::Seq)?; // C = diag(4, 0)
/// gradients.observe(mat![[0.5]].as_ref(), Par::Seq)?; // G = 0.25
/// let update = Update::from_factors(mat![[3.0]], mat![[1.0, 7.0]])?;
/// assert_eq!(metrics::expected_loss(&update, &moment, &gradients, Par::Seq)?, 4.5); // 36 * 0.25 / 2
/// # Ok::<(), betaedit_core::Error>(())
/// ```
///
/// # Errors
/// Statistics of another key length, gradients of another output length, or overflow.
pub fn expected_loss<T: Scalar>(
    update: &Update<T>,
    moment: &SecondMoment,
    gradients: &SecondMoment,
    par: Par,
) -> Result<f64> {
    for (argument, expected, found) in
        [("moment", update.d_in(), moment.d_in()), ("gradients", update.d_out(), gradients.d_in())]
    {
        if expected != found {
            let (expected, found) = ((expected, expected).into(), (found, found).into());
            return Err(NumericsError::Shape { argument, expected, found });
        }
    }
    let (d, n) = (update.d_out().saturating_add(update.d_in()), update.rank());
    let need = Need::new("the expected loss of an update", n, n).matrix::<f64>(d, n.saturating_mul(2));
    need.matrix::<f64>(n, n.saturating_mul(2)).reserve()?;
    let (L, R) = (cast::<T, f64>(update.left()), cast::<T, f64>(update.right().transpose()));
    let within = |X: &faer::Mat<f64>, moment: &SecondMoment| -> Result<_> {
        Ok(linalg::product(X.transpose(), moment.product(X.as_ref(), par)?.as_ref(), par))
    };
    let (LGL, RCR) = (within(&L, gradients)?, within(&R, moment)?);
    let loss = 0.5 * linalg::clamped(linalg::inner(LGL.as_ref(), RCR.as_ref()));
    validate::in_range("the expected loss", &[loss])?;
    Ok(loss)
}
