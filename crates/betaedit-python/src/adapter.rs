//! Adapters that are Python objects.

use std::marker::PhantomData;
use std::sync::Mutex;

use betaedit_core::adapter::{self, Adapter, Companions};
use betaedit_core::error::{ModelError, NumericsError, Result, Shape};
use betaedit_core::faer::{Mat, MatMut, MatRef};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::arrays::{HeldNumber, Matrix, par, to_python};
use crate::errors::{self, OrRaise};
use crate::update::Update;

/// A Python object with the methods of an adapter: see `betaedit.Adapter`.
pub struct PythonAdapter<T> {
    object: Py<PyAny>,
    layers: Vec<usize>,
    fingerprint: String,
    /// The methods without which an adapter can do.
    has: Vec<&'static str>,
    /// What the object raised first since the last call.
    raised: Mutex<Option<PyErr>>,
    number: PhantomData<T>,
}

/// What every adapter has.
const REQUIRED: [&str; 7] =
    ["layers", "weight_shape", "keys", "residuals", "read_weight", "write_weight", "fingerprint"];

/// Refuses what lacks a part of an adapter.
pub fn check_methods(object: &Bound<'_, PyAny>) -> PyResult<()> {
    let mut missing = vec![];
    for name in REQUIRED {
        if !object.hasattr(name)? {
            missing.push(name);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let (kind, missing) = (object.get_type().name()?, missing.join("`, `"));
    Err(errors::model(format!("`{kind}` is no adapter: it has no `{missing}`; see `betaedit.Adapter`")))
}

/// The methods that have a default.
const OPTIONAL: [&str; 8] =
    ["companions", "subject", "encode", "decode", "find_targets", "hold_targets", "release_targets", "apply"];

impl<T: HeldNumber> PythonAdapter<T>
where
    betaedit_core::Update<T>: Into<Update>,
{
    pub fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        check_methods(object)?;
        let layers = object.getattr("layers")?;
        let layers = if layers.is_callable() { layers.call0()? } else { layers };
        let mut has = vec![];
        for name in OPTIONAL {
            if object.hasattr(name)? {
                has.push(name);
            }
        }
        Ok(Self {
            object: object.clone().unbind(),
            layers: layers.extract()?,
            fingerprint: object.call_method0("fingerprint")?.extract()?,
            has,
            raised: Mutex::new(None),
            number: PhantomData,
        })
    }

    pub fn object<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.object.bind(py).clone()
    }

    /// What the object raised since the last call, if it is not one of our own exceptions: those are reasons to reject a batch.
    pub fn raised(&self, py: Python<'_>) -> Option<PyErr> {
        let raised = self.raised.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()?;
        (!errors::is_ours(py, &raised)).then_some(raised)
    }

    /// Runs what asks the object, with the interpreter.
    fn ask<R>(&self, ask: impl for<'py> FnOnce(&Bound<'py, PyAny>) -> PyResult<R>) -> Result<R> {
        Python::attach(|py| {
            ask(self.object.bind(py)).map_err(|error| {
                let mut raised = self.raised.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                raised.get_or_insert_with(|| error.clone_ref(py));
                ModelError::Adapter(Box::new(error)).into()
            })
        })
    }

    /// A matrix that a method returns.
    fn matrix(&self, name: &str, layer: usize, requests: &[Py<PyAny>]) -> Result<Mat<T>> {
        self.ask(|object| {
            object.call_method1(name, (layer, list(object.py(), requests)?))?.extract::<Matrix<'_>>()?.to_mat::<T>()
        })
    }

    fn has(&self, name: &str) -> bool {
        self.has.contains(&name)
    }
}

fn list<'py>(py: Python<'py>, requests: &[Py<PyAny>]) -> PyResult<Bound<'py, PyList>> {
    PyList::new(py, requests.iter().map(|request| request.bind(py)))
}

impl<T: HeldNumber> Adapter for PythonAdapter<T>
where
    betaedit_core::Update<T>: Into<Update>,
{
    type Scalar = T;
    type Request = Py<PyAny>;

    fn layers(&self) -> &[usize] {
        &self.layers
    }

    fn weight_shape(&self, layer: usize) -> Result<(usize, usize)> {
        match self.layers.contains(&layer) {
            true => self.ask(|object| object.call_method1("weight_shape", (layer,))?.extract()),
            false => Err(ModelError::UnknownLayer { layer, known: self.layers.clone() }.into()),
        }
    }

    fn keys(&mut self, layer: usize, requests: &[Self::Request]) -> Result<Mat<T>> {
        self.matrix("keys", layer, requests)
    }

    fn residuals(&mut self, layer: usize, requests: &[Self::Request]) -> Result<Mat<T>> {
        self.matrix("residuals", layer, requests)
    }

    fn companions(&mut self, layer: usize, requests: &[Self::Request]) -> Result<Option<Companions<T>>> {
        if !self.has("companions") {
            return Ok(None);
        }
        self.ask(|object| {
            let found = object.call_method1("companions", (layer, list(object.py(), requests)?))?;
            if found.is_none() {
                return Ok(None);
            }
            let (keys, of): (Bound<'_, PyAny>, Vec<(usize, f64)>) = found.extract()?;
            Ok(Some(Companions::new(keys.extract::<Matrix<'_>>()?.to_mat::<T>()?, of)))
        })
    }

    fn read_weight(&self, layer: usize, mut weight: MatMut<'_, T>) -> Result<()> {
        let found =
            self.ask(|object| object.call_method1("read_weight", (layer,))?.extract::<Matrix<'_>>()?.to_mat::<T>())?;
        if found.shape() != weight.shape() {
            let (expected, found) = (Shape::from(weight.shape()), Shape::from(found.shape()));
            return Err(
                NumericsError::Shape { argument: "the weight that `read_weight` returned", expected, found }.into()
            );
        }
        weight.copy_from(&found);
        Ok(())
    }

    fn write_weight(&mut self, layer: usize, weight: MatRef<'_, T>) -> Result<()> {
        self.ask(|object| object.call_method1("write_weight", (layer, to_python(object.py(), weight)?)).map(drop))
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    fn subject(&self, request: &Self::Request) -> Option<String> {
        let ask = |object: &Bound<'_, PyAny>| object.call_method1("subject", (request,))?.extract();
        if self.has("subject") { self.ask(ask).ok()? } else { None }
    }

    fn encode(&self, request: &Self::Request) -> Option<Vec<u8>> {
        let ask = |object: &Bound<'_, PyAny>| object.call_method1("encode", (request,))?.extract();
        if self.has("encode") { self.ask(ask).ok()? } else { None }
    }

    fn decode(&self, bytes: &[u8]) -> Result<Self::Request> {
        self.ask(|object| Ok(object.call_method1("decode", (bytes,))?.unbind()))
    }

    fn find_targets(&mut self, requests: &[Self::Request]) -> Result<Option<Mat<T>>> {
        if !self.has("find_targets") {
            return Ok(None);
        }
        self.ask(|object| {
            let found = object.call_method1("find_targets", (list(object.py(), requests)?,))?;
            if found.is_none() { Ok(None) } else { found.extract::<Matrix<'_>>()?.to_mat::<T>().map(Some) }
        })
    }

    fn hold_targets(&mut self, requests: &[Self::Request], targets: MatRef<'_, T>) -> Result<()> {
        if !self.has("hold_targets") {
            return Ok(());
        }
        self.ask(|object| {
            let py = object.py();
            object.call_method1("hold_targets", (list(py, requests)?, to_python(py, targets)?)).map(drop)
        })
    }

    fn release_targets(&mut self) {
        if self.has("release_targets") {
            // What it raised is kept, and found after the call that this is a part of.
            let _ = self.ask(|object| object.call_method0("release_targets").map(drop));
        }
    }

    fn apply(&mut self, layer: usize, update: &betaedit_core::Update<T>) -> Result<()> {
        if self.has("apply") {
            let update: Update = update.clone().into();
            return self.ask(|object| object.call_method1("apply", (layer, update)).map(drop));
        }
        let (d_out, d_in) = self.weight_shape(layer)?;
        let mut weight = Mat::zeros(d_out, d_in);
        self.read_weight(layer, weight.as_mut())?;
        update.apply_to(weight.as_mut(), betaedit_core::Orientation::OutputsByInputs, par(1))?;
        self.write_weight(layer, weight.as_ref())
    }
}

/// Checks that an adapter does what `betaedit.Adapter` asks for. Raises `ModelError`, which says what it did and what it should do.
///
/// Run it in the tests of an adapter. requests: any that the adapter knows. The weights are as before afterwards.
#[pyfunction]
#[pyo3(signature = (adapter, requests, *, dtype = None, threads = 0))]
fn check_adapter(
    py: Python<'_>,
    adapter: &Bound<'_, PyAny>,
    requests: Vec<Py<PyAny>>,
    dtype: Option<&Bound<'_, PyAny>>,
    threads: usize,
) -> PyResult<()> {
    fn checked<T: HeldNumber>(
        py: Python<'_>,
        object: &Bound<'_, PyAny>,
        requests: &[Py<PyAny>],
        threads: usize,
    ) -> PyResult<()>
    where
        betaedit_core::Update<T>: Into<Update>,
    {
        let mut adapter = PythonAdapter::<T>::new(object)?;
        let checked = py.detach(|| adapter::check(&mut adapter, requests, par(threads)));
        checked.or_raise().map_err(|error| raised_from(py, error, adapter.raised(py)))
    }
    match dtype.map(crate::editor::is_single).transpose()?.unwrap_or(true) {
        true => checked::<f32>(py, adapter, &requests, threads),
        false => checked::<f64>(py, adapter, &requests, threads),
    }
}

/// An exception with what the adapter raised as its cause. What is no error, such as Ctrl-C, is raised itself.
pub fn raised_from(py: Python<'_>, error: PyErr, raised: Option<PyErr>) -> PyErr {
    match raised {
        Some(raised) if !raised.is_instance_of::<PyException>(py) => raised,
        Some(raised) => {
            error.set_cause(py, Some(raised));
            error
        }
        None => error,
    }
}

pub fn add_functions(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(check_adapter, module)?)
}
