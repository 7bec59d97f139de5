//! Phi-3, Phi-3.5 and Phi-4, without experts and images.

use serde_json::{Value, json};

use super::llama::{self, Defaults};
use super::rotary::{RotaryEntries, Rotated};
use super::{AttentionNames, ConfigFile, Family, GgufLayout, GgufMetadata, TensorLayout};
use crate::error::Result;
use crate::llm::config::{Config, Positions, Window};

/// Phi-3, Phi-3.5 and Phi-4: as [`Llama`](super::Llama), with queries, keys and values in one matrix, gate and input projection in one, and
/// a rotation of the whole head or a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phi3;

/// What `transformers` takes if a file has no such entry.
const EPSILON: f64 = 1e-5;
const ORIGINAL_CONTEXT: usize = 4096;

fn entries() -> RotaryEntries {
    RotaryEntries {
        rotated: Rotated::Part(1.0),
        original_context: Some(ORIGINAL_CONTEXT),
        // Names of the first files.
        read_as: &[("su", "longrope"), ("yarn", "longrope")],
        ..RotaryEntries::LLAMA
    }
}

impl Family for Phi3 {
    fn name(&self) -> &str {
        "Phi3"
    }

    fn model_type(&self) -> &str {
        "phi3"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        let defaults = Defaults { rotary: Some(entries()), epsilon: ("rms_norm_eps", EPSILON), ..Defaults::LLAMA };
        let config = llama::config(file, defaults)?;
        // Files name it for other kinds of positions too, where it does nothing.
        let _ = file.entry("original_max_position_embeddings");
        // Of the model's first program; `transformers` passes it over.
        file.only("full_attn_mod", &json!(1))?;
        let window = file.optional_size("sliding_window")?;
        Ok(Config { window: window.map(|tokens| Window { tokens, full: vec![] }), ..config })
    }

    fn config_json(&self, config: &Config) -> Value {
        let mut json = llama::config_json(config, self.model_type(), "Phi3ForCausalLM");
        if let Positions::Rotary(rotary) = &config.positions {
            entries().write(&mut json, rotary, config.head_dim);
        }
        json["sliding_window"] = json!(config.window.as_ref().map(|window| window.tokens));
        // The tokenizer's padding is none of the model's business, and the class's default is beyond small vocabularies.
        json["pad_token_id"] = Value::Null;
        json
    }

    fn layout(&self) -> TensorLayout {
        TensorLayout {
            attention: AttentionNames::Joined("model.layers.{}.self_attn.qkv_proj".into()),
            gate: None,
            gate_and_up: Some("model.layers.{}.mlp.gate_up_proj".into()),
            ..TensorLayout::llama()
        }
    }

    fn gguf(&self) -> Option<GgufLayout> {
        let mut layout = GgufLayout::llama_cpp("phi3");
        layout.tensors.attention = AttentionNames::Joined("blk.{}.attn_qkv".into());
        layout.tensors.gate = None;
        layout.tensors.gate_and_up = Some("blk.{}.ffn_up".into());
        Some(layout)
    }

    fn config_from_gguf(&self, metadata: &GgufMetadata<'_>) -> Result<Config> {
        let mut config = metadata.decoder_of_parts()?;
        config.window = metadata.window()?.map(|tokens| Window { tokens, full: vec![] });
        Ok(config)
    }
}
