//! nalgebra's matrices in the functions of this crate, and back.
//!
//! | from | to | | copies |
//! |---|---|---|---|
//! | `DMatrix`, `SMatrix`, `DVector`, `SVector`, one column | faer view | [`faer_view`] | no |
//! | the same, mutable: a weight to edit in place | mutable faer view | [`faer_view_mut`] | no |
//! | any nalgebra matrix, with any strides | faer matrix | [`to_faer`] | yes |
//! | faer matrix or view | `DMatrix` | [`to_nalgebra`] | yes |
//! | faer column | `DVector` | [`to_nalgebra_vector`] | yes |
//!
//! A view needs a storage type that nalgebra declares contiguous. Owned matrices have one, and so does one column of them;
//! `columns(..)` and `rows(..)` of a `DMatrix` do not. For a part of a matrix without a copy, make a view of the whole and
//! take the part with faer: `faer_view(&m).subcols(1, 2)`, `faer_view(&m).submatrix(..)`, `faer_view(&m).row(0)`.
//!
//! [`EditBatch::new`](crate::EditBatch::new) takes contiguous matrices of nalgebra as they are.
//!
//! nalgebra is re-exported as [`interop::nalgebra`](nalgebra); use that one, so that the versions
//! always match.

pub use nalgebra;

use faer::{ColRef, Mat, MatMut, MatRef};
use nalgebra::{DMatrix, DVector, Dim, IsContiguous, Matrix, RawStorage, RawStorageMut};

use crate::batch::IntoColumns;
use crate::scalar::Scalar;

/// A nalgebra matrix or vector, of dynamic or static size, as a faer view: no copy.
///
/// ```
/// use betaedit_core::interop::faer_view;
/// use betaedit_core::interop::nalgebra::{DMatrix, SVector};
///
/// let keys = DMatrix::from_row_slice(3, 2, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
/// let view = faer_view(&keys);
/// assert_eq!((view.shape(), view[(2, 1)]), ((3, 2), 6.0));
/// assert_eq!(faer_view(&keys.column(1)), view.subcols(1, 1));
/// assert_eq!(faer_view(&SVector::from([1.0, 3.0, 5.0])), view.subcols(0, 1));
/// ```
#[must_use]
pub fn faer_view<T, R, C, S>(matrix: &Matrix<T, R, C, S>) -> MatRef<'_, T>
where
    T: Scalar + nalgebra::Scalar,
    R: Dim,
    C: Dim,
    S: RawStorage<T, R, C> + IsContiguous,
{
    let (rows, cols) = matrix.shape();
    MatRef::from_column_major_slice(matrix.as_slice(), rows, cols)
}

/// A nalgebra matrix or vector as a mutable faer view: no copy.
///
/// An edit of a weight in place:
/// ```
/// use betaedit_core::interop::nalgebra::{DMatrix, DVector};
/// use betaedit_core::interop::{faer_view, faer_view_mut};
/// use betaedit_core::{InverseGram, Orientation, Update, faer::Par};
///
/// let mut weight = DMatrix::from_row_slice(2, 3, &[1.0, 0.0, 0.5, 0.0, 1.0, 0.0]);
/// let (key, value) = (DVector::from_column_slice(&[1.0, 2.0, 2.0]), DVector::from_column_slice(&[4.0, -1.0]));
/// let residual = &value - &weight * &key;
///
/// let solution = InverseGram::isotropic(3, 0.01, Par::Seq)?.solve(faer_view(&key))?;
/// let update = Update::from_factors(faer_view(&residual).to_owned(), solution.directions().transpose().to_owned())?;
/// update.apply_to(faer_view_mut(&mut weight), Orientation::OutputsByInputs, Par::Seq)?;
/// assert!((&weight * &key - &value).norm() < 0.01);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[must_use]
pub fn faer_view_mut<T, R, C, S>(matrix: &mut Matrix<T, R, C, S>) -> MatMut<'_, T>
where
    T: Scalar + nalgebra::Scalar,
    R: Dim,
    C: Dim,
    S: RawStorageMut<T, R, C> + IsContiguous,
{
    let (rows, cols) = matrix.shape();
    MatMut::from_column_major_slice_mut(matrix.as_mut_slice(), rows, cols)
}

/// A nalgebra matrix, with any storage, as an owned faer matrix.
///
/// ```
/// use betaedit_core::interop::nalgebra::DMatrix;
/// use betaedit_core::{faer::mat, interop::to_faer};
///
/// let weight = DMatrix::from_row_slice(2, 3, &[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
/// assert_eq!(to_faer(&weight), mat![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
/// let part = weight.columns_with_step(0, 2, 1);
/// assert_eq!(to_faer(&part), mat![[1.0, 3.0], [4.0, 6.0]]);
/// ```
#[must_use]
pub fn to_faer<T, R, C, S>(matrix: &Matrix<T, R, C, S>) -> Mat<T>
where
    T: Scalar + nalgebra::Scalar,
    R: Dim,
    C: Dim,
    S: RawStorage<T, R, C>,
{
    Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)])
}

/// A faer matrix or view as an owned nalgebra matrix.
#[must_use]
pub fn to_nalgebra<T: Scalar + nalgebra::Scalar>(matrix: MatRef<'_, T>) -> DMatrix<T> {
    DMatrix::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)])
}

/// A faer column as an owned nalgebra vector.
///
/// ```
/// use betaedit_core::faer::mat;
/// use betaedit_core::interop::to_nalgebra_vector;
///
/// let directions = mat![[1.0, 2.0], [3.0, 4.0]];
/// assert_eq!(to_nalgebra_vector(directions.col(1)).as_slice(), [2.0, 4.0]);
/// assert_eq!(to_nalgebra_vector(directions.row(1).transpose()).as_slice(), [3.0, 4.0]);
/// ```
#[must_use]
pub fn to_nalgebra_vector<T: Scalar + nalgebra::Scalar>(column: ColRef<'_, T>) -> DVector<T> {
    DVector::from_fn(column.nrows(), |i, _| column[i])
}

impl<'a, T, R, C, S> IntoColumns<'a, T> for &'a Matrix<T, R, C, S>
where
    T: Scalar + nalgebra::Scalar,
    R: Dim,
    C: Dim,
    S: RawStorage<T, R, C> + IsContiguous,
{
    fn into_columns(self) -> MatRef<'a, T> {
        faer_view(self)
    }
}
