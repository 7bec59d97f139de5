//! Models read from their tensors.

use std::path::Path;
use std::sync::Arc;

use faer::Par;

use super::directory::{self, Directory};
use super::gguf::Gguf;
use super::source::{Source, StoredTensor};
use crate::error::Result;
use crate::format::malformed;
use crate::llm::block::{Block, Linear};
use crate::llm::config::{Arrangement, Config, HeadNorms, MlpKind, NormKind, Positions};
use crate::llm::families::{AttentionNames, Families, Family, Name, TensorLayout, numbered};
use crate::llm::model::Model;
use crate::llm::ops::{Normalize, Parameter};
use crate::llm::tokenizer::Tokenizer;
use crate::update::Orientation;

impl Model {
    /// Reads a model and its tokenizer: from a directory with `config.json`, `model.safetensors` (or shards with
    /// `model.safetensors.index.json`) and `tokenizer.json`, or from a `.gguf` file, which may have a `tokenizer.json`
    /// beside it. Weights may be `f32`, `f16` or `bf16`, in GGUF files also quantised; they are held in `f32`.
    ///
    /// # Errors
    /// A file that is missing or cannot be read, an unknown architecture, a missing tensor or one of the wrong shape.
    pub fn open(path: impl AsRef<Path>, par: Par) -> Result<(Self, Tokenizer)> {
        Self::open_with(path, &Families::built_in(), par)
    }

    /// As [`open`](Self::open), for models of any of the given families.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: impl AsRef<Path>, families: &Families, par: Par) -> Result<(Self, Tokenizer)> {
        let path = path.as_ref();
        if path.is_dir() {
            let (family, config) = directory::describe(path, families)?;
            let mut directory = Directory::open(path)?;
            let model = Self::from_source(config, family, &mut directory, par)?;
            Ok((model, Tokenizer::open(path.join("tokenizer.json"))?))
        } else {
            let mut gguf = Gguf::open(path, families)?;
            let tokenizer = gguf.tokenizer()?;
            let (family, config, layout) = gguf.describe();
            Ok((load(config, family, &layout, &mut gguf, par)?, tokenizer))
        }
    }

    /// Builds a model of the given shape, from tensors that have the names of the family's safetensors files.
    ///
    /// # Errors
    /// Sizes that do not fit together, a missing tensor, one of the wrong shape, or one that is not finite.
    pub fn from_source(config: Config, family: Arc<dyn Family>, source: &mut dyn Source, par: Par) -> Result<Self> {
        let layout = family.layout();
        load(config, family, &layout, source, par)
    }
}

/// The fingerprint depends on the order of reading: it must not change.
fn load(
    config: Config,
    family: Arc<dyn Family>,
    layout: &TensorLayout,
    source: &mut dyn Source,
    par: Par,
) -> Result<Model> {
    config.check(source.path())?;
    let mut loader = Loader { config: &config, layout, source, fingerprint: blake3::Hasher::new() };
    let embedding = Arc::new(loader.table(&layout.embedding, config.vocabulary)?);
    let positions = match config.positions {
        Positions::Learned => {
            let name = loader.named(layout.positions.as_ref(), "the positions")?;
            Some(Arc::new(loader.table(name, config.context)?))
        }
        Positions::Rotary(_) => None,
    };
    let blocks = (0..config.layers).map(|layer| loader.block(layer)).collect::<Result<_>>()?;
    let norm = loader.norm(&layout.norm, config.hidden)?;
    let head = match config.tied {
        true => Linear { weight: embedding.clone(), bias: None, low_rank: None },
        false => Linear {
            weight: Arc::new(loader.table(&layout.head, config.vocabulary)?),
            bias: loader.vector_if_there(&format!("{}.bias", layout.head), config.vocabulary)?,
            low_rank: None,
        },
    };
    let fingerprint = format!("{} {}", family.name(), loader.fingerprint.finalize().to_hex());
    Ok(Model { config, family, embedding, positions, blocks, norm, head, fingerprint, par })
}

struct Loader<'a> {
    config: &'a Config,
    layout: &'a TensorLayout,
    source: &'a mut dyn Source,
    fingerprint: blake3::Hasher,
}

impl<'a> Loader<'a> {
    fn block(&mut self, layer: usize) -> Result<Block> {
        let (layout, name) = (self.layout, |name: &str| numbered(name, layer));
        let Config { hidden, intermediate, heads, kv_heads, head_dim, .. } = *self.config;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let [query, key, value] = match &layout.attention {
            AttentionNames::Separate { query, key, value } => [
                self.linear(&name(query), q, hidden)?,
                self.linear(&name(key), kv, hidden)?,
                self.linear(&name(value), kv, hidden)?,
            ],
            AttentionNames::Joined(joined) => self.joined(&name(joined), [q, kv, kv], hidden)?,
        };
        let head_norms = match self.config.head_norms {
            HeadNorms::QueriesAndKeys => {
                let [q, k] = self.named(layout.head_norms.as_ref(), "the norms of the heads")?;
                Some([self.norm(&name(q), head_dim)?, self.norm(&name(k), head_dim)?])
            }
            HeadNorms::None => None,
        };
        let mlp_norm = match self.config.arrangement {
            Arrangement::Parallel => None,
            Arrangement::Sequential => {
                let norm = self.named(layout.mlp_norm.as_ref(), "the norm in front of the MLP")?;
                Some(self.norm(&name(norm), hidden)?)
            }
        };
        let gate = match self.config.mlp {
            MlpKind::Plain => None,
            MlpKind::Gated => {
                let gate = self.named(layout.gate.as_ref(), "the gate of the MLP")?;
                Some(self.linear(&name(gate), intermediate, hidden)?)
            }
        };
        Ok(Block {
            attention_norm: self.norm(&name(&layout.attention_norm), hidden)?,
            query,
            key,
            value,
            head_norms,
            attention_output: self.linear(&name(&layout.attention_output), hidden, q)?,
            mlp_norm,
            gate,
            up: self.linear(&name(&layout.up), intermediate, hidden)?,
            down: self.linear(&name(&layout.down), hidden, intermediate)?,
        })
    }

    /// A name that the shape requires.
    fn named<N>(&self, name: Option<&'a N>, what: &str) -> Result<&'a N> {
        name.ok_or_else(|| malformed(self.source.path(), format!("the model's family has no name for {what}")))
    }

    /// Embeddings or the output head, which all families store with a row for each token or position.
    fn table(&mut self, name: &Name, rows: usize) -> Result<Parameter> {
        let cols = self.config.hidden;
        let numbers = self.numbers(&format!("{name}.weight"), &[rows, cols])?;
        Ok(Parameter::new(numbers, rows, cols, Orientation::OutputsByInputs))
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Linear> {
        let shape = self.stored_shape(outputs, inputs);
        let numbers = self.numbers(&format!("{name}.weight"), &shape)?;
        let bias = self.vector_if_there(&format!("{name}.bias"), outputs)?;
        let weight = Arc::new(Parameter::new(numbers, outputs, inputs, self.layout.orientation));
        Ok(Linear { weight, bias, low_rank: None })
    }

    /// Queries, keys and values in one matrix.
    fn joined<const N: usize>(&mut self, name: &str, outputs: [usize; N], inputs: usize) -> Result<[Linear; N]> {
        let all: usize = outputs.iter().sum();
        let orientation = self.layout.orientation;
        let shape = self.stored_shape(all, inputs);
        let numbers = self.numbers(&format!("{name}.weight"), &shape)?;
        let bias = self.vector_if_there(&format!("{name}.bias"), all)?;
        let mut start = 0;
        Ok(outputs.map(|outputs| {
            let part = start..start + outputs;
            start = part.end;
            let numbers = match orientation {
                Orientation::OutputsByInputs => numbers[part.start * inputs..part.end * inputs].to_vec(),
                Orientation::InputsByOutputs => {
                    numbers.chunks_exact(all).flat_map(|row| row[part.clone()].iter().copied()).collect()
                }
            };
            Linear {
                weight: Arc::new(Parameter::new(numbers, outputs, inputs, orientation)),
                bias: bias.as_ref().map(|bias| bias[part].into()),
                low_rank: None,
            }
        }))
    }

    fn stored_shape(&self, outputs: usize, inputs: usize) -> [usize; 2] {
        match self.layout.orientation {
            Orientation::OutputsByInputs => [outputs, inputs],
            Orientation::InputsByOutputs => [inputs, outputs],
        }
    }

    fn norm(&mut self, name: &str, length: usize) -> Result<Normalize> {
        let bias = match self.config.norm {
            NormKind::Rms => None,
            NormKind::Layer => Some(self.numbers(&format!("{name}.bias"), &[length])?.into()),
        };
        Ok(Normalize {
            kind: self.config.norm,
            epsilon: self.config.norm_epsilon as f32,
            gain: self.numbers(&format!("{name}.weight"), &[length])?.into(),
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
        let found = match (self.source.tensor(name)?, self.layout.without_prefix(name)) {
            (None, Some(bare)) => self.source.tensor(bare)?,
            (found, _) => found,
        };
        let Some(StoredTensor { shape: found, numbers }) = found else { return Ok(None) };
        let refuse = |problem| Err(malformed(self.source.path(), problem));
        if found != shape {
            return refuse(format!("tensor `{name}` has the shape {found:?}, expected {shape:?}"));
        }
        if found.iter().product::<usize>() != numbers.len() {
            return refuse(format!("tensor `{name}` has the shape {found:?}, and {} numbers", numbers.len()));
        }
        if let Some(at) = numbers.iter().position(|x| !x.is_finite()) {
            let (value, place) = (numbers[at], place(at, shape));
            return refuse(format!("tensor `{name}` holds {value} at {place:?} (from 0): every number must be finite"));
        }
        for part in numbers.chunks(1 << 16) {
            self.fingerprint.update(&part.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        }
        Ok(Some(numbers))
    }
}

/// The indices of a number of a tensor, by its place in the file, the last index fastest.
fn place(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut indices: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&length| {
            let index = at % length;
            at /= length;
            index
        })
        .collect();
    indices.reverse();
    indices
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn a_place_is_that_of_numpy() {
        assert_eq!(place(0, &[2, 3]), [0, 0]);
        assert_eq!(place(5, &[2, 3]), [1, 2]);
        assert_eq!(place(4, &[7]), [4]);
        assert_eq!(place(23, &[2, 3, 4]), [1, 2, 3]);
    }
}
