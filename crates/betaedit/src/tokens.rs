//! `betaedit tokens`.

use std::path::{Path, PathBuf};

use betaedit_core::llm::{Message, Role, Tokenizer};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::files::about;
use crate::source::open_model;
use crate::terminal::{Done, Terminal};

#[derive(clap::Args)]
pub struct Arguments {
    /// Model: a Hugging Face directory or a .gguf file
    #[arg(long, value_name = "M")]
    model: PathBuf,
    /// JSON file with a list of texts; with --chat, of texts and of lists of {role, content}
    #[arg(long, value_name = "FILE.json")]
    texts: Option<PathBuf>,
    /// Show chats by the model's chat template: a text is a user's message
    #[arg(long)]
    chat: bool,
    /// Texts
    #[arg(value_name = "TEXT", required_unless_present = "texts")]
    text: Vec<String>,
}

/// A chat as a file has it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Chat {
    Question(String),
    Messages(Vec<Said>),
}

/// A message as a file has it.
#[derive(Deserialize)]
struct Said {
    role: Speaker,
    content: String,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Speaker {
    System,
    User,
    Assistant,
}

impl From<Chat> for Vec<Message> {
    fn from(chat: Chat) -> Self {
        let said = |Said { role, content }| {
            let role = match role {
                Speaker::System => Role::System,
                Speaker::User => Role::User,
                Speaker::Assistant => Role::Assistant,
            };
            Message::new(role, content)
        };
        match chat {
            Chat::Question(text) => vec![Message::new(Role::User, text)],
            Chat::Messages(messages) => messages.into_iter().map(said).collect(),
        }
    }
}

/// Shows the tokens of texts, as a prompt has them, or of chats.
pub fn run(arguments: &Arguments, terminal: Terminal) -> Done {
    let (_, tokenizer) = open_model(&arguments.model, terminal)?;
    let mut results = vec![];
    let mut show = |text: &str, ids: &[u32]| {
        terminal.say(line(&tokenizer, ids));
        results.push(json!({ "text": text, "ids": ids }));
    };
    let file = arguments.texts.as_deref();
    if arguments.chat {
        let kind = r#"chats: each a text, or a list of {"role": "system", "user" or "assistant", "content": TEXT}"#;
        let more: Vec<Chat> = file.map_or(Ok(vec![]), |path| listed(path, kind))?;
        for chat in arguments.text.iter().cloned().map(Chat::Question).chain(more) {
            let messages = Vec::from(chat);
            let text = tokenizer.render_chat(&messages)?;
            terminal.say(&text);
            show(&text, &tokenizer.encode_chat(&messages)?);
        }
    } else {
        let more: Vec<String> = file.map_or(Ok(vec![]), |path| listed(path, "texts"))?;
        for text in arguments.text.iter().chain(&more) {
            show(text, &tokenizer.encode(text)?);
        }
    }
    terminal.result(&json!({ "texts": results, "ends": tokenizer.ends() }));
    Ok(())
}

/// The list in a JSON file.
fn listed<T: DeserializeOwned>(path: &Path, kind: &str) -> Done<Vec<T>> {
    let file = std::fs::read(path).map_err(about(path))?;
    Ok(serde_json::from_slice(&file)
        .map_err(|error| format!("`{}` is not a JSON list of {kind}: {error}", path.display()))?)
}

/// The number of each token, and its text as the tokenizer stores it.
fn line(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let token = |&id: &u32| format!("{id} {}", tokenizer.token(id).unwrap_or_default());
    let tokens: Vec<String> = ids.iter().map(token).collect();
    tokens.join(" | ")
}
