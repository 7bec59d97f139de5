//! Metrics of updates.

use betaedit_core::metrics;
use betaedit_core::{EditBatch, faer::Mat};
use numpy::{PyArray1, PyArray2};
use pyo3::prelude::*;

use crate::arrays::{HeldNumber, Matrix, by_type, par, to_python, vector};
use crate::errors::OrRaise;
use crate::moment::SecondMoment;
use crate::projector::Projector;
use crate::settings;
use crate::update::Update;

/// `tr(Delta C Deltaᵀ)`: the mean squared change of the outputs on the text. One pass over `C`.
#[pyfunction]
#[pyo3(signature = (update, moment, *, threads = 0))]
fn leakage(py: Python<'_>, update: &Update, moment: &SecondMoment, threads: usize) -> PyResult<f64> {
    let moment = moment.now();
    by_type!(&update.0, update => py.detach(|| metrics::leakage(update, &moment, par(threads)))).or_raise()
}

/// `tr(G Delta C Deltaᵀ) / 2`, nats a token. gradients: the second moment of the loss's gradients by the output, d_out x d_out.
#[pyfunction]
#[pyo3(signature = (update, moment, gradients, *, threads = 0))]
fn expected_loss(
    py: Python<'_>,
    update: &Update,
    moment: &SecondMoment,
    gradients: &SecondMoment,
    threads: usize,
) -> PyResult<f64> {
    let (moment, gradients) = (moment.now(), gradients.now());
    by_type!(&update.0, update => py.detach(|| metrics::expected_loss(update, &moment, &gradients, par(threads))))
        .or_raise()
}

/// How much of its residual each edit of a batch writes, and all together. keys: d_in x n, residuals: d_out x n.
#[pyfunction]
#[pyo3(signature = (update, keys, residuals, *, threads = 0))]
fn written<'py>(
    py: Python<'py>,
    update: &Update,
    keys: Matrix<'_>,
    residuals: Matrix<'_>,
    threads: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let (update, K, R) = (update.to_f64()?, f64::held(&keys)?, f64::held(&residuals)?);
    let batch = EditBatch::new(K.as_ref(), R.as_ref()).or_raise()?;
    settings::to_python(py, &metrics::written(&update, &batch, par(threads)).or_raise()?)
}

/// `|Delta k - r|` of every edit of a batch, n numbers.
#[pyfunction]
#[pyo3(signature = (update, keys, residuals, *, threads = 0))]
fn write_errors<'py>(
    py: Python<'py>,
    update: &Update,
    keys: Matrix<'_>,
    residuals: Matrix<'_>,
    threads: usize,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let (update, K, R) = (update.to_f64()?, f64::held(&keys)?, f64::held(&residuals)?);
    let batch = EditBatch::new(K.as_ref(), R.as_ref()).or_raise()?;
    Ok(vector(py, metrics::write_errors(&update, &batch, par(threads)).or_raise()?))
}

/// `s = kᵀ A0⁻¹ k` of every key, n numbers, with `A0 = weight C + ridge I` on the projector's space. keys: d_in x n.
#[pyfunction]
#[pyo3(signature = (projector, weight, ridge, keys, *, threads = 0))]
fn stability<'py>(
    py: Python<'py>,
    projector: &Projector,
    weight: f64,
    ridge: f64,
    keys: Matrix<'_>,
    threads: usize,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let keys = f64::held(&keys)?;
    let keys = keys.as_ref();
    let s = py.detach(|| metrics::stability(&projector.0, weight, ridge, keys, par(threads))).or_raise()?;
    Ok(vector(py, s))
}

/// The room left for keys: the share of a residual that can be written now, relative to that at the first edit.
#[pyfunction]
fn room(gains: Vec<f64>, stability: Vec<f64>) -> Option<f64> {
    metrics::room(&gains, &stability)
}

/// The inner products of all pairs of updates, n x n, float64. A negative one means that two updates conflict.
#[pyfunction]
#[pyo3(signature = (updates, *, threads = 0))]
fn interference<'py>(py: Python<'py>, updates: Vec<Py<Update>>, threads: usize) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let updates = updates.iter().map(|update| update.get().to_f64()).collect::<PyResult<Vec<_>>>()?;
    let found = py.detach(|| metrics::Interference::new(&updates, par(threads))).or_raise()?;
    to_python(py, found.matrix())
}

/// Leakage and drift of the sum of all updates of a weight, kept up to date.
///
/// `RunningTotal(moment, d_out, stride=1)`: measured at every `stride`-th update. Holds the total, d_out x d_in in float64.
#[pyclass(module = "betaedit.metrics")]
pub struct RunningTotal(metrics::RunningTotal);

#[pymethods]
impl RunningTotal {
    #[new]
    #[pyo3(signature = (moment, d_out, stride = 1, *, gradients = None, threads = 0))]
    fn new(
        moment: &SecondMoment,
        d_out: usize,
        stride: usize,
        gradients: Option<&SecondMoment>,
        threads: usize,
    ) -> PyResult<Self> {
        let total = metrics::RunningTotal::new(&moment.now(), d_out, stride, par(threads)).or_raise()?;
        match gradients {
            Some(gradients) => total.with_gradients(&gradients.now()).or_raise().map(Self),
            None => Ok(Self(total)),
        }
    }

    /// Adds an update. Returns the measurement if one was due.
    fn record<'py>(&mut self, py: Python<'py>, update: &Update) -> PyResult<Option<Bound<'py, PyAny>>> {
        let measured = by_type!(&update.0, update => py.detach(|| self.0.record(update))).or_raise()?;
        measured.map(|measured| settings::to_python(py, &measured)).transpose()
    }

    /// Measures now.
    fn measure<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let measured = py.detach(|| self.0.measure()).or_raise()?;
        settings::to_python(py, &measured)
    }

    /// The total, d_out x d_in, float64.
    fn total<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        to_python(py, self.0.total().or_raise()?)
    }
}

/// How well past edits still hold: their goals relative to the unedited weight.
///
/// `Retention(d_in, d_out)`.
#[pyclass(module = "betaedit.metrics")]
pub struct Retention(metrics::Retention);

#[pymethods]
impl Retention {
    #[new]
    fn new(d_in: usize, d_out: usize) -> Self {
        Self(metrics::Retention::new(d_in, d_out))
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    /// Records a batch before it is written. total: the sum of all updates so far, d_out x d_in.
    #[pyo3(signature = (keys, residuals, total, *, threads = 0))]
    fn record(&mut self, keys: Matrix<'_>, residuals: Matrix<'_>, total: Matrix<'_>, threads: usize) -> PyResult<()> {
        let (K, R, total): (_, _, Mat<f64>) = (f64::held(&keys)?, f64::held(&residuals)?, total.to_mat()?);
        let batch = EditBatch::new(K.as_ref(), R.as_ref()).or_raise()?;
        self.0.record(&batch, total.as_ref(), par(threads)).or_raise()
    }

    /// `|W k - v|` of every recorded edit, n numbers. total: the sum of all updates so far, d_out x d_in.
    #[pyo3(signature = (total, *, threads = 0))]
    fn errors<'py>(&self, py: Python<'py>, total: Matrix<'_>, threads: usize) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let total = f64::held(&total)?;
        let total = total.as_ref();
        Ok(vector(py, py.detach(|| self.0.errors(total, par(threads))).or_raise()?))
    }
}

pub fn add_functions(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(leakage, module)?)?;
    module.add_function(wrap_pyfunction!(expected_loss, module)?)?;
    module.add_function(wrap_pyfunction!(written, module)?)?;
    module.add_function(wrap_pyfunction!(write_errors, module)?)?;
    module.add_function(wrap_pyfunction!(stability, module)?)?;
    module.add_function(wrap_pyfunction!(room, module)?)?;
    module.add_function(wrap_pyfunction!(interference, module)?)
}
