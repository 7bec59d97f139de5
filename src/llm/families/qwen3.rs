//! Qwen3.

use serde_json::{Value, json};

use super::{ConfigFile, Family, GgufLayout, GgufMetadata, TensorLayout, llama, qwen2};
use crate::error::Result;
use crate::llm::config::{Config, HeadNorms};

/// Qwen3: as [`Llama`](super::Llama), with norms on queries and keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Qwen3;

/// The length of a head in files that do not say it.
const HEAD_DIM: usize = 128;

impl Family for Qwen3 {
    fn name(&self) -> &str {
        "Qwen3"
    }

    fn model_type(&self) -> &str {
        "qwen3"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        let biases = llama::attention_biases(file)?;
        Ok(Config { head_norms: HeadNorms::QueriesAndKeys, biases, ..qwen2::config(file, Some(HEAD_DIM))? })
    }

    fn config_json(&self, config: &Config) -> Value {
        let mut json = qwen2::config_json(config, self.model_type(), "Qwen3ForCausalLM");
        json["attention_bias"] = json!(llama::has_attention_bias(config));
        json
    }

    fn layout(&self) -> TensorLayout {
        let head_norms = ["model.layers.{}.self_attn.q_norm", "model.layers.{}.self_attn.k_norm"];
        TensorLayout { head_norms: Some(head_norms.map(Into::into)), ..TensorLayout::llama() }
    }

    fn gguf(&self) -> Option<GgufLayout> {
        Some(GgufLayout::llama_cpp("qwen3"))
    }

    fn config_from_gguf(&self, metadata: &GgufMetadata<'_>) -> Result<Config> {
        Ok(Config { head_norms: HeadNorms::QueriesAndKeys, ..metadata.decoder()? })
    }
}
