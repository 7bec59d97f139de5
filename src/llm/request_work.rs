//! The state of a batch of requests in a model.

use std::ops::Range;

use faer::Mat;

use super::block::{Opened, TokenBatch};
use super::prompt::Request;
use super::surroundings::KeyRow;

/// The state of a batch of requests.
pub(super) struct RequestWork {
    pub(super) requests: Vec<Request>,
    /// The layer that all parts are opened at.
    pub(super) layer: usize,
    /// The highest layer changed since the batch began.
    pub(super) changed: Option<usize>,
    pub(super) parts: Vec<RequestPart>,
    /// `hidden x n`.
    pub(super) targets: Option<Mat<f32>>,
}

/// Requests of a batch that are run at once.
pub(super) struct RequestPart {
    pub(super) requests: Range<usize>,
    pub(super) batch: TokenBatch,
    /// For each request, the rows of its keys, those of contrast subjects last.
    pub(super) keys: Vec<Vec<KeyRow>>,
    /// For each request, the rows of its first place up to the first token of the fact.
    pub(super) first: Vec<Range<usize>>,
    pub(super) opened: Opened,
}
