//! Helpers that every room needs.

#[cfg(feature = "files")]
pub(crate) mod atomic_file;
pub(crate) mod bytes;
pub(crate) mod description;
pub(crate) mod large;
pub(crate) mod named;
pub(crate) mod on_demand;
pub(crate) mod random;
#[cfg(feature = "files")]
pub(crate) mod scratch;
#[cfg(feature = "files")]
pub(crate) mod sealed;
pub(crate) mod setters;
pub(crate) mod shown;
#[cfg(any(feature = "facts", feature = "llm"))]
pub(crate) mod text;
pub(crate) mod validate;
pub(crate) mod vectorized;
