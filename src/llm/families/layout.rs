//! The names of a family's tensors, and how they are stored.

use std::borrow::Cow;

use crate::update::Orientation;

/// A name in a file.
pub type Name = Cow<'static, str>;

/// The names of a family's tensors, without `.weight` and `.bias`, and how they are stored.
///
/// In names of a block's tensors, `{}` stands for the number of the block. A bias is read if the file has one. The
/// [`Config`](crate::llm::Config) decides which of the optional tensors a model has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorLayout {
    /// Embeddings of the tokens, a row each.
    pub embedding: Name,
    /// Embeddings of the positions, a row each, if positions are learned.
    pub positions: Option<Name>,
    /// The norm before the output head.
    pub norm: Name,
    /// The output head, if it is not the embedding.
    pub head: Name,
    /// The norm before the attention.
    pub attention_norm: Name,
    /// Queries, keys and values.
    pub attention: AttentionNames,
    /// Norms of queries and of keys, if there are any.
    pub head_norms: Option<[Name; 2]>,
    /// The attention's output projection.
    pub attention_output: Name,
    /// The norm behind the attention, if there is one.
    pub attention_post_norm: Option<Name>,
    /// The norm before the MLP, if the MLP has one of its own.
    pub mlp_norm: Option<Name>,
    /// The MLP's gate, if there is one.
    pub gate: Option<Name>,
    /// The MLP's input projection.
    pub up: Name,
    /// Gate and input projection in one matrix, in place of [`gate`](Self::gate) and [`up`](Self::up): the outputs of the gate first.
    pub gate_and_up: Option<Name>,
    /// The MLP's output projection: the matrix that edits change.
    pub down: Name,
    /// The norm behind the MLP, if there is one.
    pub mlp_post_norm: Option<Name>,
    /// How the projections of the blocks are stored. Embeddings and output head always have a row for each token.
    pub orientation: Orientation,
    /// A prefix of the names that some files omit.
    pub optional_prefix: Option<Name>,
    /// Ends of the names of tensors that files hold and that are no parameters: masks and frequencies, which programs compute anew.
    pub unused: Vec<Name>,
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
    /// In one matrix, by the heads of keys: for each, the outputs of the queries that share it, then those of the key, then those of the
    /// value.
    ByHeads(Name),
}

impl AttentionNames {
    /// Three matrices.
    #[must_use]
    pub fn separate(query: impl Into<Name>, key: impl Into<Name>, value: impl Into<Name>) -> Self {
        Self::Separate { query: query.into(), key: key.into(), value: value.into() }
    }
}

impl TensorLayout {
    /// The layout of Llama, Mistral and Qwen.
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
            attention_post_norm: None,
            mlp_norm: Some("model.layers.{}.post_attention_layernorm".into()),
            gate: Some("model.layers.{}.mlp.gate_proj".into()),
            up: "model.layers.{}.mlp.up_proj".into(),
            gate_and_up: None,
            down: "model.layers.{}.mlp.down_proj".into(),
            mlp_post_norm: None,
            orientation: Orientation::OutputsByInputs,
            optional_prefix: None,
            unused: vec![".rotary_emb.inv_freq".into()],
        }
    }

    /// The name without the prefix that some files omit, if it has that prefix.
    pub(in crate::llm) fn without_prefix<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(self.optional_prefix.as_deref()?)
    }
}

/// The name of a tensor of a block.
pub(in crate::llm) fn numbered(name: &str, layer: usize) -> String {
    name.replace("{}", &layer.to_string())
}
