//! The outputs of a block that targets belong to.

use crate::error::{ModelError, Result};
use crate::llm::model::Model;
use crate::util::named::named;

/// The outputs of a block that vectors are added to, one vector an output.
///
/// Let `x` be the block's input, `a` the attention's output, and `m` the function from the residual stream to the MLP's output `W k`.
/// Then the output of the block is `x + a + m(x + a)`. (In GPT-J and GPT-NeoX, where the MLP is beside the attention, it is `x + a + m(x)`.)
///
/// In Gemma 2 and 3 and OLMo 2, a norm `n` stands behind the MLP: the output is `x + a + n(m(x + a))`. It is not linear in the edited matrix,
/// so [`Block`](Self::Block) is refused there. At the other sites, `v` is added to `m(x + a)`, in front of the norm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Site {
    /// The block's output: `x + a + m(x + a) + v`. Editors of the MEMIT family.
    #[default]
    Block,
    /// The MLP's output. The block's output is the same as for [`Block`](Self::Block), but `v` is added to `m(x + a)`.
    Mlp,
    /// The outputs of the MLP and of the attention: `x + (a + u) + m(x + a + u) + v`. The MLP reads what the attention writes, so these are
    /// two different vectors (except in GPT-J). PMET.
    #[cfg_attr(feature = "serde", serde(rename = "pmet"))]
    MlpAndAttention,
}

named!(Site, "site of a target", { Block => "block", Mlp => "mlp", MlpAndAttention => "pmet" });

impl Site {
    /// Refuses outputs that are not linear in the edited matrix.
    pub(in crate::llm) fn check(self, model: &Model, layer: usize) -> Result<()> {
        match (self, &model.blocks[layer].mlp_post_norm) {
            (Self::Block, Some(_)) => {
                let family = model.family().model_type();
                let problem = format!(
                    "in a model of type {family} a norm stands behind the MLP, so an output of a block cannot be written into the MLP's \
                     matrix: seek outputs of the MLP (target `mlp`)"
                );
                Err(ModelError::Unsupported { problem }.into())
            }
            _ => Ok(()),
        }
    }

    /// The number of outputs, and so of vectors.
    pub(super) fn count(self) -> usize {
        match self {
            Self::Block | Self::Mlp => 1,
            Self::MlpAndAttention => 2,
        }
    }
}
