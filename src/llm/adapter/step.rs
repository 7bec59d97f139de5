//! What is told of the work on a batch.

use std::ops::ControlFlow;

use crate::error::{NumericsError, Result};
use crate::llm::prompt::Request;

/// What a [`ModelAdapter`](super::ModelAdapter) has done of a batch, for [`ModelAdapter::set_watch`](super::ModelAdapter::set_watch).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum AdapterStep<'a> {
    /// The keys of requests at a layer are known.
    Keys {
        /// The layer.
        layer: usize,
        /// Of how many requests they are known.
        done: usize,
        /// Of how many they are asked for.
        of: usize,
    },
    /// A target was found.
    Target {
        /// Of this request.
        request: &'a Request,
        /// The output that the block, or its MLP, should have at the fact's token.
        target: &'a [f32],
        /// How many are found, with it.
        done: usize,
        /// How many are sought.
        of: usize,
    },
}

/// What is called while a batch is worked on.
pub(super) type Watch = Box<dyn FnMut(AdapterStep<'_>) -> ControlFlow<()> + Send + Sync>;

/// Tells a watch, which may stop the work.
pub(super) fn tell(watch: &mut Option<Watch>, step: AdapterStep<'_>) -> Result<()> {
    match watch.as_mut().map_or(ControlFlow::Continue(()), |watch| watch(step)) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(NumericsError::Cancelled.into()),
    }
}
