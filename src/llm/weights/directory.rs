//! Directories in the Hugging Face layout: `config.json` and safetensors files.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::source::{Source, StoredTensor};
use crate::error::Result;
use crate::format::checkpoint::contents::{self, CONVERT};
use crate::format::tensors::TensorFile;
use crate::format::{Checkpoint, malformed};
use crate::llm::config::Config;
use crate::llm::families::{ConfigFile, Families, Family};
use crate::llm::tokenizer::Tokenizer;

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

/// The tokenizer of the model in a directory, with the tokens that end a text.
pub(super) fn tokenizer(folder: &Path) -> Result<Tokenizer> {
    let path = folder.join("tokenizer.json");
    if !path.exists() {
        let other = ["tokenizer.model", "vocab.json", "vocab.txt"].into_iter().find(|name| folder.join(name).exists());
        let found = other.map_or(String::new(), |name| format!(", only `{name}`"));
        let advice = "open the tokenizer in transformers and `save_pretrained` it, which writes `tokenizer.json`";
        return Err(malformed(folder, format!("there is no `tokenizer.json`{found}: {advice}")));
    }
    let tokenizer = Tokenizer::open(path)?.with_ends(ends(folder)?);
    check_added(folder, &tokenizer)?;
    Ok(tokenizer)
}

/// Refuses tokens that other files add to those of `tokenizer.json`. `transformers` adds them too.
fn check_added(folder: &Path, tokenizer: &Tokenizer) -> Result<()> {
    let open = |name: &str| Some(folder.join(name)).filter(|path| path.exists()).map(ConfigFile::open).transpose();
    let mut added: Vec<(&str, String, u64)> = vec![];
    if let Some(file) = open("added_tokens.json")? {
        let tokens = file.json().as_object().into_iter().flatten();
        added.extend(tokens.filter_map(|(token, id)| Some(("added_tokens.json", token.clone(), id.as_u64()?))));
    }
    if let Some(file) = open("tokenizer_config.json")? {
        let tokens = file.json()["added_tokens_decoder"].as_object().into_iter().flatten();
        let token = |(id, token): (&String, &Value)| {
            Some(("tokenizer_config.json", token["content"].as_str()?.to_owned(), id.parse().ok()?))
        };
        added.extend(tokens.filter_map(token));
    }
    match added.iter().find(|(_, token, id)| tokenizer.id(token).map(u64::from) != Some(*id)) {
        None => Ok(()),
        Some((name, token, id)) => {
            let problem = format!(
                "token `{token}` is number {id} here, and not so in `tokenizer.json`: save the tokenizer again in transformers"
            );
            Err(malformed(&folder.join(name), problem))
        }
    }
}

/// The tokens that end a text: `eos_token_id` of `generation_config.json` or else of `config.json`, as in `transformers`.
fn ends(folder: &Path) -> Result<Vec<u32>> {
    for name in ["generation_config.json", "config.json"] {
        let path = folder.join(name);
        if !path.exists() {
            continue;
        }
        let file = ConfigFile::open(&path)?;
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match &file.json()["eos_token_id"] {
            Value::Null => continue,
            Value::Array(list) => list.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        };
        return ids.ok_or_else(|| file.refuse("`eos_token_id` is neither the number of a token nor a list of them"));
    }
    Ok(vec![])
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
        file.refuse(format!("`model_type` is {model_type}, choose one of: {}", families.model_types()))
    })?;
    let config = family.config(&file)?;
    file.check_all_read()?;
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

    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }
}
