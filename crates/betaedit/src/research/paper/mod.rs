//! `betaedit paper`: the studies of the BetaEdit paper on a small model.
//!
//! A study is a set of runs and a figure. A run edits facts one after the other by one method, towards targets found on the
//! unedited model, and measures the model at checkpoints. The statistics, the targets and every finished run are kept under
//! `--out`: the command continues where it stopped, and studies share runs.

mod edited;
mod facts;
mod figure;
mod lab;
mod run;
mod studies;
mod targets;

use std::path::PathBuf;

use betaedit_core::llm::{Descent, TargetSearch, Wording};
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::terminal::{Done, Terminal};
use lab::{Lab, Settings};
use run::Run;
use studies::{Scale, Study};

/// How to search for targets.
#[derive(Clone, Copy, ValueEnum)]
enum Search {
    /// Adam at a rate of 1.0, as in the studies of docs/experiments.md unless noted there
    Adam,
    /// The default of the library
    Library,
}

impl Search {
    fn settings(self) -> TargetSearch {
        match self {
            Self::Adam => TargetSearch::default()
                .with_descent(Descent::Adam { rate: 1.0 })
                .with_steps(15)
                .with_enough(0.05)
                .with_margin(0.0)
                .with_contexts(1)
                .with_wording(Wording::AsGiven),
            // The library's before facts were written for chats.
            Self::Library => TargetSearch::default().with_contexts(3).with_enough(0.02).with_margin(0.1),
        }
    }
}

#[derive(clap::Args)]
pub struct Arguments {
    /// Model: a Hugging Face directory or a .gguf file
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// File of facts to edit [default: those that come with the program]
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
    /// Studies to run [default: all]
    #[arg(long = "study", value_name = "NAME", value_parser = studies::NAMES, num_args = 1..)]
    studies: Vec<String>,
    /// Run only the runs with these labels
    #[arg(long = "run", value_name = "LABEL", num_args = 1..)]
    runs: Vec<String>,
    /// Use few facts and few checkpoints, to finish in minutes
    #[arg(long)]
    quick: bool,
    /// Number of edits in a run
    #[arg(long, value_name = "N")]
    edits: Option<usize>,
    /// Measure the model every N edits
    #[arg(long, value_name = "N")]
    every: Option<usize>,
    /// Number of facts to evaluate at a checkpoint
    #[arg(long, value_name = "N")]
    sample: Option<usize>,
    /// Number of facts on which each method's strength is chosen; no run edits them
    #[arg(long, value_name = "N")]
    trials: Option<usize>,
    /// Make N more facts out of neighborhood prompts, for a longer run
    #[arg(long, value_name = "N", default_value_t = 0)]
    neighbors: usize,
    /// Layers to edit
    #[arg(long, value_delimiter = ',', default_values_t = [7, 8, 9, 10])]
    layers: Vec<usize>,
    /// Number of texts over which keys are averaged, besides the bare prompt
    #[arg(long, default_value_t = 3)]
    contexts: usize,
    /// How to search for targets
    #[arg(long, value_enum, default_value = "adam")]
    search: Search,
    /// Number of texts that precede the prompt in the search for a target [default: 1 with Adam, else the library's]
    #[arg(long, value_name = "N")]
    target_contexts: Option<usize>,
    /// Seed for the generated texts
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Directory for statistics, targets, runs and results
    #[arg(long, value_name = "DIR", default_value = "paper-studies")]
    out: PathBuf,
}

pub fn run(arguments: &Arguments, terminal: Terminal) -> Done {
    let mut search = arguments.search.settings();
    search.contexts = arguments.target_contexts.unwrap_or(search.contexts);
    let settings =
        Settings { layers: arguments.layers.clone(), contexts: arguments.contexts, search, seed: arguments.seed };
    let mut scale = if arguments.quick { Scale::QUICK } else { Scale::FULL };
    scale.edits = arguments.edits.unwrap_or(scale.edits);
    scale.every = arguments.every.unwrap_or(scale.every).max(1);
    scale.sample = arguments.sample.unwrap_or(scale.sample);
    scale.trials = arguments.trials.unwrap_or(scale.trials);
    let facts = facts::read(arguments.facts.as_deref(), arguments.neighbors, scale.trials)?;
    let scale = scale.within(facts.len())?;
    let mut lab = Lab::open(&arguments.model, facts, settings, &arguments.out, terminal)?;
    let chosen =
        |study: &&Study| arguments.studies.is_empty() || arguments.studies.iter().any(|name| name == study.name);
    let mut results = Map::new();
    for study in studies::STUDIES.iter().filter(chosen) {
        terminal.say(format!("\n{}: {}", study.name, study.title));
        let mut runs = vec![];
        let asked_for = |run: &Run| arguments.runs.is_empty() || arguments.runs.contains(&run.label);
        for run in (study.runs)(&mut lab, &scale)?.into_iter().filter(asked_for) {
            let record = run.record(&mut lab, &scale)?;
            terminal.say(record.line(&run.label));
            runs.push((run.label, record));
        }
        figure::save(&arguments.out.join(format!("{}.svg", study.name)), study, &runs)?;
        let of_study = runs.into_iter().map(|(label, record)| (label, record.into_json())).collect();
        results.insert(study.name.into(), Value::Object(of_study));
    }
    let result = json!({ "out": arguments.out, "studies": &results });
    lab.keep_results(results)?;
    terminal.say(format!("\nfigures and results.json are in {}", arguments.out.display()));
    terminal.result(&result);
    Ok(())
}
