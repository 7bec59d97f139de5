//! Measures whether an edited model gives the new answers and keeps the other ones.
//!
//! Every fact is asked in three ways: its prompt, its paraphrases, and its neighborhood prompts. At each, one target
//! should win (the new one; at neighborhood prompts the true one) over a rival (the other one). The share of prompts
//! where it does is
//!
//! | | prompt | paraphrases | neighborhood |
//! |---|---|---|---|
//! | it wins if every token of it is the model's argmax, given those before | `efficacy` | `generality` | `specificity` |
//! | it wins if it is more probable than its rival (ties lose) | `efficacy_prob` | `generality_prob` | `specificity_prob` |
//! | its tokens that are the model's argmax, given those before | `efficacy_tokens` | `generality_tokens` | `specificity_tokens` |
//!
//! The first row is what BetaEdit's paper reports on CounterFact, the second what ROME, MEMIT and AlphaEdit report
//! (success scores ES, PS, NS), the third the measure of ZsRE. The probability of a target of several tokens is the
//! geometric mean over its tokens, so that long targets are not at a disadvantage (as in MEMIT's program). All are
//! taken with the target's own earlier tokens in place (teacher forcing), which flatters long targets in the first and
//! third row. A [`Rate`] averages over the prompts of a case first, then over cases, as MEMIT does.
//!
//! *Agreement* at neighborhood prompts compares with the unedited model instead of the truth: the share of the true
//! target's positions where the argmax is what it was before the edits (the locality of `EasyEdit`;
//! [`Evaluation::neighborhood_agreement`]). On small models, which know few answers, it says more than specificity.
//!
//! All of these are taken with the right beginning of the answer in place. What a user sees is what the model generates: a [`Generator`]
//! answers in words of its own, in the settings that [`Setting`] lists, and a [`Generation`] holds its answers and gives their rates.
//!
//! [`probe`] asks for what should follow from a fact and what should stay ([`FactProbe`](super::FactProbe)). [`Probing::summary`] gives a
//! rate for each criterion of the data set, from the answers after the edits and before them. It counts as the authors of the data sets do:
//!
//! | data set | a probe is passed if | the authors' figure |
//! |---|---|---|
//! | KnowEdit, WikiBigEdit | its answer names one form of what is wanted | portability: `passed`; locality: `agreement` with the unedited model |
//! | MQuAKE | an answer to any of three wordings does; to all questions along the way for `single-hop` | `passed` |
//! | RippleEdits | one answer or all of them (`OR`, `AND`) name all that is wanted; it counts only if its conditions held on the unedited model | `passed_where_written` |
//! | UnKEBench | (answers are sentences) | `recall`; of the passages, `efficacy_recall` and `generality_recall` of a [`GenerationSummary`] |
//!
//! Where the authors let a large model judge (UnKEBench's `sub_question`), compare tokens with the right ones in place (KnowEdit), or show
//! examples before the question (MQuAKE), the figures differ from theirs.
//!
//! [`KnownAnswers`] are the answers to facts that the model is expected to know, such as the [`known`](crate::facts::shipped::known) ones
//! shipped here, and say which of them it forgot.
//!
//! [`Perplexity`] is that of held-out text.
//!
//! A model is given as a [`Scorer`]: a type that implements the trait, or a closure.
//!
//! ```
//! use betaedit_core::facts::{Facts, metrics};
//! use betaedit_core::facts::metrics::{Query, TokenScore};
//!
//! // One fact; a model of two tokens that answers "Rome" to everything about France, "Paris" otherwise.
//! let facts = Facts::parse("inline", r#"{
//!     "subject": "France", "prompt": "The capital of {} is", "target_new": "Rome", "target_true": "Paris",
//!     "paraphrase_prompts": ["France is governed from", "Parliament in Lutetia sits in"],
//!     "neighborhood_prompts": ["The Louvre stands in"]
//! }"#)?;
//! let mut model = |queries: &[Query<'_>]| Ok(queries.iter().map(|query| {
//!     let argmax = if query.prompt.contains("France") { "Rome" } else { "Paris" };
//!     let log_probability = if query.target == argmax { 0.9f64.ln() } else { 0.1f64.ln() };
//!     let id = |word: &str| u32::from(word == "Paris");
//!     vec![TokenScore { token: id(query.target), log_probability, argmax: id(argmax) }]
//! }).collect());
//!
//! let summary = metrics::evaluate(&mut model, facts.iter())?.summary();
//! assert_eq!(summary.efficacy.unwrap().mean, 1.0);
//! assert_eq!(summary.generality.unwrap().mean, 0.5);
//! assert_eq!(summary.specificity_prob.unwrap().mean, 1.0);
//! # Ok::<(), betaedit_core::Error>(())
//! ```
//!
//! # References
//!
//! 1. Meng, Bau, Andonian, Belinkov: "Locating and Editing Factual Associations in GPT", NeurIPS 2022 (CounterFact, its scores)
//! 2. Meng, Sharma, Andonian, Belinkov, Bau: "Mass-Editing Memory in a Transformer", ICLR 2023 (scores on ZsRE)
//! 3. Levy, Seo, Choi, Zettlemoyer: "Zero-Shot Relation Extraction via Reading Comprehension", CoNLL 2017 (ZsRE)
//! 4. Mitchell et al.: "Fast Model Editing at Scale", ICLR 2022 (its evaluation set)
//! 5. Wang et al.: "EasyEdit: An Easy-to-use Knowledge Editing Framework for Large Language Models", ACL 2024 (locality)
//! 6. Zhang et al.: "A Comprehensive Study of Knowledge Editing for Large Language Models", arXiv 2401.01286 (KnowEdit)
//! 7. Zhong et al.: "MQuAKE: Assessing Knowledge Editing in Language Models via Multi-Hop Questions", EMNLP 2023
//! 8. Cohen et al.: "Evaluating the Ripple Effects of Knowledge Editing in Language Models", TACL 2024 (RippleEdits)
//! 9. Thede et al.: "WikiBigEdit: Understanding the Limits of Lifelong Knowledge Editing in LLMs", ICML 2025
//! 10. Deng et al.: "Everything is Editable", ICLR 2025 (UnKEBench)
//! 11. Yang et al.: "The Mirage of Model Editing: Revisiting Evaluation in the Wild", ACL 2025 (QAEdit)

mod evaluation;
mod generation;
mod known;
mod matching;
mod overlap;
mod perplexity;
mod probing;
mod rate;
mod replies;

pub use evaluation::{Answer, Case, Contest, Evaluation, Summary, evaluate};
pub use generation::{Generator, Question, Setting};
pub use known::{KnownAnswer, KnownAnswers};
pub use matching::{is_exactly, says};
pub use overlap::rouge_l_recall;
pub use perplexity::Perplexity;
pub use probing::{ProbeAnswer, ProbeRates, ProbeReplies, ProbeReply, Probing, probe};
pub use rate::Rate;
pub use replies::{Generation, GenerationSummary, Purpose, Replies, Reply};

use crate::error::Result;
use crate::util::text;

/// One question to a model: how probable is this target after this prompt?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Query<'a> {
    /// The prompt, without a space at its end.
    pub prompt: &'a str,
    /// The target, without a space at its start. It follows the prompt as in [`text`](Self::text).
    pub target: &'a str,
}

impl Query<'_> {
    /// The prompt with its target: after a space, or directly where the prompt's script has no spaces between words, and after an opening
    /// bracket or quotation mark.
    ///
    /// ```
    /// use betaedit_core::facts::metrics::Query;
    ///
    /// assert_eq!(Query { prompt: "The capital of France is", target: "Paris" }.text(), "The capital of France is Paris");
    /// assert_eq!(Query { prompt: "フランスの首都は", target: "パリ" }.text(), "フランスの首都はパリ");
    /// ```
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}{}", self.prompt, text::separator(self.prompt), self.target)
    }
}

/// What a model says at one token of a target, given the prompt and the target's tokens before it.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TokenScore {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability.
    pub log_probability: f64,
    /// The most probable token at this place.
    pub argmax: u32,
}

/// A model that scores targets.
///
/// Closures from queries to scores implement it.
pub trait Scorer {
    /// The scores of the tokens of each query's target, in order. Queries of the same prompt come one after the other.
    ///
    /// # Errors
    /// Any failure of the model, as [`ModelError::Adapter`](crate::error::ModelError::Adapter).
    fn score(&mut self, queries: &[Query<'_>]) -> Result<Vec<Vec<TokenScore>>>;
}

impl<F> Scorer for F
where
    F: FnMut(&[Query<'_>]) -> Result<Vec<Vec<TokenScore>>>,
{
    fn score(&mut self, queries: &[Query<'_>]) -> Result<Vec<Vec<TokenScore>>> {
        self(queries)
    }
}
