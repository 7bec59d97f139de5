//! The command line: the subcommands, and the help that lists them.

use std::fmt::Write;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::matrices::{merge, project, solve};
use crate::research::Research;
use crate::{ask, consolidate, demo, edit, eval, export, inspect, stats, tokens, undo};

/// Edits facts in a language model by rewriting one matrix in each of a few layers, in closed form, without training.
///
/// For a first look, which downloads a model of 100 to 270 MB:
///
///   betaedit demo
///
/// With a model and facts of your own:
///
///   betaedit stats --model M --text TEXT --layers 5-10 --out stats
///   betaedit edit --model M --facts FACTS.json --stats stats --layers 5-10 --session run-1 --out edited --report report.json
///   betaedit ask --model M --edited edited "The Eiffel Tower is in"
///   betaedit undo --session run-1 17 --out edited
///   betaedit export --session run-1 --gguf-lora edits.gguf
#[derive(Parser)]
#[command(
    name = "betaedit",
    version,
    verbatim_doc_comment,
    after_help = "A model M is a directory in the layout of the Hugging Face hub (config.json, model.safetensors or its shards, \
                  tokenizer.json) or a .gguf file: Llama, Mistral, Qwen2, Qwen3, Phi, Gemma, OLMo 2, GPT-NeoX, Falcon, StableLM, \
                  StarCoder2, GPT-2, GPT-J.\n\n\
                  Exit codes: 0 success; 1 failure, with the reason on standard error; 2 wrong usage; 3 all edits were rejected."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Number of threads, 0 = all cores
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    pub threads: usize,
    /// Print one JSON object to standard output instead of text
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// Collect the statistics of the layers to edit: second moments of their keys over a text
    Stats(stats::Arguments),
    /// Edit facts, and measure the model before and after
    Edit(Box<edit::Arguments>),
    /// Measure a model: efficacy, generality, specificity, perplexity
    Eval(eval::Arguments),
    /// Let a model complete a prompt, before and after its edits
    Ask(ask::Arguments),
    /// Undo edits of a session
    Undo(undo::Arguments),
    /// Write the edits of a session as a model or an adapter
    Export(export::Arguments),
    /// Derive the weights of a session anew from the unedited model and all of its facts
    Consolidate(Box<consolidate::Arguments>),
    /// Show statistics (spectrum, capacity) or a session (edits, leakage, drift)
    Inspect(inspect::Arguments),
    /// Show the tokens of texts, as a prompt has them
    Tokens(tokens::Arguments),
    /// List the editing methods and their hyperparameters
    Methods,
    /// Download the model of the demonstration, and print its path
    Fetch,
    /// Edit twenty facts in a small model, with tables and plots, and undo one
    Demo(demo::Arguments),
    /// Give linear layers new outputs for some inputs: concept editing of diffusion models, and any other weights
    Solve(Box<solve::Arguments>),
    /// Remove from a LoRA adapter what it changes on a text
    Project(project::Arguments),
    /// Merge models by regression means, using the statistics of their layers
    Merge(merge::Arguments),
    #[command(flatten)]
    Research(Research),
}

impl Cli {
    /// Parses the arguments of this process. Exits on wrong arguments and on `--help`.
    pub fn read() -> Self {
        Self::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit())
    }
}

/// The command line, with a section for research in its help. clap lists all subcommands under one heading, so the research
/// commands are hidden from its list, and the help template lists them separately.
fn command() -> clap::Command {
    let mut command = Cli::command();
    let header = *command.get_styles().get_header();
    let literal = *command.get_styles().get_literal();
    let research = Research::augment_subcommands(clap::Command::new("research"));
    let width = research.get_subcommands().map(|subcommand| subcommand.get_name().len()).max().unwrap_or(0);
    let mut list = String::new();
    for subcommand in research.get_subcommands() {
        let (name, about) = (subcommand.get_name(), subcommand.get_about().cloned().unwrap_or_default());
        // Writing to a string cannot fail.
        let _ = writeln!(list, "  {literal}{name:width$}{literal:#}  {about}");
        command = command.mut_subcommand(name, |subcommand| subcommand.hide(true));
    }
    command.help_template(format!(
        "{{before-help}}{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n\
         {header}Commands:{header:#}\n{{subcommands}}\n\n\
         {header}Research:{header:#}\n{list}\n\
         {header}Options:{header:#}\n{{options}}{{after-help}}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_research_command_is_listed_once_and_under_its_heading() {
        let help = command().render_help().to_string();
        let (commands, research) = help.split_once("\nResearch:\n").expect("a section for research");
        let (research, options) = research.split_once("\nOptions:\n").expect("options after it");
        for name in ["replay", "scale", "paper", "descent", "theorem1"] {
            let entry = format!("  {name}  ");
            let is_entry = |text: &str| text.lines().any(|line| line.trim_end().starts_with(entry.trim_end()));
            assert!(is_entry(research) && !is_entry(commands) && !is_entry(options), "{name} in {help}");
        }
        assert!(commands.contains("\n  stats "), "{help}");
    }
}
