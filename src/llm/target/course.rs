//! The course of one search.

use super::descent::{Descent, Walk};
use super::rows::LossParts;
use super::search::{Target, TargetSearch};
use super::sensitivity::Sensitivity;
use crate::error::Result;
use crate::llm::ops::norm;
use crate::util::validate;

/// A search under way: where it is, and the best that it has seen.
pub(super) struct Course<'a> {
    search: &'a TargetSearch,
    sensitivity: Option<&'a Sensitivity>,
    walk: Walk,
    /// The outputs that vectors are added to, and their lengths.
    start: Vec<f32>,
    sizes: Vec<f32>,
    hidden: usize,
    /// The vectors to evaluate next.
    vectors: Vec<f32>,
    best: Vec<f32>,
    likelihood: f32,
    reached: f32,
    losses: Vec<f32>,
}

/// How a search goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Going {
    On,
    Ended,
}

impl<'a> Course<'a> {
    /// Begins at zero.
    ///
    /// * `start`: the outputs that vectors are added to
    pub(super) fn new(
        search: &'a TargetSearch,
        sensitivity: Option<&'a Sensitivity>,
        start: Vec<f32>,
        hidden: usize,
    ) -> Self {
        let sizes: Vec<f32> = start.chunks_exact(hidden).map(norm).collect();
        let walk = Walk::new(search.descent, &sizes, hidden);
        let (vectors, best) = (vec![0.0; start.len()], vec![0.0; start.len()]);
        let (likelihood, reached, losses) = (f32::INFINITY, f32::INFINITY, vec![]);
        Self { search, sensitivity, walk, start, sizes, hidden, vectors, best, likelihood, reached, losses }
    }

    pub(super) fn vectors(&self) -> &[f32] {
        &self.vectors
    }

    /// What the decay adds to the loss for each unit of length.
    fn slopes(&self) -> impl Iterator<Item = f32> {
        let decay = self.search.decay as f32;
        self.sizes.iter().map(move |size| decay / (size * size))
    }

    fn lengths(&self) -> Vec<f32> {
        self.vectors.chunks_exact(self.hidden).map(norm).collect()
    }

    /// Takes note of an evaluation at the vectors.
    pub(super) fn observe(&mut self, parts: LossParts) -> Result<Going> {
        // An output that is zero gets no vector: it is bound to zero length.
        let lengths = self.lengths();
        let decay = lengths.iter().zip(self.slopes()).filter(|(length, _)| **length > 0.0).map(|(x, slope)| x * slope);
        let loss = parts.likelihood + parts.naming + parts.divergence + decay.sum::<f32>();
        validate::in_range("the search for a target", &[f64::from(loss)])?;
        self.losses.push(loss);
        if parts.likelihood + parts.naming < self.reached {
            self.reached = parts.likelihood + parts.naming;
            self.likelihood = parts.likelihood;
            self.best.copy_from_slice(&self.vectors);
        }
        let ended = f64::from(self.reached) < self.search.enough || self.losses.len() == self.search.steps;
        Ok(if ended { Going::Ended } else { Going::On })
    }

    /// Takes a step, with the gradient of the loss at the vectors, which it changes.
    pub(super) fn step(&mut self, gradient: &mut [f32]) -> Going {
        let hidden = self.hidden;
        let (lengths, slopes) = (self.lengths(), self.slopes().collect::<Vec<_>>());
        for (i, gradient) in gradient.chunks_exact_mut(hidden).enumerate().filter(|(i, _)| lengths[*i] > 0.0) {
            let delta = &self.vectors[i * hidden..(i + 1) * hidden];
            gradient.iter_mut().zip(delta).for_each(|(g, d)| *g += slopes[i] * d / lengths[i]);
        }
        if let (Some(sensitivity), Descent::Steepest { .. }) = (self.sensitivity, self.search.descent) {
            gradient.chunks_exact_mut(hidden).for_each(|gradient| sensitivity.turn(gradient));
        }
        if !self.walk.step(&mut self.vectors, gradient) {
            return Going::Ended;
        }
        bound(&mut self.vectors, &self.sizes, self.search.clamp, 1.0);
        Going::On
    }

    /// The target that was found.
    pub(super) fn target(mut self) -> Target {
        bound(&mut self.best, &self.sizes, self.search.clamp, 1.0 + self.search.margin);
        self.start.truncate(self.hidden);
        let value = self.start.iter().zip(&self.best).map(|(v, d)| v + d).collect();
        let attention = self.best.chunks_exact(self.hidden).nth(1).map(<[f32]>::to_vec);
        Target { value, start: self.start, attention, likelihood: self.likelihood, losses: self.losses }
    }
}

/// Multiplies vectors by a factor, or by the factor that reaches their bounds if that is smaller.
fn bound(vectors: &mut [f32], sizes: &[f32], clamp: f64, factor: f64) {
    let hidden = vectors.len() / sizes.len();
    for (delta, size) in vectors.chunks_exact_mut(hidden).zip(sizes) {
        let length = f64::from(norm(delta));
        if length > 0.0 {
            let factor = factor.min(clamp * f64::from(*size) / length) as f32;
            delta.iter_mut().for_each(|d| *d *= factor);
        }
    }
}
