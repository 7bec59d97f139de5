//! Models written to files.

use std::collections::BTreeMap;
use std::path::Path;

use faer::MatRef;
use serde_json::{Map, Value};

use crate::error::Result;
use crate::format::tensors::{self, NewTensor};
use crate::format::{Checkpoint, Precision, Rounding, malformed};
use crate::llm::block::{Block, Linear};
use crate::llm::config::{Bias, Biases, Config};
use crate::llm::families::{AttentionNames, ConfigFile, TensorLayout, numbered};
use crate::llm::model::Model;
use crate::llm::ops::{Normalize, Parameter};
use crate::llm::tokenizer::Tokenizer;
use crate::update::Orientation;
use crate::util::atomic_file::{self, io_error};

impl Model {
    /// Writes the model as edited so far, in `f32`, with its tokenizer, into a directory in the Hugging Face layout: `model.safetensors`,
    /// `tokenizer.json`, `tokenizer_config.json` (with the chat template, if the tokenizer has one), `generation_config.json`, and last
    /// `config.json`. The directory is created if it does not exist. Where the family's files have a bias and the model has none, it is
    /// written as zeros.
    ///
    /// Use this for a model that was read from a GGUF file. If the model was read from a directory, copy the directory and call
    /// [`write_edited`](Self::write_edited): this keeps all other tensors as they are.
    ///
    /// # Errors
    /// A directory that cannot be written, or a family that has no place for a tensor of the model.
    pub fn save(&self, tokenizer: &Tokenizer, directory: impl AsRef<Path>) -> Result<()> {
        let directory = directory.as_ref();
        std::fs::create_dir_all(directory).map_err(io_error(directory))?;
        let layout = self.family.layout();
        let joined: Vec<JoinedParts> = self.blocks.iter().map(|block| self.joined(block, &layout)).collect();
        let path = directory.join("model.safetensors");
        let mut config = self.family.config_json(&self.config);
        tokenizer.special_ids().into_iter().for_each(|(name, id)| config[name] = id);
        let config_path = directory.join("config.json");
        let biases = self.family.config(&ConfigFile::parse(&config_path, &config.to_string())?)?.biases;
        let zeros = vec![0.0; self.widest()];
        let mut tensors = Tensors { layout: &layout, path: &path, biases, zeros: &zeros, tensors: vec![] };
        tensors.table(&layout.embedding, &self.embedding);
        if let Some(positions) = &self.positions {
            tensors.table(tensors.named(&layout.positions, "the positions")?, positions);
        }
        tensors.norm(&layout.norm, &self.norm);
        if !self.config.tied {
            tensors.table(&layout.head, &self.head.weight);
        }
        tensors.bias(&layout.head, self.head.bias.as_deref(), self.config.vocabulary, biases.head)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            tensors.block(block, layer, &joined[layer])?;
        }
        tensors::write(&path, tensors::kind("pt"), &tensors.tensors)?;
        tokenizer.save(directory.join("tokenizer.json"))?;
        let write = |name: &str, json: &Value| {
            atomic_file::write_whole(&directory.join(name), format!("{json:#}\n").as_bytes())
        };
        write("tokenizer_config.json", &tokenizer.config_json())?;
        let generation: Map<String, Value> =
            tokenizer.special_ids().into_iter().map(|(name, id)| (name.to_owned(), id)).collect();
        write("generation_config.json", &generation.into())?;
        write("config.json", &config)
    }

    /// The largest number of outputs of a projection.
    fn widest(&self) -> usize {
        let Config { hidden, intermediate, heads, head_dim, vocabulary, .. } = self.config;
        [hidden, 2 * intermediate, 3 * heads * head_dim, vocabulary].into_iter().max().unwrap_or(0)
    }

    /// Writes the edited weights of some layers into a copy of the checkpoint that the model was read from. All other tensors stay as they
    /// are, byte for byte. The result is the effect of rounding to the number type of the file, for each tensor.
    ///
    /// # Errors
    /// An unknown layer, a checkpoint of another model, or a file that cannot be read or written.
    pub fn write_edited(&self, checkpoint: &Checkpoint, layers: &[usize]) -> Result<BTreeMap<String, Rounding>> {
        let layout = self.family.layout();
        let mut weights = BTreeMap::new();
        for &layer in layers {
            let (name, _) = self.edited_tensor(layer)?;
            let bare = layout.without_prefix(&name).filter(|_| checkpoint.names().all(|there| there != name));
            let name = bare.unwrap_or(&name).to_owned();
            weights.insert(name, self.down(layer)?.matrix());
        }
        checkpoint.replace_all(&weights, layout.orientation, |weight| Ok(weight.to_owned()))
    }

    /// The projections of a block that the family's files have side by side.
    fn joined(&self, block: &Block, layout: &TensorLayout) -> JoinedParts {
        let attention = [&block.query, &block.key, &block.value];
        let join = |parts: &[&Linear], groups| Joined::new(parts, groups, layout.orientation);
        JoinedParts {
            attention: match layout.attention {
                AttentionNames::Separate { .. } => None,
                AttentionNames::Joined(_) => Some(join(&attention, 1)),
                AttentionNames::ByHeads(_) => Some(join(&attention, self.config.kv_heads)),
            },
            gate_and_up: match (&layout.gate_and_up, &block.gate) {
                (Some(_), Some(gate)) => Some(join(&[gate, &block.up], 1)),
                _ => None,
            },
        }
    }
}

/// A matrix, as files have it.
fn stored(weight: &Parameter, orientation: Orientation) -> MatRef<'_, f32> {
    match orientation {
        Orientation::OutputsByInputs => weight.matrix(),
        Orientation::InputsByOutputs => weight.matrix().transpose(),
    }
}

/// The matrices of a block that hold several projections.
struct JoinedParts {
    attention: Option<Joined>,
    gate_and_up: Option<Joined>,
}

/// Projections in one matrix, as it is stored.
struct Joined {
    outputs: usize,
    rows: usize,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Joined {
    /// * `groups`: the outputs are so many groups, each with its share of every projection
    fn new(parts: &[&Linear], groups: usize, orientation: Orientation) -> Self {
        let (outputs, inputs) = (parts.iter().map(|part| part.weight.shape().0).sum(), parts[0].weight.shape().1);
        // Which part and which of its outputs stands where.
        let order: Vec<(&Linear, usize)> = (0..groups)
            .flat_map(|group| parts.iter().map(move |part| (*part, group, part.weight.shape().0 / groups)))
            .flat_map(|(part, group, share)| (group * share..(group + 1) * share).map(move |row| (part, row)))
            .collect();
        let (rows, weight) = match orientation {
            Orientation::OutputsByInputs => {
                let row = |(part, row): &(&Linear, usize)| part.weight.matrix().row(*row).iter().copied().collect();
                (outputs, order.iter().flat_map(|place| -> Vec<f32> { row(place) }).collect())
            }
            Orientation::InputsByOutputs => {
                let row = |input| order.iter().map(move |(part, row)| part.weight.matrix()[(*row, input)]);
                (inputs, (0..inputs).flat_map(row).collect())
            }
        };
        let bias = |(part, row): &(&Linear, usize)| part.bias.as_ref().map_or(0.0, |bias| bias[*row]);
        let has_bias = parts.iter().any(|part| part.bias.is_some());
        Self { outputs, rows, weight, bias: has_bias.then(|| order.iter().map(bias).collect()) }
    }
}

/// The tensors of a file that is to be written.
struct Tensors<'a> {
    layout: &'a TensorLayout,
    path: &'a Path,
    /// Which projections have a bias in the family's files.
    biases: Biases,
    /// As many as any bias has.
    zeros: &'a [f32],
    tensors: Vec<NewTensor<'a, f32>>,
}

impl<'a> Tensors<'a> {
    /// A name that the model asks for.
    fn named<N>(&self, name: &'a Option<N>, what: &str) -> Result<&'a N> {
        name.as_ref().ok_or_else(|| malformed(self.path, format!("the model's family has no name for {what}")))
    }

    fn block(&mut self, block: &'a Block, layer: usize, joined: &'a JoinedParts) -> Result<()> {
        let (layout, name) = (self.layout, |name: &str| numbered(name, layer));
        let Biases { attention_inputs: inputs, attention_output: output, mlp, .. } = self.biases;
        if let Some(norm) = &block.attention_norm {
            self.norm(&name(&layout.attention_norm), norm);
        }
        match &layout.attention {
            AttentionNames::Separate { query, key, value } => {
                self.linear(&name(query), &block.query, inputs)?;
                self.linear(&name(key), &block.key, inputs)?;
                self.linear(&name(value), &block.value, inputs)?;
            }
            AttentionNames::Joined(whole) | AttentionNames::ByHeads(whole) => {
                self.joined(&name(whole), joined.attention.as_ref(), inputs)?;
            }
        }
        if let Some([q, k]) = &block.head_norms {
            let [q_name, k_name] = self.named(&layout.head_norms, "the norms of the heads")?;
            self.norm(&name(q_name), q);
            self.norm(&name(k_name), k);
        }
        if let Some(norm) = &block.attention_post_norm {
            self.norm(&name(self.named(&layout.attention_post_norm, "the norm behind the attention")?), norm);
        }
        self.linear(&name(&layout.attention_output), &block.attention_output, output)?;
        if let Some(norm) = &block.mlp_norm {
            self.norm(&name(self.named(&layout.mlp_norm, "the norm in front of the MLP")?), norm);
        }
        match (&block.gate, &layout.gate_and_up) {
            (Some(_), Some(both)) => self.joined(&name(both), joined.gate_and_up.as_ref(), mlp)?,
            (Some(gate), None) => {
                self.linear(&name(self.named(&layout.gate, "the gate of the MLP")?), gate, mlp)?;
                self.linear(&name(&layout.up), &block.up, mlp)?;
            }
            (None, _) => self.linear(&name(&layout.up), &block.up, mlp)?,
        }
        self.linear(&name(&layout.down), &block.down, mlp)?;
        if let Some(norm) = &block.mlp_post_norm {
            self.norm(&name(self.named(&layout.mlp_post_norm, "the norm behind the MLP")?), norm);
        }
        Ok(())
    }

    fn joined(&mut self, name: &str, joined: Option<&'a Joined>, bias: Bias) -> Result<()> {
        let Some(Joined { outputs, rows, weight, bias: stored }) = joined else { return Ok(()) };
        self.rows(name, MatRef::from_row_major_slice(weight, *rows, weight.len() / rows));
        self.bias(name, stored.as_deref(), *outputs, bias)
    }

    fn linear(&mut self, name: &str, linear: &'a Linear, bias: Bias) -> Result<()> {
        self.rows(name, stored(&linear.weight, self.layout.orientation));
        self.bias(name, linear.bias.as_deref(), linear.weight.shape().0, bias)
    }

    /// The bias of a projection, as the family's files have it.
    fn bias(&mut self, name: &str, bias: Option<&'a [f32]>, length: usize, stored: Bias) -> Result<()> {
        let name = format!("{name}.bias");
        match (bias, stored) {
            (Some(_), Bias::Absent) => {
                return Err(malformed(
                    self.path,
                    format!("files of the model's family have no `{name}`, but the model has"),
                ));
            }
            (Some(bias), _) => self.vector(&name, bias),
            (None, Bias::Required) => self.vector(&name, &self.zeros[..length]),
            (None, Bias::AsStored | Bias::Absent) => {}
        }
        Ok(())
    }

    fn norm(&mut self, name: &str, norm: &'a Normalize) {
        self.vector(&format!("{name}.weight"), &norm.gain);
        if let Some(bias) = &norm.bias {
            self.vector(&format!("{name}.bias"), bias);
        }
    }

    /// Embeddings or a head, a row a token or position.
    fn table(&mut self, name: &str, table: &'a Parameter) {
        self.rows(name, table.matrix());
    }

    fn rows(&mut self, name: &str, rows: MatRef<'a, f32>) {
        self.tensors.push(NewTensor::matrix(format!("{name}.weight"), rows, Precision::F32));
    }

    fn vector(&mut self, name: &str, numbers: &'a [f32]) {
        self.tensors.push(NewTensor::vector(name, numbers, Precision::F32));
    }
}
