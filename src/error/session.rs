//! What can go wrong with sessions.

/// What can go wrong with sessions.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// A session was asked for an edit that is not in the model.
    #[error(
        "edit {id} is not in the model: it was rejected, undone or replaced, or does not exist ({processed} so far)"
    )]
    UnknownEdit {
        /// The edit asked for.
        id: u64,
        /// Requests so far.
        processed: u64,
    },

    /// A session could not bring the model back to a state that it knows.
    #[error("the session cannot go on: {problem}; the journal has every confirmed batch, open the session again")]
    Broken {
        /// What went wrong.
        problem: String,
    },
}
