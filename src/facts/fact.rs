//! One request.

use serde::{Deserialize, Serialize};

/// What stands in a prompt in the subject's place.
pub(super) const PLACE: &str = "{}";

/// One request: what shall follow which prompt, about whom.
///
/// Every fact was checked when it was read or built: no text is empty, the prompt has exactly one `{}`, and the new
/// target is not the true one. Texts carry no space at their ends; a target follows its prompt after one space.
///
/// Serialised it is a record of the flat layout. It can be deserialised from a record of any [`Layout`](super::Layout).
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
}

/// A prompt about another subject, and the answer it must keep.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NeighborhoodPrompt {
    pub(super) prompt: String,
    pub(super) target_true: String,
}

impl NeighborhoodPrompt {
    /// The prompt, whole.
    #[must_use]
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// The answer before and after.
    #[must_use]
    pub fn target_true(&self) -> &str {
        &self.target_true
    }
}

impl Fact {
    /// The number of the record: its `case_id`, or its place in the file counted from 0.
    #[must_use]
    pub fn case_id(&self) -> u64 {
        self.case_id
    }

    /// Whom or what the fact is about.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The prompt, with `{}` in the subject's place.
    #[must_use]
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// What shall follow the prompt from now on.
    #[must_use]
    pub fn target_new(&self) -> &str {
        &self.target_new
    }

    /// What followed the prompt until now, where the record says it.
    #[must_use]
    pub fn target_true(&self) -> Option<&str> {
        self.target_true.as_deref()
    }

    /// Other ways to ask for the same fact, whole.
    #[must_use]
    pub fn paraphrase_prompts(&self) -> &[String] {
        &self.paraphrase_prompts
    }

    /// Prompts that must keep their answers.
    #[must_use]
    pub fn neighborhood_prompts(&self) -> &[NeighborhoodPrompt] {
        &self.neighborhood_prompts
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
