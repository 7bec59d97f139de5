//! EMMET.

use std::borrow::Cow;

use crate::editor::{History, Method, Recipe, Slack, Space};
use crate::error::numerics::Result;
use crate::refresh::Refresh;
use crate::util::setters::setters;
use crate::util::validate;

/// EMMET: `Delta = R (Kᵀ A⁻¹ K + e I)⁻¹ Kᵀ A⁻¹` with `A = lambda C + ridge I`, and `+ H` with history.
///
/// It meets the residuals exactly (`e = 0`, an equality constraint) or nearly so, and changes the outputs for all other
/// keys as little as possible. Without history and ridge it is [`Memit`](crate::editor::Memit) with the weight
/// `lambda e`. For `e = 0` it does not depend on `lambda`, and a single edit is ROME's, `r kᵀ C⁻¹ / (kᵀ C⁻¹ k)`.
///
/// # References
/// Gupta, Sajnani, Anumanchipalli, "A Unified Framework for Model Editing", Findings of EMNLP 2024.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Emmet {
    /// Weight of the statistics. Default: `15_000.0`; published values range from 1 to 100 000, by model and program.
    pub lambda: f64,
    /// The slack `e`. Default: 0 for single edits, 0.1 for batches.
    pub slack: Slack,
    /// Ridge on the norm of the update. Default: `0.0`.
    pub ridge: f64,
    /// Whether past keys are protected. Default: [`History::Ignored`].
    pub history: History,
}

impl Default for Emmet {
    fn default() -> Self {
        let slack = Slack { single: 0.0, batch: 0.1 };
        Self { lambda: 15_000.0, slack, ridge: 0.0, history: History::Ignored }
    }
}

setters!(Emmet {
    /// Sets the weight of the statistics.
    with_lambda(lambda: f64),
    /// Sets how far the residuals may be missed.
    with_slack(slack: Slack),
    /// Sets the ridge.
    with_ridge(ridge: f64),
    /// Sets whether past keys are protected.
    with_history(history: History),
});

impl Method for Emmet {
    fn name(&self) -> Cow<'static, str> {
        let name = match self.history {
            History::Absorbed => "emmet-h",
            History::Ignored => "emmet",
            History::Random { .. } => "emmet-r",
        };
        name.into()
    }

    fn check(&self) -> Result<()> {
        validate::non_negative("lambda", self.lambda)?;
        validate::non_negative("ridge", self.ridge)
    }

    fn recipe(&self) -> Recipe {
        let recipe = Recipe::new(self.lambda, self.ridge, Space::Whole, self.history, Refresh::Never);
        Recipe { slack: self.slack, ..recipe }
    }
}
