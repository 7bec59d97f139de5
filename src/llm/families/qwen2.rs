//! Qwen2 and Qwen2.5.

use serde_json::{Value, json};

use super::llama::{self, Defaults};
use super::{ConfigFile, Family, GgufLayout, TensorLayout, layer_types};
use crate::error::Result;
use crate::llm::config::{Bias, Biases, Config, Window};

/// Qwen2 and Qwen2.5: as [`Llama`](super::Llama), with biases on queries, keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Qwen2;

/// What `transformers` takes if a file has no such entry.
const KV_HEADS: usize = 32;
const WINDOW: usize = 4096;
const MAX_WINDOW_LAYERS: usize = 28;

impl Family for Qwen2 {
    fn name(&self) -> &str {
        "Qwen2"
    }

    fn model_type(&self) -> &str {
        "qwen2"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        let biases = Biases { attention_inputs: Bias::Required, ..Biases::all(Bias::Absent) };
        Ok(Config { biases, ..config(file, None)? })
    }

    fn config_json(&self, config: &Config) -> Value {
        config_json(config, self.model_type(), "Qwen2ForCausalLM")
    }

    fn layout(&self) -> TensorLayout {
        TensorLayout::llama()
    }

    fn gguf(&self) -> Option<GgufLayout> {
        Some(GgufLayout::llama_cpp("qwen2"))
    }
}

pub(super) fn config(file: &ConfigFile, head_dim: Option<usize>) -> Result<Config> {
    let config = llama::config(file, Defaults { head_dim, kv_heads: Some(KV_HEADS), ..Defaults::LLAMA })?;
    Ok(Config { window: window(file, config.layers)?, ..config })
}

pub(super) fn config_json(config: &Config, model_type: &str, architecture: &str) -> Value {
    let mut json = llama::config_json(config, model_type, architecture);
    json["use_sliding_window"] = json!(config.window.is_some());
    if let Some(window) = &config.window {
        json["sliding_window"] = json!(window.tokens);
        json["layer_types"] = layer_types::kinds(Some(window), config.layers);
        json["max_window_layers"] = json!(0);
    }
    json
}

/// The window, and the layers that have it: those of `layer_types`, or else those from `max_window_layers` on.
fn window(file: &ConfigFile, layers: usize) -> Result<Option<Window>> {
    let from = file.size_or("max_window_layers", MAX_WINDOW_LAYERS)?;
    let tokens = match (file.flag_or("use_sliding_window", false)?, file.entry("sliding_window")) {
        (false, _) => None,
        (true, None) => Some(WINDOW),
        (true, Some(_)) => file.optional_size("sliding_window")?,
    };
    let full = layer_types::full_layers(file, layers)?.unwrap_or_else(|| (0..from.min(layers)).collect());
    match tokens {
        Some(tokens) => Ok(layer_types::window(tokens, full, layers)),
        None if file.json()["layer_types"].is_array() && full.len() < layers => {
            let problem = "`layer_types` has layers of `sliding_attention`, but `use_sliding_window` and `sliding_window` give no window";
            Err(file.refuse(problem))
        }
        None => Ok(None),
    }
}
