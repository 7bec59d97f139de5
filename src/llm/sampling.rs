//! Generation of text.

use std::sync::Arc;

use candle_core::Result as Computed;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::block::TokenBatch;
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
        self.check_tokens(tokens)?;
        let count = count.min(self.config.context - tokens.len());
        self.run_generation(tokens, count, sampler, ends).map_err(failed)
    }

    fn run_generation(&self, tokens: &[u32], count: usize, sampler: &mut Sampler, ends: &[u32]) -> Computed<Vec<u32>> {
        let mut past: Vec<Vec<Arc<Past>>> = vec![vec![Arc::default()]; self.blocks.len()];
        let (mut new, mut seen, mut generated) = (tokens.to_vec(), 0, vec![]);
        for _ in 0..count {
            let batch = TokenBatch::new(&self.config, [(seen, new.len())]);
            let mut x = self.embed(&new, &batch)?;
            for (block, past) in self.blocks.iter().zip(&mut past) {
                let opened = block.open(self.frame(), &x, &batch, past.clone())?;
                *past = opened.extended(&batch, past, &[new.len()])?;
                x = block.close(&opened, self.par)?;
            }
            let last = x.narrow(0, new.len() - 1, 1)?;
            let token = with_rows([&self.logits(&last)?], |[logits]| sampler.choose(logits.numbers))?;
            if ends.contains(&token) {
                break;
            }
            seen += new.len();
            generated.push(token);
            new = vec![token];
        }
        Ok(generated)
    }
}
