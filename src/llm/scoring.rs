//! A model as the scorer of the metrics.

use super::chat::{Message, Role};
use super::model::{Continuation, Model};
use super::prompt::Request;
use super::tokenizer::Tokenizer;
use crate::error::Result;
use crate::facts::Fact;
use crate::facts::metrics::{Generator, Perplexity, Query, Question, Scorer, Setting, TokenScore};

/// A model and its tokenizer as a [`Scorer`] and as a [`Generator`].
///
/// ```no_run
/// use betaedit_core::{facts, faer::Par, llm::{Model, Scoring}};
///
/// let (model, tokenizer) = Model::open("SmolLM2-135M-Instruct", Par::rayon(0))?;
/// let facts = facts::Facts::read("facts.json")?;
/// let mut scoring = Scoring::new(&model, &tokenizer);
/// let summary = facts::metrics::evaluate(&mut scoring, facts.iter())?.summary();
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Scoring<'a> {
    model: &'a Model,
    tokenizer: &'a Tokenizer,
}

/// Sequences that are run at once.
const AT_ONCE: usize = 8;

/// Answers that are generated at once: each adds little to a pass over the weights.
const GENERATED_AT_ONCE: usize = 32;

/// Tokens in a piece of text whose perplexity is measured.
const PIECE: usize = 256;

/// Pieces that are added at once, until there are enough tokens.
const PIECES_ADDED: usize = 4;

impl<'a> Scoring<'a> {
    /// Scores with a model.
    #[must_use]
    pub fn new(model: &'a Model, tokenizer: &'a Tokenizer) -> Self {
        Self { model, tokenizer }
    }

    /// Measures the perplexity of the beginning of a text, in pieces of 256 tokens, each behind the token that begins a text. Pieces are added four at a time until at least `tokens`
    /// tokens are scored, or the text ends.
    ///
    /// # Errors
    /// Any failure of the model or the tokenizer.
    pub fn measure_perplexity(&self, text: &str, tokens: u64) -> Result<Perplexity> {
        let mut perplexity = Perplexity::default();
        // A piece a thread.
        for pieces in self.pieces(text, tokens)?.chunks(self.model.par.degree().max(1)) {
            let sequences: Vec<(&[u32], usize)> = pieces.iter().map(|piece| (&piece[..], 1)).collect();
            for Continuation { log_probabilities, .. } in self.model.score_continuations(&sequences)? {
                perplexity.observe(log_probabilities.into_iter().map(f64::from));
            }
        }
        Ok(perplexity)
    }

    /// The part of a text that [`measure_perplexity`](Self::measure_perplexity) uses.
    ///
    /// # Errors
    /// Any failure of the tokenizer.
    pub fn measured_part(&self, text: &str, tokens: u64) -> Result<String> {
        // Together: a piece may end within a character. So may the last one.
        let measured = self.tokenizer.decode(&self.pieces(text, tokens)?.concat())?;
        Ok(measured.trim_end_matches('\u{FFFD}').to_owned())
    }

    fn pieces(&self, text: &str, tokens: u64) -> Result<Vec<Vec<u32>>> {
        let mut pieces = self.tokenizer.windows_behind_a_start(text, PIECE.min(self.model.config().context))?;
        pieces.retain(|piece| piece.len() > 1);
        let (mut taken, mut scored) = (0, 0);
        for pieces in pieces.chunks(PIECES_ADDED) {
            if scored >= tokens {
                break;
            }
            taken += pieces.len();
            scored += pieces.iter().map(|piece| piece.len() as u64 - 1).sum::<u64>();
        }
        pieces.truncate(taken);
        Ok(pieces)
    }
}

impl Scorer for Scoring<'_> {
    fn score(&mut self, queries: &[Query<'_>]) -> Result<Vec<Vec<TokenScore>>> {
        let mut scores = vec![];
        for queries in queries.chunks(AT_ONCE) {
            let sequence = |query: &Query<'_>| {
                let prompt = self.tokenizer.encode(query.prompt)?;
                let whole = self.tokenizer.encode(&query.text())?;
                let start = prompt.iter().zip(&whole).take_while(|(a, b)| a == b).count();
                Ok((whole, start))
            };
            let sequences = queries.iter().map(sequence).collect::<Result<Vec<(Vec<u32>, usize)>>>()?;
            let asked: Vec<(&[u32], usize)> = sequences.iter().map(|(whole, start)| (&whole[..], *start)).collect();
            for (found, (whole, start)) in self.model.score_continuations(&asked)?.into_iter().zip(&sequences) {
                let each = found.log_probabilities.into_iter().zip(found.likeliest).zip(&whole[*start..]);
                let score = |((log_probability, argmax), &token)| TokenScore {
                    token,
                    log_probability: f64::from(log_probability),
                    argmax,
                };
                scores.push(each.map(score).collect());
            }
        }
        Ok(scores)
    }
}

impl Generator for Scoring<'_> {
    /// The texts that the model generates, by the model's end-of-text tokens.
    ///
    /// # Errors
    /// Any failure of the model or the tokenizer, and [`Setting::Chat`] for a model without a chat template.
    fn generate(&mut self, questions: &[Question<'_>]) -> Result<Vec<String>> {
        let mut answers = vec![];
        for questions in questions.chunks(GENERATED_AT_ONCE) {
            let asked = questions.iter().map(|question| {
                let text = question.setting.asked(question.prompt);
                match question.setting {
                    Setting::Chat => self.tokenizer.encode_chat(&[Message::new(Role::User, text)]),
                    _ => self.tokenizer.encode(&text),
                }
            });
            let asked = asked.collect::<Result<Vec<_>>>()?;
            let prompts = asked.iter().zip(questions).map(|(tokens, question)| (&tokens[..], question.tokens));
            for (prompt, more) in
                asked.iter().zip(self.model.generate_each(&prompts.collect::<Vec<_>>(), self.tokenizer.ends())?)
            {
                answers.push(self.tokenizer.decode_behind(prompt, &more)?);
            }
        }
        Ok(answers)
    }
}

impl From<&Fact> for Request {
    fn from(fact: &Fact) -> Self {
        Self::checked(fact.subject(), fact.prompt(), fact.target_new())
    }
}
