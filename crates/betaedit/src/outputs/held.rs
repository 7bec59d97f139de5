//! What the edits of a session come to: the change of each layer, and the keys at which it was asked for.

use std::collections::BTreeMap;

use betaedit_core::Adapter;
use betaedit_core::Update;
use betaedit_core::faer::Mat;
use betaedit_core::llm::Request;

use crate::run::Run;
use crate::terminal::{Done, Terminal};

/// The sums of the edits, as factors of the smallest rank.
pub type Totals = BTreeMap<usize, Update<f64>>;

/// The keys of the edits in the model, of each layer: `d_in x n`.
pub type Keys = BTreeMap<usize, Mat<f32>>;

/// The share of a sum of edits that counts as rounding, and that an adapter leaves out.
const ROUNDING: f64 = 1e-6;

/// The layers that have edits.
pub fn edited(run: &Run) -> Done<Vec<usize>> {
    let drift = |&layer: &usize| Ok((layer, run.session.gauges(layer).ok_or("the session keeps no totals")?.drift));
    let drifts = run.adapter().layers().iter().map(drift).collect::<Done<Vec<(usize, f64)>>>()?;
    Ok(drifts.into_iter().filter(|(_, drift)| *drift > 0.0).map(|(layer, _)| layer).collect())
}

pub fn totals(run: &Run, terminal: Terminal) -> Done<Totals> {
    let mut totals = Totals::new();
    for layer in edited(run)? {
        let total = run.session.total(layer)?.ok_or("the session keeps no totals")?;
        totals.insert(layer, Update::from_dense(total.as_ref(), ROUNDING, terminal.par)?.update);
    }
    Ok(totals)
}

/// Facts whose keys are asked for at once.
const AT_ONCE: usize = 16;

/// The keys of all edits in the model, in all places in which they were written, as the edited model has them.
pub fn keys(run: &mut Run, terminal: Terminal) -> Done<Keys> {
    let held = run.held();
    let requests = held.iter().filter_map(|&id| run.entries.get(id as usize)).map(|entry| Ok(entry.request()?));
    let requests = requests.collect::<Done<Vec<Request>>>()?;
    let layers = run.adapter().layers().to_vec();
    let adapter = &mut run.session.adapter_mut().inner;
    let bar = terminal.bar(requests.len() as u64, "keys");
    let mut columns: BTreeMap<usize, Vec<Vec<f32>>> = BTreeMap::new();
    for requests in requests.chunks(AT_ONCE) {
        for &layer in &layers {
            let of_layer = columns.entry(layer).or_default();
            let own = adapter.keys(layer, requests)?;
            of_layer.extend(own.col_iter().map(|key| key.iter().copied().collect()));
            // Those with a multiple of zero are of what stays.
            let Some(others) = adapter.companions(layer, requests)? else { continue };
            let written = others.keys.col_iter().zip(&others.of).filter(|(_, (_, times))| *times != 0.0);
            of_layer.extend(written.map(|(key, _)| key.iter().copied().collect()));
        }
        bar.inc(requests.len() as u64);
    }
    bar.finish_and_clear();
    let matrix =
        |columns: Vec<Vec<f32>>| Mat::from_fn(columns.first().map_or(0, Vec::len), columns.len(), |i, j| columns[j][i]);
    Ok(columns.into_iter().map(|(layer, columns)| (layer, matrix(columns))).collect())
}
