//! Where a model is sensitive to a change of a block's output.

use faer::{Mat, Par};

use crate::error::Result;
use crate::llm::model::Model;
use crate::second_moment::SecondMoment;
use crate::spectrum::Spectrum;
use crate::util::shown::{Shown, shown};
use crate::util::validate;

/// Part of the median eigenvalue that is added to all, so that directions without any gradient in a small sample are not taken for free.
const DAMPING: f64 = 0.3;

/// Where a model is sensitive to a change of a block's output, for the search for a target.
///
/// An update writes its vector into every key that has something in common with the fact's. What this does elsewhere depends on the
/// vector's direction: with the second moment `G` of the gradients of the loss ([`GradientCollector`](crate::llm::GradientCollector)), a
/// vector `u` costs about `uᵀ G u / 2`. The search follows
///
/// ```text
/// (G + e I)^-p gradient,    e = 0.3 times the median eigenvalue of G
/// ```
///
/// instead of the gradient, and so finds a vector that does the same for the fact and less to everything else. At `p = 1/2`, the vectors
/// are a fifteenth longer, and cost two fifths less (`docs/experiments.md`).
///
/// # References
/// The same matrix weighs the steps of a fine-tuning in CrispEdit, arXiv 2602.15823.
#[derive(Clone)]
pub struct Sensitivity {
    /// `hidden x hidden`, symmetric, with a mean eigenvalue of about 1.
    weight: Mat<f32>,
}

shown!([] Sensitivity, "Sensitivity", self => { "weight": Shown::from(self.weight.shape()) });

impl Sensitivity {
    /// The sensitivity that the second moment of gradients says (`hidden x hidden`).
    ///
    /// * `exponent`: `p` above; 1 is the natural gradient, 0 the plain one
    ///
    /// Cost: an eigendecomposition.
    ///
    /// # Errors
    /// A negative exponent, a moment of no gradient or of gradients that are all zero, or not enough memory.
    pub fn new(gradients: &SecondMoment, exponent: f64, par: Par) -> Result<Self> {
        validate::non_negative("exponent", exponent)?;
        let spectrum = Spectrum::new(gradients, par)?;
        let values = spectrum.values();
        let damping = DAMPING * values[values.len() / 2];
        let mean = spectrum.trace() / values.len() as f64;
        validate::positive("the trace of the gradients' second moment", mean)?;
        let factors: Vec<f64> =
            values.iter().map(|value| ((value.max(0.0) + damping) / (mean + damping)).powf(-exponent)).collect();
        let V = spectrum.vectors();
        let scaled = Mat::from_fn(V.nrows(), V.ncols(), |i, j| V[(i, j)] * factors[j]);
        let weight = &scaled * V.transpose();
        validate::finite("the sensitivity", weight.as_ref())?;
        Ok(Self { weight: Mat::from_fn(weight.nrows(), weight.ncols(), |i, j| weight[(i, j)] as f32) })
    }

    /// Refuses a model of another size.
    pub(in crate::llm) fn check(&self, model: &Model) -> Result<()> {
        let hidden = model.config.hidden;
        Ok(validate::shape("sensitivity", self.weight.as_ref(), hidden, hidden)?)
    }

    /// Turns a gradient away from where the model is sensitive.
    pub(super) fn turn(&self, gradient: &mut [f32]) {
        let product: Vec<f32> = (self.weight.col_iter())
            .map(|column| column.iter().zip(&*gradient).map(|(weight, g)| weight * g).sum())
            .collect();
        gradient.copy_from_slice(&product);
    }
}

#[cfg(test)]
mod tests {
    use faer::mat;

    use super::*;

    #[test]
    fn a_gradient_is_turned_by_the_inverse_root() {
        // G = diag(4, 1, 1) has the median 1, so 0.3 is added, and the mean 2.
        let mut moment = SecondMoment::new(3);
        moment
            .observe(
                mat![[12.0_f64.sqrt(), 0.0, 0.0], [0.0, 3.0_f64.sqrt(), 0.0], [0.0, 0.0, 3.0_f64.sqrt()]].as_ref(),
                Par::Seq,
            )
            .unwrap();
        let mut gradient = [1.0, -2.0, 0.0];
        Sensitivity::new(&moment, 0.5, Par::Seq).unwrap().turn(&mut gradient);
        let expected = [(2.3_f64 / 4.3).sqrt(), -2.0 * (2.3_f64 / 1.3).sqrt(), 0.0];
        assert!(gradient.iter().zip(expected).all(|(x, y)| (f64::from(*x) - y).abs() < 1e-6), "{gradient:?}");

        let mut gradient = [1.0, -2.0, 0.5];
        Sensitivity::new(&moment, 0.0, Par::Seq).unwrap().turn(&mut gradient);
        assert!(gradient.iter().zip([1.0, -2.0, 0.5]).all(|(x, y)| (x - y).abs() < 1e-6), "{gradient:?}");
    }

    #[test]
    fn gradients_that_say_nothing_are_refused() {
        let mut moment = SecondMoment::new(2);
        moment.observe(mat![[0.0_f64], [0.0]].as_ref(), Par::Seq).unwrap();
        assert!(Sensitivity::new(&moment, 0.5, Par::Seq).is_err());
        assert!(Sensitivity::new(&SecondMoment::new(2), 0.5, Par::Seq).is_err());
        moment.observe(mat![[1.0_f64], [0.0]].as_ref(), Par::Seq).unwrap();
        assert!(Sensitivity::new(&moment, -0.5, Par::Seq).is_err());
        // One direction alone: the other eigenvalue, the median by this count, is the larger one.
        assert!(Sensitivity::new(&moment, 0.5, Par::Seq).is_ok());
    }
}
