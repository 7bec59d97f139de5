//! Adapters in the layout of MLX.

use std::path::Path;

use super::{modules, padded};
use crate::error::Result;
use crate::format::tensors::{self, NewTensor};
use crate::format::{Precision, Updates, malformed};
use crate::scalar::Scalar;
use crate::util::atomic_file;

/// Writes an adapter for `mlx_lm` into a folder, which is created if it does not exist: `adapters.safetensors` and
/// `adapter_config.json`. It changes the model exactly as the edits did, also a quantized one.
///
/// * `updates`: by the names of the parameters in MLX, which end in `.weight`. For Llama, Mistral and Qwen they are those of the Hugging Face
///   files
/// * `base_model`: name or path of the model
///
/// # Errors
/// As [`write`](super::write()).
///
/// # Examples
/// ```
/// use betaedit_core::format::{Updates, lora};
/// use betaedit_core::{Update, faer::mat};
///
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path().join("adapter");
/// let update = Update::from_factors(mat![[1.0_f32], [2.0]], mat![[0.5, 0.0, -1.0]])?;
/// let updates = Updates::from([("model.layers.7.mlp.down_proj.weight".to_owned(), update)]);
/// lora::write_mlx(&folder, &updates, "mlx-community/a-model-4bit")?; // mlx_lm.generate --adapter-path
/// # assert!(folder.join("adapters.safetensors").exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_mlx<T: Scalar>(folder: impl AsRef<Path>, updates: &Updates<T>, base_model: &str) -> Result<()> {
    let folder = folder.as_ref();
    let (modules, rank) = modules(folder, updates)?;
    let config = serde_json::json!({
        "model": base_model,
        "fine_tune_type": "lora",
        // With the full names of modules as keys.
        "num_layers": 0,
        "lora_parameters": {
            "rank": rank,
            "scale": 1.0,
            "dropout": 0.0,
            "keys": modules.keys().collect::<Vec<_>>(),
        },
    });
    let config = serde_json::to_vec_pretty(&config).map_err(|error| malformed(folder, error.to_string()))?;
    let padded = padded(modules.values().copied(), rank);
    let factors: Vec<_> = modules
        .keys()
        .zip(&padded)
        .flat_map(|(module, [left, right])| {
            [("a", right), ("b", left)].map(|(side, factor)| {
                NewTensor::matrix(format!("{module}.lora_{side}"), factor.transpose(), Precision::of::<T>())
            })
        })
        .collect();
    std::fs::create_dir_all(folder).map_err(atomic_file::io_error(folder))?;
    // The configuration last: without it, there is no adapter.
    tensors::write(&folder.join("adapters.safetensors"), tensors::kind("mlx"), &factors)?;
    atomic_file::write_whole(&folder.join(super::CONFIG), &config)
}
