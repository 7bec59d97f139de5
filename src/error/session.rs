//! What can go wrong with sessions.

/// What can go wrong with sessions.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The session has no such edit in the model.
    #[error(
        "edit {id} is not in the model: it was rejected, overruled within its batch, undone or replaced, or does not exist ({processed} so far)"
    )]
    UnknownEdit {
        /// The requested edit.
        id: u64,
        /// Number of requests so far.
        processed: u64,
    },

    /// An edit was recorded without its request, so the weights cannot be derived from it.
    #[error(
        "edit {id} was recorded without its request: only sessions whose adapter encodes its requests from the start can be consolidated"
    )]
    NoRequest {
        /// The edit.
        id: u64,
    },

    /// A setting that a session cannot be opened with.
    #[error("the session cannot be opened: `{setting}` {problem}")]
    Setting {
        /// The setting, by its name in the builder.
        setting: &'static str,
        /// What is wrong with it.
        problem: String,
    },

    /// A batch was rejected, and the caller treats this as an error. Holds the `session::Rejection`.
    #[error("the batch was rejected: {0}")]
    Rejected(Box<dyn std::error::Error + Send + Sync>),

    /// The session could not restore the model to a known state.
    #[error("the session cannot continue: {problem}; open the session again, its journal holds every confirmed batch")]
    Broken {
        /// What went wrong.
        problem: String,
    },
}
