//! The rows of steered sequences in the upper part of a model.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Result as Computed, Tensor, Var};
use faer::Par;

use super::site::Site;
use crate::llm::block::{Frame, Opened, TokenBatch, select};
use crate::llm::model::Model;
use crate::llm::ops::{AddAt, Objective, Op, Past, Span, Term};

/// The sequences of one question or of several, from their positions on.
pub(super) struct SteeredRows<'a> {
    pub(super) model: &'a Model,
    pub(super) layer: usize,
    pub(super) site: Site,
    pub(super) batch: TokenBatch,
    pub(super) below: Below,
    /// For each row, the question whose vectors are added.
    pub(super) places: Vec<Option<usize>>,
    /// For each block above, for each sequence.
    pub(super) past: Vec<Vec<Arc<Past>>>,
    /// The rows of the batch whose logits are in the loss, and their terms.
    pub(super) asked: Vec<usize>,
    pub(super) terms: Arc<[Term]>,
    /// The terms of each question.
    pub(super) parts: Vec<TermRange>,
}

/// The terms of a question.
#[derive(Clone, Debug)]
pub(super) struct TermRange {
    pub(super) all: Range<usize>,
    /// How many of them, from the first, are of continuations.
    pub(super) continued: usize,
}

/// The block itself at the rows of the batch, as far as it does not depend on the vectors.
pub(super) enum Below {
    /// To its output.
    Closed(Tensor),
    /// To its attention's output.
    Opened(Opened),
}

/// The parts of a question's loss.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LossParts {
    pub(super) likelihood: f32,
    pub(super) naming: f32,
    pub(super) divergence: f32,
}

/// The sum of the losses of all questions, for its gradient.
pub(super) struct SteeredLoss {
    vectors: Var,
    loss: Tensor,
}

impl SteeredLoss {
    pub(super) fn gradient(&self) -> Computed<Vec<f32>> {
        match self.loss.backward()?.get(&self.vectors) {
            Some(gradient) => gradient.flatten_all()?.to_vec1(),
            None => Ok(vec![0.0; self.vectors.elem_count()]),
        }
    }
}

impl<'a> SteeredRows<'a> {
    /// The losses of all questions, with the vectors of one question after the other.
    pub(super) fn run(&self, vectors: &[f32], par: Par) -> Computed<(Vec<LossParts>, SteeredLoss)> {
        let (block, hidden) = (&self.model.blocks[self.layer], self.model.config.hidden);
        let frame = Frame { config: &self.model.config, par };
        let vectors = Var::from_slice(vectors, (vectors.len() / hidden, hidden), &Device::Cpu)?;
        let place = |x: &Tensor, which: usize| {
            let row = |question: usize| question * self.site.count() + which;
            let rows = self.places.iter().map(|question| question.map(row)).collect();
            x.apply_op2(&vectors, Op(AddAt(rows)))
        };
        let mut x = match (&self.below, self.site) {
            (Below::Closed(output), _) => place(output, 0)?,
            (Below::Opened(opened), Site::MlpAndAttention) => {
                let opened = block.shifted(frame, opened, place(&opened.residual, 1)?)?;
                block.close_with(&opened, &place(&block.mlp(&opened, par)?, 0)?)?
            }
            (Below::Opened(opened), _) => block.close_with(opened, &place(&block.mlp(opened, par)?, 0)?)?,
        };
        for (block, past) in self.model.blocks[self.layer + 1..].iter().zip(&self.past) {
            x = block.close(&block.open(frame, &x, &self.batch, past.clone())?, par)?;
        }
        let logits = self.model.logits(&select(&x, &self.asked)?, par)?;
        let terms = logits.apply_op1(Op(Objective(self.terms.clone())))?;
        let values = terms.flatten_all()?.to_vec1::<f32>()?;
        let parts = self.parts.iter().map(|part| part.sums(&values, &self.terms)).collect();
        Ok((parts, SteeredLoss { vectors, loss: terms.sum_all()? }))
    }

    /// Several questions as one, whose vectors and losses follow each other.
    pub(super) fn joined(all: &[&Self]) -> Computed<Self> {
        let first = all[0];
        let config = &first.model.config;
        let spans = all.iter().flat_map(|one| one.batch.spans.iter());
        let batch = TokenBatch::new(config, spans.map(|span: &Span| (span.start, span.rows.len())));
        let below = match first.below {
            Below::Closed(_) => Below::Closed(Tensor::cat(&Below::closed(all), 0)?),
            Below::Opened(_) => Below::Opened(Opened::joined(&Below::opened(all))?),
        };
        let past = |block: usize| all.iter().flat_map(|one| one.past[block].iter().cloned()).collect();
        let (mut places, mut asked, mut terms, mut parts) = (vec![], vec![], vec![], vec![]);
        for (i, one) in all.iter().enumerate() {
            let (row, term) = (places.len(), terms.len());
            places.extend(one.places.iter().map(|place| place.map(|_| i)));
            asked.extend(one.asked.iter().map(|asked| row + asked));
            terms.extend(one.terms.iter().cloned());
            parts.push(TermRange { all: term..terms.len(), continued: one.parts[0].continued });
        }
        Ok(Self {
            model: first.model,
            layer: first.layer,
            site: first.site,
            batch,
            below,
            places,
            past: (0..first.past.len()).map(past).collect(),
            asked,
            terms: terms.into(),
            parts,
        })
    }
}

impl Below {
    fn closed<'s>(all: &[&'s SteeredRows<'_>]) -> Vec<&'s Tensor> {
        let closed = |one: &&'s SteeredRows<'_>| match &one.below {
            Self::Closed(output) => Some(output),
            Self::Opened(_) => None,
        };
        all.iter().filter_map(closed).collect()
    }

    fn opened<'s>(all: &[&'s SteeredRows<'_>]) -> Vec<&'s Opened> {
        let opened = |one: &&'s SteeredRows<'_>| match &one.below {
            Self::Closed(_) => None,
            Self::Opened(opened) => Some(opened),
        };
        all.iter().filter_map(opened).collect()
    }
}

impl TermRange {
    /// The sums of a question's terms.
    fn sums(&self, values: &[f32], terms: &[Term]) -> LossParts {
        let mut sums = LossParts::default();
        for (i, (value, term)) in values[self.all.clone()].iter().zip(&terms[self.all.clone()]).enumerate() {
            *match term {
                Term::Likelihood { .. } if i < self.continued => &mut sums.likelihood,
                Term::Likelihood { .. } => &mut sums.naming,
                Term::Divergence { .. } => &mut sums.divergence,
            } += value;
        }
        sums
    }
}
