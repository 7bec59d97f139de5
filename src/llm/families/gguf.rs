//! The names in GGUF files, and the shape that their metadata describes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::quantized::gguf_file::Value;

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
///
/// It remembers which entries it was asked for. After
/// [`Family::config_from_gguf`](super::Family::config_from_gguf), a file with another entry of its architecture is refused, unless its
/// value switches off whatever it stands for.
#[derive(Clone, Copy)]
pub struct GgufMetadata<'a> {
    entries: &'a HashMap<String, Value>,
    tensors: &'a BTreeMap<String, Vec<usize>>,
    layout: &'a GgufLayout,
    path: &'a Path,
    read: &'a Mutex<BTreeSet<String>>,
}

impl std::fmt::Debug for GgufMetadata<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { entries, tensors, layout, path, .. } = self;
        let mut shown = f.debug_struct("GgufMetadata");
        shown.field("path", path).field("architecture", &layout.architecture);
        shown.field("entries", &entries.len()).field("tensors", &tensors.len()).finish()
    }
}

/// Entries of an architecture that change nothing here.
const HARMLESS: [&str; 2] = ["vocab_size", "tensor_data_layout"];

impl<'a> GgufMetadata<'a> {
    /// * `tensors`: the shapes of all tensors, outputs by inputs
    /// * `read`: where the names of the entries go that are asked for
    pub(in crate::llm) fn new(
        entries: &'a HashMap<String, Value>,
        tensors: &'a BTreeMap<String, Vec<usize>>,
        layout: &'a GgufLayout,
        path: &'a Path,
        read: &'a Mutex<BTreeSet<String>>,
    ) -> Self {
        Self { entries, tensors, layout, path, read }
    }

    /// An error that names this file and says why it is refused.
    #[must_use]
    pub fn refuse(&self, problem: impl Into<String>) -> Error {
        malformed(self.path, problem)
    }

    /// Whether there is a tensor of this name.
    #[must_use]
    pub fn has_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Whether there is an entry of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    fn entry(&self, name: &str) -> Option<&'a Value> {
        let name = self.full(name);
        let value = self.entries.get(&name);
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        value
    }

    /// An entry that is a size.
    ///
    /// # Errors
    /// No such entry, or one that is not a whole number.
    pub fn size(&self, name: &str) -> Result<usize> {
        self.optional_size(name)?.ok_or_else(|| self.refuse(format!("the metadata lacks `{}`", self.full(name))))
    }

    /// An entry that is a size, or a default if there is none.
    ///
    /// # Errors
    /// One that is not a whole number.
    pub fn size_or(&self, name: &str, default: usize) -> Result<usize> {
        Ok(self.optional_size(name)?.unwrap_or(default))
    }

    fn optional_size(&self, name: &str) -> Result<Option<usize>> {
        let Some(value) = self.entry(name) else { return Ok(None) };
        let wrong = || self.refuse(format!("the metadata's `{}` is no whole number", self.full(name)));
        whole(value).map(Some).ok_or_else(wrong)
    }

    /// An entry that is a number.
    ///
    /// # Errors
    /// No such entry, or one that is not a number.
    pub fn number(&self, name: &str) -> Result<f64> {
        self.entry(name).ok_or_else(|| self.refuse(format!("the metadata lacks `{}`", self.full(name))))?;
        self.number_or(name, 0.0)
    }

    /// An entry that is a number, or a default if there is none.
    ///
    /// # Errors
    /// One that is not a number.
    pub fn number_or(&self, name: &str, default: f64) -> Result<f64> {
        let Some(value) = self.entry(name) else { return Ok(default) };
        let number = value.to_f32().map(f64::from).or_else(|_| value.to_f64());
        number.map_err(|_| self.refuse(format!("the metadata's `{}` is no number", self.full(name))))
    }

    /// A decoder of Llama's shape.
    ///
    /// # Errors
    /// A missing or invalid entry, or rotary positions that are scaled or over a part of the head.
    pub fn decoder(&self) -> Result<Config> {
        let (hidden, heads) = (self.size("embedding_length")?, self.size("attention.head_count")?);
        let scaling = self.entry("rope.scaling.type").map(|kind| kind.to_string().map_or("", String::as_str));
        if scaling.is_some_and(|kind| kind != "none") || self.has_tensor("rope_freqs.weight") {
            let problem = "scaled rotary positions (`rope.scaling`, `rope_freqs`) are not supported in GGUF files; use the model's \
                           safetensors";
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
        config.head_dim = self.size_or("attention.key_length", config.head_dim)?;
        config.kv_heads = self.size_or("attention.head_count_kv", heads)?;
        config.norm_epsilon = self.number("attention.layer_norm_rms_epsilon")?;
        if self.entry("attention.causal").is_some_and(|causal| causal.to_bool().is_ok_and(|causal| !causal)) {
            return Err(self.refuse(format!(
                "the metadata's `{}` is false, which is not supported",
                self.full("attention.causal")
            )));
        }
        for name in ["attention.value_length", "rope.dimension_count"] {
            let (length, head) = (self.size_or(name, config.head_dim)?, config.head_dim);
            if length != head {
                let problem = format!(
                    "the metadata's `{}` is {length}, and only the length of a head, {head}, is supported",
                    self.full(name)
                );
                return Err(self.refuse(problem));
            }
        }
        let theta = self.number_or("rope.freq_base", 10_000.0)?;
        config.positions = Positions::Rotary(Rotary::new(theta, config.head_dim));
        config.tied = !self.has_tensor(&format!("{}.weight", self.layout.tensors.head));
        Ok(config)
    }

    fn embedding_rows(&self) -> Result<usize> {
        let name = format!("{}.weight", self.layout.tensors.embedding);
        let rows = self.tensors.get(&name).and_then(|shape| shape.first().copied());
        rows.ok_or_else(|| self.refuse(format!("tensor `{name}` is missing")))
    }

    fn full(&self, name: &str) -> String {
        format!("{}.{name}", self.layout.architecture)
    }

    /// Refuses entries of the architecture that nobody asked for.
    pub(in crate::llm) fn check_all_read(&self) -> Result<()> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let start = self.full("");
        let matters = |(name, value): &(&String, &Value)| {
            let short = name.strip_prefix(&start);
            short.is_some_and(|short| !HARMLESS.contains(&short)) && !read.contains(*name) && !switches_off(name, value)
        };
        let mut unread: Vec<&str> = self.entries.iter().filter(matters).map(|(name, _)| name.as_str()).collect();
        if unread.is_empty() {
            return Ok(());
        }
        unread.sort_unstable();
        let problem = "could change what the model computes, and is not supported for this architecture";
        Err(self.refuse(format!("the metadata's `{}` {problem}", unread.join("`, `"))))
    }
}

/// Whether a value switches off whatever it stands for.
fn switches_off(name: &str, value: &Value) -> bool {
    let number = value.to_f32().map(f64::from).or_else(|_| value.to_f64()).ok();
    let number = number.or_else(|| whole(value).map(|x| x as f64));
    match (value, number) {
        (Value::Bool(on), _) => !on,
        (_, Some(number)) => number == if name.contains("scal") { 1.0 } else { 0.0 },
        _ => false,
    }
}

/// A whole number, of whatever type.
pub(in crate::llm) fn whole(value: &Value) -> Option<usize> {
    let number = match value {
        Value::U8(x) => u64::from(*x),
        Value::U16(x) => u64::from(*x),
        Value::U32(x) => u64::from(*x),
        Value::U64(x) => *x,
        Value::I8(x) => u64::try_from(*x).ok()?,
        Value::I16(x) => u64::try_from(*x).ok()?,
        Value::I32(x) => u64::try_from(*x).ok()?,
        Value::I64(x) => u64::try_from(*x).ok()?,
        _ => return None,
    };
    usize::try_from(number).ok()
}
