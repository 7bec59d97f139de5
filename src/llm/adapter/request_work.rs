//! The state of a batch of requests in a model.

use std::ops::Range;

use candle_core::{Result as Computed, Tensor};
use faer::Mat;

use crate::error::Result;
use crate::llm::block::{Opened, TokenBatch};
use crate::llm::failed;
use crate::llm::model::Model;
use crate::llm::prompt::Request;
use crate::llm::surroundings::KeyRow;

/// Numbers that all batches at rest hold at most: 1 GiB.
const AT_REST: usize = 1 << 28;

/// The state of a batch of requests: at work, or at rest.
pub(super) struct RequestWork<S = Running> {
    pub(super) requests: Vec<Request>,
    /// The layer that all parts have come to.
    pub(super) layer: usize,
    /// The highest layer changed since the batch began.
    pub(super) changed: Option<usize>,
    pub(super) parts: Vec<RequestPart<S>>,
    /// `hidden x n`.
    pub(super) targets: Option<Mat<f32>>,
}

/// Requests of a batch that are run at once.
pub(super) struct RequestPart<S = Running> {
    pub(super) requests: Range<usize>,
    pub(super) batch: TokenBatch,
    /// For each request, the rows of its keys, those of contrast subjects last.
    pub(super) keys: Vec<Vec<KeyRow>>,
    /// For each request, the rows of its first place up to the first token of the fact.
    pub(super) first: Vec<Range<usize>>,
    pub(super) state: S,
}

/// The state of a part at a layer.
pub(super) struct Running {
    /// The block's input, a row a token.
    input: Tensor,
    pub(super) opened: Opened,
}

impl Running {
    /// Opens a block.
    pub(super) fn new(model: &Model, layer: usize, input: Tensor, batch: &TokenBatch) -> Computed<Self> {
        let opened = model.blocks[layer].open(model.frame(), &input, batch, vec![])?;
        Ok(Self { input, opened })
    }
}

impl<S> RequestWork<S> {
    /// Whether this is the state of these requests on the way to a layer.
    pub(super) fn goes_on(&self, layer: usize, requests: &[Request]) -> bool {
        self.requests == requests && self.layer <= layer && self.changed.is_none_or(|changed| changed < layer)
    }

    /// Notes a change of a layer. False if the state is no longer that of the model.
    pub(super) fn outlives_change_of(&mut self, layer: usize) -> bool {
        self.changed = self.changed.max(Some(layer));
        self.layer <= layer
    }

    fn with_states<N>(self, next: impl Fn(S, &TokenBatch) -> Computed<N>) -> Computed<RequestWork<N>> {
        let Self { requests, layer, changed, parts, targets } = self;
        let parts = parts.into_iter().map(|RequestPart { requests, batch, keys, first, state }| {
            let state = next(state, &batch)?;
            Ok(RequestPart { requests, batch, keys, first, state })
        });
        Ok(RequestWork { requests, layer, changed, parts: parts.collect::<Computed<_>>()?, targets })
    }
}

impl RequestWork {
    /// Goes on to a layer, and says how many requests have come there. After an error the state is undefined.
    pub(super) fn advance(
        &mut self,
        model: &Model,
        layer: usize,
        mut come: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        if layer == self.layer {
            return Ok(());
        }
        for part in &mut self.parts {
            for at in self.layer..layer {
                let next = |part: &RequestPart| {
                    let x = model.blocks[at].close(&part.state.opened, model.par)?;
                    Running::new(model, at + 1, x, &part.batch)
                };
                part.state = next(part).map_err(failed)?;
            }
            come(part.requests.end)?;
        }
        self.layer = layer;
        Ok(())
    }
}

/// States of batches that take turns, each at the input of the block that it has come to.
#[derive(Default)]
pub(super) struct AtRest(Vec<RequestWork<Tensor>>);

impl AtRest {
    /// Puts a batch to rest, if there is room.
    pub(super) fn push(&mut self, work: RequestWork) -> Computed<()> {
        let numbers = |work: &RequestWork<Tensor>| work.parts.iter().map(|part| part.state.elem_count()).sum::<usize>();
        let work = work.with_states(|state, _| Ok(state.input))?;
        if self.0.iter().chain([&work]).map(numbers).sum::<usize>() <= AT_REST {
            self.0.push(work);
        }
        Ok(())
    }

    /// Takes out the state of these requests on the way to a layer.
    pub(super) fn take(&mut self, model: &Model, layer: usize, requests: &[Request]) -> Computed<Option<RequestWork>> {
        let found = self.0.iter().position(|work| work.goes_on(layer, requests));
        let resume = |work: RequestWork<Tensor>| {
            let at = work.layer;
            work.with_states(|input, batch| Running::new(model, at, input, batch))
        };
        found.map(|i| resume(self.0.swap_remove(i))).transpose()
    }

    /// Forgets what a change of a layer makes wrong.
    pub(super) fn change(&mut self, layer: usize) {
        self.0.retain_mut(|work| work.outlives_change_of(layer));
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
