//! Mistral.

use serde_json::Value;

use super::{ConfigFile, Family, TensorLayout, llama};
use crate::error::Result;
use crate::llm::config::Config;

/// Mistral: as [`Llama`](super::Llama), with a sliding window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mistral;

impl Family for Mistral {
    fn name(&self) -> &str {
        "Mistral"
    }

    fn model_type(&self) -> &str {
        "mistral"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        Ok(Config { window: file.size("sliding_window").ok(), ..llama::config(file, None)? })
    }

    fn config_json(&self, config: &Config) -> Value {
        llama::config_json(config, self.model_type(), "MistralForCausalLM")
    }

    fn layout(&self) -> TensorLayout {
        TensorLayout::llama()
    }
}
