//! Methods, by their names in the table of methods.

use betaedit_core::editor::{self, Hyperparameters};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::{Map, Value};

use crate::arrays::Reduced;
use crate::errors::{self, OrRaise};
use crate::settings;

/// An editing method with its hyperparameters, by its name in the table of methods: `Method("memit-h", {"lambda": 1500.0})`.
///
/// The classes of the methods (`Memit`, `AlphaEdit`, `BetaEdit`, ...) and `betaedit.method` make these. Hyperparameters that are not given
/// have their published defaults.
#[pyclass(module = "betaedit", frozen, subclass)]
pub struct Method {
    entry: editor::MethodEntry,
    /// As they were given.
    given: Map<String, Value>,
    hyperparameters: Hyperparameters,
}

impl Method {
    /// The method as the library has it.
    pub fn any(&self) -> editor::AnyMethod {
        self.entry.method(&self.hyperparameters)
    }

    /// Its name and what was given, to make it again.
    pub fn again(&self) -> Self {
        let Self { entry, given, hyperparameters } = self;
        Self { entry: entry.clone(), given: given.clone(), hyperparameters: *hyperparameters }
    }
}

#[pymethods]
impl Method {
    #[new]
    #[pyo3(signature = (name, hyperparameters = None))]
    pub fn new(name: &str, hyperparameters: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let entry = editor::method(name).or_raise()?;
        let given: Map<String, Value> = match hyperparameters {
            Some(given) => settings::from_python("hyperparameters", given)?,
            None => Map::new(),
        };
        let parameters = entry.parameters();
        // Every method can be simulated.
        let takes = |given: &str| parameters.contains(&given) || given == "simulation";
        if let Some(unknown) = given.keys().find(|given| !takes(given)) {
            let known = parameters.join(", ");
            return Err(errors::numerics(format!("method `{name}` does not take `{unknown}`; it takes: {known}")));
        }
        let hyperparameters = serde_json::from_value(Value::Object(given.clone()))
            .map_err(|error| errors::numerics(format!("the hyperparameters of `{name}`: {error}")))?;
        let method = Self { entry, given, hyperparameters };
        editor::Method::check(&method.any()).or_raise()?;
        Ok(method)
    }

    /// The name in the table of methods.
    #[getter]
    fn name(&self) -> String {
        editor::Method::name(&self.any()).into_owned()
    }

    /// The method in one line.
    #[getter]
    fn summary(&self) -> &str {
        self.entry.summary()
    }

    /// The hyperparameters that the method takes, with their values.
    #[getter]
    fn hyperparameters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let all = settings::to_python(py, &self.hyperparameters)?;
        let taken = PyDict::new(py);
        for name in self.entry.parameters() {
            taken.set_item(name, all.get_item(name)?)?;
        }
        Ok(taken)
    }

    /// Weight of the statistics, ridge, space, history, refresh: the method's row in the table.
    fn recipe<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        settings::to_python(py, &editor::Method::recipe(&self.any()))
    }

    /// An editor of one layer, from the spectrum of its keys. dtype: "float64" or "float32".
    #[pyo3(signature = (spectrum, *, dtype = None, threads = 0))]
    fn editor(
        &self,
        py: Python<'_>,
        spectrum: &crate::spectrum::Spectrum,
        dtype: Option<&Bound<'_, PyAny>>,
        threads: usize,
    ) -> PyResult<crate::editor::Editor> {
        crate::editor::Editor::new(py, self, spectrum, dtype, threads)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Method('{}', {})", self.entry.name(), self.hyperparameters(py)?.repr()?))
    }

    fn __eq__(&self, other: &Self) -> bool {
        self.entry.name() == other.entry.name() && self.hyperparameters == other.hyperparameters
    }

    fn __hash__(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        self.entry.name().hash(&mut hasher);
        hasher.finish()
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> Reduced<'py, (String, Bound<'py, PyAny>)> {
        let (py, method) = (slf.py(), slf.get());
        let class = py.get_type::<Self>().into_any();
        Ok((class, (method.entry.name().to_owned(), settings::to_python(py, &method.given)?)))
    }
}

/// The table of methods: names and what they are in one line.
#[pyfunction]
fn methods() -> Vec<(&'static str, &'static str)> {
    editor::METHODS.iter().map(|entry| (entry.name(), entry.summary())).collect()
}

pub fn add_functions(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(methods, module)?)
}
