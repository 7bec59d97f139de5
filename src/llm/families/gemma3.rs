//! The text models of Gemma 3.

use serde_json::{Value, json};

use super::llama::Defaults;
use super::rotary::{RotaryEntries, scaling_json};
use super::{ConfigFile, Family, GgufLayout, GgufMetadata, TensorLayout, gemma2, layer_types};
use crate::error::{Error, Result};
use crate::llm::config::{Config, HeadNorms, Positions, Rotary};

/// The text models of Gemma 3: as [`Gemma2`](super::Gemma2), with norms on queries and keys, a window in five of six layers, and other
/// rotary positions there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gemma3;

/// What `transformers` takes if a file has no such entry.
const PERIOD: usize = 6;
const THETA: f64 = 1e6;
const WINDOW_THETA: f64 = 1e4;
/// The base in the layers with a window, outside of the parameters.
const WINDOW_THETA_NAME: &str = "rope_local_base_freq";

fn entries() -> RotaryEntries {
    RotaryEntries { usual_theta: THETA, ..RotaryEntries::LLAMA }
}

fn window_entries() -> RotaryEntries {
    RotaryEntries { theta: WINDOW_THETA_NAME, usual_theta: WINDOW_THETA, ..RotaryEntries::LLAMA }
}

impl Family for Gemma3 {
    fn name(&self) -> &str {
        "Gemma3"
    }

    fn model_type(&self) -> &str {
        "gemma3_text"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        let mut config = gemma2::config(file, Defaults { rotary: None, ..gemma2::DEFAULTS })?;
        let period = file.size_or("sliding_window_pattern", PERIOD)?;
        if period == 0 {
            return Err(file.refuse("`sliding_window_pattern` is 0, expected at least 1"));
        }
        let full = layer_types::full_layers(file, config.layers)?;
        let full = full.unwrap_or_else(|| layer_types::every(period, config.layers));
        config.window = gemma2::window(file)?.and_then(|tokens| layer_types::window(tokens, full, config.layers));
        let (head_dim, context) = (config.head_dim, config.context);
        let rotary = entries().read_for(file, layer_types::FULL, true, head_dim, context)?;
        let local = window_entries().read_for(file, layer_types::SLIDING, false, head_dim, context)?;
        config.positions = Positions::Rotary(rotary);
        config.window_rotary = Some(local);
        config.logit_cap = gemma2::cap(file, "final_logit_softcapping", None)?;
        // `transformers` has the entry and does nothing with it.
        file.only("attn_logit_softcapping", &Value::Null)?;
        config.head_norms = HeadNorms::QueriesAndKeys;
        Ok(config)
    }

    fn config_json(&self, config: &Config) -> Value {
        let mut json = gemma2::config_json(config, self.model_type(), "Gemma3ForCausalLM");
        if let Some(entries) = json.as_object_mut() {
            entries.retain(|name, _| !["rope_theta", "rope_scaling"].contains(&name.as_str()));
        }
        let parameters = |rotary: &Rotary| match scaling_json(&rotary.scaling) {
            Value::Null => json!({ "rope_type": "default", "rope_theta": rotary.theta }),
            mut scaling => {
                scaling["rope_theta"] = json!(rotary.theta);
                scaling
            }
        };
        if let Positions::Rotary(rotary) = &config.positions {
            let local = config.window_rotary.as_ref().unwrap_or(rotary);
            json["rope_parameters"] =
                json!({ layer_types::FULL: parameters(rotary), layer_types::SLIDING: parameters(local) });
        }
        json
    }

    fn layout(&self) -> TensorLayout {
        let head_norms = ["model.layers.{}.self_attn.q_norm", "model.layers.{}.self_attn.k_norm"];
        TensorLayout { head_norms: Some(head_norms.map(Into::into)), ..gemma2::layout() }
    }

    fn gguf(&self) -> Option<GgufLayout> {
        Some(gemma2::gguf("gemma3"))
    }

    fn config_from_gguf(&self, metadata: &GgufMetadata<'_>) -> Result<Config> {
        let mut config = gemma2::from_gguf(metadata)?;
        config.window = layer_types::window_in_gguf(metadata, PERIOD, config.layers)?;
        let bound = |name| Ok::<_, Error>(Some(metadata.number_or(name, 0.0)?).filter(|bound| *bound != 0.0));
        config.logit_cap = bound("final_logit_softcapping")?;
        let local = metadata.number_or("rope.freq_base_swa", WINDOW_THETA)?;
        config.window_rotary = Some(Rotary::new(local, config.head_dim));
        config.head_norms = HeadNorms::QueriesAndKeys;
        // llama.cpp knows the 27B model by its layers, and scales by the width of a head of the hidden state there.
        if config.layers == LAYERS_27B {
            config.attention_scale = Some(1.0 / (config.hidden as f64 / config.heads as f64).sqrt());
        }
        Ok(config)
    }
}

const LAYERS_27B: usize = 62;
