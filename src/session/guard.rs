//! Limits on what a batch may do.

use std::fmt;

use super::layer::LayerOutcome;
use crate::error::shown::Short;
use crate::error::{NumericsError, Result};
use crate::util::setters::setters;
use crate::util::validate;

/// The smallest share of a residual that counts as written, by default: a ten-thousandth.
const WRITTEN_SHARE: f64 = 1e-4;

/// Limits on what a batch may do to a layer. A batch that exceeds one is rejected, and the session continues. `None` means no
/// limit. By default, only [`written_share`](Self::written_share) is limited. Numbers that are not finite are always rejected.
///
/// ```
/// use betaedit_core::session::Guards;
/// let guards = Guards::default().with_relative_drift(0.1).with_written_share(None);
/// assert_eq!(guards.relative_drift, Some(0.1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Guards {
    /// The largest `|Delta|_F / sqrt(n)` of a batch of `n`.
    pub update_norm: Option<f64>,
    /// The same, as a share of `|W|_F`.
    pub relative_update_norm: Option<f64>,
    /// The largest leakage `tr(D C Dᵀ)` of all edits so far. Needs the gauges.
    pub leakage: Option<f64>,
    /// The largest expected loss of a layer, `tr(G D C Dᵀ) / 2` of all edits so far, nats a token. Needs the gauges, and gradients.
    pub expected_loss: Option<f64>,
    /// The largest drift `|D|_F` of all edits so far, as a share of `|W|_F`. Needs the gauges.
    pub relative_drift: Option<f64>,
    /// The largest `s = kᵀ A0⁻¹ k` of a key.
    pub stability: Option<f64>,
    /// The largest number of protected directions, as a share of the directions at the start.
    pub used_capacity: Option<f64>,
    /// The smallest share of the residuals that must be written, see [`LayerOutcome::written_share`]. Default: `0.0001`. A batch
    /// below it does nothing: a key lies outside the space that may be edited, past edits have filled that space, or edits undo
    /// each other.
    pub written_share: Option<f64>,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            update_norm: None,
            relative_update_norm: None,
            leakage: None,
            expected_loss: None,
            relative_drift: None,
            stability: None,
            used_capacity: None,
            written_share: Some(WRITTEN_SHARE),
        }
    }
}

setters!(Guards {
    /// Limits [`update_norm`](Self::update_norm).
    with_update_norm(update_norm: Option<f64>),
    /// Limits [`relative_update_norm`](Self::relative_update_norm).
    with_relative_update_norm(relative_update_norm: Option<f64>),
    /// Limits [`leakage`](Self::leakage).
    with_leakage(leakage: Option<f64>),
    /// Limits [`expected_loss`](Self::expected_loss).
    with_expected_loss(expected_loss: Option<f64>),
    /// Limits [`relative_drift`](Self::relative_drift).
    with_relative_drift(relative_drift: Option<f64>),
    /// Limits [`stability`](Self::stability).
    with_stability(stability: Option<f64>),
    /// Limits [`used_capacity`](Self::used_capacity).
    with_used_capacity(used_capacity: Option<f64>),
    /// Limits [`written_share`](Self::written_share).
    with_written_share(written_share: Option<f64>),
});

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
    /// [`Guards::expected_loss`].
    ExpectedLoss,
    /// [`Guards::relative_drift`].
    RelativeDrift,
    /// [`Guards::stability`].
    Stability,
    /// [`Guards::used_capacity`].
    UsedCapacity,
    /// [`Guards::written_share`].
    WrittenShare,
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UpdateNorm => "the norm of the update",
            Self::RelativeUpdateNorm => "the norm of the update as a share of the weight's",
            Self::Leakage => "the leakage",
            Self::ExpectedLoss => "the expected loss",
            Self::RelativeDrift => "the drift as a share of the weight's norm",
            Self::Stability => "the largest s of a key",
            Self::UsedCapacity => "the share of the directions used up",
            Self::WrittenShare => "the share of a residual that is written",
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
    /// The largest value allowed; for [`Guard::WrittenShare`], the smallest.
    pub limit: f64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layer, guard, value, limit } = self;
        let (value, limit) = (Short(*value), Short(*limit));
        write!(f, "layer {layer}: {guard} is {value}, ")?;
        match guard {
            Guard::WrittenShare => write!(
                f,
                "at least {limit} is required: a key lies outside the space that may be edited, that space is full, or the \
                 edits of the batch undo each other; use a larger threshold, or smaller weights and ridges in the method"
            ),
            _ => write!(f, "at most {limit} is allowed"),
        }
    }
}

impl Guards {
    /// Checks that all limits are in range. A session does this when it is opened.
    ///
    /// # Errors
    /// A limit that is negative or not finite, or a share above 1.
    pub fn check(&self) -> Result<()> {
        let limits = [
            ("update_norm", self.update_norm),
            ("relative_update_norm", self.relative_update_norm),
            ("leakage", self.leakage),
            ("expected_loss", self.expected_loss),
            ("relative_drift", self.relative_drift),
            ("stability", self.stability),
            ("used_capacity", self.used_capacity),
            ("written_share", self.written_share),
        ];
        limits
            .iter()
            .filter_map(|&(name, limit)| Some((name, limit?)))
            .try_for_each(|(n, l)| validate::non_negative(n, l))?;
        for (parameter, share) in [("used_capacity", self.used_capacity), ("written_share", self.written_share)] {
            if let Some(value) = share.filter(|&share| share > 1.0) {
                return Err(NumericsError::Parameter { parameter, value, allowed: "a share, 0 to 1" }.into());
            }
        }
        Ok(())
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
            (Guard::ExpectedLoss, self.expected_loss, found.expected_loss),
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
        .or_else(|| {
            let (guard, limit, value) = (Guard::WrittenShare, self.written_share?, found.written_share);
            (!(value >= limit)).then_some(Violation { layer: found.layer, guard, value, limit })
        })
    }
}
