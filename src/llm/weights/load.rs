//! Models read from their tensors.

use std::collections::BTreeSet;
use std::sync::Arc;

use faer::Par;

use super::biases::Found;
use super::source::{Source, StoredTensor};
use crate::error::{Error, Result};
use crate::format::malformed;
use crate::llm::block::{Block, Linear};
use crate::llm::config::{Arrangement, Bias, BlockNorms, Config, HeadNorms, MlpKind, NormKind, Positions};
use crate::llm::families::{AttentionNames, Family, Name, TensorLayout, numbered};
use crate::llm::model::Model;
use crate::llm::numbers::StoredNumbers;
use crate::llm::ops::{Normalize, Parameter};
use crate::update::Orientation;

/// The fingerprint depends on the order of reading: it must not change.
///
/// * `kept`: how many blocks are kept of a model of this shape; without one of them, the head is not kept either
pub(super) fn load(
    mut config: Config,
    family: Arc<dyn Family>,
    layout: &TensorLayout,
    source: &mut dyn Source,
    kept: impl FnOnce(&Config) -> usize,
    par: Par,
) -> Result<Model> {
    let kept = kept(&config);
    config.check(source.path())?;
    let mut loader = Loader::new(&config, layout, source);
    let embedding = Arc::new(loader.embedding()?);
    let positions = match config.positions {
        Positions::Learned => {
            let name = loader.named(layout.positions.as_ref(), "the positions")?;
            Some(Arc::new(loader.table(name, config.context)?))
        }
        Positions::Rotary(_) => None,
    };
    let mut blocks = vec![];
    let mut found = Found::default();
    for layer in 0..config.layers {
        let block = loader.block(layer)?;
        found.see(&block);
        if layer < kept {
            blocks.push(block);
        }
    }
    let norm = loader.norm(&layout.norm, config.hidden)?;
    let head = loader.head(&embedding)?;
    loader.check_all_read()?;
    let fingerprint = format!("{} {}", family.name(), loader.fingerprint.finalize().to_hex());
    config.tied = Arc::ptr_eq(&head.weight, &embedding);
    config.biases = found.biases(&head);
    let head =
        if kept < config.layers { Linear { weight: embedding.clone(), bias: None, low_rank: None } } else { head };
    Ok(Model { config, family, embedding, positions, blocks, norm, head, fingerprint, par })
}

struct Loader<'a> {
    config: &'a Config,
    layout: &'a TensorLayout,
    source: &'a mut dyn Source,
    /// The names in the source, and which of them were read.
    there: BTreeSet<String>,
    read: BTreeSet<String>,
    fingerprint: blake3::Hasher,
    /// Of numbers that are being hashed.
    bytes: Vec<u8>,
}

/// Whether a tensor counts in the fingerprint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InFingerprint {
    Yes,
    No,
}

impl<'a> Loader<'a> {
    fn new(config: &'a Config, layout: &'a TensorLayout, source: &'a mut dyn Source) -> Self {
        let there = source.names().into_iter().collect();
        let (read, fingerprint) = (BTreeSet::new(), blake3::Hasher::new());
        Self { config, layout, source, there, read, fingerprint, bytes: vec![] }
    }

    /// The embedding. A tied model may be stored under the name of the head.
    fn embedding(&mut self) -> Result<Parameter> {
        let rows = self.config.vocabulary;
        let name = format!("{}.weight", self.layout.embedding);
        let shape = [rows, self.config.hidden];
        let numbers = match self.read(&name, &shape, InFingerprint::Yes)? {
            Some(numbers) => numbers,
            None if self.config.tied => self
                .read(&format!("{}.weight", self.layout.head), &shape, InFingerprint::Yes)?
                .ok_or_else(|| self.missing(&name))?,
            None => return Err(self.missing(&name)),
        };
        Ok(Parameter::new(numbers, rows, shape[1], Orientation::OutputsByInputs))
    }

    /// The output head: what is stored, or else the embedding if the two are tied.
    fn head(&mut self, embedding: &Arc<Parameter>) -> Result<Linear> {
        let (rows, cols) = (self.config.vocabulary, self.config.hidden);
        let name = format!("{}.weight", self.layout.head);
        let counted = if self.config.tied { InFingerprint::No } else { InFingerprint::Yes };
        let weight = match self.read(&name, &[rows, cols], counted)? {
            None if self.config.tied => embedding.clone(),
            None => return Err(self.missing(&name)),
            Some(numbers) if self.config.tied && numbers == *embedding.numbers() => embedding.clone(),
            Some(numbers) => {
                if counted == InFingerprint::No {
                    numbers.parts(cols).for_each(|(_, part)| self.count(&part));
                }
                Arc::new(Parameter::new(numbers, rows, cols, Orientation::OutputsByInputs))
            }
        };
        let bias = self.bias(&self.layout.head, rows, self.config.biases.head)?;
        Ok(Linear { weight, bias, low_rank: None })
    }

    /// Refuses tensors that are not part of the model.
    fn check_all_read(&self) -> Result<()> {
        const SHOWN: usize = 5;
        let unused = |name: &&String| self.layout.unused.iter().any(|end| name.ends_with(&**end));
        let unread: Vec<&str> =
            self.there.difference(&self.read).filter(|name| !unused(name)).map(String::as_str).collect();
        if unread.is_empty() {
            return Ok(());
        }
        let more = if unread.len() > SHOWN { format!(" and {} more", unread.len() - SHOWN) } else { String::new() };
        let some = unread[..unread.len().min(SHOWN)].join("`, `");
        let problem = format!(
            "tensors that are not part of a model of this kind and configuration: `{some}`{more}; merge an adapter into the weights, \
             correct the configuration, or remove what does not belong to the model"
        );
        Err(malformed(self.source.path(), problem))
    }

    fn missing(&self, name: &str) -> Error {
        const SHOWN: usize = 3;
        let there: Vec<&str> = self.there.iter().take(SHOWN).map(String::as_str).collect();
        let more = if self.there.len() > SHOWN { ", ..." } else { "" };
        let there = if there.is_empty() { String::new() } else { format!("; there are: {}{more}", there.join(", ")) };
        malformed(self.source.path(), format!("tensor `{name}` is missing{there}"))
    }

    fn block(&mut self, layer: usize) -> Result<Block> {
        let (layout, name) = (self.layout, |name: &str| numbered(name, layer));
        let Config { hidden, intermediate, heads, head_dim, biases, arrangement, block_norms, .. } = *self.config;
        let [query, key, value] = self.queries_keys_values(layer)?;
        let head_norms = self.head_norms(layer)?;
        let before = block_norms != BlockNorms::After;
        let mlp_norm = match before && arrangement != Arrangement::Parallel {
            true => Some(self.block_norm(layout.mlp_norm.as_ref(), layer, "the norm in front of the MLP")?),
            false => None,
        };
        let joined = layout.gate_and_up.as_ref().filter(|_| self.config.mlp == MlpKind::Gated);
        let (gate, joined_up) = match (self.config.mlp, joined) {
            (MlpKind::Plain, _) => (None, None),
            (MlpKind::Gated, Some(both)) => {
                let [gate, up] = self.joined(&name(both), [intermediate; 2], 1, biases.mlp)?;
                (Some(gate), Some(up))
            }
            (MlpKind::Gated, None) => {
                let gate = self.named(layout.gate.as_ref(), "the gate of the MLP")?;
                (Some(self.linear(&name(gate), intermediate, hidden, biases.mlp)?), None)
            }
        };
        let attention_norm = match before {
            true => Some(self.norm(&name(&layout.attention_norm), hidden)?),
            false => None,
        };
        let attention_output =
            self.linear(&name(&layout.attention_output), hidden, heads * head_dim, biases.attention_output)?;
        let up = match joined_up {
            Some(up) => up,
            None => self.linear(&name(&layout.up), intermediate, hidden, biases.mlp)?,
        };
        let down = self.linear(&name(&layout.down), hidden, intermediate, biases.mlp)?;
        let [attention_post_norm, mlp_post_norm] = match block_norms {
            BlockNorms::Before => [None, None],
            BlockNorms::After | BlockNorms::BeforeAndAfter => [
                Some(self.block_norm(layout.attention_post_norm.as_ref(), layer, "the norm behind the attention")?),
                Some(self.block_norm(layout.mlp_post_norm.as_ref(), layer, "the norm behind the MLP")?),
            ],
        };
        let window = self.config.window_of(layer);
        Ok(Block {
            attention_norm,
            query,
            key,
            value,
            head_norms,
            attention_output,
            attention_post_norm,
            mlp_norm,
            gate,
            up,
            down,
            mlp_post_norm,
            window,
        })
    }

    fn queries_keys_values(&mut self, layer: usize) -> Result<[Linear; 3]> {
        let Config { hidden, heads, kv_heads, head_dim, .. } = *self.config;
        let (q, kv, bias) = (heads * head_dim, kv_heads * head_dim, self.config.biases.attention_inputs);
        let name = |name: &str| numbered(name, layer);
        match &self.layout.attention {
            AttentionNames::Separate { query, key, value } => Ok([
                self.linear(&name(query), q, hidden, bias)?,
                self.linear(&name(key), kv, hidden, bias)?,
                self.linear(&name(value), kv, hidden, bias)?,
            ]),
            AttentionNames::Joined(joined) => self.joined(&name(joined), [q, kv, kv], 1, bias),
            AttentionNames::ByHeads(joined) => self.joined(&name(joined), [q, kv, kv], kv_heads, bias),
        }
    }

    fn head_norms(&mut self, layer: usize) -> Result<Option<[Normalize; 2]>> {
        let Config { heads, kv_heads, head_dim, .. } = *self.config;
        let [queries, keys] = match self.config.head_norms {
            HeadNorms::None => return Ok(None),
            HeadNorms::QueriesAndKeys => [head_dim; 2],
            HeadNorms::WholeQueriesAndKeys => [heads, kv_heads].map(|heads| heads * head_dim),
        };
        let [q, k] = self.named(self.layout.head_norms.as_ref(), "the norms of the heads")?;
        Ok(Some([self.norm(&numbered(q, layer), queries)?, self.norm(&numbered(k, layer), keys)?]))
    }

    /// A norm of a block, which the shape requires.
    fn block_norm(&mut self, name: Option<&'a Name>, layer: usize, what: &str) -> Result<Normalize> {
        let name = self.named(name, what)?;
        self.norm(&numbered(name, layer), self.config.hidden)
    }

    /// A name that the shape requires.
    fn named<N>(&self, name: Option<&'a N>, what: &str) -> Result<&'a N> {
        name.ok_or_else(|| malformed(self.source.path(), format!("the model's family has no name for {what}")))
    }

    /// Embeddings, which all families store with a row for each token or position.
    fn table(&mut self, name: &Name, rows: usize) -> Result<Parameter> {
        let cols = self.config.hidden;
        let numbers = self.matrix(&format!("{name}.weight"), &[rows, cols])?;
        Ok(Parameter::new(numbers, rows, cols, Orientation::OutputsByInputs))
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: Bias) -> Result<Linear> {
        let shape = self.stored_shape(outputs, inputs);
        let numbers = self.matrix(&format!("{name}.weight"), &shape)?;
        let bias = self.bias(name, outputs, bias)?;
        let weight = Arc::new(Parameter::new(numbers, outputs, inputs, self.layout.orientation));
        Ok(Linear { weight, bias, low_rank: None })
    }

    /// Projections of the hidden state in one matrix. Its outputs are so many groups, each with its share of every projection.
    fn joined<const N: usize>(
        &mut self,
        name: &str,
        outputs: [usize; N],
        groups: usize,
        bias: Bias,
    ) -> Result<[Linear; N]> {
        let (all, inputs): (usize, _) = (outputs.iter().sum(), self.config.hidden);
        let orientation = self.layout.orientation;
        let shape = self.stored_shape(all, inputs);
        let numbers = self.matrix(&format!("{name}.weight"), &shape)?;
        let bias = self.bias(name, all, bias)?;
        let mut start = 0;
        Ok(outputs.map(|outputs| {
            let share = start..start + outputs / groups;
            start = share.end;
            let parts = (0..groups).map(|group| group * all / groups).map(|at| at + share.start..at + share.end);
            let numbers = match orientation {
                Orientation::OutputsByInputs => numbers.rows_of(parts.clone(), inputs),
                Orientation::InputsByOutputs => numbers.columns_of(parts.clone(), all),
            };
            Linear {
                weight: Arc::new(Parameter::new(numbers, outputs, inputs, orientation)),
                bias: bias.as_ref().map(|bias| parts.flat_map(|part| &bias[part]).copied().collect()),
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
            NormKind::Rms | NormKind::RmsFromOne => None,
            NormKind::Layer => Some(self.vector(&format!("{name}.bias"), length)?),
        };
        Ok(Normalize {
            kind: self.config.norm,
            epsilon: self.config.norm_epsilon as f32,
            gain: self.vector(&format!("{name}.weight"), length)?,
            bias,
        })
    }

    fn matrix(&mut self, name: &str, shape: &[usize; 2]) -> Result<StoredNumbers> {
        self.read(name, shape, InFingerprint::Yes)?.ok_or_else(|| self.missing(name))
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Arc<[f32]>> {
        let numbers = self.read(name, &[length], InFingerprint::Yes)?.ok_or_else(|| self.missing(name))?;
        Ok(numbers.to_vec().into())
    }

    fn bias(&mut self, projection: &str, length: usize, bias: Bias) -> Result<Option<Arc<[f32]>>> {
        let name = format!("{projection}.bias");
        match bias {
            Bias::Absent => Ok(None),
            Bias::Required => Ok(Some(self.vector(&name, length)?)),
            Bias::AsStored => Ok(self.read(&name, &[length], InFingerprint::Yes)?.map(|bias| bias.to_vec().into())),
        }
    }

    fn read(&mut self, name: &str, shape: &[usize], counted: InFingerprint) -> Result<Option<StoredNumbers>> {
        let mut found = self.source.tensor(name)?;
        let mut stored = name;
        if let (None, Some(bare)) = (&found, self.layout.without_prefix(name)) {
            (found, stored) = (self.source.tensor(bare)?, bare);
        }
        self.read.insert(stored.to_owned());
        let Some(StoredTensor { shape: found, numbers }) = found else { return Ok(None) };
        let path = self.source.path().to_owned();
        let refuse = |problem| Err(malformed(&path, problem));
        if found != shape {
            return refuse(format!("tensor `{name}` has the shape {found:?}, expected {shape:?}"));
        }
        if found.iter().product::<usize>() != numbers.len() {
            return refuse(format!("tensor `{name}` has the shape {found:?}, and {} numbers", numbers.len()));
        }
        for (start, part) in numbers.parts(shape.get(1..).unwrap_or_default().iter().product()) {
            if let Some(at) = part.iter().position(|x| !x.is_finite()) {
                let (value, place) = (part[at], place(start + at, shape));
                return refuse(format!(
                    "tensor `{name}` holds {value} at {place:?} (from 0): every number must be finite"
                ));
            }
            if counted == InFingerprint::Yes {
                self.count(&part);
            }
        }
        Ok(Some(numbers))
    }

    fn count(&mut self, numbers: &[f32]) {
        self.bytes.clear();
        self.bytes.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
        self.fingerprint.update(&self.bytes);
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
