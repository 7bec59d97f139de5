//! The command line: the commands, and the help that lists them.

use std::fmt::Write;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::research::Research;
use crate::{ask, demo, edit, eval, inspect, stats, undo};

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
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Threads, 0 = all cores
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    pub threads: usize,
    /// One JSON object on standard output in place of text
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum Command {
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
    #[command(flatten)]
    Research(Research),
}

impl Cli {
    /// The arguments of this process. Wrong ones, and a request for help, end it.
    pub fn read() -> Self {
        Self::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit())
    }
}

/// The command line with a section for research in its help: clap lists all subcommands under one heading, so these are
/// hidden from its list, and the help's template has a list of theirs.
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
