//! The search for a target: an output of a block, or of its MLP, that makes the model give the new answer.

use std::fmt;

use super::descent::Descent;
use super::site::Site;
use crate::error::{NumericsError, Result, Shape};
use crate::llm::prompt::Request;
use crate::llm::surroundings::{Asked, Surroundings};
use crate::llm::tokenizer::Tokenizer;
use crate::util::named::named;
use crate::util::setters::setters;
use crate::util::validate;

/// Settings of the search for a target.
///
/// Let `v` be the output of the block, or of its MLP (see [`Site`]), at the fact's token of the bare prompt, usually the subject's last
/// token. The search starts at 0 and finds a vector `delta` that minimises
///
/// ```text
/// mean -log p(target)  +  naming mean -log p(subject)  +  divergence KL(p(next | subject) now || before)  +  decay |delta| / |v|²
/// ```
///
/// The first mean is over the places of the [`Surroundings`], each once, with some of its contexts, and `delta` is added at the fact's token
/// in all of them; in [`Place::Answer`](crate::llm::Place::Answer) at that of the question and at that of the answer. There, the second
/// term keeps the model able to say the subject's name: without it, a new answer often comes with a garbled name. The third term keeps what
/// else the model says about the subject, in `{subject} is a`. The target is `v + delta` for the `delta` with the largest probability
/// (of the first two terms), lengthened by the [`margin`](Self::margin).
///
/// At [`Site::MlpAndAttention`] a second vector is sought at the same time, at the attention's output, with a decay and a bound relative
/// to the norm of that output. It carries the part of the change that falls to the attention, and is not written. The target is that of
/// the MLP, relative to the output it has **without** the attention's vector, as in the published programs. So the edited model is less
/// sure of the target than the search was.
///
/// A prompt states the fact in one way, and what is found for it need not reach other wordings. Therefore an aside is inserted after the
/// subject in the prompt after the first text, unless [`Wording`] says otherwise.
///
/// # References
/// Meng et al., "Mass-Editing Memory in a Transformer", ICLR 2023, equation 16 and the published program, which all
/// programs of the family share. Two vectors: Li et al., "PMET: Precise Model Editing in a Transformer", AAAI 2024.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct TargetSearch {
    /// The output that targets belong to. Default: [`Site::Block`].
    pub site: Site,
    /// The largest number of evaluations of the loss. Default: `20`.
    pub steps: usize,
    /// The descent. Default: along the gradient, in steps of `0.08 |v|`. The published programs use Adam.
    pub descent: Descent,
    /// Weight of the norm of `delta`. Default: `0.8`; the published programs have 0.5.
    pub decay: f64,
    /// Weight of the divergence. Default: `0.0625`.
    pub divergence: f64,
    /// Weight of the subject's name, where the model has to say it. Default: `0.04`; the published programs have 0.
    pub naming: f64,
    /// Bound on `|delta| / |v|`. Default: `0.75`.
    pub clamp: f64,
    /// The search ends when the first two terms fall below this. Default: `0.05`, a probability of 95 %. (The published program
    /// compares the whole loss, whose other terms often stay above such a bound.)
    pub enough: f64,
    /// The vector that was found is lengthened by this share, within its bound. A paraphrase receives only part of the vector, and with a
    /// margin this part is more often enough, at the cost of what is near; keys in several places reach paraphrases at a smaller cost
    /// (`docs/experiments.md`). Default: `0`, as in the published programs.
    pub margin: f64,
    /// How many of the [`Contexts`](crate::llm::Contexts), from the first on, are used in the search. Each adds a sequence to every
    /// evaluation; the keys are written for all of them (`docs/experiments.md`). Default: `1`.
    pub contexts: usize,
    /// How the prompt is worded after the contexts. Default: [`Wording::Aside`].
    pub wording: Wording,
}

/// How a prompt is worded after a context in the search for a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Wording {
    /// As given. The published programs do this.
    AsGiven,
    /// After the first context, with ", as everyone knows," inserted after the subject if a word follows it. Then the target depends less
    /// on the words that happen to follow the subject, and reaches more paraphrases that the search does not see
    /// (`docs/experiments.md`). The inserted words are English.
    #[default]
    Aside,
}

named!(Wording, "wording of a prompt", { AsGiven => "as-given", Aside => "aside" });

impl Default for TargetSearch {
    fn default() -> Self {
        Self {
            site: Site::Block,
            steps: 20,
            descent: Descent::default(),
            decay: 0.8,
            divergence: 0.0625,
            naming: 0.04,
            clamp: 0.75,
            enough: 0.05,
            margin: 0.0,
            contexts: 1,
            wording: Wording::default(),
        }
    }
}

/// A target, and the course of its search.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Target {
    /// The output `z*` that the block, or its MLP, should have at the fact's token.
    pub value: Vec<f32>,
    /// The output it has now.
    pub start: Vec<f32>,
    /// The vector for the attention's output, if the site has one.
    pub attention: Option<Vec<f32>>,
    /// The smallest mean `-log p` of the target's tokens of all evaluations, before the margin.
    pub likelihood: f32,
    /// The loss of each evaluation.
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

setters!(TargetSearch {
    /// Sets the output that targets belong to.
    with_site(site: Site),
    /// Sets the number of evaluations.
    with_steps(steps: usize),
    /// Sets the descent.
    with_descent(descent: Descent),
    /// Sets the weight of the norm.
    with_decay(decay: f64),
    /// Sets the weight of the divergence.
    with_divergence(divergence: f64),
    /// Sets the weight of the subject's name.
    with_naming(naming: f64),
    /// Sets the bound on the change.
    with_clamp(clamp: f64),
    /// Sets the `-log p` at which the search ends.
    with_enough(enough: f64),
    /// Sets the share by which the vector that was found is lengthened.
    with_margin(margin: f64),
    /// Sets the number of contexts.
    with_contexts(contexts: usize),
    /// Sets how the prompt is worded after the contexts.
    with_wording(wording: Wording),
});

impl TargetSearch {
    /// A request in the places of a search.
    pub(in crate::llm) fn asked(
        &self,
        tokenizer: &Tokenizer,
        surroundings: &Surroundings,
        request: &Request,
    ) -> Result<Vec<(Asked, f32)>> {
        let aside = request.with_aside().filter(|_| self.wording == Wording::Aside);
        surroundings.asked(tokenizer, request, self.contexts, aside.as_ref())
    }

    /// Refuses settings out of range.
    pub(super) fn check(&self) -> Result<()> {
        if self.steps == 0 {
            return Err(NumericsError::Parameter { parameter: "steps", value: 0.0, allowed: "at least 1" }.into());
        }
        self.descent.check()?;
        validate::non_negative("decay", self.decay)?;
        validate::non_negative("divergence", self.divergence)?;
        validate::non_negative("naming", self.naming)?;
        validate::positive("clamp", self.clamp)?;
        validate::non_negative("enough", self.enough)?;
        Ok(validate::non_negative("margin", self.margin)?)
    }
}
