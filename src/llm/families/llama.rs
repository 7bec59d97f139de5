//! Llama 2 and 3, SmolLM2, and other models of type `llama`.

use serde_json::{Value, json};

use super::{ConfigFile, Family, GgufLayout, TensorLayout};
use crate::error::Result;
use crate::llm::config::{Activation, Config, Pairing, Positions, RotaryScaling, Sizes};

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
        config(file, None)
    }

    fn config_json(&self, config: &Config) -> Value {
        config_json(config, self.model_type(), "LlamaForCausalLM")
    }

    fn layout(&self) -> TensorLayout {
        TensorLayout::llama()
    }

    fn gguf(&self) -> Option<GgufLayout> {
        // The converter of llama.cpp reorders the rows of queries and keys.
        Some(GgufLayout { pairing: Pairing::Interleaved, ..GgufLayout::llama_cpp("llama") })
    }
}

/// The shape of a model whose `config.json` has Llama's entries.
///
/// * `head_dim`: the length of a head if the file has none; `None` is `hidden / heads`
pub(super) fn config(file: &ConfigFile, head_dim: Option<usize>) -> Result<Config> {
    let mut config = Config::new(Sizes {
        layers: file.size("num_hidden_layers")?,
        hidden: file.size("hidden_size")?,
        intermediate: file.size("intermediate_size")?,
        heads: file.size("num_attention_heads")?,
        vocabulary: file.size("vocab_size")?,
        context: file.size("max_position_embeddings")?,
    });
    config.head_dim = file.size("head_dim").ok().or(head_dim).unwrap_or(config.head_dim);
    config.kv_heads = file.size("num_key_value_heads").unwrap_or(config.heads);
    config.norm_epsilon = file.number("rms_norm_eps").unwrap_or(1e-6);
    config.positions = Positions::Rotary(file.rotary(config.head_dim)?);
    config.activation = file.activation("hidden_act")?;
    config.tied = file.flag("tie_word_embeddings");
    Ok(config)
}

/// A `config.json` with Llama's entries.
pub(super) fn config_json(config: &Config, model_type: &str, architecture: &str) -> Value {
    let activation = match config.activation {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu_pytorch_tanh",
    };
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
        "hidden_act": activation,
        "sliding_window": config.window,
        "vocab_size": config.vocabulary,
        "tie_word_embeddings": config.tied,
        "torch_dtype": "float32",
    });
    if let Positions::Rotary(rotary) = config.positions {
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
    json
}
