//! What is asked of a model in a search: sequences that should become probable, and one that should keep its distribution.

use std::ops::Range;

use crate::error::{NumericsError, Result};
use crate::llm::model::Model;
use crate::util::validate;

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

    pub(super) fn first(&self) -> usize {
        self.positions.first().copied().unwrap_or(0)
    }

    /// Refuses positions that are not in order.
    pub(super) fn check(&self) -> Result<()> {
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

    pub(super) fn is_named(&self) -> bool {
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

/// What a search asks: sequences that should become probable together, and perhaps an anchor.
#[derive(Clone)]
pub(super) struct SearchQuestion<'a> {
    pub(super) sequences: Vec<Steered<'a>>,
    pub(super) anchor: Option<Anchor<'a>>,
}

impl<'a> SearchQuestion<'a> {
    /// Refuses what the model cannot read.
    pub(super) fn check(&self, model: &Model) -> Result<()> {
        if self.sequences.is_empty() {
            return Err(NumericsError::Empty { argument: "sequences", item: "sequence" }.into());
        }
        for sequence in &self.sequences {
            model.check_tokens(sequence.tokens)?;
            sequence.check()?;
        }
        if let Some(Anchor { tokens, position, .. }) = self.anchor {
            model.check_tokens(tokens)?;
            if position >= tokens.len() {
                let allowed = "less than the number of tokens";
                return Err(NumericsError::Parameter { parameter: "position", value: position as f64, allowed }.into());
            }
        }
        Ok(())
    }

    /// The tokens to run, and the first position in each. The last token of a continuation predicts nothing, nor does the anchor after
    /// its position.
    pub(super) fn inputs(&self) -> impl Iterator<Item = (&'a [u32], usize)> {
        let sequences = self.sequences.iter().map(|one| (&one.tokens[..one.tokens.len() - 1], one.first()));
        sequences.chain(self.anchor.map(|anchor| (&anchor.tokens[..=anchor.position], anchor.position)))
    }
}
