//! What a session's edits are written as: models and adapters.

mod adapters;
mod held;
mod model;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use betaedit_core::format::gguf::GgufStorage;
use betaedit_core::llm::Model;
use serde_json::{Value, json};

use crate::directory::{Kind, Place};
use crate::files;
use crate::run::Run;
use crate::settings::named;
use crate::terminal::{Done, Terminal};
use adapters::{Factors, Layout};
use held::{Keys, Totals};
pub use model::copy_directory;

const STORAGES: [&str; 3] = [
    "Their own, so that no other byte of the file changes; what rounding leaves of the edits is said",
    "f16, which loses nothing; the file is larger",
    "f32",
];

#[derive(clap::Args, Clone, Default)]
pub struct Outputs {
    /// Write the edited model to this directory, as safetensors: a copy of the model's directory with the edited tensors, or, for a
    /// .gguf file, a new directory in f32. A model that an earlier run wrote there is replaced. Or FILE.gguf: a copy of the
    /// model's .gguf file with the edited tensors; a file that is there is replaced
    #[arg(long, value_name = "EDITED")]
    pub out: Option<PathBuf>,
    /// With --out FILE.gguf: the number type of the edited tensors
    #[arg(long, value_name = "TYPE", default_value_t, value_parser = named(GgufStorage::ALL, &STORAGES))]
    pub gguf_type: GgufStorage,
    /// Write the edits to this directory, as a LoRA adapter in PEFT's layout. An adapter that an earlier run wrote there is replaced
    #[arg(long, value_name = "ADAPTER_DIR")]
    pub lora: Option<PathBuf>,
    /// Write the edits to this directory, as an adapter for mlx_lm. An adapter that an earlier run wrote there is replaced
    #[arg(long, value_name = "ADAPTER_DIR")]
    pub mlx: Option<PathBuf>,
    /// Write the edits to this file, as a LoRA adapter for llama.cpp and Ollama. A file that is there is replaced
    #[arg(long, value_name = "FILE.gguf")]
    pub gguf_lora: Option<PathBuf>,
    /// Largest rank of an adapter; vLLM loads up to 16 by default. What it cannot hold of the edits is said [default: that of the edits]
    #[arg(long, value_name = "N")]
    pub rank: Option<NonZeroUsize>,
}

/// The places of the outputs, checked.
pub struct OutputPlaces {
    model: Option<ModelPlace>,
    peft: Option<Place>,
    mlx: Option<Place>,
}

enum ModelPlace {
    Directory(Place),
    File,
}

/// Whether a name is that of a GGUF file.
fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

impl Outputs {
    /// Checks before the work that the files and directories can be written.
    ///
    /// * `model`: the path of the model
    /// * `others`: other paths that the command writes; the directories are replaced as a whole, so nothing else may be in them
    pub fn check(&self, model: &Path, inputs: &[&Path], others: &[&Option<PathBuf>]) -> Done<OutputPlaces> {
        let Self { out, lora, mlx, gguf_lora, .. } = self;
        let file = out.as_ref().filter(|out| is_gguf(out) && !out.is_dir()).cloned();
        let directory = out.as_ref().filter(|_| file.is_none()).cloned();
        let named = [("--out", &directory), ("--lora", lora), ("--mlx", mlx)];
        check_inside(&named, &[others, &[&file, gguf_lora]].concat())?;
        if self.rank.is_some() && [lora, mlx, gguf_lora].into_iter().all(Option::is_none) {
            return Err("--rank is the rank of an adapter: give --lora, --mlx or --gguf-lora with it".into());
        }
        if let Some(out) = &file {
            check_file(out, model)?;
        } else if self.gguf_type != GgufStorage::Own {
            return Err("--gguf-type is the type of the tensors of a file: give --out FILE.gguf with it".into());
        }
        files::check(&[&file, gguf_lora], inputs)?;
        let place = |out: &Option<PathBuf>, kind| out.as_ref().map(|out| Place::check(out, kind, inputs)).transpose();
        let model = match file {
            Some(_) => Some(ModelPlace::File),
            None => place(&directory, Kind::Model)?.map(ModelPlace::Directory),
        };
        Ok(OutputPlaces { model, peft: place(lora, Kind::Adapter)?, mlx: place(mlx, Kind::Adapter)? })
    }

    /// Checks before the work that the model has what the outputs need.
    pub fn check_model(&self, model: &Model) -> Done {
        if let Some(out) = &self.gguf_lora {
            let named = model.edited_tensor_in_gguf(0);
            named.map_err(|error| format!("`{}`: {error}, such as --lora", out.display()))?;
        }
        Ok(())
    }

    /// Refuses before the work a rank that may be too small for the facts, where edits that it cannot hold would be lost.
    pub fn check_rank(&self, facts: usize, session: Option<&Path>) -> Done {
        match self.rank.filter(|rank| session.is_none() && rank.get() < facts) {
            None => Ok(()),
            Some(rank) => Err(format!(
                "{facts} facts may need more than --rank {rank}, and without a session they would be lost: give --session DIR, from which \
                 `betaedit export` writes adapters of any rank"
            )
            .into()),
        }
    }

    pub fn are_asked_for(&self) -> bool {
        [&self.out, &self.lora, &self.mlx, &self.gguf_lora].into_iter().any(Option::is_some)
    }

    /// Says that nothing is written, where no edit is in the model after all: what an earlier run wrote stays.
    pub fn note_nothing(&self, terminal: Terminal) {
        for path in [&self.out, &self.lora, &self.mlx, &self.gguf_lora].into_iter().flatten() {
            terminal.note(format!("no edit is in the model: nothing is written to {}", path.display()));
        }
    }

    /// Writes all of them, and returns what was lost.
    pub fn write(&self, places: &OutputPlaces, run: &mut Run, terminal: Terminal) -> Done<Value> {
        let mut said = json!({});
        let adapter = [&self.lora, &self.mlx, &self.gguf_lora].into_iter().flatten().next();
        let totals = if adapter.is_some() { held::totals(run, terminal)? } else { Totals::new() };
        let keys = if self.needs_keys(places, &totals) { held::keys(run, terminal)? } else { Keys::new() };
        if let (Some(out), Some(place)) = (&self.out, &places.model) {
            said["out"] = match place {
                ModelPlace::File => model::write_gguf(out, self.gguf_type, &keys, run, terminal)?,
                ModelPlace::Directory(place) => {
                    place.fill(|folder| model::write_directory(folder, run, terminal))?;
                    terminal.say(format!("the edited model is in {}", out.display()));
                    json!({})
                }
            };
        }
        let Some(first) = adapter else { return Ok(said) };
        // After the model: a rank that cannot hold the edits is an error.
        let factors =
            Factors::new(&totals, &keys, self.rank, first, terminal).map_err(|error| match &run.directory {
                Some(session) => {
                    let session = session.display();
                    format!("{error}; the edits are kept: `betaedit export --session {session}`").into()
                }
                None => error,
            })?;
        let factors = factors.as_ref();
        let directories =
            [("lora", &self.lora, &places.peft, Layout::Peft), ("mlx", &self.mlx, &places.mlx, Layout::Mlx)];
        for (name, out, place, layout) in directories {
            if let (Some(out), Some(place)) = (out, place) {
                said[name] = adapters::write(out, place, layout, factors, run, terminal)?;
            }
        }
        if let Some(out) = &self.gguf_lora {
            said["gguf_lora"] = adapters::write_gguf(out, factors, run, terminal)?;
        }
        Ok(said)
    }

    /// Whether anything is to be lost at the keys of the edits.
    fn needs_keys(&self, places: &OutputPlaces, totals: &Totals) -> bool {
        let rounded = matches!(places.model, Some(ModelPlace::File)) && self.gguf_type == GgufStorage::Own;
        let cut = self.rank.is_some_and(|rank| totals.values().any(|total| total.rank() > rank.get()));
        rounded || cut
    }
}

/// Refuses directories that other outputs are in, and files that others write.
///
/// * `directories`: with their flags
fn check_inside(directories: &[(&str, &Option<PathBuf>)], others: &[&Option<PathBuf>]) -> Done {
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    for (name, directory) in directories {
        let Some(directory) = directory.as_ref().map(absolute) else { continue };
        let beside = directories.iter().filter(|(other, _)| other != name).map(|(_, path)| *path);
        let inside = others.iter().copied().chain(beside).flatten().find(|path| absolute(path).starts_with(&directory));
        if let Some(path) = inside {
            let path = path.display();
            return Err(
                format!("{name} is replaced as a whole: `{path}` cannot be in it, give it another place").into()
            );
        }
    }
    let others: Vec<PathBuf> = others.iter().copied().flatten().map(absolute).collect();
    match others.iter().enumerate().find(|(i, path)| others[..*i].contains(path)) {
        Some((_, path)) => Err(format!("{}: two outputs cannot have the same path", path.display()).into()),
        None => Ok(()),
    }
}

/// Refuses a file as the edited model where the model is none.
fn check_file(out: &Path, model: &Path) -> Done {
    let (shown, source) = (out.display(), model.display());
    if model.is_dir() {
        return Err(format!(
            "`{shown}` is a file, and the model `{source}` is a directory: give --out a directory, or --gguf-lora a file for llama.cpp"
        )
        .into());
    }
    Ok(())
}
