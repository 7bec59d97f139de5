//! The space of the start.

use std::sync::Arc;

use crate::engine::WholeStart;
use crate::projector::Projector;

/// The space that could be edited at the start.
#[derive(Clone)]
pub(crate) enum FirstSpace {
    /// Cut from the spectrum of `C`.
    Cut(Projector),
    /// All directions, without a spectrum. `A0` is kept for `s` if the history changes `Q`.
    Whole { dim: usize, start: Option<Arc<WholeStart>> },
}

impl FirstSpace {
    /// The projector, if there is one.
    pub(crate) fn projector(&self) -> Option<&Projector> {
        match self {
            Self::Cut(projector) => Some(projector),
            Self::Whole { .. } => None,
        }
    }

    /// Directions that could be edited.
    pub(crate) fn kept(&self) -> usize {
        match self {
            Self::Cut(projector) => projector.kept(),
            Self::Whole { dim, .. } => *dim,
        }
    }

    /// Length of the keys.
    pub(crate) fn dim(&self) -> usize {
        match self {
            Self::Cut(projector) => projector.dim(),
            Self::Whole { dim, .. } => *dim,
        }
    }
}
