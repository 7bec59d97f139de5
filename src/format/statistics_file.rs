//! Statistics in the safetensors format, whole or in parts.

use std::collections::HashMap;
use std::io::{Read, Seek};
use std::path::Path;

use super::precision::Precision;
use super::statistics::{Fingerprint, Statistics};
use super::tensors::{self, NewTensor, TensorFile};
use super::{in_file, malformed};
use crate::error::{EditError, Result};

/// The kind of file, and the version of its layout.
const KIND: &str = "betaedit.statistics.1";

/// Files of our own. A program in another language writes them just as well: a safetensors file with the one tensor `sum`
/// (`d_in x d_in`, `f32` or `f64`), and in its metadata `format` (`betaedit.statistics.1`), `tokens`, `model`, `layer` (a
/// number), `text`, and `parts`, a JSON list of strings.
impl Statistics {
    /// Reads statistics.
    ///
    /// # Errors
    /// A file that cannot be read, is no such file, or whose numbers are no sum of `k kᵀ`.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut file = TensorFile::open_kind(path, KIND)?;
        let fingerprint = Fingerprint::of_file(&file)?;
        let tokens = file.number("tokens")?;
        let parts = serde_json::from_str(file.required("parts")?)
            .map_err(|error| malformed(path, format!("the metadata's `parts` are no list of names: {error}")))?;
        let rows = file.matrix("sum")?.rows;
        let sum = file.matrix_of_shape("sum", rows, rows)?;
        let sum = file.columns(&sum)?;
        let statistics = Self::new(sum, tokens).map_err(in_file(path))?;
        Ok(Self { fingerprint: Some(fingerprint), parts, ..statistics })
    }

    /// Reads partial files and merges them, two in memory at a time.
    ///
    /// # Errors
    /// As [`read`](Self::read) and [`merge`](Self::merge), and an empty list.
    pub fn read_parts<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<Self> {
        let mut whole: Option<Self> = None;
        for path in paths {
            let part = Self::read(&path)?;
            match &mut whole {
                None => whole = Some(part),
                Some(whole) => whole.merge(&part).map_err(in_file(path.as_ref()))?,
            }
        }
        whole.ok_or(EditError::Empty { argument: "paths" })
    }

    /// Writes the statistics, sums in `f64`.
    ///
    /// # Errors
    /// Statistics without a fingerprint, or a path that cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let Some(fingerprint) = &self.fingerprint else {
            return Err(malformed(path, "statistics without a fingerprint are not written, see `with_fingerprint`"));
        };
        let mut metadata = fingerprint.metadata(KIND);
        metadata.insert("tokens".to_owned(), self.tokens.to_string());
        metadata.insert("parts".to_owned(), serde_json::json!(self.parts).to_string());
        // Symmetric, and its columns are contiguous.
        let sum = NewTensor::matrix("sum", self.sum().transpose(), Precision::F64);
        tensors::write(path, metadata, &[sum])
    }
}

impl Fingerprint {
    pub(super) fn of_file<R: Read + Seek>(file: &TensorFile<R>) -> Result<Self> {
        let text = |key| file.required(key).map(str::to_owned);
        Ok(Self { model: text("model")?, layer: file.number("layer")?, text: text("text")? })
    }

    /// The metadata of a file of this kind.
    pub(super) fn metadata(&self, kind: &str) -> HashMap<String, String> {
        let mut metadata = tensors::kind(kind);
        let entries = [("model", self.model.clone()), ("layer", self.layer.to_string()), ("text", self.text.clone())];
        metadata.extend(entries.map(|(key, value)| (key.to_owned(), value)));
        metadata
    }
}
