//! Eigendecompositions of second moments.

use std::path::PathBuf;
use std::sync::Arc;

use numpy::{PyArray1, PyArray2};
use pyo3::prelude::*;

use crate::arrays::{Matrix, Reduced, par, to_python, vector};
use crate::errors::OrRaise;
use crate::moment::SecondMoment;
use crate::working::watched;

/// Values and vectors.
type Parts<'py> = (Bound<'py, PyArray1<f64>>, Bound<'py, PyArray2<f64>>);

/// The eigendecomposition `C = U diag(s) Uᵀ`, in float64 and verified. Computed once, it serves every threshold and method.
///
/// `Spectrum(moment)`. Cost: `9 d³` flops, 17 s at d = 4096 on one core. `progress(stage, share)` is called as it goes on. Ctrl-C ends the
/// call at once; the thread that decomposes ends at its next stage.
#[pyclass(module = "betaedit", frozen)]
pub struct Spectrum(pub Arc<betaedit_core::Spectrum>);

impl From<betaedit_core::Spectrum> for Spectrum {
    fn from(spectrum: betaedit_core::Spectrum) -> Self {
        Self(Arc::new(spectrum))
    }
}

#[pymethods]
impl Spectrum {
    #[new]
    #[pyo3(signature = (moment, *, threads = 0, progress = None))]
    fn new(py: Python<'_>, moment: &SecondMoment, threads: usize, progress: Option<Py<PyAny>>) -> PyResult<Self> {
        let moment = moment.now();
        watched(py, progress, move |watch| betaedit_core::Spectrum::new_watched(&moment, par(threads), watch))
            .map(Self::from)
    }

    /// Decomposes a symmetric positive semidefinite matrix, d x d.
    #[staticmethod]
    #[pyo3(signature = (matrix, *, threads = 0, progress = None))]
    fn from_matrix(py: Python<'_>, matrix: Matrix<'_>, threads: usize, progress: Option<Py<PyAny>>) -> PyResult<Self> {
        let matrix = matrix.to_mat::<f64>()?;
        watched(py, progress, move |watch| {
            betaedit_core::Spectrum::from_matrix_watched(matrix.as_ref(), par(threads), watch)
        })
        .map(Self::from)
    }

    /// A known decomposition, checked: d eigenvalues, ascending and not negative, and d x d eigenvectors as columns.
    #[staticmethod]
    #[pyo3(signature = (values, vectors, *, threads = 0))]
    fn from_parts(py: Python<'_>, values: Matrix<'_>, vectors: Matrix<'_>, threads: usize) -> PyResult<Self> {
        let (values, vectors) = (values.to_mat::<f64>()?, vectors.to_mat::<f64>()?);
        let values = values.col_iter().flat_map(|column| column.iter().copied().collect::<Vec<_>>()).collect();
        py.detach(|| betaedit_core::Spectrum::from_parts(values, vectors, par(threads))).or_raise().map(Self::from)
    }

    /// The size d.
    #[getter]
    fn dim(&self) -> usize {
        self.0.dim()
    }

    /// The eigenvalues, ascending: d numbers, float64.
    #[getter]
    fn values<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        vector(py, self.0.values().to_vec())
    }

    /// The eigenvectors as columns, d x d, float64. A copy.
    #[getter]
    fn vectors<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        to_python(py, self.0.vectors())
    }

    /// Number of eigenvalues below a threshold.
    fn count_below(&self, threshold: f64) -> usize {
        self.0.count_below(threshold)
    }

    /// The largest eigenvalue.
    #[getter]
    fn largest(&self) -> f64 {
        self.0.largest()
    }

    /// The sum of the eigenvalues.
    #[getter]
    fn trace(&self) -> f64 {
        self.0.trace()
    }

    /// The verified relative residual of the decomposition.
    #[getter]
    fn residual(&self) -> f64 {
        self.0.residual()
    }

    /// The verified orthogonality error of the vectors.
    #[getter]
    fn orthogonality(&self) -> f64 {
        self.0.orthogonality()
    }

    /// `U diag(s) Uᵀ`, d x d, float64. Cost: `2 d³` flops.
    #[pyo3(signature = (*, threads = 0))]
    fn to_matrix<'py>(&self, py: Python<'py>, threads: usize) -> PyResult<Bound<'py, PyArray2<f64>>> {
        to_python(py, py.detach(|| self.0.to_matrix(par(threads))).as_ref())
    }

    fn __repr__(&self) -> String {
        format!("Spectrum(dim={}, smallest={:e}, largest={:e})", self.0.dim(), self.0.values()[0], self.0.largest())
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> Reduced<'py, Parts<'py>> {
        let (py, spectrum) = (slf.py(), slf.get());
        Ok((slf.get_type().getattr("from_parts")?, (spectrum.values(py), spectrum.vectors(py)?)))
    }
}

/// A moment and its spectrum: what a layer of a session is edited with.
///
/// `KeyStatistics(moment)` decomposes; `KeyStatistics(moment, spectrum)` checks that the two belong together.
#[pyclass(module = "betaedit", frozen)]
pub struct KeyStatistics(pub betaedit_core::KeyStatistics);

#[pymethods]
impl KeyStatistics {
    #[new]
    #[pyo3(signature = (moment, spectrum = None, *, threads = 0, progress = None))]
    fn new(
        py: Python<'_>,
        moment: &SecondMoment,
        spectrum: Option<&Spectrum>,
        threads: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let of = moment.now();
        let spectrum = match spectrum {
            Some(spectrum) => Arc::clone(&spectrum.0),
            None => Spectrum::new(py, moment, threads, progress)?.0,
        };
        py.detach(|| betaedit_core::KeyStatistics::from_parts(of, spectrum, par(threads))).or_raise().map(Self)
    }

    /// The second moment.
    #[getter]
    fn moment(&self) -> PyResult<SecondMoment> {
        Ok(SecondMoment(self.0.moment().or_raise()?.into()))
    }

    /// Its eigendecomposition.
    #[getter]
    fn spectrum(&self) -> PyResult<Spectrum> {
        self.0.spectrum().or_raise().map(Spectrum)
    }

    /// Length of the keys.
    #[getter]
    fn d_in(&self) -> usize {
        self.0.d_in()
    }

    /// The same, with both on disk: in files without names in `directory`, which are gone with the process. They are read when they are
    /// needed, to the same bits; `12 d_in**2` bytes.
    #[pyo3(signature = (directory = None))]
    fn at_rest(&self, py: Python<'_>, directory: Option<PathBuf>) -> PyResult<Self> {
        let directory = directory.unwrap_or_else(std::env::temp_dir);
        py.detach(|| self.0.clone().at_rest(directory)).or_raise().map(Self)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> Reduced<'py, (SecondMoment, Spectrum)> {
        Ok((slf.get_type().into_any(), (slf.get().moment()?, slf.get().spectrum()?)))
    }

    fn __repr__(&self) -> String {
        format!("KeyStatistics(d_in={})", self.0.d_in())
    }
}
