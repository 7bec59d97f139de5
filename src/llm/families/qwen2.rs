//! Qwen2 and Qwen2.5.

use serde_json::{Value, json};

use super::{ConfigFile, Family, GgufLayout, TensorLayout, llama};
use crate::error::Result;
use crate::llm::config::Config;

/// Qwen2 and Qwen2.5: as [`Llama`](super::Llama), with biases on queries, keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Qwen2;

impl Family for Qwen2 {
    fn name(&self) -> &str {
        "Qwen2"
    }

    fn model_type(&self) -> &str {
        "qwen2"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        config(file, None)
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
    Ok(Config { window: window(file)?, ..llama::config(file, head_dim)? })
}

pub(super) fn config_json(config: &Config, model_type: &str, architecture: &str) -> Value {
    let mut json = llama::config_json(config, model_type, architecture);
    json["use_sliding_window"] = json!(config.window.is_some());
    json["max_window_layers"] = json!(if config.window.is_some() { 0 } else { config.layers });
    json
}

/// Qwen can have windows in its upper layers only; that mixture is not supported.
fn window(file: &ConfigFile) -> Result<Option<usize>> {
    if !file.flag("use_sliding_window") {
        return Ok(None);
    }
    match file.size("max_window_layers") {
        Ok(0) => Ok(file.size("sliding_window").ok()),
        Ok(full) if full >= file.size("num_hidden_layers")? => Ok(None),
        _ => Err(file.refuse("a sliding window in some layers only is not supported")),
    }
}
