//! Errors: one type a task, joined under [`Error`].
//!
//! | type | of |
//! |---|---|
//! | [`NumericsError`] | matrices, settings, the engine, editors |
//! | [`FileError`] | files |
//! | [`FactsError`] | facts |
//! | [`SessionError`] | sessions |
//! | [`ModelError`] | models, and adapters to them |
//!
//! What computes returns a [`NumericsError`]; what also reads files, runs models or keeps a session returns an [`Error`], into
//! which `?` turns each of them. A message says what was found, what is allowed, and what to do. It is whole: no error has another
//! one as its source whose text it repeats.
//!
//! ```
//! use betaedit_core::error::{Error, NumericsError};
//! use betaedit_core::{EditBatch, faer::Mat};
//!
//! fn batch() -> Result<(), Error> {
//!     let (keys, residuals) = (Mat::<f64>::zeros(4, 2), Mat::<f64>::zeros(3, 1));
//!     EditBatch::new(keys.as_ref(), residuals.as_ref())?;
//!     Ok(())
//! }
//! let error = batch().unwrap_err();
//! assert_eq!(error.to_string(), "`residuals` is 3 x 1, expected 3 x 2");
//! assert!(matches!(error, Error::Numerics(NumericsError::Shape { argument: "residuals", .. })));
//! ```

mod facts;
mod file;
mod model;
pub mod numerics;
mod session;

pub use facts::FactsError;
pub use file::FileError;
pub use model::ModelError;
pub use numerics::{NumericsError, Shape};
pub use session::SessionError;

/// `Result` with [`Error`] as its error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// With matrices, settings, the engine, editors.
    #[error(transparent)]
    Numerics(#[from] NumericsError),
    /// With files.
    #[error(transparent)]
    File(#[from] FileError),
    /// With facts.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// With sessions.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// With models, and adapters to them.
    #[error(transparent)]
    Model(#[from] ModelError),
}
