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
//! | `Flat` | `subject`, `prompt`, `target_new`, `target_true`, `paraphrase_prompts`, `neighborhood_prompts` | flattened copies of either, and the [facts shipped here](shipped) |
//! | `Plain` | `subject`, `prompt`, `target` | written by hand |
//!
//! in a JSON list, under `records` in a JSON object, or one record a line (JSON lines). The layout is recognised by the
//! fields. Other fields are ignored.
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
mod file;
pub mod metrics;
mod record;
pub mod shipped;

pub use fact::{Fact, NeighborhoodPrompt};
pub use file::Facts;
pub use record::Layout;
