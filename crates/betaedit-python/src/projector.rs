//! Projectors on the null space.

use betaedit_core::Threshold;
use betaedit_core::projector::{HistoryWeighting, ProjectorBuilder};
use numpy::{PyArray1, PyArray2};
use pyo3::prelude::*;

use crate::arrays::{HeldNumber, Matrix, par, to_python, vector};
use crate::errors::OrRaise;
use crate::moment::SecondMoment;
use crate::settings::{from_python, to_python as report};
use crate::spectrum::Spectrum;

/// A threshold: a number is an absolute eigenvalue, a dictionary names another rule.
pub fn threshold(value: &Bound<'_, PyAny>) -> PyResult<Threshold> {
    match value.extract::<f64>() {
        Ok(tau) => Ok(Threshold::Absolute(tau)),
        Err(_) => from_python("threshold", value),
    }
}

/// The orthogonal projector `P = V Vᵀ` on the directions that may be edited: the eigenvectors of `C` with eigenvalues below a threshold.
///
/// `Projector(spectrum, threshold=0.02)`. A threshold is a number (an absolute eigenvalue), or `{"relative-to-largest": x}`,
/// `{"kept-energy": x}`, `{"directions": n}`. With `history`, a `SecondMoment` of edited keys, these are protected as well:
/// `weighting` is `{"sum": {"weight": w}}` for `C + w H`, or `{"mean": {"lambda1": x}}`. That costs another decomposition.
#[pyclass(module = "betaedit", frozen)]
pub struct Projector(pub betaedit_core::Projector);

#[pymethods]
impl Projector {
    #[new]
    #[pyo3(signature = (spectrum, threshold = None, *, history = None, weighting = None, threads = 0))]
    fn new(
        py: Python<'_>,
        spectrum: &Spectrum,
        threshold: Option<&Bound<'_, PyAny>>,
        history: Option<&SecondMoment>,
        weighting: Option<&Bound<'_, PyAny>>,
        threads: usize,
    ) -> PyResult<Self> {
        let threshold = threshold.map(self::threshold).transpose()?.unwrap_or_default();
        let weighting = match weighting {
            Some(weighting) => from_python("weighting", weighting)?,
            None => HistoryWeighting::Sum { weight: 1.0 },
        };
        let history = history.map(SecondMoment::now);
        py.detach(|| {
            let builder = ProjectorBuilder::new(&spectrum.0).threshold(threshold);
            let builder = match &history {
                Some(history) => builder.history(history, weighting),
                None => builder,
            };
            builder.build(par(threads))
        })
        .or_raise()
        .map(Self)
    }

    /// The whole space, `P = I`.
    #[staticmethod]
    fn identity(spectrum: &Spectrum) -> Self {
        Self(betaedit_core::Projector::identity(&spectrum.0))
    }

    /// Length of the keys, d_in.
    #[getter]
    fn dim(&self) -> usize {
        self.0.dim()
    }

    /// Number of kept directions r.
    #[getter]
    fn kept(&self) -> usize {
        self.0.kept()
    }

    /// The threshold as an absolute eigenvalue; infinite for the whole space.
    #[getter]
    fn threshold(&self) -> f64 {
        self.0.threshold()
    }

    /// How much more can be written before the space is full, 0 to r.
    #[getter]
    fn capacity(&self) -> f64 {
        self.0.capacity()
    }

    /// The eigenvalues on both sides of the cut.
    #[getter]
    fn gap<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        report(py, &self.0.gap())
    }

    /// The spectrum that the projector was cut from.
    #[getter]
    fn spectrum(&self) -> Spectrum {
        Spectrum(self.0.spectrum().clone())
    }

    /// `V`, an orthonormal basis of the kept space, d_in x r, float64. A copy.
    #[getter]
    fn basis<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        to_python(py, self.0.basis())
    }

    /// Eigenvalues in the kept space, r numbers, ascending.
    #[getter]
    fn kept_values<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        vector(py, self.0.kept_values().to_vec())
    }

    /// `P X`, float64. X: d_in x n.
    #[pyo3(signature = (X, *, threads = 0))]
    fn apply<'py>(&self, py: Python<'py>, X: Matrix<'_>, threads: usize) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let X = f64::held(&X)?;
        let X = X.as_ref();
        to_python(py, py.detach(|| self.0.apply(X, par(threads))).or_raise()?.as_ref())
    }

    /// `P`, d_in x d_in, float64. Cost: `2 d_in² r` flops.
    #[pyo3(signature = (*, threads = 0))]
    fn to_dense<'py>(&self, py: Python<'py>, threads: usize) -> PyResult<Bound<'py, PyArray2<f64>>> {
        to_python(py, py.detach(|| self.0.to_dense(par(threads))).as_ref())
    }

    /// `|P - P'|_F²`: how many directions differ, counted with their angles.
    #[pyo3(signature = (other, *, threads = 0))]
    fn distance_squared(&self, py: Python<'_>, other: &Self, threads: usize) -> PyResult<f64> {
        py.detach(|| self.0.distance_squared(&other.0, par(threads))).or_raise()
    }

    fn __repr__(&self) -> String {
        format!("Projector(dim={}, kept={}, threshold={:e})", self.0.dim(), self.0.kept(), self.0.threshold())
    }

    /// The spectrum and the number of directions.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Spectrum, usize, f64))> {
        let projector = slf.get();
        Ok((slf.get_type().getattr("_restored")?, (projector.spectrum(), projector.kept(), projector.threshold())))
    }

    #[staticmethod]
    fn _restored(spectrum: &Spectrum, kept: usize, threshold: f64) -> PyResult<Self> {
        let whole = betaedit_core::Projector::identity(&spectrum.0);
        let cut = match threshold {
            tau if tau.is_finite() && spectrum.0.count_below(tau) == kept => Threshold::Absolute(tau),
            _ if kept == whole.kept() => return Ok(Self(whole)),
            _ => Threshold::Directions(kept),
        };
        ProjectorBuilder::new(&spectrum.0).threshold(cut).build(par(1)).or_raise().map(Self)
    }
}
