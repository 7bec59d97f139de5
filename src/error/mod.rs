//! Errors: one type per task, joined under [`Error`].
//!
//! | type | for |
//! |---|---|
//! | [`NumericsError`] | matrices, settings, the engine, editors |
//! | [`FileError`] | files |
//! | [`FactsError`] | facts |
//! | [`SessionError`] | sessions |
//! | [`ModelError`] | models, and adapters to them |
//!
//! Functions that only compute return a [`NumericsError`]. Functions that also read files, run models or keep a session
//! return an [`Error`], into which `?` converts the others. A message says what was found, what is allowed, and what to
//! do. It is complete: no error has a source whose text the message repeats. To reach a cause, such as the error of the
//! operating system, match the variant that holds it.
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
//! assert_eq!(error.to_string(), "`residuals` is 3 x 1, expected 2 columns");
//! assert!(matches!(error, Error::Numerics(NumericsError::Shape { argument: "residuals", .. })));
//! ```

mod facts;
mod file;
mod model;
pub mod numerics;
mod session;
pub(crate) mod shown;

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
    /// An error with matrices, settings, the engine or an editor.
    #[error(transparent)]
    Numerics(#[from] NumericsError),
    /// An error with files.
    #[error(transparent)]
    File(#[from] FileError),
    /// An error with facts.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// An error with sessions.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// An error with models, or with adapters to them.
    #[error(transparent)]
    Model(#[from] ModelError),
}
