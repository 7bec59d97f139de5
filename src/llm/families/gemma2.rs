//! Gemma 2.

use serde_json::{Value, json};

use super::llama::{self, Defaults};
use super::{ConfigFile, Family, Gains, GgufLayout, GgufMetadata, TensorLayout, layer_types};
use crate::error::Result;
use crate::llm::config::{Activation, BlockNorms, Config, NormKind};

/// Gemma 2: norms in front of attention and MLP and behind them, bounded scores and logits, a window in every second layer.
///
/// The norm behind the MLP keeps the block's output from being linear in the edited matrix. Targets of edits are outputs of that matrix:
/// [`Site::Mlp`](crate::llm::Site::Mlp), in one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gemma2;

/// What `transformers` takes if a file has no such entry.
const WINDOW: usize = 4096;
const LOGIT_CAP: f64 = 30.0;
const ATTENTION_CAP: f64 = 50.0;
/// One of so many layers has no window.
const PERIOD: usize = 2;

/// What Gemma 2 and 3 have in common.
pub(super) const DEFAULTS: Defaults = Defaults {
    head_dim: Some(256),
    kv_heads: Some(4),
    activation: ("hidden_activation", Activation::Gelu),
    tied: true,
    ..Defaults::LLAMA
};

/// The square of the default scale's inverse.
const SCALAR: f64 = 256.0;

impl Family for Gemma2 {
    fn name(&self) -> &str {
        "Gemma2"
    }

    fn model_type(&self) -> &str {
        "gemma2"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        let mut config = config(file, DEFAULTS)?;
        let full = layer_types::full_layers(file, config.layers)?;
        let full = full.unwrap_or_else(|| layer_types::every(PERIOD, config.layers));
        config.window = window(file)?.and_then(|tokens| layer_types::window(tokens, full, config.layers));
        config.logit_cap = cap(file, "final_logit_softcapping", Some(LOGIT_CAP))?;
        config.attention_cap = cap(file, "attn_logit_softcapping", Some(ATTENTION_CAP))?;
        Ok(config)
    }

    fn config_json(&self, config: &Config) -> Value {
        config_json(config, self.model_type(), "Gemma2ForCausalLM")
    }

    fn layout(&self) -> TensorLayout {
        layout()
    }

    fn gguf(&self) -> Option<GgufLayout> {
        Some(gguf("gemma2"))
    }

    fn config_from_gguf(&self, metadata: &GgufMetadata<'_>) -> Result<Config> {
        let mut config = from_gguf(metadata)?;
        config.logit_cap = Some(metadata.number_or("final_logit_softcapping", LOGIT_CAP)?);
        config.attention_cap = Some(metadata.number_or("attn_logit_softcapping", ATTENTION_CAP)?);
        config.window = layer_types::window_in_gguf(metadata, PERIOD, config.layers)?;
        // llama.cpp knows the 27B model by its layers, and scales by the width of a head of the hidden state there.
        if config.layers == LAYERS_27B {
            config.attention_scale = Some(1.0 / (config.hidden as f64 / config.heads as f64).sqrt());
        }
        Ok(config)
    }
}

const LAYERS_27B: usize = 46;

/// What Gemma 2 and 3 have in common, without windows and bounds.
pub(super) fn config(file: &ConfigFile, defaults: Defaults) -> Result<Config> {
    // Files have it besides `hidden_activation`, and `transformers` passes it over.
    let _ = file.entry("hidden_act");
    let config = llama::config(file, defaults)?;
    Ok(Config {
        norm: NormKind::RmsFromOne,
        block_norms: BlockNorms::BeforeAndAfter,
        embedding_scale: (config.hidden as f64).sqrt(),
        attention_scale: Some(1.0 / file.number_or("query_pre_attn_scalar", SCALAR)?.sqrt()),
        biases: llama::attention_biases(file)?,
        ..config
    })
}

/// The window; without an entry, that of the class.
pub(super) fn window(file: &ConfigFile) -> Result<Option<usize>> {
    match file.entry("sliding_window") {
        None => Ok(Some(WINDOW)),
        Some(_) => file.optional_size("sliding_window"),
    }
}

/// A bound; `null` is none.
pub(super) fn cap(file: &ConfigFile, name: &str, usual: Option<f64>) -> Result<Option<f64>> {
    match (file.entry(name), usual) {
        (None, usual) => Ok(usual),
        (Some(Value::Null), _) => Ok(None),
        (Some(_), _) => file.number_or(name, 0.0).map(Some),
    }
}

pub(super) fn config_json(config: &Config, model_type: &str, architecture: &str) -> Value {
    let mut json = llama::config_json(config, model_type, architecture);
    json["hidden_activation"] = json["hidden_act"].take();
    if let Some(entries) = json.as_object_mut() {
        entries.retain(|name, _| name != "hidden_act");
    }
    let scale = config.attention_scale.unwrap_or_else(|| 1.0 / (config.head_dim as f64).sqrt());
    // A whole number, where it is one up to rounding: the class takes no other.
    let scalar = 1.0 / (scale * scale);
    let whole = scalar.round();
    json["query_pre_attn_scalar"] =
        if (scalar - whole).abs() < 1e-9 * whole { json!(whole as u64) } else { json!(scalar) };
    json["final_logit_softcapping"] = json!(config.logit_cap);
    json["attn_logit_softcapping"] = json!(config.attention_cap);
    json["sliding_window"] = json!(config.window.as_ref().map(|window| window.tokens));
    json["layer_types"] = layer_types::kinds(config.window.as_ref(), config.layers);
    json["attention_bias"] = json!(llama::has_attention_bias(config));
    json
}

pub(super) fn layout() -> TensorLayout {
    TensorLayout {
        attention_post_norm: Some("model.layers.{}.post_attention_layernorm".into()),
        mlp_norm: Some("model.layers.{}.pre_feedforward_layernorm".into()),
        mlp_post_norm: Some("model.layers.{}.post_feedforward_layernorm".into()),
        ..TensorLayout::llama()
    }
}

/// The names in GGUF files, which hold the gains of norms plus 1.
pub(super) fn gguf(architecture: &'static str) -> GgufLayout {
    let mut layout = GgufLayout { gains: Gains::PlusOne, ..GgufLayout::llama_cpp(architecture) };
    layout.tensors.attention_post_norm = Some("blk.{}.post_attention_norm".into());
    layout.tensors.mlp_post_norm = Some("blk.{}.post_ffw_norm".into());
    layout
}

/// What GGUF files of Gemma 2 and 3 have in common.
pub(super) fn from_gguf(metadata: &GgufMetadata<'_>) -> Result<Config> {
    let config = metadata.decoder()?;
    Ok(Config {
        activation: Activation::Gelu,
        block_norms: BlockNorms::BeforeAndAfter,
        embedding_scale: (config.hidden as f64).sqrt(),
        attention_scale: Some(1.0 / (config.head_dim as f64).sqrt()),
        ..config
    })
}
