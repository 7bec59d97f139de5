//! AlphaEdit and AlphaEdit-H.

use std::borrow::Cow;

use crate::editor::{History, Method, Recipe, Space};
use crate::error::numerics::Result;
use crate::projector::Threshold;
use crate::refresh::Refresh;
use crate::util::setters::setters;
use crate::util::validate;

/// AlphaEdit: `Delta = R Kᵀ P (K Kᵀ P + lambda2 I)⁻¹`, and with history `K Kᵀ + H` instead of `K Kᵀ`.
///
/// It writes only in directions that the model hardly uses: `P` projects onto the eigenvectors of `C` with eigenvalues
/// below the threshold.
///
/// # References
/// Fang et al., "AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models", ICLR 2025 (equation 4 of
/// the BetaEdit paper). The released program always carries the history, which the BetaEdit paper calls AlphaEdit-H.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct AlphaEdit {
    /// Ridge on the norm of the update, in units of the squared length of a key: too large for small keys, an edit writes
    /// nothing. Default: `10.0`.
    pub lambda2: f64,
    /// Where the null space ends. Default: `Threshold::Absolute(0.02)`.
    pub threshold: Threshold,
    /// Whether past keys are protected. Default: [`History::Ignored`].
    pub history: History,
}

impl Default for AlphaEdit {
    fn default() -> Self {
        Self { lambda2: 10.0, threshold: Threshold::default(), history: History::Ignored }
    }
}

setters!(AlphaEdit {
    /// Sets the ridge.
    with_lambda2(lambda2: f64),
    /// Sets where the null space ends.
    with_threshold(threshold: Threshold),
    /// Sets whether past keys are protected.
    with_history(history: History),
});

impl Method for AlphaEdit {
    fn name(&self) -> Cow<'static, str> {
        let name = match self.history {
            History::Absorbed => "alphaedit-h",
            History::Ignored => "alphaedit",
            History::Random { .. } => "alphaedit-r",
        };
        name.into()
    }

    fn check(&self) -> Result<()> {
        validate::non_negative("lambda2", self.lambda2)?;
        self.threshold.check()
    }

    fn recipe(&self) -> Recipe {
        Recipe::new(0.0, self.lambda2, Space::Null(self.threshold), self.history, Refresh::Never)
    }
}
