//! Models from their files, and to them.

mod biases;
mod directory;
mod gguf;
mod gguf_tokenizer;
mod load;
mod open;
mod pieces;
mod save;
mod source;
mod tokenizer_files;
mod words;

pub use source::{Source, StoredTensor};
