//! The outcome of a batch, and of an undo.

use std::fmt;

use super::conflict::Conflict;
use super::guard::Violation;
use super::id::EditId;
use super::layer::LayerOutcome;
use crate::error::Error;

/// The outcome of a batch of requests.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The batch is in the model.
    Applied {
        /// The requests of the batch.
        ids: Vec<EditId>,
        /// Past edits that the batch replaced, which were undone.
        replaced: Vec<EditId>,
        /// Conflicts that were found, and reported or settled by the policy.
        conflicts: Vec<Conflict>,
        /// What was done to each layer.
        layers: Vec<LayerOutcome>,
    },
    /// The model is unchanged.
    Rejected {
        /// The requests of the batch.
        ids: Vec<EditId>,
        /// Why the batch was rejected.
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
    /// A limit was exceeded.
    Guard(Violation),
    /// A conflict, under a policy that rejects conflicts.
    Conflict(Conflict),
    /// The adapter or the editor of a layer failed.
    Failed {
        /// The layer.
        layer: usize,
        /// What went wrong.
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
    /// The edits that were undone, including those that were merged with them.
    pub ids: Vec<EditId>,
    /// Whether the other edits were replayed from the start, see [`Session::undo`](super::Session::undo).
    pub rebuilt: bool,
}
