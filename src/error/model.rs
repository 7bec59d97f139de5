//! What can go wrong with models and adapters.

use super::shown::Causes;

/// What can go wrong with models and the adapters to them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The adapter does not have the requested layer.
    #[error("the adapter has no layer {layer}; its layers are {known:?}")]
    UnknownLayer {
        /// The requested layer.
        layer: usize,
        /// The layers that the adapter has.
        known: Vec<usize>,
    },

    /// The adapter does not have this request.
    #[error("request {index} does not exist; the number of requests is {len}")]
    UnknownRequest {
        /// Index of the request.
        index: usize,
        /// Number of requests.
        len: usize,
    },

    /// The request to a language model cannot be carried out.
    #[error("the request about `{subject}`: {problem}")]
    Request {
        /// Its subject.
        subject: String,
        /// What is wrong with it.
        problem: String,
    },

    /// The model's shape does not allow what is asked for.
    #[error("{problem}")]
    Unsupported {
        /// What is asked for, why it cannot be done, and what can.
        problem: String,
    },

    /// The adapter does not do what its trait asks for.
    #[error("the adapter breaks its contract at layer {layer}: {problem}")]
    Contract {
        /// The layer.
        layer: usize,
        /// What it did, and what it should do.
        problem: String,
    },

    /// Files in this format have no names for the tensors of the family.
    #[error("models of the family {family} have no names in {format} files here: write the edits in another format")]
    NoNames {
        /// The family.
        family: String,
        /// The format.
        format: &'static str,
    },

    /// The model failed: a computation inside it, its tokenizer, or its files.
    #[error("the model failed: {}", Causes(&**_0))]
    Failed(Box<dyn std::error::Error + Send + Sync>),

    /// An adapter failed for reasons of its own.
    #[error("the adapter failed: {}", Causes(&**_0))]
    Adapter(Box<dyn std::error::Error + Send + Sync>),
}
