//! Families of models: the names of their tensors and of the entries of their `config.json`.
//!
//! A [`Family`] describes files. The decoder is the same for all families, and a [`Config`] describes its shape. So a family is one
//! file, in this crate or in another; `docs/adding-a-model-family.md` shows how to add one. [`Families`] is the set that
//! [`Model::open_with`](super::Model::open_with) chooses from.

mod config_file;
mod falcon;
mod gemma;
mod gemma2;
mod gemma3;
mod gguf;
mod gpt2;
mod gpt_neox;
mod gptj;
mod layer_types;
mod layout;
mod llama;
mod mistral;
mod olmo2;
mod phi;
mod phi3;
mod qwen2;
mod qwen3;
mod rotary;
mod stablelm;
mod starcoder2;
mod unread;

use std::fmt::Debug;
use std::sync::Arc;

use serde_json::Value;

pub use config_file::ConfigFile;
pub use falcon::Falcon;
pub use gemma::Gemma;
pub use gemma2::Gemma2;
pub use gemma3::Gemma3;
pub(super) use gguf::{DIVISORS, whole};
pub use gguf::{Gains, GgufLayout, GgufMetadata};
pub use gpt_neox::GptNeoX;
pub use gpt2::Gpt2;
pub use gptj::GptJ;
pub(super) use layout::numbered;
pub use layout::{AttentionNames, Name, TensorLayout};
pub use llama::Llama;
pub use mistral::Mistral;
pub use olmo2::Olmo2;
pub use phi::Phi;
pub use phi3::Phi3;
pub use qwen2::Qwen2;
pub use qwen3::Qwen3;
pub use stablelm::StableLm;
pub use starcoder2::StarCoder2;
pub(super) use unread::experts;

use super::config::Config;
use crate::error::Result;

/// A family of models: how to read and write its files.
pub trait Family: Debug + Send + Sync {
    /// The family's name in the [fingerprints](super::Model::fingerprint) of its models. Stored statistics and sessions contain it, so it
    /// must never change.
    fn name(&self) -> &str;

    /// The `model_type` in its `config.json`, by which a directory is recognised.
    fn model_type(&self) -> &str;

    /// The shape of a model, from its `config.json`.
    ///
    /// # Errors
    /// A missing or invalid entry, or a variant that cannot be run (see [`ConfigFile::refuse`]).
    fn config(&self, file: &ConfigFile) -> Result<Config>;

    /// The `config.json` of a model of that shape: [`config`](Self::config) reads it back. The command stores a hash of it with statistics and
    /// sessions, to recognise models whose weights are the same and whose configuration has changed.
    fn config_json(&self, config: &Config) -> Value;

    /// The names of its tensors in safetensors files.
    fn layout(&self) -> TensorLayout;

    /// The names in its GGUF files. By default there are no such files.
    fn gguf(&self) -> Option<GgufLayout> {
        None
    }

    /// The names that its models get in GGUF files: those of [`gguf`](Self::gguf), unless such a file is one of another family.
    fn converted_to_gguf(&self) -> Option<GgufLayout> {
        self.gguf()
    }

    /// The shape of a model, from the metadata of a GGUF file. By default a decoder of Llama's shape:
    /// [`GgufMetadata::decoder`].
    ///
    /// # Errors
    /// As [`config`](Self::config).
    fn config_from_gguf(&self, metadata: &GgufMetadata<'_>) -> Result<Config> {
        metadata.decoder()
    }
}

/// A set of families, found by the names that files have for them.
///
/// ```
/// use betaedit_core::llm::Families;
///
/// let known: Vec<_> = Families::built_in().iter().map(|family| family.model_type().to_owned()).collect();
/// assert_eq!(known[..6], ["llama", "mistral", "qwen2", "qwen3", "gpt2", "gptj"]);
/// assert_eq!(known[6..12], ["phi3", "gemma2", "gemma3_text", "olmo2", "gpt_neox", "stablelm"]);
/// assert_eq!(known[12..], ["gemma", "phi", "falcon", "starcoder2"]);
/// ```
#[derive(Clone, Debug)]
pub struct Families(Vec<Arc<dyn Family>>);

impl Families {
    /// The families of this crate.
    #[must_use]
    pub fn built_in() -> Self {
        Self(vec![
            Arc::new(Llama),
            Arc::new(Mistral),
            Arc::new(Qwen2),
            Arc::new(Qwen3),
            Arc::new(Gpt2),
            Arc::new(GptJ),
            Arc::new(Phi3),
            Arc::new(Gemma2),
            Arc::new(Gemma3),
            Arc::new(Olmo2),
            Arc::new(GptNeoX),
            Arc::new(StableLm),
            Arc::new(Gemma),
            Arc::new(Phi),
            Arc::new(Falcon),
            Arc::new(StarCoder2),
        ])
    }

    /// Adds a family. If files have the same name for two families, the one added last is used.
    #[must_use]
    pub fn with(mut self, family: impl Family + 'static) -> Self {
        self.0.push(Arc::new(family));
        self
    }

    /// All of them, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Family> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// The family with this `model_type`.
    #[must_use]
    pub fn by_model_type(&self, model_type: &str) -> Option<&Arc<dyn Family>> {
        self.0.iter().rev().find(|family| family.model_type() == model_type)
    }

    /// The family with this `general.architecture` in GGUF files.
    #[must_use]
    pub fn by_architecture(&self, architecture: &str) -> Option<&Arc<dyn Family>> {
        let is = |family: &&Arc<dyn Family>| family.gguf().is_some_and(|gguf| gguf.architecture == architecture);
        self.0.iter().rev().find(is)
    }

    /// The `model_type`s of all, for messages.
    pub(super) fn model_types(&self) -> String {
        self.iter().map(Family::model_type).collect::<Vec<_>>().join(", ")
    }

    /// The architectures of all that have GGUF files, for messages.
    pub(super) fn architectures(&self) -> String {
        let names = self.iter().filter_map(|family| Some(family.gguf()?.architecture.into_owned()));
        names.collect::<Vec<_>>().join(", ")
    }
}

impl Default for Families {
    fn default() -> Self {
        Self::built_in()
    }
}
