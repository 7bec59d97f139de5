//! Requests to edit, read from common file formats, and metrics of edited models.
//!
//! A [`Fact`] is one request: a subject, a prompt with `{}` in place of the subject, and the target that should follow the
//! prompt after the edit. The metrics also use the target that follows it before the edit, paraphrases of the prompt, and
//! neighborhood prompts, which are about other subjects and must keep their answers. A [`FactProbe`] tests what should follow from the
//! edit (portability), or what should stay (locality), by the criteria of its data set. [`Facts::read`] reads them from
//!
//! | [`Layout`] | a record's fields | where it comes from |
//! |---|---|---|
//! | `CounterFact` | `requested_rewrite` {`subject`, `prompt`, `target_new` {`str`}, `target_true` {`str`}}, `paraphrase_prompts`, `neighborhood_prompts` | CounterFact and multi_counterfact, as published |
//! | `Zsre` | `subject`, `src`, `answers`, `alt`, `rephrase`, `loc`, `loc_ans`; see [`ZsreTarget`] | the ZsRE evaluation set of MEND, as published |
//! | `Mquake` | `requested_rewrite` [as CounterFact's, `question`], `questions`, `new_answer`, `new_answer_alias`, `new_single_hops` | MQuAKE, as published |
//! | `RippleEdits` | `edit` {`prompt`, `original_fact`}, and lists of {`test_queries`, `test_condition`, `condition_queries`} under the names of its criteria | RippleEdits, as published |
//! | `UnkeBench` | `question`, `answer`, `para_question`, `sub_question`, `sub_answer` | UnKEBench, as published |
//! | `Flat` | `subject`, `prompt`, `target_new`, `target_true`, `paraphrase_prompts`, `neighborhood_prompts`, `probes` | flattened copies, EasyEdit, KnowEdit, WikiBigEdit, UltraEdit, and the [facts shipped here](shipped) |
//! | `Plain` | `subject`, `prompt`, `target`, and what `Flat` has besides | written by hand, QAEdit |
//!
//! in a JSON list, under `records` in a JSON object, or one record a line (JSON lines). The layout is recognised by the
//! fields. In the last two, fields also have the names that other data sets give them:
//!
//! | field | other names |
//! |---|---|
//! | `subject` | `concept` |
//! | `prompt` | `update`, `text`, `question` |
//! | `target_new` | `ans`, `labels` |
//! | `target_true` | `ground_truth` (of a list, the first) |
//! | `paraphrase_prompts` | `rephrase_prompts`, `rephrase_prompt`, `rephrase` |
//! | `neighborhood_prompts` | `locality_prompt` with `locality_ground_truth`, `loc` with `loc_ans`, `locality`: lists of {`prompt`, `ground_truth`} or {`loc`, `loc_ans`} |
//! | `probes` | `portability` and `locality`: an object with a list of {`prompt`, `ground_truth`} for each criterion, where any text of `ground_truth` counts; `personas`; `mhop` with `mhop_ans` |
//!
//! Written out, one of `probes` has `category` (`portability` or `locality`), `criterion`, `needed` (`all` or `any` of the questions),
//! `questions` and `conditions`: lists of {`prompt`, `answers`}, where `answers` has a list of forms for each thing that must be named.
//!
//! If a record of `Flat`, `Plain` or `UnkeBench` names no subject, it is the one text in quotation marks in its prompt, or else the run of
//! words with capitals that most of the record's other texts mention, of several the longest; [`Facts::inferred_subjects`] counts such
//! records. One whose prompt has no such name is refused, as are the parts of KnowEdit that have no target of a fact: `ConvSent`, and
//! `Sanitation` in its published form.
//!
//! [`Facts::unread`] says which fields of a file were not read, and which questions had no answer.
//!
//! [`metrics`] measures efficacy, generality, specificity and perplexity on any model that can score a continuation, and all that a model
//! answers in words of its own, [probes](metrics::probe) included.
//!
//! ```
//! use betaedit_core::facts::Facts;
//!
//! let list = r#"[{"subject": "France", "prompt": "The capital of {} is", "target": "Rome"}]"#;
//! let facts = Facts::parse("facts.json", list)?;
//! assert_eq!(facts[0].full_prompt(), "The capital of France is");
//!
//! let error = Facts::parse("facts.json", r#"[{"subject": "France", "prompt": "The capital of {} is", "target": ""}]"#);
//! assert_eq!(
//!     error.unwrap_err().to_string(),
//!     "facts.json: record 1, field `target`: is empty; give the text after the prompt"
//! );
//! # Ok::<(), betaedit_core::Error>(())
//! ```

mod fact;
mod fields;
mod file;
mod known;
mod layouts;
pub mod metrics;
mod neighborhood;
mod probe;
mod probes;
mod record;
mod rewrite;
pub mod shipped;
mod subject;
mod unique;

pub use fact::{Fact, NeighborhoodPrompt};
pub use file::{Facts, ReadOptions, Unread};
pub use known::Known;
pub use layouts::zsre::ZsreTarget;
pub use probe::{FactProbe, Needed, ProbeCategory, ProbeQuestion};
pub use record::Layout;

/// Whether a text mentions a subject, and not only as a part of a longer word. In scripts without spaces between words, and in Hangul, where
/// particles follow a word directly, any place counts.
///
/// ```
/// use betaedit_core::facts::mentions;
///
/// assert!(mentions("Lyon's river", "Lyon") && mentions("서울은 어느 나라의 수도입니까?", "서울"));
/// assert!(!mentions("Paulsboro", "Paul"));
/// ```
#[must_use]
pub fn mentions(text: &str, subject: &str) -> bool {
    !crate::util::text::occurrences(text, subject).is_empty()
}
