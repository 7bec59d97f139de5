//! Hugging Face checkpoints: weights are read and replaced, and every other byte stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};

use self::contents::{INDEX, WHOLE};
use self::orientation::{as_stored, outputs_by_inputs};
use super::tensors::{Matrix, TensorFile};
use super::{Precision, Rounding};
use super::{Updates, malformed};
use crate::error::{Error, NumericsError, Result};
use crate::scalar::{Scalar, cast};
use crate::update::Orientation;
use crate::util::shown::shown;
use crate::util::validate;

mod average;
pub(crate) mod contents;
mod index;
mod orientation;
mod patch;

/// A checkpoint: one safetensors file, or shards with an index.
///
/// Only the names of the tensors are in memory. Changes are streamed: a block of rows is read, changed in `f64`, rounded once
/// and written, and all other bytes are copied. Every shard is written once, whatever number of its tensors change. A changed
/// file keeps its header, its length and its name. It is written beside its place and renamed into it, so there must be room
/// for a second copy of the changed shards. A link (as in the cache of `huggingface_hub`) is replaced, and the file that it
/// points to stays as it is.
///
/// The caller has to know the orientation of a weight, or takes it from the model's configuration
/// ([`orientation`](Self::orientation)): models with `Conv1D`, such as GPT-2, store `d_in x d_out`, all others `d_out x d_in`.
/// The shape of a square weight does not show it.
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
#[derive(Clone)]
pub struct Checkpoint {
    path: PathBuf,
    /// The file of every tensor.
    files: BTreeMap<String, PathBuf>,
}

shown!([] Checkpoint, "Checkpoint", self => {
    "path": self.path,
    "tensors": self.files.len(),
});

impl Checkpoint {
    /// Opens a checkpoint.
    ///
    /// * `path`: a `.safetensors` file, an index (`.json`), or a folder that holds one of `model.safetensors.index.json`
    ///   and `model.safetensors`
    ///
    /// # Errors
    /// A file that cannot be read, is no such file, or an index that names a file outside of its own folder; a folder with none of the
    /// two files, or with both, unless the index is of that one file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (index, whole) = (path.join(INDEX), path.join(WHOLE));
        let file = match (path.is_dir(), index.exists(), whole.exists()) {
            (false, ..) => path.to_owned(),
            (true, true, false) => index,
            (true, false, true) => whole,
            (true, false, false) => return Err(malformed(path, contents::without_model(path))),
            (true, true, true) => match index::listed(&index)?.values().all(|shard| *shard == whole) {
                true => index,
                false => {
                    let problem = format!(
                        "there are two sets of weights, `{WHOLE}` and the shards of `{INDEX}`: remove one of them"
                    );
                    return Err(malformed(path, problem));
                }
            },
        };
        let files = if file.extension().is_some_and(|extension| extension == "json") {
            index::read(&file)?
        } else {
            TensorFile::open(&file)?.names().into_iter().map(|name| (name, file.clone())).collect()
        };
        Ok(Self { path: file, files })
    }

    /// Names of the tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The files that hold the tensors, each once.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.values().map(PathBuf::as_path).collect::<BTreeSet<_>>().into_iter()
    }

    /// The file of each tensor.
    #[cfg(feature = "llm")]
    pub(crate) fn into_files(self) -> BTreeMap<String, PathBuf> {
        self.files
    }

    /// The orientation of the checkpoint's projections, by the `model_type` of the `config.json` beside it.
    ///
    /// # Errors
    /// No such file, or a kind of model that is not known here.
    pub fn orientation(&self) -> Result<Orientation> {
        orientation::of_model(&self.path)
    }

    /// `(d_out, d_in)` of a weight.
    ///
    /// # Errors
    /// An unknown tensor, or one that is not a matrix of floating-point numbers.
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

    /// A weight as `d_out x d_in`, whatever its orientation in the file; exact, unless an `f64` checkpoint is read as `f32`.
    ///
    /// # Errors
    /// An unknown tensor, one that is not a matrix of floating-point numbers, or one that holds NaN or infinity.
    pub fn weight<T: Scalar>(&self, name: &str, orientation: Orientation) -> Result<Mat<T>> {
        let (mut file, matrix) = self.find(name)?;
        let columns = file.finite_columns(name, &matrix)?;
        Ok(match orientation {
            Orientation::OutputsByInputs => columns.transpose().to_owned(),
            Orientation::InputsByOutputs => columns,
        })
    }

    /// `W <- W + Delta` for every update, in the files. Each shard is written once. When all are written, they are renamed
    /// into their places.
    ///
    /// The result gives for each parameter the effect of rounding to the number type of the file.
    ///
    /// # Errors
    /// No update at all, an unknown parameter, an update of another shape, a weight that holds NaN or infinity or leaves
    /// the range of its number type, or a file that cannot be read or written. The checkpoint is unchanged then. Only if
    /// renaming fails after some shards were renamed, those have their updates and the others do not.
    pub fn apply<T: Scalar>(
        &self,
        updates: &Updates<T>,
        orientation: Orientation,
        par: Par,
    ) -> Result<BTreeMap<String, Rounding>> {
        self.add(updates, orientation, 1.0, par)
    }

    /// `W <- W - Delta` for every update: the opposite of [`apply`](Self::apply). In half precision, some last bits differ from
    /// those of the start; only a copy of the file has them all.
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

    /// Replaces a weight, rounded once. For several weights, [`replace_all`](Self::replace_all) is faster.
    ///
    /// * `weight`: `d_out x d_in`
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn replace<T: Scalar>(&self, name: &str, weight: MatRef<'_, T>, orientation: Orientation) -> Result<Rounding> {
        validate::finite("weight", weight)?;
        let (_, matrix) = self.find(name)?;
        let (d_out, d_in) = outputs_by_inputs(&matrix, orientation);
        validate::shape("weight", weight, d_out, d_in).map_err(in_tensor(self.file(name)?, name))?;
        let stored = as_stored(weight, orientation);
        let roundings = patch::patch(&[(name, self.file(name)?)], |_, first, rows| {
            copy_rows(stored, first, rows);
            Ok(())
        })?;
        Ok(roundings[0])
    }

    /// Replaces weights, each rounded once, in one pass over every shard that holds any of them. One weight at a time is in
    /// memory.
    ///
    /// * `tensors`: the names of the tensors, each with the argument for `weight`, for example the number of a layer
    /// * `weight`: gives the new weight, `d_out x d_in`; called once for each tensor, in the order of the file
    ///
    /// # Errors
    /// As [`apply`](Self::apply), and those of `weight`.
    ///
    /// # Examples
    /// ```
    /// use std::collections::{BTreeMap, BTreeSet};
    /// use betaedit_core::format::Checkpoint;
    /// use betaedit_core::{Orientation, faer::{Mat, mat}};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("model.safetensors");
    /// # let header = r#"{"0.down":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"1.down":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]}}"#;
    /// # std::fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 16]].concat())?;
    /// let checkpoint = Checkpoint::open(&folder)?; // holds `0.down` and `1.down`, 1 x 2, all zeros
    /// let weights = [mat![[1.0, 2.0]], mat![[3.0, 4.0]]];
    /// let layers = BTreeMap::from([("0.down".to_owned(), 0), ("1.down".to_owned(), 1)]);
    /// checkpoint.replace_all(&layers, Orientation::OutputsByInputs, |&layer| Ok(weights[layer].clone()))?;
    ///
    /// let second: Mat<f64> = checkpoint.weight("1.down", Orientation::OutputsByInputs)?;
    /// assert_eq!(second, weights[1]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn replace_all<T: Scalar, K>(
        &self,
        tensors: &BTreeMap<String, K>,
        orientation: Orientation,
        mut weight: impl FnMut(&K) -> Result<Mat<T>>,
    ) -> Result<BTreeMap<String, Rounding>> {
        if tensors.is_empty() {
            return Err(NumericsError::Empty { argument: "tensors", item: "tensor" }.into());
        }
        let keys: Vec<_> = tensors.values().collect();
        let shapes = tensors.keys().map(|name| self.shape(name, orientation)).collect::<Result<Vec<_>>>()?;
        let targets = self.targets(tensors.keys())?;
        let mut current: Option<(usize, Mat<T>)> = None;
        let roundings = patch::patch(&targets, |which, first, rows| {
            if current.as_ref().is_none_or(|(there, _)| *there != which) {
                current = None;
                let (new, (d_out, d_in)) = (weight(keys[which])?, shapes[which]);
                let (name, path) = targets[which];
                validate::finite("weight", new.as_ref()).map_err(in_tensor(path, name))?;
                validate::shape("weight", new.as_ref(), d_out, d_in).map_err(in_tensor(path, name))?;
                current = Some((which, new));
            }
            if let Some((_, new)) = &current {
                copy_rows(as_stored(new.as_ref(), orientation), first, rows);
            }
            Ok(())
        })?;
        Ok(tensors.keys().cloned().zip(roundings).collect())
    }

    fn add<T: Scalar>(
        &self,
        updates: &Updates<T>,
        orientation: Orientation,
        sign: f64,
        par: Par,
    ) -> Result<BTreeMap<String, Rounding>> {
        if updates.is_empty() {
            return Err(NumericsError::Empty { argument: "updates", item: "update" }.into());
        }
        let mut factors = Vec::with_capacity(updates.len());
        for (name, update) in updates {
            let (_, matrix) = self.find(name)?;
            let (d_out, d_in) = outputs_by_inputs(&matrix, orientation);
            update.check_shape("update", d_out, d_in).map_err(in_tensor(self.file(name)?, name))?;
            let (left, right) = (cast::<T, f64>(update.left()), cast::<T, f64>(update.right()));
            factors.push(match orientation {
                Orientation::OutputsByInputs => (left, right),
                Orientation::InputsByOutputs => (right.transpose().to_owned(), left.transpose().to_owned()),
            });
        }
        let roundings = patch::patch(&self.targets(updates.keys())?, |which, first, rows| {
            let (left, right) = &factors[which];
            let left = left.as_ref().subrows(first, rows.nrows());
            matmul(rows, Accum::Add, left, right.as_ref(), sign, par);
            Ok(())
        })?;
        Ok(updates.keys().cloned().zip(roundings).collect())
    }

    /// Names with their files.
    fn targets<'a>(&'a self, names: impl Iterator<Item = &'a String>) -> Result<Vec<(&'a str, &'a Path)>> {
        names.map(|name| Ok((name.as_str(), self.file(name)?))).collect()
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

/// An error about the numbers for a tensor.
fn in_tensor(path: &Path, name: &str) -> impl Fn(NumericsError) -> Error {
    move |error| malformed(path, format!("tensor `{name}`: {error}"))
}

fn copy_rows<T: Scalar>(stored: MatRef<'_, T>, first: usize, mut rows: MatMut<'_, f64>) {
    for i in 0..rows.nrows() {
        for j in 0..rows.ncols() {
            rows[(i, j)] = stored[(first + i, j)].to_f64();
        }
    }
}
