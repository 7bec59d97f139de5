//! Files of other programs, and files of this crate.
//!
//! | file | module | feature |
//! |---|---|---|
//! | layer statistics of the MEMIT family, `.npz` | `Statistics::read_npz` | `npz` |
//! | matrices of numpy, `.npy` | `npy` | `npz` |
//! | layer statistics with a fingerprint, in parts that can be merged | `Statistics::read` | `safetensors` |
//! | Hugging Face checkpoints, single or sharded, `f64` to `bf16` | `Checkpoint` | `safetensors` |
//! | LoRA adapters for PEFT and vLLM, MLX, llama.cpp | `lora` | `safetensors` |
//! | models in GGUF files, copied with edited weights | `gguf` | `safetensors` |
//! | updates, as factors | `delta` | `safetensors` |
//! | eigendecompositions, dense projectors | `spectrum` | `safetensors` |
//! | the engine's state | `engine` | `files` |
//!
//! Readers check everything that a file claims. A header longer than its file, a shape that does not match its bytes, an
//! unknown number type, an archive that unpacks to far more than its size, an index that points outside its folder: each
//! gives an [`FileError::Format`] that says what is wrong. No reader allocates more than a small multiple of the file's
//! length.
//!
//! Every file is written completely or not at all: first beside its place, then renamed into it.

use std::path::Path;

use crate::error::{Error, FileError, NumericsError};

#[cfg(feature = "safetensors")]
pub mod checkpoint;
#[cfg(feature = "safetensors")]
pub mod delta;
pub mod engine;
#[cfg(feature = "safetensors")]
pub mod gguf;
#[cfg(feature = "safetensors")]
pub(crate) mod lfs_pointer;
#[cfg(feature = "safetensors")]
pub mod lora;
#[cfg(feature = "npz")]
pub mod npy;
#[cfg(feature = "npz")]
mod npz;
#[cfg(feature = "safetensors")]
pub mod spectrum;
#[cfg(any(feature = "npz", feature = "safetensors"))]
mod statistics;
#[cfg(feature = "safetensors")]
pub(crate) mod tensors;

#[cfg(feature = "safetensors")]
pub use checkpoint::Checkpoint;
#[cfg(any(feature = "npz", feature = "safetensors"))]
pub use statistics::{Fingerprint, Statistics};

#[cfg(any(feature = "npz", feature = "safetensors"))]
pub use crate::update::Precision;
#[cfg(feature = "safetensors")]
pub use crate::update::Rounding;

/// Updates by the name of the parameter that each of them changes, such as `model.layers.10.mlp.down_proj.weight`.
#[cfg(feature = "safetensors")]
pub type Updates<T> = std::collections::BTreeMap<String, crate::update::Update<T>>;

/// An error in the contents of a file.
pub(crate) fn malformed(path: &Path, problem: impl Into<String>) -> Error {
    FileError::Format { path: path.to_owned(), problem: problem.into() }.into()
}

/// An error in the numbers of a file.
pub(crate) fn in_file(path: &Path) -> impl Fn(NumericsError) -> Error + Copy + '_ {
    move |error| FileError::Numbers { path: path.to_owned(), error: Box::new(error) }.into()
}
