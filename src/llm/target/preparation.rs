//! What does not depend on the vectors of a search, computed once.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result as Computed, Tensor};

use super::question::{Anchor, SearchQuestion, Steered};
use super::rows::{Below, SteeredRows, TermRange};
use super::site::Site;
use crate::llm::block::{TokenBatch, select};
use crate::llm::model::Model;
use crate::llm::ops::{Past, Span, Term, log_sum_exp, with_rows};

/// All inputs of some questions, run together.
struct Inputs<'q> {
    tokens: Vec<&'q [u32]>,
    /// The first position in each, from which on an evaluation runs it.
    positions: Vec<usize>,
    /// Those of each question.
    of: Vec<Range<usize>>,
    /// For each question, the input that is its anchor.
    anchors: Vec<Option<usize>>,
}

/// Prepares some questions, which the model can read. They are run together. With each comes the outputs that its vectors are added to,
/// a row for each sequence.
pub(super) fn prepared<'a>(
    model: &'a Model,
    layer: usize,
    site: Site,
    questions: &[SearchQuestion<'_>],
) -> Computed<Vec<(SteeredRows<'a>, Tensor)>> {
    let inputs = Inputs::new(questions);
    let whole = TokenBatch::new(&model.config, inputs.tokens.iter().map(|tokens| (0, tokens.len())));
    let mut x = model.embed(&inputs.tokens.concat(), &whole)?;
    for block in &model.blocks[..layer] {
        x = block.close(&block.open(model.frame(), &x, &whole, vec![])?, model.par)?;
    }
    let opened = model.blocks[layer].open(model.frame(), &x, &whole, vec![])?;
    let mlp = model.blocks[layer].mlp(&opened, model.par)?;
    let output = model.blocks[layer].close_with(&opened, &mlp)?;
    let above = above(model, layer, &inputs, &whole, &output)?;

    let closed = matches!((site, &model.blocks[layer].mlp_post_norm), (Site::Block | Site::Mlp, None));
    let one = |(i, question): (usize, &SearchQuestion<'_>)| {
        let of = inputs.of[i].clone();
        let rows = |input: usize| {
            let span = &whole.spans[input].rows;
            span.start + inputs.positions[input]..span.end
        };
        let after: Vec<usize> = of.clone().flat_map(rows).collect();
        let below = match closed {
            true => Below::Closed(select(&output, &after)?),
            false => Below::Opened(opened.rows(&after)?),
        };
        let first: Vec<usize> = of.clone().map(|input| rows(input).start).collect();
        let outputs = match site {
            Site::Block => select(&output, &first)?,
            Site::Mlp => select(&mlp, &first)?,
            Site::MlpAndAttention => {
                let attention = (&opened.residual - &x)?;
                Tensor::cat(&[select(&mlp, &first)?, select(&attention, &first)?], 1)?
            }
        };
        let batch =
            TokenBatch::new(&model.config, of.clone().map(|input| (inputs.positions[input], rows(input).len())));
        let past = above.past.iter().map(|past| past[of.clone()].to_vec()).collect();
        let places = places(&batch, &question.sequences);
        let (mut asked, mut terms) = likelihoods(&batch, &question.sequences);
        let continued = question.sequences.iter().map(|one| one.tokens.len() - one.start).sum();
        if let (Some(Anchor { weight, .. }), Some(reference)) = (question.anchor, &above.references[i]) {
            asked.push(batch.rows() - 1);
            terms.push(Term::Divergence { reference: reference.clone(), weight });
        }
        let parts = vec![TermRange { all: 0..terms.len(), continued }];
        let terms = terms.into();
        Ok((SteeredRows { model, layer, site, batch, below, places, past, asked, terms, parts }, outputs))
    };
    questions.iter().enumerate().map(one).collect()
}

impl<'q> Inputs<'q> {
    fn new(questions: &[SearchQuestion<'q>]) -> Self {
        let (mut tokens, mut positions, mut of, mut anchors) = (vec![], vec![], vec![], vec![]);
        for question in questions {
            let start = tokens.len();
            for (input, position) in question.inputs() {
                tokens.push(input);
                positions.push(position);
            }
            of.push(start..tokens.len());
            anchors.push(question.anchor.map(|_| tokens.len() - 1));
        }
        Self { tokens, positions, of, anchors }
    }
}

/// What is known of the blocks above.
struct Above {
    /// For each block, for each input: the attention's keys and values of the tokens before the position.
    past: Vec<Vec<Arc<Past>>>,
    /// For each question, the logarithms of the probabilities behind its anchor.
    references: Vec<Option<Arc<[f32]>>>,
}

/// Runs what comes before the positions, and the anchors whole, through the blocks above.
fn above(model: &Model, layer: usize, inputs: &Inputs<'_>, whole: &TokenBatch, output: &Tensor) -> Computed<Above> {
    let mut lengths = inputs.positions.clone();
    inputs.anchors.iter().flatten().for_each(|&anchor| lengths[anchor] += 1);
    let before = TokenBatch::new(&model.config, lengths.iter().map(|&length| (0, length)));
    let rows_before = |(span, length): (&Span, &usize)| span.rows.start..span.rows.start + length;
    let rows: Vec<usize> = whole.spans.iter().zip(&lengths).flat_map(rows_before).collect();
    let (mut past, mut upper) = (vec![], select(output, &rows)?);
    for block in &model.blocks[layer + 1..] {
        let opened = block.open(model.frame(), &upper, &before, vec![])?;
        past.push(opened.extended(&before, vec![], &inputs.positions)?);
        upper = block.close(&opened, model.par)?;
    }
    let last = |anchor: &usize| before.spans[*anchor].rows.end - 1;
    let asked: Vec<usize> = inputs.anchors.iter().flatten().map(last).collect();
    let mut found = match asked.is_empty() {
        true => vec![],
        false => with_rows([&model.logits(&select(&upper, &asked)?, model.par)?], |[logits]| {
            let reference = |logits: &[f32]| -> Arc<[f32]> {
                let normaliser = log_sum_exp(logits);
                logits.iter().map(|x| x - normaliser).collect()
            };
            logits.iter().map(reference).collect::<Vec<_>>()
        })?,
    }
    .into_iter();
    let references = inputs.anchors.iter().map(|anchor| anchor.and_then(|_| found.next())).collect();
    Ok(Above { past, references })
}

/// The rows at which vectors are added: those of the positions, and the first of an anchor.
fn places(batch: &TokenBatch, sequences: &[Steered<'_>]) -> Vec<Option<usize>> {
    let mut places = vec![None; batch.rows()];
    for (i, span) in batch.spans.iter().enumerate() {
        let first = [span.start];
        for position in sequences.get(i).map_or(&first[..], |one| one.positions) {
            places[span.rows.start + position - span.start] = Some(0);
        }
    }
    places
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
