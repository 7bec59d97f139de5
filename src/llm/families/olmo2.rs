//! OLMo 2.

use serde_json::{Value, json};

use super::llama::{self, Defaults};
use super::{ConfigFile, Family, GgufLayout, GgufMetadata, TensorLayout};
use crate::error::Result;
use crate::llm::config::{BlockNorms, Config, HeadNorms};

/// OLMo 2: as [`Llama`](super::Llama), with norms behind attention and MLP in place of those in front of them, and norms over all queries
/// and over all keys of a token.
///
/// Targets of edits are outputs of the edited matrix, as for [`Gemma2`](super::Gemma2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Olmo2;

/// What `transformers` takes if a file has no such entry.
const EPSILON: f64 = 1e-5;

/// What differs from Llama's shape.
fn shaped(config: Config) -> Config {
    Config { block_norms: BlockNorms::After, head_norms: HeadNorms::WholeQueriesAndKeys, ..config }
}

impl Family for Olmo2 {
    fn name(&self) -> &str {
        "Olmo2"
    }

    fn model_type(&self) -> &str {
        "olmo2"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        let config = llama::config(file, Defaults { epsilon: ("rms_norm_eps", EPSILON), ..Defaults::LLAMA })?;
        Ok(shaped(Config { biases: llama::attention_biases(file)?, ..config }))
    }

    fn config_json(&self, config: &Config) -> Value {
        let mut json = llama::config_json(config, self.model_type(), "Olmo2ForCausalLM");
        json["attention_bias"] = json!(llama::has_attention_bias(config));
        json["pad_token_id"] = Value::Null;
        json
    }

    fn layout(&self) -> TensorLayout {
        let head_norms = ["model.layers.{}.self_attn.q_norm", "model.layers.{}.self_attn.k_norm"];
        TensorLayout {
            head_norms: Some(head_norms.map(Into::into)),
            attention_post_norm: Some("model.layers.{}.post_attention_layernorm".into()),
            mlp_norm: None,
            mlp_post_norm: Some("model.layers.{}.post_feedforward_layernorm".into()),
            ..TensorLayout::llama()
        }
    }

    fn gguf(&self) -> Option<GgufLayout> {
        let mut layout = GgufLayout::llama_cpp("olmo2");
        layout.tensors.attention_post_norm = Some("blk.{}.post_attention_norm".into());
        layout.tensors.mlp_post_norm = Some("blk.{}.post_ffw_norm".into());
        Some(layout)
    }

    fn config_from_gguf(&self, metadata: &GgufMetadata<'_>) -> Result<Config> {
        Ok(shaped(metadata.decoder()?))
    }
}
