//! The orientation of a checkpoint's projections.

use std::path::Path;

use faer::MatRef;

use crate::error::Result;
use crate::format::malformed;
use crate::format::tensors::Matrix;
use crate::update::Orientation;
use crate::util::atomic_file;

/// The file that names the kind of the model.
const CONFIG: &str = "config.json";

/// Kinds of models whose projections are `Conv1D`, and kinds whose projections are `Linear`.
const CONV1D: [&str; 4] = ["decision_transformer", "gpt2", "imagegpt", "openai-gpt"];
const LINEAR: [&str; 19] = [
    "bloom",
    "falcon",
    "gemma",
    "gemma2",
    "gpt_bigcode",
    "gpt_neo",
    "gpt_neox",
    "gptj",
    "llama",
    "mistral",
    "mixtral",
    "olmo2",
    "opt",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "stablelm",
    "starcoder2",
];

/// The part of a configuration that is read.
#[derive(serde::Deserialize)]
struct ModelType {
    model_type: String,
}

/// By the `model_type` of the `config.json` beside a file of the model.
pub(super) fn of_model(beside: &Path) -> Result<Orientation> {
    let path = beside.with_file_name(CONFIG);
    let config: ModelType = serde_json::from_slice(&atomic_file::read(&path)?)
        .map_err(|error| malformed(&path, format!("not a readable configuration of a model: {error}")))?;
    match config.model_type.as_str() {
        kind if CONV1D.contains(&kind) => Ok(Orientation::InputsByOutputs),
        kind if LINEAR.contains(&kind) => Ok(Orientation::OutputsByInputs),
        kind => Err(malformed(
            &path,
            format!("how a model of type `{kind}` stores its weights is not known; give the orientation"),
        )),
    }
}

pub(super) fn outputs_by_inputs(stored: &Matrix, orientation: Orientation) -> (usize, usize) {
    match orientation {
        Orientation::OutputsByInputs => (stored.rows, stored.cols),
        Orientation::InputsByOutputs => (stored.cols, stored.rows),
    }
}

pub(super) fn as_stored<T>(weight: MatRef<'_, T>, orientation: Orientation) -> MatRef<'_, T> {
    match orientation {
        Orientation::OutputsByInputs => weight,
        Orientation::InputsByOutputs => weight.transpose(),
    }
}
