//! RLSEdit.

use std::borrow::Cow;

use crate::editor::{History, Method, Recipe, Space};
use crate::error::numerics::Result;
use crate::refresh::Refresh;
use crate::util::setters::setters;
use crate::util::validate;

/// RLSEdit: after every edit the weight minimises
///
/// ```text
/// sum_i |W k_i - v_i|² + mu² lambda tr((W - W0) C (W - W0)ᵀ) + nu² |W - W0|²
/// ```
///
/// Two terms anchor it to the initial weight `W0`: `mu` to its outputs over the text, `nu` to its entries. To anchor
/// other outputs, [`protect`](crate::editor::Editor::protect) their keys, scaled by `mu`. With `mu = 1` and `nu = 0`,
/// as published, it is MEMIT-H: its recursion is the engine's recursion for every method with history.
///
/// # References
/// "RLSEdit", arXiv 2601.15686.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct RlsEdit {
    /// Weight of the statistics. Default: `15_000.0`.
    pub lambda: f64,
    /// Strengths of the anchors to the initial weight.
    pub anchors: Anchors,
}

/// Strengths of the two terms that keep RLSEdit's weight near the initial weight.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct Anchors {
    /// Anchor to the outputs of the initial weight. Default: `1.0`.
    pub mu: f64,
    /// Anchor to the entries of the initial weight. Default: `0.0`.
    pub nu: f64,
}

impl Default for Anchors {
    fn default() -> Self {
        Self { mu: 1.0, nu: 0.0 }
    }
}

impl Default for RlsEdit {
    fn default() -> Self {
        Self { lambda: 15_000.0, anchors: Anchors::default() }
    }
}

setters!(RlsEdit {
    /// Sets the weight of the statistics.
    with_lambda(lambda: f64),
    /// Sets the strengths of the anchors.
    with_anchors(anchors: Anchors),
});

impl Method for RlsEdit {
    fn name(&self) -> Cow<'static, str> {
        "rlsedit".into()
    }

    fn check(&self) -> Result<()> {
        validate::non_negative("lambda", self.lambda)?;
        validate::non_negative("mu", self.anchors.mu)?;
        validate::non_negative("nu", self.anchors.nu)
    }

    fn recipe(&self) -> Recipe {
        let Anchors { mu, nu } = self.anchors;
        let (weight, ridge) = (mu * mu * self.lambda, nu * nu);
        Recipe::new(weight, ridge, Space::Whole, History::Absorbed, Refresh::Never)
    }
}
