//! Layer statistics: the sum over a text, the number of tokens, and which text, model and layer. Their files in the
//! safetensors format hold all of a text or a part of it.

use std::collections::BTreeSet;
#[cfg(feature = "safetensors")]
use std::{
    collections::HashMap,
    io::{Read, Seek},
    path::Path,
};

use faer::{Mat, MatRef, Par};

#[cfg(feature = "safetensors")]
use super::{
    Precision, in_file, malformed,
    tensors::{self, NewTensor, TensorFile},
};
use crate::error::{FileError, NumericsError, Result};
use crate::scalar::Scalar;
use crate::second_moment::{self, SecondMoment};
use crate::util::shown::{Shown, shown};
use crate::util::validate;

/// The kind of file, and the version of its layout.
#[cfg(feature = "safetensors")]
const KIND: &str = "betaedit.statistics.1";

/// The source of statistics or of a spectrum. Statistics with different fingerprints must not be mixed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// The model, with its revision if it has one.
    pub model: String,
    /// The number of the layer.
    pub layer: usize,
    /// The text, with its revision if it has one.
    pub text: String,
}

/// Statistics of one layer as a file holds them: `sum k kᵀ` over all tokens, and their number.
///
/// A file may hold a mean where it should hold a sum. [`moment`](Self::moment) compares the scale with that of a few keys
/// of the layer, and gives the [`SecondMoment`] to work with.
///
/// # Examples
/// Two workers, one set of statistics.
/// ```
/// use betaedit_core::format::{Fingerprint, Statistics};
/// use betaedit_core::{SecondMoment, faer::{Mat, Par}};
///
/// let keys = Mat::from_fn(3, 100, |i, j| ((i + 1) * (j % 7)) as f64 * 0.1);
/// let fingerprint = Fingerprint { model: "my-model".into(), layer: 5, text: "wikipedia 20220301.en".into() };
/// let worker = |name: &str, first, tokens| {
///     let mut moment = SecondMoment::new(3);
///     moment.observe(keys.as_ref().subcols(first, tokens), Par::Seq)?;
///     Statistics::from_moment(&moment, fingerprint.clone(), name, Par::Seq)
/// };
/// let mut statistics = worker("1 of 2", 0, 60)?;
/// let rest = worker("2 of 2", 60, 40)?;
/// statistics.merge(&rest)?;
/// assert_eq!(statistics.tokens(), 100);
/// assert!(statistics.merge(&rest).is_err()); // counted already
///
/// let moment = statistics.moment(keys.as_ref().subcols(0, 10))?;
/// assert_eq!(moment.tokens(), Some(100));
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Statistics {
    pub(super) sum: Mat<f64>,
    pub(super) tokens: u64,
    pub(super) fingerprint: Option<Fingerprint>,
    pub(super) parts: BTreeSet<String>,
}

shown!([] Statistics, "Statistics", self => {
    "sum": Shown::from(self.sum.shape()),
    "tokens": self.tokens,
    "fingerprint": self.fingerprint,
    "parts": self.parts.len(),
});

impl Statistics {
    /// The statistics that one worker has collected, from the part of the text called `part`. Any name will do, for example
    /// `3 of 16`. [`merge`](Self::merge) refuses to count a part twice.
    ///
    /// # Errors
    /// Statistics of no token, or of an unknown number of tokens.
    pub fn from_moment(moment: &SecondMoment, fingerprint: Fingerprint, part: &str, par: Par) -> Result<Self> {
        match moment.tokens() {
            None => Err(NumericsError::UnknownTokenCount { argument: "moment" }.into()),
            Some(0) => Err(NumericsError::Empty { argument: "moment", item: "key" }.into()),
            Some(tokens) => Ok(Self {
                sum: moment.to_sum(par)?,
                tokens,
                fingerprint: Some(fingerprint),
                parts: BTreeSet::from([part.to_owned()]),
            }),
        }
    }

    /// A checked sum: square, finite, symmetric, of at least one token.
    pub(super) fn new(sum: Mat<f64>, tokens: u64) -> Result<Self, NumericsError> {
        second_moment::check_matrix("sum", sum.as_ref())?;
        second_moment::check_tokens(tokens)?;
        Ok(Self { sum, tokens, fingerprint: None, parts: BTreeSet::new() })
    }

    /// Adds another part: statistics of other tokens of the same text, layer and model.
    ///
    /// # Errors
    /// Another key length or fingerprint, or a part that is counted already. In that case nothing is added.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        validate::shape("other", other.sum.as_ref(), self.d_in(), self.d_in())?;
        if self.fingerprint != other.fingerprint {
            let [expected, found] = [&self.fingerprint, &other.fingerprint].map(described);
            return Err(FileError::OtherStatistics { expected, found }.into());
        }
        if let Some(part) = self.parts.intersection(&other.parts).next() {
            return Err(FileError::CountedAlready { part: part.clone() }.into());
        }
        let tokens = second_moment::count(self.tokens, other.tokens)?;
        validate::in_range(
            "the sum over all keys",
            &[second_moment::trace(self.sum()) + second_moment::trace(other.sum())],
        )?;
        self.sum += &other.sum;
        self.tokens = tokens;
        self.parts.extend(other.parts.iter().cloned());
        Ok(())
    }

    /// The second moment, after a check that it has the scale of `witness`.
    ///
    /// * `witness`: some keys of the layer, `d_in x m`
    ///
    /// # Errors
    /// As [`SecondMoment::from_sum`], above all a mean in place of the sum.
    pub fn moment<W: Scalar>(&self, witness: MatRef<'_, W>) -> Result<SecondMoment> {
        Ok(SecondMoment::from_sum(self.sum(), self.tokens, witness)?)
    }

    /// The second moment, without the check of its scale. For files that are known to hold the sum, such as those of this crate, where no
    /// key of the layer is at hand.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn moment_without_witness(&self) -> Result<SecondMoment> {
        Ok(SecondMoment::from_checked_sum(self.sum(), self.tokens)?)
    }

    /// `sum k kᵀ` over all tokens, `d_in x d_in`.
    #[must_use]
    pub fn sum(&self) -> MatRef<'_, f64> {
        self.sum.as_ref()
    }

    /// Number of tokens.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Length of the keys.
    #[must_use]
    pub fn d_in(&self) -> usize {
        self.sum.nrows()
    }

    /// A hash of the numbers: equal statistics have equal hashes, whatever files they come from. What is computed from statistics and
    /// kept can be recognised by it. Cost: one pass over the matrix.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.tokens.to_le_bytes());
        for column in self.sum.col_iter() {
            let bytes: Vec<u8> = column.iter().flat_map(|x| x.to_le_bytes()).collect();
            hasher.update(&bytes);
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// The source of the statistics; `None` if the file does not say.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&Fingerprint> {
        self.fingerprint.as_ref()
    }

    /// Names of the parts that were counted.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(String::as_str)
    }

    /// Adds the fingerprint, which `.npz` files do not have.
    #[must_use]
    pub fn with_fingerprint(mut self, fingerprint: Fingerprint, part: &str) -> Self {
        self.fingerprint = Some(fingerprint);
        self.parts = BTreeSet::from([part.to_owned()]);
        self
    }
}

/// This crate's own format, which is easy to write from any language: a safetensors file with one tensor `sum` (`d_in x d_in`,
/// `f32` or `f64`), and the metadata `format` (`betaedit.statistics.1`), `tokens`, `model`, `layer` (a number), `text`, and
/// `parts` (a JSON list of strings).
#[cfg(feature = "safetensors")]
impl Statistics {
    /// Reads statistics.
    ///
    /// # Errors
    /// A file that cannot be read, is not such a file, or whose numbers cannot be a sum of `k kᵀ`.
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

    /// Reads files of parts and merges them, with at most two in memory at a time.
    ///
    /// # Errors
    /// As [`read`](Self::read) and [`merge`](Self::merge), and an empty list.
    pub fn read_parts<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<Self> {
        let mut whole: Option<Self> = None;
        for path in paths {
            let part = Self::read(&path)?;
            match &mut whole {
                None => whole = Some(part),
                Some(whole) => whole.merge(&part).map_err(|error| malformed(path.as_ref(), error.to_string()))?,
            }
        }
        whole.ok_or(NumericsError::Empty { argument: "paths", item: "path" }.into())
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

#[cfg(feature = "safetensors")]
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

fn described(fingerprint: &Option<Fingerprint>) -> String {
    match fingerprint {
        Some(Fingerprint { model, layer, text }) => format!("`{model}`, layer {layer}, text `{text}`"),
        None => "an unknown model".to_owned(),
    }
}
