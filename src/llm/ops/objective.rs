//! The objective of the search for a target.

use std::sync::Arc;

use super::elementwise::{exp, largest, sum};
use super::{Function, Rows};
use crate::util::vectorized::vectorized;

/// The term of one row of logits.
#[derive(Clone)]
pub(in crate::llm) enum Term {
    /// `weight * -log p(token)`.
    Likelihood { token: u32, weight: f32 },
    /// `weight * KL(p || q)`, with `log q` as given.
    Divergence { reference: Arc<[f32]>, weight: f32 },
}

/// One term per row of logits; the result has one column.
pub(in crate::llm) struct Objective(pub(in crate::llm) Arc<[Term]>);

/// `log sum exp`, without overflow.
pub(in crate::llm) fn log_sum_exp(row: &[f32]) -> f32 {
    vectorized(
        #[inline(always)]
        || {
            let largest = largest(row);
            largest + sum([row], |[x]| exp(x - largest)).ln()
        },
    )
}

fn divergence(row: &[f32], normaliser: f32, reference: &[f32]) -> f32 {
    vectorized(
        #[inline(always)]
        || sum([row, reference], |[x, q]| exp(x - normaliser) * (x - normaliser - q)),
    )
}

impl Term {
    fn value(&self, row: &[f32]) -> f32 {
        let normaliser = log_sum_exp(row);
        match self {
            Self::Likelihood { token, weight } => weight * (normaliser - row[*token as usize]),
            Self::Divergence { reference, weight } => weight * divergence(row, normaliser, reference),
        }
    }

    /// `g` times the gradient with respect to a row.
    fn gradient(&self, row: &[f32], g: f32, to: &mut [f32]) {
        let normaliser = log_sum_exp(row);
        match self {
            Self::Likelihood { token, weight } => {
                let factor = g * weight;
                vectorized(
                    #[inline(always)]
                    || {
                        for (to, x) in to.iter_mut().zip(row) {
                            *to = factor * exp(x - normaliser);
                        }
                    },
                );
                to[*token as usize] -= factor;
            }
            Self::Divergence { reference, weight } => {
                let (factor, total) = (g * weight, divergence(row, normaliser, reference));
                vectorized(
                    #[inline(always)]
                    || {
                        for ((to, x), q) in to.iter_mut().zip(row).zip(&**reference) {
                            *to = factor * exp(x - normaliser) * (x - normaliser - q - total);
                        }
                    },
                );
            }
        }
    }
}

impl Function<1> for Objective {
    const NAME: &'static str = "objective";

    fn value(&self, [x]: [Rows<'_>; 1]) -> (Vec<f32>, usize) {
        (x.iter().zip(&*self.0).map(|(row, term)| term.value(row)).collect(), 1)
    }

    fn gradient(&self, [x]: [Rows<'_>; 1], g: Rows<'_>) -> [Vec<f32>; 1] {
        let mut dx = vec![0.0; x.numbers.len()];
        for (((row, term), g), to) in x.iter().zip(&*self.0).zip(g.numbers).zip(dx.chunks_exact_mut(x.cols)) {
            term.gradient(row, *g, to);
        }
        [dx]
    }
}
