//! GGUF files, the models of llama.cpp and the programs on top of it: copies with edited weights. Adapters for them are written by
//! [`lora::write_gguf`](super::lora::write_gguf).

pub(crate) mod header;
mod kind;
mod model;
mod nearest;
pub(crate) mod parts;
mod weight;

pub use kind::GgufType;
pub use model::{GgufModel, GgufStorage};
pub use nearest::Importance;
pub use weight::{EditedWeight, Survival};
