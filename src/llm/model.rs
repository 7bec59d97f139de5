//! The decoder, which is the same for all families.

use std::fmt;
use std::sync::Arc;

use candle_core::{Device, Result as Computed, Tensor};
use faer::{Mat, Par};

use super::block::{Block, Frame, Linear, TokenBatch, columns, positions, select};
use super::config::Config;
use super::failed;
use super::families::{Family, numbered};
use super::ops::{Apply, Cap, Normalize, Op, Parameter, likeliest, log_sum_exp, with_rows};
use super::shares::by_thread;
use crate::error::{ModelError, NumericsError, Result, Shape};
use crate::update::Orientation;

/// A decoder-only language model in main memory.
///
/// Its matrices stay in the type of their file (`f32`, `f16`, `bf16`, or quantized) and are widened to `f32` panel by panel when they
/// are multiplied. A matrix that is changed is held in `f32` from then on. Arithmetic is in `f32`.
///
/// [`Model::open`] reads one from a directory in the Hugging Face layout or from a GGUF file. [`Model::open_with`] also knows families
/// that you add, and [`Model::from_source`] takes the weights from any [`Source`](super::Source).
#[derive(Clone)]
pub struct Model {
    pub(super) config: Config,
    pub(super) family: Arc<dyn Family>,
    pub(super) embedding: Arc<Parameter>,
    /// Learned positions, a row each.
    pub(super) positions: Option<Arc<Parameter>>,
    pub(super) blocks: Vec<Block>,
    pub(super) norm: Normalize,
    pub(super) head: Linear,
    pub(super) fingerprint: String,
    pub(super) par: Par,
}

/// What a model computes for a sequence of `T` tokens. Columns are tokens.
#[derive(Clone)]
#[non_exhaustive]
pub struct Trace {
    /// For each block, the inputs of the MLP's output projection, `d_in x T`.
    pub keys: Vec<Mat<f32>>,
    /// For each block, its output, `hidden x T`.
    pub block_outputs: Vec<Mat<f32>>,
    /// The logits of the next token, `vocabulary x T`.
    pub logits: Mat<f32>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, family, fingerprint, .. } = self;
        let mut shown = f.debug_struct("Model");
        shown.field("family", &family.name()).field("fingerprint", fingerprint).field("config", config);
        shown.finish_non_exhaustive()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = |of: &[Mat<f32>]| of.iter().map(|one| Shape::from(one.shape())).collect::<Vec<_>>();
        let mut shown = f.debug_struct("Trace");
        shown.field("keys", &sizes(&self.keys)).field("block_outputs", &sizes(&self.block_outputs));
        shown.field("logits", &Shape::from(self.logits.shape())).finish()
    }
}

/// How probable a model finds a given continuation.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Continuation {
    /// For each token of the continuation, the logarithm of its probability given all tokens before it.
    pub log_probabilities: Vec<f32>,
    /// For each token of the continuation, the most probable token in its place.
    pub likeliest: Vec<u32>,
}

impl Model {
    /// The model's shape.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The family that the model belongs to: it names the tensors in saved files.
    #[must_use]
    pub fn family(&self) -> &dyn Family {
        &*self.family
    }

    /// The family's name and a hash of the weights as they were read. Statistics and sessions of one model refuse another by it.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Name and orientation of the weight that edits of a layer change, in files in the Hugging Face layout.
    ///
    /// # Errors
    /// No such layer.
    pub fn edited_tensor(&self, layer: usize) -> Result<(String, Orientation)> {
        self.check_layer(layer)?;
        let layout = self.family.layout();
        Ok((format!("{}.weight", numbered(&layout.down, layer)), layout.orientation))
    }

    pub(super) fn down(&self, layer: usize) -> Result<&Parameter> {
        let known = || ModelError::UnknownLayer { layer, known: (0..self.blocks.len()).collect() };
        Ok(&self.blocks.get(layer).ok_or_else(known)?.down.weight)
    }

    pub(super) fn check_layer(&self, layer: usize) -> Result<()> {
        if layer < self.config.layers {
            return Ok(());
        }
        Err(ModelError::UnknownLayer { layer, known: (0..self.config.layers).collect() }.into())
    }

    /// Tokens whose activations in the blocks from `layer` on, kept for the gradients, take 1 GiB.
    pub(super) fn tokens_in_memory(&self, layer: usize) -> usize {
        const NUMBERS: usize = 1 << 28;
        let Config { heads, kv_heads, head_dim, hidden, intermediate, .. } = self.config;
        let a_block = 8 * hidden + 3 * (heads + kv_heads) * head_dim + 4 * intermediate;
        NUMBERS / (a_block * (self.blocks.len() - layer)).max(1)
    }

    pub(super) fn frame(&self) -> Frame<'_> {
        Frame { config: &self.config, par: self.par }
    }

    /// Runs a sequence and returns keys, block outputs and logits.
    ///
    /// Memory: the keys and outputs of all blocks, and a column of logits for each token.
    ///
    /// # Errors
    /// No token, one outside the vocabulary, or more than the model's context holds.
    pub fn trace(&self, tokens: &[u32]) -> Result<Trace> {
        self.check_tokens(tokens)?;
        let run = || -> Computed<Trace> {
            let batch = TokenBatch::new(&self.config, [(0, tokens.len())]);
            let (mut keys, mut block_outputs) = (vec![], vec![]);
            let mut x = self.embed(tokens, &batch)?;
            for block in &self.blocks {
                let opened = block.open(self.frame(), &x, &batch, vec![])?;
                x = block.close(&opened, self.par)?;
                keys.push(columns(&opened.keys)?);
                block_outputs.push(columns(&x)?);
            }
            Ok(Trace { keys, block_outputs, logits: columns(&self.logits(&x, self.par)?)? })
        };
        run().map_err(failed)
    }

    /// The log-probability of each token from index `start` on, given all tokens before it, and the most probable token in its place.
    /// Each sequence is `(tokens, start)`, with `start` at least 1. All sequences are run together.
    ///
    /// # Errors
    /// An empty sequence, a token outside the vocabulary, a sequence longer than the model's context, or a `start` of 0
    /// or beyond the end.
    pub fn score_continuations(&self, sequences: &[(&[u32], usize)]) -> Result<Vec<Continuation>> {
        for (tokens, start) in sequences {
            self.check_tokens(tokens)?;
            if *start == 0 || *start >= tokens.len() {
                let allowed = "at least 1 and less than the number of tokens";
                return Err(NumericsError::Parameter { parameter: "start", value: *start as f64, allowed }.into());
            }
        }
        let found = by_thread(sequences, self.par, |sequences, par| self.run_continuations(sequences, par));
        Ok(found.map_err(failed)?.concat())
    }

    fn run_continuations(&self, sequences: &[(&[u32], usize)], par: Par) -> Computed<Vec<Continuation>> {
        let frame = Frame { par, ..self.frame() };
        // Neighbours of which one begins as the other, like two short answers to one question, are run as one.
        let (mut inputs, mut places): (Vec<&[u32]>, Vec<usize>) = (vec![], vec![]);
        for (tokens, _) in sequences {
            // The last token of a sequence predicts nothing that is asked for.
            let input = &tokens[..tokens.len() - 1];
            match inputs.last_mut() {
                Some(last) if last.starts_with(input) => {}
                Some(last) if input.starts_with(last) => *last = input,
                _ => inputs.push(input),
            }
            places.push(inputs.len() - 1);
        }
        let batch = TokenBatch::new(&self.config, inputs.iter().map(|tokens| (0, tokens.len())));
        let mut x = self.embed(&inputs.concat(), &batch)?;
        for block in &self.blocks {
            x = block.close(&block.open(frame, &x, &batch, vec![])?, par)?;
        }
        let asked: Vec<(usize, u32)> = (places.iter().zip(sequences))
            .flat_map(|(&place, (tokens, start))| {
                let first = batch.spans[place].rows.start;
                (first + start - 1..first + tokens.len() - 1).zip(tokens[*start..].iter().copied())
            })
            .collect();
        let mut found = vec![];
        for asked in asked.chunks(LOGITS) {
            let rows: Vec<usize> = asked.iter().map(|(row, _)| *row).collect();
            let logits = self.logits(&select(&x, &rows)?, par)?;
            with_rows([&logits], |[logits]| {
                for (row, (_, token)) in logits.iter().zip(asked) {
                    found.push((row[*token as usize] - log_sum_exp(row), likeliest(row)));
                }
            })?;
        }
        let mut found = found.into_iter();
        Ok((sequences.iter())
            .map(|(tokens, start)| {
                let (log_probabilities, likeliest) = found.by_ref().take(tokens.len() - start).unzip();
                Continuation { log_probabilities, likeliest }
            })
            .collect())
    }

    pub(super) fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() {
            return Err(NumericsError::Empty { argument: "tokens", item: "token" }.into());
        }
        if tokens.len() > self.config.context {
            let allowed = "at most the model's context";
            return Err(NumericsError::Parameter {
                parameter: "number of tokens",
                value: tokens.len() as f64,
                allowed,
            }
            .into());
        }
        match tokens.iter().find(|&&token| token as usize >= self.config.vocabulary) {
            Some(&token) => {
                let allowed = "less than the size of the model's vocabulary";
                Err(NumericsError::Parameter { parameter: "token", value: f64::from(token), allowed }.into())
            }
            None => Ok(()),
        }
    }

    /// Embeddings of a batch's tokens.
    pub(super) fn embed(&self, tokens: &[u32], batch: &TokenBatch) -> Computed<Tensor> {
        let hidden = self.config.hidden;
        let row = |token: u32| self.embedding.row(token as usize).into_owned();
        let mut x: Vec<f32> = tokens.iter().flat_map(|&token| row(token)).collect();
        if self.config.embedding_scale != 1.0 {
            let scale = self.config.embedding_scale as f32;
            x.iter_mut().for_each(|x| *x *= scale);
        }
        if let Some(learned) = &self.positions {
            for (x, position) in x.chunks_exact_mut(hidden).zip(positions(&batch.spans)) {
                x.iter_mut().zip(&*learned.row(position)).for_each(|(x, p)| *x += p);
            }
        }
        Tensor::from_vec(x, (tokens.len(), hidden), &Device::Cpu)
    }

    /// Logits of some rows of the last block's output.
    pub(super) fn logits(&self, x: &Tensor, par: Par) -> Computed<Tensor> {
        if self.blocks.len() < self.config.layers {
            candle_core::bail!("only the lowest {} blocks of the model were kept: open all of it", self.blocks.len());
        }
        let logits = self.head.forward(&x.apply_op1(Op(self.norm.clone()))?, par)?;
        match self.config.logit_cap {
            Some(cap) => logits.apply_op1(Op(Apply(Cap(cap as f32), par))),
            None => Ok(logits),
        }
    }
}

/// Rows of logits that are held at once.
const LOGITS: usize = 64;
