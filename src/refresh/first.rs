//! The space of the start.

use std::sync::Arc;

use crate::engine::{WholeStart, needs_spectrum};
use crate::error::numerics::Result;
use crate::projector::{Projector, ProjectorCut};

/// The space that could be edited at the start.
#[derive(Clone)]
pub(crate) enum FirstSpace {
    /// Cut from the spectrum of `C`.
    Cut(ProjectorCut),
    /// All directions, without a spectrum. `A0` is kept for `s` if the history changes `Q`.
    Whole { dim: usize, start: Option<Arc<WholeStart>> },
}

impl FirstSpace {
    /// The projector, for `what` is asked for.
    pub(crate) fn projector(&self, what: &str) -> Result<Projector> {
        match self {
            Self::Cut(cut) => cut.projector(),
            Self::Whole { .. } => Err(needs_spectrum(what)),
        }
    }

    /// The threshold as an absolute eigenvalue; infinite for the whole space.
    pub(crate) fn threshold(&self) -> f64 {
        match self {
            Self::Cut(cut) => cut.threshold,
            Self::Whole { .. } => f64::INFINITY,
        }
    }

    /// Directions that could be edited.
    pub(crate) fn kept(&self) -> usize {
        match self {
            Self::Cut(cut) => cut.kept,
            Self::Whole { dim, .. } => *dim,
        }
    }

    /// Length of the keys.
    pub(crate) fn dim(&self) -> usize {
        match self {
            Self::Cut(cut) => cut.dim,
            Self::Whole { dim, .. } => *dim,
        }
    }
}
