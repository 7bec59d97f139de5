//! The second moments of gradients in a directory of statistics.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use betaedit_core::SecondMoment;
use betaedit_core::format::{Fingerprint, Statistics};
use betaedit_core::llm::{GradientCollector, Model};

use crate::stats::pieces;
use crate::terminal::{Done, Terminal};

/// Collects gradients by the outputs of the layers of some fingerprints, unless an earlier run has.
pub fn collect(
    collector: &mut GradientCollector<'_>,
    enough: u64,
    texts: &[String],
    fingerprints: &[Fingerprint],
    folder: &Path,
    terminal: Terminal,
) -> Done {
    let is_there = |fingerprint: &Fingerprint| {
        let there = Statistics::read(path(folder, fingerprint.layer));
        there.is_ok_and(|there| {
            there.fingerprint() == Some(fingerprint) && there.parts().any(|part| part == name(enough))
        })
    };
    if enough == 0 || fingerprints.iter().all(is_there) {
        return Ok(());
    }
    let bar = terminal.bar(enough, "gradients");
    collector.read(texts.iter().flat_map(|text| pieces(text)), enough, |progress| {
        bar.set_position(progress.tokens);
        ControlFlow::Continue(())
    })?;
    bar.finish_and_clear();
    for (moment, fingerprint) in collector.moments().values().zip(fingerprints) {
        let statistics = Statistics::from_moment(moment, fingerprint.clone(), &name(enough), terminal.par)?;
        statistics.write(path(folder, fingerprint.layer))?;
    }
    Ok(())
}

/// What was collected, as files say it.
fn name(enough: u64) -> String {
    format!("gradients, {enough} tokens or all")
}

fn path(folder: &Path, layer: usize) -> PathBuf {
    folder.join(format!("layer-{layer:02}.gradients.safetensors"))
}

/// Whether a directory has gradients of all these layers.
pub fn are_there(folder: &Path, layers: &[usize]) -> bool {
    layers.iter().all(|&layer| path(folder, layer).exists())
}

/// The second moments of the gradients by the outputs of layers.
pub fn load(folder: &Path, model: &Model, layers: &[usize]) -> Done<Vec<(usize, Arc<SecondMoment>)>> {
    let read = |&layer: &usize| {
        let path = path(folder, layer);
        let statistics = Statistics::read(&path)?;
        let of_this =
            |fingerprint: &Fingerprint| fingerprint.model == model.fingerprint() && fingerprint.layer == layer;
        if !statistics.fingerprint().is_some_and(of_this) {
            let problem = "the gradients are of another model or layer: collect new ones with `betaedit stats`";
            return Err(format!("`{}`: {problem}", path.display()).into());
        }
        Ok((layer, Arc::new(statistics.moment_without_witness()?)))
    };
    layers.iter().map(read).collect()
}
