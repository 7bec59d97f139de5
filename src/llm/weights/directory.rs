//! Directories in the Hugging Face layout: `config.json` and safetensors files.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::source::{Source, StoredTensor};
use crate::error::Result;
use crate::format::Checkpoint;
use crate::format::tensors::TensorFile;
use crate::llm::config::Config;
use crate::llm::families::{ConfigFile, Families, Family};

/// Tensors in safetensors files.
pub(super) struct Directory {
    path: PathBuf,
    shards: BTreeMap<PathBuf, TensorFile<File>>,
    /// In which shard a tensor is.
    places: BTreeMap<String, PathBuf>,
}

impl Directory {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let places = Checkpoint::open(path)?.into_files();
        let mut shards = BTreeMap::new();
        for shard in places.values() {
            if !shards.contains_key(shard) {
                shards.insert(shard.clone(), TensorFile::open(shard)?);
            }
        }
        Ok(Self { path: path.to_owned(), shards, places })
    }
}

/// Family and shape of the model in a directory.
pub(super) fn describe(path: &Path, families: &Families) -> Result<(Arc<dyn Family>, Config)> {
    let path = path.join("config.json");
    let file = ConfigFile::open(&path)?;
    let model_type = file.text("model_type").unwrap_or("(none)");
    let family = families.by_model_type(model_type).ok_or_else(|| {
        file.refuse(format!("`model_type` is {model_type}, choose one of: {}", families.model_types()))
    })?;
    let config = family.config(&file)?;
    config.check(&path)?;
    Ok((family.clone(), config))
}

impl Source for Directory {
    fn tensor(&mut self, name: &str) -> Result<Option<StoredTensor>> {
        let Some(shard) = self.places.get(name).and_then(|place| self.shards.get_mut(place)) else { return Ok(None) };
        let (shape, numbers) = shard.numbers(name)?;
        Ok(Some(StoredTensor { shape, numbers }))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
