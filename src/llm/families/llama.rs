//! Llama 2 and 3, SmolLM2, and other models of type `llama`.

use serde_json::{Value, json};

use super::config_file::activation_name;
use super::rotary::RotaryEntries;
use super::{ConfigFile, Family, GgufLayout, TensorLayout};
use crate::error::Result;
use crate::llm::config::{Activation, Bias, Biases, Config, Pairing, Positions, Sizes};

/// Llama 2 and 3, SmolLM2, and other models of type `llama`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Llama;

impl Family for Llama {
    fn name(&self) -> &str {
        "Llama"
    }

    fn model_type(&self) -> &str {
        "llama"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        let mut config = config(file, Defaults::LLAMA)?;
        config.biases = Biases { mlp: flagged(file, "mlp_bias")?, ..attention_biases(file)? };
        Ok(config)
    }

    fn config_json(&self, config: &Config) -> Value {
        let mut json = config_json(config, self.model_type(), "LlamaForCausalLM");
        json["attention_bias"] = json!(has_attention_bias(config));
        json["mlp_bias"] = json!(config.biases.mlp == Bias::Required);
        json
    }

    fn layout(&self) -> TensorLayout {
        TensorLayout::llama()
    }

    fn gguf(&self) -> Option<GgufLayout> {
        // The converter of llama.cpp reorders the rows of queries and keys.
        Some(GgufLayout { pairing: Pairing::Interleaved, ..GgufLayout::llama_cpp("llama") })
    }
}

/// The names of entries, and what `transformers` takes for those that are not there, where its classes differ.
#[derive(Clone, Copy)]
pub(super) struct Defaults {
    /// The length of a head; `None` is `hidden / heads`.
    pub(super) head_dim: Option<usize>,
    /// Heads of keys and values; `None` is as many as of queries.
    pub(super) kv_heads: Option<usize>,
    /// The norms' epsilon.
    pub(super) epsilon: (&'static str, f64),
    /// The nonlinearity.
    pub(super) activation: (&'static str, Activation),
    /// Whether the head is the embedding.
    pub(super) tied: bool,
    /// Rotary positions; `None` if the family reads them itself.
    pub(super) rotary: Option<RotaryEntries>,
}

impl Defaults {
    /// Those of Llama.
    pub(super) const LLAMA: Self = Self {
        head_dim: None,
        kv_heads: None,
        epsilon: ("rms_norm_eps", 1e-6),
        activation: ("hidden_act", Activation::Silu),
        tied: false,
        rotary: Some(RotaryEntries::LLAMA),
    };
}

/// Sizes under Llama's names.
pub(super) fn sizes(file: &ConfigFile) -> Result<Sizes> {
    Ok(Sizes {
        layers: file.size("num_hidden_layers")?,
        hidden: file.size("hidden_size")?,
        intermediate: file.size("intermediate_size")?,
        heads: file.size("num_attention_heads")?,
        vocabulary: file.size("vocab_size")?,
        context: file.size("max_position_embeddings")?,
    })
}

/// The shape of a model whose `config.json` has Llama's entries, without its biases.
pub(super) fn config(file: &ConfigFile, defaults: Defaults) -> Result<Config> {
    let mut config = Config::new(sizes(file)?);
    config.head_dim = file.size_or("head_dim", defaults.head_dim.unwrap_or(config.head_dim))?;
    // Null is as many as there are heads of queries, an absent entry is the default of the class.
    config.kv_heads = match (file.entry("num_key_value_heads"), defaults.kv_heads) {
        (None, Some(default)) => default,
        _ => file.size_or("num_key_value_heads", config.heads)?,
    };
    config.norm_epsilon = file.number_or(defaults.epsilon.0, defaults.epsilon.1)?;
    if let Some(entries) = defaults.rotary {
        config.positions = Positions::Rotary(entries.read(file, config.head_dim, config.context)?);
        config.fit_context();
    }
    config.activation = file.activation(defaults.activation.0, defaults.activation.1)?;
    config.biases = Biases::all(Bias::Absent);
    config.tied = file.flag_or("tie_word_embeddings", defaults.tied)?;
    Ok(config)
}

/// A flag for biases.
fn flagged(file: &ConfigFile, name: &str) -> Result<Bias> {
    Ok(if file.flag_or(name, false)? { Bias::Required } else { Bias::Absent })
}

/// Biases on all four projections of the attention, or on none.
pub(super) fn attention_biases(file: &ConfigFile) -> Result<Biases> {
    let bias = flagged(file, "attention_bias")?;
    Ok(Biases { attention_inputs: bias, attention_output: bias, ..Biases::all(Bias::Absent) })
}

/// Whether any projection of the attention has a bias. In this family's files all of them have one then.
pub(super) fn has_attention_bias(config: &Config) -> bool {
    [config.biases.attention_inputs, config.biases.attention_output].contains(&Bias::Required)
}

/// A `config.json` with Llama's entries.
pub(super) fn config_json(config: &Config, model_type: &str, architecture: &str) -> Value {
    let mut json = json!({
        "model_type": model_type,
        "architectures": [architecture],
        "hidden_size": config.hidden,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "num_hidden_layers": config.layers,
        "intermediate_size": config.intermediate,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_epsilon,
        "hidden_act": activation_name(config.activation),
        "vocab_size": config.vocabulary,
        "tie_word_embeddings": config.tied,
        "torch_dtype": "float32",
    });
    if let Positions::Rotary(rotary) = &config.positions {
        RotaryEntries::LLAMA.write(&mut json, rotary, config.head_dim);
    }
    json
}
