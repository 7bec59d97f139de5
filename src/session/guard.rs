//! Limits that a batch has to keep.

use std::fmt;

use super::layer::LayerOutcome;
use crate::error::Result;
use crate::util::validate;

/// Limits on what a batch may do to a layer; a batch beyond one is rejected, and the run goes on. `None` is no limit, which
/// is the default. That all numbers are finite is checked always.
///
/// ```
/// use betaedit_core::session::Guards;
/// let guards = Guards { relative_drift: Some(0.1), ..Guards::default() };
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct Guards {
    /// `|Delta|_F / sqrt(n)` of a batch of `n`.
    pub update_norm: Option<f64>,
    /// The same, as a share of `|W|_F`.
    pub relative_update_norm: Option<f64>,
    /// Leakage `tr(D C Dᵀ)` of everything so far. Needs the gauges.
    pub leakage: Option<f64>,
    /// Drift `|D|_F` of everything so far, as a share of `|W|_F`. Needs the gauges.
    pub relative_drift: Option<f64>,
    /// `s = kᵀ A0⁻¹ k` of a key.
    pub stability: Option<f64>,
    /// Directions protected so far, as a share of those of the start.
    pub used_capacity: Option<f64>,
}

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Guard {
    /// [`Guards::update_norm`].
    UpdateNorm,
    /// [`Guards::relative_update_norm`].
    RelativeUpdateNorm,
    /// [`Guards::leakage`].
    Leakage,
    /// [`Guards::relative_drift`].
    RelativeDrift,
    /// [`Guards::stability`].
    Stability,
    /// [`Guards::used_capacity`].
    UsedCapacity,
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UpdateNorm => "the norm of the update",
            Self::RelativeUpdateNorm => "the norm of the update, as a share of the weight's",
            Self::Leakage => "the leakage",
            Self::RelativeDrift => "the drift, as a share of the weight's norm",
            Self::Stability => "the largest s of a key",
            Self::UsedCapacity => "the share of the directions used up",
        })
    }
}

/// A limit that a batch did not keep.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Violation {
    /// The layer that the update was for.
    pub layer: usize,
    /// Which limit.
    pub guard: Guard,
    /// What was measured.
    pub value: f64,
    /// What is allowed.
    pub limit: f64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layer, guard, value, limit } = self;
        write!(f, "layer {layer}: {guard} is {value:.4e}, allowed is {limit:.4e}")
    }
}

impl Guards {
    pub(super) fn check(&self) -> Result<()> {
        let limits = [
            ("update_norm", self.update_norm),
            ("relative_update_norm", self.relative_update_norm),
            ("leakage", self.leakage),
            ("relative_drift", self.relative_drift),
            ("stability", self.stability),
            ("used_capacity", self.used_capacity),
        ];
        Ok(limits
            .iter()
            .filter_map(|&(name, limit)| Some((name, limit?)))
            .try_for_each(|(n, l)| validate::non_negative(n, l))?)
    }

    /// The first limit that is not kept. NaN keeps none.
    pub(super) fn violated(&self, found: &LayerOutcome, edits: usize) -> Option<Violation> {
        let per_edit = found.update_norm / (edits as f64).sqrt();
        let removed = found.state.removed_directions as f64;
        let share = |x: f64| if found.weight_norm > 0.0 { x / found.weight_norm } else { x };
        [
            (Guard::UpdateNorm, self.update_norm, Some(per_edit)),
            (Guard::RelativeUpdateNorm, self.relative_update_norm, Some(share(per_edit))),
            (Guard::Leakage, self.leakage, found.leakage),
            (Guard::RelativeDrift, self.relative_drift, found.drift.map(share)),
            (Guard::Stability, self.stability, found.stability),
            (
                Guard::UsedCapacity,
                self.used_capacity,
                Some(removed / (removed + found.state.kept_directions as f64).max(1.0)),
            ),
        ]
        .into_iter()
        .find_map(|(guard, limit, value)| {
            let (limit, value) = (limit?, value?);
            (!(value <= limit)).then_some(Violation { layer: found.layer, guard, value, limit })
        })
    }
}
