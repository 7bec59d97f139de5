//! Updates: changes of a weight, as factors.

use betaedit_core::restraint::{Prune, Rect};
use betaedit_core::update::{Compressed, Compression};
use numpy::PyUntypedArrayMethods;
use pyo3::prelude::*;

use betaedit_core::faer::{MatMut, Par};

use crate::arrays::{ByType, HeldNumber, Matrix, MatrixMut, Number, Reduced, by_type, par, to_python};
use crate::errors::{self, OrRaise};
use crate::settings;

/// A change of a weight, `Delta = left right`, d_out x d_in, kept as factors of rank n.
///
/// `Update(left, right)` with left d_out x n and right n x d_in, both float32 or (any other mixture) float64.
#[pyclass(module = "betaedit", frozen)]
#[derive(Clone)]
pub struct Update(pub ByType<betaedit_core::Update<f32>, betaedit_core::Update<f64>>);

impl From<betaedit_core::Update<f32>> for Update {
    fn from(update: betaedit_core::Update<f32>) -> Self {
        Self(ByType::F32(update))
    }
}

impl From<betaedit_core::Update<f64>> for Update {
    fn from(update: betaedit_core::Update<f64>) -> Self {
        Self(ByType::F64(update))
    }
}

impl Update {
    /// The update in float64.
    pub fn to_f64(&self) -> PyResult<betaedit_core::Update<f64>> {
        by_type!(&self.0, update => update.cast()).or_raise()
    }

    pub fn shown(&self) -> String {
        let (d_out, d_in, rank) = by_type!(&self.0, update => (update.d_out(), update.d_in(), update.rank()));
        format!("Update({d_out} x {d_in}, rank {rank})")
    }

    fn change(
        &self,
        py: Python<'_>,
        weight: MatrixMut<'_>,
        orientation: &str,
        threads: usize,
        way: Way,
    ) -> PyResult<()> {
        let (orientation, par) = (settings::named(orientation)?, par(threads));
        match weight {
            MatrixMut::F32(mut weight) => {
                let update = by_type!(&self.0, update => update.cast::<f32>()).or_raise()?;
                let to = in_place(&mut weight)?;
                py.detach(|| way.apply(&update, to, orientation, par)).or_raise()
            }
            MatrixMut::F64(mut weight) => {
                let update = self.to_f64()?;
                let to = in_place(&mut weight)?;
                py.detach(|| way.apply(&update, to, orientation, par)).or_raise()
            }
        }
    }
}

/// Whether an update is added or taken away.
#[derive(Clone, Copy)]
enum Way {
    Add,
    Subtract,
}

impl Way {
    fn apply<T: Number>(
        self,
        update: &betaedit_core::Update<T>,
        weight: MatMut<'_, T>,
        orientation: betaedit_core::Orientation,
        par: Par,
    ) -> Result<(), betaedit_core::error::NumericsError> {
        match self {
            Self::Add => update.apply_to(weight, orientation, par),
            Self::Subtract => update.subtract_from(weight, orientation, par),
        }
    }
}

/// An array as a matrix that is changed where it lies.
fn in_place<'a, T: Number>(array: &'a mut numpy::PyReadwriteArray2<'_, T>) -> PyResult<MatMut<'a, T>> {
    let (rows, cols, by_rows) = (array.shape()[0], array.shape()[1], array.is_c_contiguous());
    let numbers = array.as_slice_mut().map_err(|_| {
        errors::numerics("a weight that is changed in place must be contiguous: rows or columns one behind the other")
    })?;
    Ok(match by_rows {
        true => MatMut::from_row_major_slice_mut(numbers, rows, cols),
        false => MatMut::from_column_major_slice_mut(numbers, rows, cols),
    })
}

#[pymethods]
impl Update {
    #[new]
    fn new(left: Matrix<'_>, right: Matrix<'_>) -> PyResult<Self> {
        match (left.view()?, right.view()?) {
            (ByType::F32(left), ByType::F32(right)) => {
                betaedit_core::Update::from_factors(left.to_owned(), right.to_owned()).or_raise().map(Self::from)
            }
            _ => betaedit_core::Update::from_factors(left.to_mat::<f64>()?, right.to_mat::<f64>()?)
                .or_raise()
                .map(Self::from),
        }
    }

    /// `left`, d_out x n. A copy.
    #[getter]
    fn left<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(by_type!(&self.0, update => to_python(py, update.left())?.into_any()))
    }

    /// `right`, n x d_in. A copy.
    #[getter]
    fn right<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(by_type!(&self.0, update => to_python(py, update.right())?.into_any()))
    }

    /// Number of columns of `left`.
    #[getter]
    fn rank(&self) -> usize {
        by_type!(&self.0, update => update.rank())
    }

    /// Number of edits.
    #[getter]
    fn edits(&self) -> usize {
        by_type!(&self.0, update => update.edits())
    }

    /// (d_out, d_in).
    #[getter]
    fn shape(&self) -> (usize, usize) {
        by_type!(&self.0, update => (update.d_out(), update.d_in()))
    }

    /// The number type, "float32" or "float64".
    #[getter]
    fn dtype(&self) -> &'static str {
        match self.0 {
            ByType::F32(_) => "float32",
            ByType::F64(_) => "float64",
        }
    }

    /// `Delta`, d_out x d_in, in the update's number type.
    #[pyo3(signature = (*, threads = 0))]
    fn to_dense<'py>(&self, py: Python<'py>, threads: usize) -> PyResult<Bound<'py, PyAny>> {
        Ok(by_type!(&self.0, update => {
            let dense = py.detach(|| update.to_dense(par(threads)));
            to_python(py, dense.as_ref())?.into_any()
        }))
    }

    /// The update times a factor.
    fn scaled(&self, factor: f64) -> PyResult<Self> {
        Ok(match &self.0 {
            ByType::F32(update) => update.scaled(factor).or_raise()?.into(),
            ByType::F64(update) => update.scaled(factor).or_raise()?.into(),
        })
    }

    /// Adds the update to a weight, in place: a numpy array, or a torch tensor on the CPU, of float32 or float64, contiguous.
    ///
    /// orientation: "outputs-by-inputs" for a d_out x d_in weight (torch's Linear), "inputs-by-outputs" for GPT-2's Conv1D.
    #[pyo3(signature = (weight, orientation = "outputs-by-inputs", *, threads = 0))]
    fn apply_to(&self, py: Python<'_>, weight: MatrixMut<'_>, orientation: &str, threads: usize) -> PyResult<()> {
        self.change(py, weight, orientation, threads, Way::Add)
    }

    /// Subtracts the update from a weight, in place: see `apply_to`.
    #[pyo3(signature = (weight, orientation = "outputs-by-inputs", *, threads = 0))]
    fn subtract_from(&self, py: Python<'_>, weight: MatrixMut<'_>, orientation: &str, threads: usize) -> PyResult<()> {
        self.change(py, weight, orientation, threads, Way::Subtract)
    }

    /// `Delta X`, in the update's number type. X: d_in x n.
    #[pyo3(signature = (X, *, threads = 0))]
    fn product<'py>(&self, py: Python<'py>, X: Matrix<'_>, threads: usize) -> PyResult<Bound<'py, PyAny>> {
        Ok(match &self.0 {
            ByType::F32(update) => {
                let X = f32::held(&X)?;
                to_python(py, update.product(X.as_ref(), par(threads)).or_raise()?.as_ref())?.into_any()
            }
            ByType::F64(update) => {
                let X = f64::held(&X)?;
                to_python(py, update.product(X.as_ref(), par(threads)).or_raise()?.as_ref())?.into_any()
            }
        })
    }

    /// `|Delta|_F`.
    #[getter]
    fn frobenius_norm(&self) -> f64 {
        by_type!(&self.0, update => update.frobenius_norm())
    }

    /// The largest singular value, from the factors.
    #[getter]
    fn spectral_norm(&self) -> PyResult<f64> {
        by_type!(&self.0, update => update.spectral_norm()).or_raise()
    }

    /// `<Delta, Other>`: negative where one update undoes part of the other.
    fn inner(&self, other: &Self) -> PyResult<f64> {
        match (&self.0, &other.0) {
            (ByType::F32(one), ByType::F32(other)) => one.inner(other).or_raise(),
            _ => self.to_f64()?.inner(&other.to_f64()?).or_raise(),
        }
    }

    /// The exact sum of updates as one. Its rank is the sum of their ranks.
    #[staticmethod]
    fn stacked(updates: Vec<Py<Self>>) -> PyResult<Self> {
        let single: Option<Vec<_>> = updates
            .iter()
            .map(|update| match &update.get().0 {
                ByType::F32(update) => Some(update),
                ByType::F64(_) => None,
            })
            .collect();
        match single {
            Some(updates) if !updates.is_empty() => betaedit_core::Update::stacked(updates).or_raise().map(Self::from),
            _ => {
                let updates = updates.iter().map(|update| update.get().to_f64()).collect::<PyResult<Vec<_>>>()?;
                betaedit_core::Update::stacked(&updates).or_raise().map(Self::from)
            }
        }
    }

    /// The update of about the smallest rank that is within a share `tolerance` of a matrix, d_out x d_in, and the norm of what is lost.
    #[staticmethod]
    #[pyo3(signature = (matrix, *, tolerance = 1e-6, threads = 0))]
    fn from_dense(py: Python<'_>, matrix: Matrix<'_>, tolerance: f64, threads: usize) -> PyResult<(Self, f64)> {
        by_type!(matrix.view()?, matrix => {
            let found = py.detach(|| betaedit_core::Update::from_dense(matrix, tolerance, par(threads))).or_raise()?;
            Ok((found.update.into(), found.error))
        })
    }

    /// The nearest update of a smaller rank, and the norm of what is lost. Give `rank`, or `tolerance` as a share of the norm.
    #[pyo3(signature = (*, rank = None, tolerance = None, threads = 0))]
    fn compressed(
        &self,
        py: Python<'_>,
        rank: Option<usize>,
        tolerance: Option<f64>,
        threads: usize,
    ) -> PyResult<(Self, f64)> {
        let to = match (rank, tolerance) {
            (Some(rank), None) => Compression::Rank(rank),
            (None, Some(share)) => Compression::Tolerance(share),
            _ => return Err(errors::numerics("give either `rank` or `tolerance`")),
        };
        Ok(by_type!(&self.0, update => {
            let Compressed { update, error, .. } = py.detach(|| update.compressed(to, par(threads))).or_raise()?;
            (update.into(), error)
        }))
    }

    /// The update after RECT: only the share `kept` of its entries stays, those with the largest relative change.
    ///
    /// weight: d_out x d_in, before the update.
    #[pyo3(signature = (weight, kept = None, *, threads = 0))]
    fn rect(&self, py: Python<'_>, weight: Matrix<'_>, kept: Option<f64>, threads: usize) -> PyResult<Self> {
        let rect = kept.map_or_else(Rect::default, |kept| Rect::default().with_kept(kept));
        match &self.0 {
            ByType::F32(update) => {
                let weight = f32::held(&weight)?;
                let weight = weight.as_ref();
                py.detach(|| rect.restrain(update, weight, par(threads))).or_raise().map(Self::from)
            }
            ByType::F64(update) => {
                let weight = f64::held(&weight)?;
                let weight = weight.as_ref();
                py.detach(|| rect.restrain(update, weight, par(threads))).or_raise().map(Self::from)
            }
        }
    }

    /// The update after PRUNE: singular values above `largest`, the largest one of the first weight, are damped.
    #[pyo3(signature = (largest, damping = None, *, threads = 0))]
    fn prune(
        &self,
        py: Python<'_>,
        largest: f64,
        damping: Option<&Bound<'_, PyAny>>,
        threads: usize,
    ) -> PyResult<Self> {
        let damping = damping.map(|damping| settings::from_python("damping", damping)).transpose()?;
        let prune = damping.map_or_else(Prune::default, |damping| Prune::default().with_damping(damping));
        Ok(by_type!(&self.0, update => {
            py.detach(|| prune.restrain(update, largest, par(threads))).or_raise()?.into()
        }))
    }

    fn __repr__(&self) -> String {
        self.shown()
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> Reduced<'py, (Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let (py, update) = (slf.py(), slf.get());
        Ok((slf.get_type().into_any(), (update.left(py)?, update.right(py)?)))
    }
}
