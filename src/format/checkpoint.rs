//! Checkpoints of Hugging Face: a weight read, a weight patched, everything else as it was, byte for byte.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};

use super::precision::{Precision, Rounding};
use super::tensors::{Matrix, TensorFile};
use super::{Updates, malformed};
use crate::error::{EditError, Result};
use crate::scalar::{Scalar, cast};
use crate::update::Orientation;
use crate::util::atomic_file::{self, Staged};
use crate::util::validate;

/// The file of a checkpoint that is not sharded, and the index of one that is, as `save_pretrained` names them.
const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// What says which kind of model it is.
const CONFIG: &str = "config.json";

/// Kinds of models whose projections are `Conv1D`, and kinds whose projections are `Linear`.
const CONV1D: [&str; 4] = ["decision_transformer", "gpt2", "imagegpt", "openai-gpt"];
const LINEAR: [&str; 19] = [
    "bloom",
    "falcon",
    "gemma",
    "gemma2",
    "gpt_bigcode",
    "gpt_neo",
    "gpt_neox",
    "gptj",
    "llama",
    "mistral",
    "mixtral",
    "olmo2",
    "opt",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "stablelm",
    "starcoder2",
];

/// The longest index that is read. That of a model with a million tensors is a few of these.
const LONGEST_INDEX: u64 = 1 << 28;

/// A checkpoint: one safetensors file, or shards with an index.
///
/// Nothing is held in memory but names. A patch is streamed: a block of rows is read, changed in `f64`, rounded once and
/// written, and what is not patched is copied. A patched file keeps its header, its length and its name. It is written
/// beside its place and renamed into it, so there must be room for a second copy of the patched shards. Where
/// the place is a link (as in the cache of `huggingface_hub`), the link is replaced, and what it pointed to stays as it was.
///
/// Which way round a weight is stored is for the caller to say, or for the model's configuration
/// ([`orientation`](Self::orientation)): GPT-2 and its kin (`Conv1D`) store `d_in x d_out`, all others `d_out x d_in`. A
/// square weight looks the same both ways.
///
/// # Examples
/// ```
/// use betaedit_core::format::{Checkpoint, Updates, delta};
/// use betaedit_core::{Orientation, Update, faer::{Mat, Par, mat}};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("model.safetensors");
/// # let header = r#"{"down.weight":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}    "#;
/// # std::fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 12]].concat())?;
/// let checkpoint = Checkpoint::open(&folder)?; // holds `down.weight`, 2 x 3, bf16, all zeros
/// let update = Update::from_factors(mat![[1.0], [2.0]], mat![[0.5, 0.0, -1.001]])?;
/// let updates = Updates::from([("down.weight".to_owned(), update)]);
/// let rounding = checkpoint.apply(&updates, Orientation::OutputsByInputs, Par::Seq)?;
/// assert!(rounding["down.weight"].share() < 0.001); // of the change was lost to rounding
///
/// let weight: Mat<f64> = checkpoint.weight("down.weight", Orientation::OutputsByInputs)?;
/// assert_eq!(weight, mat![[0.5, 0.0, -1.0], [1.0, 0.0, -2.0]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Checkpoint {
    path: PathBuf,
    /// The file of every tensor.
    files: BTreeMap<String, PathBuf>,
}

impl Checkpoint {
    /// Opens a checkpoint.
    ///
    /// * `path`: a `.safetensors` file, an index (`.json`), or a folder that holds one of `model.safetensors.index.json`
    ///   and `model.safetensors`
    ///
    /// # Errors
    /// A file that cannot be read, is no such file, or an index that names a file outside of its own folder.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = match (path.is_dir(), path.join(INDEX)) {
            (false, _) => path.to_owned(),
            (true, index) if index.exists() => index,
            (true, _) => path.join(WHOLE),
        };
        let files = if file.extension().is_some_and(|extension| extension == "json") {
            read_index(&file)?
        } else {
            TensorFile::open(&file)?.names().into_iter().map(|name| (name, file.clone())).collect()
        };
        Ok(Self { path: file, files })
    }

    /// Names of the tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The file of each tensor.
    #[cfg(feature = "llm")]
    pub(crate) fn into_files(self) -> BTreeMap<String, PathBuf> {
        self.files
    }

    /// Which way round the checkpoint's projections are stored, by the `model_type` of the `config.json` beside it.
    ///
    /// # Errors
    /// No such file, or a kind of model that is not known here: then it is for the caller to say.
    pub fn orientation(&self) -> Result<Orientation> {
        let path = self.path.with_file_name(CONFIG);
        let config: Config = serde_json::from_slice(&atomic_file::read(&path)?)
            .map_err(|error| malformed(&path, format!("not a readable configuration of a model: {error}")))?;
        match config.model_type.as_str() {
            kind if CONV1D.contains(&kind) => Ok(Orientation::InputsByOutputs),
            kind if LINEAR.contains(&kind) => Ok(Orientation::OutputsByInputs),
            kind => {
                Err(malformed(&path, format!("how a model of type `{kind}` stores its weights is not known: say it")))
            }
        }
    }

    /// `(d_out, d_in)` of a weight.
    ///
    /// # Errors
    /// An unknown tensor, or one that is no matrix of floating-point numbers.
    pub fn shape(&self, name: &str, orientation: Orientation) -> Result<(usize, usize)> {
        let (_, matrix) = self.find(name)?;
        Ok(outputs_by_inputs(&matrix, orientation))
    }

    /// The number type of a tensor.
    ///
    /// # Errors
    /// As [`shape`](Self::shape).
    pub fn precision(&self, name: &str) -> Result<Precision> {
        Ok(self.find(name)?.1.precision)
    }

    /// A weight, `d_out x d_in` whichever way it is stored; exact, unless an `f64` checkpoint is read as `f32`.
    ///
    /// # Errors
    /// An unknown tensor, one that is no matrix of floating-point numbers, or one that holds NaN or infinity.
    pub fn weight<T: Scalar>(&self, name: &str, orientation: Orientation) -> Result<Mat<T>> {
        let (mut file, matrix) = self.find(name)?;
        let columns = file.finite_columns(name, &matrix)?;
        Ok(match orientation {
            Orientation::OutputsByInputs => columns.transpose().to_owned(),
            Orientation::InputsByOutputs => columns,
        })
    }

    /// `W <- W + Delta` for every update, in the files. Each shard is written once, and put in its place when all are
    /// written.
    ///
    /// The result says for each parameter what rounding to the number type of the file did.
    ///
    /// # Errors
    /// No update at all, an unknown parameter, an update of another shape, a weight that holds NaN or infinity or leaves
    /// the range of its number type, or a file that cannot be read or written. The checkpoint is unchanged then, except if
    /// renaming fails for a shard after others: each shard is whole, with its updates or without.
    pub fn apply<T: Scalar>(
        &self,
        updates: &Updates<T>,
        orientation: Orientation,
        par: Par,
    ) -> Result<BTreeMap<String, Rounding>> {
        self.add(updates, orientation, 1.0, par)
    }

    /// `W <- W - Delta` for every update: takes back what [`apply`](Self::apply) added. In half precision that leaves a
    /// rounding of the last bit here and there; bits are restored by keeping the file.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn revert<T: Scalar>(
        &self,
        updates: &Updates<T>,
        orientation: Orientation,
        par: Par,
    ) -> Result<BTreeMap<String, Rounding>> {
        self.add(updates, orientation, -1.0, par)
    }

    /// Writes a whole weight in the place of the one that is there, rounded once.
    ///
    /// * `weight`: `d_out x d_in`
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn replace<T: Scalar>(&self, name: &str, weight: MatRef<'_, T>, orientation: Orientation) -> Result<Rounding> {
        validate::finite("weight", weight)?;
        let (_, matrix) = self.find(name)?;
        let (d_out, d_in) = outputs_by_inputs(&matrix, orientation);
        validate::shape("weight", weight, d_out, d_in)?;
        let stored = as_stored(weight, orientation);
        let exact = |_: usize, first: usize, mut rows: faer::MatMut<'_, f64>| {
            for i in 0..rows.nrows() {
                for j in 0..rows.ncols() {
                    rows[(i, j)] = stored[(first + i, j)].to_f64();
                }
            }
        };
        let patched = self.patch(&[name], exact)?;
        Ok(patched[0])
    }

    fn add<T: Scalar>(
        &self,
        updates: &Updates<T>,
        orientation: Orientation,
        sign: f64,
        par: Par,
    ) -> Result<BTreeMap<String, Rounding>> {
        if updates.is_empty() {
            return Err(EditError::Empty { argument: "updates" });
        }
        let mut factors = Vec::with_capacity(updates.len());
        for (name, update) in updates {
            let (_, matrix) = self.find(name)?;
            let (d_out, d_in) = outputs_by_inputs(&matrix, orientation);
            update.check_shape("update", d_out, d_in)?;
            let (left, right) = (cast::<T, f64>(update.left()), cast::<T, f64>(update.right()));
            factors.push(match orientation {
                Orientation::OutputsByInputs => (left, right),
                Orientation::InputsByOutputs => (right.transpose().to_owned(), left.transpose().to_owned()),
            });
        }
        let names: Vec<_> = updates.keys().map(String::as_str).collect();
        let exact = |which: usize, first: usize, rows: faer::MatMut<'_, f64>| {
            let (left, right) = &factors[which];
            let left = left.as_ref().subrows(first, rows.nrows());
            matmul(rows, Accum::Add, left, right.as_ref(), sign, par);
        };
        let roundings = self.patch(&names, exact)?;
        Ok(updates.keys().cloned().zip(roundings).collect())
    }

    /// Replaces tensors by what `exact` makes of a block of their rows, given which of them it is and the number of the
    /// first row. Shape and number type stay.
    fn patch(&self, names: &[&str], exact: impl Fn(usize, usize, faer::MatMut<'_, f64>)) -> Result<Vec<Rounding>> {
        let mut shards: BTreeMap<&Path, Vec<usize>> = BTreeMap::new();
        for (which, name) in names.iter().enumerate() {
            shards.entry(self.file(name)?).or_default().push(which);
        }
        let mut roundings = vec![None; names.len()];
        let mut staged = Vec::with_capacity(shards.len());
        for (path, patched) in shards {
            let mut file = TensorFile::open(path)?;
            let matrices = patched.iter().map(|&which| file.matrix(names[which])).collect::<Result<Vec<_>>>()?;
            staged.push(Staged::new(path, |to| {
                file.copy_replacing(to, &matrices, |of_shard, first, old, bytes| {
                    let (which, matrix) = (patched[of_shard], &matrices[of_shard]);
                    let rounding = roundings[which].get_or_insert_with(|| Sums::new(matrix.precision));
                    let old = MatRef::from_row_major_slice(old, old.len() / matrix.cols, matrix.cols);
                    let refused = |error| {
                        let error = match error {
                            EditError::NonFinite { argument, row, col, value } => {
                                EditError::NonFinite { argument, row: first + row, col, value }
                            }
                            error => error,
                        };
                        malformed(path, format!("tensor `{}`: {error}", names[which]))
                    };
                    validate::finite("the weight", old).map_err(refused)?;
                    let mut new = old.transpose().to_owned();
                    exact(which, first, new.as_mut().transpose_mut());
                    rounding.round(old, new.transpose(), bytes).map_err(refused)
                })
            })?);
        }
        staged.into_iter().try_for_each(Staged::commit)?;
        Ok(roundings.into_iter().flatten().map(Sums::report).collect())
    }

    fn file(&self, name: &str) -> Result<&Path> {
        let file = self.files.get(name).ok_or_else(|| {
            malformed(
                &self.path,
                format!("there is no tensor `{name}` among the {} of the checkpoint", self.files.len()),
            )
        })?;
        Ok(file)
    }

    fn find(&self, name: &str) -> Result<(TensorFile<File>, Matrix)> {
        let file = TensorFile::open(self.file(name)?)?;
        let matrix = file.matrix(name)?;
        Ok((file, matrix))
    }
}

/// What is read of a configuration.
#[derive(serde::Deserialize)]
struct Config {
    model_type: String,
}

/// What is read of an index.
#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files of the tensors. They are believed to lie in the folder of the index, and nowhere else.
fn read_index(path: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let length = std::fs::metadata(path).map_err(atomic_file::io_error(path))?.len();
    if length > LONGEST_INDEX {
        return Err(malformed(path, format!("an index of {length} bytes is too long")));
    }
    let index: Index = serde_json::from_slice(&atomic_file::read(path)?)
        .map_err(|error| malformed(path, format!("not a readable index of a checkpoint: {error}")))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let shard = |(tensor, file): (String, String)| {
        if is_plain(&file) {
            return Ok((tensor, folder.join(file)));
        }
        let problem = format!("the index has tensor `{tensor}` in `{file}`: expected the name of a file beside it");
        Err(malformed(path, problem))
    };
    index.weight_map.into_iter().map(shard).collect()
}

/// Whether a name is one of a file in a folder, on any system: not a path, absolute, up or down.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
        && name.ends_with(".safetensors")
        && !name.contains(['/', '\\', ':', '\0'])
}

fn outputs_by_inputs(stored: &Matrix, orientation: Orientation) -> (usize, usize) {
    match orientation {
        Orientation::OutputsByInputs => (stored.rows, stored.cols),
        Orientation::InputsByOutputs => (stored.cols, stored.rows),
    }
}

fn as_stored<T>(weight: MatRef<'_, T>, orientation: Orientation) -> MatRef<'_, T> {
    match orientation {
        Orientation::OutputsByInputs => weight,
        Orientation::InputsByOutputs => weight.transpose(),
    }
}

/// A [`Rounding`] in the making.
#[derive(Clone)]
struct Sums {
    precision: Precision,
    /// Sums of squares.
    asked: f64,
    error: f64,
    largest: f64,
}

impl Sums {
    fn new(precision: Precision) -> Self {
        Self { precision, asked: 0.0, error: 0.0, largest: 0.0 }
    }

    /// Rounds rows that were `old` and shall be `new`.
    fn round(&mut self, old: MatRef<'_, f64>, new: MatRef<'_, f64>, bytes: &mut Vec<u8>) -> Result<()> {
        for i in 0..new.nrows() {
            for j in 0..new.ncols() {
                let stored = self.precision.encode(new[(i, j)], bytes);
                if !stored.is_finite() {
                    return Err(EditError::Overflow { step: "the edited weight", scalar: self.precision.name() });
                }
                let error = (stored - new[(i, j)]).abs();
                self.asked += (new[(i, j)] - old[(i, j)]).powi(2);
                self.error += error * error;
                self.largest = self.largest.max(error);
            }
        }
        Ok(())
    }

    fn report(self) -> Rounding {
        let Self { precision, asked, error, largest } = self;
        Rounding { precision, asked: asked.sqrt(), error: error.sqrt(), largest }
    }
}
