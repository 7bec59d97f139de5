//! Models written to files.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use faer::{Mat, MatRef, Par};
use serde_json::{Map, Value};

use crate::error::{ModelError, Result};
use crate::format::tensors::{self, NewTensor, WriteRows};
use crate::format::{Checkpoint, Precision, Rounding, malformed};
use crate::llm::block::{Block, Linear};
use crate::llm::config::{Bias, Biases};
use crate::llm::families::{AttentionNames, ConfigFile, TensorLayout, numbered};
use crate::llm::model::Model;
use crate::llm::ops::{Normalize, Parameter};
use crate::llm::tokenizer::Tokenizer;
use crate::update::Orientation;
use crate::util::atomic_file::{self, io_error};

/// Rows that are widened at once.
const PANEL: usize = 256;

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
        // All blocks were kept.
        self.down(self.config.layers - 1)?;
        let directory = directory.as_ref();
        std::fs::create_dir_all(directory).map_err(io_error(directory))?;
        let layout = self.family.layout();
        let path = directory.join("model.safetensors");
        let mut config = self.family.config_json(&self.config);
        tokenizer.special_ids().into_iter().for_each(|(name, id)| config[name] = id);
        let config_path = directory.join("config.json");
        let biases = self.family.config(&ConfigFile::parse(&config_path, &config.to_string())?)?.biases;
        let (par, kv_heads) = (self.par, self.config.kv_heads);
        let mut tensors = Tensors { layout: &layout, path: &path, biases, kv_heads, par, tensors: vec![] };
        tensors.table(&layout.embedding, &self.embedding);
        if let Some(positions) = &self.positions {
            tensors.table(tensors.named(&layout.positions, "the positions")?, positions);
        }
        tensors.norm(&layout.norm, &self.norm);
        if !self.config.tied {
            tensors.table(&layout.head, &self.head.weight);
        }
        let head_bias = self.head.bias.as_deref().map(<[f32]>::to_vec);
        tensors.bias(&layout.head, head_bias, self.config.vocabulary, biases.head)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            tensors.block(block, layer)?;
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
            weights.insert(name, self.down(layer)?);
        }
        checkpoint.replace_all(&weights, layout.orientation, |weight| Ok(weight.to_matrix(self.par)))
    }

    /// Name of the weight that edits of a layer change in the model's GGUF files, and their `general.architecture`. It is `d_out x d_in`
    /// there.
    ///
    /// # Errors
    /// No such layer, or a family that has no GGUF files.
    pub fn edited_tensor_in_gguf(&self, layer: usize) -> Result<(String, String)> {
        self.check_layer(layer)?;
        let family = || ModelError::NoNames { family: self.family.name().to_owned(), format: "GGUF" };
        let layout = self.family.converted_to_gguf().ok_or_else(family)?;
        Ok((format!("{}.weight", numbered(&layout.tensors.down, layer)), layout.architecture.into_owned()))
    }
}

/// The tensors of a file that is to be written.
struct Tensors<'a> {
    layout: &'a TensorLayout,
    path: &'a Path,
    /// Which projections have a bias in the family's files.
    biases: Biases,
    kv_heads: usize,
    par: Par,
    tensors: Vec<NewTensor<'a, f32>>,
}

impl<'a> Tensors<'a> {
    /// A name that the model asks for.
    fn named<N>(&self, name: &'a Option<N>, what: &str) -> Result<&'a N> {
        name.as_ref().ok_or_else(|| malformed(self.path, format!("the model's family has no name for {what}")))
    }

    fn block(&mut self, block: &'a Block, layer: usize) -> Result<()> {
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
            AttentionNames::Joined(whole) => {
                self.joined(&name(whole), &[&block.query, &block.key, &block.value], 1, inputs)?;
            }
            AttentionNames::ByHeads(whole) => {
                self.joined(&name(whole), &[&block.query, &block.key, &block.value], self.kv_heads, inputs)?;
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
            (Some(gate), Some(both)) => self.joined(&name(both), &[gate, &block.up], 1, mlp)?,
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

    /// Projections in one matrix.
    ///
    /// * `groups`: the outputs are so many groups, each with its share of every projection
    fn joined(&mut self, name: &str, parts: &[&'a Linear], groups: usize, bias: Bias) -> Result<()> {
        let weights: Vec<&Parameter> = parts.iter().map(|part| &*part.weight).collect();
        let outputs = weights.iter().map(|weight| weight.shape().0).sum();
        let stored = parts.iter().any(|part| part.bias.is_some()).then(|| {
            let of_part = |part: &&Linear, group: usize| -> Vec<f32> {
                let share = part.weight.shape().0 / groups;
                let range = group * share..(group + 1) * share;
                part.bias.as_ref().map_or_else(|| vec![0.0; share], |bias| bias[range].to_vec())
            };
            (0..groups).flat_map(|group| parts.iter().flat_map(move |part| of_part(part, group))).collect()
        });
        self.rows(name, weights, groups, self.layout.orientation);
        self.bias(name, stored, outputs, bias)
    }

    fn linear(&mut self, name: &str, linear: &'a Linear, bias: Bias) -> Result<()> {
        self.rows(name, vec![&linear.weight], 1, self.layout.orientation);
        self.bias(name, linear.bias.as_deref().map(<[f32]>::to_vec), linear.weight.shape().0, bias)
    }

    /// The bias of a projection, as the family's files have it.
    fn bias(&mut self, name: &str, bias: Option<Vec<f32>>, length: usize, stored: Bias) -> Result<()> {
        let name = format!("{name}.bias");
        match (bias, stored) {
            (Some(_), Bias::Absent) => {
                return Err(malformed(
                    self.path,
                    format!("files of the model's family have no `{name}`, but the model has"),
                ));
            }
            (Some(bias), _) => self.vector(&name, bias),
            (None, Bias::Required) => self.vector(&name, vec![0.0; length]),
            (None, Bias::AsStored | Bias::Absent) => {}
        }
        Ok(())
    }

    fn norm(&mut self, name: &str, norm: &'a Normalize) {
        self.vector(&format!("{name}.weight"), norm.gain.to_vec());
        if let Some(bias) = &norm.bias {
            self.vector(&format!("{name}.bias"), bias.to_vec());
        }
    }

    /// Embeddings or a head, a row a token or position.
    fn table(&mut self, name: &str, table: &'a Parameter) {
        self.rows(name, vec![table], 1, Orientation::OutputsByInputs);
    }

    /// Matrices with the same inputs, their outputs side by side, group by group.
    fn rows(&mut self, name: &str, parts: Vec<&'a Parameter>, groups: usize, orientation: Orientation) {
        let (outputs, inputs) = (parts.iter().map(|part| part.shape().0).sum(), parts[0].shape().1);
        let (rows, cols) = match orientation {
            Orientation::OutputsByInputs => (outputs, inputs),
            Orientation::InputsByOutputs => (inputs, outputs),
        };
        let share_of = move |part: &Parameter, group: usize| {
            let share = part.shape().0 / groups;
            group * share..(group + 1) * share
        };
        let in_turn = move |group| parts.clone().into_iter().map(move |part| (part, share_of(part, group)));
        let shares: Vec<(&Parameter, Range<usize>)> = (0..groups).flat_map(in_turn).collect();
        let par = self.par;
        let make = move |write: &mut WriteRows<'_, f32>| match orientation {
            Orientation::OutputsByInputs => shares.iter().try_for_each(|(part, share)| {
                share.clone().step_by(PANEL).try_for_each(|start| {
                    let outputs = start..share.end.min(start + PANEL);
                    let mut columns = Mat::zeros(inputs, outputs.len());
                    part.copy_outputs_to(outputs, columns.as_mut().transpose_mut(), par);
                    write(columns.transpose())
                })
            }),
            Orientation::InputsByOutputs => {
                let mut columns = Mat::zeros(outputs, inputs);
                let mut rest = columns.as_mut();
                for (part, share) in &shares {
                    let (place, behind) = rest.split_at_row_mut(share.len());
                    part.copy_outputs_to(share.clone(), place, par);
                    rest = behind;
                }
                write(columns.transpose())
            }
        };
        self.tensors.push(NewTensor::later(format!("{name}.weight"), vec![rows, cols], Precision::F32, make));
    }

    fn vector(&mut self, name: &str, numbers: Vec<f32>) {
        let length = numbers.len();
        let make = move |write: &mut WriteRows<'_, f32>| write(MatRef::from_row_major_slice(&numbers, 1, length));
        self.tensors.push(NewTensor::later(name, vec![length], Precision::F32, make));
    }
}
