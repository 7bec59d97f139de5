//! Limits on what a batch may do.

use std::fmt;

use super::layer::LayerOutcome;
use crate::error::Result;
use crate::util::validate;

/// Limits on what a batch may do to a layer. A batch that exceeds one is rejected, and the session continues. `None`, the
/// default, is no limit. Numbers that are not finite are always rejected.
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
    /// Leakage `tr(D C Dᵀ)` of all edits so far. Needs the gauges.
    pub leakage: Option<f64>,
    /// Drift `|D|_F` of all edits so far, as a share of `|W|_F`. Needs the gauges.
    pub relative_drift: Option<f64>,
    /// `s = kᵀ A0⁻¹ k` of a key.
    pub stability: Option<f64>,
    /// Directions protected so far, as a share of those at the start.
    pub used_capacity: Option<f64>,
}

/// One of the limits in [`Guards`].
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

/// A limit that a batch exceeded.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Violation {
    /// The layer of the update.
    pub layer: usize,
    /// The limit.
    pub guard: Guard,
    /// The value that was measured.
    pub value: f64,
    /// The largest value allowed.
    pub limit: f64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layer, guard, value, limit } = self;
        write!(f, "layer {layer}: {guard} is {value:.4e}, at most {limit:.4e} is allowed")
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

    /// The first limit that is exceeded. NaN exceeds every limit.
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
