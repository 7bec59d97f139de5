//! `betaedit tokens`.

use std::path::PathBuf;

use betaedit_core::llm::Tokenizer;
use serde_json::json;

use crate::files::about;
use crate::source::open_model;
use crate::terminal::{Done, Terminal};

#[derive(clap::Args)]
pub struct Arguments {
    /// Model: a Hugging Face directory or a .gguf file
    #[arg(long, value_name = "M")]
    model: PathBuf,
    /// JSON file with a list of texts
    #[arg(long, value_name = "FILE.json")]
    texts: Option<PathBuf>,
    /// Texts
    #[arg(value_name = "TEXT", required_unless_present = "texts")]
    text: Vec<String>,
}

/// Shows the tokens of texts, as a prompt has them.
pub fn run(arguments: &Arguments, terminal: Terminal) -> Done {
    let (_, tokenizer) = open_model(&arguments.model, terminal)?;
    let mut texts = arguments.text.clone();
    if let Some(path) = &arguments.texts {
        let file = std::fs::read(path).map_err(about(path))?;
        let more: Vec<String> = serde_json::from_slice(&file)
            .map_err(|error| format!("`{}` is not a JSON list of texts: {error}", path.display()))?;
        texts.extend(more);
    }
    let mut results = vec![];
    for text in &texts {
        let ids = tokenizer.encode(text)?;
        terminal.say(line(&tokenizer, &ids));
        results.push(json!({ "text": text, "ids": ids }));
    }
    terminal.result(&json!({ "texts": results, "ends": tokenizer.ends() }));
    Ok(())
}

/// The number of each token, and its text as the tokenizer stores it.
fn line(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let token = |&id: &u32| format!("{id} {}", tokenizer.token(id).unwrap_or_default());
    let tokens: Vec<String> = ids.iter().map(token).collect();
    tokens.join(" | ")
}
