//! When and how a projector is rebuilt so that it protects the edited keys as well.

use crate::check;
use crate::error::{EditError, Result};
use crate::projector::HistoryWeighting;

/// When a projector is refreshed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Refresh {
    /// Never: the projector of the start serves for all edits.
    #[default]
    Never,
    /// Before the first edit or batch by which at least `edits` edits have been committed since the last refresh.
    Every {
        /// The refresh period `T`, in edits.
        edits: usize,
        /// How.
        rule: RefreshRule,
    },
}

/// How a projector is refreshed.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RefreshRule {
    /// A new eigendecomposition of the protected matrix, and a new `Q` from one Cholesky factorisation: `O(d_in³)`.
    Full(HistoryWeighting),
}

/// What a refresh did.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct RefreshReport {
    /// Edits committed before the refresh.
    pub edits: usize,
    /// Kept directions before.
    pub kept_before: usize,
    /// Kept directions after.
    pub kept_after: usize,
    /// `|P_after - P_before|_F²`: how many directions changed sides, counted with their angles.
    pub moved: f64,
    /// The spectral gap at the new cut, see [`Projector::gap`](crate::Projector::gap).
    pub gap: (Option<f64>, Option<f64>),
    /// The remaining capacity, see [`Projector::capacity`](crate::Projector::capacity).
    pub capacity: f64,
}

impl Refresh {
    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Never => Ok(()),
            Self::Every { edits: 0, .. } => Err(EditError::Parameter {
                parameter: "refresh period",
                value: 0.0,
                allowed: "at least 1 edit; for no refresh, use `Refresh::Never`",
            }),
            Self::Every { rule: RefreshRule::Full(HistoryWeighting::Mean { lambda1 }), .. } => {
                check::non_negative("lambda1", lambda1)
            }
            Self::Every { rule: RefreshRule::Full(HistoryWeighting::Sum), .. } => Ok(()),
        }
    }
}
