//! A model to its files.

use std::path::Path;

use faer::MatRef;

use super::load::{Names, Projections, directory_names, numbered};
use super::model::{Block, Linear, Model};
use super::ops::{Normalize, Parameter};
use super::tokenizer::Tokenizer;
use crate::error::Result;
use crate::format::Precision;
use crate::format::tensors::{self, NewTensor};
use crate::util::atomic_file::{self, io_error};

impl Model {
    /// Writes the model as edited so far, in `f32`, with its tokenizer, into a directory in the layout of the Hugging Face hub:
    /// `model.safetensors`, `tokenizer.json`, and last `config.json`. The directory is made if it is not there.
    ///
    /// This is how a model of a GGUF file gets out of it. For one that was read from such a directory,
    /// [`Checkpoint::replace`](crate::format::Checkpoint::replace) in a copy keeps all other tensors as they are.
    ///
    /// # Errors
    /// A directory that cannot be written.
    pub fn save(&self, tokenizer: &Tokenizer, directory: impl AsRef<Path>) -> Result<()> {
        let directory = directory.as_ref();
        std::fs::create_dir_all(directory).map_err(io_error(directory))?;
        let joined = self.joined();
        let mut tensors = Tensors(vec![]);
        let names = directory_names(self.config.family);
        tensors.matrix(names.embedding, &self.embedding);
        if let Some(positions) = &self.positions {
            tensors.matrix(names.positions, positions);
        }
        tensors.norm(names.norm, &self.norm);
        if !self.config.tied {
            tensors.linear(names.head, &self.head);
        }
        for layer in 0..self.blocks.len() {
            tensors.block(self, names, layer, joined.get(layer));
        }
        tensors::write(&directory.join("model.safetensors"), tensors::kind("pt"), &tensors.0)?;
        tokenizer.save(directory.join("tokenizer.json"))?;
        atomic_file::write_whole(&directory.join("config.json"), format!("{:#}\n", self.config.to_json()).as_bytes())
    }

    /// GPT-2's queries, keys and values side by side, as its files have them; nothing for the other families.
    fn joined(&self) -> Vec<Joined> {
        let Projections::Joined(_) = directory_names(self.config.family).attention else { return vec![] };
        let join = |block: &Block| {
            let parts = [&block.query, &block.key, &block.value];
            let inputs = self.config.hidden;
            let weight = (0..inputs)
                .flat_map(|row| parts.map(|part| part.weight.numbers().chunks_exact(part.weight.shape().0).nth(row)))
                .flatten()
                .flatten()
                .copied()
                .collect();
            let bias = parts.iter().filter_map(|part| part.bias.as_deref()).flatten().copied().collect();
            Joined { inputs, weight, bias }
        };
        self.blocks.iter().map(join).collect()
    }
}

struct Joined {
    inputs: usize,
    /// Row by row, `inputs` rows.
    weight: Vec<f32>,
    bias: Vec<f32>,
}

struct Tensors<'a>(Vec<NewTensor<'a, f32>>);

impl<'a> Tensors<'a> {
    fn block(&mut self, model: &'a Model, names: &Names, layer: usize, joined: Option<&'a Joined>) {
        let block = &model.blocks[layer];
        let name = |name| numbered(name, layer);
        self.norm(&name(names.attention_norm), &block.attention_norm);
        match (&names.attention, joined) {
            (Projections::Separate(parts), _) => {
                let linears = [&block.query, &block.key, &block.value];
                parts.iter().zip(linears).for_each(|(part, linear)| self.linear(&name(part), linear));
            }
            (Projections::Joined(whole), Some(joined)) => {
                let rows =
                    MatRef::from_row_major_slice(&joined.weight, joined.inputs, joined.weight.len() / joined.inputs);
                self.rows(&name(whole), rows);
                self.vector(&format!("{}.bias", name(whole)), &joined.bias);
            }
            (Projections::Joined(_), None) => {}
        }
        if let Some(norms) = &block.head_norms {
            names.head_norms.iter().zip(norms).for_each(|(part, norm)| self.norm(&name(part), norm));
        }
        self.linear(&name(names.attention_output), &block.attention_output);
        if let Some(norm) = &block.mlp_norm {
            self.norm(&name(names.mlp_norm), norm);
        }
        if let Some(gate) = &block.gate {
            self.linear(&name(names.gate), gate);
        }
        self.linear(&name(names.up), &block.up);
        self.linear(&name(names.down), &block.down);
    }

    fn linear(&mut self, name: &str, linear: &'a Linear) {
        self.matrix(name, &linear.weight);
        if let Some(bias) = &linear.bias {
            self.vector(&format!("{name}.bias"), bias);
        }
    }

    fn norm(&mut self, name: &str, norm: &'a Normalize) {
        self.vector(&format!("{name}.weight"), &norm.gain);
        if let Some(bias) = &norm.bias {
            self.vector(&format!("{name}.bias"), bias);
        }
    }

    fn matrix(&mut self, name: &str, parameter: &'a Parameter) {
        self.rows(name, parameter.stored());
    }

    fn rows(&mut self, name: &str, rows: MatRef<'a, f32>) {
        self.0.push(NewTensor::matrix(format!("{name}.weight"), rows, Precision::F32));
    }

    fn vector(&mut self, name: &str, numbers: &'a [f32]) {
        self.0.push(NewTensor::vector(name, numbers, Precision::F32));
    }
}
