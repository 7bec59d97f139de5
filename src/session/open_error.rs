//! The error of opening a session, which gives the adapter back.

use std::fmt;

use crate::error::Error;

/// Why a session could not be opened, and the adapter that was given to it. The model is as it was, unless the adapter failed
/// while edits were replayed.
///
/// `?` turns it into an [`Error`], and drops the adapter. In a function with another type of errors, write
/// `.map_err(betaedit_core::Error::from)?`: an adapter may be borrowed, or not `Send`.
pub struct OpenError<A>(Box<(Error, A)>);

impl<A> OpenError<A> {
    pub(super) fn new(error: Error, adapter: A) -> Self {
        Self(Box::new((error, adapter)))
    }

    /// What went wrong.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.0.0
    }

    /// What went wrong, and the adapter that was given to [`SessionBuilder::open`](super::SessionBuilder::open).
    #[must_use]
    pub fn into_parts(self) -> (Error, A) {
        *self.0
    }
}

impl<A> fmt::Display for OpenError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error().fmt(f)
    }
}

impl<A> fmt::Debug for OpenError<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenError").field("error", self.error()).finish_non_exhaustive()
    }
}

impl<A> std::error::Error for OpenError<A> {}

impl<A> From<OpenError<A>> for Error {
    fn from(failed: OpenError<A>) -> Self {
        failed.into_parts().0
    }
}
