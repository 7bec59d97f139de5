//! What became of a batch.

use std::fmt;

use super::conflict::Conflict;
use super::guard::Violation;
use super::id::EditId;
use super::layer::LayerOutcome;
use crate::error::Error;

/// What became of a batch of requests.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It is in the model.
    Applied {
        /// Its requests.
        ids: Vec<EditId>,
        /// Edits that it replaced: they were undone with it.
        replaced: Vec<EditId>,
        /// Conflicts that were found and let pass, or settled.
        conflicts: Vec<Conflict>,
        /// What was done to every layer.
        layers: Vec<LayerOutcome>,
    },
    /// The model is as it was.
    Rejected {
        /// Its requests.
        ids: Vec<EditId>,
        /// Why.
        reason: Rejection,
    },
}

impl Outcome {
    /// Whether the batch is in the model.
    #[must_use]
    pub fn is_applied(&self) -> bool {
        matches!(self, Self::Applied { .. })
    }

    /// The requests of the batch.
    #[must_use]
    pub fn ids(&self) -> &[EditId] {
        match self {
            Self::Applied { ids, .. } | Self::Rejected { ids, .. } => ids,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ids, verb) = match self {
            Self::Applied { ids, .. } => (ids, "applied"),
            Self::Rejected { ids, .. } => (ids, "rejected"),
        };
        match &ids[..] {
            [id] => write!(f, "edit {id} {verb}")?,
            [first, .., last] => write!(f, "edits {first} to {last} {verb}")?,
            [] => write!(f, "nothing {verb}")?,
        }
        if let Self::Rejected { reason, .. } = self { write!(f, ": {reason}") } else { Ok(()) }
    }
}

/// Why a batch was rejected.
#[derive(Debug)]
#[non_exhaustive]
pub enum Rejection {
    /// A guard.
    Guard(Violation),
    /// A conflict, and a policy that does not let it pass.
    Conflict(Conflict),
    /// The adapter or the editor of a layer failed.
    Failed {
        /// The layer.
        layer: usize,
        /// How.
        error: Error,
    },
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guard(violation) => write!(f, "{violation}"),
            Self::Conflict(conflict) => write!(f, "{conflict}"),
            Self::Failed { layer, error } => write!(f, "layer {layer}: {error}"),
        }
    }
}

/// What an undo did.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Undone {
    /// The edits that are gone, with those that were merged into one with them.
    pub ids: Vec<EditId>,
    /// Whether the rest was played again from the start, because the edits had shaped a projector.
    pub rebuilt: bool,
}
