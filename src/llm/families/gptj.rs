//! GPT-J.

use serde_json::{Value, json};

use super::{AttentionNames, ConfigFile, Family, Gpt2, TensorLayout, gpt2};
use crate::error::Result;
use crate::llm::config::{Arrangement, Bias, Biases, Config, Pairing, Positions, Rotary, RotaryScaling};
use crate::update::Orientation;

/// GPT-J: attention and MLP side by side, and an interleaved rotation of a part of each head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GptJ;

/// What `transformers` takes if a file has no such entry.
const ROTARY_DIM: usize = 64;

impl Family for GptJ {
    fn name(&self) -> &str {
        "GptJ"
    }

    fn model_type(&self) -> &str {
        "gptj"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        let mut config = gpt2::config(file)?;
        file.only("rotary", &json!(true))?;
        config.arrangement = Arrangement::Parallel;
        config.positions = Positions::Rotary(Rotary {
            theta: 10_000.0,
            dims: file.size_or("rotary_dim", ROTARY_DIM)?,
            pairing: Pairing::Interleaved,
            scaling: RotaryScaling::None,
        });
        config.biases = Biases {
            attention_inputs: Bias::Absent,
            attention_output: Bias::Absent,
            mlp: Bias::Required,
            head: Bias::Required,
        };
        config.tied = file.flag_or("tie_word_embeddings", false)?;
        Ok(config)
    }

    fn config_json(&self, config: &Config) -> Value {
        let mut json = gpt2::config_json(config, self.model_type(), "GPTJForCausalLM");
        if let Positions::Rotary(rotary) = &config.positions {
            json["rotary_dim"] = json!(rotary.dims);
        }
        json
    }

    fn layout(&self) -> TensorLayout {
        TensorLayout {
            positions: None,
            attention: AttentionNames::separate(
                "transformer.h.{}.attn.q_proj",
                "transformer.h.{}.attn.k_proj",
                "transformer.h.{}.attn.v_proj",
            ),
            attention_output: "transformer.h.{}.attn.out_proj".into(),
            mlp_norm: None,
            up: "transformer.h.{}.mlp.fc_in".into(),
            down: "transformer.h.{}.mlp.fc_out".into(),
            orientation: Orientation::OutputsByInputs,
            optional_prefix: None,
            ..Gpt2.layout()
        }
    }
}
