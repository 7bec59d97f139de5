//! BetaEdit and its two ablations.

use std::borrow::Cow;

use crate::editor::{History, Method, Recipe, Space};
use crate::error::numerics::Result;
use crate::projector::{HistoryWeighting, Threshold};
use crate::refresh::{Refresh, RefreshRule};
use crate::util::named::named;
use crate::util::setters::setters;
use crate::util::validate;

/// BetaEdit: `Delta = R Kᵀ P (K Kᵀ P + (lambda1 C + H) P + lambda2 I)⁻¹`, `P` refreshed every `T` edits.
///
/// It adds three things to AlphaEdit: a penalty on what leaks into the model's knowledge through the imperfect null
/// space (`lambda1`), protection of past edits in the solve (`H`), and a projector that is rebuilt to protect them as
/// well.
///
/// # References
/// Liu, Liu, Li, "BetaEdit: Null-Space Constrained Sequential Model Editing", arXiv 2605.09285, equations 7 to 9.
/// Ablations: "w/o KL" is [`Penalty::Dropped`], "w/o NS" is [`Refresh::Never`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct BetaEdit {
    /// Weight of the statistics. Default: `3_000.0`, in units of one edited key. As in the published program, it also
    /// weights the statistics in a refresh, unless [`refresh`](Self::refresh) says otherwise.
    pub lambda1: f64,
    /// Ridge on the norm of the update, in units of the squared length of a key: too large for small keys, an edit writes
    /// nothing. Default: `10.0`.
    pub lambda2: f64,
    /// Where the null space ends. Default: `Threshold::Absolute(0.02)`.
    pub threshold: Threshold,
    /// When and how the projector is rebuilt. Default: `None`, before edits 1001, 2001, ..., by a full
    /// eigendecomposition of `(H / t + lambda1 C) / (lambda1 + 1)`, as in the published program.
    pub refresh: Option<Refresh>,
    /// Whether the solve penalises leakage. Default: [`Penalty::Kept`].
    pub penalty: Penalty,
}

/// Whether the solve has the leakage penalty `lambda1 C`. The statistics stay in the projector either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Penalty {
    /// Yes.
    #[default]
    Kept,
    /// No: the ablation "w/o KL".
    Dropped,
}

named!(Penalty, "penalty", { Kept => "kept", Dropped => "dropped" });

impl Default for BetaEdit {
    fn default() -> Self {
        Self { lambda1: 3_000.0, lambda2: 10.0, threshold: Threshold::default(), refresh: None, penalty: Penalty::Kept }
    }
}

setters!(BetaEdit {
    /// Sets the weight of the statistics.
    with_lambda1(lambda1: f64),
    /// Sets the ridge.
    with_lambda2(lambda2: f64),
    /// Sets where the null space ends.
    with_threshold(threshold: Threshold),
    /// Sets when and how the projector is rebuilt.
    with_refresh(refresh: Option<Refresh>),
    /// Sets whether the solve penalises leakage.
    with_penalty(penalty: Penalty),
});

impl Method for BetaEdit {
    fn name(&self) -> Cow<'static, str> {
        "betaedit".into()
    }

    fn check(&self) -> Result<()> {
        validate::non_negative("lambda1", self.lambda1)?;
        validate::non_negative("lambda2", self.lambda2)?;
        self.threshold.check()?;
        self.refresh.map_or(Ok(()), |refresh| refresh.check())
    }

    fn recipe(&self) -> Recipe {
        let weight = match self.penalty {
            Penalty::Kept => self.lambda1,
            Penalty::Dropped => 0.0,
        };
        let refresh = self.refresh.unwrap_or_else(|| published_refresh(self.lambda1));
        Recipe::new(weight, self.lambda2, Space::Null(self.threshold), History::Absorbed, refresh)
    }
}

/// The refresh of the published program.
pub(super) fn published_refresh(lambda1: f64) -> Refresh {
    Refresh::Every { edits: 1_000, rule: RefreshRule::Full(HistoryWeighting::Mean { lambda1 }) }
}
