//! GPT-2.

use serde_json::{Value, json};

use super::config_file::activation_name;
use super::{AttentionNames, ConfigFile, Family, GgufLayout, GgufMetadata, TensorLayout};
use crate::error::Result;
use crate::llm::config::{Activation, Bias, Biases, Config, MlpKind, NormKind, Positions, Sizes};
use crate::update::Orientation;

/// GPT-2: learned positions, layer norms, weights stored inputs by outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gpt2;

impl Family for Gpt2 {
    fn name(&self) -> &str {
        "Gpt2"
    }

    fn model_type(&self) -> &str {
        "gpt2"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        let mut config = config(file)?;
        config.positions = Positions::Learned;
        config.biases = Biases { head: Bias::Absent, ..Biases::all(Bias::Required) };
        config.tied = file.flag_or("tie_word_embeddings", true)?;
        Ok(config)
    }

    fn config_json(&self, config: &Config) -> Value {
        config_json(config, self.model_type(), "GPT2LMHeadModel")
    }

    fn layout(&self) -> TensorLayout {
        TensorLayout {
            embedding: "transformer.wte".into(),
            positions: Some("transformer.wpe".into()),
            norm: "transformer.ln_f".into(),
            head: "lm_head".into(),
            attention_norm: "transformer.h.{}.ln_1".into(),
            attention: AttentionNames::Joined("transformer.h.{}.attn.c_attn".into()),
            head_norms: None,
            attention_output: "transformer.h.{}.attn.c_proj".into(),
            attention_post_norm: None,
            mlp_norm: Some("transformer.h.{}.ln_2".into()),
            gate: None,
            up: "transformer.h.{}.mlp.c_fc".into(),
            gate_and_up: None,
            down: "transformer.h.{}.mlp.c_proj".into(),
            mlp_post_norm: None,
            orientation: Orientation::InputsByOutputs,
            // Early files hold the decoder without the head, and omit its name.
            optional_prefix: Some("transformer.".into()),
            unused: vec![".attn.bias".into(), ".attn.masked_bias".into()],
        }
    }

    fn gguf(&self) -> Option<GgufLayout> {
        let mut layout = GgufLayout::llama_cpp("gpt2");
        layout.tensors.positions = Some("position_embd".into());
        layout.tensors.attention = AttentionNames::Joined("blk.{}.attn_qkv".into());
        layout.tensors.gate = None;
        Some(layout)
    }

    fn config_from_gguf(&self, metadata: &GgufMetadata<'_>) -> Result<Config> {
        Ok(Config {
            positions: Positions::Learned,
            mlp: MlpKind::Plain,
            activation: Activation::Gelu,
            biases: Biases { head: Bias::Absent, ..Biases::all(Bias::Required) },
            ..metadata.decoder()?
        })
    }
}

/// What GPT-2 and GPT-J have in common.
pub(super) fn config(file: &ConfigFile) -> Result<Config> {
    let (hidden, heads) = (file.size("n_embd")?, file.size("n_head")?);
    // `transformers` also knows these sizes by their names in other families.
    for (name, alias) in [
        ("n_embd", "hidden_size"),
        ("n_head", "num_attention_heads"),
        ("n_layer", "num_hidden_layers"),
        ("n_positions", "max_position_embeddings"),
    ] {
        file.check_alias(name, alias)?;
    }
    file.only("scale_attn_weights", &json!(true))?;
    file.only("scale_attn_by_inverse_layer_idx", &json!(false))?;
    let mut config = Config::new(Sizes {
        layers: file.size("n_layer")?,
        hidden,
        intermediate: file.size_or("n_inner", hidden.saturating_mul(4))?,
        heads,
        vocabulary: file.size("vocab_size")?,
        context: file.size("n_positions")?,
    });
    config.norm = NormKind::Layer;
    config.norm_epsilon = file.number_or("layer_norm_epsilon", 1e-5)?;
    config.mlp = MlpKind::Plain;
    config.activation = file.activation("activation_function", Activation::Gelu)?;
    Ok(config)
}

/// The entries that GPT-2 and GPT-J have in common.
pub(super) fn config_json(config: &Config, model_type: &str, architecture: &str) -> Value {
    let activation = match config.activation {
        Activation::Gelu => "gelu_new",
        other => activation_name(other),
    };
    json!({
        "model_type": model_type,
        "architectures": [architecture],
        "n_embd": config.hidden,
        "n_head": config.heads,
        "n_layer": config.layers,
        "n_inner": config.intermediate,
        "n_positions": config.context,
        "layer_norm_epsilon": config.norm_epsilon,
        "activation_function": activation,
        "vocab_size": config.vocabulary,
        "tie_word_embeddings": config.tied,
        "torch_dtype": "float32",
    })
}
