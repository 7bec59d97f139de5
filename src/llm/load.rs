//! A model from its files.

use std::path::Path;
use std::sync::Arc;

use faer::Par;

use super::config::{Config, Family, NormKind, Positions, malformed};
use super::directory::Directory;
use super::gguf::Gguf;
use super::model::{Block, Linear, Model};
use super::ops::{Normalize, Parameter};
use super::tokenizer::Tokenizer;
use crate::error::{EditError, Result};
use crate::update::Orientation;

/// Where tensors come from.
pub(super) trait Source {
    /// Shape and numbers of a tensor, or `None` if there is no such tensor.
    ///
    /// # Errors
    /// A file that cannot be read, or numbers of an unknown type.
    fn tensor(&mut self, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>>;

    /// The names of a family's tensors in this kind of file.
    fn names(&self, family: Family) -> &'static Names;

    /// Of which file an error speaks.
    fn path(&self) -> &Path;
}

/// What the tensors are called. Those of a block have `{}` where its number goes.
pub(super) struct Names {
    pub(super) embedding: &'static str,
    pub(super) positions: &'static str,
    pub(super) norm: &'static str,
    pub(super) head: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) attention: Projections,
    pub(super) head_norms: [&'static str; 2],
    pub(super) attention_output: &'static str,
    pub(super) mlp_norm: &'static str,
    pub(super) gate: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
}

/// Queries, keys and values.
pub(super) enum Projections {
    Separate([&'static str; 3]),
    /// Side by side in one matrix.
    Joined(&'static str),
}

pub(super) const LLAMA: Names = Names {
    embedding: "model.embed_tokens",
    positions: "",
    norm: "model.norm",
    head: "lm_head",
    attention_norm: "model.layers.{}.input_layernorm",
    attention: Projections::Separate([
        "model.layers.{}.self_attn.q_proj",
        "model.layers.{}.self_attn.k_proj",
        "model.layers.{}.self_attn.v_proj",
    ]),
    head_norms: ["model.layers.{}.self_attn.q_norm", "model.layers.{}.self_attn.k_norm"],
    attention_output: "model.layers.{}.self_attn.o_proj",
    mlp_norm: "model.layers.{}.post_attention_layernorm",
    gate: "model.layers.{}.mlp.gate_proj",
    up: "model.layers.{}.mlp.up_proj",
    down: "model.layers.{}.mlp.down_proj",
};

pub(super) const GPT2: Names = Names {
    embedding: "transformer.wte",
    positions: "transformer.wpe",
    norm: "transformer.ln_f",
    head: "lm_head",
    attention_norm: "transformer.h.{}.ln_1",
    attention: Projections::Joined("transformer.h.{}.attn.c_attn"),
    head_norms: ["", ""],
    attention_output: "transformer.h.{}.attn.c_proj",
    mlp_norm: "transformer.h.{}.ln_2",
    gate: "",
    up: "transformer.h.{}.mlp.c_fc",
    down: "transformer.h.{}.mlp.c_proj",
};

pub(super) const GPTJ: Names = Names {
    attention: Projections::Separate([
        "transformer.h.{}.attn.q_proj",
        "transformer.h.{}.attn.k_proj",
        "transformer.h.{}.attn.v_proj",
    ]),
    attention_output: "transformer.h.{}.attn.out_proj",
    up: "transformer.h.{}.mlp.fc_in",
    down: "transformer.h.{}.mlp.fc_out",
    ..GPT2
};

pub(super) const GGUF: Names = Names {
    embedding: "token_embd",
    positions: "",
    norm: "output_norm",
    head: "output",
    attention_norm: "blk.{}.attn_norm",
    attention: Projections::Separate(["blk.{}.attn_q", "blk.{}.attn_k", "blk.{}.attn_v"]),
    head_norms: ["blk.{}.attn_q_norm", "blk.{}.attn_k_norm"],
    attention_output: "blk.{}.attn_output",
    mlp_norm: "blk.{}.ffn_norm",
    gate: "blk.{}.ffn_gate",
    up: "blk.{}.ffn_up",
    down: "blk.{}.ffn_down",
};

impl Model {
    /// Reads a model and its tokenizer: from a directory with `config.json`, `model.safetensors` (or shards with
    /// `model.safetensors.index.json`) and `tokenizer.json`, or from a `.gguf` file, which may have a `tokenizer.json`
    /// beside it. Weights may be `f32`, `f16` or `bf16`, in GGUF files also quantised; they are held in `f32`.
    ///
    /// # Errors
    /// A file that is missing or cannot be read, an unknown architecture, a missing tensor or one of the wrong shape.
    pub fn open(path: impl AsRef<Path>, par: Par) -> Result<(Self, Tokenizer)> {
        let path = path.as_ref();
        if path.is_dir() {
            let (config, mut directory) = Directory::open(path)?;
            Ok((load(config, &mut directory, par)?, Tokenizer::open(path.join("tokenizer.json"))?))
        } else {
            let (config, mut gguf) = Gguf::open(path)?;
            let tokenizer = gguf.tokenizer()?;
            Ok((load(config, &mut gguf, par)?, tokenizer))
        }
    }

    /// Name and orientation of the weight that edits of a layer change, in the files of the Hugging Face layout.
    ///
    /// # Errors
    /// No such layer.
    pub fn edited_tensor(&self, layer: usize) -> Result<(String, Orientation)> {
        let names = directory_names(self.config.family);
        Ok((format!("{}.weight", numbered(names.down, layer)), self.down(layer)?.orientation()))
    }

    pub(super) fn down(&self, layer: usize) -> Result<&Parameter> {
        let known = || EditError::UnknownLayer { layer, known: (0..self.blocks.len()).collect() };
        Ok(&self.blocks.get(layer).ok_or_else(known)?.down.weight)
    }
}

pub(super) fn directory_names(family: Family) -> &'static Names {
    match family {
        Family::Gpt2 => &GPT2,
        Family::GptJ => &GPTJ,
        _ => &LLAMA,
    }
}

pub(super) fn numbered(name: &str, layer: usize) -> String {
    name.replace("{}", &layer.to_string())
}

fn load(config: Config, source: &mut dyn Source, par: Par) -> Result<Model> {
    let names = source.names(config.family);
    let mut loader = Loader { config: &config, source, fingerprint: blake3::Hasher::new() };
    let embedding = Arc::new(loader.matrix(names.embedding, config.vocabulary, config.hidden)?);
    let positions = match config.positions {
        Positions::Learned => Some(Arc::new(loader.matrix(names.positions, config.context, config.hidden)?)),
        Positions::Rotary(_) => None,
    };
    let blocks = (0..config.layers).map(|layer| loader.block(names, layer)).collect::<Result<_>>()?;
    let norm = loader.norm(names.norm)?;
    let head = match config.tied {
        true => Linear { weight: embedding.clone(), bias: None, low_rank: None },
        false => Linear {
            weight: Arc::new(loader.matrix(names.head, config.vocabulary, config.hidden)?),
            bias: loader.vector_if_there(&format!("{}.bias", names.head), config.vocabulary)?,
            low_rank: None,
        },
    };
    let fingerprint = format!("{:?} {}", config.family, loader.fingerprint.finalize().to_hex());
    Ok(Model { embedding, positions, blocks, norm, head, fingerprint, par, config })
}

struct Loader<'a> {
    config: &'a Config,
    source: &'a mut dyn Source,
    fingerprint: blake3::Hasher,
}

impl Loader<'_> {
    fn block(&mut self, names: &Names, layer: usize) -> Result<Block> {
        let name = |name| numbered(name, layer);
        let Config { family, hidden, intermediate, heads, kv_heads, head_dim, .. } = *self.config;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let [query, key, value] = match names.attention {
            Projections::Separate(names) => {
                let [query, key, value] = [(names[0], q), (names[1], kv), (names[2], kv)]
                    .map(|(part, outputs)| self.linear(&name(part), outputs, hidden));
                [query?, key?, value?]
            }
            Projections::Joined(joined) => self.joined(&name(joined), [q, kv, kv], hidden)?,
        };
        let head_norms = match family {
            Family::Qwen3 => {
                let [q, k] = names.head_norms.map(|norm| self.norm(&name(norm)));
                Some([q?, k?])
            }
            _ => None,
        };
        let mlp_norm = match family {
            Family::GptJ => None,
            _ => Some(self.norm(&name(names.mlp_norm))?),
        };
        let gate = match family {
            Family::Gpt2 | Family::GptJ => None,
            _ => Some(self.linear(&name(names.gate), intermediate, hidden)?),
        };
        Ok(Block {
            attention_norm: self.norm(&name(names.attention_norm))?,
            query,
            key,
            value,
            head_norms,
            attention_output: self.linear(&name(names.attention_output), hidden, q)?,
            mlp_norm,
            gate,
            up: self.linear(&name(names.up), intermediate, hidden)?,
            down: self.linear(&name(names.down), hidden, intermediate)?,
        })
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Linear> {
        let weight = match self.config.family {
            Family::Gpt2 => {
                let numbers = self.numbers(&format!("{name}.weight"), &[inputs, outputs])?;
                Parameter::new(numbers, outputs, inputs, Orientation::InputsByOutputs)
            }
            _ => self.matrix(name, outputs, inputs)?,
        };
        let bias = self.vector_if_there(&format!("{name}.bias"), outputs)?;
        Ok(Linear { weight: Arc::new(weight), bias, low_rank: None })
    }

    /// GPT-2's queries, keys and values, which are one matrix `inputs x outputs`.
    fn joined<const N: usize>(&mut self, name: &str, outputs: [usize; N], inputs: usize) -> Result<[Linear; N]> {
        let all: usize = outputs.iter().sum();
        let numbers = self.numbers(&format!("{name}.weight"), &[inputs, all])?;
        let bias = self.vector_if_there(&format!("{name}.bias"), all)?;
        let mut start = 0;
        Ok(outputs.map(|outputs| {
            let part = start..start + outputs;
            start = part.end;
            let numbers = numbers.chunks_exact(all).flat_map(|row| row[part.clone()].iter().copied()).collect();
            Linear {
                weight: Arc::new(Parameter::new(numbers, outputs, inputs, Orientation::InputsByOutputs)),
                bias: bias.as_ref().map(|bias| bias[part].into()),
                low_rank: None,
            }
        }))
    }

    /// A matrix that every family stores row by row, a row an output.
    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Parameter> {
        let numbers = self.numbers(&format!("{name}.weight"), &[rows, cols])?;
        Ok(Parameter::new(numbers, rows, cols, Orientation::OutputsByInputs))
    }

    fn norm(&mut self, name: &str) -> Result<Normalize> {
        let (gain_name, bias_name) = (format!("{name}.weight"), format!("{name}.bias"));
        let length = match name.ends_with("q_norm") || name.ends_with("k_norm") {
            true => self.config.head_dim,
            false => self.config.hidden,
        };
        let bias = match self.config.norm {
            NormKind::Rms => None,
            NormKind::Layer => Some(self.numbers(&bias_name, &[length])?.into()),
        };
        Ok(Normalize {
            kind: self.config.norm,
            epsilon: self.config.norm_epsilon as f32,
            gain: self.numbers(&gain_name, &[length])?.into(),
            bias,
        })
    }

    fn numbers(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        match self.read(name, shape)? {
            Some(numbers) => Ok(numbers),
            None => Err(malformed(self.source.path(), format!("tensor `{name}` is missing"))),
        }
    }

    fn vector_if_there(&mut self, name: &str, length: usize) -> Result<Option<Arc<[f32]>>> {
        Ok(self.read(name, &[length])?.map(Into::into))
    }

    fn read(&mut self, name: &str, shape: &[usize]) -> Result<Option<Vec<f32>>> {
        let Some((found, numbers)) = self.source.tensor(name)? else { return Ok(None) };
        let refuse = |problem| Err(malformed(self.source.path(), problem));
        if found != shape {
            return refuse(format!("tensor `{name}` has the shape {found:?}, expected {shape:?}"));
        }
        if let Some(at) = numbers.iter().position(|x| !x.is_finite()) {
            return refuse(format!("tensor `{name}` holds {} at {at}: every number must be finite", numbers[at]));
        }
        for part in numbers.chunks(1 << 16) {
            self.fingerprint.update(&part.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        }
        Ok(Some(numbers))
    }
}
