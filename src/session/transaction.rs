//! One batch through all layers, applied as a whole or not at all.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use faer::Mat;

use super::Session;
use super::awake::{awake, awake_to_read};
use super::conflict::{Conflict, EditIndex, sketch, subject_hash};
use super::id::EditId;
use super::journal::Mark;
use super::layer::{Layer, Proposed, Stability, State};
use super::observer::{LayerStep, Progress};
use super::outcome::{Applied, Outcome, Rejection};
use super::record::{Batch, MOST_REQUESTS, Part, Record};
use crate::adapter::{self, Adapter};
use crate::batch::EditBatch;
use crate::editor::Editor;
use crate::error::{Error, ModelError, NumericsError, Result, SessionError};
use crate::linalg;
use crate::refresh::RefreshReport;
use crate::scalar::Scalar;
use crate::update::Update;
use crate::util::validate;

/// Why an attempt stopped: the batch is rejected, or an error is returned.
pub(super) enum Stop {
    Rejected(Rejection),
    Failed(Error),
}

/// What an attempt has changed, and must be rolled back if it fails.
struct Traces<T: Scalar, E> {
    /// How many layers, from the first, may have a changed weight.
    touched: usize,
    /// The state before past edits were undone, which also changes editors; `None` if none were.
    kept: Option<Kept<T, E>>,
}

/// A copy of the states and weights of all layers.
pub(super) struct Kept<T: Scalar, E>(Vec<(State<E>, Mat<T>)>);

/// A batch at one layer: what the journal keeps of it, and its update.
type Step<T> = (Part<T>, Proposed<T>);

/// An attempt that succeeded, to be recorded and committed.
struct Attempt<T: Scalar> {
    record: Record<T>,
    replaced: Vec<EditId>,
    proposed: Vec<Proposed<T>>,
    conflicts: Vec<Conflict>,
}

/// Runs code of an adapter; a panic in it becomes an error.
pub(super) fn guarded<R>(run: impl FnOnce() -> Result<R>) -> Result<R> {
    caught(run).unwrap_or_else(|panic| Err(ModelError::Adapter(panic.into()).into()))
}

/// Runs code of an editor; a panic in it becomes an error.
pub(super) fn guarded_editor<R>(run: impl FnOnce() -> Result<R>) -> Result<R> {
    caught(run).unwrap_or_else(|panic| Err(NumericsError::Editor(panic.into()).into()))
}

/// What code returns, or what it panicked with.
fn caught<R>(run: impl FnOnce() -> R) -> std::result::Result<R, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
        format!("it panicked: {}", text.unwrap_or("without a message"))
    })
}

/// Copies a layer's weight from the model.
pub(super) fn copy_weight<A: Adapter, E: Editor<A::Scalar> + Clone>(
    adapter: &A,
    layer: &mut Layer<A::Scalar, E>,
) -> Result<()> {
    guarded(|| adapter.read_weight(layer.number, layer.before_mut()))?;
    Ok(validate::finite("the adapter's weight", layer.before.as_ref())?)
}

/// Adds what a record says about requests to the index.
pub(super) fn enter<T: Scalar>(index: &mut EditIndex, place: Mark, record: &Record<T>) {
    match record {
        Record::Description(_) => {}
        Record::Batch(batch) => {
            batch.replaced.iter().for_each(|&id| index.take_back(id, place));
            let keys = &batch.layers[0].keys;
            for (i, &subject) in batch.subjects.iter().enumerate() {
                let id = EditId(batch.first + i as u64);
                let written = batch.column(id).map(|column| {
                    let group = batch.columns[column].first().copied().unwrap_or(id);
                    (sketch(keys.as_ref().subcols(column, 1)), group)
                });
                index.add(place, subject, written, batch.requests.get(i).map(Vec::as_slice));
            }
        }
        Record::Rejected { count, .. } => index.pass_over(*count),
        Record::Undone { ids, .. } => ids.iter().for_each(|&id| index.take_back(id, place)),
        Record::Consolidated { gone, .. } => gone.iter().for_each(|&id| index.take_back(id, place)),
    }
    if let Some(derivation) = record.derivation() {
        index.derive(place, derivation);
    }
}

impl<A: Adapter, E: Editor<A::Scalar> + Clone> Session<A, E> {
    /// Edits the model with a batch of requests, as a whole or not at all.
    ///
    /// Projectors that are due for a refresh are refreshed first, and stay so even if the batch is rejected.
    ///
    /// # Errors
    /// No requests, or more than 2^20; a directory that cannot be written (the model is unchanged then); a failed batch that
    /// could not be rolled back ([`SessionError::Broken`]). Any other failure is an [`Outcome::Rejected`].
    pub fn edit(&mut self, requests: &[A::Request]) -> Result<Outcome> {
        self.replace(&[], requests)
    }

    /// Undoes past edits and writes new ones instead, in one transaction. The new targets are reached as by a first edit, and
    /// are not averaged with the old ones.
    ///
    /// # Errors
    /// As [`edit`](Self::edit), and [`SessionError::UnknownEdit`].
    pub fn replace(&mut self, old: &[EditId], requests: &[A::Request]) -> Result<Outcome> {
        self.usable()?;
        if requests.is_empty() {
            return Err(NumericsError::Empty { argument: "requests", item: "request" }.into());
        }
        if requests.len() > MOST_REQUESTS {
            let (parameter, value) = ("requests of a batch", requests.len() as f64);
            return Err(NumericsError::Parameter { parameter, value, allowed: "up to 2^20" }.into());
        }
        let old = self.with_partners(old)?;
        let first = self.processed();
        let ids: Vec<EditId> = (first..first + requests.len() as u64).map(EditId).collect();
        let mut traces = Traces { touched: 0, kept: None };
        let outcome = match self.attempt(old, requests, &ids, &mut traces) {
            Ok(attempt) => match self.append(&attempt.record) {
                Ok(place) => self.commit(attempt, &ids, place)?,
                Err(error) => {
                    self.take_back(traces)?;
                    return Err(error);
                }
            },
            Err(stop) => {
                self.take_back(traces)?;
                match stop {
                    Stop::Failed(error) => return Err(error),
                    Stop::Rejected(reason) => {
                        let record = Record::Rejected { first, count: ids.len(), reason: reason.to_string() };
                        let place = self.append(&record)?;
                        enter(&mut self.index, place, &record);
                        Outcome::Rejected { ids, reason }
                    }
                }
            }
        };
        let done = outcome.ids().len();
        self.report.add(&outcome, self.processed());
        self.observer.outcome(
            &outcome,
            &Progress {
                processed: self.processed(),
                applied: self.index.applied(),
                rejected: self.report.rejected,
                processed_now: self.processed() - self.processed_before,
                elapsed: self.started.elapsed(),
            },
        );
        self.count_towards_snapshot(done);
        Ok(outcome)
    }

    pub(super) fn append(&mut self, record: &Record<A::Scalar>) -> Result<Mark> {
        self.journal.append(record.kind(), &record.encode())
    }

    fn attempt(
        &mut self,
        mut replaced: Vec<EditId>,
        requests: &[A::Request],
        ids: &[EditId],
        traces: &mut Traces<A::Scalar, E>,
    ) -> std::result::Result<Attempt<A::Scalar>, Stop> {
        let refused = |(layer, error)| Stop::Rejected(Rejection::Failed { layer, error: Arc::new(error) });
        let mut refreshes = self.refresh().map_err(refused)?;
        let subjects = guarded(|| Ok(requests.iter().map(|request| self.adapter.subject(request)).collect::<Vec<_>>()))
            .map_err(|error| self.failed(0, error))?;
        let subjects: Vec<u64> = subjects.iter().map(|subject| subject_hash(subject.as_deref())).collect();
        let first_keys = self.keys(0, requests).map_err(|error| self.failed(0, error))?;
        let settled = self.settle(&first_keys, &subjects, ids, &replaced)?;
        replaced.extend(settled.replaced);
        let mut derivation = None;
        if !replaced.is_empty() {
            traces.kept = Some(self.keep().map_err(|error| self.failed(0, error))?);
            let withdrawn = match self.derived_holds(&replaced) {
                true => self.derive_without(&replaced).map(|derived| derivation = Some(derived)),
                false => self.withdraw(&replaced, self.journal.end()).map(drop),
            };
            withdrawn.map_err(|error| match error {
                Error::File(_) | Error::Session(SessionError::Broken { .. }) => Stop::Failed(error),
                error => self.failed(0, error),
            })?;
            for (report, again) in refreshes.iter_mut().zip(self.refresh().map_err(refused)?) {
                *report = again.or(*report);
            }
        }

        let mut first_keys = Some(first_keys);
        let mut further: Option<Vec<usize>> = None;
        let (mut parts, mut proposed) = (Vec::new(), Vec::new());
        for (i, refresh) in refreshes.into_iter().enumerate() {
            let keys = first_keys.take();
            let step = |session: &mut Self| {
                let asked = session.asked(i, requests, &settled.groups, keys, &mut further)?;
                session.propose(i, asked.keys, asked.residuals, asked.own, refresh)
            };
            let (part, proposal) = step(self).map_err(|error| self.failed(i, error))?;
            if let Some(violation) = self.guards.violated(&proposal.outcome, settled.groups.len()) {
                return Err(Stop::Rejected(Rejection::Guard(violation)));
            }
            traces.touched = i + 1;
            self.apply_and_verify(i, proposal.proposal.update()).map_err(|error| self.failed(i, error))?;
            parts.push(part);
            proposed.push(proposal);
            let (layer, of) = (self.layers[i].number, self.layers.len());
            self.observer.solving(&LayerStep { layer, done: i + 1, of, requests: requests.len() });
        }
        let groups = settled.groups.iter().chain(further.iter().flatten().map(|&group| &settled.groups[group]));
        let columns = groups.map(|group| group.iter().map(|&request| ids[request]).collect()).collect();
        let remembered = guarded(|| {
            let targets = self.adapter.find_targets(requests)?;
            Ok((requests.iter().map(|request| self.adapter.encode(request)).collect(), targets))
        });
        let (requests, targets) = remembered.map_err(|error| self.failed(0, error))?;
        let batch = Batch {
            first: ids[0].0,
            subjects,
            replaced: replaced.clone(),
            columns,
            layers: parts,
            requests: Option::unwrap_or_default(requests),
            targets,
            derivation,
        };
        Ok(Attempt { record: Record::Batch(batch), replaced, proposed, conflicts: settled.found })
    }

    fn failed(&self, layer: usize, error: Error) -> Stop {
        Stop::Rejected(Rejection::Failed { layer: self.layers[layer].number, error: Arc::new(error) })
    }

    /// Commits a batch that is in the journal.
    fn commit(&mut self, attempt: Attempt<A::Scalar>, ids: &[EditId], place: Mark) -> Result<Outcome> {
        let Attempt { record, replaced, proposed, conflicts } = attempt;
        // It is in the journal, so it counts, whatever becomes of the editors.
        enter(&mut self.index, place, &record);
        if record.derivation().is_some() {
            self.sweep();
        }
        let commit = |session: &mut Self| {
            let mut committed = |(i, proposed)| {
                let layer = awake(&mut session.layers, i)?;
                let outcome = guarded_editor(|| layer.commit(proposed))?;
                layer.forget_before();
                Ok(outcome)
            };
            proposed.into_iter().enumerate().map(&mut committed).collect::<Result<Vec<_>>>()
        };
        let layers = self.restored(commit)?;
        Ok(Outcome::Applied(Applied { ids: ids.to_vec(), replaced, conflicts, layers }))
    }

    /// Restores model and editors to their state after the last confirmed batch.
    fn take_back(&mut self, traces: Traces<A::Scalar, E>) -> Result<()> {
        if let Some(kept) = traces.kept {
            self.put_back(kept)?;
            self.sweep();
            return Ok(());
        }
        self.restored(|session| {
            let Self { adapter, layers, .. } = session;
            // From the top down, so that an adapter that works layer by layer starts again at the lowest.
            layers[..traces.touched]
                .iter()
                .rev()
                .try_for_each(|layer| guarded(|| adapter.write_weight(layer.number, layer.before.as_ref())))
        })
    }

    /// Copies what an undo changes.
    pub(super) fn keep(&mut self) -> Result<Kept<A::Scalar, E>> {
        let Self { adapter, layers, rest_in, .. } = self;
        let keep = |layer: &mut Layer<A::Scalar, E>| {
            copy_weight(adapter, layer)?;
            Ok((layer.state(rest_in.as_deref())?, layer.before.clone()))
        };
        layers.iter_mut().map(keep).collect::<Result<_>>().map(Kept)
    }

    pub(super) fn put_back(&mut self, kept: Kept<A::Scalar, E>) -> Result<()> {
        self.restored(|session| {
            let Self { adapter, layers, .. } = session;
            let mut outcome = Ok(());
            for (layer, (state, weight)) in layers.iter_mut().zip(kept.0).rev() {
                layer.put_back(state);
                outcome = outcome.and(guarded(|| adapter.write_weight(layer.number, weight.as_ref())));
            }
            outcome
        })
    }

    /// Refreshes the projectors that are due. A refresh before a failure stays. An error comes with the layer's number.
    pub(super) fn refresh(&mut self) -> std::result::Result<Vec<Option<RefreshReport>>, (usize, Error)> {
        let Self { layers, broken, .. } = self;
        let of = layers.len();
        let mut refresh = |layer: &mut Layer<A::Scalar, E>| {
            caught(|| layer.editor.refresh_if_due()).unwrap_or_else(|panic| {
                // Nobody knows how far it came.
                *broken = Some(panic.clone());
                Err(NumericsError::Editor(panic.into()))
            })
        };
        let refresh = |i: usize| {
            let number = layers[i].number;
            let refreshed = match refresh(&mut layers[i]) {
                // A refresh is due, and the layer lies down.
                Err(NumericsError::AtRest(_)) => awake(layers, i).and_then(|layer| Ok(refresh(layer)?)),
                refreshed => refreshed.map_err(Error::from),
            };
            refreshed.map_err(|error| (number, error))
        };
        (0..of).map(refresh).collect()
    }

    /// Copies a layer's weight and computes its update. The first `own` columns are of the requests themselves.
    pub(super) fn propose(
        &mut self,
        i: usize,
        keys: Mat<A::Scalar>,
        residuals: Mat<A::Scalar>,
        own: usize,
        refresh: Option<RefreshReport>,
    ) -> Result<Step<A::Scalar>> {
        self.read_weight(i)?;
        let stability = match self.guards.stability {
            Some(_) => Stability::Measured,
            None => Stability::WithTheGauges,
        };
        let layer = awake_to_read(&mut self.layers, i)?;
        let before = linalg::product(layer.before.as_ref(), keys.as_ref(), self.par);
        let batch = EditBatch::new(keys.as_ref(), residuals.as_ref())?;
        let proposed = guarded_editor(|| layer.propose(&batch, own, stability, refresh))?;
        Ok((Part { keys, residuals, before }, proposed))
    }

    pub(super) fn read_weight(&mut self, i: usize) -> Result<()> {
        let Self { adapter, layers, .. } = self;
        copy_weight(adapter, &mut layers[i])
    }

    /// Applies an update. For the first one of a layer, checks that it arrives in the weight.
    pub(super) fn apply_and_verify(&mut self, i: usize, update: &Update<A::Scalar>) -> Result<()> {
        self.apply(i, update)?;
        let Self { adapter, layers, par, .. } = self;
        let layer = &mut layers[i];
        if !layer.verified {
            let (d_out, d_in) = layer.shape();
            let mut after = Mat::zeros(d_out, d_in);
            guarded(|| adapter.read_weight(layer.number, after.as_mut()))?;
            adapter::check_applied(layer.number, layer.before.as_ref(), after.as_ref(), update, *par)?;
            layer.verified = true;
        }
        Ok(())
    }

    pub(super) fn apply(&mut self, i: usize, update: &Update<A::Scalar>) -> Result<()> {
        let Self { adapter, layers, .. } = self;
        guarded(|| adapter.apply(layers[i].number, update))
    }
}
