//! How a model goes on from a text.

use std::sync::Arc;

use candle_core::Result as Computed;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::failed;
use super::model::{Batch, Model, likeliest};
use super::ops::{Past, with_rows};
use super::request::{FactToken, Request};
use crate::error::{EditError, Result};

/// How the next token is chosen.
#[derive(Clone, Debug)]
pub enum Sampler {
    /// The likeliest.
    Greedy,
    /// One of the `k` likeliest, by their probabilities.
    TopK {
        /// How many there are to choose from.
        k: usize,
        /// Where chance comes from: a stream that is the same on every machine.
        random: Box<ChaCha8Rng>,
    },
}

impl Sampler {
    /// One of the `k` likeliest tokens, by chance from a seed.
    #[must_use]
    pub fn top_k(k: usize, seed: u64) -> Self {
        Self::TopK { k: k.max(1), random: Box::new(ChaCha8Rng::seed_from_u64(seed)) }
    }

    fn choose(&mut self, logits: &[f32]) -> u32 {
        let Self::TopK { k, random } = self else { return likeliest(logits) };
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        order.truncate(*k);
        let weights: Vec<f64> =
            order.iter().map(|&i| f64::from(logits[i as usize] - logits[order[0] as usize]).exp()).collect();
        // 53 random bits: a number in [0, 1).
        let uniform = (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let mut left = uniform * weights.iter().sum::<f64>();
        for (&token, weight) in order.iter().zip(&weights) {
            left -= weight;
            if left < 0.0 {
                return token;
            }
        }
        order[order.len() - 1]
    }
}

impl Model {
    /// The next `count` tokens after some tokens, fewer where the model's context ends.
    ///
    /// # Errors
    /// No token, one outside the vocabulary, or more than the model's context holds.
    pub fn generate(&self, tokens: &[u32], count: usize, sampler: &mut Sampler) -> Result<Vec<u32>> {
        self.check_tokens(tokens)?;
        let count = count.min(self.config.context - tokens.len());
        self.run_generation(tokens, count, sampler).map_err(failed)
    }

    fn run_generation(&self, tokens: &[u32], count: usize, sampler: &mut Sampler) -> Computed<Vec<u32>> {
        let mut past: Vec<Vec<Arc<Past>>> = vec![vec![Arc::default()]; self.blocks.len()];
        let (mut new, mut seen, mut generated) = (tokens.to_vec(), 0, vec![]);
        for _ in 0..count {
            let batch = Batch::new(&self.config, [(seen, new.len())]);
            let mut x = self.embed(&new, &batch)?;
            for (block, past) in self.blocks.iter().zip(&mut past) {
                let opened = block.open(self, &x, &batch, past.clone())?;
                *past = opened.extended(&batch, past, &[new.len()])?;
                x = block.close(&opened, self.par)?;
            }
            let last = x.narrow(0, new.len() - 1, 1)?;
            let token = with_rows([&self.logits(&last)?], |[logits]| sampler.choose(logits.numbers))?;
            seen += new.len();
            generated.push(token);
            new = vec![token];
        }
        Ok(generated)
    }
}

/// Texts that stand before a prompt: a key is averaged over them, so that it is the subject's and not one prompt's.
///
/// The bare prompt counts one half, the prompts behind the texts the other half together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contexts {
    prefixes: Vec<String>,
}

/// How generated texts begin, in turn.
const BEGINNINGS: [&str; 5] = ["The", "Therefore", "Because", "I", "You"];

impl Contexts {
    /// The given texts; none is allowed.
    #[must_use]
    pub fn new(prefixes: Vec<String>) -> Self {
        Self { prefixes }
    }

    /// `count` texts of about `length` tokens that the model makes up itself, each token one of the five likeliest.
    ///
    /// They begin with "The", "Therefore", "Because", "I", "You", in turn. Equal seeds give equal texts on one machine;
    /// across machines rounding may tip a choice, so keep the texts themselves where a run is to be repeated.
    ///
    /// # Errors
    /// Any failure of the model or the tokenizer.
    pub fn generate(
        model: &Model,
        tokenizer: &super::Tokenizer,
        count: usize,
        length: usize,
        seed: u64,
    ) -> Result<Self> {
        let mut sampler = Sampler::top_k(5, seed);
        let prefixes = BEGINNINGS.iter().cycle().take(count).map(|beginning| {
            let start = tokenizer.encode(beginning)?;
            let more = model.generate(&start, length.saturating_sub(1), &mut sampler)?;
            let text = tokenizer.decode(&[start, more].concat())?;
            // Braces would be taken for the place of the subject elsewhere, and lines end texts.
            let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || "{}".contains(c)).collect();
            Ok(words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "))
        });
        Ok(Self { prefixes: prefixes.collect::<Result<_>>()? })
    }

    /// The texts.
    #[must_use]
    pub fn prefixes(&self) -> &[String] {
        &self.prefixes
    }

    /// What stands before the prompt, for the bare prompt and for each text.
    pub(super) fn openings(&self) -> impl Iterator<Item = String> {
        std::iter::once(String::new()).chain(self.prefixes.iter().map(|prefix| format!("{prefix}. ")))
    }

    /// The weight of each of them in a key.
    pub(super) fn weights(&self) -> Vec<f32> {
        match self.prefixes.len() {
            0 => vec![1.0],
            n => std::iter::once(0.5).chain(std::iter::repeat_n(0.5 / n as f32, n)).collect(),
        }
    }
}

/// A prompt as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prompt {
    pub(super) tokens: Vec<u32>,
    /// Index of the token at which the fact is written.
    pub(super) position: usize,
}

impl Prompt {
    /// The tokens of a request's prompt between an opening and a continuation.
    pub(super) fn new(
        tokenizer: &super::Tokenizer,
        opening: &str,
        request: &Request,
        continuation: &str,
    ) -> Result<Self> {
        let (before, after) = request.around_subject();
        let subject = request.subject();
        let before = format!("{opening}{before}");
        let tokens = tokenizer.encode(&format!("{before}{subject}{after}{continuation}"))?;
        let to_subject = tokenizer.encode(&format!("{before}{subject}"))?;
        if to_subject.len() <= tokenizer.encode("")?.len() {
            let problem = "the tokenizer makes no token of the subject".into();
            return Err(EditError::Request { subject: subject.into(), problem });
        }
        let common = |part: &[u32]| part.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
        // Where an end and what follows share a token, that is the one.
        let last_of = |part: &[u32]| common(part).min(part.len() - 1);
        let position = match request.token() {
            FactToken::SubjectLast => last_of(&to_subject),
            FactToken::SubjectFirst => common(&tokenizer.encode(before.trim_end())?).min(tokens.len() - 1),
            FactToken::PromptLast => last_of(&tokenizer.encode(&format!("{before}{subject}{after}"))?),
        };
        Ok(Self { tokens, position })
    }
}
