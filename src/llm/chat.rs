//! Chats: messages as the text that a model was trained on, by the template in its files.

use minijinja::value::{Serde, Value};
use serde::Serialize;

use super::template::render;
use super::tokenizer::Tokenizer;
use crate::error::{ModelError, Result};

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Instructions for the whole chat.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub text: String,
}

impl Message {
    /// A message.
    #[must_use]
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Self { role, text: text.into() }
    }
}

/// A message as a template sees it.
#[derive(Serialize)]
struct Rendered {
    role: &'static str,
    content: String,
}

/// What stands at the end of a chat.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// What the model's next answer begins behind.
    Prompt,
    /// The last message.
    Message,
}

impl Tokenizer {
    /// A chat as a text that the model continues with its next answer, by the model's template, as `apply_chat_template` of
    /// `transformers` renders it with `add_generation_prompt`.
    ///
    /// # Errors
    /// A model without a template, or one that refuses these messages.
    pub fn render_chat(&self, messages: &[Message]) -> Result<String> {
        self.rendered(messages, Ending::Prompt)
    }

    fn rendered(&self, messages: &[Message], ending: Ending) -> Result<String> {
        let template = self.chat_template().ok_or_else(|| {
            let problem =
                "the model has no chat template (`chat_template` in tokenizer_config.json, or chat_template.jinja)";
            ModelError::Failed(problem.into())
        })?;
        let message = |message: &Message| Rendered { role: message.role.name(), content: message.text.clone() };
        let messages: Vec<Rendered> = messages.iter().map(message).collect();
        let none = || Value::from(());
        let context = [
            ("messages".to_owned(), Value::from(Serde(&messages))),
            ("add_generation_prompt".to_owned(), Value::from(ending == Ending::Prompt)),
            ("tools".to_owned(), none()),
            ("documents".to_owned(), none()),
        ];
        let special = self.special_texts().into_iter().map(|(name, token)| (name, Value::from(token)));
        render(template, Value::from_pairs(context.into_iter().chain(special))).map_err(|error| {
            // The first line: what follows is a picture of the template.
            let problem = error.to_string();
            let first = problem.lines().next().unwrap_or_default();
            ModelError::Failed(format!("the chat template cannot be rendered: {first}").into()).into()
        })
    }

    /// The tokens of a chat, up to where the model's answer begins. The template puts in front of it what belongs there.
    ///
    /// # Errors
    /// As [`render_chat`](Self::render_chat), and a text that the tokenizer refuses.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.encode_bare(&self.render_chat(messages)?)
    }

    /// The tokens of a chat in which a user begins a sentence and the model says the whole of it.
    pub(super) fn encode_sentence(&self, sentence: &str) -> Result<Vec<u32>> {
        let words: Vec<&str> = sentence.split_whitespace().collect();
        let begun = words[..words.len().div_ceil(2)].join(" ");
        let messages = [Message::new(Role::User, begun), Message::new(Role::Assistant, sentence)];
        self.encode_bare(&self.rendered(&messages, Ending::Message)?)
    }
}
