//! What became of a batch.

use std::fmt;

use super::conflict::Conflict;
use super::guard::Guard;
use crate::editor::EditorState;
use crate::error::EditError;
use crate::refresh::RefreshReport;

/// The number of a request in its session: the first is 0. It stays when others are undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EditId(pub u64);

impl From<u64> for EditId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

impl fmt::Display for EditId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

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

/// What an applied batch did to one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct LayerOutcome {
    /// The layer.
    pub layer: usize,
    /// `|Delta|_F`.
    pub update_norm: f64,
    /// `|W|_F` before the first edit.
    pub weight_norm: f64,
    /// Largest `s = kᵀ A0⁻¹ k` of the batch, see [`metrics::stability`](crate::metrics::stability); `None` with the gauges
    /// off and no guard on it.
    pub stability: Option<f64>,
    /// Largest `g = kᵀ Q k` of the batch.
    pub gain: f64,
    /// Leakage of everything so far, `tr(D C Dᵀ)`; `None` with the gauges off.
    pub leakage: Option<f64>,
    /// Drift `|D|_F` of everything so far; `None` with the gauges off.
    pub drift: Option<f64>,
    /// The editor after the batch.
    pub state: EditorState,
    /// The refresh that came before the batch.
    pub refresh: Option<RefreshReport>,
}

/// Why a batch was rejected.
#[derive(Debug)]
#[non_exhaustive]
pub enum Rejection {
    /// A guard.
    Guard {
        /// The layer that the update was for.
        layer: usize,
        /// Which.
        guard: Guard,
        /// What was measured.
        value: f64,
        /// What is allowed.
        limit: f64,
    },
    /// A conflict, and a policy that does not let it pass.
    Conflict(Conflict),
    /// The adapter or the editor of a layer failed.
    Failed {
        /// The layer.
        layer: usize,
        /// How.
        error: EditError,
    },
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guard { layer, guard, value, limit } => {
                write!(f, "layer {layer}: {guard} is {value:.4e}, allowed is {limit:.4e}")
            }
            Self::Conflict(conflict) => write!(f, "{conflict}"),
            Self::Failed { layer, error } => write!(f, "layer {layer}: {error}"),
        }
    }
}

/// What an undo did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Undone {
    /// The edits that are gone, with those that were merged into one with them.
    pub ids: Vec<EditId>,
    /// Whether the rest was played again from the start, because the edits had shaped a projector.
    pub rebuilt: bool,
}
