//! MEMIT and MEMIT-H.

use std::borrow::Cow;

use crate::editor::{History, Merging, Method, Recipe, Space};
use crate::error::numerics::Result;
use crate::refresh::Refresh;
use crate::util::setters::setters;
use crate::util::validate;

/// MEMIT: `Delta = R Kᵀ (lambda C + K Kᵀ)⁻¹`, and with history `Delta = R Kᵀ (lambda C + H + K Kᵀ)⁻¹`.
///
/// It balances writing the new facts against changing the outputs for all other keys, `lambda |Delta K0|²`. `C` must
/// have full rank. If it does not, add a ridge with [`with_ridge`](Self::with_ridge).
///
/// # References
/// Meng et al., "Mass-Editing Memory in a Transformer", ICLR 2023 (equations 2 and 6 of the BetaEdit paper). With
/// history it is MEMIT-H, equation 5 of the BetaEdit paper; with random keys instead of the history, its baseline
/// MEMIT-R; its MEMIT-30000 has `lambda = 30_000.0`. Merging: Dong, Shen, Xia, "MEMIT-Merge", Findings of ACL 2025,
/// arXiv 2502.07322.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Memit {
    /// Weight of the statistics. Default: `15_000.0`, in units of one edited key.
    pub lambda: f64,
    /// Ridge on the norm of the update, in units of the squared length of a key. Default: `0.0`, as published.
    pub ridge: f64,
    /// Whether past keys are protected. Default: [`History::Ignored`].
    pub history: History,
    /// Whether edits of a batch with the same key are merged. Default: [`Merging::Never`].
    pub merging: Merging,
}

impl Default for Memit {
    fn default() -> Self {
        Self { lambda: 15_000.0, ridge: 0.0, history: History::Ignored, merging: Merging::Never }
    }
}

setters!(Memit {
    /// Sets the weight of the statistics.
    with_lambda(lambda: f64),
    /// Sets the ridge.
    with_ridge(ridge: f64),
    /// Sets whether past keys are protected.
    with_history(history: History),
    /// Sets whether edits of a batch with the same key are merged.
    with_merging(merging: Merging),
});

impl Method for Memit {
    fn name(&self) -> Cow<'static, str> {
        let name = match (self.history, self.merging) {
            (History::Ignored, Merging::Never) => "memit",
            (History::Ignored, Merging::Alike { .. }) => "memit-merge",
            (History::Absorbed, _) => "memit-h",
            (History::Random { .. }, _) => "memit-r",
        };
        name.into()
    }

    fn check(&self) -> Result<()> {
        validate::non_negative("lambda", self.lambda)?;
        validate::non_negative("ridge", self.ridge)
    }

    fn recipe(&self) -> Recipe {
        let recipe = Recipe::new(self.lambda, self.ridge, Space::Whole, self.history, Refresh::Never);
        Recipe { merging: self.merging, ..recipe }
    }
}
