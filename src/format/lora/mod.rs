//! LoRA adapters in the layout of PEFT: edits for any program that loads adapters, and adapters of other programs.

mod adapter;

pub use adapter::LoraAdapter;

use std::collections::BTreeMap;
use std::path::Path;

use super::Precision;
use super::tensors::{self, NewTensor};
use super::{Updates, malformed};
use crate::error::{NumericsError, Result};
use crate::scalar::Scalar;
use crate::update::Orientation;
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
/// `n` changes the model exactly as the edits did. [`Update::compressed`](crate::Update::compressed) makes it smaller and
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
    let mut modules = BTreeMap::new();
    for (parameter, update) in updates {
        let module = parameter.strip_suffix(".weight").filter(|module| !module.is_empty()).ok_or_else(|| {
            malformed(
                folder,
                format!("parameter `{parameter}` is not the weight of a module: its name must end in `.weight`"),
            )
        })?;
        modules.insert(module, update);
    }
    let Some(rank) = modules.values().map(|update| update.rank()).max() else {
        return Err(NumericsError::Empty { argument: "updates", item: "update" }.into());
    };
    // The scale is alpha / r, so a module of another rank has its own alpha.
    let ranks: BTreeMap<_, _> = modules
        .iter()
        .filter(|(_, update)| update.rank() != rank)
        .map(|(name, update)| (name, update.rank()))
        .collect();
    let config = serde_json::json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": true,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
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
    let factors: Vec<_> = modules
        .iter()
        .flat_map(|(module, update)| {
            [("A", update.right()), ("B", update.left())].map(|(side, rows)| {
                NewTensor::matrix(format!("{PREFIX}{module}.lora_{side}.weight"), rows, Precision::of::<T>())
            })
        })
        .collect();
    std::fs::create_dir_all(folder).map_err(atomic_file::io_error(folder))?;
    // The configuration last: without it, there is no adapter.
    tensors::write(&folder.join(TENSORS), tensors::kind("pt"), &factors)?;
    atomic_file::write_whole(&folder.join(CONFIG), &config)
}
