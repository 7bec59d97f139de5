//! `StarCoder2`.

use serde_json::{Value, json};

use super::llama::{self, Defaults};
use super::{ConfigFile, Family, GgufLayout, GgufMetadata, TensorLayout};
use crate::error::Result;
use crate::llm::config::{Activation, Bias, Biases, Config, MlpKind, NormKind, Window};

/// `StarCoder2`: as [`Llama`](super::Llama), with layer norms, biases everywhere, and an MLP without a gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StarCoder2;

/// What `transformers` takes if a file has no such entry.
const KV_HEADS: usize = 2;
const DEFAULTS: Defaults = Defaults {
    kv_heads: Some(KV_HEADS),
    epsilon: ("norm_epsilon", 1e-5),
    activation: ("hidden_act", Activation::Gelu),
    tied: true,
    ..Defaults::LLAMA
};

impl Family for StarCoder2 {
    fn name(&self) -> &str {
        "StarCoder2"
    }

    fn model_type(&self) -> &str {
        "starcoder2"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        let bias = if file.flag_or("use_bias", true)? { Bias::Required } else { Bias::Absent };
        // Published files have entries of the program before `transformers`, which passes over some of them.
        for name in ["activation_function", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"] {
            let _ = file.entry(name);
        }
        file.check_alias("norm_epsilon", "layer_norm_epsilon")?;
        file.only("norm_type", &json!("layer_norm"))?;
        file.only("scale_attn_weights", &json!(true))?;
        let window = file.optional_size("sliding_window")?;
        Ok(Config {
            norm: NormKind::Layer,
            mlp: MlpKind::Plain,
            biases: Biases { head: Bias::Absent, ..Biases::all(bias) },
            window: window.map(|tokens| Window { tokens, full: vec![] }),
            ..llama::config(file, DEFAULTS)?
        })
    }

    fn config_json(&self, config: &Config) -> Value {
        let mut json = llama::config_json(config, self.model_type(), "Starcoder2ForCausalLM");
        json["norm_epsilon"] = json["rms_norm_eps"].take();
        if let Some(entries) = json.as_object_mut() {
            entries.retain(|name, _| name != "rms_norm_eps");
        }
        json["use_bias"] = json!(config.biases.mlp != Bias::Absent);
        json["sliding_window"] = json!(config.window.as_ref().map(|window| window.tokens));
        json
    }

    fn layout(&self) -> TensorLayout {
        TensorLayout {
            gate: None,
            up: "model.layers.{}.mlp.c_fc".into(),
            down: "model.layers.{}.mlp.c_proj".into(),
            ..TensorLayout::llama()
        }
    }

    fn gguf(&self) -> Option<GgufLayout> {
        let mut layout = GgufLayout::llama_cpp("starcoder2");
        layout.tensors.gate = None;
        Some(layout)
    }

    fn config_from_gguf(&self, metadata: &GgufMetadata<'_>) -> Result<Config> {
        let window = metadata.window()?.map(|tokens| Window { tokens, full: vec![] });
        Ok(Config { mlp: MlpKind::Plain, activation: Activation::Gelu, window, ..metadata.decoder()? })
    }
}
