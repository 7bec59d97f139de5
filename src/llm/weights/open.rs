//! Opening a model and its tokenizer.

use std::path::Path;
use std::sync::Arc;

use faer::Par;

use super::directory::{self, Directory};
use super::gguf::Gguf;
use super::load::load;
use super::source::Source;
use super::tokenizer_files;
use crate::error::Result;
use crate::llm::config::Config;
use crate::llm::families::{Families, Family};
use crate::llm::model::Model;
use crate::llm::tokenizer::Tokenizer;

impl Model {
    /// Reads a model and its tokenizer: from a directory with `config.json`, `model.safetensors` (or shards with
    /// `model.safetensors.index.json`) and `tokenizer.json`, or from a `.gguf` file or all parts of a split one, which may have a
    /// `tokenizer.json` with the same vocabulary beside it. Weights may be `f32`, `f16` or `bf16`, in GGUF files also quantized; matrices
    /// are held in the type of the file. What is read and what is refused is listed in `docs/models.md`.
    ///
    /// # Errors
    /// A file that is missing or cannot be read, an unknown architecture, an entry of the configuration that could change what the
    /// model computes and is not understood, a tensor that is missing, of the wrong shape, or not part of the model.
    pub fn open(path: impl AsRef<Path>, par: Par) -> Result<(Self, Tokenizer)> {
        Self::open_with(path, &Families::built_in(), par)
    }

    /// As [`open`](Self::open), for models of any of the given families.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: impl AsRef<Path>, families: &Families, par: Par) -> Result<(Self, Tokenizer)> {
        Self::open_blocks(path.as_ref(), families, |config| config.layers, par)
    }

    /// As [`open`](Self::open), but keeps only the lowest blocks and, without the others, no head: a [`Collector`](crate::llm::Collector)
    /// of their layers needs no more. All tensors are read and checked, one after the other, and the fingerprint is that of the whole
    /// model. Logits are an error.
    ///
    /// * `blocks`: how many blocks to keep of a model of this shape
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_lowest(
        path: impl AsRef<Path>,
        blocks: impl FnOnce(&Config) -> usize,
        par: Par,
    ) -> Result<(Self, Tokenizer)> {
        Self::open_blocks(path.as_ref(), &Families::built_in(), blocks, par)
    }

    fn open_blocks(
        path: &Path,
        families: &Families,
        kept: impl FnOnce(&Config) -> usize,
        par: Par,
    ) -> Result<(Self, Tokenizer)> {
        if path.is_dir() {
            let (family, config) = directory::describe(path, families)?;
            let mut directory = Directory::open(path)?;
            let tokenizer = tokenizer_files::tokenizer(path)?;
            Ok((load(config, family.clone(), &family.layout(), &mut directory, kept, par)?, tokenizer))
        } else {
            directory::check_is_model_file(path)?;
            let mut gguf = Gguf::open(path, families)?;
            let tokenizer = gguf.tokenizer()?;
            let (family, config, layout) = gguf.describe();
            Ok((load(config, family, &layout, &mut gguf, kept, par)?, tokenizer))
        }
    }

    /// Builds a model of the given shape, from tensors that have the names of the family's safetensors files.
    ///
    /// # Errors
    /// Sizes that do not fit together, a missing tensor, one of the wrong shape, one that is not finite, or one that is not part of the
    /// model.
    pub fn from_source(config: Config, family: Arc<dyn Family>, source: &mut dyn Source, par: Par) -> Result<Self> {
        let layout = family.layout();
        load(config, family, &layout, source, |config| config.layers, par)
    }
}
