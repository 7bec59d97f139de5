//! Models as the Hugging Face hub has them: a directory with `config.json` and safetensors files.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::config::{Config, Family};
use super::load::{Names, Source, directory_names};
use crate::error::Result;
use crate::format::Checkpoint;
use crate::format::tensors::TensorFile;
use crate::util::atomic_file::io_error;

pub(super) struct Directory {
    path: PathBuf,
    family: Family,
    shards: BTreeMap<PathBuf, TensorFile<File>>,
    /// In which shard a tensor is.
    places: BTreeMap<String, PathBuf>,
}

impl Directory {
    pub(super) fn open(path: &Path) -> Result<(Config, Self)> {
        let config_path = path.join("config.json");
        let config = Config::from_json(&text(&config_path)?, &config_path)?;
        let places = Checkpoint::open(path)?.into_files();
        let mut shards = BTreeMap::new();
        for shard in places.values() {
            if !shards.contains_key(shard) {
                shards.insert(shard.clone(), TensorFile::open(shard)?);
            }
        }
        let family = config.family;
        Ok((config, Self { path: path.to_owned(), family, shards, places }))
    }
}

pub(super) fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(io_error(path))
}

impl Source for Directory {
    fn tensor(&mut self, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>> {
        // Early GPT-2 files leave the common prefix away.
        let bare = if self.family == Family::Gpt2 { name.trim_start_matches("transformer.") } else { name };
        for name in [name, bare] {
            if let Some(shard) = self.places.get(name).and_then(|place| self.shards.get_mut(place)) {
                return shard.numbers(name).map(Some);
            }
        }
        Ok(None)
    }

    fn names(&self, family: Family) -> &'static Names {
        directory_names(family)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
