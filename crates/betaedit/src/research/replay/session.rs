//! `betaedit replay --session`: the same stream in a session that survives a crash.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::Path;

use betaedit_core::adapter::{RecordedStream, write_delta};
use betaedit_core::editor::method;
use betaedit_core::metrics::Gauges;
use betaedit_core::session::{Consolidation, EditId, Point, ProgressLine, Report, Session, SessionBuilder};
use betaedit_core::{Adapter, KeyStatistics, Scalar};
use serde_json::{Value, json};

use super::Arguments;
use crate::files::replace;
use crate::plot::{self, Curve, Panel};
use crate::terminal::{Done, Terminal};

/// Opens the session, undoes the given edits or else runs to the end, and writes the outputs.
pub fn run<T: Scalar>(arguments: &Arguments, directory: &Path, terminal: Terminal) -> Done {
    let par = terminal.par;
    let stream = RecordedStream::<T>::open(&arguments.stream, par)?;
    let (layer, edits) = (stream.layers()[0], arguments.edits(stream.len())?);
    let statistics = KeyStatistics::new(stream.second_moment().clone(), par)?;
    let entry = method(&arguments.method)?;
    let mut builder = SessionBuilder::new(entry.method(&arguments.hyperparameters()))
        .layer(layer, statistics)
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
        terminal.say(format!("resumed after {done} edits, {} of them replayed from the journal", recovery.replayed));
    }
    if recovery.dropped_bytes > 0 {
        terminal
            .say(format!("dropped an incomplete record of {} bytes; its edit is made again", recovery.dropped_bytes));
    }
    if let Some(reason) = &recovery.snapshot_ignored {
        terminal.say(format!("the snapshot was not used: {reason}"));
    }

    if arguments.undo.is_empty() {
        let requests: Vec<usize> = (done.min(edits)..edits).collect();
        // A run that was killed between a batch and its consolidation goes on with the consolidation.
        consolidate_if_due(arguments, &mut session)?;
        for batch in requests.chunks(arguments.batch) {
            let outcome = session.edit(batch)?;
            if !outcome.is_applied() {
                terminal.say(outcome.to_string());
            }
            consolidate_if_due(arguments, &mut session)?;
        }
        session.snapshot()?;
    } else {
        let ids: Vec<EditId> = arguments.undo.iter().copied().map(EditId).collect();
        let undone = session.undo(&ids)?;
        let how = if undone.rebuilt { ", the others replayed" } else { "" };
        terminal.say(format!("undone: {} of {} edits{how}", undone.ids.len(), session.processed()));
    }
    outputs(arguments, &session, layer, terminal)
}

fn consolidate_if_due<T: Scalar>(arguments: &Arguments, session: &mut Session<RecordedStream<T>>) -> Done {
    let every = arguments.consolidate_every as u64;
    if every > 0 && session.unconsolidated() >= every {
        session.consolidate(&Consolidation::default())?;
    }
    Ok(())
}

fn outputs<T: Scalar>(
    arguments: &Arguments,
    session: &Session<RecordedStream<T>>,
    layer: usize,
    terminal: Terminal,
) -> Done {
    if let Some(path) = &arguments.out {
        let total = session.total(layer)?.ok_or("the gauges are on")?;
        let metadata = HashMap::from([("method".into(), arguments.method.clone())]);
        write_delta(path, total.as_ref(), metadata)?;
    }
    let result = json(arguments, session);
    if let Some(path) = &arguments.report {
        replace(path, serde_json::to_string_pretty(&result)?)?;
    }
    if let Some(path) = &arguments.plot {
        plot::save(path, &format!("{} in a session", arguments.method), "edits", &panels(session.report()))?;
    }
    let Gauges { leakage, drift, .. } = session.gauges(layer).ok_or("the gauges are on")?;
    let report = session.report();
    terminal.say(format!(
        "{} edits: {} applied, {} rejected, {} undone\nleakage tr(D C D^T)   {leakage:.6}\ndrift |D|_F           {drift:.6}",
        session.processed(),
        report.applied,
        report.rejected,
        report.undone,
    ));
    terminal.result(&result);
    Ok(())
}

fn json<T: Scalar>(arguments: &Arguments, session: &Session<RecordedStream<T>>) -> Value {
    let report = session.report();
    let curve = |value: fn(&Point) -> Value| report.curve.iter().map(value).collect::<Vec<_>>();
    json!({
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
    })
}

fn panels(report: &Report) -> Vec<Panel> {
    let panel = |title: &str, y: &str, value: fn(&Point) -> Option<f64>| Panel {
        title: title.into(),
        y: y.into(),
        curves: vec![Curve {
            name: String::new(),
            dashed: false,
            points: report.curve.iter().filter_map(|p| Some((p.processed as f64, value(p)?))).collect(),
        }],
    };
    vec![
        panel("Leakage of the total update", "tr(D C Dᵀ)", |point| point.leakage),
        panel("Drift", "|D|", |point| point.drift),
        panel("Stability of the keys", "s", |point| point.stability),
        panel("Directions that may be edited", "", |point| Some(point.kept_directions as f64)),
    ]
}
