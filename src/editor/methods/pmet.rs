//! PMET.

use std::borrow::Cow;

use crate::editor::{History, Memit, Method, Recipe, Share};
use crate::error::numerics::Result;
use crate::util::setters::setters;

/// PMET: the update of MEMIT, with a larger share of the residual for the lower layers, `1 / sqrt(l)` with `l` layers left.
///
/// The other half of the method is its targets, which the adapter finds (`llm::Site::MlpAndAttention`). They are
/// outputs of the edited matrix itself, found together with those of the attention. The targets of MEMIT are outputs of
/// the block.
///
/// # References
/// Li et al., "PMET: Precise Model Editing in a Transformer", AAAI 2024.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Pmet {
    /// Weight of the statistics. Default: `15_000.0`; published: 6 000 for GPT-J.
    pub lambda: f64,
    /// Whether past keys are protected. Default: [`History::Ignored`].
    pub history: History,
}

impl Default for Pmet {
    fn default() -> Self {
        Self { lambda: 15_000.0, history: History::Ignored }
    }
}

setters!(Pmet {
    /// Sets the weight of the statistics.
    with_lambda(lambda: f64),
    /// Sets whether past keys are protected.
    with_history(history: History),
});

impl Pmet {
    fn memit(&self) -> Memit {
        Memit::default().with_lambda(self.lambda).with_history(self.history)
    }
}

impl Method for Pmet {
    fn name(&self) -> Cow<'static, str> {
        let name = match self.history {
            History::Absorbed => "pmet-h",
            History::Ignored => "pmet",
            History::Random { .. } => "pmet-r",
        };
        name.into()
    }

    fn check(&self) -> Result<()> {
        self.memit().check()
    }

    fn recipe(&self) -> Recipe {
        Recipe { share: Share::SquareRoot, ..self.memit().recipe() }
    }
}
