//! Settings from Python values, and reports as Python values, in the form that files have.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::errors;

/// Settings from a dictionary, a word, or what else their files have. `what` names them in the exception.
pub fn from_python<T: DeserializeOwned>(what: &str, value: &Bound<'_, PyAny>) -> PyResult<T> {
    // By way of JSON, whose messages name the fields, and which has no such numbers.
    for (name, one) in value.cast::<PyDict>().into_iter().flat_map(|dict| dict.iter()) {
        if one.extract::<f64>().is_ok_and(|number| !number.is_finite()) {
            return Err(errors::numerics(format!("{what}: {name} is {one}, expected a finite number")));
        }
    }
    let value: serde_json::Value = pythonize::depythonize(value)?;
    serde_json::from_value(value).map_err(|error| errors::numerics(format!("{what}: {error}")))
}

/// A report as dictionaries, lists and numbers.
pub fn to_python<'py, T: Serialize + ?Sized>(py: Python<'py>, report: &T) -> PyResult<Bound<'py, PyAny>> {
    Ok(pythonize::pythonize(py, report)?)
}

/// A word that names one of several things.
pub fn named<T>(word: &str) -> PyResult<T>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    word.parse().map_err(|error: T::Err| errors::numerics(error.to_string()))
}
