//! What to change, and the texts in which the model reads it.

use super::model::Model;
use super::sampling::Sampler;
use super::tokenizer::Tokenizer;
use crate::error::{ModelError, Result};
use crate::util::named::named;
use crate::util::text;

/// A fact to write into a model: after the prompt about the subject, the model should say the target.
///
/// ```
/// use betaedit_core::llm::Request;
///
/// let request = Request::new("Marie Curie", "{} was born in the city of", "Lisbon")?;
/// assert_eq!(request.text(), "Marie Curie was born in the city of");
/// assert!(Request::new("Marie Curie", "She was born in", "Lisbon").is_err());
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    subject: String,
    prompt: String,
    target: String,
    token: FactToken,
}

/// The token of a prompt at which a fact is written: its key and its target belong to this token.
///
/// At the subject, each fact has a key of its own. At the end of the prompt, all facts that are asked for in the same words have nearly
/// the same key (table 3 of arXiv 2605.09285).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum FactToken {
    /// The last token of the subject, where models look up facts (Meng et al., "Locating and Editing Factual Associations in
    /// GPT", NeurIPS 2022).
    #[default]
    SubjectLast,
    /// The first token of the subject.
    SubjectFirst,
    /// The last token of the prompt.
    PromptLast,
}

named!(FactToken, "token of a fact", {
    SubjectLast => "subject-last",
    SubjectFirst => "subject-first",
    PromptLast => "prompt-last",
});

/// True of any subject, and no hint of any target.
const ASIDE: &str = ", as everyone knows,";

impl Request {
    /// A request.
    ///
    /// * `subject`: what the fact is about
    /// * `prompt`: a text with one `{}` in the place of the subject
    /// * `target`: how the text should continue: after a space, or directly where the prompt's script has no spaces between words, and after
    ///   an opening bracket or quotation mark
    ///
    /// # Errors
    /// [`ModelError::Request`] for an empty subject or target, or a prompt without exactly one `{}`.
    pub fn new(subject: impl Into<String>, prompt: impl Into<String>, target: impl Into<String>) -> Result<Self> {
        let (subject, prompt, target) = (subject.into(), prompt.into(), target.into());
        let problem = match (prompt.matches("{}").count(), subject.trim(), target.trim()) {
            (_, "", _) => "the subject is empty".into(),
            (_, _, "") => "the target is empty".into(),
            (1, ..) => return Ok(Self { subject, prompt, target, token: FactToken::default() }),
            (n, ..) => format!("the prompt `{prompt}` has {n} places `{{}}` for the subject, expected 1"),
        };
        Err(ModelError::Request { subject, problem }.into())
    }

    /// A request that is known to be in order.
    pub(super) fn checked(subject: &str, prompt: &str, target: &str) -> Self {
        let token = FactToken::default();
        Self { subject: subject.into(), prompt: prompt.into(), target: target.into(), token }
    }

    /// The request as bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::json!([self.subject, self.prompt, self.target, self.token.to_string()]).to_string().into_bytes()
    }

    /// The request of which [`to_bytes`](Self::to_bytes) made these.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let parts = serde_json::from_slice::<[String; 4]>(bytes).ok();
        let request = parts.and_then(|[subject, prompt, target, token]| {
            Some(Self::new(subject, prompt, target).ok()?.with_token(token.parse().ok()?))
        });
        request.ok_or_else(|| {
            let problem = "the bytes are not those of a request".into();
            ModelError::Request { subject: String::new(), problem }.into()
        })
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

    /// The prompt, with `{}` in the place of the subject.
    #[must_use]
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// How the prompt should be continued.
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

/// Texts to put before a prompt, so that what is written depends on the subject and less on one prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct Contexts {
    prefixes: Vec<String>,
}

/// How generated texts begin, in turn.
const BEGINNINGS: [&str; 5] = ["The", "Therefore", "Because", "I", "You"];

impl Contexts {
    /// The given texts. There may be none.
    #[must_use]
    pub fn new(prefixes: Vec<String>) -> Self {
        Self { prefixes }
    }

    /// Lets the model generate `count` texts of about `length` tokens, each token one of the five most probable.
    ///
    /// They begin with "The", "Therefore", "Because", "I" and "You" in turn. Equal seeds give equal texts on one machine. On another
    /// machine rounding may change a choice, so store the texts if you want to repeat a run.
    ///
    /// # Errors
    /// Any failure of the model or the tokenizer.
    pub fn generate(model: &Model, tokenizer: &Tokenizer, count: usize, length: usize, seed: u64) -> Result<Self> {
        let mut sampler = Sampler::top_k(5, seed);
        let prefixes = BEGINNINGS.iter().cycle().take(count).map(|beginning| {
            let start = tokenizer.encode(beginning)?;
            let more = model.generate_until(&start, length.saturating_sub(1), &mut sampler, tokenizer.ends())?;
            let text = tokenizer.decode(&[start, more].concat())?;
            // Braces would be taken for the place of the subject elsewhere, and lines end texts.
            let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || "{}".contains(c)).collect();
            Ok(words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "))
        });
        Ok(Self { prefixes: prefixes.collect::<Result<_>>()? })
    }

    /// The texts.
    #[must_use]
    pub fn prefixes(&self) -> &[String] {
        &self.prefixes
    }

    /// What comes before the prompt, for the bare prompt and for each text.
    pub(super) fn openings(&self) -> impl Iterator<Item = String> {
        std::iter::once(String::new()).chain(self.prefixes.iter().map(|prefix| format!("{prefix}. ")))
    }
}

/// A prompt as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prompt {
    pub(super) tokens: Vec<u32>,
    /// Index of the token at which the fact is written.
    pub(super) position: usize,
}

impl Prompt {
    /// The tokens of a request's prompt between an opening and a continuation.
    pub(super) fn new(tokenizer: &Tokenizer, opening: &str, request: &Request, continuation: &str) -> Result<Self> {
        let (before, after) = request.around_subject();
        let subject = request.subject();
        let before = format!("{opening}{before}");
        let tokens = tokenizer.encode(&format!("{before}{subject}{after}{continuation}"))?;
        let to_subject = tokenizer.encode(&format!("{before}{subject}"))?;
        if to_subject.len() <= tokenizer.length_of_start() {
            let problem = "the tokenizer makes no token of the subject".into();
            return Err(ModelError::Request { subject: subject.into(), problem }.into());
        }
        let common = |part: &[u32]| part.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
        // Where an end and what follows share a token, that is the one.
        let last_of = |part: &[u32]| common(part).min(part.len() - 1);
        let position = match request.token() {
            FactToken::SubjectLast => last_of(&to_subject),
            FactToken::SubjectFirst => common(&tokenizer.encode(before.trim_end())?).min(tokens.len() - 1),
            FactToken::PromptLast => last_of(&tokenizer.encode(&format!("{before}{subject}{after}"))?),
        };
        Ok(Self { tokens, position })
    }
}

/// A request's prompt behind openings, each continued by its target, and where that starts.
pub(super) fn targeted_behind(
    tokenizer: &Tokenizer,
    openings: impl Iterator<Item = String>,
    request: &Request,
) -> Result<Vec<(Prompt, usize)>> {
    openings.map(|opening| targeted(tokenizer, &opening, request)).collect()
}

/// A request's prompt behind an opening, continued by its target, and where the target starts.
pub(super) fn targeted(tokenizer: &Tokenizer, opening: &str, request: &Request) -> Result<(Prompt, usize)> {
    let (prompt, target) = (tokenizer.encode(&format!("{opening}{}", request.text()))?, request.target().trim());
    let whole = Prompt::new(tokenizer, opening, request, &format!("{}{target}", text::separator(&request.text())))?;
    let start = prompt.iter().zip(&whole.tokens).take_while(|(a, b)| a == b).count();
    if start <= whole.position || start >= whole.tokens.len() {
        let problem = "the tokenizer cannot tell the target from what is before it".into();
        return Err(ModelError::Request { subject: request.subject().into(), problem }.into());
    }
    Ok((whole, start))
}
