//! The command `betaedit`: edits facts in a language model and measures the effects.

#![allow(non_snake_case)]

mod ask;
mod cli;
mod consolidate;
mod demo;
mod directory;
mod edit;
mod eval;
mod export;
mod fetch;
mod files;
mod found;
mod generated;
mod gradients;
mod html;
mod inspect;
mod inspect_model;
mod layers;
mod matrices;
mod methods;
mod outputs;
mod parts;
mod plan;
mod plot;
mod probes;
mod progress;
mod refresh;
mod report;
mod research;
mod rest;
mod run;
mod scores;
mod settings;
mod source;
mod staging;
mod stats;
mod stored;
mod terminal;
mod timed;
mod tokens;
mod undo;
mod usual;

use std::process::ExitCode;

use betaedit_core::faer::Par;

use crate::cli::{Cli, Command};
use crate::terminal::{Done, Terminal};

fn main() -> ExitCode {
    let cli = Cli::read();
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
        Command::Export(arguments) => export::run(&arguments, terminal)?,
        Command::Consolidate(arguments) => consolidate::run(&arguments, terminal)?,
        Command::Inspect(arguments) => inspect::run(&arguments, terminal)?,
        Command::Tokens(arguments) => tokens::run(&arguments, terminal)?,
        Command::Methods => methods::run(terminal)?,
        Command::Fetch => fetch::run(terminal)?,
        Command::Demo(arguments) => return demo::run(&arguments, terminal),
        Command::Solve(arguments) => matrices::solve::run(&arguments, terminal)?,
        Command::Project(arguments) => matrices::project::run(&arguments, terminal)?,
        Command::Merge(arguments) => matrices::merge::run(&arguments, terminal)?,
        Command::Research(research) => research.run(terminal)?,
    }
    Ok(ExitCode::SUCCESS)
}
