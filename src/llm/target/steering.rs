//! The upper part of a model as a function of vectors that are added to outputs of a block.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Result as Computed, Tensor, Var};

use crate::error::{ModelError, NumericsError, Result};
use crate::llm::block::{Opened, TokenBatch, select};
use crate::llm::failed;
use crate::llm::model::Model;
use crate::llm::ops::{Objective, Op, Past, Span, Term, log_sum_exp, with_rows};
use crate::util::named::named;
use crate::util::validate;

/// The outputs of a block that vectors are added to, one vector an output.
///
/// Let `x` be the block's input, `a` the attention's output, and `m` the function from the residual stream to the MLP's output `W k`.
/// Then the output of the block is `x + a + m(x + a)`. (In GPT-J and GPT-NeoX, where the MLP is beside the attention, it is `x + a + m(x)`.)
///
/// In Gemma 2 and 3 and OLMo 2, a norm `n` stands behind the MLP: the output is `x + a + n(m(x + a))`. It is not linear in the edited matrix,
/// so [`Block`](Self::Block) is refused there. At the other sites, `v` is added to `m(x + a)`, in front of the norm.
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
    /// Refuses outputs that are not linear in the edited matrix.
    pub(in crate::llm) fn check(self, model: &Model, layer: usize) -> Result<()> {
        match (self, &model.blocks[layer].mlp_post_norm) {
            (Self::Block, Some(_)) => {
                let family = model.family().model_type();
                let problem = format!(
                    "in a model of type {family} a norm stands behind the MLP, so an output of a block cannot be written into the MLP's \
                     matrix: seek outputs of the MLP (target `mlp`)"
                );
                Err(ModelError::Unsupported { problem }.into())
            }
            _ => Ok(()),
        }
    }

    /// The number of outputs, and so of vectors.
    fn count(self) -> usize {
        match self {
            Self::Block | Self::Mlp => 1,
            Self::MlpAndAttention => 2,
        }
    }
}

/// A sequence to steer: vectors are added at some positions, and the tokens from `start` on should become probable.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Steered<'a> {
    /// A prompt and its continuation.
    pub tokens: &'a [u32],
    /// Where vectors are added, before the continuation; ascending, at least one.
    pub positions: &'a [usize],
    /// Where the continuation starts.
    pub start: usize,
    /// Tokens behind the first position that should stay probable, such as a name: from here to there.
    pub name: (usize, usize),
    /// Weight of these tokens, beside 1 for a continuation.
    pub name_weight: f32,
}

impl<'a> Steered<'a> {
    /// A sequence whose continuation should become probable.
    #[must_use]
    pub fn new(tokens: &'a [u32], positions: &'a [usize], start: usize) -> Self {
        Self { tokens, positions, start, name: (0, 0), name_weight: 0.0 }
    }

    /// Sets tokens that should stay probable, and their weight.
    #[must_use]
    pub fn with_name(self, name: Range<usize>, weight: f32) -> Self {
        Self { name: (name.start, name.end), name_weight: weight, ..self }
    }

    fn first(&self) -> usize {
        self.positions.first().copied().unwrap_or(0)
    }

    /// Refuses positions that are not in order.
    fn check(&self) -> Result<()> {
        let Self { tokens, positions, start, name, name_weight } = self;
        let refuse = |parameter, value: usize, allowed| {
            Err(NumericsError::Parameter { parameter, value: value as f64, allowed }.into())
        };
        if positions.is_empty() || positions.windows(2).any(|pair| pair[0] >= pair[1]) {
            return refuse("positions", positions.len(), "at least one, ascending");
        }
        if positions[positions.len() - 1] >= *start || start >= &tokens.len() {
            return refuse("start", *start, "after the positions of the vectors, and before the end");
        }
        if name.0 < name.1 && (name.0 <= positions[0] || name.1 > tokens.len()) {
            return refuse("name", name.0, "after the first position of the vectors, and before the end");
        }
        Ok(validate::non_negative("name_weight", f64::from(*name_weight))?)
    }

    fn is_named(&self) -> bool {
        self.name.0 < self.name.1 && self.name_weight > 0.0
    }
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

/// The model above a block's outputs, as a function of vectors added to these outputs at some positions of every sequence.
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
    /// The rows of the batch whose logits are in the loss, and their terms: first those of the continuations.
    asked: Vec<usize>,
    terms: Arc<[Term]>,
    continued: usize,
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
    /// The same of the tokens of their names, times the weight: a mean over the sequences that have one.
    pub naming: f32,
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
        site.check(model, layer)?;
        for sequence in sequences {
            model.check_tokens(sequence.tokens)?;
            sequence.check()?;
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
        let inputs = sequences.iter().map(|one| (&one.tokens[..one.tokens.len() - 1], one.first()));
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
        let output = model.blocks[layer].close_with(&opened, &mlp)?;

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
        let below = match (site, &model.blocks[layer].mlp_post_norm) {
            (Site::Block | Site::Mlp, None) => Below::Closed(select(&output, &rows)?),
            (Site::MlpAndAttention, _) | (_, Some(_)) => Below::Opened(opened.rows(&rows)?),
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
        let mut places = vec![0.0_f32; batch.rows()];
        for (i, span) in batch.spans.iter().enumerate() {
            let first = [span.start];
            for position in sequences.get(i).map_or(&first[..], |one| one.positions) {
                places[span.rows.start + position - span.start] = 1.0;
            }
        }

        let (mut asked, mut terms) = likelihoods(&batch, sequences);
        let continued = sequences.iter().map(|one| one.tokens.len() - one.start).sum();
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
        Ok(Self { model, layer, site, batch, below, places, outputs, past, asked, terms: terms.into(), continued })
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
        let mut x = match (&self.below, self.site) {
            (Below::Closed(output), _) => (output + added(0)?)?,
            (Below::Opened(opened), Site::MlpAndAttention) => {
                let opened = block.shifted(self.model.frame(), opened, &added(1)?)?;
                block.close_with(&opened, &(block.mlp(&opened, par)? + added(0)?)?)?
            }
            (Below::Opened(opened), _) => block.close_with(opened, &(block.mlp(opened, par)? + added(0)?)?)?,
        };
        for (block, past) in self.model.blocks[self.layer + 1..].iter().zip(&self.past) {
            x = block.close(&block.open(self.model.frame(), &x, &self.batch, past.clone())?, par)?;
        }
        let logits = self.model.logits(&select(&x, &self.asked)?)?;
        let terms = logits.apply_op1(Op(Objective(self.terms.clone())))?;
        let (mut likelihood, mut naming, mut divergence) = (0.0, 0.0, 0.0);
        for (i, (value, term)) in terms.flatten_all()?.to_vec1::<f32>()?.into_iter().zip(&*self.terms).enumerate() {
            match term {
                Term::Likelihood { .. } if i < self.continued => likelihood += value,
                Term::Likelihood { .. } => naming += value,
                Term::Divergence { .. } => divergence += value,
            }
        }
        Ok(SteeredEvaluation { likelihood, naming, divergence, vectors, loss: terms.sum_all()? })
    }
}

/// The rows of the batch whose logits are in the loss, and their terms: first those of the continuations, then those of the names.
fn likelihoods(batch: &TokenBatch, sequences: &[Steered<'_>]) -> (Vec<usize>, Vec<Term>) {
    let (mut asked, mut terms) = (vec![], vec![]);
    // The token at a place is predicted by the row before it.
    let mut ask = |span: &Span, tokens: &[u32], from: usize, to: usize, weight: f32| {
        let first = span.rows.start + from - 1 - span.start;
        asked.extend(first..first + (to - from));
        let weight = weight / (to - from) as f32;
        terms.extend(tokens[from..to].iter().map(|&token| Term::Likelihood { token, weight }));
    };
    for (span, one) in batch.spans.iter().zip(sequences) {
        ask(span, one.tokens, one.start, one.tokens.len(), 1.0 / sequences.len() as f32);
    }
    let names = sequences.iter().filter(|one| one.is_named()).count() as f32;
    for (span, one) in batch.spans.iter().zip(sequences).filter(|(_, one)| one.is_named()) {
        ask(span, one.tokens, one.name.0, one.name.1, one.name_weight / names);
    }
    (asked, terms)
}
