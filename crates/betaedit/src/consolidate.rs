//! `betaedit consolidate`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use betaedit_core::facts::{Fact, Facts, shipped};
use betaedit_core::session::{Consolidation, LayerOutcome, Targets};
use serde_json::json;

use crate::generated;
use crate::outputs::Outputs;
use crate::progress::Steps;
use crate::report::write_json;
use crate::rest;
use crate::run::{Run, SessionArguments, check_beside};
use crate::scores::{self, Measured, Scores};
use crate::settings::named;
use crate::source::text;
use crate::terminal::{Done, Terminal, table};
use crate::{edit, files};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    of: SessionArguments,
    /// Which targets the facts have
    #[arg(long, default_value_t = Targets::Kept, value_parser = named(Targets::ALL, &["Those that they were written with", "Sought again on the unedited model, which takes as long as writing the facts"]))]
    targets: Targets,
    /// How often what is still missing of the facts is added at the last layer, after all layers were solved
    #[arg(long, value_name = "N", default_value_t = 0)]
    passes: usize,
    /// Text on whose first 4096 tokens or so to measure perplexity; "shipped" for the one that comes with the program
    #[arg(long, value_name = "FILE", default_value = "shipped")]
    eval_text: String,
    /// Evaluate at most N of the session's facts, evenly spread, 0 = none
    #[arg(long, value_name = "N", default_value_t = 100)]
    eval_limit: usize,
    #[command(flatten)]
    generated: generated::Arguments,
    #[command(flatten)]
    outputs: Outputs,
    /// Write all numbers to a JSON file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

pub fn run(arguments: &Arguments, terminal: Terminal) -> Done {
    let Arguments { of: SessionArguments { session, .. }, report, generated: asked, .. } = arguments;
    let bar = terminal.bar(0, "consolidation");
    let mut run = arguments.of.open(Steps(bar.clone()), terminal)?;
    run.follow(&bar);
    let inputs = [run.description.model.as_path(), &run.description.stats];
    let inputs: Vec<&Path> = inputs.into_iter().chain([Path::new(&arguments.eval_text)]).collect();
    files::check(&[report, &asked.answers], &inputs)?;
    check_beside(session, [report, &asked.answers].into_iter().flatten().map(PathBuf::as_path))?;
    let places = arguments.outputs.check(inputs[0], &inputs, &[report, &asked.answers, &Some(session.clone())])?;
    arguments.outputs.check_model(&run.unedited)?;
    let held_out = text(&arguments.eval_text, shipped::HELD_OUT_TEXT)?;
    let facts = facts(&run)?;
    let evaluated = edit::sample(&facts, arguments.eval_limit);
    let known = edit::known(&facts, &evaluated, &run);
    let settings = asked.settings(run.adapter().tokenizer())?;
    let measured = Measured {
        facts: &evaluated,
        text: Some(&held_out).filter(|_| arguments.eval_limit > 0).map(|text| &**text),
        known: &known,
        settings: &settings,
        probes: None,
        unedited: false,
    };
    let measure =
        |run: &Run, what| Scores::of(run.adapter().model(), run.adapter().tokenizer(), measured, what, terminal);
    rest::make_room(&mut run.session, Some(session), measured);
    let unedited = Scores::of(&run.unedited, run.adapter().tokenizer(), measured, "unedited", terminal)?;
    let before = measure(&run, "before")?;
    let clock = Instant::now();
    let done = run
        .session
        .consolidate(&Consolidation::default().with_passes(arguments.passes).with_targets(arguments.targets))?;
    bar.finish_and_clear();
    let seconds = clock.elapsed().as_secs_f64();
    rest::make_room(&mut run.session, Some(session), measured);
    let after = measure(&run, "after")?;

    terminal.say(format!("{} facts were consolidated in {seconds:.1} s", done.ids.len()));
    let columns = [("unedited", &unedited), ("before", &before), ("after", &after)];
    terminal.say(format!("\n{}", table(&scores::rows(&columns, Some(&unedited)))));
    terminal.say(format!("\n{}", table(&layer_rows(&done.layers))));
    let mut result = json!({
        "edits": done.ids.len(), "seconds": seconds,
        "unedited": unedited.json(None), "before": before.json(Some(&unedited)), "after": after.json(Some(&unedited)),
        "layers": done.layers.iter().map(|layer| json!({
            "layer": layer.layer, "leakage": layer.leakage, "expected_loss": layer.expected_loss, "drift": layer.drift,
        })).collect::<Vec<_>>(),
    });
    // Before the outputs: it is not lost if the disk has no room for the model.
    if let Some(path) = report {
        write_json(path, &result)?;
    }
    asked.write(&columns)?;
    result["outputs"] = arguments.outputs.write(&places, &mut run, terminal)?;
    if let Some(path) = report {
        write_json(path, &result)?;
    }
    terminal.result(&result);
    Ok(())
}

/// The session's facts that are in the model.
fn facts(run: &Run) -> Done<Vec<Fact>> {
    let held = run.held().into_iter().filter_map(|id| run.entries.get(id as usize));
    let lines = held.map(|entry| Ok(serde_json::to_string(entry)? + "\n")).collect::<serde_json::Result<String>>()?;
    if lines.is_empty() {
        return Err("no edit is in the model: there is nothing to consolidate".into());
    }
    Ok(Facts::parse("edits.jsonl", lines)?.into_vec())
}

fn layer_rows(layers: &[LayerOutcome]) -> Vec<Vec<String>> {
    let number = |x: Option<f64>, digits| x.map_or("-".into(), |x| format!("{x:.digits$}"));
    let row = |layer: &LayerOutcome| {
        let gauges = [number(layer.leakage, 3), number(layer.expected_loss, 5), number(layer.drift, 3)];
        std::iter::once(layer.layer.to_string()).chain(gauges).collect()
    };
    let head = ["layer", "leakage", "expected loss", "drift"].map(str::to_owned).to_vec();
    std::iter::once(head).chain(layers.iter().map(row)).collect()
}
