//! LoRA adapters: edits for any program that loads adapters, and adapters of other programs.
//!
//! | for | written by |
//! |---|---|
//! | PEFT, transformers, vLLM | [`write()`], and read by [`LoraAdapter`] |
//! | MLX | [`write_mlx`] |
//! | llama.cpp, Ollama | [`write_gguf`] |
//!
//! All pairs of an adapter have one rank, because many programs scale them by one `alpha / r`. Where programs set a limit to the rank (vLLM:
//! 16, if it is not told otherwise), [`Update::compressed`](crate::Update::compressed) and
//! [`Update::compressed_at`](crate::Update::compressed_at) cut updates to it, and say what is lost.

mod adapter;
mod gguf;
mod mlx;

pub use adapter::LoraAdapter;
pub use gguf::write_gguf;
pub use mlx::write_mlx;

use std::collections::BTreeMap;
use std::path::Path;

use faer::Mat;

use super::Precision;
use super::tensors::{self, NewTensor};
use super::{Updates, malformed};
use crate::error::{NumericsError, Result};
use crate::scalar::Scalar;
use crate::update::{Orientation, Update};
use crate::util::atomic_file;

/// The prefix of module names in PEFT's files.
const PREFIX: &str = "base_model.model.";

/// The two files of an adapter.
const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

/// Writes an adapter into a folder, which is created if it does not exist: `adapter_model.safetensors` and
/// `adapter_config.json`.
///
/// An update **is** a LoRA pair, `B = left` (`d_out x n`) and `A = right` (`n x d_in`) with scale 1, so an adapter of rank
/// `n` changes the model exactly as the edits did. Updates of smaller ranks get zeros. [`Update::compressed`](crate::Update::compressed) makes it smaller and
/// reports the error of doing so.
///
/// * `updates`: by the names of the parameters, which end in `.weight`
/// * `base_model`: name or path of the model, as `from_pretrained` takes it
/// * `orientation`: how the edited modules store their weights; `InputsByOutputs` sets `fan_in_fan_out`. The factors
///   themselves are the same for both.
///
/// # Errors
/// No update at all, a parameter that is not the weight of a module, or a folder that cannot be written.
pub fn write<T: Scalar>(
    folder: impl AsRef<Path>,
    updates: &Updates<T>,
    base_model: &str,
    orientation: Orientation,
) -> Result<()> {
    let folder = folder.as_ref();
    let (modules, rank) = modules(folder, updates)?;
    let config = serde_json::json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": true,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": modules.keys().collect::<Vec<_>>(),
        "fan_in_fan_out": orientation == Orientation::InputsByOutputs,
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": true,
        "modules_to_save": null,
        "use_rslora": false,
        "use_dora": false,
    });
    let config = serde_json::to_vec_pretty(&config).map_err(|error| malformed(folder, error.to_string()))?;
    let padded = padded(modules.values().copied(), rank);
    let factors: Vec<_> = modules
        .keys()
        .zip(&padded)
        .flat_map(|(module, [B, A])| {
            [("A", A), ("B", B)].map(|(side, rows)| {
                NewTensor::matrix(format!("{PREFIX}{module}.lora_{side}.weight"), rows.as_ref(), Precision::of::<T>())
            })
        })
        .collect();
    std::fs::create_dir_all(folder).map_err(atomic_file::io_error(folder))?;
    // The configuration last: without it, there is no adapter.
    tensors::write(&folder.join(TENSORS), tensors::kind("pt"), &factors)?;
    atomic_file::write_whole(&folder.join(CONFIG), &config)
}

/// Updates by the names of their modules, and their largest rank.
fn modules<'a, T: Scalar>(place: &Path, updates: &'a Updates<T>) -> Result<(BTreeMap<&'a str, &'a Update<T>>, usize)> {
    let mut modules = BTreeMap::new();
    for (parameter, update) in updates {
        let module = parameter.strip_suffix(".weight").filter(|module| !module.is_empty()).ok_or_else(|| {
            malformed(
                place,
                format!("parameter `{parameter}` is not the weight of a module: its name must end in `.weight`"),
            )
        })?;
        modules.insert(module, update);
    }
    match modules.values().map(|update| update.rank()).max() {
        Some(rank) => Ok((modules, rank)),
        None => Err(NumericsError::Empty { argument: "updates", item: "update" }.into()),
    }
}

/// The factors of updates, left and right, of one rank: with zeros behind those of a smaller one. Most programs scale every pair by
/// `alpha / r` of the whole adapter, so all pairs must have that rank.
fn padded<'a, T: Scalar>(updates: impl Iterator<Item = &'a Update<T>>, rank: usize) -> Vec<[Mat<T>; 2]> {
    let pad = |update: &Update<T>| {
        let mut factors = [Mat::zeros(update.d_out(), rank), Mat::zeros(rank, update.d_in())];
        factors[0].as_mut().subcols_mut(0, update.rank()).copy_from(update.left());
        factors[1].as_mut().subrows_mut(0, update.rank()).copy_from(update.right());
        factors
    };
    updates.map(pad).collect()
}
