//! The targets of requests: known, sought ahead, found already, or sought.

use std::collections::{HashMap, HashSet};
use std::ops::{ControlFlow, Range};

use faer::{Mat, MatRef};

use super::ModelAdapter;
use super::step::{AdapterStep, tell};
use crate::error::{Error, ModelError, NumericsError, Result};
use crate::llm::prompt::Request;
use crate::llm::target::{Ground, Others, Target};
use crate::util::validate;

/// Requests whose targets are sought together. A target depends on those beside it, by rounding: a chunk of which one is not found yet is
/// sought as a whole, so that a run that was interrupted finds the same.
const CHUNK: usize = 64;

impl ModelAdapter {
    /// Calls `watch` with what is done of a batch: with the keys of some requests, and with each target that was sought. If it returns
    /// `Break`, the work ends with [`NumericsError::Cancelled`]. The targets found so far are kept until the model changes.
    pub fn set_watch(&mut self, watch: impl FnMut(AdapterStep<'_>) -> ControlFlow<()> + Send + Sync + 'static) {
        self.watch = Some(Box::new(watch));
    }

    /// Seeks the targets of a batch, all together. They are kept for [`residuals`](crate::Adapter::residuals) of these requests, until the
    /// model changes. A batch is written as a whole or not at all; this tells which request would keep it from being written.
    ///
    /// # Errors
    /// The first request that has no target, by its place in the batch, and why; [`NumericsError::Cancelled`] by the
    /// [watch](Self::set_watch).
    pub fn prepare(&mut self, requests: &[Request]) -> Result<(), (usize, Error)> {
        let first = self.layers[0];
        self.at(first, requests).map_err(|error| (0, error))?;
        let targets = self.seek(requests)?;
        if let Some(work) = &mut self.batch {
            work.targets = Some(targets);
        }
        Ok(())
    }

    /// Seeks the targets of requests that are to be written later, one after the other, on the model as it is now. All are sought
    /// together, so a target takes less time than alone; but the edits before a request's own are not in the model yet. They are used for
    /// these requests instead of another search, until this is called again.
    ///
    /// Requests without a target are passed over.
    ///
    /// # Errors
    /// [`NumericsError::Cancelled`] by the [watch](Self::set_watch).
    pub fn look_ahead(&mut self, requests: &[Request]) -> Result<()> {
        self.ahead.clear();
        let mut left = requests;
        while let Err((without, error)) = self.seek(left) {
            match error {
                Error::Numerics(NumericsError::Cancelled) => return Err(error),
                _ => left = &left[without + 1..],
            }
        }
        let found = requests.iter().filter_map(|request| Some((request.clone(), self.found.get(request)?.clone())));
        self.ahead = found.collect();
        Ok(())
    }

    /// Takes targets for found on the model as it is now, for example in a run that was interrupted. They are used until the model
    /// changes.
    ///
    /// # Errors
    /// A target whose length is not the model's hidden size, or that is not finite.
    pub fn resume_with(&mut self, found: HashMap<Request, Vec<f32>>) -> Result<()> {
        self.check_targets(found.values())?;
        self.found.extend(found);
        Ok(())
    }

    pub(super) fn check_targets<'a>(&self, targets: impl IntoIterator<Item = &'a Vec<f32>>) -> Result<()> {
        for target in targets {
            let target = MatRef::from_column_major_slice(target, target.len(), 1);
            validate::shape("target", target, self.model.config.hidden, 1)?;
            validate::finite("target", target)?;
        }
        Ok(())
    }

    /// The target of a request, if there is no need to seek it.
    fn given(&self, request: &Request) -> Option<&Vec<f32>> {
        [&self.held, &self.known, &self.ahead].into_iter().find_map(|targets| targets.get(request))
    }

    /// The targets of requests, or the first that has none and why.
    pub(super) fn seek(&mut self, requests: &[Request]) -> Result<Mat<f32>, (usize, Error)> {
        let mut seen = HashSet::new();
        let unknown = requests.iter().filter(|request| self.given(request).is_none() && seen.insert(*request));
        let sought: Vec<Request> = unknown.cloned().collect();
        let place = |of: &Request| requests.iter().position(|request| request == of).unwrap_or(0);
        for start in (0..sought.len()).step_by(CHUNK) {
            let chunk = start..(start + CHUNK).min(sought.len());
            if sought[chunk.clone()].iter().any(|request| !self.found.contains_key(request)) {
                let failed = |(i, error): (usize, Error)| (place(&sought[start + i]), error);
                self.search_for(&sought, chunk).map_err(failed)?;
            }
        }
        let mut targets = Mat::zeros(self.model.config.hidden, requests.len());
        for (j, request) in requests.iter().enumerate() {
            let target = self.given(request).or_else(|| self.found.get(request)).into_iter().flatten();
            targets.col_mut(j).iter_mut().zip(target).for_each(|(to, from)| *to = *from);
        }
        Ok(targets)
    }

    /// Finds the targets of a chunk of the requests that are sought. An error comes with the first request of the chunk that has none.
    fn search_for(&mut self, sought: &[Request], chunk: Range<usize>) -> Result<(), (usize, Error)> {
        let Self { model, tokenizer, surroundings, search, sensitivity, layers, watch, found, .. } = self;
        let layer = layers[layers.len() - 1];
        let ground = Ground { model, tokenizer, surroundings, layer, sensitivity: sensitivity.as_ref() };
        let requests = &sought[chunk.clone()];
        let (mut failed, mut stopped, mut done) = (None::<(usize, Error)>, None, chunk.start);
        let ended = search.run_each(ground, requests, |i, target| {
            let request = &requests[i];
            if stopped.is_some() {
                return Others::None;
            }
            match target.and_then(|target| better(request, layer, search.enough, target)) {
                Ok(target) => {
                    done += 1;
                    stopped =
                        tell(watch, AdapterStep::Target { request, target: &target, done, of: sought.len() }).err();
                    found.insert(request.clone(), target);
                    if stopped.is_some() { Others::None } else { Others::All }
                }
                Err(error) => {
                    if failed.as_ref().is_none_or(|(first, _)| i < *first) {
                        failed = Some((i, error));
                    }
                    Others::Before
                }
            }
        });
        ended.map_err(|error| (0, error))?;
        match stopped.map(|error| (0, error)).or(failed) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// A target, which must be better than what there is.
fn better(request: &Request, layer: usize, enough: f64, found: Target) -> Result<Vec<f32>> {
    if found.value == found.start && f64::from(found.likelihood) >= enough {
        let (target, likelihood) = (request.target(), found.likelihood);
        let problem = format!(
            "the search found no output of layer {layer} that makes `{target}` more probable (its mean -log p stays at \
             {likelihood:.2}): edit lower layers, or change the settings of the search"
        );
        return Err(ModelError::Request { subject: request.subject().into(), problem }.into());
    }
    Ok(found.value)
}
