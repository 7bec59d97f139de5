//! `betaedit inspect`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::files;
use crate::inspect_model;
use crate::plot::{Curve, Panel};
use crate::report::{self, draw};
use crate::run::{Run, check_beside};
use crate::stored;
use crate::terminal::{Done, Terminal, shortened, table};

#[derive(clap::Args)]
pub struct Arguments {
    /// Directory with statistics to show
    #[arg(long, value_name = "STATS_DIR", required_unless_present_any = ["session", "model"])]
    stats: Option<PathBuf>,
    /// Directory of a session to show
    #[arg(long, value_name = "DIR")]
    session: Option<PathBuf>,
    /// Model, to show what would be edited by default, and what that takes; with --session: its model, if it has moved
    #[arg(long, value_name = "M")]
    model: Option<PathBuf>,
    /// Eigenvalue below which directions may be edited, for the capacity
    #[arg(long, default_value_t = 0.02)]
    threshold: f64,
    /// Draw spectra, or leakage and drift, to an SVG file [default: spectrum.svg, session.svg]
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

pub fn run(arguments: &Arguments, terminal: Terminal) -> Done {
    check_plot(arguments)?;
    let mut result = json!({});
    if let Some(folder) = &arguments.stats {
        result["statistics"] = statistics(folder, arguments, terminal)?;
    }
    match (&arguments.session, &arguments.model) {
        (Some(directory), _) => result["session"] = session(directory, arguments, terminal)?,
        (None, Some(model)) => result["model"] = inspect_model::inspect(model, terminal)?,
        (None, None) => {}
    }
    terminal.result(&result);
    Ok(())
}

/// Where plots go that were not given a place.
const SPECTRUM: &str = "spectrum.svg";
const SESSION: &str = "session.svg";

/// Refuses a plot in the place of anything else, an input above all.
fn check_plot(arguments: &Arguments) -> Done {
    let inputs: Vec<&Path> =
        [&arguments.stats, &arguments.session, &arguments.model].into_iter().flatten().map(PathBuf::as_path).collect();
    files::check(&[&arguments.plot], &inputs)?;
    if let (Some(plot), Some(session)) = (&arguments.plot, &arguments.session) {
        check_beside(session, [plot.as_path()])?;
    }
    let usual = [(&arguments.stats, SPECTRUM), (&arguments.session, SESSION)];
    for (_, name) in usual.into_iter().filter(|(asked, _)| asked.is_some() && arguments.plot.is_none()) {
        let there = std::fs::read(name).unwrap_or_default();
        if !there.is_empty() && !there.starts_with(b"<svg") {
            return Err(format!("`{name}` is there and is no plot: give another place with --plot").into());
        }
    }
    Ok(())
}

fn statistics(folder: &Path, arguments: &Arguments, terminal: Terminal) -> Done<Value> {
    let layers = stored::layers_in(folder)?;
    if layers.is_empty() {
        return Err(format!("there are no statistics in `{}`", folder.display()).into());
    }
    let threshold = arguments.threshold;
    let heads = ["layer", "tokens", "trace", "largest", "median", "smallest", "directions", "capacity"];
    let (mut rows, mut curves, mut values) = (vec![heads.map(str::to_owned).to_vec()], vec![], vec![]);
    for layer in layers {
        let (statistics, spectrum) = stored::read(folder, layer, terminal)?;
        let s = spectrum.values();
        let below = spectrum.count_below(threshold);
        // The capacity of the kept directions: sum (1 - s_i / threshold).
        let capacity: f64 = s[..below].iter().map(|s| 1.0 - s / threshold).sum();
        rows.push(vec![
            layer.to_string(),
            statistics.tokens().to_string(),
            format!("{:.3}", spectrum.trace()),
            format!("{:.4}", spectrum.largest()),
            format!("{:.5}", s[s.len() / 2]),
            format!("{:.2e}", s[0]),
            format!("{below} of {}", s.len()),
            format!("{capacity:.0}"),
        ]);
        let points = s.iter().rev().enumerate().map(|(i, s)| (i as f64, s.max(1e-12).log10()));
        curves.push(Curve { name: format!("layer {layer}"), dashed: false, points: points.collect() });
        values.push(json!({
            "layer": layer, "tokens": statistics.tokens(), "trace": spectrum.trace(), "largest": spectrum.largest(),
            "median": s[s.len() / 2], "smallest": s[0], "directions": below, "capacity": capacity,
        }));
    }
    let d = curves[0].points.len() as f64;
    let points = vec![(0.0, threshold.log10()), (d, threshold.log10())];
    curves.push(Curve { name: "threshold".into(), dashed: true, points });
    let panel = Panel { title: "eigenvalues of C".into(), y: "log10".into(), curves };
    let path = arguments.plot.clone().unwrap_or(SPECTRUM.into());
    draw(&path, "Spectrum of the statistics", "index", &[panel])?;
    terminal.say(format!("{}\n\nbelow {threshold}; the plot is in {}", table(&rows), path.display()));
    Ok(json!({ "layers": values, "threshold": threshold, "plot": path }))
}

fn session(directory: &Path, arguments: &Arguments, terminal: Terminal) -> Done<Value> {
    let run = Run::open(directory, arguments.model.as_deref(), terminal)?;
    let held = run.held();
    let mut rows = vec![["edit", "state", "fact", "target"].map(str::to_owned).to_vec()];
    let mut edits = vec![];
    for (id, entry) in run.entries.iter().enumerate() {
        let state = if held.binary_search(&(id as u64)).is_ok() { "in the model" } else { "not in the model" };
        let prompt = entry.request()?.text();
        rows.push(vec![id.to_string(), state.into(), shortened(&prompt, 60), shortened(&entry.target, 24)]);
        edits.push(
            json!({ "edit": id, "state": state, "subject": entry.subject, "prompt": prompt, "target": entry.target }),
        );
    }
    let report = run.session.report();
    let path = arguments.plot.clone().filter(|_| arguments.stats.is_none()).unwrap_or(SESSION.into());
    draw(&path, "Leakage and drift", "facts", &report::curves(&run.session))?;
    terminal.say(format!(
        "{}\n\n{}\n\n{} of {} facts are in the model; {} rejected, {} undone; the plot is in {}",
        table(&rows),
        report::layer_table(&run.session),
        held.len(),
        run.session.processed(),
        report.rejected,
        report.undone,
        path.display()
    ));
    Ok(
        json!({ "edits": edits, "layers": report::layers(&run.session), "settings": run.description.plan, "plot": path }),
    )
}
