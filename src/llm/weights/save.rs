//! Models written to files.

use std::collections::BTreeMap;
use std::path::Path;

use faer::MatRef;
use serde_json::{Map, Value};

use crate::error::{ModelError, Result};
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
        let joined = self.joined(&layout);
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
            tensors.block(block, layer, joined.get(layer))?;
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
        [hidden, intermediate, 3 * heads * head_dim, vocabulary].into_iter().max().unwrap_or(0)
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

    /// Name of the weight that edits of a layer change in the model's GGUF files, and their `general.architecture`. It is `d_out x d_in`
    /// there.
    ///
    /// # Errors
    /// No such layer, or a family that has no GGUF files.
    pub fn edited_tensor_in_gguf(&self, layer: usize) -> Result<(String, String)> {
        self.down(layer)?;
        let family = || ModelError::NoNames { family: self.family.name().to_owned(), format: "GGUF" };
        let layout = self.family.gguf().ok_or_else(family)?;
        Ok((format!("{}.weight", numbered(&layout.tensors.down, layer)), layout.architecture.into_owned()))
    }

    /// Queries, keys and values side by side, where the family's files have them so; nothing otherwise.
    fn joined(&self, layout: &TensorLayout) -> Vec<Joined> {
        match layout.attention {
            AttentionNames::Joined(_) => {
                self.blocks.iter().map(|block| Joined::new(block, layout.orientation)).collect()
            }
            AttentionNames::Separate { .. } => vec![],
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

/// Queries, keys and values in one matrix, as it is stored.
struct Joined {
    rows: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Joined {
    fn new(block: &Block, orientation: Orientation) -> Self {
        let parts = [&block.query, &block.key, &block.value];
        let (inputs, outputs) = (block.query.weight.shape().1, parts.iter().map(|part| part.weight.shape().0).sum());
        let stored = parts.map(|part| stored(&part.weight, orientation));
        let (rows, weight) = match orientation {
            Orientation::OutputsByInputs => {
                let rows = stored.into_iter().flat_map(|part| part.row_iter());
                (outputs, rows.flat_map(|row| row.iter().copied()).collect())
            }
            Orientation::InputsByOutputs => {
                let row = |row| stored.into_iter().flat_map(move |part| part.row(row).iter().copied());
                (inputs, (0..inputs).flat_map(row).collect())
            }
        };
        let bias = parts.iter().filter_map(|part| part.bias.as_deref()).flatten().copied().collect();
        Self { rows, weight, bias }
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

    fn block(&mut self, block: &'a Block, layer: usize, joined: Option<&'a Joined>) -> Result<()> {
        let (layout, name) = (self.layout, |name: &str| numbered(name, layer));
        let Biases { attention_inputs: inputs, attention_output: output, mlp, .. } = self.biases;
        self.norm(&name(&layout.attention_norm), &block.attention_norm);
        match (&layout.attention, joined) {
            (AttentionNames::Separate { query, key, value }, _) => {
                self.linear(&name(query), &block.query, inputs)?;
                self.linear(&name(key), &block.key, inputs)?;
                self.linear(&name(value), &block.value, inputs)?;
            }
            (AttentionNames::Joined(whole), Some(Joined { rows, weight, bias })) => {
                self.rows(&name(whole), MatRef::from_row_major_slice(weight, *rows, weight.len() / rows));
                let bias = Some(&bias[..]).filter(|bias| !bias.is_empty());
                let outputs = [&block.query, &block.key, &block.value].iter().map(|part| part.weight.shape().0).sum();
                self.bias(&name(whole), bias, outputs, inputs)?;
            }
            (AttentionNames::Joined(_), None) => {}
        }
        if let Some([q, k]) = &block.head_norms {
            let [q_name, k_name] = self.named(&layout.head_norms, "the norms of the heads")?;
            self.norm(&name(q_name), q);
            self.norm(&name(k_name), k);
        }
        self.linear(&name(&layout.attention_output), &block.attention_output, output)?;
        if let Some(norm) = &block.mlp_norm {
            self.norm(&name(self.named(&layout.mlp_norm, "the norm in front of the MLP")?), norm);
        }
        if let Some(gate) = &block.gate {
            self.linear(&name(self.named(&layout.gate, "the gate of the MLP")?), gate, mlp)?;
        }
        self.linear(&name(&layout.up), &block.up, mlp)?;
        self.linear(&name(&layout.down), &block.down, mlp)
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
