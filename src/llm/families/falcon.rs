//! Falcon.

use serde_json::{Value, json};

use super::rotary::RotaryEntries;
use super::{AttentionNames, ConfigFile, Family, GgufLayout, GgufMetadata, TensorLayout, config_file};
use crate::error::Result;
use crate::llm::config::{Activation, Arrangement, Bias, Biases, Config, MlpKind, NormKind, Positions, Sizes};

/// Falcon, with one norm in front of attention and MLP: layer norms, attention and MLP side by side, queries that share a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Falcon;

/// What `transformers` takes if a file has no such entry.
const CONTEXT: usize = 2048;

impl Family for Falcon {
    fn name(&self) -> &str {
        "Falcon"
    }

    fn model_type(&self) -> &str {
        "falcon"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        file.only("alibi", &json!(false))?;
        let new = file.flag_or("new_decoder_architecture", false)?;
        // The entries that count in one of the two architectures only.
        let (multi_query, parallel) = (file.flag_or("multi_query", true)?, file.flag_or("parallel_attn", true)?);
        let norms = file.size_or("num_ln_in_parallel_attn", if new { 2 } else { 1 })?;
        if norms != 1 {
            let problem = "`num_ln_in_parallel_attn` is 2, as it is by default with `new_decoder_architecture`: attention and MLP with a \
                           norm each are not supported";
            return Err(file.refuse(problem));
        }
        if new && !parallel {
            return Err(file.refuse("`parallel_attn` is false, which is not supported with `new_decoder_architecture`"));
        }
        let hidden = file.size("hidden_size")?;
        let mut config = Config::new(Sizes {
            layers: file.size("num_hidden_layers")?,
            hidden,
            intermediate: file.size_or("ffn_hidden_size", hidden.saturating_mul(4))?,
            heads: file.size("num_attention_heads")?,
            vocabulary: file.size("vocab_size")?,
            context: file.size_or("max_position_embeddings", CONTEXT)?,
        });
        let stored = file.size_or("num_kv_heads", config.heads)?;
        config.kv_heads = if multi_query && !new { 1 } else { stored };
        config.norm = NormKind::Layer;
        config.norm_epsilon = file.number_or("layer_norm_epsilon", 1e-5)?;
        config.mlp = MlpKind::Plain;
        config.activation = file.activation("activation", Activation::GeluErf)?;
        config.arrangement = if parallel { Arrangement::Parallel } else { Arrangement::Sequential };
        config.positions = Positions::Rotary(RotaryEntries::LLAMA.read(file, config.head_dim, config.context)?);
        config.fit_context();
        let bias = if file.flag_or("bias", false)? { Bias::Required } else { Bias::Absent };
        config.biases = Biases { head: Bias::Absent, ..Biases::all(bias) };
        config.tied = file.flag_or("tie_word_embeddings", true)?;
        Ok(config)
    }

    fn config_json(&self, config: &Config) -> Value {
        let parallel = config.arrangement == Arrangement::Parallel;
        let multi_query = config.kv_heads == 1;
        // Groups of queries are in the newer architecture, without the MLP beside the attention in the older one.
        let new = parallel && !multi_query;
        let mut json = json!({
            "model_type": self.model_type(),
            "architectures": ["FalconForCausalLM"],
            "hidden_size": config.hidden,
            "num_attention_heads": config.heads,
            "num_hidden_layers": config.layers,
            "num_kv_heads": config.kv_heads,
            "ffn_hidden_size": config.intermediate,
            "max_position_embeddings": config.context,
            "layer_norm_epsilon": config.norm_epsilon,
            "activation": config_file::activation_name(config.activation),
            "alibi": false,
            "new_decoder_architecture": new,
            "multi_query": multi_query,
            "parallel_attn": parallel,
            "num_ln_in_parallel_attn": 1,
            "bias": config.biases.mlp != Bias::Absent,
            "vocab_size": config.vocabulary,
            "tie_word_embeddings": config.tied,
            "torch_dtype": "float32",
        });
        if let Positions::Rotary(rotary) = &config.positions {
            RotaryEntries::LLAMA.write(&mut json, rotary, config.head_dim);
        }
        json
    }

    fn layout(&self) -> TensorLayout {
        TensorLayout {
            embedding: "transformer.word_embeddings".into(),
            norm: "transformer.ln_f".into(),
            attention_norm: "transformer.h.{}.input_layernorm".into(),
            attention: AttentionNames::ByHeads("transformer.h.{}.self_attention.query_key_value".into()),
            attention_output: "transformer.h.{}.self_attention.dense".into(),
            mlp_norm: Some("transformer.h.{}.post_attention_layernorm".into()),
            gate: None,
            up: "transformer.h.{}.mlp.dense_h_to_4h".into(),
            down: "transformer.h.{}.mlp.dense_4h_to_h".into(),
            ..TensorLayout::llama()
        }
    }

    fn gguf(&self) -> Option<GgufLayout> {
        let mut layout = GgufLayout::llama_cpp("falcon");
        layout.tensors.attention = AttentionNames::Joined("blk.{}.attn_qkv".into());
        layout.tensors.gate = None;
        Some(layout)
    }

    fn config_from_gguf(&self, metadata: &GgufMetadata<'_>) -> Result<Config> {
        let (mlp, activation, arrangement) = (MlpKind::Plain, Activation::GeluErf, Arrangement::Parallel);
        Ok(Config { mlp, activation, arrangement, biases: Biases::all(Bias::Absent), ..metadata.decoder()? })
    }
}
