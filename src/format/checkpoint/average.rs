//! Averages of checkpoints.

use std::collections::BTreeMap;
use std::fs::File;

use faer::{Mat, MatMut, MatRef};

use super::orientation::as_stored;
use super::{Checkpoint, copy_rows, patch};
use crate::error::{NumericsError, Result};
use crate::format::Rounding;
use crate::format::malformed;
use crate::format::tensors::{Matrix, TensorFile};
use crate::scalar::Scalar;
use crate::update::Orientation;
use crate::util::validate;

impl Checkpoint {
    /// Replaces every tensor by its average over this checkpoint and others, except some that are given. Each number is rounded
    /// once. Tensors of whole numbers stay.
    ///
    /// * `others`: checkpoints with the same tensors, in any number types and shards
    /// * `given`: the names of the tensors that are not averaged, each with the argument for `weight`
    /// * `weight`: gives such a tensor, `d_out x d_in`; called once for each
    ///
    /// Memory: a block of rows of each checkpoint, and one given weight.
    ///
    /// # Errors
    /// No other checkpoint, tensors that are not in all of them or have another shape, numbers that are not finite, the errors of
    /// `weight`, or a file that cannot be read or written. The checkpoint is unchanged then, as for [`apply`](Self::apply).
    ///
    /// # Examples
    /// ```
    /// use std::collections::BTreeMap;
    /// use betaedit_core::format::Checkpoint;
    /// use betaedit_core::{Orientation, faer::{Mat, mat}};
    ///
    /// # let (folder, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
    /// # let header = r#"{"down":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"norm":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#;
    /// # let model = |x: f32| [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &x.to_le_bytes().repeat(4)].concat();
    /// # std::fs::write(folder.path().join("model.safetensors"), model(1.0))?;
    /// # std::fs::write(other.path().join("model.safetensors"), model(2.0))?;
    /// let checkpoint = Checkpoint::open(&folder)?; // `down`, 1 x 2, and `norm`, 2, all ones
    /// let others = [Checkpoint::open(&other)?]; //    the same, all twos
    /// let merged = mat![[5.0, 6.0]];
    /// let given = BTreeMap::from([("down".to_owned(), ())]);
    /// let roundings = checkpoint.average(&others, &given, Orientation::OutputsByInputs, |()| Ok(merged.clone()))?;
    /// assert_eq!(roundings["norm"].asked, 0.5_f64.sqrt()); // from (1, 1) to (1.5, 1.5)
    ///
    /// let down: Mat<f64> = checkpoint.weight("down", Orientation::OutputsByInputs)?;
    /// assert_eq!(down, merged);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn average<T: Scalar, K>(
        &self,
        others: &[Self],
        given: &BTreeMap<String, K>,
        orientation: Orientation,
        mut weight: impl FnMut(&K) -> Result<Mat<T>>,
    ) -> Result<BTreeMap<String, Rounding>> {
        if others.is_empty() {
            return Err(NumericsError::Empty { argument: "others", item: "model" }.into());
        }
        let names = self.common_tensors(others)?;
        let shapes =
            given.keys().map(|name| Ok((name, self.shape(name, orientation)?))).collect::<Result<BTreeMap<_, _>>>()?;
        let targets = self.targets(names.iter())?;
        let mut sources = Sources { others, which: None, opened: vec![] };
        let mut current: Option<(usize, Mat<T>)> = None;
        let roundings = patch::patch(&targets, |which, first, rows| {
            let name = &names[which];
            let Some(argument) = given.get(name) else { return sources.average(which, name, first, rows) };
            if current.as_ref().is_none_or(|(there, _)| *there != which) {
                current = None;
                let (new, (d_out, d_in)) = (weight(argument)?, shapes[name]);
                validate::finite("weight", new.as_ref())?;
                validate::shape("weight", new.as_ref(), d_out, d_in)?;
                current = Some((which, new));
            }
            if let Some((_, new)) = &current {
                copy_rows(as_stored(new.as_ref(), orientation), first, rows);
            }
            Ok(())
        })?;
        Ok(names.into_iter().zip(roundings).collect())
    }

    /// The tensors of floating-point numbers, which must have the same shape in all checkpoints.
    fn common_tensors(&self, others: &[Self]) -> Result<Vec<String>> {
        for other in others {
            for (one, two) in [(self, other), (other, self)] {
                if let Some(name) = one.names().find(|name| !two.files.contains_key(*name)) {
                    let problem = format!("there is no tensor `{name}`, which is in {}", one.path.display());
                    return Err(malformed(&two.path, problem));
                }
            }
        }
        let mut names = vec![];
        for (name, path) in &self.files {
            let file = TensorFile::open(path)?;
            let matrix = file.flattened(name)?;
            for other in others {
                let (theirs, path) = (TensorFile::open(other.file(name)?)?, other.file(name)?);
                let (expected, found) = (file.shape(name)?, theirs.shape(name)?);
                if expected != found {
                    let ours = self.path.display();
                    let problem = format!("tensor `{name}` has the shape {found:?}, and {expected:?} in {ours}");
                    return Err(malformed(path, problem));
                }
                if theirs.flattened(name)?.is_some() != matrix.is_some() {
                    return Err(malformed(path, format!("tensor `{name}` is of another kind of number")));
                }
            }
            names.extend(matrix.is_some().then(|| name.clone()));
        }
        Ok(names)
    }
}

/// The other checkpoints, opened at one tensor.
struct Sources<'a> {
    others: &'a [Checkpoint],
    /// The place of the tensor in the targets.
    which: Option<usize>,
    opened: Vec<(TensorFile<File>, Matrix)>,
}

impl Sources<'_> {
    /// Averages a block of rows of a tensor. Equal numbers stay as they are, to the last bit.
    fn average(&mut self, which: usize, name: &str, first: usize, mut rows: MatMut<'_, f64>) -> Result<()> {
        if self.which != Some(which) {
            self.opened = self.others.iter().map(|other| open(other, name)).collect::<Result<_>>()?;
            self.which = Some(which);
        }
        let (count, cols) = rows.shape();
        let mut moved = Mat::<f64>::zeros(count, cols);
        for ((file, matrix), other) in self.opened.iter_mut().zip(self.others) {
            let numbers = file.rows(matrix, first, count)?;
            if !numbers.iter().all(|x| x.is_finite()) {
                return Err(malformed(other.file(name)?, format!("tensor `{name}` holds NaN or infinity")));
            }
            moved += MatRef::from_row_major_slice(&numbers, count, cols) - rows.as_ref();
        }
        let share = 1.0 / (self.others.len() + 1) as f64;
        for j in 0..cols {
            for i in 0..count {
                // Adding zero would make 0.0 of -0.0.
                if moved[(i, j)] != 0.0 {
                    rows[(i, j)] += share * moved[(i, j)];
                }
            }
        }
        Ok(())
    }
}

fn open(checkpoint: &Checkpoint, name: &str) -> Result<(TensorFile<File>, Matrix)> {
    let path = checkpoint.file(name)?;
    let file = TensorFile::open(path)?;
    let kind = || malformed(path, format!("tensor `{name}` has no floating-point numbers"));
    let matrix = file.flattened(name)?.ok_or_else(kind)?;
    Ok((file, matrix))
}
