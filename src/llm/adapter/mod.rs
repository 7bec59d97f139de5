//! A language model as an adapter: keys and residuals of requests.

mod batches;
mod request_work;
mod step;
mod targets;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

use faer::{Mat, MatMut, MatRef};

use super::config::BlockNorms;
use super::failed;
use super::model::Model;
use super::ops::{Parameter, copy, with_rows};
use super::prompt::{FactToken, Request};
use super::surroundings::{Asked, Nearest, Surroundings, further_keys, own_key};
use super::target::{Sensitivity, TargetSearch};
use super::tokenizer::Tokenizer;
use crate::adapter::{Adapter, Companions};
use crate::error::{ModelError, NumericsError, Result};
use crate::update::{Orientation, Update};
use crate::util::validate;
use request_work::{AtRest, RequestWork};
pub use step::AdapterStep;
use step::Watch;

/// A language model behind the [`Adapter`] seam.
///
/// A request has a key in each of its [`Surroundings`]: the first is the request's own, the others, and those of the contrast subjects, are
/// its [`companions`](Adapter::companions). By the rule [`KeyRule::Mean`](super::KeyRule::Mean) the request's key is their weighted mean
/// instead. The residual at any layer is the difference between the target and the output of the **last** edited layer, at the fact's token
/// in the first place, usually the bare prompt. The caller divides it among the layers that are left.
///
/// The search's [`Site`](super::Site) decides which output this is. At [`Site::Block`](super::Site::Block) it is the output of the block,
/// the sum of everything written below it, so what one layer has written is no longer missing at the next. At
/// [`Site::Mlp`](super::Site::Mlp) and [`Site::MlpAndAttention`](super::Site::MlpAndAttention) it is the
/// output of the MLP, `W k` (plus the bias, if there is one). The layers below reach it only through `k`, so every layer is asked for
/// nearly the whole residual again, as in the published program of PMET.
///
/// A new batch begins with other requests, or with a layer at or below the last changed one. Targets are sought when residuals are first
/// asked for in a batch, in the usual order on the model before the batch, all together, and kept for the batch. Everything below the layer
/// that is asked for is computed once for each batch.
pub struct ModelAdapter {
    model: Model,
    tokenizer: Tokenizer,
    surroundings: Surroundings,
    nearest: Nearest,
    search: TargetSearch,
    sensitivity: Option<Sensitivity>,
    layers: Vec<usize>,
    known: HashMap<Request, Vec<f32>>,
    /// Targets that were sought ahead.
    ahead: HashMap<Request, Vec<f32>>,
    /// Targets that were found on the model as it is now.
    found: HashMap<Request, Vec<f32>>,
    watch: Option<Watch>,
    /// Targets that are held while requests are asked about in parts, and the names that may stand beside all of these requests.
    held: HashMap<Request, Vec<f32>>,
    beside_held: OnceLock<HashSet<&'static str>>,
    batch: Option<RequestWork>,
    /// Batches that take turns while targets are held.
    at_rest: AtRest,
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

impl ModelAdapter {
    /// An adapter that edits some layers of a model.
    ///
    /// * `surroundings`: the places in which facts are written: all by [`Surroundings::new`], or
    ///   [`Contexts`](super::Contexts), for the rule of the published programs
    ///
    /// # Errors
    /// No layer, a layer that the model does not have, layers that do not ascend, or, in a model with norms behind its MLPs, several layers
    /// or the site [`Block`](super::Site::Block).
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
        let last = layers[layers.len() - 1];
        model.down(last)?;
        search.site.check(&model, last)?;
        if layers.len() > 1 && model.config.block_norms != BlockNorms::Before {
            let family = model.family().model_type();
            let problem = format!(
                "in a model of type {family} a norm stands behind every MLP, so what is missing in one layer cannot be divided among \
                 several: edit one layer, and not {layers:?}"
            );
            return Err(ModelError::Unsupported { problem }.into());
        }
        Ok(Self {
            model,
            tokenizer,
            surroundings,
            nearest: Nearest::default(),
            search,
            sensitivity: None,
            layers,
            known: HashMap::new(),
            ahead: HashMap::new(),
            found: HashMap::new(),
            watch: None,
            held: HashMap::new(),
            beside_held: OnceLock::new(),
            batch: None,
            at_rest: AtRest::default(),
        })
    }

    /// Uses known targets for some requests, for example targets found on the unedited model, and searches only for the others.
    ///
    /// # Errors
    /// A target whose length is not the model's hidden size, or that is not finite.
    pub fn with_targets(mut self, known: HashMap<Request, Vec<f32>>) -> Result<Self> {
        self.check_targets(known.values())?;
        self.known = known;
        Ok(self)
    }

    /// Seeks targets away from where the model is sensitive.
    ///
    /// * `sensitivity`: of the outputs of the last edited layer
    ///
    /// # Errors
    /// A sensitivity of another size than the model's.
    pub fn with_sensitivity(mut self, sensitivity: Sensitivity) -> Result<Self> {
        sensitivity.check(&self.model)?;
        self.sensitivity = Some(sensitivity);
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
            with_rows([&part.state.opened.keys], |[rows]| {
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
            with_rows([&part.state.opened.keys], |[rows]| {
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
        self.model.down(layer)?.copy_to(weight, self.model.par);
        Ok(())
    }

    fn write_weight(&mut self, layer: usize, weight: MatRef<'_, f32>) -> Result<()> {
        let (rows, cols) = self.weight_shape(layer)?;
        validate::shape("weight", weight, rows, cols)?;
        validate::finite("weight", weight)?;
        let par = self.model.par;
        copy(self.weight_mut(layer).matrix_mut(), weight, par);
        self.found.clear();
        self.forget_batches();
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
        self.forget_batches();
        Ok(())
    }

    fn release_targets(&mut self) {
        self.held.clear();
        self.beside_held.take();
        self.forget_batches();
    }

    fn apply(&mut self, layer: usize, update: &Update<f32>) -> Result<()> {
        let (rows, cols) = self.weight_shape(layer)?;
        update.check_shape("update", rows, cols)?;
        let par = self.model.par;
        update.apply_to(self.weight_mut(layer).matrix_mut(), Orientation::OutputsByInputs, par)?;
        self.found.clear();
        self.batch.take_if(|work| !work.outlives_change_of(layer));
        self.at_rest.change(layer);
        Ok(())
    }
}
