//! `replay --session`: the same stream in a session that survives a crash.

use std::collections::HashMap;
use std::error::Error;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use betaedit_core::adapter::{RecordedStream, write_delta};
use betaedit_core::editor::method;
use betaedit_core::faer::Par;
use betaedit_core::session::{EditId, Point, ProgressLine, Session, SessionBuilder};
use betaedit_core::{Adapter, Scalar, Spectrum};
use serde_json::json;

use crate::support::command::say;
use crate::support::plot::{self, Curve, Panel};
use crate::{Arguments, write};

/// Opens the session, undoes what is to be undone or else runs to the end, and writes the outputs.
pub fn run<T: Scalar>(arguments: &Arguments, directory: &Path, par: Par) -> Result<(), Box<dyn Error>> {
    let stream = RecordedStream::<T>::open(&arguments.stream, par)?;
    let (layer, recorded) = (stream.layers()[0], stream.len());
    let edits = arguments.edits.unwrap_or(recorded);
    if arguments.batch == 0 || edits == 0 || edits > recorded {
        return Err(format!("--edits must be 1 to {recorded} (the length of the stream) and --batch at least 1").into());
    }
    let moment = Arc::new(stream.second_moment().clone());
    let spectrum = Arc::new(Spectrum::of(&moment, par)?);
    let entry = method(&arguments.method)?;
    let mut builder = SessionBuilder::new(entry.name, entry.recipe(&arguments.hyperparameters()))
        .layer(layer, moment, spectrum)
        .directory(directory)
        .snapshot_every(arguments.snapshot_every);
    if let Some(restraint) = arguments.restraint() {
        builder = builder.restraint(restraint);
    }
    if std::io::stderr().is_terminal() {
        builder = builder.observer(ProgressLine::new(std::io::stderr(), Some(edits as u64)));
    }
    let mut session = builder.open(stream, par)?;
    let (recovery, done) = (session.recovery().clone(), session.processed() as usize);
    if recovery.resumed {
        say(&format!("resumed after {done} edits, {} of them done again from the journal", recovery.replayed))?;
    }
    if recovery.dropped_bytes > 0 {
        say(&format!("dropped an unfinished record of {} bytes; its edit is made again", recovery.dropped_bytes))?;
    }
    if let Some(reason) = &recovery.snapshot_ignored {
        say(&format!("the snapshot was left aside: {reason}"))?;
    }

    if arguments.undo.is_empty() {
        let requests: Vec<usize> = (done.min(edits)..edits).collect();
        for batch in requests.chunks(arguments.batch) {
            let outcome = session.edit(batch)?;
            if !outcome.is_applied() {
                say(&outcome.to_string())?;
            }
        }
        session.snapshot()?;
    } else {
        let ids: Vec<EditId> = arguments.undo.iter().copied().map(EditId).collect();
        let undone = session.undo(&ids)?;
        let how = if undone.rebuilt { ", the others played again" } else { "" };
        say(&format!("undone: {} of {} edits{how}", undone.ids.len(), session.processed()))?;
    }
    outputs(arguments, &session, layer)
}

fn outputs<T: Scalar>(
    arguments: &Arguments,
    session: &Session<RecordedStream<T>>,
    layer: usize,
) -> Result<(), Box<dyn Error>> {
    let report = session.report();
    if let Some(path) = &arguments.out {
        let total = session.total(layer).ok_or("the gauges are on")?;
        let metadata = HashMap::from([("method".into(), arguments.method.clone())]);
        write_delta(path, total, metadata)?;
    }
    if let Some(path) = &arguments.report {
        let curve = |value: fn(&Point) -> serde_json::Value| report.curve.iter().map(value).collect::<Vec<_>>();
        let report = json!({
            "method": arguments.method,
            "edits": session.processed(),
            "applied": report.applied,
            "rejected": report.rejected,
            "undone": report.undone,
            "refreshes": report.refreshes,
            "edits_done": curve(|point| json!(point.processed)),
            "leakage": curve(|point| json!(point.leakage)),
            "drift": curve(|point| json!(point.drift)),
            "s": curve(|point| json!(point.stability)),
            "kept_directions": curve(|point| json!(point.kept_directions)),
        });
        write(path, &serde_json::to_string_pretty(&report)?)?;
    }
    if let Some(path) = &arguments.plot {
        let panel = |title: &str, y: &str, value: fn(&Point) -> Option<f64>| Panel {
            title: title.into(),
            y: y.into(),
            curves: vec![Curve {
                name: String::new(),
                dashed: false,
                points: report.curve.iter().filter_map(|p| Some((p.processed as f64, value(p)?))).collect(),
            }],
        };
        let panels = [
            panel("Leakage of the total update", "tr(D C Dᵀ)", |point| point.leakage),
            panel("Drift", "|D|", |point| point.drift),
            panel("Stability of the keys", "s", |point| point.stability),
            panel("Directions that may be edited", "", |point| Some(point.kept_directions as f64)),
        ];
        plot::save(path, &format!("{} in a session", arguments.method), "edits", &panels)?;
    }
    let (leakage, drift) = session.gauges(layer).ok_or("the gauges are on")?;
    say(&format!(
        "{} edits: {} applied, {} rejected, {} undone\nleakage tr(D C D^T)   {leakage:.6}\ndrift |D|_F           {drift:.6}",
        session.processed(),
        report.applied,
        report.rejected,
        report.undone,
    ))
}
