//! The outcome of a batch, and of an undo.

use std::fmt;
use std::sync::Arc;

use super::conflict::Conflict;
use super::guard::Violation;
use super::id::EditId;
use super::layer::LayerOutcome;
use crate::error::{Error, ModelError, SessionError};

/// The outcome of a batch of requests.
///
/// A rejected batch is not an error of the session, which continues. To treat a rejection as an error, call
/// [`applied`](Self::applied): `session.edit(&requests)?.applied()?`.
#[derive(Clone, Debug)]
#[must_use = "the batch may have been rejected: look at the outcome, or call `applied()?`"]
#[non_exhaustive]
pub enum Outcome {
    /// The batch is in the model.
    Applied(Applied),
    /// The model is unchanged.
    Rejected {
        /// The requests of the batch.
        ids: Vec<EditId>,
        /// Why the batch was rejected.
        reason: Rejection,
    },
}

/// A batch that is in the model.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Applied {
    /// The requests of the batch.
    pub ids: Vec<EditId>,
    /// Past edits that the batch replaced, which were undone.
    pub replaced: Vec<EditId>,
    /// Conflicts that were found, and reported or settled by the policy.
    pub conflicts: Vec<Conflict>,
    /// What was done to each layer.
    pub layers: Vec<LayerOutcome>,
}

impl Applied {
    /// The expected loss of all edits so far, nats a token: the sum over the layers. `None` if it is not measured at each.
    #[must_use]
    pub fn expected_loss(&self) -> Option<f64> {
        self.layers.iter().map(|layer| layer.expected_loss).sum()
    }
}

impl Outcome {
    /// Whether the batch is in the model.
    #[must_use]
    pub fn is_applied(&self) -> bool {
        matches!(self, Self::Applied(_))
    }

    /// The requests of the batch.
    #[must_use]
    pub fn ids(&self) -> &[EditId] {
        match self {
            Self::Applied(applied) => &applied.ids,
            Self::Rejected { ids, .. } => ids,
        }
    }

    /// What was done, if the batch is in the model.
    ///
    /// # Errors
    /// Why the batch was rejected. `?` turns the reason into a [`SessionError::Rejected`].
    pub fn applied(self) -> Result<Applied, Rejection> {
        match self {
            Self::Applied(applied) => Ok(applied),
            Self::Rejected { reason, .. } => Err(reason),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.is_applied() { "applied" } else { "rejected" };
        match self.ids() {
            [id] => write!(f, "edit {id} {verb}")?,
            [first, .., last] => write!(f, "edits {first} to {last} {verb}")?,
            [] => write!(f, "nothing {verb}")?,
        }
        if let Self::Rejected { reason, .. } = self { write!(f, ": {reason}") } else { Ok(()) }
    }
}

/// Why a batch was rejected.
#[derive(Clone, Debug)]
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
        error: Arc<Error>,
    },
}

impl std::error::Error for Rejection {}

impl From<Rejection> for SessionError {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(Box::new(rejection))
    }
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Self {
        SessionError::from(rejection).into()
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guard(violation) => write!(f, "{violation}"),
            Self::Conflict(conflict) => write!(f, "{conflict}"),
            // These name their layer themselves.
            Self::Failed { error, .. } if matches!(**error, Error::Model(ModelError::Contract { .. })) => {
                write!(f, "{error}")
            }
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
    /// Whether other edits were replayed from the start, or the weights derived anew, see [`Session::undo`](super::Session::undo).
    pub rebuilt: bool,
}
