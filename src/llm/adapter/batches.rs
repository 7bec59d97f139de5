//! Batches of requests on their way through the model.

use std::ops::Range;

use candle_core::Result as Computed;
use faer::Mat;

use super::ModelAdapter;
use super::request_work::{RequestPart, RequestWork, Running};
use super::step::{AdapterStep, tell};
use crate::error::{NumericsError, Result};
use crate::llm::block::{TokenBatch, columns};
use crate::llm::failed;
use crate::llm::prompt::Request;
use crate::llm::surroundings::{Asked, KeyKind, KeyRow, names_beside};
use crate::llm::target::Site;

/// Requests that are run at once.
const AT_ONCE: usize = 16;

impl ModelAdapter {
    /// The state of a batch, opened at a layer.
    pub(super) fn at(&mut self, layer: usize, requests: &[Request]) -> Result<&mut RequestWork> {
        self.check_layer(layer)?;
        if requests.is_empty() {
            return Err(NumericsError::Empty { argument: "requests", item: "request" }.into());
        }
        let found = match self.batch.take() {
            Some(work) if work.goes_on(layer, requests) => Some(work),
            other => self.turn(other, layer, requests).map_err(failed)?,
        };
        let mut work = found.map_or_else(|| self.begin(requests), Ok)?;
        let Self { model, watch, .. } = self;
        let of = requests.len();
        work.advance(model, layer, |done| tell(watch, AdapterStep::Keys { layer, done, of }))?;
        Ok(self.batch.insert(work))
    }

    pub(super) fn forget_batches(&mut self) {
        self.batch = None;
        self.at_rest.clear();
    }

    /// Puts a batch to rest while others take turns with it, and takes out the state of other requests.
    fn turn(&mut self, work: Option<RequestWork>, layer: usize, requests: &[Request]) -> Computed<Option<RequestWork>> {
        if let Some(work) = work.filter(|_| !self.held.is_empty()) {
            self.at_rest.push(work)?;
        }
        self.at_rest.take(&self.model, layer, requests)
    }

    /// All requests, opened at the first layer.
    fn begin(&self, requests: &[Request]) -> Result<RequestWork> {
        let contrast = self.contrast(requests)?;
        let parts = (0..requests.len()).step_by(AT_ONCE).map(|start| {
            let range = start..(start + AT_ONCE).min(requests.len());
            let asked = |request| self.surroundings.asked(&self.tokenizer, request, usize::MAX, None);
            let asked = requests[range.clone()].iter().map(asked).collect::<Result<Vec<_>>>()?;
            asked.iter().flatten().try_for_each(|(asked, _)| self.model.check_tokens(&asked.tokens))?;
            self.open(range.clone(), &asked, &contrast[range]).map_err(failed)
        });
        let parts = parts.collect::<Result<_>>()?;
        Ok(RequestWork { requests: requests.to_vec(), layer: 0, changed: None, parts, targets: None })
    }

    /// The tokens about the contrast subjects of each request. While targets are held, no subject is in any of their requests.
    fn contrast(&self, requests: &[Request]) -> Result<Vec<Vec<Vec<u32>>>> {
        let Self { model, tokenizer, nearest, layers, held, beside_held, .. } = self;
        let count = self.surroundings.contrast;
        if count == 0 {
            return Ok(vec![vec![]; requests.len()]);
        }
        let about = |names| nearest.about((model, tokenizer), layers[0], requests, names, count).map_err(failed);
        match held.is_empty() {
            true => about(&names_beside(requests)),
            false => about(beside_held.get_or_init(|| names_beside(held.keys()))),
        }
    }

    /// Lays out the places of some requests and the tokens about their contrast subjects.
    fn open(
        &self,
        requests: Range<usize>,
        asked: &[Vec<(Asked, f32)>],
        contrast: &[Vec<Vec<u32>>],
    ) -> Computed<RequestPart> {
        // Many facts that are written together share what is to stay.
        let contrast_weight = self.surroundings.contrast_weight_among(self.held.len()) as f32;
        let mut inputs: Vec<&[u32]> = vec![];
        let (mut keys, mut first, mut rows) = (vec![], vec![], 0);
        for (asked, contrast) in asked.iter().zip(contrast) {
            // Nothing after the fact's last token matters to what is asked here.
            let facts = asked.iter().map(|(one, weight)| (&one.tokens[..=one.last()], *weight, KeyKind::Fact));
            let others = contrast.iter().map(|tokens| (&tokens[..], contrast_weight, KeyKind::Contrast));
            first.push(rows..rows + asked[0].0.first() + 1);
            let mut places = vec![];
            for (tokens, weight, kind) in facts.chain(others) {
                inputs.push(tokens);
                rows += tokens.len();
                places.push(KeyRow { row: rows - 1, weight, kind });
            }
            keys.push(places);
        }
        let batch = TokenBatch::new(&self.model.config, inputs.iter().map(|tokens| (0, tokens.len())));
        let x = self.model.embed(&inputs.concat(), &batch)?;
        let state = Running::new(&self.model, 0, x, &batch)?;
        Ok(RequestPart { requests, batch, keys, first, state })
    }

    /// The output of the last edited layer at the fact's token in the first places, a column for each request.
    pub(super) fn outputs(&self, layer: usize, part: &RequestPart) -> Computed<Mat<f32>> {
        let batch = TokenBatch::new(&self.model.config, part.first.iter().map(|rows| (0, rows.len())));
        let rows: Vec<usize> = part.first.iter().cloned().flatten().collect();
        let (mut at, mut opened) = (&self.model.blocks[layer], part.state.opened.rows(&rows)?);
        for next in &self.model.blocks[layer + 1..=self.layers[self.layers.len() - 1]] {
            let x = at.close(&opened, self.model.par)?;
            (at, opened) = (next, next.open(self.model.frame(), &x, &batch, vec![])?);
        }
        let last: Vec<usize> = batch.spans.iter().map(|span| span.rows.end - 1).collect();
        let opened = opened.rows(&last)?;
        columns(&match self.search.site {
            Site::Block => at.close(&opened, self.model.par)?,
            Site::Mlp | Site::MlpAndAttention => at.mlp(&opened, self.model.par)?,
        })
    }
}
