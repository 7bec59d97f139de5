//! Chats: messages as the text that a model was trained on, by the template in its files.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value, ValueKind};
use minijinja::{Environment, ErrorKind};
use serde::Serialize;

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

impl Tokenizer {
    /// A chat as a text that the model continues with its next answer, by the model's template, as `apply_chat_template` of
    /// `transformers` renders it with `add_generation_prompt`.
    ///
    /// # Errors
    /// A model without a template, or one that refuses these messages.
    pub fn render_chat(&self, messages: &[Message]) -> Result<String> {
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
            ("add_generation_prompt".to_owned(), Value::from(true)),
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
}

/// Steps that a template may take.
const STEPS: u64 = 10_000_000;

/// Renders a template as `transformers` does: with trimmed blocks, methods of Python's types, and a few functions.
fn render(template: &str, context: Value) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    // A template is a program of the model's author: it ends.
    environment.set_fuel(Some(STEPS));
    environment.set_unknown_method_callback(|state, value, method, arguments| match (method, value.as_str()) {
        ("title", Some(text)) if arguments.is_empty() => Ok(Value::from(title(text))),
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments),
    });
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |text: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
    });
    let template = without_generation_blocks(template);
    environment.template_from_str(&template)?.render(context)
}

/// A text with a capital at the start of each run of letters, as Python's `str.title`.
fn title(text: &str) -> String {
    let mut in_word = false;
    let mut out = String::new();
    for c in text.chars() {
        match in_word {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        in_word = c.is_alphabetic();
    }
    out
}

/// JSON as Python writes it: spaces after colons and commas, nothing escaped but what must be.
fn to_json(value: Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let mut text = String::new();
    write_json(&value, indent, 0, &mut text)?;
    Ok(text)
}

fn write_json(value: &Value, indent: Option<usize>, depth: usize, text: &mut String) -> Result<(), minijinja::Error> {
    let items: Vec<Value> = match value.kind() {
        ValueKind::Undefined | ValueKind::None => {
            text.push_str("null");
            return Ok(());
        }
        ValueKind::String => {
            text.push_str(&serde_json::Value::from(value.as_str().unwrap_or_default()).to_string());
            return Ok(());
        }
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.collect(),
        _ => {
            text.push_str(&value.to_string());
            return Ok(());
        }
    };
    let is_map = value.kind() == ValueKind::Map;
    let line = |depth: usize, text: &mut String| {
        if let Some(indent) = indent.filter(|_| !items.is_empty()) {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    text.push(if is_map { '{' } else { '[' });
    for (i, item) in items.iter().enumerate() {
        text.push_str(match (i, indent) {
            (0, _) => "",
            (_, None) => ", ",
            (_, Some(_)) => ",",
        });
        line(depth + 1, text);
        write_json(item, indent, depth + 1, text)?;
        if is_map {
            text.push_str(": ");
            write_json(&value.get_item(item)?, indent, depth + 1, text)?;
        }
    }
    line(depth, text);
    text.push(if is_map { '}' } else { ']' });
    Ok(())
}

/// The blocks `generation`, which mark what a model says for training, hold text like any other.
fn without_generation_blocks(template: &str) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        out += before;
        let name = tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+', ' ', '\n', '\t']);
        match name {
            "generation" => out += &tag.replace("generation", "if true"),
            "endgeneration" => out += &tag.replace("endgeneration", "endif"),
            _ => out += tag,
        }
        rest = after;
    }
    out + rest
}
