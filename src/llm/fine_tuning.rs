//! Fine-tuning as a baseline: of one matrix (FT-L), and of low-rank changes of many (LoRA).

use std::sync::Arc;

use candle_core::{Device, Result as Computed, Tensor, Var};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::block::{LowRank, TokenBatch, columns, select};
use super::failed;
use super::model::Model;
use super::ops::{Objective, Op, Term, copy};
use super::prompt::{Contexts, Request, targeted_behind};
use super::target::Adam;
use super::tokenizer::Tokenizer;
use crate::error::{NumericsError, Result};
use crate::util::setters::setters;
use crate::util::validate;

/// Where the loss asks for the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Supervision {
    /// At each of its tokens, given the tokens before it (FT-M).
    #[default]
    Target,
    /// All of its tokens at the last token of the prompt, as in the published FT-L.
    PromptLast,
}

/// The course of a fine-tuning.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Tuned {
    /// The mean `-log p` of the targets before each step.
    pub losses: Vec<f32>,
}

/// Fine-tuning of the matrix that edits change, in one layer: FT-L.
///
/// Adam minimises the mean `-log p` of the targets of all requests together. The gradient with respect to the matrix is `G Kᵀ`, with `K`
/// its inputs and `G` the gradient with respect to its outputs at all tokens.
///
/// # References
/// Zhu et al., "Modifying Memories in Transformer Models" (arXiv 2012.00363), as in the programs of ROME and `EasyEdit`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct FineTuning {
    /// Adam's step length. Default: `5e-4`.
    pub learning_rate: f64,
    /// The largest number of steps. Default: `25`.
    pub steps: usize,
    /// It ends when the mean `-log p` falls below this. Default: `1e-2`.
    pub enough: f64,
    /// The largest change of an entry; `None` is no limit. Default: `Some(5e-4)`.
    pub bound: Option<f64>,
    /// Where the loss asks for the target. Default: [`Supervision::PromptLast`].
    pub supervision: Supervision,
}

impl Default for FineTuning {
    fn default() -> Self {
        let supervision = Supervision::PromptLast;
        Self { learning_rate: 5e-4, steps: 25, enough: 1e-2, bound: Some(5e-4), supervision }
    }
}

setters!(FineTuning {
    /// Sets Adam's step length.
    with_learning_rate(learning_rate: f64),
    /// Sets the largest number of steps.
    with_steps(steps: usize),
    /// Sets the mean `-log p` at which it ends.
    with_enough(enough: f64),
    /// Sets the largest change of an entry; `None` is no limit.
    with_bound(bound: Option<f64>),
    /// Sets where the loss asks for the target.
    with_supervision(supervision: Supervision),
});

impl FineTuning {
    /// Fine-tunes the model on requests.
    ///
    /// Memory: four matrices of the weight's size.
    ///
    /// # Errors
    /// Settings out of range, no request, an unknown layer, a request that the tokenizer cannot encode, or a loss beyond the range of
    /// `f32`. The model is unchanged then.
    pub fn run(&self, model: &mut Model, tokenizer: &Tokenizer, layer: usize, requests: &[Request]) -> Result<Tuned> {
        check_descent(self.learning_rate, self.steps, self.enough)?;
        if let Some(bound) = self.bound {
            validate::positive("bound", bound)?;
        }
        model.down(layer)?;
        let task = Exercise::new(model, tokenizer, requests, self.supervision)?;
        let (weight, losses) = self.descend(model, layer, &task).map_err(failed)?;
        validate::in_range("fine-tuning", &losses.iter().copied().map(f64::from).collect::<Vec<_>>())?;
        validate::finite("the fine-tuned weight", weight.as_ref())?;
        let par = model.par;
        copy(Arc::make_mut(&mut model.blocks[layer].down.weight).matrix_mut(), weight.as_ref(), par);
        Ok(Tuned { losses })
    }

    fn descend(&self, model: &Model, layer: usize, task: &Exercise) -> Computed<(Mat<f32>, Vec<f32>)> {
        // Below the matrix nothing changes.
        let mut x = task.embedded.clone();
        for block in &model.blocks[..layer] {
            x = block.close(&block.open(model.frame(), &x, &task.batch, vec![])?, model.par)?;
        }
        let mut tuned = model.clone();
        let opened = model.blocks[layer].open(model.frame(), &x, &task.batch, vec![])?;
        let K = columns(&opened.keys)?;
        let start = model.blocks[layer].down.weight.to_matrix(model.par);
        let mut change = vec![0.0_f32; start.nrows() * start.ncols()];
        let mut adam = Adam::new(change.len(), self.learning_rate as f32);
        let mut losses = vec![];
        loop {
            let D = MatRef::from_column_major_slice(&change, start.nrows(), start.ncols());
            let W = &start + D;
            copy(Arc::make_mut(&mut tuned.blocks[layer].down.weight).matrix_mut(), W.as_ref(), model.par);
            let output = Var::from_tensor(&tuned.blocks[layer].mlp(&opened, model.par)?)?;
            let mut x = tuned.blocks[layer].close_with(&opened, output.as_tensor())?;
            for block in &tuned.blocks[layer + 1..] {
                x = block.close(&block.open(tuned.frame(), &x, &task.batch, vec![])?, model.par)?;
            }
            let loss = task.loss(&tuned, &x)?;
            losses.push(loss.to_scalar::<f32>()?);
            let last = losses[losses.len() - 1];
            if losses.len() > self.steps || !(f64::from(last) >= self.enough) {
                return Ok((W, losses));
            }
            let gradients = loss.backward()?;
            let Some(gradient) = gradients.get(&output) else { return Ok((W, losses)) };
            let G = columns(gradient)?;
            let mut by_weight = Mat::zeros(start.nrows(), start.ncols());
            matmul(by_weight.as_mut(), Accum::Replace, G.as_ref(), K.transpose(), 1.0, model.par);
            let by_weight: Vec<f32> = by_weight.col_iter().flat_map(|column| column.iter().copied()).collect();
            adam.step(&mut change, &by_weight);
            if let Some(bound) = self.bound {
                let bound = bound as f32;
                change.iter_mut().for_each(|x| *x = x.clamp(-bound, bound));
            }
        }
    }
}

/// Fine-tuning of low-rank changes `scale B A` of the queries' and values' matrices of all blocks: LoRA.
///
/// `A` starts at random and `B` at zero. At the end the changes are added to the matrices.
///
/// # References
/// Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022; settings as in `EasyEdit`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct LowRankTuning {
    /// Rank of a change. Default: `8`.
    pub rank: usize,
    /// The scale is `alpha / rank`. Default: `32.0`.
    pub alpha: f64,
    /// Adam's step length. Default: `5e-3`.
    pub learning_rate: f64,
    /// The largest number of steps. Default: `70`.
    pub steps: usize,
    /// It ends when the mean `-log p` falls below this. Default: `1e-2`.
    pub enough: f64,
    /// The seed of the start. Default: `0`.
    pub seed: u64,
}

impl Default for LowRankTuning {
    fn default() -> Self {
        Self { rank: 8, alpha: 32.0, learning_rate: 5e-3, steps: 70, enough: 1e-2, seed: 0 }
    }
}

setters!(LowRankTuning {
    /// Sets the rank of a change.
    with_rank(rank: usize),
    /// Sets `alpha`; the scale is `alpha / rank`.
    with_alpha(alpha: f64),
    /// Sets Adam's step length.
    with_learning_rate(learning_rate: f64),
    /// Sets the largest number of steps.
    with_steps(steps: usize),
    /// Sets the mean `-log p` at which it ends.
    with_enough(enough: f64),
    /// Sets the seed of the start.
    with_seed(seed: u64),
});

impl LowRankTuning {
    /// Fine-tunes the model on requests.
    ///
    /// # Errors
    /// Settings out of range, no request, a request that the tokenizer cannot encode, or a loss beyond the range of `f32`. The model is
    /// unchanged then.
    pub fn run(&self, model: &mut Model, tokenizer: &Tokenizer, requests: &[Request]) -> Result<Tuned> {
        check_descent(self.learning_rate, self.steps, self.enough)?;
        validate::positive("alpha", self.alpha)?;
        if self.rank == 0 {
            return Err(NumericsError::Parameter { parameter: "rank", value: 0.0, allowed: "at least 1" }.into());
        }
        let task = Exercise::new(model, tokenizer, requests, Supervision::Target)?;
        let (tuned, losses) = self.descend(model, &task).map_err(failed)?;
        validate::in_range("fine-tuning", &losses.iter().copied().map(f64::from).collect::<Vec<_>>())?;
        for block in &tuned.blocks {
            for linear in [&block.query, &block.value] {
                validate::finite("the fine-tuned weight", linear.weight.to_matrix(model.par).as_ref())?;
            }
        }
        *model = tuned;
        Ok(Tuned { losses })
    }

    fn descend(&self, model: &Model, task: &Exercise) -> Computed<(Model, Vec<f32>)> {
        let mut tuned = model.clone();
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let scale = self.alpha / self.rank as f64;
        let mut learned: Vec<(Var, Adam)> = vec![];
        for block in &mut tuned.blocks {
            for linear in [&mut block.query, &mut block.value] {
                let (outputs, inputs) = linear.weight.shape();
                // Uniform, of variance 1 / (3 inputs), as PEFT has it.
                let bound = 1.0 / (inputs as f32).sqrt();
                let mut uniform = || (random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0;
                let start: Vec<f32> = (0..self.rank * inputs).map(|_| bound * uniform()).collect();
                let A = Var::from_vec(start, (self.rank, inputs), &Device::Cpu)?;
                let B = Var::zeros((outputs, self.rank), candle_core::DType::F32, &Device::Cpu)?;
                linear.low_rank = Some(LowRank { A: A.as_tensor().clone(), B: B.as_tensor().clone(), scale });
                for var in [A, B] {
                    let adam = Adam::new(var.elem_count(), self.learning_rate as f32);
                    learned.push((var, adam));
                }
            }
        }
        let mut losses = vec![];
        loop {
            let mut x = task.embedded.clone();
            for block in &tuned.blocks {
                x = block.close(&block.open(tuned.frame(), &x, &task.batch, vec![])?, model.par)?;
            }
            let loss = task.loss(&tuned, &x)?;
            losses.push(loss.to_scalar::<f32>()?);
            if losses.len() > self.steps || !(f64::from(losses[losses.len() - 1]) >= self.enough) {
                merge(&mut tuned, model.par)?;
                return Ok((tuned, losses));
            }
            let gradients = loss.backward()?;
            for (var, adam) in &mut learned {
                let Some(gradient) = gradients.get(var) else { continue };
                let (gradient, shape) = (gradient.flatten_all()?.to_vec1::<f32>()?, var.shape().clone());
                let mut numbers = var.flatten_all()?.to_vec1::<f32>()?;
                adam.step(&mut numbers, &gradient);
                var.set(&Tensor::from_vec(numbers, shape, &Device::Cpu)?)?;
            }
        }
    }
}

/// Adds the low-rank changes to their matrices.
fn merge(model: &mut Model, par: Par) -> Computed<()> {
    for block in &mut model.blocks {
        for linear in [&mut block.query, &mut block.value] {
            let Some(LowRank { A, B, scale }) = linear.low_rank.take() else { continue };
            // Rows as columns: these are the transposes.
            let (A, B) = (columns(&A)?, columns(&B)?);
            let weight = Arc::make_mut(&mut linear.weight).matrix_mut();
            matmul(weight, Accum::Add, B.transpose(), A.transpose(), scale as f32, par);
        }
    }
    Ok(())
}

fn check_descent(learning_rate: f64, steps: usize, enough: f64) -> Result<()> {
    validate::positive("learning_rate", learning_rate)?;
    if steps == 0 {
        return Err(NumericsError::Parameter { parameter: "steps", value: 0.0, allowed: "at least 1" }.into());
    }
    Ok(validate::non_negative("enough", enough)?)
}

/// Requests as one batch of sequences, and the terms of their loss.
struct Exercise {
    batch: TokenBatch,
    embedded: Tensor,
    /// The rows whose logits are in the loss, and their terms.
    asked: Vec<usize>,
    terms: Arc<[Term]>,
}

impl Exercise {
    fn new(model: &Model, tokenizer: &Tokenizer, requests: &[Request], supervision: Supervision) -> Result<Self> {
        if requests.is_empty() {
            return Err(NumericsError::Empty { argument: "requests", item: "request" }.into());
        }
        let bare = Contexts::default();
        let mut sequences = vec![];
        for request in requests {
            sequences.extend(targeted_behind(tokenizer, bare.openings(), request)?);
        }
        sequences.iter().try_for_each(|(prompt, _)| model.check_tokens(&prompt.tokens))?;
        let inputs: Vec<&[u32]> = (sequences.iter())
            .map(|(prompt, start)| match supervision {
                // The last token predicts nothing that is asked for.
                Supervision::Target => &prompt.tokens[..prompt.tokens.len() - 1],
                Supervision::PromptLast => &prompt.tokens[..*start],
            })
            .collect();
        let batch = TokenBatch::new(&model.config, inputs.iter().map(|tokens| (0, tokens.len())));
        let embedded = model.embed(&inputs.concat(), &batch).map_err(failed)?;
        let (mut asked, mut terms) = (vec![], vec![]);
        for (span, (prompt, start)) in batch.spans.iter().zip(&sequences) {
            let target = &prompt.tokens[*start..];
            let weight = 1.0 / (requests.len() * target.len()) as f32;
            for (i, &token) in target.iter().enumerate() {
                asked.push(match supervision {
                    Supervision::Target => span.rows.start + start - 1 + i,
                    Supervision::PromptLast => span.rows.end - 1,
                });
                terms.push(Term::Likelihood { token, weight });
            }
        }
        Ok(Self { batch, embedded, asked, terms: terms.into() })
    }

    /// The mean `-log p` of the targets, from the last block's output.
    fn loss(&self, model: &Model, x: &Tensor) -> Computed<Tensor> {
        let logits = model.logits(&select(x, &self.asked)?, model.par)?;
        logits.apply_op1(Op(Objective(self.terms.clone())))?.sum_all()
    }
}
