//! Sessions: many layers in one transaction for each batch, with undo and recovery.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use betaedit_core::editor::{AnyMethod, Share};
use betaedit_core::restraint::KnownRestraint;
use betaedit_core::session::{self, Consolidation, EditId, Guards, Outcome, Progress, Rejection, SessionBuilder};
use numpy::PyArray2;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict};

use crate::adapter::{self, PythonAdapter, raised_from};
use crate::arrays::{ByType, Matrix, by_type, par, to_python};
use crate::editor::is_single;
use crate::errors::{self, IntoException, OrRaise};
use crate::method::Method;
use crate::moment::SecondMoment;
use crate::settings;
use crate::spectrum::{KeyStatistics, Spectrum};

/// Edits the layers of one model through an adapter: every batch is written as a whole or not at all.
///
/// `Session(adapter, method, {layer: statistics})`. adapter: an object with the methods of `betaedit.Adapter`. Statistics are
/// `KeyStatistics`, or a `SecondMoment`, which is decomposed. method: a `Method`, or its name. With `directory`, the session continues
/// there after a crash.
///
/// dtype: of keys and weights, "float32". guards: limits, such as `{"relative_drift": 0.1}`. conflicts: "report", "reject", "merge" or
/// "last-wins". share: "even" or "square-root". restraint: `{"rect": {"kept": 0.2}}` or `{"prune": {}}`. random_keys: d_in x m a layer.
/// gradients: a `SecondMoment` of gradients a layer, for the expected loss. at_rest: a folder for what is large of the layers between their
/// turns: one layer is in memory at a time. observer: called with (outcome, progress) after every batch.
///
/// An exception of the adapter leaves the model as it was. `betaedit.Error` rejects the batch; any other one is raised again.
#[pyclass(module = "betaedit")]
pub struct Session(ByType<session::Session<PythonAdapter<f32>>, session::Session<PythonAdapter<f64>>>);

/// The statistics of a layer.
fn statistics(py: Python<'_>, given: &Bound<'_, PyAny>, threads: usize) -> PyResult<betaedit_core::KeyStatistics> {
    if let Ok(known) = given.cast::<KeyStatistics>() {
        return Ok(known.get().0.clone());
    }
    let Ok(moment) = given.cast::<SecondMoment>() else {
        let kind = given.get_type().name()?;
        return Err(errors::numerics(format!(
            "statistics of a layer are a `KeyStatistics` or a `SecondMoment`, not a `{kind}`"
        )));
    };
    let moment = moment.get();
    let of = moment.now();
    let decomposed = Arc::clone(&of);
    let spectrum: Spectrum = crate::working::watched(py, None, move |watch| {
        betaedit_core::Spectrum::new_watched(&decomposed, par(threads), watch)
    })?
    .into();
    py.detach(|| betaedit_core::KeyStatistics::from_parts(of, spectrum.0, par(threads))).or_raise()
}

/// Calls a Python function with the outcome of every batch. What it raises is shown, and does not stop the session.
fn observer(call: Py<PyAny>) -> impl FnMut(&Outcome, &Progress) + Send + Sync + 'static {
    move |outcome, progress| {
        Python::attach(|py| {
            let seen = || -> PyResult<()> {
                let progress = settings::to_python(py, progress)?;
                let progress = progress.cast::<PyDict>()?;
                let seconds = progress.get_item("elapsed")?;
                if let Some(elapsed) = seconds {
                    let (secs, nanos): (f64, f64) =
                        (elapsed.get_item("secs")?.extract()?, elapsed.get_item("nanos")?.extract()?);
                    progress.set_item("elapsed", secs + 1e-9 * nanos)?;
                }
                call.call1(py, (described(py, outcome)?, progress)).map(drop)
            };
            if let Err(raised) = seen() {
                raised.write_unraisable(py, Some(call.bind(py)));
            }
        });
    }
}

/// An outcome as a dictionary.
fn described<'py>(py: Python<'py>, outcome: &Outcome) -> PyResult<Bound<'py, PyDict>> {
    let dict = match outcome {
        Outcome::Applied(applied) => settings::to_python(py, applied)?.cast_into::<PyDict>()?,
        Outcome::Rejected { reason, .. } => {
            let dict = PyDict::new(py);
            dict.set_item("reason", reason.to_string())?;
            let kind = match reason {
                Rejection::Guard(_) => "guard",
                Rejection::Conflict(_) => "conflict",
                _ => "failed",
            };
            dict.set_item("kind", kind)?;
            if let Rejection::Conflict(conflict) = reason {
                dict.set_item("conflicts", [settings::to_python(py, conflict)?])?;
            }
            dict
        }
        _ => PyDict::new(py),
    };
    dict.set_item("applied", outcome.is_applied())?;
    dict.set_item("ids", outcome.ids().iter().map(|id| id.0).collect::<Vec<_>>())?;
    Ok(dict)
}

/// The number of an edit, or those of several.
fn ids(given: &Bound<'_, PyAny>) -> PyResult<Vec<EditId>> {
    let numbers = match given.extract::<u64>() {
        Ok(number) if !given.is_instance_of::<PyBool>() => Some(vec![number]),
        _ => given.extract::<Vec<u64>>().ok(),
    };
    match numbers {
        Some(numbers) => Ok(numbers.into_iter().map(EditId).collect()),
        None => Err(errors::session(format!("{} names no edit: expected the `id` of one, or several", given.repr()?))),
    }
}

/// A method, or its name in the table of methods.
fn method(given: &Bound<'_, PyAny>) -> PyResult<AnyMethod> {
    match given.extract::<String>() {
        Ok(name) => Ok(Method::new(&name, None)?.any()),
        Err(_) => Ok(given.cast::<Method>()?.get().any()),
    }
}

#[pymethods]
impl Session {
    #[new]
    #[pyo3(signature = (adapter, method, layers, *, dtype = None, directory = None, guards = None, conflicts = "report", share = None,
        restraint = None, random_keys = None, gradients = None, parallel_from = None, gauges = true, snapshot_every = None,
        at_rest = None, observer = None, threads = 0))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn new(
        py: Python<'_>,
        adapter: &Bound<'_, PyAny>,
        method: &Bound<'_, PyAny>,
        layers: BTreeMap<usize, Bound<'_, PyAny>>,
        dtype: Option<&Bound<'_, PyAny>>,
        directory: Option<PathBuf>,
        guards: Option<&Bound<'_, PyAny>>,
        conflicts: &str,
        share: Option<&Bound<'_, PyAny>>,
        restraint: Option<&Bound<'_, PyAny>>,
        random_keys: Option<BTreeMap<usize, Matrix<'_>>>,
        gradients: Option<BTreeMap<usize, Py<SecondMoment>>>,
        parallel_from: Option<f64>,
        gauges: bool,
        snapshot_every: Option<usize>,
        at_rest: Option<PathBuf>,
        observer: Option<Py<PyAny>>,
        threads: usize,
    ) -> PyResult<Self> {
        adapter::check_methods(adapter)?;
        let single = dtype.map(is_single).transpose()?.unwrap_or(true);
        let mut builder: SessionBuilder<AnyMethod> = SessionBuilder::new(self::method(method)?);
        for (layer, keys) in random_keys.into_iter().flatten() {
            builder = builder.random_keys(layer, Arc::new(keys.to_mat()?));
        }
        for (layer, gradients) in gradients.into_iter().flatten() {
            builder = builder.gradients(layer, gradients.get().now());
        }
        if let Some(guards) = guards {
            builder = builder.guards(self::guards(guards)?);
        }
        if let Some(share) = share {
            builder = builder.share(settings::from_python::<Share>("share", share)?);
        }
        if let Some(restraint) = restraint {
            builder = builder.restraint(settings::from_python::<KnownRestraint>("restraint", restraint)?);
        }
        if let Some(cosine) = parallel_from {
            builder = builder.parallel_from(cosine);
        }
        if let Some(directory) = directory {
            builder = builder.directory(directory);
        }
        if let Some(edits) = snapshot_every {
            builder = builder.snapshot_every(edits);
        }
        if let Some(folder) = at_rest {
            builder = builder.layers_at_rest(folder);
        }
        if let Some(call) = observer {
            builder = builder.observer(self::observer(call));
        }
        builder = builder.conflicts(settings::named(conflicts)?);
        if !gauges {
            builder = builder.without_gauges();
        }
        // Last, because a decomposition may take minutes.
        for (layer, given) in &layers {
            builder = builder.layer(*layer, statistics(py, given, threads)?);
        }
        macro_rules! open {
            ($scalar:ty) => {{
                let adapter = PythonAdapter::<$scalar>::new(adapter)?;
                py.detach(|| builder.open(adapter, par(threads))).map_err(|refused| {
                    let (error, adapter) = refused.into_parts();
                    raised_from(py, error.into_exception(), adapter.raised(py))
                })?
            }};
        }
        Ok(Self(match single {
            true => ByType::F32(open!(f32)),
            false => ByType::F64(open!(f64)),
        }))
    }

    /// Writes a batch of requests, as a whole or not at all. Returns a dictionary: `applied`, `ids`, and what was done to each layer, or
    /// the `reason` why the batch was rejected.
    fn edit<'py>(&mut self, py: Python<'py>, requests: Vec<Py<PyAny>>) -> PyResult<Bound<'py, PyDict>> {
        let outcome = self.run(py, |one| one.edit(&requests), |one| one.edit(&requests))?;
        described(py, &outcome)
    }

    /// Takes edits out of the model and writes a batch in their place, in one transaction.
    fn replace<'py>(
        &mut self,
        py: Python<'py>,
        old: &Bound<'py, PyAny>,
        requests: Vec<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let old = self::ids(old)?;
        let outcome = self.run(py, |one| one.replace(&old, &requests), |one| one.replace(&old, &requests))?;
        described(py, &outcome)
    }

    /// Takes edits out of the model. The others stay, as if these had never been made. ids: one, or several.
    fn undo<'py>(&mut self, py: Python<'py>, ids: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let ids = self::ids(ids)?;
        let undone = self.run(py, |one| one.undo(&ids), |one| one.undo(&ids))?;
        settings::to_python(py, &undone)
    }

    /// Derives the weights anew from the first weights and all edits, in one solve for each layer.
    #[pyo3(signature = (*, passes = 0, targets = "kept"))]
    fn consolidate<'py>(&mut self, py: Python<'py>, passes: usize, targets: &str) -> PyResult<Bound<'py, PyAny>> {
        let how = Consolidation::default().with_passes(passes).with_targets(settings::named(targets)?);
        let done = self.run(py, |one| one.consolidate(&how), |one| one.consolidate(&how))?;
        settings::to_python(py, &done)
    }

    /// Writes a snapshot now, so that opening the directory replays nothing.
    fn snapshot(&mut self, py: Python<'_>) -> PyResult<()> {
        self.run(py, session::Session::snapshot, session::Session::snapshot)
    }

    /// Whether an edit is in the model.
    fn holds(&self, id: u64) -> bool {
        by_type!(&self.0, session => session.holds(EditId(id)))
    }

    /// Requests seen so far; also the number of the next one.
    #[getter]
    fn processed(&self) -> u64 {
        by_type!(&self.0, session => session.processed())
    }

    /// Edits in the model.
    #[getter]
    fn applied(&self) -> u64 {
        by_type!(&self.0, session => session.applied())
    }

    /// Edits in the model that were written since the last consolidation.
    #[getter]
    fn unconsolidated(&self) -> u64 {
        by_type!(&self.0, session => session.unconsolidated())
    }

    /// The adapter.
    #[getter]
    fn adapter<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        by_type!(&self.0, session => session.adapter().object(py))
    }

    /// What opening the directory found and did.
    #[getter]
    fn recovery<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        settings::to_python(py, by_type!(&self.0, session => session.recovery()))
    }

    /// Counts and curves of the run so far.
    #[getter]
    fn report<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        settings::to_python(py, by_type!(&self.0, session => session.report()))
    }

    /// The states of the editors, by layer.
    #[getter]
    fn states<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let states = PyDict::new(py);
        let all: Vec<_> = by_type!(&self.0, session => session.states().collect());
        for (layer, state) in all {
            states.set_item(layer, settings::to_python(py, &state)?)?;
        }
        Ok(states)
    }

    /// Leakage, expected loss and drift of a layer's total update; `None` with the gauges off.
    fn gauges<'py>(&self, py: Python<'py>, layer: usize) -> PyResult<Option<Bound<'py, PyAny>>> {
        let gauges = by_type!(&self.0, session => session.gauges(layer));
        gauges.map(|gauges| settings::to_python(py, &gauges)).transpose()
    }

    /// The sum of all updates of a layer, d_out x d_in, float64; `None` with the gauges off.
    fn total<'py>(&self, py: Python<'py>, layer: usize) -> PyResult<Option<Bound<'py, PyArray2<f64>>>> {
        let total = by_type!(&self.0, session => session.total(layer)).or_raise()?;
        total.map(|total| to_python(py, total.as_ref())).transpose()
    }

    fn __repr__(&self) -> String {
        let layers: Vec<usize> = by_type!(&self.0, session => session.states().map(|(layer, _)| layer).collect());
        format!("Session(layers={layers:?}, {} edits of {} requests)", self.applied(), self.processed())
    }
}

/// Guards in range.
fn guards(given: &Bound<'_, PyAny>) -> PyResult<Guards> {
    let guards: Guards = settings::from_python("guards", given)?;
    guards.check().or_raise()?;
    Ok(guards)
}

/// Refuses guards that a session would refuse.
#[pyfunction]
fn _check_guards(guards: &Bound<'_, PyAny>) -> PyResult<()> {
    self::guards(guards).map(drop)
}

pub fn add_functions(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_check_guards, module)?)
}

impl Session {
    /// Runs what changes the session, without the interpreter. The adapter takes it where it is asked.
    fn run<R: Send + 'static>(
        &mut self,
        py: Python<'_>,
        single: impl FnOnce(&mut session::Session<PythonAdapter<f32>>) -> betaedit_core::Result<R> + Send,
        double: impl FnOnce(&mut session::Session<PythonAdapter<f64>>) -> betaedit_core::Result<R> + Send,
    ) -> PyResult<R> {
        let (outcome, raised) = match &mut self.0 {
            ByType::F32(session) => (py.detach(|| single(session)), session.adapter().raised(py)),
            ByType::F64(session) => (py.detach(|| double(session)), session.adapter().raised(py)),
        };
        match (outcome, raised) {
            (Err(error), raised) => Err(raised_from(py, error.into_exception(), raised)),
            // A batch was rejected because the adapter failed.
            (Ok(_), Some(raised)) => {
                let told = errors::model(format!("the adapter failed, and nothing was changed: {raised}"));
                Err(raised_from(py, told, Some(raised)))
            }
            (Ok(value), None) => Ok(value),
        }
    }
}
