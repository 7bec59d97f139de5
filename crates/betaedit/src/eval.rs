//! `betaedit eval`.

use std::path::{Path, PathBuf};

use betaedit_core::facts::{Fact, shipped};
use serde_json::json;

use crate::files;
use crate::generated;
use crate::probes;
use crate::report::write_json;
use crate::scores::{self, Measured, Scores};
use crate::source::{FactArguments, open_model, text};
use crate::terminal::{Done, Terminal, table};

#[derive(clap::Args)]
pub struct Arguments {
    /// Model: a Hugging Face directory or a .gguf file
    #[arg(long, value_name = "M")]
    model: PathBuf,
    /// Model before its edits, to measure what is unchanged
    #[arg(long, value_name = "M0")]
    unedited: Option<PathBuf>,
    #[command(flatten)]
    facts: FactArguments,
    /// Text on whose first 4096 tokens or so to measure perplexity; "shipped" for the one that comes with the program
    #[arg(long, value_name = "FILE")]
    eval_text: Option<String>,
    #[command(flatten)]
    generated: generated::Arguments,
    #[command(flatten)]
    probes: probes::Arguments,
    /// Write all numbers to a JSON file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

pub fn run(arguments: &Arguments, terminal: Terminal) -> Done {
    let texts = [Some(&arguments.facts.facts), arguments.eval_text.as_ref()].into_iter().flatten().map(Path::new);
    let models = arguments.unedited.iter().chain([&arguments.model]).map(PathBuf::as_path);
    files::check(&[&arguments.report, &arguments.generated.answers], &models.chain(texts).collect::<Vec<_>>())?;
    let (facts, zsre_target) = arguments.facts.read(terminal)?;
    let held_out = arguments.eval_text.as_deref().map(|path| text(path, shipped::HELD_OUT_TEXT)).transpose()?;
    let known = generated::known(facts.iter().map(Fact::subject));
    let measure = |path: &PathBuf, what, unedited| {
        let (model, tokenizer) = open_model(path, terminal)?;
        let settings = arguments.generated.settings(&tokenizer)?;
        let measured = Measured {
            facts: &facts,
            text: held_out.as_deref(),
            known: &known,
            settings: &settings,
            probes: arguments.probes.setting(),
            unedited,
        };
        Scores::of(&model, &tokenizer, measured, what, terminal)
    };
    let unedited = arguments.unedited.as_ref().map(|path| measure(path, "unedited", true)).transpose()?;
    let scores = measure(&arguments.model, "evaluation", false)?;
    let columns: Vec<_> = unedited.iter().map(|unedited| ("unedited", unedited)).chain([("model", &scores)]).collect();
    terminal.say(table(&scores::rows(&columns, unedited.as_ref())));
    probes::say(&columns, unedited.as_ref(), terminal);
    if unedited.is_none() {
        probes::note_conditions(&scores, terminal);
    }
    let mut report = scores.json(unedited.as_ref());
    report["zsre_target"] = json!(zsre_target.map(|field| field.to_string()));
    report["model"] = json!(arguments.model);
    if let Some(unedited) = &unedited {
        report["unedited"] = unedited.json(None);
        report["unedited"]["probes"] = probes::json(unedited, Some(unedited));
    }
    arguments.generated.write(&columns)?;
    if let Some(path) = &arguments.report {
        write_json(path, &report)?;
    }
    terminal.result(&report);
    Ok(())
}
