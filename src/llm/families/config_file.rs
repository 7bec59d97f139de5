//! A `config.json`, and the entries that many families share.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::unread;
use crate::error::{Error, Result};
use crate::format::{lfs_pointer, malformed};
use crate::llm::config::Activation;
use crate::util::atomic_file::io_error;

/// The name of a nonlinearity in `transformers`.
pub(super) fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu_pytorch_tanh",
        Activation::GeluErf => "gelu",
    }
}

/// A `config.json`. Its errors name the file.
///
/// The file remembers which entries it was asked for. After [`Family::config`](super::Family::config),
/// [`check_all_read`](Self::check_all_read) refuses a file with another entry that could change what the model computes.
///
/// ```
/// use betaedit_core::llm::families::ConfigFile;
///
/// let file = ConfigFile::parse("config.json", r#"{ "n_layer": 12, "tied": true, "logit_scale": 0.5 }"#)?;
/// assert_eq!(file.size("n_layer")?, 12);
/// assert!(file.flag_or("tied", false)? && file.size("n_head").is_err());
/// assert!(file.check_all_read().unwrap_err().to_string().contains("`logit_scale`"));
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    json: Value,
    read: Arc<Mutex<BTreeSet<String>>>,
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be read, or that is not a JSON object.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::parse(path, &std::fs::read_to_string(path).map_err(io_error(path))?)
    }

    /// Reads a text; `path` is for messages.
    ///
    /// # Errors
    /// A text that is not a JSON object.
    pub fn parse(path: impl Into<PathBuf>, text: &str) -> Result<Self> {
        let path = path.into();
        lfs_pointer::check(&path, text.as_bytes())?;
        match serde_json::from_str(text) {
            Ok(json @ Value::Object(_)) => Ok(Self { path, json, read: Arc::default() }),
            Ok(_) => Err(malformed(&path, "not a JSON object")),
            Err(error) => Err(malformed(&path, format!("not a JSON file: {error}"))),
        }
    }

    /// The whole content. Entries that are read here do not count as read.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// An error that names this file and says why it is refused.
    #[must_use]
    pub fn refuse(&self, problem: impl Into<String>) -> Error {
        malformed(&self.path, problem)
    }

    /// An entry, `null` included.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&Value> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        self.json.get(name)
    }

    /// An entry that is there and is not `null`.
    fn given(&self, name: &str) -> Option<&Value> {
        self.entry(name).filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, value: &Value, expected: &str) -> Error {
        self.refuse(format!("`{name}` is {value}, expected {expected}"))
    }

    /// An entry that is a string; `None` if it is absent or `null`.
    ///
    /// # Errors
    /// Anything else.
    pub fn text(&self, name: &str) -> Result<Option<&str>> {
        let Some(value) = self.given(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(name, value, "a string"))
    }

    /// An entry that is a size.
    ///
    /// # Errors
    /// No such entry, or one that is not a whole number.
    pub fn size(&self, name: &str) -> Result<usize> {
        self.optional_size(name)?.ok_or_else(|| self.refuse(format!("`{name}` is missing")))
    }

    /// An entry that is a size, or a default if it is absent or `null`.
    ///
    /// # Errors
    /// One that is not a whole number.
    pub fn size_or(&self, name: &str, default: usize) -> Result<usize> {
        Ok(self.optional_size(name)?.unwrap_or(default))
    }

    /// An entry that is a size; `None` if it is absent or `null`.
    ///
    /// # Errors
    /// One that is not a whole number.
    pub fn optional_size(&self, name: &str) -> Result<Option<usize>> {
        let Some(value) = self.given(name) else { return Ok(None) };
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        size.map(Some).ok_or_else(|| self.wrong(name, value, "a whole number"))
    }

    /// An entry that is a number, or a default if it is absent or `null`.
    ///
    /// # Errors
    /// One that is not a number.
    pub fn number_or(&self, name: &str, default: f64) -> Result<f64> {
        let Some(value) = self.given(name) else { return Ok(default) };
        value.as_f64().ok_or_else(|| self.wrong(name, value, "a number"))
    }

    /// An entry that is true or false, or a default if it is absent or `null`.
    ///
    /// # Errors
    /// Anything else.
    pub fn flag_or(&self, name: &str, default: bool) -> Result<bool> {
        let Some(value) = self.given(name) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(name, value, "true or false"))
    }

    /// Refuses an entry that is there with a value other than the usual one.
    ///
    /// # Errors
    /// Another value. The error names the entry.
    pub fn only(&self, name: &str, usual: &Value) -> Result<()> {
        match self.given(name) {
            Some(value) if value != usual => {
                Err(self.refuse(format!("`{name}` is {value}, and only {usual} is supported")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses an entry that contradicts another one for the same thing.
    ///
    /// # Errors
    /// Two values. The error names both entries.
    pub fn check_alias(&self, name: &str, alias: &str) -> Result<()> {
        match (self.given(name), self.given(alias)) {
            (Some(value), Some(other)) if value != other => {
                Err(self
                    .refuse(format!("`{name}` is {value} and `{alias}` is {other}, which mean the same: remove one")))
            }
            _ => Ok(()),
        }
    }

    /// The MLP's nonlinearity, by its name in `transformers`.
    ///
    /// * `default`: what `transformers` takes if there is no such entry
    ///
    /// # Errors
    /// One that is not supported.
    pub fn activation(&self, name: &str, default: Activation) -> Result<Activation> {
        match self.text(name)? {
            None => Ok(default),
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(Activation::Gelu),
            Some("gelu" | "gelu_python") => Ok(Activation::GeluErf),
            Some(other) => {
                Err(self.refuse(format!("`{name}` is {other}, choose one of: silu, gelu, gelu_new, gelu_pytorch_tanh")))
            }
        }
    }

    /// Refuses the file if it has an entry that nobody asked for and that could change what the model computes, judged by its name and
    /// value. `transformers` and other programs store many entries that change nothing, such as dropout rates, numbers of special tokens
    /// and settings of generation; those are passed over.
    ///
    /// # Errors
    /// Such an entry. The error names it with its value.
    pub fn check_all_read(&self) -> Result<()> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = self.json.as_object().into_iter().flatten();
        let unread: Vec<(&String, &Value)> =
            entries.filter(|(name, value)| !read.contains(*name) && unread::may_matter(name, value)).collect();
        if unread.is_empty() {
            return Ok(());
        }
        let experts = unread::experts(unread.iter().map(|(name, _)| name.as_str()));
        let unread: Vec<String> =
            unread.into_iter().map(|(name, value)| format!("`{name}` is {}", unread::shown(value))).collect();
        let advice = "this could change what the model computes, and is not supported for this kind of model; remove what does not apply";
        Err(self.refuse(format!("{}: {advice}{experts}", unread.join(", "))))
    }
}
