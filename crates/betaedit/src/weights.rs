//! Writes edited models to files.

use std::path::{Path, PathBuf};

use betaedit_core::faer::{Mat, Par};
use betaedit_core::format::{Checkpoint, Updates, lora};
use betaedit_core::llm::Model;
use betaedit_core::session::Session;
use betaedit_core::update::Compressed;
use betaedit_core::update::Compression;
use betaedit_core::{Adapter, Update};

use crate::run::{Run, Timed};
use crate::terminal::{Done, Terminal};

#[derive(clap::Args, Clone, Default)]
pub struct Outputs {
    /// Write the edited model to this directory, as safetensors: a copy of the model's directory with the edited tensors, or, for a
    /// .gguf file, a new directory in f32
    #[arg(long, value_name = "EDITED_DIR")]
    pub out: Option<PathBuf>,
    /// Write the edits to this directory, as a LoRA adapter in PEFT's layout
    #[arg(long, value_name = "ADAPTER_DIR")]
    pub lora: Option<PathBuf>,
}

/// The share of a sum of edits that counts as rounding, and that an adapter leaves out.
const ROUNDING: f64 = 1e-6;

/// Other formats of the unedited weights, which are not copied: a program could load them by mistake.
const OTHER_WEIGHTS: [&str; 8] = ["bin", "pt", "pth", "gguf", "onnx", "msgpack", "h5", "ot"];

impl Outputs {
    pub fn write(&self, run: &Run, terminal: Terminal) -> Done {
        let source = &run.description.model;
        if let Some(out) = &self.out {
            write_model(out, source, run)?;
            terminal.say(format!("the edited model is in {}", out.display()));
        }
        if let Some(folder) = &self.lora {
            let updates = updates(&run.unedited, &run.session, terminal.par)?;
            let rank = updates.values().map(Update::rank).max().unwrap_or(0);
            let (_, orientation) = run.unedited.edited_tensor(run.description.plan.layers.0[0])?;
            lora::write(folder, &updates, &source.display().to_string(), orientation)?;
            terminal.say(format!("the adapter is in {}, rank {rank}", folder.display()));
        }
        Ok(())
    }
}

fn write_model(out: &Path, source: &Path, run: &Run) -> Done {
    let adapter = run.adapter();
    let at = |path: &Path| path.canonicalize().ok();
    if at(out).is_some() && at(out) == at(source) {
        return Err("--out is the model itself: give another directory, to keep the unedited model".into());
    }
    if !source.is_dir() {
        return Ok(adapter.model().save(adapter.tokenizer(), out)?);
    }
    copy_directory(source, out)?;
    adapter.model().write_edited(&Checkpoint::open(out)?, adapter.layers())?;
    Ok(())
}

/// Copies the files of a model, without weights in other formats than safetensors.
pub fn copy_directory(source: &Path, out: &Path) -> Done {
    std::fs::create_dir_all(out).map_err(|error| format!("`{}`: {error}", out.display()))?;
    for entry in std::fs::read_dir(source)? {
        let path = entry?.path();
        let other = path.extension().is_some_and(|x| OTHER_WEIGHTS.iter().any(|other| x == *other));
        if let (Some(name), true, false) = (path.file_name(), path.is_file(), other) {
            std::fs::copy(&path, out.join(name)).map_err(|error| format!("`{}`: {error}", path.display()))?;
        }
    }
    Ok(())
}

/// The sum of all edits of each layer, as factors of the smallest rank.
fn updates(model: &Model, session: &Session<Timed>, par: Par) -> Done<Updates<f32>> {
    let mut updates = Updates::new();
    for &layer in session.adapter().layers() {
        let (name, _) = model.edited_tensor(layer)?;
        let total = session.total(layer).ok_or("the session keeps no totals")?;
        if total.norm_l2() == 0.0 {
            continue;
        }
        let whole = Update::from_factors(Mat::identity(total.nrows(), total.nrows()), total.to_owned())?;
        let Compressed { update: small, .. } = whole.compressed(Compression::Tolerance(ROUNDING), par)?;
        updates.insert(name, small.cast()?);
    }
    Ok(updates)
}
