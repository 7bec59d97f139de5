//! Descent methods of the search for a target.

use super::adam::Adam;
use crate::error::Result;
use crate::llm::ops::norm;
use crate::util::validate;

/// The descent method of the search for a target.
///
/// A target is good if the vector that makes it probable is short: the update that writes it grows with that length, and so does what the
/// update does to everything else.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Descent {
    /// Along the gradient, in steps of equal length (normalised gradient descent). The vectors found are two fifths shorter than Adam's, in
    /// six to seven tenths of the evaluations (`docs/experiments.md`): Adam's first steps follow the signs of the gradient, which are far
    /// from its direction, and its momentum overshoots. With a [`Sensitivity`](super::Sensitivity), the gradient is turned first.
    Steepest {
        /// The length of a step, as a share of `|v|`.
        step: f64,
    },
    /// Adam, as in the published programs.
    Adam {
        /// Its step length for each number.
        rate: f64,
    },
}

impl Descent {
    /// The default length of a step, as a share of `|v|`.
    pub const STEP: f64 = 0.08;

    /// Refuses what is out of range.
    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::Steepest { step } => Ok(validate::positive("step", step)?),
            Self::Adam { rate } => Ok(validate::positive("rate", rate)?),
        }
    }
}

impl Default for Descent {
    fn default() -> Self {
        Self::Steepest { step: Self::STEP }
    }
}

/// The state of a descent.
pub(super) enum Walk {
    Steepest { step: f32, sizes: Vec<f32> },
    Adam(Adam),
}

impl Walk {
    /// Starts a descent on vectors of equal length. Each is measured relative to the size of the output it is added to.
    pub(super) fn new(descent: Descent, sizes: &[f32], hidden: usize) -> Self {
        match descent {
            Descent::Steepest { step } => Self::Steepest { step: step as f32, sizes: sizes.to_vec() },
            Descent::Adam { rate } => Self::Adam(Adam::new(sizes.len() * hidden, rate as f32)),
        }
    }

    /// Takes a step. False if the gradient is zero.
    pub(super) fn step(&mut self, vectors: &mut [f32], gradient: &[f32]) -> bool {
        match self {
            Self::Adam(adam) => {
                adam.step(vectors, gradient);
                true
            }
            Self::Steepest { step, sizes } => {
                let hidden = vectors.len() / sizes.len();
                let parts = || gradient.chunks_exact(hidden).zip(&*sizes);
                // The gradient by `delta / |v|`, in which vectors of outputs of any size are alike.
                let length = norm(&parts().map(|(gradient, size)| size * norm(gradient)).collect::<Vec<_>>());
                let downhill = length > 0.0;
                if downhill {
                    for (delta, (gradient, size)) in vectors.chunks_exact_mut(hidden).zip(parts()) {
                        let factor = *step * size * (size / length);
                        delta.iter_mut().zip(gradient).for_each(|(delta, g)| *delta -= factor * g);
                    }
                }
                downhill
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steepest_step_has_its_length_and_shares_it_out_by_the_sizes() {
        let mut walk = Walk::new(Descent::Steepest { step: 0.1 }, &[5.0], 2);
        let mut vector = [1.0, 1.0];
        walk.step(&mut vector, &[3e-20, -4e-20]);
        assert!((vector[0] - 0.7).abs() < 1e-6 && (vector[1] - 1.4).abs() < 1e-6, "{vector:?}");

        // By `delta / |v|` the gradients are (2, 0) and (0, 8).
        let sizes = [1.0, 2.0];
        let mut walk = Walk::new(Descent::Steepest { step: 0.1 }, &sizes, 2);
        let mut vectors = [0.0; 4];
        walk.step(&mut vectors, &[2.0, 0.0, 0.0, 4.0]);
        let length = 68.0_f32.sqrt();
        let expected = [-0.2 / length, 0.0, 0.0, -1.6 / length];
        assert!(vectors.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-7), "{vectors:?}");

        // No gradient, no step, and nothing that is not a number.
        let before = vectors;
        assert!(!walk.step(&mut vectors, &[0.0; 4]));
        assert_eq!(vectors, before);
    }
}
