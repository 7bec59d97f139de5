//! Writes edited models to files.

use std::path::{Path, PathBuf};

use betaedit_core::faer::{Mat, Par};
use betaedit_core::format::{Checkpoint, Updates, lora};
use betaedit_core::llm::Model;
use betaedit_core::session::Session;
use betaedit_core::update::Compressed;
use betaedit_core::update::Compression;
use betaedit_core::{Adapter, Update};

use crate::directory::{Kind, MANIFEST, Place};
use crate::files;
use crate::run::Run;
use crate::terminal::{Done, Terminal};
use crate::timed::Timed;

#[derive(clap::Args, Clone, Default)]
pub struct Outputs {
    /// Write the edited model to this directory, as safetensors: a copy of the model's directory with the edited tensors, or, for a
    /// .gguf file, a new directory in f32. A model that an earlier run wrote there is replaced
    #[arg(long, value_name = "EDITED_DIR")]
    pub out: Option<PathBuf>,
    /// Write the edits to this directory, as a LoRA adapter in PEFT's layout. An adapter that an earlier run wrote there is replaced
    #[arg(long, value_name = "ADAPTER_DIR")]
    pub lora: Option<PathBuf>,
}

/// The places of the outputs, checked.
pub struct OutputPlaces {
    model: Option<Place>,
    adapter: Option<Place>,
}

/// The share of a sum of edits that counts as rounding, and that an adapter leaves out.
const ROUNDING: f64 = 1e-6;

/// Other formats of the unedited weights, which are not copied: a program could load them by mistake.
const OTHER_WEIGHTS: [&str; 9] = ["safetensors", "bin", "pt", "pth", "gguf", "onnx", "msgpack", "h5", "ot"];

impl Outputs {
    /// Checks before the work that the directories can be written.
    ///
    /// * `others`: other paths that the command writes; the directories are replaced as a whole, so nothing else may be in them
    pub fn check(&self, inputs: &[&Path], others: &[&Option<PathBuf>]) -> Done<OutputPlaces> {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        for (name, directory, beside) in [("--out", &self.out, &self.lora), ("--lora", &self.lora, &self.out)] {
            let Some(directory) = directory.as_ref().map(absolute) else { continue };
            let inside =
                others.iter().copied().chain([beside]).flatten().find(|path| absolute(path).starts_with(&directory));
            if let Some(path) = inside {
                let path = path.display();
                return Err(
                    format!("{name} is replaced as a whole: `{path}` cannot be in it, give it another place").into()
                );
            }
        }
        let place = |out: &Option<PathBuf>, kind| out.as_ref().map(|out| Place::check(out, kind, inputs)).transpose();
        Ok(OutputPlaces { model: place(&self.out, Kind::Model)?, adapter: place(&self.lora, Kind::Adapter)? })
    }

    pub fn are_asked_for(&self) -> bool {
        self.out.is_some() || self.lora.is_some()
    }

    /// Says that nothing is written, where no edit is in the model after all: what an earlier run wrote stays.
    pub fn note_nothing(&self, terminal: Terminal) {
        for path in [&self.out, &self.lora].into_iter().flatten() {
            terminal.note(format!("no edit is in the model: nothing is written to {}", path.display()));
        }
    }

    pub fn write(&self, places: &OutputPlaces, run: &Run, terminal: Terminal) -> Done {
        if let (Some(out), Some(place)) = (&self.out, &places.model) {
            place.fill(|folder| write_model(folder, &run.description.model, run, terminal))?;
            terminal.say(format!("the edited model is in {}", out.display()));
        }
        if let (Some(out), Some(place)) = (&self.lora, &places.adapter) {
            write_adapter(out, place, run, terminal)?;
        }
        Ok(())
    }
}

/// The share of a change above which its loss by rounding is said.
const LOST: f64 = 0.1;

fn write_model(folder: &Path, source: &Path, run: &Run, terminal: Terminal) -> Done {
    let adapter = run.adapter();
    if !source.is_dir() {
        return Ok(adapter.model().save(adapter.tokenizer(), folder)?);
    }
    copy_directory(source, folder)?;
    let roundings = adapter.model().write_edited(&Checkpoint::open(folder)?, adapter.layers())?;
    for (tensor, rounding) in roundings.iter().filter(|(_, rounding)| rounding.asked > 0.0 && rounding.share() > LOST) {
        let (share, precision) = (100.0 * rounding.share(), rounding.precision);
        terminal.note(format!("`{tensor}`: {share:.0} % of the change is lost by rounding to {precision}"));
    }
    Ok(())
}

fn write_adapter(out: &Path, place: &Place, run: &Run, terminal: Terminal) -> Done {
    let out = out.display();
    let updates = updates(&run.unedited, &run.session, terminal.par)?;
    let Some(rank) = updates.values().map(Update::rank).max() else {
        place.clear()?;
        terminal.note(format!("nothing in the model is edited: no adapter is written to {out}"));
        return Ok(());
    };
    let (_, orientation) = run.unedited.edited_tensor(run.description.plan.layers.0[0])?;
    let base = run.description.model.display().to_string();
    place.fill(|folder| Ok(lora::write(folder, &updates, &base, orientation)?))?;
    terminal.say(format!("the adapter is in {out}, rank {rank}"));
    Ok(())
}

/// Copies the files of a model. Of the weights, only those of the checkpoint.
pub fn copy_directory(source: &Path, out: &Path) -> Done {
    let checkpoint = Checkpoint::open(source)?;
    let files: Vec<_> = checkpoint.files().filter_map(Path::file_name).collect();
    for entry in std::fs::read_dir(source)? {
        let path = entry?.path();
        let Some(name) = path.file_name().filter(|_| path.is_file()) else { continue };
        let other = path.extension().is_some_and(|x| OTHER_WEIGHTS.iter().any(|other| x == *other));
        if name != MANIFEST && (!other || files.contains(&name)) {
            files::copy(&path, &out.join(name))?;
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
