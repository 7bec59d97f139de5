//! Phi-1, Phi-1.5 and Phi-2.

use serde_json::{Value, json};

use super::llama::{self, Defaults};
use super::rotary::{RotaryEntries, Rotated};
use super::{ConfigFile, Family, GgufLayout, GgufMetadata, TensorLayout};
use crate::error::Result;
use crate::llm::config::{Activation, Arrangement, Bias, Biases, Config, MlpKind, NormKind, Positions};

/// Phi-1, Phi-1.5 and Phi-2: layer norms, attention and MLP side by side with one norm, biases everywhere, and a rotation of a part of each
/// head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phi;

fn entries() -> RotaryEntries {
    // What `transformers` takes if a file has no such entry is half of a head.
    RotaryEntries { rotated: Rotated::Part(0.5), ..RotaryEntries::LLAMA }
}

fn shaped(config: Config) -> Config {
    let (norm, mlp, arrangement) = (NormKind::Layer, MlpKind::Plain, Arrangement::Parallel);
    Config { norm, mlp, arrangement, biases: Biases::all(Bias::Required), ..config }
}

impl Family for Phi {
    fn name(&self) -> &str {
        "Phi"
    }

    fn model_type(&self) -> &str {
        "phi"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        file.only("qk_layernorm", &json!(false))?;
        let (epsilon, activation) = (("layer_norm_eps", 1e-5), ("hidden_act", Activation::Gelu));
        Ok(shaped(llama::config(file, Defaults { epsilon, activation, rotary: Some(entries()), ..Defaults::LLAMA })?))
    }

    fn config_json(&self, config: &Config) -> Value {
        let mut json = llama::config_json(config, self.model_type(), "PhiForCausalLM");
        json["layer_norm_eps"] = json["rms_norm_eps"].take();
        if let Some(entries) = json.as_object_mut() {
            entries.retain(|name, _| !["rms_norm_eps", "head_dim"].contains(&name.as_str()));
        }
        if let Positions::Rotary(rotary) = &config.positions {
            entries().write(&mut json, rotary, config.head_dim);
        }
        json
    }

    fn layout(&self) -> TensorLayout {
        TensorLayout {
            norm: "model.final_layernorm".into(),
            attention_output: "model.layers.{}.self_attn.dense".into(),
            mlp_norm: None,
            gate: None,
            up: "model.layers.{}.mlp.fc1".into(),
            down: "model.layers.{}.mlp.fc2".into(),
            ..TensorLayout::llama()
        }
    }

    fn gguf(&self) -> Option<GgufLayout> {
        let mut layout = GgufLayout::llama_cpp("phi2");
        layout.tensors.gate = None;
        Some(layout)
    }

    fn config_from_gguf(&self, metadata: &GgufMetadata<'_>) -> Result<Config> {
        Ok(Config { activation: Activation::Gelu, ..shaped(metadata.decoder_of_parts()?) })
    }
}
