//! StableLM 2 and StableLM 3B.

use serde_json::{Value, json};

use super::llama::{self, Defaults};
use super::rotary::{RotaryEntries, Rotated};
use super::{ConfigFile, Family, GgufLayout, GgufMetadata, TensorLayout};
use crate::error::Result;
use crate::llm::config::{Arrangement, Bias, Biases, Config, NormKind, Positions};

/// StableLM 2 and StableLM 3B: as [`Llama`](super::Llama), with layer norms and a rotation of a part of each head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StableLm;

/// What `transformers` takes if a file has no such entry.
const KV_HEADS: usize = 32;

fn entries() -> RotaryEntries {
    RotaryEntries { rotated: Rotated::Part(0.25), ..RotaryEntries::LLAMA }
}

impl Family for StableLm {
    fn name(&self) -> &str {
        "StableLm"
    }

    fn model_type(&self) -> &str {
        "stablelm"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        file.only("qk_layernorm", &json!(false))?;
        let (kv_heads, epsilon) = (Some(KV_HEADS), ("layer_norm_eps", 1e-5));
        let defaults = Defaults { kv_heads, epsilon, rotary: Some(entries()), ..Defaults::LLAMA };
        let config = llama::config(file, defaults)?;
        let bias = if file.flag_or("use_qkv_bias", false)? { Bias::Required } else { Bias::Absent };
        Ok(Config {
            norm: NormKind::Layer,
            arrangement: arrangement(file.flag_or("use_parallel_residual", false)?),
            biases: Biases { attention_inputs: bias, ..Biases::all(Bias::Absent) },
            ..config
        })
    }

    fn config_json(&self, config: &Config) -> Value {
        let mut json = llama::config_json(config, self.model_type(), "StableLmForCausalLM");
        json["layer_norm_eps"] = json["rms_norm_eps"].take();
        if let Some(entries) = json.as_object_mut() {
            entries.retain(|name, _| !["rms_norm_eps", "head_dim"].contains(&name.as_str()));
        }
        if let Positions::Rotary(rotary) = &config.positions {
            entries().write(&mut json, rotary, config.head_dim);
        }
        json["use_qkv_bias"] = json!(config.biases.attention_inputs != Bias::Absent);
        json["use_parallel_residual"] = json!(config.arrangement != Arrangement::Sequential);
        json
    }

    fn layout(&self) -> TensorLayout {
        TensorLayout::llama()
    }

    fn gguf(&self) -> Option<GgufLayout> {
        Some(GgufLayout::llama_cpp("stablelm"))
    }

    fn config_from_gguf(&self, metadata: &GgufMetadata<'_>) -> Result<Config> {
        let arrangement = arrangement(metadata.flag_or("use_parallel_residual", false)?);
        Ok(Config { arrangement, ..metadata.decoder_of_parts()? })
    }
}

fn arrangement(parallel: bool) -> Arrangement {
    if parallel { Arrangement::Parallel } else { Arrangement::Sequential }
}
