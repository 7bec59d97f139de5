//! Questions that a model answers in words of its own.

use serde::{Deserialize, Serialize};

use crate::error::{ModelError, Result};
use crate::util::named::named;
use crate::util::text;

/// How a model is asked.
///
/// | | what the model reads | tokens of its answer | it says the target if |
/// |---|---|---|---|
/// | `plain` | the prompt | 8 | the answer begins with it |
/// | `qa` | `Please answer the question:`, an empty line, `Q: ` and the prompt, and `A:` on the next line | 40, up to the end of the line | the line has it |
/// | `chat` | a user's message in the model's chat template: the prompt if it ends with a question mark, else `Complete the sentence: ` and the prompt | 40 | the answer has it |
///
/// If the target is long, the answer may be, too. Letter case and the number of spaces do not matter. The second is the format of "The
/// Mirage of Model Editing" (arXiv 2502.11177).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Setting {
    /// The prompt alone.
    #[default]
    Plain,
    /// The prompt as a question in a text.
    Qa,
    /// The prompt as a user's message.
    Chat,
}

named!(Setting, "setting of a question", { Plain => "plain", Qa => "qa", Chat => "chat" });

impl Setting {
    /// The prompt as it is asked: for `chat` the user's message, else the text that the model continues.
    ///
    /// ```
    /// use betaedit_core::facts::metrics::Setting;
    ///
    /// assert_eq!(Setting::Plain.asked("The capital of France is"), "The capital of France is");
    /// assert_eq!(Setting::Chat.asked("The capital of France is"), "Complete the sentence: The capital of France is");
    /// assert_eq!(Setting::Chat.asked("Where is Paris?"), "Where is Paris?");
    /// ```
    #[must_use]
    pub fn asked(self, prompt: &str) -> String {
        match self {
            Self::Plain => prompt.to_owned(),
            Self::Qa => format!("Please answer the question:\n\nQ: {prompt}\nA:"),
            Self::Chat => format!("{}{prompt}", text::chat_lead(prompt)),
        }
    }

    /// The tokens of an answer that is to say a target.
    fn length(self, target: &str) -> usize {
        let least = if self == Self::Plain { 8 } else { 40 };
        // No tokenizer makes more than one token of a byte, and usual ones make a third of that.
        least.max(least / 2 + target.len() / 2)
    }
}

/// A question to a model, which answers in words of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Question<'a> {
    /// How it is asked.
    pub setting: Setting,
    /// What is asked, without a space at its end. The model reads [`asked`](Setting::asked).
    pub prompt: &'a str,
    /// The most tokens that the answer may have.
    pub tokens: usize,
}

impl<'a> Question<'a> {
    /// A question that may be answered with a target.
    #[must_use]
    pub fn new(setting: Setting, prompt: &'a str, target: &str) -> Self {
        Self { setting, prompt, tokens: setting.length(target) }
    }
}

/// A model that answers questions: the most probable token at each place (greedy decoding), up to one that ends a text.
///
/// Closures from questions to answers implement it.
pub trait Generator {
    /// The texts that the model generates, one a question.
    ///
    /// # Errors
    /// Any failure of the model, as [`ModelError::Adapter`](crate::error::ModelError::Adapter).
    fn generate(&mut self, questions: &[Question<'_>]) -> Result<Vec<String>>;
}

impl<F> Generator for F
where
    F: FnMut(&[Question<'_>]) -> Result<Vec<String>>,
{
    fn generate(&mut self, questions: &[Question<'_>]) -> Result<Vec<String>> {
        self(questions)
    }
}

/// The generator's answers, one a question.
pub(super) fn ask<G: Generator + ?Sized>(generator: &mut G, questions: &[Question<'_>]) -> Result<Vec<String>> {
    let answers = generator.generate(questions)?;
    if answers.len() != questions.len() {
        let problem = format!("the generator gave {} answers to {} questions", answers.len(), questions.len());
        return Err(ModelError::Adapter(problem.into()).into());
    }
    Ok(answers)
}
