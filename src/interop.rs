//! Conversions from and to nalgebra.

use faer::{Mat, MatRef};
use nalgebra::{DMatrix, Dim, IsContiguous, Matrix, RawStorage};

use crate::scalar::Scalar;

/// A nalgebra matrix, of dynamic or static size, as a faer view: no copy.
///
/// ```
/// use betaedit_core::interop::faer_view;
/// use nalgebra::dmatrix;
///
/// let keys = dmatrix![1.0, 2.0; 3.0, 4.0; 5.0, 6.0];
/// let view = faer_view(&keys);
/// assert_eq!((view.shape(), view[(2, 1)]), ((3, 2), 6.0));
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

/// A nalgebra matrix as an owned faer matrix.
///
/// ```
/// use betaedit_core::interop::{to_faer, to_nalgebra};
/// use nalgebra::dmatrix;
///
/// let weight = dmatrix![1.0_f32, 2.0; 3.0, 4.0];
/// assert_eq!(to_nalgebra(to_faer(&weight).as_ref()), weight);
/// ```
#[must_use]
pub fn to_faer<T: Scalar + nalgebra::Scalar>(matrix: &DMatrix<T>) -> Mat<T> {
    faer_view(matrix).to_owned()
}

/// A faer matrix or view as an owned nalgebra matrix.
#[must_use]
pub fn to_nalgebra<T: Scalar + nalgebra::Scalar>(matrix: MatRef<'_, T>) -> DMatrix<T> {
    DMatrix::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)])
}
