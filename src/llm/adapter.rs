//! A language model as an adapter: keys and residuals of requests.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::Result as Computed;
use faer::{Mat, MatMut, MatRef};

use super::block::{Opened, TokenBatch, columns};
use super::failed;
use super::model::Model;
use super::ops::{Parameter, copy, with_rows};
use super::prompt::{FactToken, Request};
use super::request_work::{RequestPart, RequestWork};
use super::surroundings::{Asked, KeyKind, KeyRow, Nearest, Surroundings, further_keys, names_beside, own_key};
use super::target::{Site, TargetSearch};
use super::tokenizer::Tokenizer;
use crate::adapter::{Adapter, Companions};
use crate::error::{Error, ModelError, NumericsError, Result};
use crate::update::{Orientation, Update};
use crate::util::validate;

/// A language model behind the [`Adapter`] seam.
///
/// A request has a key in each of its [`Surroundings`]: the first is the request's own, the others, and those of the contrast subjects, are
/// its [`companions`](Adapter::companions). By the rule [`KeyRule::Mean`](super::KeyRule::Mean) the request's key is their weighted mean
/// instead. The residual at any layer is the difference between the target and the output of the **last** edited layer, at the fact's token
/// in the first place, usually the bare prompt. The caller divides it among the layers that are left.
///
/// The search's [`Site`] decides which output this is. At [`Site::Block`] it is the output of the block, the sum of everything written
/// below it, so what one layer has written is no longer missing at the next. At [`Site::Mlp`] and [`Site::MlpAndAttention`] it is the
/// output of the MLP, `W k` (plus the bias, if there is one). The layers below reach it only through `k`, so every layer is asked for
/// nearly the whole residual again, as in the published program of PMET.
///
/// A new batch begins with other requests, or with a layer at or below the last changed one. Targets are sought when residuals are first
/// asked for in a batch, in the usual order on the model before the batch, and kept for the batch. Everything below the layer that is
/// asked for is computed once for each batch.
pub struct ModelAdapter {
    model: Model,
    tokenizer: Tokenizer,
    surroundings: Surroundings,
    nearest: Nearest,
    search: TargetSearch,
    layers: Vec<usize>,
    known: HashMap<Request, Vec<f32>>,
    /// Targets that are held while requests are asked about in parts, and the names that may stand beside all of these requests.
    held: HashMap<Request, Vec<f32>>,
    beside_held: OnceLock<HashSet<&'static str>>,
    batch: Option<RequestWork>,
}

impl fmt::Debug for ModelAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, surroundings, search, layers, known, batch, .. } = self;
        let mut shown = f.debug_struct("ModelAdapter");
        shown.field("model", model).field("layers", layers).field("surroundings", surroundings);
        shown.field("search", search);
        shown.field("known_targets", &known.len()).field("batch", &batch.as_ref().map(|work| work.requests.len()));
        shown.finish_non_exhaustive()
    }
}

/// Requests that are run at once.
const AT_ONCE: usize = 16;

impl ModelAdapter {
    /// An adapter that edits some layers of a model.
    ///
    /// * `surroundings`: the places in which facts are written: all by [`Surroundings::new`], or
    ///   [`Contexts`](super::Contexts), for the rule of the published programs
    ///
    /// # Errors
    /// No layer, a layer that the model does not have, or layers that do not ascend.
    pub fn new(
        model: Model,
        tokenizer: Tokenizer,
        layers: Vec<usize>,
        surroundings: impl Into<Surroundings>,
        search: TargetSearch,
    ) -> Result<Self> {
        let surroundings = surroundings.into();
        surroundings.check()?;
        if layers.is_empty() {
            return Err(NumericsError::Empty { argument: "layers", item: "layer" }.into());
        }
        if let Some(pair) = layers.windows(2).find(|pair| pair[0] >= pair[1]) {
            let (parameter, allowed) = ("layers", "ascending numbers");
            return Err(NumericsError::Parameter { parameter, value: pair[1] as f64, allowed }.into());
        }
        model.down(layers[layers.len() - 1])?;
        let (nearest, known, held) = (Nearest::default(), HashMap::new(), HashMap::new());
        let beside_held = OnceLock::new();
        Ok(Self { model, tokenizer, surroundings, nearest, search, layers, known, held, beside_held, batch: None })
    }

    /// Uses known targets for some requests, for example targets found on the unedited model, and searches only for the others.
    ///
    /// # Errors
    /// A target whose length is not the model's hidden size, or that is not finite.
    pub fn with_targets(mut self, known: HashMap<Request, Vec<f32>>) -> Result<Self> {
        for target in known.values() {
            let target = MatRef::from_column_major_slice(target, target.len(), 1);
            validate::shape("target", target, self.model.config.hidden, 1)?;
            validate::finite("target", target)?;
        }
        self.known = known;
        Ok(self)
    }

    /// The model, as edited so far.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Its tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The places in which facts are written.
    #[must_use]
    pub fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    /// Refuses a request that cannot be written into this model, without running the model.
    ///
    /// # Errors
    /// A subject or target that has no tokens of its own, a prompt that is longer than the model's context, or a fact that is to be
    /// written in the model's last layer at a token before the last of the prompt: nothing above that layer reads that token.
    pub fn check(&self, request: &Request) -> Result<()> {
        let written = self.surroundings.asked(&self.tokenizer, request, usize::MAX, None)?;
        written.iter().try_for_each(|(asked, _)| self.check_is_read(request, asked))?;
        let sought = self.search.asked(&self.tokenizer, &self.surroundings, request)?;
        written.iter().chain(&sought).try_for_each(|(asked, _)| self.model.check_tokens(&asked.tokens))
    }

    /// Seeks the targets of a batch, which are kept for [`residuals`](Adapter::residuals) of the same requests. A batch is written as a
    /// whole or not at all; this tells which request would keep it from being written.
    ///
    /// # Errors
    /// The first request that has no target, by its place in the batch, and why.
    pub fn prepare(&mut self, requests: &[Request]) -> Result<(), (usize, Error)> {
        let first = self.layers[0];
        self.at(first, requests).map_err(|error| (0, error))?;
        let targets = self.seek(requests)?;
        if let Some(work) = &mut self.batch {
            work.targets = Some(targets);
        }
        Ok(())
    }

    /// Refuses a fact whose token nothing reads: in the last layer, only the token in front of the target counts.
    fn check_is_read(&self, request: &Request, asked: &Asked) -> Result<()> {
        let last = self.layers[self.layers.len() - 1];
        if last + 1 < self.model.blocks.len() || asked.last() + 1 == asked.start {
            return Ok(());
        }
        let problem = format!(
            "layer {last} is the last one, and no later layer reads the {} token of the subject: edit lower layers, or write the fact at \
             the last token of the prompt",
            if request.token() == FactToken::SubjectFirst { "first" } else { "last" }
        );
        Err(ModelError::Request { subject: request.subject().into(), problem }.into())
    }

    fn weight_mut(&mut self, layer: usize) -> &mut Parameter {
        Arc::make_mut(&mut self.model.blocks[layer].down.weight)
    }

    fn check_layer(&self, layer: usize) -> Result<()> {
        match self.layers.contains(&layer) {
            true => Ok(()),
            false => Err(ModelError::UnknownLayer { layer, known: self.layers.clone() }.into()),
        }
    }

    /// The state of a batch, opened at a layer.
    fn at(&mut self, layer: usize, requests: &[Request]) -> Result<&mut RequestWork> {
        self.check_layer(layer)?;
        if requests.is_empty() {
            return Err(NumericsError::Empty { argument: "requests", item: "request" }.into());
        }
        let goes_on = |work: &RequestWork| {
            work.requests == requests && work.layer <= layer && work.changed.is_none_or(|changed| changed < layer)
        };
        let mut work = match self.batch.take().filter(goes_on) {
            Some(work) => work,
            None => self.begin(requests)?,
        };
        for at in work.layer..layer {
            for part in &mut work.parts {
                let (this, next) = (&self.model.blocks[at], &self.model.blocks[at + 1]);
                let advance = || -> Computed<Opened> {
                    let x = this.close(&part.opened, self.model.par)?;
                    next.open(self.model.frame(), &x, &part.batch, vec![])
                };
                part.opened = advance().map_err(failed)?;
            }
            work.layer = at + 1;
        }
        Ok(self.batch.insert(work))
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
        let opened = self.model.blocks[0].open(self.model.frame(), &x, &batch, vec![])?;
        Ok(RequestPart { requests, batch, keys, first, opened })
    }

    /// The output of the last edited layer at the fact's token in the first places, a column for each request.
    fn outputs(&self, layer: usize, part: &RequestPart) -> Computed<Mat<f32>> {
        let batch = TokenBatch::new(&self.model.config, part.first.iter().map(|rows| (0, rows.len())));
        let rows: Vec<usize> = part.first.iter().cloned().flatten().collect();
        let (mut at, mut opened) = (&self.model.blocks[layer], part.opened.rows(&rows)?);
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

    /// The target of a request, which must be better than what there is.
    fn sought(&self, layer: usize, request: &Request) -> Result<Vec<f32>> {
        let found = self.search.run(&self.model, &self.tokenizer, &self.surroundings, layer, request)?;
        if found.value == found.start && f64::from(found.likelihood) >= self.search.enough {
            let (target, likelihood) = (request.target(), found.likelihood);
            let problem = format!(
                "the search found no output of layer {layer} that makes `{target}` more probable (its mean -log p stays at \
                 {likelihood:.2}): edit lower layers, or change the settings of the search"
            );
            return Err(ModelError::Request { subject: request.subject().into(), problem }.into());
        }
        Ok(found.value)
    }

    /// The targets of requests, or the first that has none and why.
    fn seek(&self, requests: &[Request]) -> Result<Mat<f32>, (usize, Error)> {
        let last = self.layers[self.layers.len() - 1];
        let mut targets = Mat::zeros(self.model.config.hidden, requests.len());
        for (j, request) in requests.iter().enumerate() {
            let target = match self.held.get(request).or_else(|| self.known.get(request)) {
                Some(target) => target.clone(),
                None => self.sought(last, request).map_err(|error| (j, error))?,
            };
            targets.col_mut(j).iter_mut().zip(&target).for_each(|(to, from)| *to = *from);
        }
        Ok(targets)
    }
}

impl Adapter for ModelAdapter {
    type Scalar = f32;
    type Request = Request;

    fn layers(&self) -> &[usize] {
        &self.layers
    }

    fn weight_shape(&self, layer: usize) -> Result<(usize, usize)> {
        self.check_layer(layer)?;
        Ok(self.model.down(layer)?.shape())
    }

    fn keys(&mut self, layer: usize, requests: &[Request]) -> Result<Mat<f32>> {
        let d_in = self.weight_shape(layer)?.1;
        let rule = self.surroundings.keys;
        let mut keys = Mat::zeros(d_in, requests.len());
        for part in &self.at(layer, requests)?.parts {
            with_rows([&part.opened.keys], |[rows]| {
                for (request, places) in part.requests.clone().zip(&part.keys) {
                    for (at, weight) in own_key(places, rule) {
                        keys.col_mut(request).iter_mut().zip(rows.row(at)).for_each(|(key, x)| *key += weight * x);
                    }
                }
            })
            .map_err(failed)?;
        }
        Ok(keys)
    }

    fn companions(&mut self, layer: usize, requests: &[Request]) -> Result<Option<Companions<f32>>> {
        let d_in = self.weight_shape(layer)?.1;
        let rule = self.surroundings.keys;
        let (mut columns, mut of) = (vec![], vec![]);
        for part in &self.at(layer, requests)?.parts {
            with_rows([&part.opened.keys], |[rows]| {
                for (request, places) in part.requests.clone().zip(&part.keys) {
                    for (at, scale, times) in further_keys(places, rule) {
                        columns.push(rows.row(at).iter().map(|x| scale * x).collect::<Vec<f32>>());
                        of.push((request, f64::from(times)));
                    }
                }
            })
            .map_err(failed)?;
        }
        let keys = Mat::from_fn(d_in, columns.len(), |i, j| columns[j][i]);
        Ok((!columns.is_empty()).then(|| Companions::new(keys, of)))
    }

    fn residuals(&mut self, layer: usize, requests: &[Request]) -> Result<Mat<f32>> {
        self.at(layer, requests)?;
        let targets = match self.batch.as_ref().and_then(|work| work.targets.clone()) {
            Some(targets) => targets,
            None => self.seek(requests).map_err(|(_, error)| error)?,
        };
        let mut residuals = targets.clone();
        if let Some(work) = &mut self.batch {
            work.targets = Some(targets);
        }
        for part in self.batch.iter().flat_map(|work| &work.parts) {
            let outputs = self.outputs(layer, part).map_err(failed)?;
            let mut residuals = residuals.as_mut().subcols_mut(part.requests.start, part.requests.len());
            residuals -= &outputs;
        }
        Ok(residuals)
    }

    fn read_weight(&self, layer: usize, weight: MatMut<'_, f32>) -> Result<()> {
        let (rows, cols) = self.weight_shape(layer)?;
        validate::shape("weight", weight.as_ref(), rows, cols)?;
        copy(weight, self.model.down(layer)?.matrix(), self.model.par);
        Ok(())
    }

    fn write_weight(&mut self, layer: usize, weight: MatRef<'_, f32>) -> Result<()> {
        let (rows, cols) = self.weight_shape(layer)?;
        validate::shape("weight", weight, rows, cols)?;
        validate::finite("weight", weight)?;
        let par = self.model.par;
        copy(self.weight_mut(layer).matrix_mut(), weight, par);
        self.batch = None;
        Ok(())
    }

    fn fingerprint(&self) -> String {
        self.model.fingerprint().into()
    }

    fn subject(&self, request: &Request) -> Option<String> {
        Some(request.subject().into())
    }

    fn encode(&self, request: &Request) -> Option<Vec<u8>> {
        Some(request.to_bytes())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Request> {
        Request::from_bytes(bytes)
    }

    fn find_targets(&mut self, requests: &[Request]) -> Result<Option<Mat<f32>>> {
        let found = self.batch.as_ref().filter(|work| work.requests == requests).and_then(|work| work.targets.clone());
        match found {
            Some(targets) => Ok(Some(targets)),
            None => self.seek(requests).map(Some).map_err(|(_, error)| error),
        }
    }

    fn hold_targets(&mut self, requests: &[Request], targets: MatRef<'_, f32>) -> Result<()> {
        validate::shape("targets", targets, self.model.config.hidden, requests.len())?;
        let columns = targets.col_iter().map(|target| target.iter().copied().collect());
        self.held.extend(requests.iter().cloned().zip(columns));
        self.beside_held.take();
        Ok(())
    }

    fn release_targets(&mut self) {
        self.held.clear();
        self.beside_held.take();
    }

    fn apply(&mut self, layer: usize, update: &Update<f32>) -> Result<()> {
        let (rows, cols) = self.weight_shape(layer)?;
        update.check_shape("update", rows, cols)?;
        let par = self.model.par;
        update.apply_to(self.weight_mut(layer).matrix_mut(), Orientation::OutputsByInputs, par)?;
        self.batch = self.batch.take().filter(|work| work.layer <= layer);
        if let Some(work) = &mut self.batch {
            work.changed = work.changed.max(Some(layer));
        }
        Ok(())
    }
}
