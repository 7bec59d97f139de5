//! Generation of text.

use std::sync::Arc;

use candle_core::{Result as Computed, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::block::{TokenBatch, select};
use super::failed;
use super::model::Model;
use super::ops::{Past, likeliest, with_rows};
use crate::error::Result;

/// How the next token is chosen.
#[derive(Clone, Debug)]
pub enum Sampler {
    /// The most probable.
    Greedy,
    /// One of the `k` most probable, drawn by their probabilities.
    TopK {
        /// The number of candidates.
        k: usize,
        /// The random numbers, the same on every machine for the same seed.
        random: Box<ChaCha8Rng>,
    },
}

impl Sampler {
    /// Draws from the `k` most probable tokens, with a seed.
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
    /// Generates `count` tokens after the given ones, or fewer if the model's context ends before.
    ///
    /// # Errors
    /// No token, one outside the vocabulary, or more than the model's context holds.
    pub fn generate(&self, tokens: &[u32], count: usize, sampler: &mut Sampler) -> Result<Vec<u32>> {
        self.generate_until(tokens, count, sampler, &[])
    }

    /// As [`generate`](Self::generate), up to the first of some tokens, which is left out.
    ///
    /// * `ends`: usually [`Tokenizer::ends`](super::Tokenizer::ends)
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_until(
        &self,
        tokens: &[u32],
        count: usize,
        sampler: &mut Sampler,
        ends: &[u32],
    ) -> Result<Vec<u32>> {
        let prompts = [(tokens, count)];
        Ok(self.run_generation(&prompts, |logits| sampler.choose(logits), ends)?.swap_remove(0))
    }

    /// The most probable continuation of each of some sequences (greedy decoding), all computed together.
    ///
    /// * `prompts`: tokens, and the most tokens to generate behind them; fewer if the model's context ends before
    /// * `ends`: usually [`Tokenizer::ends`](super::Tokenizer::ends); the first of them ends a continuation and is left out
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_each(&self, prompts: &[(&[u32], usize)], ends: &[u32]) -> Result<Vec<Vec<u32>>> {
        self.run_generation(prompts, likeliest, ends)
    }

    fn run_generation(
        &self,
        prompts: &[(&[u32], usize)],
        choose: impl FnMut(&[f32]) -> u32,
        ends: &[u32],
    ) -> Result<Vec<Vec<u32>>> {
        prompts.iter().try_for_each(|(tokens, _)| self.check_tokens(tokens))?;
        self.continue_each(prompts, choose, ends).map_err(failed)
    }

    fn continue_each(
        &self,
        prompts: &[(&[u32], usize)],
        mut choose: impl FnMut(&[f32]) -> u32,
        ends: &[u32],
    ) -> Computed<Vec<Vec<u32>>> {
        let mut generated = vec![vec![]; prompts.len()];
        let room = |tokens: &[u32], count: usize| count.min(self.config.context - tokens.len());
        let goes_on = prompts.iter().enumerate().filter(|(_, (tokens, count))| room(tokens, *count) > 0);
        // The sequences that go on: their number, the tokens that are not in the past yet, and the number of those that are.
        let mut open: Vec<(usize, Vec<u32>, usize)> = goes_on.map(|(i, (tokens, _))| (i, tokens.to_vec(), 0)).collect();
        let mut past: Vec<Vec<Arc<Past>>> = vec![vec![Arc::default(); open.len()]; self.blocks.len()];
        // What all begin with, such as the frame of a chat, is run once.
        let common = common_start(open.iter().map(|(_, tokens, _)| &tokens[..]));
        if open.len().saturating_sub(1) * common >= WORTH_A_PASS {
            let mut of_start = vec![vec![Arc::default()]; self.blocks.len()];
            self.run_on(&[(&open[0].1[..common], 0)], &mut of_start)?;
            past = of_start.iter().map(|past| vec![past[0].clone(); open.len()]).collect();
            for (_, new, seen) in &mut open {
                *seen = new.drain(..common).count();
            }
        }
        while !open.is_empty() {
            let inputs: Vec<(&[u32], usize)> = open.iter().map(|(_, new, seen)| (&new[..], *seen)).collect();
            let (x, batch) = self.run_on(&inputs, &mut past)?;
            let last: Vec<usize> = batch.spans.iter().map(|span| span.rows.end - 1).collect();
            let chosen: Vec<u32> = with_rows([&self.logits(&select(&x, &last)?, self.par)?], |[logits]| {
                logits.iter().map(&mut choose).collect()
            })?;
            let mut kept = vec![];
            for ((i, new, seen), token) in open.iter_mut().zip(chosen) {
                let (prompt, count) = prompts[*i];
                *seen += new.len();
                *new = vec![token];
                let ended = ends.contains(&token);
                if !ended {
                    generated[*i].push(token);
                }
                kept.push(!ended && generated[*i].len() < room(prompt, count));
            }
            keep(&mut open, &kept);
            past.iter_mut().for_each(|past| keep(past, &kept));
        }
        Ok(generated)
    }

    /// Runs new tokens of some sequences, behind those that are in the past, which they join. Returns the last block's output.
    fn run_on(&self, inputs: &[(&[u32], usize)], past: &mut [Vec<Arc<Past>>]) -> Computed<(Tensor, TokenBatch)> {
        let batch = TokenBatch::new(&self.config, inputs.iter().map(|(new, seen)| (*seen, new.len())));
        let lengths: Vec<usize> = inputs.iter().map(|(new, _)| new.len()).collect();
        let tokens: Vec<u32> = inputs.iter().flat_map(|(new, _)| new.iter().copied()).collect();
        let mut x = self.embed(&tokens, &batch)?;
        for (block, past) in self.blocks.iter().zip(past) {
            let opened = block.open(self.frame(), &x, &batch, past.clone())?;
            *past = opened.extended(&batch, std::mem::take(past), &lengths)?;
            x = block.close(&opened, self.par)?;
        }
        Ok((x, batch))
    }
}

/// Tokens that need not be run for which another pass over the weights is worth its time.
const WORTH_A_PASS: usize = 16;

/// The number of tokens that all sequences begin with. The last token of a sequence is not among them.
fn common_start<'a>(mut sequences: impl Iterator<Item = &'a [u32]>) -> usize {
    let Some((_, first)) = sequences.next().and_then(<[u32]>::split_last) else { return 0 };
    sequences.fold(first.len(), |common, tokens| {
        let alike = first[..common].iter().zip(tokens).take_while(|(a, b)| a == b).count();
        alike.min(tokens.len().saturating_sub(1))
    })
}

/// Keeps the items that are marked.
fn keep<T>(items: &mut Vec<T>, kept: &[bool]) {
    let mut marks = kept.iter();
    items.retain(|_| marks.next().is_some_and(|&kept| kept));
}
