//! Requests to edit, read from common file formats, and metrics of edited models.
//!
//! A [`Fact`] is one request: a subject, a prompt with `{}` in place of the subject, and the target that should follow the
//! prompt after the edit. The metrics also use the target that follows it before the edit, paraphrases of the prompt, and
//! neighborhood prompts, which are about other subjects and must keep their answers. [`Facts::read`] reads them from
//!
//! | [`Layout`] | a record's fields | where it comes from |
//! |---|---|---|
//! | `CounterFact` | `requested_rewrite` {`subject`, `prompt`, `target_new` {`str`}, `target_true` {`str`}}, `paraphrase_prompts`, `neighborhood_prompts` | CounterFact and multi_counterfact, as published |
//! | `Zsre` | `subject`, `src`, `answers`, `rephrase`, `loc`, `loc_ans` | the ZsRE evaluation set of MEND, as published |
//! | `Flat` | `subject`, `prompt`, `target_new`, `target_true`, `paraphrase_prompts`, `neighborhood_prompts` | flattened copies of either, EasyEdit, KnowEdit, WikiBigEdit, UltraEdit, and the [facts shipped here](shipped) |
//! | `Plain` | `subject`, `prompt`, `target`, and what `Flat` has besides | written by hand, QAEdit |
//!
//! in a JSON list, under `records` in a JSON object, or one record a line (JSON lines). The layout is recognised by the
//! fields. In the last two, fields also have the names that other data sets give them:
//!
//! | field | other names |
//! |---|---|
//! | `subject` | `concept` |
//! | `prompt` | `update`, `text` |
//! | `target_new` | `ans`, `labels` |
//! | `target_true` | `ground_truth` (of a list, the first) |
//! | `paraphrase_prompts` | `rephrase_prompts`, `rephrase_prompt`, `rephrase` |
//! | `neighborhood_prompts` | `locality_prompt` with `locality_ground_truth`, `loc` with `loc_ans`, `locality`: lists of {`prompt`, `ground_truth`} or {`loc`, `loc_ans`} |
//!
//! [`Facts::unread`] says which fields of a file were not read.
//!
//! [`metrics`] measures efficacy, generality, specificity and perplexity on any model that can score a continuation.
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
pub mod metrics;
mod neighborhood;
mod record;
pub mod shipped;
mod unique;

pub use fact::{Fact, NeighborhoodPrompt};
pub use file::{Facts, Unread};
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
