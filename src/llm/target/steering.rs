//! The upper part of a model as a function of vectors that are added to outputs of a block.

use std::fmt;

use candle_core::Tensor;

use super::preparation::prepared;
use super::question::{Anchor, SearchQuestion, Steered};
use super::rows::{LossParts, SteeredLoss, SteeredRows};
use super::site::Site;
use crate::error::{ModelError, NumericsError, Result};
use crate::llm::failed;
use crate::llm::model::Model;
use crate::llm::ops::with_rows;

/// The model above a block's outputs, as a function of vectors added to these outputs at some positions of every sequence.
///
/// What does not depend on the vectors is computed once: the block itself (without its MLP if the attention's output is steered), and in
/// the blocks above the attention's keys and values of the tokens before the position. An evaluation runs the tokens from the position
/// on, all sequences together.
///
/// If a [`Site`] has two vectors, they follow each other in one slice of `2 hidden` numbers, the MLP's first. So do their gradients.
pub struct Steering<'a> {
    pub(super) rows: SteeredRows<'a>,
    /// The outputs that vectors are added to, without the vectors, a row for each sequence.
    pub(super) outputs: Tensor,
}

/// The loss at some vectors. It keeps the activations of all blocks above, for the gradient.
pub struct SteeredEvaluation {
    /// The mean over the sequences of the mean `-log p` of the tokens of their continuation.
    pub likelihood: f32,
    /// The same of the tokens of their names, times the weight: a mean over the sequences that have one.
    pub naming: f32,
    /// The anchor's `weight KL(now || before)`.
    pub divergence: f32,
    loss: SteeredLoss,
}

impl fmt::Debug for Steering<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SteeredRows { layer, site, batch, asked, .. } = &self.rows;
        let mut shown = f.debug_struct("Steering");
        shown.field("layer", layer).field("site", site).field("rows", &batch.rows()).field("asked", &asked.len());
        shown.finish_non_exhaustive()
    }
}

impl fmt::Debug for SteeredEvaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { likelihood, naming, divergence, .. } = self;
        let mut shown = f.debug_struct("SteeredEvaluation");
        shown.field("likelihood", likelihood).field("naming", naming).field("divergence", divergence);
        shown.finish_non_exhaustive()
    }
}

impl SteeredEvaluation {
    /// The gradient of the sum of all with respect to the vectors. It costs about as much as the evaluation.
    ///
    /// # Errors
    /// A failure inside the model.
    pub fn gradient(&self) -> Result<Vec<f32>> {
        self.loss.gradient().map_err(failed)
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
        if layer >= model.blocks.len() {
            return Err(ModelError::UnknownLayer { layer, known: (0..model.blocks.len()).collect() }.into());
        }
        site.check(model, layer)?;
        let question = SearchQuestion { sequences: sequences.to_vec(), anchor };
        question.check(model)?;
        let (rows, outputs) = prepared(model, layer, site, &[question]).map_err(failed)?.swap_remove(0);
        Ok(Self { rows, outputs })
    }

    /// Length of a vector.
    pub(super) fn hidden(&self) -> usize {
        self.rows.model.config.hidden
    }

    /// Numbers of the vectors of a question.
    pub(super) fn numbers(&self) -> usize {
        self.rows.site.count() * self.hidden()
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
        let expected = self.numbers();
        if vectors.len() != expected {
            let (expected, found) = ((expected, 1).into(), (vectors.len(), 1).into());
            return Err(NumericsError::Shape { argument: "vectors", expected, found }.into());
        }
        let (parts, loss) = self.rows.run(vectors, self.rows.model.par).map_err(failed)?;
        let LossParts { likelihood, naming, divergence } = parts[0];
        Ok(SteeredEvaluation { likelihood, naming, divergence, loss })
    }
}
