//! The first Gemma.

use serde_json::{Value, json};

use super::llama::{self, Defaults};
use super::{ConfigFile, Family, Gains, GgufLayout, GgufMetadata, TensorLayout, gemma2};
use crate::error::Result;
use crate::llm::config::{Activation, Config, NormKind};

/// The first Gemma: as [`Llama`](super::Llama), with scaled embeddings and gains that are stored as their difference from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gemma;

/// What `transformers` takes if a file has no such entry.
const KV_HEADS: usize = 16;

fn scaled(config: Config) -> Config {
    Config { norm: NormKind::RmsFromOne, embedding_scale: (config.hidden as f64).sqrt(), ..config }
}

impl Family for Gemma {
    fn name(&self) -> &str {
        "Gemma"
    }

    fn model_type(&self) -> &str {
        "gemma"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        // Two names for one thing, of which programs take one or the other.
        file.check_alias("hidden_act", "hidden_activation")?;
        let activation = ("hidden_act", Activation::Gelu);
        let config = llama::config(file, Defaults { kv_heads: Some(KV_HEADS), activation, ..gemma2::DEFAULTS })?;
        Ok(scaled(Config { biases: llama::attention_biases(file)?, ..config }))
    }

    fn config_json(&self, config: &Config) -> Value {
        let mut json = llama::config_json(config, self.model_type(), "GemmaForCausalLM");
        json["attention_bias"] = json!(llama::has_attention_bias(config));
        json
    }

    fn layout(&self) -> TensorLayout {
        TensorLayout::llama()
    }

    fn gguf(&self) -> Option<GgufLayout> {
        Some(GgufLayout { gains: Gains::PlusOne, ..GgufLayout::llama_cpp("gemma") })
    }

    fn config_from_gguf(&self, metadata: &GgufMetadata<'_>) -> Result<Config> {
        Ok(Config { activation: Activation::Gelu, ..scaled(metadata.decoder()?) })
    }
}
