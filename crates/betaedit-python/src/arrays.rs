//! Matrices from Python and back.
//!
//! An array of `float32` or `float64` in either memory order is read where it lies. Anything else (other number types, arrays with gaps,
//! tensors) goes through `betaedit._arrays.as_array`, which returns such an array.

use betaedit_core::Scalar;
use betaedit_core::faer::{Mat, MatRef, Par};
use betaedit_core::scalar::cast;
use numpy::{
    Element, IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyReadwriteArray2,
    PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::errors;

/// What pickle calls to make a value again, and with which arguments.
pub type Reduced<'py, A> = PyResult<(Bound<'py, PyAny>, A)>;

/// A value for each number type.
#[derive(Clone, Debug)]
pub enum ByType<A, B> {
    F32(A),
    F64(B),
}

/// Runs the same code for either number type.
macro_rules! by_type {
    ($value:expr, $inner:pat => $body:expr) => {
        match $value {
            $crate::arrays::ByType::F32($inner) => $body,
            $crate::arrays::ByType::F64($inner) => $body,
        }
    };
}
pub(crate) use by_type;

/// A number type of the library and of numpy.
pub trait Number: Scalar + Element {}

impl Number for f32 {}
impl Number for f64 {}

/// Threads from an argument: 0 for all cores.
pub fn par(threads: usize) -> Par {
    if threads == 1 { Par::Seq } else { Par::rayon(threads) }
}

/// A matrix in memory that Python holds. One dimension is one column.
pub enum Matrix<'py> {
    Rows(ByType<PyReadonlyArray2<'py, f32>, PyReadonlyArray2<'py, f64>>),
    Column(ByType<PyReadonlyArray1<'py, f32>, PyReadonlyArray1<'py, f64>>),
}

impl<'py> Matrix<'py> {
    fn borrowed(array: &Bound<'py, PyAny>) -> Option<Self> {
        fn contiguous<'a, 'py, T: Element, D: numpy::ndarray::Dimension>(
            array: &'a numpy::PyReadonlyArray<'py, T, D>,
        ) -> bool {
            array.as_slice().is_ok()
        }
        if let Ok(one) = array.extract::<PyReadonlyArray2<'py, f64>>() {
            return contiguous(&one).then_some(Self::Rows(ByType::F64(one)));
        }
        if let Ok(one) = array.extract::<PyReadonlyArray2<'py, f32>>() {
            return contiguous(&one).then_some(Self::Rows(ByType::F32(one)));
        }
        if let Ok(one) = array.extract::<PyReadonlyArray1<'py, f64>>() {
            return contiguous(&one).then_some(Self::Column(ByType::F64(one)));
        }
        let one = array.extract::<PyReadonlyArray1<'py, f32>>().ok()?;
        contiguous(&one).then_some(Self::Column(ByType::F32(one)))
    }

    /// The matrix where it lies.
    pub fn view(&self) -> PyResult<ByType<MatRef<'_, f32>, MatRef<'_, f64>>> {
        Ok(match self {
            Self::Rows(ByType::F32(array)) => ByType::F32(rows(array)?),
            Self::Rows(ByType::F64(array)) => ByType::F64(rows(array)?),
            Self::Column(ByType::F32(array)) => ByType::F32(column(array)?),
            Self::Column(ByType::F64(array)) => ByType::F64(column(array)?),
        })
    }

    /// A copy in a number type.
    pub fn to_mat<T: Scalar>(&self) -> PyResult<Mat<T>> {
        Ok(by_type!(self.view()?, matrix => cast(matrix)))
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Matrix<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        static AS_ARRAY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if let Some(matrix) = Self::borrowed(&object) {
            return Ok(matrix);
        }
        let array = AS_ARRAY.import(object.py(), "betaedit._arrays", "as_array")?.call1((&*object,))?;
        Self::borrowed(&array)
            .ok_or_else(|| errors::numerics("an array has to have one or two dimensions, and numbers in them"))
    }
}

fn rows<'a, T: Number>(array: &'a PyReadonlyArray2<'_, T>) -> PyResult<MatRef<'a, T>> {
    let (rows, cols) = (array.shape()[0], array.shape()[1]);
    let numbers = array.as_slice().map_err(|error| errors::numerics(error.to_string()))?;
    Ok(match array.is_c_contiguous() {
        true => MatRef::from_row_major_slice(numbers, rows, cols),
        false => MatRef::from_column_major_slice(numbers, rows, cols),
    })
}

fn column<'a, T: Number>(array: &'a PyReadonlyArray1<'_, T>) -> PyResult<MatRef<'a, T>> {
    let numbers = array.as_slice().map_err(|error| errors::numerics(error.to_string()))?;
    Ok(MatRef::from_column_major_slice(numbers, numbers.len(), 1))
}

/// A matrix in one number type: where it lies, or a copy if it has another one.
pub enum Held<'a, T> {
    Lent(MatRef<'a, T>),
    Owned(Mat<T>),
}

impl<T: Scalar> Held<'_, T> {
    pub fn as_ref(&self) -> MatRef<'_, T> {
        match self {
            Self::Lent(matrix) => *matrix,
            Self::Owned(matrix) => matrix.as_ref(),
        }
    }
}

/// Numbers of a type that a matrix can be read in.
pub trait HeldNumber: Number {
    fn held<'a>(matrix: &'a Matrix<'_>) -> PyResult<Held<'a, Self>>;
}

macro_rules! held {
    ($scalar:ty, $own:ident, $other:ident) => {
        impl HeldNumber for $scalar {
            fn held<'a>(matrix: &'a Matrix<'_>) -> PyResult<Held<'a, Self>> {
                Ok(match matrix.view()? {
                    ByType::$own(matrix) => Held::Lent(matrix),
                    ByType::$other(matrix) => Held::Owned(cast(matrix)),
                })
            }
        }
    };
}

held!(f32, F32, F64);
held!(f64, F64, F32);

/// A new array in Fortran order.
pub fn to_python<'py, T: Number>(py: Python<'py>, matrix: MatRef<'_, T>) -> PyResult<Bound<'py, PyArray2<T>>> {
    let (rows, cols) = matrix.shape();
    let array = PyArray2::<T>::zeros(py, [rows, cols], true);
    {
        let mut filled = array.readwrite();
        let numbers = filled.as_slice_mut().map_err(|error| errors::numerics(error.to_string()))?;
        if rows > 0 {
            for (to, from) in numbers.chunks_exact_mut(rows).zip(matrix.col_iter()) {
                to.iter_mut().zip(from.iter()).for_each(|(to, from)| *to = *from);
            }
        }
    }
    Ok(array)
}

/// A new array of one dimension.
pub fn vector(py: Python<'_>, numbers: Vec<f64>) -> Bound<'_, PyArray1<f64>> {
    numbers.into_pyarray(py)
}

/// A matrix that is changed in place.
pub enum MatrixMut<'py> {
    F32(PyReadwriteArray2<'py, f32>),
    F64(PyReadwriteArray2<'py, f64>),
}

impl<'a, 'py> FromPyObject<'a, 'py> for MatrixMut<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        static IN_PLACE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let array = IN_PLACE.import(object.py(), "betaedit._arrays", "in_place")?.call1((&*object,))?;
        let refused = |_| errors::numerics("the weight cannot be changed in place: it is read-only, or in use");
        let array = match array.cast::<PyArray2<f32>>() {
            Ok(array) => Self::F32(array.try_readwrite().map_err(refused)?),
            Err(_) => Self::F64(array.cast::<PyArray2<f64>>()?.try_readwrite().map_err(refused)?),
        };
        Ok(array)
    }
}
