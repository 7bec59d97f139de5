//! Updates of a model in one file, as factors: small and exact. They can be applied and reverted.

use std::path::Path;

use super::tensors::{self, NewTensor, TensorFile};
use super::{Precision, Updates, in_file, malformed};
use crate::error::{NumericsError, Result};
use crate::scalar::Scalar;
use crate::update::Update;

/// The kind of file, and the version of its layout.
const KIND: &str = "betaedit.delta.1";

/// Writes updates: for each parameter `p` the tensors `p.left` (`d_out x n`) and `p.right` (`n x d_in`) of
/// `Delta = left right`, in their own number type.
///
/// [`Checkpoint::apply`](super::Checkpoint::apply) adds them to a checkpoint, [`Checkpoint::revert`](super::Checkpoint::revert)
/// subtracts them.
///
/// # Errors
/// No update at all, or a path that cannot be written.
///
/// # Examples
/// ```
/// use betaedit_core::format::{Updates, delta};
/// use betaedit_core::{Update, faer::mat};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("delta.safetensors");
/// let update = Update::from_factors(mat![[1.0], [2.0]], mat![[0.5, 0.0, -1.0]])?;
/// let updates = Updates::from([("h.5.mlp.c_proj.weight".to_owned(), update)]);
/// delta::write(&path, &updates)?;
///
/// let read: Updates<f64> = delta::read(&path)?;
/// assert_eq!(read["h.5.mlp.c_proj.weight"].left(), mat![[1.0], [2.0]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write<T: Scalar>(path: impl AsRef<Path>, updates: &Updates<T>) -> Result<()> {
    if updates.is_empty() {
        return Err(NumericsError::Empty { argument: "updates", item: "update" }.into());
    }
    let factors = updates.iter().flat_map(|(parameter, update)| {
        [("left", update.left()), ("right", update.right())]
            .map(|(side, rows)| NewTensor::matrix(format!("{parameter}.{side}"), rows, Precision::of::<T>()))
    });
    tensors::write(path.as_ref(), tensors::kind(KIND), &factors.collect::<Vec<_>>())
}

/// Reads updates.
///
/// # Errors
/// A file that cannot be read or is not a delta file, factors that do not fit each other, or numbers beyond the range of `T`.
pub fn read<T: Scalar>(path: impl AsRef<Path>) -> Result<Updates<T>> {
    let path = path.as_ref();
    let mut file = TensorFile::open_kind(path, KIND)?;
    let names = file.names();
    let mut updates = Updates::new();
    for parameter in names.iter().filter_map(|name| name.strip_suffix(".left")) {
        let (left_name, right_name) = (format!("{parameter}.left"), format!("{parameter}.right"));
        let (left, right) = (file.matrix(&left_name)?, file.matrix(&right_name)?);
        let right = file.matrix_of_shape(&right_name, left.cols, right.cols)?;
        let left = file.finite_columns::<T>(&left_name, &left)?;
        let right = file.finite_columns::<T>(&right_name, &right)?;
        let update = Update::from_factors(left.transpose().to_owned(), right.transpose().to_owned());
        updates.insert(parameter.to_owned(), update.map_err(in_file(path))?);
    }
    match names.iter().find(|name| !name.ends_with(".left") && !name.ends_with(".right")) {
        Some(name) => Err(malformed(path, format!("tensor `{name}` is no factor of an update"))),
        None if 2 * updates.len() == names.len() => Ok(updates),
        None => Err(malformed(path, "a right factor has no left one")),
    }
}
