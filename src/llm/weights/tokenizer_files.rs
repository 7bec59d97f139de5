//! The files of a directory that say how texts become tokens.

use std::path::Path;

use serde_json::Value;

use crate::error::Result;
use crate::format::malformed;
use crate::llm::families::ConfigFile;
use crate::llm::tokenizer::{SpecialTokens, Tokenizer};
use crate::util::atomic_file::io_error;

/// The tokenizer of the model in a directory, with the tokens that end a text and the template of chats.
pub(super) fn tokenizer(folder: &Path) -> Result<Tokenizer> {
    let path = folder.join("tokenizer.json");
    if !path.exists() {
        let other = ["tokenizer.model", "vocab.json", "vocab.txt"].into_iter().find(|name| folder.join(name).exists());
        let found = other.map_or(String::new(), |name| format!(", only `{name}`"));
        let advice = "open the tokenizer in transformers and `save_pretrained` it, which writes `tokenizer.json`";
        return Err(malformed(folder, format!("there is no `tokenizer.json`{found}: {advice}")));
    }
    let tokenizer = Tokenizer::open(path)?;
    check_added(folder, &tokenizer)?;
    let config = open(folder, "tokenizer_config.json")?;
    let named = config.as_ref().map_or(vec![], named_tokens);
    let bos = named.iter().find(|(name, _)| name == "bos_token").and_then(|(_, token)| tokenizer.id(token));
    let chat_template = chat_template(folder, config.as_ref())?;
    Ok(tokenizer.with_special(SpecialTokens { bos, ends: ends(folder)?, chat_template, named }))
}

/// A file of the directory, if it is there.
fn open(folder: &Path, name: &str) -> Result<Option<ConfigFile>> {
    Some(folder.join(name)).filter(|path| path.exists()).map(ConfigFile::open).transpose()
}

/// Special tokens by their names: entries like `bos_token`, texts or objects with the text as `content`.
fn named_tokens(config: &ConfigFile) -> Vec<(String, String)> {
    let entries = config.json().as_object().into_iter().flatten().filter(|(name, _)| name.ends_with("_token"));
    let named = entries.filter_map(|(name, token)| {
        let text = token.as_str().or_else(|| token["content"].as_str())?;
        Some((name.clone(), text.to_owned()))
    });
    named.collect()
}

/// The template of chats: `chat_template.jinja`, or else the entry of `tokenizer_config.json`, which may be a list of named ones.
fn chat_template(folder: &Path, config: Option<&ConfigFile>) -> Result<Option<String>> {
    let path = folder.join("chat_template.jinja");
    if path.exists() {
        return std::fs::read_to_string(&path).map(Some).map_err(io_error(&path));
    }
    let Some(config) = config else { return Ok(None) };
    match &config.json()["chat_template"] {
        Value::Null => Ok(None),
        Value::String(template) => Ok(Some(template.clone())),
        Value::Array(list) => {
            let usual = list.iter().find(|one| one["name"] == "default").and_then(|one| one["template"].as_str());
            usual
                .map(|template| Some(template.to_owned()))
                .ok_or_else(|| config.refuse("`chat_template` has no template `default`"))
        }
        _ => Err(config.refuse("`chat_template` is neither a template nor a list of them")),
    }
}

/// Refuses tokens that other files add to those of `tokenizer.json`. `transformers` adds them too.
fn check_added(folder: &Path, tokenizer: &Tokenizer) -> Result<()> {
    let mut added: Vec<(&str, String, u64)> = vec![];
    if let Some(file) = open(folder, "added_tokens.json")? {
        let tokens = file.json().as_object().into_iter().flatten();
        added.extend(tokens.filter_map(|(token, id)| Some(("added_tokens.json", token.clone(), id.as_u64()?))));
    }
    if let Some(file) = open(folder, "tokenizer_config.json")? {
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
