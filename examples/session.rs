//! A session: edits kept on disk, and one of them undone.
//!
//! ```sh
//! cargo run --release --features safetensors,session --example session -- DIRECTORY
//! ```
//!
//! If it is interrupted and started again with the same directory, it continues where it stopped.

use std::error::Error;

use betaedit_core::adapter::RecordedStream;
use betaedit_core::editor::History;
use betaedit_core::faer::Par;
use betaedit_core::metrics::Gauges;
use betaedit_core::session::{EditId, Session, SessionBuilder};
use betaedit_core::{Adapter, AlphaEdit, KeyStatistics};

const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/smollm2-layer10-slice.safetensors");
const EDITS: usize = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(directory) = std::env::args().nth(1) else {
        eprintln!("usage: session DIRECTORY");
        std::process::exit(2);
    };
    let par = Par::rayon(0);

    // The adapter supplies keys and residuals, here from a recording: a request is the number of a recorded edit.
    let stream = RecordedStream::<f32>::open(RECORDING, par)?;
    let layer = stream.layers()[0];
    let statistics = KeyStatistics::new(stream.second_moment().clone(), par)?;
    let method = AlphaEdit::default().with_history(History::Absorbed);
    let mut session = SessionBuilder::new(method)
        .layer(layer, statistics)
        .directory(directory)
        .snapshot_every(20)
        .open(stream, par)?;

    let done = session.processed() as usize;
    println!("{done} edits are there already");
    let requests: Vec<usize> = (done..EDITS).collect();
    for batch in requests.chunks(5) {
        let outcome = session.edit(batch)?;
        if !outcome.is_applied() {
            println!("{outcome}");
        }
    }
    show("edited", &session, layer)?;

    // The number of an edit is its place in the stream.
    let last = EditId(session.processed() - 1);
    if session.holds(last) {
        session.undo(&[last])?;
        show("undone", &session, layer)?;
    }
    session.snapshot()?;
    Ok(())
}

fn show(what: &str, session: &Session<RecordedStream<f32>>, layer: usize) -> Result<(), Box<dyn Error>> {
    let Gauges { leakage, drift, .. } = session.gauges(layer).ok_or("the session keeps no totals")?;
    let report = session.report();
    println!("{what}: {} applied, {} undone, leakage {leakage:.5}, drift {drift:.4}", report.applied, report.undone);
    Ok(())
}
