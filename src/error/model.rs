//! What can go wrong with models and adapters.

/// What can go wrong with models and the adapters to them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// An adapter was asked for a layer that it does not have.
    #[error("layer {layer} is not one of the adapter's layers {known:?}")]
    UnknownLayer {
        /// The layer asked for.
        layer: usize,
        /// The layers there are.
        known: Vec<usize>,
    },

    /// An adapter was asked for a request that it does not have.
    #[error("request {index} does not exist: there are {len}")]
    UnknownRequest {
        /// The request asked for.
        index: usize,
        /// How many there are.
        len: usize,
    },

    /// A request to a language model that cannot be carried out.
    #[error("the request about `{subject}`: {problem}")]
    Request {
        /// Its subject.
        subject: String,
        /// What is wrong with it.
        problem: String,
    },

    /// The model failed: a computation inside it, its tokenizer, or its files.
    #[error("the model failed: {0}")]
    Failed(Box<dyn std::error::Error + Send + Sync>),

    /// An adapter failed for reasons of its own.
    #[error("the adapter failed: {0}")]
    Adapter(Box<dyn std::error::Error + Send + Sync>),
}
