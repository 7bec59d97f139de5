//! One request.

use serde::{Deserialize, Serialize};

use super::probe::FactProbe;

/// The placeholder of the subject in a prompt.
pub(super) const PLACE: &str = "{}";

/// One request to edit: the text that the model should put after a prompt about a subject.
///
/// Every fact is valid: no text is empty, the prompt has exactly one `{}`, and the new target differs from the true one. Texts
/// have no space at their ends; a target follows its prompt as [`Query::text`](super::metrics::Query::text) says.
///
/// Serialised, a fact is a record of the flat layout. It can be deserialised from a record of any [`Layout`](super::Layout).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value")]
pub struct Fact {
    pub(super) case_id: u64,
    pub(super) subject: String,
    pub(super) prompt: String,
    pub(super) target_new: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target_true: Option<String>,
    pub(super) paraphrase_prompts: Vec<String>,
    pub(super) neighborhood_prompts: Vec<NeighborhoodPrompt>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) probes: Vec<FactProbe>,
}

/// A prompt about another subject, and the answer it must keep.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NeighborhoodPrompt {
    pub(super) prompt: String,
    pub(super) target_true: String,
}

impl NeighborhoodPrompt {
    /// The complete prompt.
    #[must_use]
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// The answer, which an edit must not change.
    #[must_use]
    pub fn target_true(&self) -> &str {
        &self.target_true
    }
}

impl Fact {
    /// The `case_id` of the record, or its place in the file counted from 0.
    #[must_use]
    pub fn case_id(&self) -> u64 {
        self.case_id
    }

    /// The person or thing that the fact is about.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The prompt, with `{}` in place of the subject.
    #[must_use]
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// The text that should follow the prompt after the edit.
    #[must_use]
    pub fn target_new(&self) -> &str {
        &self.target_new
    }

    /// The text that follows the prompt before the edit, if the record gives it.
    #[must_use]
    pub fn target_true(&self) -> Option<&str> {
        self.target_true.as_deref()
    }

    /// Other ways to ask for the same fact, as complete prompts.
    #[must_use]
    pub fn paraphrase_prompts(&self) -> &[String] {
        &self.paraphrase_prompts
    }

    /// Prompts that must keep their answers.
    #[must_use]
    pub fn neighborhood_prompts(&self) -> &[NeighborhoodPrompt] {
        &self.neighborhood_prompts
    }

    /// Tests of what follows from the fact, and of what must stay.
    #[must_use]
    pub fn probes(&self) -> &[FactProbe] {
        &self.probes
    }

    /// The prompt with the subject in its place.
    #[must_use]
    pub fn full_prompt(&self) -> String {
        self.prompt.replacen(PLACE, &self.subject, 1)
    }

    /// The prompt up to and including the subject: its last token is the one whose key an edit writes to.
    #[must_use]
    pub fn prompt_to_subject(&self) -> String {
        let end = self.prompt.find(PLACE).unwrap_or(self.prompt.len());
        format!("{}{}", &self.prompt[..end], self.subject)
    }
}
