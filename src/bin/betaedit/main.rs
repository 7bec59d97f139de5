//! The command `betaedit`: changes facts in a language model, and shows what that does to it.

#![allow(non_snake_case)]

mod ask;
mod demo;
mod edit;
mod eval;
mod fetch;
mod html;
mod inspect;
#[path = "../../../examples/support/plot.rs"]
mod plot;
#[path = "../../../examples/support/refresh.rs"]
mod refresh;
mod report;
mod run;
mod scores;
mod settings;
mod source;
mod stats;
mod terminal;
mod undo;
mod weights;

use std::process::ExitCode;

use betaedit_core::faer::Par;
use clap::{Parser, Subcommand};

use crate::terminal::{Done, Terminal};

/// Changes facts in a language model by rewriting one matrix of a few layers, in closed form, without training.
///
/// A first look, which needs nothing but a model of 100 to 270 MB that it fetches:
///
///   betaedit demo
///
/// The whole way, with a model and facts of your own:
///
///   betaedit stats --model M --text TEXT --layers 5-10 --out stats
///   betaedit edit --model M --facts FACTS.json --stats stats --layers 5-10 --session run-1 --out edited --report report.json
///   betaedit ask --model M --edited edited "The Eiffel Tower is in"
///   betaedit undo --session run-1 17 --out edited
#[derive(Parser)]
#[command(
    name = "betaedit",
    version,
    verbatim_doc_comment,
    after_help = "A model M is a directory in the layout of the Hugging Face hub (config.json, model.safetensors or its shards, \
                  tokenizer.json) or a .gguf file: Llama, SmolLM2, Mistral, Qwen2, Qwen3, GPT-2, GPT-J.\n\n\
                  Exit codes: 0 done; 1 failed, with the reason on standard error; 2 wrong usage; 3 every edit was rejected."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Threads, 0 = all cores
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// One JSON object on standard output in place of text
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Collect what the model knows: second moments of the keys over a text, for the layers to edit
    Stats(stats::Arguments),
    /// Edit facts, with the metrics before and after
    Edit(Box<edit::Arguments>),
    /// Measure a model: efficacy, generality, specificity, perplexity
    Eval(eval::Arguments),
    /// Let a model go on from a prompt, before and after its edits
    Ask(ask::Arguments),
    /// Take edits of a session back
    Undo(undo::Arguments),
    /// Look at statistics (spectrum, capacity) or at a session (its edits, leakage, drift)
    Inspect(inspect::Arguments),
    /// Fetch the model of the demonstration, and say where it is
    Fetch,
    /// Edit twenty facts of a small model, with tables and plots, and undo one
    Demo(demo::Arguments),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let par = if cli.threads == 1 { Par::Seq } else { Par::rayon(cli.threads) };
    let terminal = Terminal::new(cli.json, par);
    match run(cli.command, terminal) {
        Ok(code) => code,
        Err(error) => {
            terminal.fail(&*error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, terminal: Terminal) -> Done<ExitCode> {
    match command {
        Command::Stats(arguments) => stats::run(&arguments, terminal)?,
        Command::Edit(arguments) => return edit::run(&arguments, terminal),
        Command::Eval(arguments) => eval::run(&arguments, terminal)?,
        Command::Ask(arguments) => ask::run(&arguments, terminal)?,
        Command::Undo(arguments) => undo::run(&arguments, terminal)?,
        Command::Inspect(arguments) => inspect::run(&arguments, terminal)?,
        Command::Fetch => fetch::run(terminal)?,
        Command::Demo(arguments) => return demo::run(&arguments, terminal),
    }
    Ok(ExitCode::SUCCESS)
}
