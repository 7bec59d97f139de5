//! ENCORE.

use std::borrow::Cow;

use crate::editor::{History, Memit, Method, Recipe};
use crate::error::numerics::Result;
use crate::util::setters::setters;
use crate::util::validate;

/// ENCORE: `Delta = R Kᵀ (lambda C + H + mu I + K Kᵀ)⁻¹`, MEMIT-H with a ridge that keeps the norm of the weight from
/// growing with the edits.
///
/// The early stopping of its target search is part of that search, see the feature `llm`.
///
/// # References
/// Gupta et al., "Lifelong Knowledge Editing requires Better Regularization", Findings of EMNLP 2025.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Encore {
    /// Weight of the statistics. Default: `15_000.0`; 20 000 for GPT-2 XL.
    pub lambda: f64,
    /// Ridge on the norm of the update. Default: `10.0`; 20 for LLaMA-3.
    pub mu: f64,
}

impl Default for Encore {
    fn default() -> Self {
        Self { lambda: 15_000.0, mu: 10.0 }
    }
}

setters!(Encore {
    /// Sets the weight of the statistics.
    with_lambda(lambda: f64),
    /// Sets the ridge.
    with_mu(mu: f64),
});

impl Encore {
    fn memit(&self) -> Memit {
        Memit::default().with_lambda(self.lambda).with_ridge(self.mu).with_history(History::Absorbed)
    }
}

impl Method for Encore {
    fn name(&self) -> Cow<'static, str> {
        "encore".into()
    }

    fn check(&self) -> Result<()> {
        validate::non_negative("lambda", self.lambda)?;
        validate::non_negative("mu", self.mu)
    }

    fn recipe(&self) -> Recipe {
        self.memit().recipe()
    }
}
