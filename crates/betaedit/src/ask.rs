//! `betaedit ask`.

use std::path::PathBuf;

use betaedit_core::llm::{Model, Tokenizer};
use serde_json::json;

use crate::run::Run;
use crate::scores::{Completion, completion, reply};
use crate::source::open_model;
use crate::terminal::{Done, Terminal};

#[derive(clap::Args)]
pub struct Arguments {
    /// Model: a Hugging Face directory or a .gguf file [default with --session: the session's model]
    #[arg(long, value_name = "M", required_unless_present = "session")]
    model: Option<PathBuf>,
    /// Edited model to ask as well, as written by `betaedit edit --out`
    #[arg(long, value_name = "EDITED")]
    edited: Option<PathBuf>,
    /// Session whose model is asked before and after its edits
    #[arg(long, value_name = "DIR", conflicts_with = "edited")]
    session: Option<PathBuf>,
    /// Number of tokens to generate
    #[arg(long, value_name = "N", default_value_t = 20)]
    tokens: usize,
    /// Ask in a chat: the text is a user's message, by the model's chat template
    #[arg(long)]
    chat: bool,
    /// Text to complete, or with --chat to answer
    prompt: String,
}

pub fn run(arguments: &Arguments, terminal: Terminal) -> Done {
    let Arguments { prompt, tokens, .. } = arguments;
    let answer = |model: &Model, tokenizer: &Tokenizer| match arguments.chat {
        true => reply(model, tokenizer, prompt, *tokens),
        false => completion(model, tokenizer, prompt, *tokens),
    };
    let mut answers = vec![];
    if let Some(directory) = &arguments.session {
        let run = Run::open(directory, arguments.model.as_deref(), terminal)?;
        let tokenizer = run.adapter().tokenizer();
        answers.push(("before", answer(&run.unedited, tokenizer)?));
        answers.push(("after", answer(run.adapter().model(), tokenizer)?));
    } else {
        let names = if arguments.edited.is_some() { ["before", "after"] } else { ["answer", ""] };
        for (name, path) in names.into_iter().zip(arguments.model.iter().chain(&arguments.edited)) {
            let (model, tokenizer) = open_model(path, terminal)?;
            answers.push((name, answer(&model, &tokenizer)?));
        }
    }
    let mut result = json!({ "prompt": prompt });
    for (name, Completion { text, ended }) in &answers {
        result[*name] = json!(text);
        result["ended"][*name] = json!(ended);
        let label = if answers.len() > 1 { format!("{name:<7}") } else { String::new() };
        let end = if *ended { " [the model ends the text here]" } else { "" };
        let between = if arguments.chat { "\n" } else { "" };
        terminal.say(format!("{label}{prompt}{between}{text}{end}"));
    }
    terminal.result(&result);
    Ok(())
}
