//! The edited model as files.

use std::collections::BTreeMap;
use std::path::Path;

use betaedit_core::Adapter;
use betaedit_core::faer::Mat;
use betaedit_core::format::Checkpoint;
use betaedit_core::format::gguf::{EditedWeight, GgufModel, GgufStorage, Importance, Survival};
use serde_json::{Value, json};

use super::held::{self, Keys};
use crate::directory::MANIFEST;
use crate::files;
use crate::run::Run;
use crate::terminal::{Done, Terminal, table};

/// Other formats of the unedited weights, which are not copied: a program could load them by mistake.
const OTHER_WEIGHTS: [&str; 9] = ["safetensors", "bin", "pt", "pth", "gguf", "onnx", "msgpack", "h5", "ot"];

/// The share of a change above which its loss by rounding is said.
const LOST: f64 = 0.1;

pub fn write_directory(folder: &Path, run: &Run, terminal: Terminal) -> Done {
    let (adapter, source) = (run.adapter(), &run.description.model);
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

/// The text counts as many keys of edits as this share of the length of a key.
const TEXT: f64 = 1.0 / 16.0;

/// Copies the model's GGUF file with the edited weights, and says how much of the edits is left.
pub fn write_gguf(out: &Path, storage: GgufStorage, keys: &Keys, run: &Run, terminal: Terminal) -> Done<Value> {
    let layers = held::edited(run)?;
    if layers.is_empty() {
        terminal.note(format!("nothing in the model is edited: no model is written to {}", out.display()));
        return Ok(Value::Null);
    }
    let (adapter, model) = (run.adapter(), GgufModel::open(&run.description.model)?);
    let mut tensors = BTreeMap::new();
    for &layer in &layers {
        tensors.insert(adapter.model().edited_tensor_in_gguf(layer)?.0, layer);
    }
    let edited = |&layer: &usize| {
        let (d_out, d_in) = adapter.weight_shape(layer)?;
        let mut weight = Mat::zeros(d_out, d_in);
        adapter.read_weight(layer, weight.as_mut())?;
        let statistics =
            run.known.iter().find(|(number, _)| *number == layer).map(|(_, known)| known.moment()).transpose()?;
        let importance = statistics
            .zip(keys.get(&layer).filter(|keys| keys.ncols() > 0))
            .map(|(moment, keys)| Importance::new(keys.as_ref(), &moment, TEXT * d_in as f64, terminal.par));
        Ok(EditedWeight { weight, importance: importance.transpose()? })
    };
    let survived = model.write_edited(out, &tensors, storage, edited, terminal.par)?;
    say(&model.places(out), &survived, terminal);
    let layers = survived.iter().map(|(tensor, survival)| {
        let Survival { kind, asked, error, .. } = survival;
        json!({ "tensor": tensor, "type": kind.to_string(), "kept": survival.share(), "asked": asked, "error": error })
    });
    Ok(json!({ "tensors": layers.collect::<Vec<_>>() }))
}

fn say(places: &[std::path::PathBuf], survived: &BTreeMap<String, Survival>, terminal: Terminal) {
    let mut rows = vec![["tensor", "type", "left of the edits"].map(str::to_owned).to_vec()];
    rows.extend(survived.iter().map(|(tensor, survival)| {
        vec![tensor.clone(), survival.kind.to_string(), format!("{:.1} %", 100.0 * survival.share())]
    }));
    let places: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
    terminal.say(format!("the edited model is in {}\n\n{}", places.join(", "), table(&rows)));
    let least = survived.values().map(Survival::share).fold(1.0, f64::min);
    if least < 1.0 - LOST {
        terminal.note(format!(
            "rounding to the number types of the file loses up to {:.0} % of what the edits change at their keys: measure the file with \
             `betaedit eval`; --gguf-type f16 loses nothing, nor does an adapter (--gguf-lora)",
            100.0 * (1.0 - least)
        ));
    }
}
