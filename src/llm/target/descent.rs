//! How the search for a target goes downhill.

use super::adam::Adam;
use crate::error::Result;
use crate::llm::ops::norm;
use crate::util::validate;

/// How the search for a target goes downhill.
///
/// What makes a target good is how short the vector is that makes it probable: the update that writes it, and what the update does
/// to everything else, grow with its length.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Descent {
    /// Along the gradient, in steps of one length: normalised gradient descent. What is found is two fifths shorter than what Adam
    /// finds, in six to seven tenths of the evaluations (`docs/experiments.md`): Adam's first steps are about the signs of the
    /// gradient, which are far from its direction, and its memory carries it past the bends of the way.
    Steepest {
        /// The length of a step, as a share of `|v|`.
        step: f64,
    },
    /// Adam, as in the published programs.
    Adam {
        /// Its step length, for each number by itself.
        rate: f64,
    },
}

impl Descent {
    /// The length of a step, as a share of `|v|`, by default.
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

/// A descent on its way.
pub(super) enum Walk<'a> {
    Steepest { step: f32, sizes: &'a [f32] },
    Adam(Adam),
}

impl<'a> Walk<'a> {
    /// Begins a descent by vectors of equal length, each of which is measured by the size of what it is added to.
    pub(super) fn new(descent: Descent, sizes: &'a [f32], hidden: usize) -> Self {
        match descent {
            Descent::Steepest { step } => Self::Steepest { step: step as f32, sizes },
            Descent::Adam { rate } => Self::Adam(Adam::new(sizes.len() * hidden, rate as f32)),
        }
    }

    /// Goes a step; false where there is none to go.
    pub(super) fn step(&mut self, vectors: &mut [f32], gradient: &[f32]) -> bool {
        match self {
            Self::Adam(adam) => {
                adam.step(vectors, gradient);
                true
            }
            Self::Steepest { step, sizes } => {
                let hidden = vectors.len() / sizes.len();
                let parts = || gradient.chunks_exact(hidden).zip(*sizes);
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
