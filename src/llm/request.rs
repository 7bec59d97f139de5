//! What is to be changed.

use crate::error::{EditError, Result};

/// A fact to write into a model: when the prompt is read with the subject in it, say the target.
///
/// ```
/// use betaedit_core::llm::Request;
///
/// let request = Request::new("Marie Curie", "{} was born in the city of", "Lisbon")?;
/// assert_eq!(request.text(), "Marie Curie was born in the city of");
/// assert!(Request::new("Marie Curie", "She was born in", "Lisbon").is_err());
/// # Ok::<(), betaedit_core::EditError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    subject: String,
    prompt: String,
    target: String,
    token: FactToken,
}

/// The token of a prompt at which a fact is written: its key is taken there, and its target put out.
///
/// Anchored at the subject, a fact has a key of its own; at the end of the prompt, all facts that are asked for in the same
/// words have nearly the same one (table 3 of arXiv 2605.09285).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FactToken {
    /// The last token of the subject, where models look facts up (Meng et al., "Locating and Editing Factual Associations in
    /// GPT", NeurIPS 2022).
    #[default]
    SubjectLast,
    /// The first token of the subject.
    SubjectFirst,
    /// The last token of the prompt.
    PromptLast,
}

/// True of any subject, and no hint of any target.
const ASIDE: &str = ", as everyone knows,";

impl Request {
    /// A request.
    ///
    /// * `subject`: what the fact is about
    /// * `prompt`: a text with one `{}` where the subject goes
    /// * `target`: how the text shall go on
    ///
    /// # Errors
    /// [`EditError::Request`] for an empty subject or target, or a prompt without exactly one `{}`.
    pub fn new(subject: impl Into<String>, prompt: impl Into<String>, target: impl Into<String>) -> Result<Self> {
        let (subject, prompt, target) = (subject.into(), prompt.into(), target.into());
        let problem = match (prompt.matches("{}").count(), subject.trim(), target.trim()) {
            (_, "", _) => "the subject is empty".into(),
            (_, _, "") => "the target is empty".into(),
            (1, ..) => return Ok(Self { subject, prompt, target, token: FactToken::default() }),
            (n, ..) => format!("the prompt `{prompt}` has {n} places `{{}}` for the subject, expected 1"),
        };
        Err(EditError::Request { subject, problem })
    }

    /// A request that is known to be in order.
    pub(super) fn checked(subject: &str, prompt: &str, target: &str) -> Self {
        let token = FactToken::default();
        Self { subject: subject.into(), prompt: prompt.into(), target: target.into(), token }
    }

    /// Sets the token at which the fact is written.
    #[must_use]
    pub fn with_token(mut self, token: FactToken) -> Self {
        self.token = token;
        self
    }

    /// The token at which the fact is written.
    #[must_use]
    pub fn token(&self) -> FactToken {
        self.token
    }

    /// What the fact is about.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The prompt, with `{}` where the subject goes.
    #[must_use]
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// How the prompt shall be continued.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The prompt before the subject and after it.
    pub(super) fn around_subject(&self) -> (&str, &str) {
        self.prompt.split_once("{}").expect("checked at construction")
    }

    /// The request with an aside after the subject, where words of the prompt follow it.
    pub(super) fn with_aside(&self) -> Option<Self> {
        let (before, after) = self.around_subject();
        let prompt = || format!("{before}{{}}{ASIDE}{after}");
        (after.starts_with(' ') && !after.trim().is_empty()).then(|| Self { prompt: prompt(), ..self.clone() })
    }

    /// The prompt with the subject in it.
    #[must_use]
    pub fn text(&self) -> String {
        self.prompt.replacen("{}", &self.subject, 1)
    }
}
