//! The upper part of a model as a function of vectors that are added to outputs of a block.

use std::fmt;
use std::sync::Arc;

use candle_core::{Device, Result as Computed, Tensor, Var};

use crate::error::{ModelError, NumericsError, Result};
use crate::llm::block::{Opened, TokenBatch, select};
use crate::llm::failed;
use crate::llm::model::Model;
use crate::llm::ops::{Objective, Op, Past, Span, Term, log_sum_exp, with_rows};
use crate::util::named::named;

/// The outputs of a block that vectors are added to, one vector an output.
///
/// Let `x` be the block's input, `a` the attention's output, and `m` the function from the residual stream to the MLP's output `W k`.
/// Then the output of the block is `x + a + m(x + a)`. (In GPT-J, where the MLP is beside the attention, it is `x + a + m(x)`.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Site {
    /// The block's output: `x + a + m(x + a) + v`. Editors of the MEMIT family.
    #[default]
    Block,
    /// The MLP's output. The block's output is the same as for [`Block`](Self::Block), but `v` is added to `m(x + a)`.
    Mlp,
    /// The outputs of the MLP and of the attention: `x + (a + u) + m(x + a + u) + v`. The MLP reads what the attention writes, so these are
    /// two different vectors (except in GPT-J). PMET.
    #[cfg_attr(feature = "serde", serde(rename = "pmet"))]
    MlpAndAttention,
}

named!(Site, "site of a target", { Block => "block", Mlp => "mlp", MlpAndAttention => "pmet" });

impl Site {
    /// The number of outputs, and so of vectors.
    fn count(self) -> usize {
        match self {
            Self::Block | Self::Mlp => 1,
            Self::MlpAndAttention => 2,
        }
    }
}

/// A sequence to steer: vectors are added at `position`, and the tokens from `start` on should become probable.
#[derive(Clone, Copy, Debug)]
pub struct Steered<'a> {
    /// A prompt and its continuation.
    pub tokens: &'a [u32],
    /// Where vectors are added, before the continuation.
    pub position: usize,
    /// Where the continuation starts.
    pub start: usize,
}

/// A sequence whose next token after `position`, where vectors are added, should keep its distribution.
#[derive(Clone, Copy, Debug)]
pub struct Anchor<'a> {
    /// The sequence. Tokens after `position` have no effect.
    pub tokens: &'a [u32],
    /// Where vectors are added.
    pub position: usize,
    /// Weight of the divergence in the loss.
    pub weight: f32,
}

/// The model above a block's outputs, as a function of vectors added to these outputs at one position of every sequence.
///
/// What does not depend on the vectors is computed once: the block itself (without its MLP if the attention's output is steered), and in
/// the blocks above the attention's keys and values of the tokens before the position. An evaluation runs the tokens from the position
/// on, all sequences together.
///
/// If a [`Site`] has two vectors, they follow each other in one slice of `2 hidden` numbers, the MLP's first. So do their gradients.
pub struct Steering<'a> {
    model: &'a Model,
    layer: usize,
    site: Site,
    batch: TokenBatch,
    below: Below,
    /// A column: 1 where vectors are added.
    places: Tensor,
    /// The outputs that vectors are added to, without the vectors, a row for each sequence.
    outputs: Tensor,
    /// For each block above, for each sequence.
    past: Vec<Vec<Arc<Past>>>,
    /// The rows of the batch whose logits are in the loss, and their terms.
    asked: Vec<usize>,
    terms: Arc<[Term]>,
}

/// The block itself at the rows of the batch, as far as it does not depend on the vectors.
enum Below {
    /// To its output.
    Closed(Tensor),
    /// To its attention's output.
    Opened(Opened),
}

/// The loss at some vectors. It keeps the activations of all blocks above, for the gradient.
pub struct SteeredEvaluation {
    /// The mean over the sequences of the mean `-log p` of the tokens of their continuation.
    pub likelihood: f32,
    /// The anchor's `weight KL(now || before)`.
    pub divergence: f32,
    vectors: Var,
    loss: Tensor,
}

impl fmt::Debug for Steering<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layer, site, batch, asked, .. } = self;
        let mut shown = f.debug_struct("Steering");
        shown.field("layer", layer).field("site", site).field("rows", &batch.rows()).field("asked", &asked.len());
        shown.finish_non_exhaustive()
    }
}

impl fmt::Debug for SteeredEvaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { likelihood, divergence, .. } = self;
        let mut shown = f.debug_struct("SteeredEvaluation");
        shown.field("likelihood", likelihood).field("divergence", divergence).finish_non_exhaustive()
    }
}

impl SteeredEvaluation {
    /// The gradient of the sum of both with respect to the vectors. It costs about as much as the evaluation.
    ///
    /// # Errors
    /// A failure inside the model.
    pub fn gradient(&self) -> Result<Vec<f32>> {
        let run = || match self.loss.backward()?.get(&self.vectors) {
            Some(gradient) => gradient.flatten_all()?.to_vec1(),
            None => Ok(vec![0.0; self.vectors.elem_count()]),
        };
        run().map_err(failed)
    }
}

impl<'a> Steering<'a> {
    /// Prepares one or more sequences for vectors added to outputs of block `layer`.
    ///
    /// # Errors
    /// No sequence, an unknown layer, tokens that the model cannot read, or positions that are not in the order position, start, end.
    pub fn new(
        model: &'a Model,
        layer: usize,
        site: Site,
        sequences: &[Steered<'_>],
        anchor: Option<Anchor<'_>>,
    ) -> Result<Self> {
        if sequences.is_empty() {
            return Err(NumericsError::Empty { argument: "sequences", item: "sequence" }.into());
        }
        if layer >= model.blocks.len() {
            return Err(ModelError::UnknownLayer { layer, known: (0..model.blocks.len()).collect() }.into());
        }
        for Steered { tokens, position, start } in sequences {
            model.check_tokens(tokens)?;
            if position >= start || start >= &tokens.len() {
                let allowed = "after the position of the vectors, and before the end";
                return Err(NumericsError::Parameter { parameter: "start", value: *start as f64, allowed }.into());
            }
        }
        if let Some(Anchor { tokens, position, .. }) = anchor {
            model.check_tokens(tokens)?;
            if position >= tokens.len() {
                let allowed = "less than the number of tokens";
                return Err(NumericsError::Parameter { parameter: "position", value: position as f64, allowed }.into());
            }
        }
        Self::prepare(model, layer, site, sequences, anchor).map_err(failed)
    }

    fn prepare(
        model: &'a Model,
        layer: usize,
        site: Site,
        sequences: &[Steered<'_>],
        anchor: Option<Anchor<'_>>,
    ) -> Computed<Self> {
        // The last token of a continuation predicts nothing, nor does the anchor after its position.
        let inputs = sequences.iter().map(|one| (&one.tokens[..one.tokens.len() - 1], one.position));
        let inputs: Vec<(&[u32], usize)> =
            inputs.chain(anchor.map(|anchor| (&anchor.tokens[..=anchor.position], anchor.position))).collect();

        let whole = TokenBatch::new(&model.config, inputs.iter().map(|(tokens, _)| (0, tokens.len())));
        let tokens: Vec<u32> = inputs.iter().flat_map(|(tokens, _)| tokens.iter().copied()).collect();
        let mut x = model.embed(&tokens, &whole)?;
        for block in &model.blocks[..layer] {
            x = block.close(&block.open(model.frame(), &x, &whole, vec![])?, model.par)?;
        }
        let opened = model.blocks[layer].open(model.frame(), &x, &whole, vec![])?;
        let mlp = model.blocks[layer].mlp(&opened, model.par)?;
        let output = (&opened.residual + &mlp)?;

        // What comes before the positions, and the anchor whole, in the blocks above.
        let ends = |i: usize, position: usize| if i < sequences.len() { position } else { position + 1 };
        let lengths: Vec<usize> = inputs.iter().enumerate().map(|(i, (_, position))| ends(i, *position)).collect();
        let kept: Vec<usize> = inputs.iter().map(|(_, position)| *position).collect();
        let rows_before = |(span, length): (&Span, &usize)| span.rows.start..span.rows.start + length;
        let rows: Vec<usize> = whole.spans.iter().zip(&lengths).flat_map(rows_before).collect();
        let before = TokenBatch::new(&model.config, lengths.iter().map(|&length| (0, length)));
        let (mut past, mut upper) = (vec![], select(&output, &rows)?);
        for block in &model.blocks[layer + 1..] {
            let opened = block.open(model.frame(), &upper, &before, vec![])?;
            past.push(opened.extended(&before, &[], &kept)?);
            upper = block.close(&opened, model.par)?;
        }

        let rows_after = |(span, (_, position)): (&Span, &(_, usize))| span.rows.start + position..span.rows.end;
        let rows: Vec<usize> = whole.spans.iter().zip(&inputs).flat_map(rows_after).collect();
        let below = match site {
            Site::Block | Site::Mlp => Below::Closed(select(&output, &rows)?),
            Site::MlpAndAttention => Below::Opened(opened.rows(&rows)?),
        };
        let places: Vec<usize> = whole.spans.iter().zip(&kept).map(|(span, kept)| span.rows.start + kept).collect();
        let outputs = match site {
            Site::Block => select(&output, &places)?,
            Site::Mlp => select(&mlp, &places)?,
            Site::MlpAndAttention => {
                let attention = (opened.residual - x)?;
                Tensor::cat(&[select(&mlp, &places)?, select(&attention, &places)?], 1)?
            }
        };
        let batch = TokenBatch::new(
            &model.config,
            inputs.iter().map(|(tokens, position)| (*position, tokens.len() - position)),
        );
        let first_rows: Vec<usize> = batch.spans.iter().map(|span| span.rows.start).collect();
        let places: Vec<f32> = (0..batch.rows()).map(|row| f32::from(u8::from(first_rows.contains(&row)))).collect();

        let (mut asked, mut terms) = (vec![], vec![]);
        for (span, one) in batch.spans.iter().zip(sequences) {
            let continuation = &one.tokens[one.start..];
            let weight = 1.0 / (sequences.len() * continuation.len()) as f32;
            asked.extend(span.rows.end - continuation.len()..span.rows.end);
            terms.extend(continuation.iter().map(|&token| Term::Likelihood { token, weight }));
        }
        if let Some(Anchor { weight, .. }) = anchor {
            asked.push(batch.rows() - 1);
            let logits = model.logits(&upper.narrow(0, before.rows() - 1, 1)?)?;
            let reference = with_rows([&logits], |[logits]| {
                let normaliser = log_sum_exp(logits.numbers);
                logits.numbers.iter().map(|x| x - normaliser).collect()
            })?;
            terms.push(Term::Divergence { reference, weight });
        }
        let places = Tensor::from_vec(places, (batch.rows(), 1), &Device::Cpu)?;
        Ok(Self { model, layer, site, batch, below, places, outputs, past, asked, terms: terms.into() })
    }

    /// Length of a vector.
    pub(super) fn hidden(&self) -> usize {
        self.model.config.hidden
    }

    /// The outputs that the vectors are added to, in the sequence with this index. They are as long as the vectors.
    ///
    /// # Errors
    /// No such sequence.
    pub fn outputs(&self, sequence: usize) -> Result<Vec<f32>> {
        with_rows([&self.outputs], |[outputs]| match sequence < outputs.count() {
            true => Ok(outputs.row(sequence).to_vec()),
            false => Err(ModelError::UnknownRequest { index: sequence, len: outputs.count() }.into()),
        })
        .map_err(failed)?
    }

    /// The loss with the vectors added.
    ///
    /// # Errors
    /// Vectors of another length than the model's hidden size for each output of the site.
    pub fn evaluate(&self, vectors: &[f32]) -> Result<SteeredEvaluation> {
        let expected = self.site.count() * self.hidden();
        if vectors.len() != expected {
            let (expected, found) = ((expected, 1).into(), (vectors.len(), 1).into());
            return Err(NumericsError::Shape { argument: "vectors", expected, found }.into());
        }
        self.run(vectors).map_err(failed)
    }

    fn run(&self, vectors: &[f32]) -> Computed<SteeredEvaluation> {
        let (block, par) = (&self.model.blocks[self.layer], self.model.par);
        let vectors = Var::from_slice(vectors, (self.site.count(), self.hidden()), &Device::Cpu)?;
        let added = |which: usize| self.places.broadcast_mul(&vectors.narrow(0, which, 1)?);
        let x = match &self.below {
            Below::Closed(output) => output.clone(),
            Below::Opened(opened) => block.close(&block.shifted(self.model.frame(), opened, &added(1)?)?, par)?,
        };
        let mut x = (x + added(0)?)?;
        for (block, past) in self.model.blocks[self.layer + 1..].iter().zip(&self.past) {
            x = block.close(&block.open(self.model.frame(), &x, &self.batch, past.clone())?, par)?;
        }
        let logits = self.model.logits(&select(&x, &self.asked)?)?;
        let terms = logits.apply_op1(Op(Objective(self.terms.clone())))?;
        let (mut likelihood, mut divergence) = (0.0, 0.0);
        for (value, term) in terms.flatten_all()?.to_vec1::<f32>()?.into_iter().zip(&*self.terms) {
            match term {
                Term::Likelihood { .. } => likelihood += value,
                Term::Divergence { .. } => divergence += value,
            }
        }
        Ok(SteeredEvaluation { likelihood, divergence, vectors, loss: terms.sum_all()? })
    }
}
