//! A `config.json`, and the entries that many families share.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::format::malformed;
use crate::llm::config::{Activation, Pairing, Rotary, RotaryScaling};
use crate::util::atomic_file::io_error;

/// A `config.json`. Its errors name the file.
///
/// ```
/// use betaedit_core::llm::families::ConfigFile;
///
/// let file = ConfigFile::parse("config.json", r#"{ "n_layer": 12, "tied": true }"#)?;
/// assert_eq!(file.size("n_layer")?, 12);
/// assert!(file.flag("tied") && file.size("n_head").is_err());
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    json: Value,
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be read, or that is not JSON.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::parse(path, &std::fs::read_to_string(path).map_err(io_error(path))?)
    }

    /// Reads a text; `path` is for messages.
    ///
    /// # Errors
    /// A text that is not JSON.
    pub fn parse(path: impl Into<PathBuf>, text: &str) -> Result<Self> {
        let path = path.into();
        match serde_json::from_str(text) {
            Ok(json) => Ok(Self { path, json }),
            Err(error) => Err(malformed(&path, format!("not a JSON file: {error}"))),
        }
    }

    /// The whole content.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// An error that names this file and says why it is refused.
    #[must_use]
    pub fn refuse(&self, problem: impl Into<String>) -> Error {
        malformed(&self.path, problem)
    }

    /// An entry that is a string.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.json[name].as_str()
    }

    /// An entry that is a size.
    ///
    /// # Errors
    /// No such entry, or one that is not a whole number.
    pub fn size(&self, name: &str) -> Result<usize> {
        let size = self.json[name].as_u64().and_then(|size| usize::try_from(size).ok());
        size.ok_or_else(|| self.refuse(format!("`{name}` is missing, or no whole number")))
    }

    /// An entry that is a number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<f64> {
        self.json[name].as_f64()
    }

    /// Whether an entry is there and true.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.json[name].as_bool().unwrap_or(false)
    }

    /// The MLP's nonlinearity, by its name in `transformers`.
    ///
    /// # Errors
    /// One that is not supported.
    pub fn activation(&self, name: &str) -> Result<Activation> {
        match self.text(name) {
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu_new" | "gelu_pytorch_tanh") => Ok(Activation::Gelu),
            other => {
                let found = other.unwrap_or("(none)");
                Err(self.refuse(format!("`{name}` is {found}, choose one of: silu, gelu_new, gelu_pytorch_tanh")))
            }
        }
    }

    /// Rotary positions over a whole head, as `transformers` writes them: `rope_theta` and `rope_scaling` in older files,
    /// `rope_parameters` in newer ones.
    ///
    /// # Errors
    /// A scaling that is not supported.
    pub fn rotary(&self, head_dim: usize) -> Result<Rotary> {
        let parameters = match &self.json["rope_parameters"] {
            Value::Null => &self.json["rope_scaling"],
            parameters => parameters,
        };
        let number = |name: &str| {
            parameters[name].as_f64().ok_or_else(|| self.refuse(format!("the rotary scaling lacks `{name}`")))
        };
        let kind = parameters["rope_type"].as_str().or(parameters["type"].as_str()).unwrap_or("default");
        let scaling = match kind {
            "default" => RotaryScaling::None,
            "linear" => RotaryScaling::Linear(number("factor")?),
            "llama3" => RotaryScaling::Llama3 {
                factor: number("factor")?,
                low: number("low_freq_factor")?,
                high: number("high_freq_factor")?,
                original_context: number("original_max_position_embeddings")?,
            },
            other => {
                let problem =
                    format!("rotary scaling `{other}` is not supported; choose one of: default, linear, llama3");
                return Err(self.refuse(problem));
            }
        };
        let theta = parameters["rope_theta"].as_f64().or(self.number("rope_theta")).unwrap_or(10_000.0);
        Ok(Rotary { theta, dims: head_dim, pairing: Pairing::Halves, scaling })
    }
}
