//! Mistral.

use serde_json::{Value, json};

use super::llama::{self, Defaults};
use super::{ConfigFile, Family, GgufLayout, Llama, TensorLayout};
use crate::error::Result;
use crate::llm::config::{Config, Window};

/// Mistral: as [`Llama`](super::Llama), with a sliding window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mistral;

/// What `transformers` takes if a file has no such entry.
const KV_HEADS: usize = 8;
const WINDOW: usize = 4096;

impl Family for Mistral {
    fn name(&self) -> &str {
        "Mistral"
    }

    fn model_type(&self) -> &str {
        "mistral"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        let config = llama::config(file, Defaults { kv_heads: Some(KV_HEADS), ..Defaults::LLAMA })?;
        let window = match file.entry("sliding_window") {
            None => Some(WINDOW),
            Some(_) => file.optional_size("sliding_window")?,
        };
        Ok(Config { window: window.map(|tokens| Window { tokens, full: vec![] }), ..config })
    }

    fn config_json(&self, config: &Config) -> Value {
        let mut json = llama::config_json(config, self.model_type(), "MistralForCausalLM");
        json["sliding_window"] = json!(config.window.as_ref().map(|window| window.tokens));
        json
    }

    fn layout(&self) -> TensorLayout {
        TensorLayout::llama()
    }

    /// As a GGUF file, a model is one of Llama.
    fn converted_to_gguf(&self) -> Option<GgufLayout> {
        Llama.gguf()
    }
}
