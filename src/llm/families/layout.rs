//! What the tensors of a family are called, and how they lie.

use std::borrow::Cow;

use crate::update::Orientation;

/// A name in a file.
pub type Name = Cow<'static, str>;

/// What the tensors of a family are called in its files, without `.weight` and `.bias`, and how they lie there.
///
/// Names of a block's tensors have `{}` where its number goes. A bias is read where the file has one. Which of the tensors a model
/// must have says its [`Config`](crate::llm::Config).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorLayout {
    /// Embeddings of the tokens, a row each.
    pub embedding: Name,
    /// Embeddings of the positions, a row each, where positions are learned.
    pub positions: Option<Name>,
    /// The norm in front of the head.
    pub norm: Name,
    /// The head, where it is not the embedding.
    pub head: Name,
    /// The norm in front of the attention.
    pub attention_norm: Name,
    /// Queries, keys and values.
    pub attention: AttentionNames,
    /// Norms of the heads of queries and of keys, where there are any.
    pub head_norms: Option<[Name; 2]>,
    /// The attention's output projection.
    pub attention_output: Name,
    /// The norm in front of the MLP, where the MLP has one of its own.
    pub mlp_norm: Option<Name>,
    /// The MLP's gate, where there is one.
    pub gate: Option<Name>,
    /// The MLP's input projection.
    pub up: Name,
    /// The MLP's output projection: the matrix that edits change.
    pub down: Name,
    /// How the projections of the blocks are stored. Embeddings and head are always a row a token.
    pub orientation: Orientation,
    /// A beginning of the names that some files leave away.
    pub optional_prefix: Option<Name>,
}

/// The projections of queries, keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttentionNames {
    /// A matrix each.
    Separate {
        /// Queries.
        query: Name,
        /// Keys.
        key: Name,
        /// Values.
        value: Name,
    },
    /// Side by side in one matrix: the outputs of the queries, then those of the keys, then those of the values.
    Joined(Name),
}

impl AttentionNames {
    /// Three matrices.
    #[must_use]
    pub fn separate(query: impl Into<Name>, key: impl Into<Name>, value: impl Into<Name>) -> Self {
        Self::Separate { query: query.into(), key: key.into(), value: value.into() }
    }
}

impl TensorLayout {
    /// The layout of Llama and its kin.
    #[must_use]
    pub fn llama() -> Self {
        Self {
            embedding: "model.embed_tokens".into(),
            positions: None,
            norm: "model.norm".into(),
            head: "lm_head".into(),
            attention_norm: "model.layers.{}.input_layernorm".into(),
            attention: AttentionNames::separate(
                "model.layers.{}.self_attn.q_proj",
                "model.layers.{}.self_attn.k_proj",
                "model.layers.{}.self_attn.v_proj",
            ),
            head_norms: None,
            attention_output: "model.layers.{}.self_attn.o_proj".into(),
            mlp_norm: Some("model.layers.{}.post_attention_layernorm".into()),
            gate: Some("model.layers.{}.mlp.gate_proj".into()),
            up: "model.layers.{}.mlp.up_proj".into(),
            down: "model.layers.{}.mlp.down_proj".into(),
            orientation: Orientation::OutputsByInputs,
            optional_prefix: None,
        }
    }

    /// The name without the prefix that some files leave away, if it has it.
    pub(in crate::llm) fn without_prefix<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(self.optional_prefix.as_deref()?)
    }
}

/// The name of a tensor of a block.
pub(in crate::llm) fn numbered(name: &str, layer: usize) -> String {
    name.replace("{}", &layer.to_string())
}
