//! Directories in the Hugging Face layout: `config.json` and safetensors files.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};

use super::source::{Source, StoredTensor};
use crate::error::Result;
use crate::format::checkpoint::contents::{self, CONVERT};
use crate::format::tensors::TensorFile;
use crate::format::{Checkpoint, Precision, malformed};
use crate::llm::config::Config;
use crate::llm::families::{ConfigFile, Families, Family, experts};

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

/// Refuses a file that is a part of a model directory.
pub(super) fn check_is_model_file(path: &Path) -> Result<()> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension {
        "safetensors" | "json" => Err(malformed(path, "give the directory that this file is in, or a .gguf file")),
        "bin" | "pt" | "pth" => Err(malformed(path, format!("a pickle of PyTorch is not read; {CONVERT}"))),
        _ => Ok(()),
    }
}

/// Family and shape of the model in a directory.
pub(super) fn describe(path: &Path, families: &Families) -> Result<(Arc<dyn Family>, Config)> {
    if !path.join("config.json").exists() {
        return Err(malformed(path, contents::without_model(path)));
    }
    if path.join("adapter_config.json").exists() {
        let problem = "there is an adapter beside the model (`adapter_config.json`), which transformers loads in its place: move it \
                       elsewhere, or merge it into the model";
        return Err(malformed(path, problem));
    }
    let path = path.join("config.json");
    let file = ConfigFile::open(&path)?;
    let model_type = file.text("model_type")?.unwrap_or("(none)");
    let family = families.by_model_type(model_type).ok_or_else(|| {
        file.refuse(format!("`model_type` is {model_type}, choose one of: {}{}", families.model_types(), hint(&file)))
    })?;
    let config = family.config(&file)?;
    file.check_all_read()?;
    config.check(&path)?;
    Ok((family.clone(), config))
}

/// The numbers of a tensor, of `N` bytes each.
fn read<const N: usize, T>(
    shard: &mut TensorFile<File>,
    name: &str,
    length: usize,
    number: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>> {
    let mut numbers = Vec::with_capacity(length);
    shard.read_pieces(name, |bytes| numbers.extend(bytes.as_chunks().0.iter().map(|&bytes| number(bytes))))?;
    Ok(numbers)
}

/// What is known about a model of another type.
fn hint(file: &ConfigFile) -> &'static str {
    let names = || file.json().as_object().into_iter().flat_map(|entries| entries.keys().map(String::as_str));
    match experts(names()) {
        "" if names().any(|name| name.contains("text_config")) => {
            "; this model has a text model in it (`text_config`): save that alone, by its class in transformers"
        }
        said => said,
    }
}

impl Source for Directory {
    fn tensor(&mut self, name: &str) -> Result<Option<StoredTensor>> {
        let Some(shard) = self.places.get(name).and_then(|place| self.shards.get_mut(place)) else { return Ok(None) };
        let (shape, precision) = shard.described(name)?;
        let length = shape.iter().product();
        let numbers = match precision {
            Precision::F16 => read::<2, _>(shard, name, length, f16::from_le_bytes)?.into(),
            Precision::Bf16 => read::<2, _>(shard, name, length, bf16::from_le_bytes)?.into(),
            Precision::F32 => read::<4, _>(shard, name, length, f32::from_le_bytes)?.into(),
            Precision::F64 => read::<8, _>(shard, name, length, |bytes| f64::from_le_bytes(bytes) as f32)?.into(),
        };
        Ok(Some(StoredTensor { shape, numbers }))
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }
}
