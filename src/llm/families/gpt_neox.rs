//! GPT-NeoX and Pythia.

use serde_json::{Value, json};

use super::llama;
use super::rotary::{RotaryEntries, Rotated};
use super::{AttentionNames, ConfigFile, Family, GgufLayout, GgufMetadata, TensorLayout, config_file};
use crate::error::Result;
use crate::llm::config::{Activation, Arrangement, Bias, Biases, Config, MlpKind, NormKind, Positions};

/// GPT-NeoX and Pythia: layer norms, attention and MLP side by side with a norm each, and a rotation of a part of each head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GptNeoX;

fn entries() -> RotaryEntries {
    // What `transformers` takes if a file has no such entry is a quarter of a head.
    RotaryEntries { theta: "rotary_emb_base", part: "rotary_pct", rotated: Rotated::Part(0.25), ..RotaryEntries::LLAMA }
}

/// Biases on all four projections of the attention, or on none.
fn biases(attention: Bias) -> Biases {
    let mlp = Bias::Required;
    Biases { attention_inputs: attention, attention_output: attention, mlp, head: Bias::Absent }
}

impl Family for GptNeoX {
    fn name(&self) -> &str {
        "GptNeoX"
    }

    fn model_type(&self) -> &str {
        "gpt_neox"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        let mut config = Config::new(llama::sizes(file)?);
        config.norm = NormKind::Layer;
        config.norm_epsilon = file.number_or("layer_norm_eps", 1e-5)?;
        config.mlp = MlpKind::Plain;
        config.activation = file.activation("hidden_act", Activation::GeluErf)?;
        config.arrangement = arrangement(file.flag_or("use_parallel_residual", true)?);
        config.positions = Positions::Rotary(entries().read(file, config.head_dim, config.context)?);
        config.fit_context();
        config.biases = biases(if file.flag_or("attention_bias", true)? { Bias::Required } else { Bias::Absent });
        config.tied = file.flag_or("tie_word_embeddings", false)?;
        Ok(config)
    }

    fn config_json(&self, config: &Config) -> Value {
        let mut json = json!({
            "model_type": self.model_type(),
            "architectures": ["GPTNeoXForCausalLM"],
            "hidden_size": config.hidden,
            "num_attention_heads": config.heads,
            "num_hidden_layers": config.layers,
            "intermediate_size": config.intermediate,
            "max_position_embeddings": config.context,
            "layer_norm_eps": config.norm_epsilon,
            "hidden_act": config_file::activation_name(config.activation),
            "use_parallel_residual": config.arrangement != Arrangement::Sequential,
            "attention_bias": config.biases.attention_inputs != Bias::Absent,
            "vocab_size": config.vocabulary,
            "tie_word_embeddings": config.tied,
            "torch_dtype": "float32",
        });
        if let Positions::Rotary(rotary) = &config.positions {
            entries().write(&mut json, rotary, config.head_dim);
        }
        json
    }

    fn layout(&self) -> TensorLayout {
        TensorLayout {
            embedding: "gpt_neox.embed_in".into(),
            norm: "gpt_neox.final_layer_norm".into(),
            head: "embed_out".into(),
            attention_norm: "gpt_neox.layers.{}.input_layernorm".into(),
            attention: AttentionNames::ByHeads("gpt_neox.layers.{}.attention.query_key_value".into()),
            attention_output: "gpt_neox.layers.{}.attention.dense".into(),
            mlp_norm: Some("gpt_neox.layers.{}.post_attention_layernorm".into()),
            gate: None,
            up: "gpt_neox.layers.{}.mlp.dense_h_to_4h".into(),
            down: "gpt_neox.layers.{}.mlp.dense_4h_to_h".into(),
            unused: [".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"].map(Into::into).into(),
            ..TensorLayout::llama()
        }
    }

    fn gguf(&self) -> Option<GgufLayout> {
        let mut layout = GgufLayout::llama_cpp("gptneox");
        layout.tensors.attention = AttentionNames::Joined("blk.{}.attn_qkv".into());
        layout.tensors.gate = None;
        Some(layout)
    }

    fn config_from_gguf(&self, metadata: &GgufMetadata<'_>) -> Result<Config> {
        let config = metadata.decoder_of_parts()?;
        let arrangement = arrangement(metadata.flag_or("use_parallel_residual", true)?);
        let (mlp, activation) = (MlpKind::Plain, Activation::GeluErf);
        Ok(Config { mlp, activation, arrangement, biases: biases(Bias::AsStored), ..config })
    }
}

fn arrangement(parallel: bool) -> Arrangement {
    if parallel { Arrangement::ParallelNorms } else { Arrangement::Sequential }
}
