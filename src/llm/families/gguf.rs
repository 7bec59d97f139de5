//! The names in GGUF files, and the shape that their metadata describes.

use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};

use super::layout::{AttentionNames, Name, TensorLayout};
use crate::error::{Error, Result};
use crate::format::malformed;
use crate::llm::config::{Config, Pairing, Positions, Rotary, Sizes};

/// A family in GGUF files.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GgufLayout {
    /// Its `general.architecture`, the prefix of its metadata entries.
    pub architecture: Name,
    /// The names of its tensors. Projections are stored outputs by inputs.
    pub tensors: TensorLayout,
    /// The order of the rows of queries and keys: rows that are rotated together are side by side, or half a head apart.
    pub pairing: Pairing,
}

impl GgufLayout {
    /// The names that llama.cpp uses, with the rows of queries and keys in the same order as in safetensors files.
    #[must_use]
    pub fn llama_cpp(architecture: impl Into<Name>) -> Self {
        let tensors = TensorLayout {
            embedding: "token_embd".into(),
            norm: "output_norm".into(),
            head: "output".into(),
            attention_norm: "blk.{}.attn_norm".into(),
            attention: AttentionNames::separate("blk.{}.attn_q", "blk.{}.attn_k", "blk.{}.attn_v"),
            head_norms: Some(["blk.{}.attn_q_norm", "blk.{}.attn_k_norm"].map(Into::into)),
            attention_output: "blk.{}.attn_output".into(),
            mlp_norm: Some("blk.{}.ffn_norm".into()),
            gate: Some("blk.{}.ffn_gate".into()),
            up: "blk.{}.ffn_up".into(),
            down: "blk.{}.ffn_down".into(),
            ..TensorLayout::llama()
        };
        Self { architecture: architecture.into(), tensors, pairing: Pairing::Halves }
    }
}

/// The metadata of a GGUF file. Names of entries are given without the architecture. Errors name the file.
#[derive(Clone, Copy)]
pub struct GgufMetadata<'a> {
    content: &'a Content,
    layout: &'a GgufLayout,
    path: &'a Path,
}

impl std::fmt::Debug for GgufMetadata<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { content, layout, path } = self;
        let mut shown = f.debug_struct("GgufMetadata");
        shown.field("path", path).field("architecture", &layout.architecture);
        shown.field("entries", &content.metadata.len()).field("tensors", &content.tensor_infos.len()).finish()
    }
}

impl<'a> GgufMetadata<'a> {
    pub(in crate::llm) fn new(content: &'a Content, layout: &'a GgufLayout, path: &'a Path) -> Self {
        Self { content, layout, path }
    }

    /// An error that names this file and says why it is refused.
    #[must_use]
    pub fn refuse(&self, problem: impl Into<String>) -> Error {
        malformed(self.path, problem)
    }

    /// Whether there is a tensor of this name.
    #[must_use]
    pub fn has_tensor(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    /// Whether there is an entry of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.content.metadata.contains_key(&self.full(name))
    }

    /// An entry that is a size.
    ///
    /// # Errors
    /// No such entry, or one that is not a whole number.
    pub fn size(&self, name: &str) -> Result<usize> {
        let name = self.full(name);
        let lacks = || self.refuse(format!("the metadata lacks `{name}`"));
        let value = self.content.metadata.get(&name).ok_or_else(lacks)?;
        whole(value).ok_or_else(|| self.refuse(format!("the metadata's `{name}` is no whole number")))
    }

    /// An entry that is a number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<f64> {
        let value = self.content.metadata.get(&self.full(name))?;
        value.to_f32().map(f64::from).or_else(|_| value.to_f64()).ok()
    }

    /// A decoder of Llama's shape.
    ///
    /// # Errors
    /// A missing or invalid entry, or scaled rotary positions.
    pub fn decoder(&self) -> Result<Config> {
        let (hidden, heads) = (self.size("embedding_length")?, self.size("attention.head_count")?);
        if self.has("rope.scaling.type") || self.has_tensor("rope_freqs.weight") {
            let problem = "scaled rotary positions are not supported in GGUF files; use the model's safetensors";
            return Err(self.refuse(problem));
        }
        let mut config = Config::new(Sizes {
            layers: self.size("block_count")?,
            hidden,
            intermediate: self.size("feed_forward_length")?,
            heads,
            vocabulary: self.embedding_rows()?,
            context: self.size("context_length")?,
        });
        config.head_dim = self.size("attention.key_length").unwrap_or(config.head_dim);
        config.kv_heads = self.size("attention.head_count_kv").unwrap_or(heads);
        config.norm_epsilon = self.number("attention.layer_norm_rms_epsilon").unwrap_or(1e-6);
        let dims = self.size("rope.dimension_count").unwrap_or(config.head_dim);
        config.positions = Positions::Rotary(Rotary::new(self.number("rope.freq_base").unwrap_or(10_000.0), dims));
        config.tied = !self.has_tensor(&format!("{}.weight", self.layout.tensors.head));
        Ok(config)
    }

    fn embedding_rows(&self) -> Result<usize> {
        let name = format!("{}.weight", self.layout.tensors.embedding);
        let rows = self.content.tensor_infos.get(&name).and_then(|info| info.shape.dims().first().copied());
        rows.ok_or_else(|| self.refuse(format!("tensor `{name}` is missing")))
    }

    fn full(&self, name: &str) -> String {
        format!("{}.{name}", self.layout.architecture)
    }
}

/// A whole number, of whatever type.
fn whole(value: &Value) -> Option<usize> {
    let number = match value {
        Value::U8(x) => u64::from(*x),
        Value::U16(x) => u64::from(*x),
        Value::U32(x) => u64::from(*x),
        Value::U64(x) => *x,
        Value::I32(x) => u64::try_from(*x).ok()?,
        Value::I64(x) => u64::try_from(*x).ok()?,
        _ => return None,
    };
    usize::try_from(number).ok()
}
