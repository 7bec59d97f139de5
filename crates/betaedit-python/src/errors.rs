//! The library's errors as exceptions: one class for each task, under `betaedit.Error`.

use betaedit_core::Error;
use betaedit_core::error::{FactsError, FileError, ModelError, NumericsError, SessionError};
use pyo3::prelude::*;

mod classes {
    #![allow(missing_docs, reason = "written by the macro")]
    pyo3::import_exception!(betaedit.errors, Error);
    pyo3::import_exception!(betaedit.errors, NumericsError);
    pyo3::import_exception!(betaedit.errors, FileError);
    pyo3::import_exception!(betaedit.errors, FactsError);
    pyo3::import_exception!(betaedit.errors, SessionError);
    pyo3::import_exception!(betaedit.errors, ModelError);
}

/// An exception about matrices or settings.
pub fn numerics(message: impl Into<String>) -> PyErr {
    classes::NumericsError::new_err(message.into())
}

/// An exception about a model.
pub fn model(message: impl Into<String>) -> PyErr {
    classes::ModelError::new_err(message.into())
}

/// An exception about a session.
pub fn session(message: impl Into<String>) -> PyErr {
    classes::SessionError::new_err(message.into())
}

/// What becomes an exception.
pub trait IntoException {
    fn into_exception(self) -> PyErr;
}

impl IntoException for Error {
    fn into_exception(self) -> PyErr {
        let message = self.to_string();
        match self {
            Self::Numerics(_) => classes::NumericsError::new_err(message),
            Self::File(_) => classes::FileError::new_err(message),
            Self::Facts(_) => classes::FactsError::new_err(message),
            Self::Session(_) => classes::SessionError::new_err(message),
            // The enum may grow; what it grows by comes from models.
            _ => classes::ModelError::new_err(message),
        }
    }
}

macro_rules! into_exception {
    ($($part:ty),+) => { $(
        impl IntoException for $part {
            fn into_exception(self) -> PyErr {
                Error::from(self).into_exception()
            }
        }
    )+ };
}

into_exception!(NumericsError, FileError, FactsError, SessionError, ModelError);

/// `?` for the library's results.
pub trait OrRaise<T> {
    fn or_raise(self) -> PyResult<T>;
}

impl<T, E: IntoException> OrRaise<T> for Result<T, E> {
    fn or_raise(self) -> PyResult<T> {
        self.map_err(IntoException::into_exception)
    }
}

/// Whether an exception is one of these.
pub fn is_ours(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<classes::Error>(py)
}
