//! The names in GGUF files, and the shape that their metadata describes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::quantized::gguf_file::Value;

use super::layout::{AttentionNames, Name, TensorLayout};
use super::unread::experts;
use crate::error::{Error, Result};
use crate::format::malformed;
use crate::llm::config::{Config, NormKind, Pairing, Positions, Rotary, RotaryScaling, Sizes};

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
    /// How the gains of norms are stored.
    pub gains: Gains,
}

/// How the gains of norms are stored in GGUF files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gains {
    /// As in safetensors files.
    AsInSafetensors,
    /// 1 more than in safetensors files.
    PlusOne,
}

/// Tensors that hold divisors of rotary frequencies, one a pair: of all texts, of short and of long ones.
pub(in crate::llm) const DIVISORS: [&str; 3] = [ALL, SHORT, LONG];
const ALL: &str = "rope_freqs.weight";
const SHORT: &str = "rope_factors_short.weight";
const LONG: &str = "rope_factors_long.weight";

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
        Self { architecture: architecture.into(), tensors, pairing: Pairing::Halves, gains: Gains::AsInSafetensors }
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
    divisors: &'a BTreeMap<&'static str, Vec<f64>>,
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
    /// * `divisors`: the numbers of those of [`DIVISORS`] that are there
    /// * `read`: where the names of the entries go that are asked for
    pub(in crate::llm) fn new(
        entries: &'a HashMap<String, Value>,
        tensors: &'a BTreeMap<String, Vec<usize>>,
        divisors: &'a BTreeMap<&'static str, Vec<f64>>,
        layout: &'a GgufLayout,
        path: &'a Path,
        read: &'a Mutex<BTreeSet<String>>,
    ) -> Self {
        Self { entries, tensors, divisors, layout, path, read }
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
        self.note(name);
        value
    }

    fn note(&self, name: String) {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
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

    /// An entry that is true or false, or a default if there is none.
    ///
    /// # Errors
    /// Anything else.
    pub fn flag_or(&self, name: &str, default: bool) -> Result<bool> {
        let Some(value) = self.entry(name) else { return Ok(default) };
        value
            .to_bool()
            .map_err(|_| self.refuse(format!("the metadata's `{}` is neither true nor false", self.full(name))))
    }

    /// The number of tokens in a sliding window; `None` if there is none.
    ///
    /// # Errors
    /// An entry that is not a whole number.
    pub fn window(&self) -> Result<Option<usize>> {
        Ok(self.optional_size("attention.sliding_window")?.filter(|&tokens| tokens > 0))
    }

    /// A decoder of Llama's shape, or with layer norms if the file has their epsilon.
    ///
    /// # Errors
    /// A missing or invalid entry, a rotation of a part of the head, or a scaling of rotary positions that is not known.
    pub fn decoder(&self) -> Result<Config> {
        let config = self.decoder_of_parts()?;
        match &config.positions {
            Positions::Rotary(rotary) if rotary.dims != config.head_dim => Err(self.refuse(format!(
                "the metadata's `{}` is {}, and only the length of a head, {}, is supported",
                self.full("rope.dimension_count"),
                rotary.dims,
                config.head_dim
            ))),
            _ => Ok(config),
        }
    }

    /// As [`decoder`](Self::decoder), also with a rotation of a part of the head.
    ///
    /// # Errors
    /// As [`decoder`](Self::decoder).
    pub fn decoder_of_parts(&self) -> Result<Config> {
        let (hidden, heads) = (self.size("embedding_length")?, self.size("attention.head_count")?);
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
        (config.norm, config.norm_epsilon) = match self.has("attention.layer_norm_epsilon") {
            true => (NormKind::Layer, self.number("attention.layer_norm_epsilon")?),
            false => (NormKind::Rms, self.number("attention.layer_norm_rms_epsilon")?),
        };
        if self.layout.gains == Gains::PlusOne {
            config.norm = NormKind::RmsFromOne;
        }
        if self.entry("attention.causal").is_some_and(|causal| causal.to_bool().is_ok_and(|causal| !causal)) {
            return Err(self.refuse(format!(
                "the metadata's `{}` is false, which is not supported",
                self.full("attention.causal")
            )));
        }
        let (length, head) = (self.size_or("attention.value_length", config.head_dim)?, config.head_dim);
        if length != head {
            let name = self.full("attention.value_length");
            let problem =
                format!("the metadata's `{name}` is {length}, and only the length of a head, {head}, is supported");
            return Err(self.refuse(problem));
        }
        if self.layout.tensors.positions.is_some() {
            config.positions = Positions::Learned;
        } else {
            let theta = self.number_or("rope.freq_base", 10_000.0)?;
            let dims = self.size_or("rope.dimension_count", head)?;
            let scaling = self.scaling(config.context)?;
            config.positions = Positions::Rotary(Rotary { scaling, ..Rotary::new(theta, dims) });
            config.fit_context();
        }
        config.tied = !self.has_tensor(&format!("{}.weight", self.layout.tensors.head));
        Ok(config)
    }

    /// The scaling of rotary frequencies, as llama.cpp computes it.
    fn scaling(&self, context: usize) -> Result<RotaryScaling> {
        // Says how the model was trained, and nothing else.
        self.note(self.full("rope.scaling.finetuned"));
        let kind = self.entry("rope.scaling.type").map(|kind| kind.to_string().map_or("", String::as_str));
        let [all, short, long] = DIVISORS.map(|name| self.divisors_of(name));
        let original = self.size_or("rope.scaling.original_context_length", context)?;
        let attention = self.number_or("rope.scaling.attn_factor", 1.0)?;
        let factor = || self.number_or("rope.scaling.factor", 1.0);
        let scaling = match (kind.unwrap_or("none"), all, short.zip(long)) {
            ("none", None, None) => RotaryScaling::None,
            ("none", Some(all), None) => RotaryScaling::LongRope {
                short: all.into(),
                long: all.into(),
                original_context: context,
                longest_context: context,
                attention,
            },
            ("none" | "longrope", None, Some((short, long))) => RotaryScaling::LongRope {
                short: short.into(),
                long: long.into(),
                original_context: original,
                longest_context: context,
                attention,
            },
            ("linear", None, None) => RotaryScaling::Linear(factor()?),
            ("yarn", None, None) => {
                let (factor, number) = (factor()?, |name, usual| self.number_or(name, usual));
                RotaryScaling::Yarn {
                    factor,
                    fast: number("rope.scaling.yarn_beta_fast", 32.0)?,
                    slow: number("rope.scaling.yarn_beta_slow", 1.0)?,
                    original_context: original as f64,
                    attention: attention * (1.0 + 0.1 * factor.max(1.0).ln()),
                }
            }
            (kind, ..) => {
                let there: Vec<&str> = DIVISORS.into_iter().filter(|name| self.divisors.contains_key(name)).collect();
                let with = if there.is_empty() { String::new() } else { format!(" with `{}`", there.join("`, `")) };
                let problem = format!(
                    "rotary positions of kind `{kind}`{with} (`rope.scaling`, `rope_freqs`) are not supported in GGUF files; use the \
                     model's safetensors"
                );
                return Err(self.refuse(problem));
            }
        };
        match scaling {
            RotaryScaling::None | RotaryScaling::Linear(_) if attention != 1.0 => {
                let name = self.full("rope.scaling.attn_factor");
                Err(self
                    .refuse(format!("the metadata's `{name}` is {attention}, which only yarn and longrope have here")))
            }
            scaling => Ok(scaling),
        }
    }

    fn divisors_of(&self, name: &'static str) -> Option<&'a [f64]> {
        self.note(name.to_owned());
        self.divisors.get(name).map(Vec::as_slice)
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
        unread.extend(self.divisors.keys().filter(|name| !read.contains(**name)));
        if unread.is_empty() {
            return Ok(());
        }
        unread.sort_unstable();
        let problem = "could change what the model computes, and is not supported for this architecture";
        let experts = experts(unread.iter().copied());
        Err(self.refuse(format!("the metadata's `{}` {problem}{experts}", unread.join("`, `"))))
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
