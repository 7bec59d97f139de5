//! What differs between the families of models, as data.

use std::path::Path;

use serde_json::{Value, json};

use crate::error::{EditError, Result};

/// The families of models that can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// Llama 2 and 3, SmolLM2, and what else calls itself `llama`.
    Llama,
    /// Mistral.
    Mistral,
    /// Qwen2 and Qwen2.5: biases on queries, keys and values.
    Qwen2,
    /// Qwen3: norms on queries and keys.
    Qwen3,
    /// GPT-2: learned positions, layer norms, weights stored the other way round.
    Gpt2,
    /// GPT-J: attention and MLP side by side, interleaved rotation of a part of each head.
    GptJ,
}

/// The norm in front of attention, MLP and head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormKind {
    /// `x / rms(x)`, with a gain.
    Rms,
    /// `(x - mean) / deviation`, with a gain and a bias.
    Layer,
}

/// How a token knows where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Positions {
    /// By a vector added to its embedding.
    Learned,
    /// By a rotation of queries and keys.
    Rotary(Rotary),
}

/// Rotary positions: pair `i` of the first `dims` numbers of a head is turned by `position * theta^(-2i / dims)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotary {
    /// Base of the frequencies.
    pub theta: f64,
    /// How many numbers of a head are turned; the others stay.
    pub dims: usize,
    /// Which numbers form a pair.
    pub pairing: Pairing,
    /// How the frequencies were stretched for long contexts.
    pub scaling: RotaryScaling,
}

/// Which numbers of a head form a pair that is turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// `i` and `i + dims / 2`.
    Halves,
    /// `2i` and `2i + 1`.
    Interleaved,
}

/// How rotary frequencies were stretched for long contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RotaryScaling {
    /// Not at all.
    None,
    /// All divided by a factor.
    Linear(f64),
    /// Llama 3: low frequencies are divided by `factor`, high ones stay, those between are blended.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low` are low frequencies.
        low: f64,
        /// Wavelengths below `original_context / high` are high frequencies.
        high: f64,
        /// The context length before stretching.
        original_context: f64,
    },
}

/// The nonlinearity of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// GELU in its tanh form (`gelu_new`).
    Gelu,
}

/// The shape of a model.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// The family.
    pub family: Family,
    /// Number of blocks.
    pub layers: usize,
    /// Length of a hidden state, `d_out` of the edited matrices.
    pub hidden: usize,
    /// Width of the MLP, `d_in` of the edited matrices.
    pub intermediate: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; a divisor of `heads`.
    pub kv_heads: usize,
    /// Length of a head.
    pub head_dim: usize,
    /// Number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// Longest context the model was made for.
    pub context: usize,
    /// The kind of norm.
    pub norm: NormKind,
    /// Added to the variance in a norm.
    pub norm_epsilon: f64,
    /// How positions enter.
    pub positions: Positions,
    /// The MLP's nonlinearity.
    pub activation: Activation,
    /// How many tokens back a token sees, itself included; all, if `None`.
    pub window: Option<usize>,
    /// Whether the head is the embedding.
    pub tied: bool,
}

impl Config {
    /// Reads the text of a `config.json`; `path` is for error messages.
    ///
    /// # Errors
    /// No JSON, an unknown architecture, a missing or nonsensical entry, or a variant of the architecture that is not supported.
    pub fn from_json(text: &str, path: &Path) -> Result<Self> {
        let json: Value =
            serde_json::from_str(text).map_err(|error| malformed(path, format!("not a JSON file: {error}")))?;
        let entries = Entries { json: &json, path };
        let family = match json["model_type"].as_str() {
            Some("llama") => Family::Llama,
            Some("mistral") => Family::Mistral,
            Some("qwen2") => Family::Qwen2,
            Some("qwen3") => Family::Qwen3,
            Some("gpt2") => Family::Gpt2,
            Some("gptj") => Family::GptJ,
            other => {
                let found = other.unwrap_or("(none)");
                return Err(malformed(path, format!("`model_type` is {found}, known are {KNOWN}")));
            }
        };
        let config = match family {
            Family::Gpt2 | Family::GptJ => entries.gpt(family)?,
            _ => entries.llama(family)?,
        };
        config.checked(path)
    }

    /// The `config.json` of such a model: [`from_json`](Self::from_json) reads it back.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let activation = match (self.activation, self.family) {
            (Activation::Silu, _) => "silu",
            (Activation::Gelu, Family::Gpt2 | Family::GptJ) => "gelu_new",
            (Activation::Gelu, _) => "gelu_pytorch_tanh",
        };
        let (model_type, architecture) = match self.family {
            Family::Llama => ("llama", "LlamaForCausalLM"),
            Family::Mistral => ("mistral", "MistralForCausalLM"),
            Family::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
            Family::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
            Family::Gpt2 => ("gpt2", "GPT2LMHeadModel"),
            Family::GptJ => ("gptj", "GPTJForCausalLM"),
        };
        let mut json = match self.family {
            Family::Gpt2 | Family::GptJ => json!({
                "n_embd": self.hidden,
                "n_head": self.heads,
                "n_layer": self.layers,
                "n_inner": self.intermediate,
                "n_positions": self.context,
                "layer_norm_epsilon": self.norm_epsilon,
                "activation_function": activation,
            }),
            _ => json!({
                "hidden_size": self.hidden,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.kv_heads,
                "num_hidden_layers": self.layers,
                "intermediate_size": self.intermediate,
                "head_dim": self.head_dim,
                "max_position_embeddings": self.context,
                "rms_norm_eps": self.norm_epsilon,
                "hidden_act": activation,
                "sliding_window": self.window,
            }),
        };
        json["model_type"] = json!(model_type);
        json["architectures"] = json!([architecture]);
        json["vocab_size"] = json!(self.vocabulary);
        json["tie_word_embeddings"] = json!(self.tied);
        json["torch_dtype"] = json!("float32");
        if matches!(self.family, Family::Qwen2 | Family::Qwen3) {
            json["use_sliding_window"] = json!(self.window.is_some());
            json["max_window_layers"] = json!(if self.window.is_some() { 0 } else { self.layers });
        }
        match (self.positions, self.family) {
            (Positions::Learned, _) => {}
            (Positions::Rotary(rotary), Family::GptJ) => json["rotary_dim"] = json!(rotary.dims),
            (Positions::Rotary(rotary), _) => {
                json["rope_theta"] = json!(rotary.theta);
                json["rope_scaling"] = match rotary.scaling {
                    RotaryScaling::None => Value::Null,
                    RotaryScaling::Linear(factor) => json!({ "rope_type": "linear", "factor": factor }),
                    RotaryScaling::Llama3 { factor, low, high, original_context } => json!({
                        "rope_type": "llama3",
                        "factor": factor,
                        "low_freq_factor": low,
                        "high_freq_factor": high,
                        "original_max_position_embeddings": original_context,
                    }),
                };
            }
        }
        json
    }

    /// Refuses shapes that do not fit together.
    pub(super) fn checked(self, path: &Path) -> Result<Self> {
        let sizes = [self.layers, self.hidden, self.intermediate, self.heads, self.kv_heads, self.head_dim];
        if sizes.contains(&0) || self.vocabulary == 0 || self.context == 0 || !self.heads.is_multiple_of(self.kv_heads)
        {
            return Err(malformed(path, format!("sizes that do not fit together: {self:?}")));
        }
        match self.positions {
            Positions::Rotary(rotary)
                if rotary.dims > self.head_dim || rotary.dims % 2 == 1 || !(rotary.theta > 0.0) =>
            {
                Err(malformed(path, format!("{rotary:?} does not fit a head of {}", self.head_dim)))
            }
            _ => Ok(self),
        }
    }
}

const KNOWN: &str = "llama, mistral, qwen2, qwen3, gpt2, gptj";

pub(super) fn malformed(path: &Path, problem: String) -> EditError {
    EditError::Format { path: path.to_owned(), problem }
}

/// The entries of a `config.json`.
struct Entries<'a> {
    json: &'a Value,
    path: &'a Path,
}

impl Entries<'_> {
    fn llama(&self, family: Family) -> Result<Config> {
        let (hidden, heads) = (self.size("hidden_size")?, self.size("num_attention_heads")?);
        let head_dim = self.size("head_dim").or_else(|_| match family {
            Family::Qwen3 => Ok(128),
            _ => hidden.checked_div(heads).ok_or_else(|| malformed(self.path, "no attention heads".into())),
        })?;
        let window = match family {
            Family::Llama => None,
            Family::Mistral => self.size("sliding_window").ok(),
            _ => self.qwen_window()?,
        };
        Ok(Config {
            family,
            layers: self.size("num_hidden_layers")?,
            hidden,
            intermediate: self.size("intermediate_size")?,
            heads,
            kv_heads: self.size("num_key_value_heads").unwrap_or(heads),
            head_dim,
            vocabulary: self.size("vocab_size")?,
            context: self.size("max_position_embeddings")?,
            norm: NormKind::Rms,
            norm_epsilon: self.number("rms_norm_eps").unwrap_or(1e-6),
            positions: Positions::Rotary(self.rotary(head_dim)?),
            activation: self.activation("hidden_act")?,
            window,
            tied: self.flag("tie_word_embeddings"),
        })
    }

    fn gpt(&self, family: Family) -> Result<Config> {
        let (hidden, heads) = (self.size("n_embd")?, self.size("n_head")?);
        let head_dim = hidden.checked_div(heads).ok_or_else(|| malformed(self.path, "no attention heads".into()))?;
        if self.json["scale_attn_weights"] == false || self.flag("scale_attn_by_inverse_layer_idx") {
            return Err(malformed(self.path, "an unusual scale of the attention is not supported".into()));
        }
        let positions = match family {
            Family::GptJ => Positions::Rotary(Rotary {
                theta: 10_000.0,
                dims: self.size("rotary_dim").unwrap_or(head_dim),
                pairing: Pairing::Interleaved,
                scaling: RotaryScaling::None,
            }),
            _ => Positions::Learned,
        };
        Ok(Config {
            family,
            layers: self.size("n_layer")?,
            hidden,
            intermediate: self.size("n_inner").unwrap_or(4 * hidden),
            heads,
            kv_heads: heads,
            head_dim,
            vocabulary: self.size("vocab_size")?,
            context: self.size("n_positions")?,
            norm: NormKind::Layer,
            norm_epsilon: self.number("layer_norm_epsilon").unwrap_or(1e-5),
            positions,
            activation: self.activation("activation_function")?,
            window: None,
            tied: self.json["tie_word_embeddings"].as_bool().unwrap_or(family == Family::Gpt2),
        })
    }

    /// In old files `rope_theta` and `rope_scaling`, in new ones `rope_parameters`.
    fn rotary(&self, head_dim: usize) -> Result<Rotary> {
        let parameters = match &self.json["rope_parameters"] {
            Value::Null => &self.json["rope_scaling"],
            parameters => parameters,
        };
        let number = |name: &str| {
            parameters[name].as_f64().ok_or_else(|| malformed(self.path, format!("the rotary scaling lacks `{name}`")))
        };
        let kind = parameters["rope_type"].as_str().or(parameters["type"].as_str()).unwrap_or("default");
        let scaling = match kind {
            "default" => RotaryScaling::None,
            "linear" => RotaryScaling::Linear(number("factor")?),
            "llama3" => RotaryScaling::Llama3 {
                factor: number("factor")?,
                low: number("low_freq_factor")?,
                high: number("high_freq_factor")?,
                original_context: number("original_max_position_embeddings")?,
            },
            other => {
                let problem = format!("rotary scaling `{other}` is not supported; known are default, linear, llama3");
                return Err(malformed(self.path, problem));
            }
        };
        let theta = parameters["rope_theta"].as_f64().or(self.json["rope_theta"].as_f64()).unwrap_or(10_000.0);
        Ok(Rotary { theta, dims: head_dim, pairing: Pairing::Halves, scaling })
    }

    /// Qwen can have windows in its upper layers only; that mixture is not supported.
    fn qwen_window(&self) -> Result<Option<usize>> {
        if !self.flag("use_sliding_window") {
            return Ok(None);
        }
        match self.size("max_window_layers") {
            Ok(0) => Ok(self.size("sliding_window").ok()),
            Ok(full) if full >= self.size("num_hidden_layers")? => Ok(None),
            _ => Err(malformed(self.path, "a sliding window in some layers only is not supported".into())),
        }
    }

    fn activation(&self, name: &str) -> Result<Activation> {
        match self.json[name].as_str() {
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu_new" | "gelu_pytorch_tanh") => Ok(Activation::Gelu),
            other => {
                let found = other.unwrap_or("(none)");
                Err(malformed(self.path, format!("`{name}` is {found}, known are silu, gelu_new, gelu_pytorch_tanh")))
            }
        }
    }

    fn size(&self, name: &str) -> Result<usize> {
        let size = self.json[name].as_u64().and_then(|size| usize::try_from(size).ok());
        size.ok_or_else(|| malformed(self.path, format!("`{name}` is missing, or no whole number")))
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.json[name].as_f64()
    }

    fn flag(&self, name: &str) -> bool {
        self.json[name].as_bool().unwrap_or(false)
    }
}
