//! Targets: which output of a block, or of its MLP, makes the model say the new thing.

use std::fmt;

use super::descent::{Descent, Walk};
use super::steering::{Anchor, Site, Steered, Steering};
use crate::error::{NumericsError, Result, Shape};
use crate::llm::model::Model;
use crate::llm::ops::norm;
use crate::llm::prompt::{Contexts, Prompt, Request, targeted};
use crate::llm::tokenizer::Tokenizer;
use crate::util::validate;

/// How a target is sought.
///
/// With `v` the block's output at the fact's token (the subject's last, as a rule) of the bare prompt, or that of its MLP (see
/// [`Site`]), a vector `delta` is sought, from 0 on, that minimises
///
/// ```text
/// mean -log p(target)  +  divergence KL(p(next | subject) now || before)  +  decay |delta| / |v|²
/// ```
///
/// where the first mean is over the bare prompt and those behind some of the [`Contexts`], `delta` is added in all of them, and the
/// second term holds on to what else the model says after the subject, in `{subject} is a`. The target is `v + delta`, with the
/// `delta` of the largest probability, lengthened by the search's [`margin`](Self::margin).
///
/// At [`Site::MlpAndAttention`] a second vector is sought at the same time, at the attention's output, with a decay and a bound by
/// that output's own norm. It takes up what the change asks of the attention, and is not written: the target is that of the
/// MLP, on the output it has **without** the attention's vector, as the published programs record it. The model alone therefore
/// is less sure of a target when it is written than the search was.
///
/// A prompt says the fact in one way, and what is found for it need not reach other ways. Behind the first text words are
/// therefore put in after the subject, unless the search's [`Wording`] says otherwise.
///
/// # References
/// Meng et al., "Mass-Editing Memory in a Transformer", ICLR 2023, equation 16 and the published program, which all
/// programs of the family share. Two vectors: Li et al., "PMET: Precise Model Editing in a Transformer", AAAI 2024.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct TargetSearch {
    /// What targets are outputs of. Default: [`Site::Block`].
    pub site: Site,
    /// Evaluations of the loss, at most. Default: `20`.
    pub steps: usize,
    /// How it goes downhill. Default: along the gradient, in steps of `0.08 |v|`. The published programs go by Adam.
    pub descent: Descent,
    /// Weight of the norm of `delta`. Default: `0.5`.
    pub decay: f64,
    /// Weight of the divergence. Default: `0.0625`.
    pub divergence: f64,
    /// Bound on `|delta| / |v|`. Default: `0.75`.
    pub clamp: f64,
    /// The search ends when the mean `-log p(target)` falls below this. Default: `0.02`, a probability of 98 %. (The published
    /// program holds the whole loss against it, whose other terms alone keep many a search from ever getting there.)
    pub enough: f64,
    /// The vector that was found is lengthened by this share of it, within its bound, so that part of it is enough: that is what a
    /// paraphrase gets of it. It reaches more of them than a longer search does (`docs/experiments.md`).
    /// Default: `0.1`; the published programs have 0.
    pub margin: f64,
    /// Texts of the [`Contexts`] that the prompt is taken behind in the search, besides the bare prompt: the first ones. Each is
    /// one more sequence in every evaluation, and more of them reach paraphrases better (`docs/experiments.md`). Default: `3`.
    pub contexts: usize,
    /// How the prompt is worded behind them. Default: [`Wording::Aside`].
    pub wording: Wording,
}

/// How a prompt is worded behind the texts that a target is sought behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Wording {
    /// As it is given, as in the published programs.
    AsGiven,
    /// Behind the first text with words after the subject, "..., as everyone knows, ...", where a word follows it. The target
    /// hangs less on the words that happen to follow the subject then, and reaches more paraphrases, which are not known to
    /// the search (`docs/experiments.md`). The words are English.
    #[default]
    Aside,
}

impl Default for TargetSearch {
    fn default() -> Self {
        Self {
            site: Site::Block,
            steps: 20,
            descent: Descent::default(),
            decay: 0.5,
            divergence: 0.0625,
            clamp: 0.75,
            enough: 0.02,
            margin: 0.1,
            contexts: 3,
            wording: Wording::default(),
        }
    }
}

/// A target, and how the search for it went.
#[derive(Clone, PartialEq)]
pub struct Target {
    /// What the block, or its MLP, shall put out at the fact's token, `z*`.
    pub value: Vec<f32>,
    /// What it puts out now.
    pub start: Vec<f32>,
    /// The vector that was sought for the attention's output, if one was.
    pub attention: Option<Vec<f32>>,
    /// The mean `-log p` of the target's tokens at the vector that was found, before the margin: the smallest of all evaluations.
    pub likelihood: f32,
    /// The loss at each evaluation.
    pub losses: Vec<f32>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, start, attention, likelihood, losses } = self;
        let numbers = |of: &Vec<f32>| Shape::from((of.len(), 1));
        let mut shown = f.debug_struct("Target");
        shown.field("value", &numbers(value)).field("start", &numbers(start));
        shown.field("attention", &attention.as_ref().map(numbers)).field("likelihood", likelihood);
        shown.field("losses", losses).finish()
    }
}

impl TargetSearch {
    /// Sets what targets are outputs of.
    #[must_use]
    pub fn with_site(mut self, site: Site) -> Self {
        self.site = site;
        self
    }

    /// Sets the number of evaluations.
    #[must_use]
    pub fn with_steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// Sets how the search goes downhill.
    #[must_use]
    pub fn with_descent(mut self, descent: Descent) -> Self {
        self.descent = descent;
        self
    }

    /// Sets the weight of the norm.
    #[must_use]
    pub fn with_decay(mut self, decay: f64) -> Self {
        self.decay = decay;
        self
    }

    /// Sets the weight of the divergence.
    #[must_use]
    pub fn with_divergence(mut self, divergence: f64) -> Self {
        self.divergence = divergence;
        self
    }

    /// Sets the bound on the change.
    #[must_use]
    pub fn with_clamp(mut self, clamp: f64) -> Self {
        self.clamp = clamp;
        self
    }

    /// Sets the mean `-log p(target)` at which the search ends.
    #[must_use]
    pub fn with_enough(mut self, enough: f64) -> Self {
        self.enough = enough;
        self
    }

    /// Sets by what share of it the vector that was found is lengthened.
    #[must_use]
    pub fn with_margin(mut self, margin: f64) -> Self {
        self.margin = margin;
        self
    }

    /// Sets the number of texts that the prompt is taken behind.
    #[must_use]
    pub fn with_contexts(mut self, contexts: usize) -> Self {
        self.contexts = contexts;
        self
    }

    /// Sets how the prompt is worded behind the texts.
    #[must_use]
    pub fn with_wording(mut self, wording: Wording) -> Self {
        self.wording = wording;
        self
    }

    /// The prompts of a search, each continued by the target, and where that starts.
    pub(in crate::llm) fn prompts(
        &self,
        tokenizer: &Tokenizer,
        contexts: &Contexts,
        request: &Request,
    ) -> Result<Vec<(Prompt, usize)>> {
        let aside = request.with_aside().filter(|_| self.wording == Wording::Aside);
        let worded = |i: usize| aside.as_ref().filter(|_| i == 1).unwrap_or(request);
        let openings = contexts.openings().take(self.contexts.saturating_add(1)).enumerate();
        openings.map(|(i, opening)| targeted(tokenizer, &opening, worded(i))).collect()
    }

    /// Seeks the target of a request at block `layer`, on the model as it is now.
    ///
    /// An evaluation runs the blocks above forth and, but for the last one, back, from the fact's token on; with the attention's
    /// vector, the block's own MLP as well.
    ///
    /// # Errors
    /// Settings out of range, an unknown layer, a request that the tokenizer makes no sense of, or one that is longer than
    /// the model's context.
    pub fn run(
        &self,
        model: &Model,
        tokenizer: &Tokenizer,
        contexts: &Contexts,
        layer: usize,
        request: &Request,
    ) -> Result<Target> {
        self.check()?;
        let prompts = self.prompts(tokenizer, contexts, request)?;
        let sequences: Vec<Steered<'_>> = (prompts.iter())
            .map(|(prompt, start)| Steered { tokens: &prompt.tokens, position: prompt.position, start: *start })
            .collect();
        let kind = Request::checked(request.subject(), "{} is a", request.target()).with_token(request.token());
        let anchor = Prompt::new(tokenizer, "", &kind, "")?;
        let anchor = (self.divergence > 0.0).then_some(Anchor {
            tokens: &anchor.tokens,
            position: anchor.position,
            weight: self.divergence as f32,
        });
        let steering = Steering::new(model, layer, self.site, &sequences, anchor)?;
        self.descend(&steering)
    }

    fn check(&self) -> Result<()> {
        if self.steps == 0 {
            return Err(NumericsError::Parameter { parameter: "steps", value: 0.0, allowed: "at least 1" }.into());
        }
        self.descent.check()?;
        validate::non_negative("decay", self.decay)?;
        validate::non_negative("divergence", self.divergence)?;
        validate::positive("clamp", self.clamp)?;
        validate::non_negative("enough", self.enough)?;
        Ok(validate::non_negative("margin", self.margin)?)
    }

    fn descend(&self, steering: &Steering<'_>) -> Result<Target> {
        let mut start = steering.outputs(0)?;
        let hidden = steering.hidden();
        let sizes: Vec<f32> = start.chunks_exact(hidden).map(norm).collect();
        let mut walk = Walk::new(self.descent, &sizes, hidden);
        let mut vectors = vec![0.0; start.len()];
        let (mut best, mut likelihood) = (vectors.clone(), f32::INFINITY);
        let mut losses = vec![];
        loop {
            let evaluation = steering.evaluate(&vectors)?;
            let lengths: Vec<f32> = vectors.chunks_exact(hidden).map(norm).collect();
            let slopes: Vec<f32> = sizes.iter().map(|size| self.decay as f32 / (size * size)).collect();
            // An output that is zero gets no vector: it is bound to zero length.
            let decay = lengths.iter().zip(&slopes).filter(|(length, _)| **length > 0.0).map(|(x, slope)| x * slope);
            let loss = evaluation.likelihood + evaluation.divergence + decay.sum::<f32>();
            validate::in_range("the search for a target", &[f64::from(loss)])?;
            losses.push(loss);
            if evaluation.likelihood < likelihood {
                likelihood = evaluation.likelihood;
                best.copy_from_slice(&vectors);
            }
            if f64::from(likelihood) < self.enough || losses.len() == self.steps {
                break;
            }
            let mut gradient = evaluation.gradient()?;
            for (i, gradient) in gradient.chunks_exact_mut(hidden).enumerate().filter(|(i, _)| lengths[*i] > 0.0) {
                let delta = &vectors[i * hidden..(i + 1) * hidden];
                gradient.iter_mut().zip(delta).for_each(|(g, d)| *g += slopes[i] * d / lengths[i]);
            }
            if !walk.step(&mut vectors, &gradient) {
                break;
            }
            self.scale(&mut vectors, &sizes, 1.0);
        }
        self.scale(&mut best, &sizes, 1.0 + self.margin);
        start.truncate(hidden);
        let value = start.iter().zip(&best).map(|(v, d)| v + d).collect();
        let attention = best.chunks_exact(hidden).nth(1).map(<[f32]>::to_vec);
        Ok(Target { value, start, attention, likelihood, losses })
    }

    /// Multiplies vectors by a factor, or by what takes them to their bounds if that is less.
    fn scale(&self, vectors: &mut [f32], sizes: &[f32], factor: f64) {
        let hidden = vectors.len() / sizes.len();
        for (delta, size) in vectors.chunks_exact_mut(hidden).zip(sizes) {
            let length = f64::from(norm(delta));
            if length > 0.0 {
                let factor = factor.min(self.clamp * f64::from(*size) / length) as f32;
                delta.iter_mut().for_each(|d| *d *= factor);
            }
        }
    }
}
