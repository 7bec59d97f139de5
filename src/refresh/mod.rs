//! When and how a projector is rebuilt so that it protects the edited keys as well.

pub(crate) mod first;
mod full;
mod keys;
mod maximal;
pub(crate) mod memory;
mod nested;
pub(crate) mod solve;

pub use nested::Headroom;

use crate::error::numerics::{NumericsError, Result};
use crate::projector::{HistoryWeighting, SpectralGap};
use crate::util::named::named;
use crate::util::validate;

/// When a projector is refreshed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Refresh {
    /// Never: the initial projector serves all edits.
    #[default]
    Never,
    /// Before the next edit or batch, once at least `edits` edits have been committed since the last refresh.
    Every {
        /// The refresh period `T`, in edits.
        edits: usize,
        /// How to refresh.
        rule: RefreshRule,
    },
    /// At every commit, by the rule [`Nested`](RefreshRule::Nested): every key is tested against the headroom as it
    /// arrives. Cost: one more pass over a matrix per edit.
    Continuous {
        /// `w`: weight of an edited key relative to the mean over the text, see [`RefreshRule::Nested`].
        weight: f64,
    },
}

/// How a projector is refreshed.
///
/// `Full` cuts the spectrum of `M` by the [`Threshold`](crate::Threshold) as it is given, so that a relative one follows the growing
/// `M`. The other rules keep the absolute eigenvalue of the start.
///
/// | rule | cost | kept directions | directions once protected | state beside `Q` |
/// |---|---|---|---|---|
/// | `Full` | a decomposition, `O(d_in³)` | the eigenvectors of `M` below the threshold | may come back | `H`, `4 d_in²` bytes, the spectrum |
/// | `Maximal` | `O(d_in² t)`, all `t` keys so far | as many as `Full` by `C + w H` | may come back | the keys, the spectrum |
/// | `Nested` | `O(d_in² n)`, the `n` new keys | fewer | stay protected | the headroom, `4 d_in²` bytes |
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum RefreshRule {
    /// A new eigendecomposition of the protected matrix, and a new `Q` from one Cholesky factorisation.
    Full(HistoryWeighting),
    /// The largest space on which `C + w H` stays below the threshold, without a decomposition of size `d_in`. From
    /// `0.31 d_in` keys on, the keys would take more memory than their sum; then `Full` with the same weight takes
    /// over. It also does where keys and threshold leave the small systems of this rule singular.
    Maximal {
        /// `w`: weight of an edited key relative to the mean over the text; 1 is the paper's `C + H`.
        weight: f64,
    },
    /// The largest part of the **present** space on which `C + w H` stays below the threshold.
    Nested {
        /// `w`: weight of an edited key relative to the mean over the text; 1 is the paper's `C + H`.
        weight: f64,
    },
}

/// What a refresh did.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RefreshReport {
    /// Edits committed before the refresh.
    pub edits: usize,
    /// Kept directions before.
    pub kept_before: usize,
    /// Kept directions after.
    pub kept_after: usize,
    /// `|P_after - P_start|_F²`: how many directions have changed sides since the start, counted with their angles.
    /// Known only after a full refresh.
    pub moved: Option<f64>,
    /// The spectral gap at the new cut, see [`Projector::gap`](crate::Projector::gap). Empty unless the refresh was
    /// full.
    pub gap: SpectralGap,
}

/// How much of the initial space may still be edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Capacity {
    /// At least a tenth of the initial directions.
    Ample,
    /// Less than a tenth, and at least one: plan for a larger threshold, a smaller refresh weight, or a fresh start. A space of ten
    /// directions or fewer is exhausted without this warning.
    Low,
    /// None: every further edit is refused with [`NumericsError::CapacityExhausted`].
    Exhausted,
}

named!(Capacity, "capacity", { Ample => "ample", Low => "low", Exhausted => "exhausted" });

impl Capacity {
    /// The capacity with `kept` directions left of `first` initial ones.
    #[must_use]
    pub fn new(kept: usize, first: usize) -> Self {
        match kept {
            0 => Self::Exhausted,
            kept if kept < first.div_ceil(10) => Self::Low,
            _ => Self::Ample,
        }
    }
}

impl Refresh {
    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Never => Ok(()),
            Self::Every { edits: 0, .. } => Err(NumericsError::Parameter {
                parameter: "refresh period",
                value: 0.0,
                allowed: "at least 1 edit; for no refresh, use `Refresh::Never`",
            }),
            Self::Every { rule: RefreshRule::Full(HistoryWeighting::Mean { lambda1 }), .. } => {
                validate::non_negative("lambda1", lambda1)
            }
            Self::Every { rule: RefreshRule::Full(HistoryWeighting::Sum { weight }), .. }
            | Self::Every { rule: RefreshRule::Maximal { weight } | RefreshRule::Nested { weight }, .. }
            | Self::Continuous { weight } => validate::positive("refresh weight", weight),
        }
    }
}
