//! The search, of one target or of many together: the rows of several requests are those of one product, so a weight is read once for all of them.

use candle_core::Result as Computed;
use faer::Par;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::course::{Course, Going};
use super::preparation::prepared;
use super::question::{Anchor, SearchQuestion, Steered};
use super::rows::SteeredRows;
use super::search::{Target, TargetSearch};
use super::sensitivity::Sensitivity;
use crate::error::{ModelError, NumericsError, Result};
use crate::llm::failed;
use crate::llm::model::Model;
use crate::llm::ops::with_rows;
use crate::llm::prompt::{Prompt, Request};
use crate::llm::shares::of_share;
use crate::llm::surroundings::{Asked, Surroundings};
use crate::llm::tokenizer::Tokenizer;

/// Where targets are sought.
#[derive(Clone, Copy)]
pub(in crate::llm) struct Ground<'a> {
    pub(in crate::llm) model: &'a Model,
    pub(in crate::llm) tokenizer: &'a Tokenizer,
    pub(in crate::llm) surroundings: &'a Surroundings,
    pub(in crate::llm) layer: usize,
    pub(in crate::llm) sensitivity: Option<&'a Sensitivity>,
}

/// Rows that a thread evaluates at once: products with more rows are hardly faster a row (`docs/performance.md`).
const ROWS: usize = 288;

/// Numbers of a matrix from which candle adds two of them with threads of its own, for which other threads would wait.
const SHARED: usize = 1 << 16;

/// Which searches go on when one has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::llm) enum Others {
    All,
    /// Those of earlier requests.
    Before,
    None,
}

/// A request in the places of a search.
struct Asking {
    asked: Vec<(Asked, f32)>,
    anchor: Option<Prompt>,
}

/// A search under way, and its rows in the model.
struct Searching<'a> {
    request: usize,
    rows: SteeredRows<'a>,
    course: Course<'a>,
    next: Result<Going>,
}

impl Others {
    /// The end of the requests that are sought, after the search of one of them.
    fn end(self, request: usize, end: usize) -> usize {
        match self {
            Self::All => end,
            Self::Before => end.min(request),
            Self::None => 0,
        }
    }
}

impl TargetSearch {
    /// Finds the target of a request at block `layer`, on the model as it is now.
    ///
    /// An evaluation runs the blocks above forward and, except for the last evaluation, backward, from the fact's token on. With a vector
    /// for the attention, it also runs the MLP of the block itself.
    ///
    /// # Errors
    /// Settings out of range, an unknown layer, a request that the tokenizer cannot encode, or one that is longer than the model's
    /// context.
    pub fn run(
        &self,
        model: &Model,
        tokenizer: &Tokenizer,
        surroundings: impl Into<Surroundings>,
        layer: usize,
        request: &Request,
    ) -> Result<Target> {
        self.run_within(model, tokenizer, surroundings, layer, request, None)
    }

    /// As [`run`](Self::run). A descent along the gradient ([`Descent::Steepest`](crate::llm::Descent::Steepest)) is turned away from where
    /// the model is sensitive.
    ///
    /// * `sensitivity`: of the outputs of block `layer`
    ///
    /// # Errors
    /// As [`run`](Self::run); a sensitivity of another size than the model's.
    pub fn run_within(
        &self,
        model: &Model,
        tokenizer: &Tokenizer,
        surroundings: impl Into<Surroundings>,
        layer: usize,
        request: &Request,
        sensitivity: Option<&Sensitivity>,
    ) -> Result<Target> {
        let ground = Ground { model, tokenizer, surroundings: &surroundings.into(), layer, sensitivity };
        let mut target = None;
        self.run_each(ground, std::slice::from_ref(request), |_, found| {
            target = Some(found);
            Others::All
        })?;
        target.unwrap_or_else(|| Err(NumericsError::Empty { argument: "requests", item: "request" }.into()))
    }

    /// Finds the targets of requests, on the model as it is now. Every search has its own course and its own end, and the evaluations of
    /// several are made together. The target of a request is the same as alone, to rounding.
    ///
    /// * `found`: gets the index of a request and its target, or why it has none, in the order in which searches end, and says which of
    ///   the others go on
    ///
    /// # Errors
    /// Settings out of range, an unknown layer, or a failure of the model.
    pub(in crate::llm) fn run_each<'a>(
        &'a self,
        ground: Ground<'a>,
        requests: &[Request],
        mut found: impl FnMut(usize, Result<Target>) -> Others,
    ) -> Result<()> {
        let Ground { model, layer, sensitivity, .. } = ground;
        self.check()?;
        sensitivity.map_or(Ok(()), |sensitivity| sensitivity.check(model))?;
        if layer >= model.blocks.len() {
            return Err(ModelError::UnknownLayer { layer, known: (0..model.blocks.len()).collect() }.into());
        }
        self.site.check(model, layer)?;
        let most = most_rows(model, layer);
        let (mut next, mut end) = (0, requests.len());
        let mut active: Vec<Searching<'a>> = vec![];
        loop {
            let mut rows: usize = active.iter().map(Searching::len).sum();
            // A few are prepared together.
            let mut opened = vec![];
            while next < end && (rows < most - most / 4 || !opened.is_empty()) {
                let asking = self.asking(ground, &requests[next]);
                match asking.and_then(|asking| asking.question(self).check(model).map(|()| asking)) {
                    Ok(asking) => {
                        let more = asking
                            .question(self)
                            .inputs()
                            .map(|(tokens, position)| tokens.len() - position)
                            .sum::<usize>();
                        if rows > 0 && rows + more > most {
                            break;
                        }
                        rows += more;
                        opened.push((next, asking));
                    }
                    Err(error) => end = found(next, Err(error)).end(next, end),
                }
                next += 1;
            }
            active.extend(self.begin(ground, &opened).map_err(failed)?);
            if active.is_empty() {
                return Ok(());
            }
            evaluate(&mut active, model.par).map_err(failed)?;
            for one in std::mem::take(&mut active) {
                let target = match one.next {
                    Ok(Going::On) => {
                        active.push(one);
                        continue;
                    }
                    Ok(Going::Ended) => Ok(one.course.target()),
                    Err(error) => Err(error),
                };
                end = found(one.request, target).end(one.request, end);
            }
            active.retain(|one| one.request < end);
        }
    }

    /// A request in the places of the search, and the anchor.
    fn asking(&self, ground: Ground<'_>, request: &Request) -> Result<Asking> {
        let asked = self.asked(ground.tokenizer, ground.surroundings, request)?;
        let kind = Request::checked(request.subject(), "{} is a", request.target()).with_token(request.token());
        let anchor = Prompt::new(ground.tokenizer, "", &kind, "")?;
        Ok(Asking { asked, anchor: (self.divergence > 0.0).then_some(anchor) })
    }

    /// Prepares searches, together.
    fn begin<'a>(&'a self, ground: Ground<'a>, asking: &[(usize, Asking)]) -> Computed<Vec<Searching<'a>>> {
        let Ground { model, layer, sensitivity, .. } = ground;
        if asking.is_empty() {
            return Ok(vec![]);
        }
        let questions: Vec<SearchQuestion<'_>> = asking.iter().map(|(_, asking)| asking.question(self)).collect();
        let prepared = prepared(model, layer, self.site, &questions)?;
        let begin = |((rows, outputs), (request, _)): ((SteeredRows<'a>, _), &(usize, _))| {
            let start = with_rows([&outputs], |[outputs]| outputs.row(0).to_vec())?;
            let course = Course::new(self, sensitivity, start, model.config.hidden);
            Ok(Searching { request: *request, rows, course, next: Ok(Going::On) })
        };
        prepared.into_iter().zip(asking).map(begin).collect()
    }
}

impl Asking {
    fn question(&self, search: &TargetSearch) -> SearchQuestion<'_> {
        let naming = search.naming as f32;
        let sequences = self
            .asked
            .iter()
            .map(|(one, _)| Steered::new(&one.tokens, &one.positions, one.start).with_name(one.name.clone(), naming));
        let weight = search.divergence as f32;
        let anchor = self.anchor.as_ref();
        let anchor = anchor.map(|anchor| Anchor { tokens: &anchor.tokens, position: anchor.position, weight });
        SearchQuestion { sequences: sequences.collect(), anchor }
    }
}

impl Searching<'_> {
    fn len(&self) -> usize {
        self.rows.batch.rows()
    }
}

/// Rows that are evaluated at once. One request is evaluated however many it needs.
fn most_rows(model: &Model, layer: usize) -> usize {
    let of_thread = ROWS.min((SHARED - 1) / model.config.hidden).max(64);
    (of_thread * model.par.degree()).min(model.tokens_in_memory(layer)).max(4)
}

/// Evaluates all searches and lets each take a step. Every thread has searches of its own, which are as one to it.
fn evaluate(active: &mut [Searching<'_>], par: Par) -> Computed<()> {
    let shares = shares(active, par.degree());
    let par = of_share(par, shares.len());
    shares.into_par_iter().map(|share| evaluate_share(share, par)).collect()
}

/// Consecutive searches for each thread, with about as many rows.
fn shares<'s, 'a>(mut left: &'s mut [Searching<'a>], threads: usize) -> Vec<&'s mut [Searching<'a>]> {
    let all: usize = left.iter().map(Searching::len).sum();
    let (mut shares, mut taken) = (vec![], 0);
    for thread in 1..=threads {
        let mut count = 0;
        while let Some(next) = left.get(count).map(Searching::len)
            && (thread == threads || taken + next / 2 < all * thread / threads)
        {
            taken += next;
            count += 1;
        }
        let (share, others) = std::mem::take(&mut left).split_at_mut(count);
        left = others;
        if !share.is_empty() {
            shares.push(share);
        }
    }
    shares
}

/// Evaluates some searches as one.
fn evaluate_share(share: &mut [Searching<'_>], par: Par) -> Computed<()> {
    let vectors: Vec<f32> = share.iter().flat_map(|one| one.course.vectors()).copied().collect();
    let (parts, loss) = match &*share {
        [one] => one.rows.run(&vectors, par)?,
        all => SteeredRows::joined(&all.iter().map(|one| &one.rows).collect::<Vec<_>>())?.run(&vectors, par)?,
    };
    for (one, parts) in share.iter_mut().zip(parts) {
        one.next = one.course.observe(parts);
    }
    let goes_on = |one: &Searching<'_>| matches!(one.next, Ok(Going::On));
    if !share.iter().any(goes_on) {
        return Ok(());
    }
    let mut gradient = loss.gradient()?;
    let numbers = vectors.len() / share.len();
    for (one, gradient) in share.iter_mut().zip(gradient.chunks_exact_mut(numbers)) {
        if goes_on(one) {
            one.next = Ok(one.course.step(gradient));
        }
    }
    Ok(())
}
