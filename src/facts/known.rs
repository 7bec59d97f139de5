//! Facts that a model is expected to know.

use serde::{Deserialize, Serialize};

use super::mentions;

/// A true fact that a model is expected to know, whatever is edited: a text to be continued, and the answers that are right.
///
/// In JSON it is an object of `prompt` and `answers`; other fields are ignored.
///
/// ```
/// use betaedit_core::facts::Known;
///
/// let list = r#"[{"prompt": "The highest mountain in the world is", "answers": ["Mount Everest", "Everest"]}]"#;
/// let known: Vec<Known> = serde_json::from_str(list)?;
/// assert_eq!(known[0], Known::new("The highest mountain in the world is", ["Mount Everest", "Everest"]));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Known {
    /// The text to be continued, without a space at its end.
    pub prompt: String,
    /// The answers that are right, without a space at their starts.
    pub answers: Vec<String>,
}

impl Known {
    /// A fact that is known.
    #[must_use]
    pub fn new<A: Into<String>>(prompt: impl Into<String>, answers: impl IntoIterator<Item = A>) -> Self {
        Self { prompt: prompt.into(), answers: answers.into_iter().map(Into::into).collect() }
    }

    /// Whether the text mentions a subject, whatever its letter case. What a model answers about a subject that is edited may rightly change.
    ///
    /// ```
    /// use betaedit_core::facts::Known;
    ///
    /// let known = Known::new("The capital of Turkey is", ["Ankara"]);
    /// assert!(known.is_about("turkey") && !known.is_about("Turk"));
    /// ```
    #[must_use]
    pub fn is_about(&self, subject: &str) -> bool {
        mentions(&self.prompt.to_lowercase(), &subject.to_lowercase())
    }
}
