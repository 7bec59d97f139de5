//! Replaces tensors of a checkpoint, in one pass over every shard.

use std::collections::BTreeMap;
use std::path::Path;

use faer::{MatMut, MatRef};

use crate::error::{NumericsError, Result};
use crate::format::malformed;
use crate::format::tensors::TensorFile;
use crate::update::{Precision, Rounding};
use crate::util::atomic_file::Staged;
use crate::util::validate;

/// Replaces the rows of tensors by new ones. Shapes and number types stay. Each shard is read and written once. When all are
/// written, they are renamed into their places.
///
/// * `targets`: names with their files, no name twice; tensors of any number of dimensions, as [`TensorFile::flattened`] gives them
/// * `exact`: changes a block of rows, given the place of its tensor in `targets` and the number of its first row
pub(super) fn patch(
    targets: &[(&str, &Path)],
    mut exact: impl FnMut(usize, usize, MatMut<'_, f64>) -> Result<()>,
) -> Result<Vec<Rounding>> {
    let mut shards: BTreeMap<&Path, Vec<usize>> = BTreeMap::new();
    for (which, (_, path)) in targets.iter().enumerate() {
        shards.entry(path).or_default().push(which);
    }
    let mut roundings = vec![None; targets.len()];
    let mut staged = Vec::with_capacity(shards.len());
    for (path, patched) in shards {
        let mut file = TensorFile::open(path)?;
        let located = |&which: &usize| {
            let name = targets[which].0;
            file.flattened(name)?
                .ok_or_else(|| malformed(path, format!("tensor `{name}` has no floating-point numbers")))
        };
        let matrices = patched.iter().map(located).collect::<Result<Vec<_>>>()?;
        staged.push(Staged::new(path, |to| {
            file.copy_replacing(to, &matrices, |of_shard, first, old, bytes| {
                let (which, matrix) = (patched[of_shard], &matrices[of_shard]);
                let rounding = roundings[which].get_or_insert_with(|| RoundingSums::new(matrix.precision));
                let old = MatRef::from_row_major_slice(old, old.len() / matrix.cols, matrix.cols);
                let refused = |error: NumericsError| {
                    malformed(path, format!("tensor `{}`: {}", targets[which].0, of_whole_tensor(error, first)))
                };
                validate::finite("the weight", old).map_err(refused)?;
                let mut new = old.transpose().to_owned();
                exact(which, first, new.as_mut().transpose_mut())?;
                rounding.round(old, new.transpose(), bytes).map_err(refused)
            })
        })?);
    }
    staged.into_iter().try_for_each(Staged::commit)?;
    Ok(roundings.into_iter().flatten().map(RoundingSums::report).collect())
}

/// An error in a block of rows, with its row counted from the start of the tensor.
fn of_whole_tensor(error: NumericsError, first: usize) -> NumericsError {
    match error {
        NumericsError::NonFinite { argument, row, col, value } => {
            NumericsError::NonFinite { argument, row: first + row, col, value }
        }
        error => error,
    }
}

/// The sums behind a [`Rounding`].
#[derive(Clone)]
struct RoundingSums {
    precision: Precision,
    /// RoundingSums of squares.
    asked: f64,
    error: f64,
    largest: f64,
}

impl RoundingSums {
    fn new(precision: Precision) -> Self {
        Self { precision, asked: 0.0, error: 0.0, largest: 0.0 }
    }

    /// Rounds the `new` rows, which replace the `old` ones.
    fn round(&mut self, old: MatRef<'_, f64>, new: MatRef<'_, f64>, bytes: &mut Vec<u8>) -> Result<(), NumericsError> {
        for i in 0..new.nrows() {
            for j in 0..new.ncols() {
                let stored = self.precision.encode(new[(i, j)], bytes);
                if !stored.is_finite() {
                    return Err(NumericsError::Overflow { step: "the edited weight", scalar: self.precision.name() });
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
