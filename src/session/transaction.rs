//! One batch through all layers, applied as a whole or not at all; and the same from the journal.

use std::panic::{AssertUnwindSafe, catch_unwind};

use faer::{Mat, Scale};

use super::Session;
use super::conflict::{Conflict, ConflictPolicy, Index, near_signs, sketch, subject_hash};
use super::journal::Mark;
use super::layer::{Layer, Proposed, State};
use super::observer::Progress;
use super::outcome::{EditId, LayerOutcome, Outcome, Rejection};
use super::record::{Batch, MOST_REQUESTS, Part, Record};
use super::report::Report;
use crate::adapter::Adapter;
use crate::batch::EditBatch;
use crate::editor::{Editor, merging};
use crate::error::{EditError, Result};
use crate::linalg;
use crate::refresh::RefreshReport;
use crate::scalar::Scalar;
use crate::util::validate;

/// Why an attempt stopped: the batch is rejected, or the session cannot go on as it is.
enum Stop {
    Rejected(Rejection),
    Failed(EditError),
}

/// How far an attempt came: what has to be taken back if it fails.
struct Traces<T: Scalar> {
    /// Layers whose weight may have changed, the first ones.
    touched: usize,
    /// If edits were taken back, which changes editors as well: what was there before.
    kept: Option<Kept<T>>,
}

/// States and weights of all layers, kept aside.
pub(super) struct Kept<T: Scalar>(Vec<(State<T>, Mat<T>)>);

/// A batch at one layer: what the journal keeps of it, and its update.
type Step<T> = (Part<T>, Proposed<T>);

/// An attempt that came through: all that is left is to record and commit it.
struct Attempt<T: Scalar> {
    record: Record<T>,
    replaced: Vec<EditId>,
    proposed: Vec<Proposed<T>>,
    conflicts: Vec<Conflict>,
}

/// What is to be written of a batch once its conflicts are settled.
struct Settled {
    /// The requests behind every column.
    groups: Vec<Vec<usize>>,
    /// Past edits that give way.
    replaced: Vec<EditId>,
    found: Vec<Conflict>,
}

/// Runs code of an adapter; a panic in it becomes an error.
pub(super) fn guarded<R>(run: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
        Err(EditError::Adapter(format!("it panicked: {}", text.unwrap_or("without a message")).into()))
    })
}

/// Copies a layer's weight from the model.
fn copy_weight<A: Adapter>(adapter: &A, layer: &mut Layer<A::Scalar>) -> Result<()> {
    guarded(|| adapter.read_weight(layer.number, layer.before.as_mut()))?;
    validate::finite("the adapter's weight", layer.before.as_ref())
}

/// What a record says about requests joins the index.
pub(super) fn enter<T: Scalar>(index: &mut Index, place: Mark, record: &Record<T>) {
    match record {
        Record::Description(_) => {}
        Record::Batch(batch) => {
            batch.replaced.iter().for_each(|&id| index.take_back(id, place));
            let keys = &batch.layers[0].keys;
            for (i, &subject) in batch.subjects.iter().enumerate() {
                let column = batch.column(EditId(batch.first + i as u64));
                index.add(place, subject, column.map(|column| sketch(keys.as_ref().subcols(column, 1))));
            }
        }
        Record::Rejected { count, .. } => index.pass_over(*count),
        Record::Undone { ids, .. } => ids.iter().for_each(|&id| index.take_back(id, place)),
    }
}

impl<A: Adapter> Session<A> {
    /// Edits the model by a batch of requests, as a whole or not at all.
    ///
    /// Projectors whose refresh is due are refreshed first, whatever becomes of the batch.
    ///
    /// # Errors
    /// No requests, or a session that cannot go on: its directory cannot be written (the model is as before then), or a
    /// failed batch could not be taken back ([`EditError::SessionBroken`]). All else is an [`Outcome::Rejected`].
    pub fn edit(&mut self, requests: &[A::Request]) -> Result<Outcome> {
        self.replace(&[], requests)
    }

    /// Takes back past edits and writes new ones in their place, as one transaction: the new targets are reached as they
    /// would be by a first edit, not averaged with the old ones.
    ///
    /// # Errors
    /// As [`edit`](Self::edit), and [`EditError::UnknownEdit`].
    pub fn replace(&mut self, old: &[EditId], requests: &[A::Request]) -> Result<Outcome> {
        self.usable()?;
        if requests.is_empty() {
            return Err(EditError::Empty { argument: "requests" });
        }
        if requests.len() > MOST_REQUESTS {
            let (parameter, value) = ("requests of a batch", requests.len() as f64);
            return Err(EditError::Parameter { parameter, value, allowed: "up to 2^20" });
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
        traces: &mut Traces<A::Scalar>,
    ) -> std::result::Result<Attempt<A::Scalar>, Stop> {
        let mut refreshes = self.refresh().map_err(Stop::Rejected)?;
        let subjects = guarded(|| Ok(requests.iter().map(|request| self.adapter.subject(request)).collect::<Vec<_>>()))
            .map_err(|error| self.failed(0, error))?;
        let subjects: Vec<u64> = subjects.iter().map(|subject| subject_hash(subject.as_deref())).collect();
        let first_keys = self.keys(0, requests).map_err(|error| self.failed(0, error))?;
        let settled = self.settle(&first_keys, &subjects, ids, &replaced)?;
        replaced.extend(settled.replaced);
        if !replaced.is_empty() {
            traces.kept = Some(self.keep().map_err(|error| self.failed(0, error))?);
            self.withdraw(&replaced, self.journal.end()).map_err(|error| match error {
                EditError::Io { .. } | EditError::Format { .. } | EditError::SessionBroken { .. } => {
                    Stop::Failed(error)
                }
                error => self.failed(0, error),
            })?;
            for (report, again) in refreshes.iter_mut().zip(self.refresh().map_err(Stop::Rejected)?) {
                *report = again.or(*report);
            }
        }

        let mut first_keys = Some(first_keys);
        let (mut parts, mut proposed) = (Vec::new(), Vec::new());
        for (i, refresh) in refreshes.into_iter().enumerate() {
            let mut step = |session: &mut Self| {
                let keys = first_keys.take().map_or_else(|| session.keys(i, requests), Ok)?;
                let residuals = session.residuals(i, requests)?;
                let (keys, residuals) = match &settled.groups {
                    groups if groups.len() == requests.len() => (keys, residuals),
                    groups => (merging::merged(keys.as_ref(), groups), merging::merged(residuals.as_ref(), groups)),
                };
                session.propose(i, keys, residuals, refresh)
            };
            let (part, proposal) = step(self).map_err(|error| self.failed(i, error))?;
            if let Some(violation) = self.guards.violated(&proposal.outcome, settled.groups.len()) {
                return Err(Stop::Rejected(violation));
            }
            traces.touched = i + 1;
            self.apply(i, &proposal.update).map_err(|error| self.failed(i, error))?;
            parts.push(part);
            proposed.push(proposal);
        }
        let columns = settled.groups.iter().map(|group| group.iter().map(|&request| ids[request]).collect()).collect();
        let batch = Batch { first: ids[0].0, subjects, replaced: replaced.clone(), columns, layers: parts };
        Ok(Attempt { record: Record::Batch(batch), replaced, proposed, conflicts: settled.found })
    }

    fn failed(&self, layer: usize, error: EditError) -> Stop {
        Stop::Rejected(Rejection::Failed { layer: self.layers[layer].number, error })
    }

    /// The batch is in the journal: it counts.
    fn commit(&mut self, attempt: Attempt<A::Scalar>, ids: &[EditId], place: Mark) -> Result<Outcome> {
        let Attempt { record, replaced, mut proposed, conflicts } = attempt;
        let committed =
            self.layers.iter_mut().zip(&mut proposed).try_for_each(|(layer, proposed)| layer.commit(proposed));
        self.restored(|_| committed)?;
        enter(&mut self.index, place, &record);
        let layers = proposed.into_iter().map(|proposed| proposed.outcome).collect();
        Ok(Outcome::Applied { ids: ids.to_vec(), replaced, conflicts, layers })
    }

    /// Brings model and editors back to where the last confirmed batch left them.
    fn take_back(&mut self, traces: Traces<A::Scalar>) -> Result<()> {
        if let Some(kept) = traces.kept {
            return self.put_back(kept);
        }
        self.restored(|session| {
            let Self { adapter, layers, .. } = session;
            // Downwards, so that an adapter that works layer by layer begins anew at the lowest.
            layers[..traces.touched]
                .iter()
                .rev()
                .try_for_each(|layer| guarded(|| adapter.write_weight(layer.number, layer.before.as_ref())))
        })
    }

    /// Keeps aside what an undo changes.
    pub(super) fn keep(&mut self) -> Result<Kept<A::Scalar>> {
        let Self { adapter, layers, .. } = self;
        let keep = |layer: &mut Layer<A::Scalar>| {
            copy_weight(adapter, layer)?;
            Ok((layer.state(), layer.before.clone()))
        };
        layers.iter_mut().map(keep).collect::<Result<_>>().map(Kept)
    }

    pub(super) fn put_back(&mut self, kept: Kept<A::Scalar>) -> Result<()> {
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

    /// Refreshes the projectors that are due. What was refreshed before a failure stays so.
    pub(super) fn refresh(&mut self) -> std::result::Result<Vec<Option<RefreshReport>>, Rejection> {
        let refresh = |layer: &mut Layer<A::Scalar>| {
            layer.editor.refresh_if_due().map_err(|error| Rejection::Failed { layer: layer.number, error })
        };
        self.layers.iter_mut().map(refresh).collect()
    }

    fn keys(&mut self, i: usize, requests: &[A::Request]) -> Result<Mat<A::Scalar>> {
        let Self { adapter, layers, .. } = self;
        let keys = guarded(|| adapter.keys(layers[i].number, requests))?;
        validate::shape("the adapter's keys", keys.as_ref(), layers[i].shape().1, requests.len())?;
        validate::finite("the adapter's keys", keys.as_ref())?;
        Ok(keys)
    }

    fn residuals(&mut self, i: usize, requests: &[A::Request]) -> Result<Mat<A::Scalar>> {
        let share = self.share.of(self.layers.len() - i);
        let Self { adapter, layers, .. } = self;
        let residuals = guarded(|| adapter.residuals(layers[i].number, requests))?;
        validate::shape("the adapter's residuals", residuals.as_ref(), layers[i].shape().0, requests.len())?;
        validate::finite("the adapter's residuals", residuals.as_ref())?;
        Ok(residuals * Scale(A::Scalar::of_f64(share)))
    }

    /// The update of a layer, with the weight as it is kept aside.
    fn propose(
        &mut self,
        i: usize,
        keys: Mat<A::Scalar>,
        residuals: Mat<A::Scalar>,
        refresh: Option<RefreshReport>,
    ) -> Result<Step<A::Scalar>> {
        self.read_weight(i)?;
        let layer = &self.layers[i];
        let before = linalg::product(layer.before.as_ref(), keys.as_ref(), self.par);
        let proposed = layer.propose(&EditBatch::new(keys.as_ref(), residuals.as_ref())?, &self.guards, refresh)?;
        Ok((Part { keys, residuals, before }, proposed))
    }

    pub(super) fn read_weight(&mut self, i: usize) -> Result<()> {
        let Self { adapter, layers, .. } = self;
        copy_weight(adapter, &mut layers[i])
    }

    pub(super) fn apply(&mut self, i: usize, update: &crate::update::Update<A::Scalar>) -> Result<()> {
        let Self { adapter, layers, .. } = self;
        guarded(|| adapter.apply(layers[i].number, update))
    }

    /// Finds conflicts, and decides by the policy what is written.
    fn settle(
        &mut self,
        keys: &Mat<A::Scalar>,
        subjects: &[u64],
        ids: &[EditId],
        giving_way: &[EditId],
    ) -> std::result::Result<Settled, Stop> {
        let n = ids.len();
        let mut found = Vec::new();
        let together = merging::groups(n, |a, b| {
            let cosine = merging::cosine(keys.as_ref(), a, keys.as_ref(), b);
            let same_subject = subjects[a] != 0 && subjects[a] == subjects[b];
            let conflict = same_subject || cosine >= self.near;
            if conflict {
                found.push(Conflict { edit: ids[b], with: ids[a], cosine, same_subject });
            }
            conflict
        });
        let groups: Vec<Vec<usize>> = match self.policy {
            ConflictPolicy::Merge => together,
            ConflictPolicy::LastWins => together.iter().filter_map(|group| Some(vec![*group.last()?])).collect(),
            ConflictPolicy::Report if self.merges => together,
            ConflictPolicy::Report | ConflictPolicy::Reject => (0..n).map(|request| vec![request]).collect(),
        };
        let mut replaced = Vec::new();
        for (j, &id) in ids.iter().enumerate() {
            let sketch = sketch(keys.as_ref().subcols(j, 1));
            for (with, same_subject) in self.index.candidates(subjects[j], sketch, near_signs(self.near)) {
                let Some(place) = self.index.place(with).filter(|_| !giving_way.contains(&with)) else { continue };
                let past = self.batch(place).map_err(Stop::Failed)?;
                let Some(column) = past.column(with) else { continue };
                let cosine = merging::cosine(past.layers[0].keys.as_ref(), column, keys.as_ref(), j);
                if same_subject || cosine >= self.near {
                    found.push(Conflict { edit: id, with, cosine, same_subject });
                    // A request that is overruled within its batch overrules nothing.
                    let written = groups.iter().any(|group| group.contains(&j));
                    if written && !replaced.contains(&with) {
                        replaced.push(with);
                    }
                }
            }
        }
        if self.policy == ConflictPolicy::Reject
            && let Some(&conflict) = found.first()
        {
            return Err(Stop::Rejected(Rejection::Conflict(conflict)));
        }
        if matches!(self.policy, ConflictPolicy::Report | ConflictPolicy::Reject) {
            replaced.clear();
        }
        let replaced = self.with_partners(&replaced).map_err(Stop::Failed)?;
        Ok(Settled { groups, replaced, found })
    }

    /// The batch that is recorded at a place.
    pub(super) fn batch(&mut self, place: Mark) -> Result<Batch<A::Scalar>> {
        match self.record(place)?.0 {
            Record::Batch(batch) => Ok(batch),
            _ => Err(EditError::SessionBroken { problem: "the journal has no batch where one was written".into() }),
        }
    }

    /// The record at a place, and the place after it.
    pub(super) fn record(&mut self, place: Mark) -> Result<(Record<A::Scalar>, Mark)> {
        let shapes: Vec<_> = self.layers.iter().map(Layer::shape).collect();
        let (kind, payload, end) = self.journal.read(place)?;
        let record = Record::decode(kind, &payload, &shapes)
            .map_err(|error| EditError::SessionBroken { problem: format!("the journal cannot be read: {error}") })?;
        Ok((record, end))
    }

    /// Brings model and editors to where the journal ends: from the snapshot, or from the start if there is none.
    pub(super) fn recover(&mut self) -> Result<()> {
        let start = self.start_from_snapshot()?;
        let mut place = match start {
            Some(place) => place,
            None => {
                self.reset()?;
                self.report = Report::default();
                self.journal.start()
            }
        };
        let (mut replayed, mut edits) = (0, 0);
        while place != self.journal.end() {
            let (record, next) = self.record(place)?;
            edits += self.play(&record, place)?;
            replayed += u64::from(record.kind() != 0);
            place = next;
        }
        self.recovery.replayed = replayed;
        self.since_snapshot = edits;
        Ok(())
    }

    /// The place of the snapshot, if there is one and it could be loaded.
    fn start_from_snapshot(&mut self) -> Result<Option<Mark>> {
        let place = match self.store.snapshot_place() {
            Ok(None) => return Ok(None),
            Ok(Some(place)) if self.journal.holds(place) => place,
            Ok(Some(_)) => {
                self.recovery.snapshot_ignored = Some("it was taken after the end of the journal".into());
                return Ok(None);
            }
            Err(error) => {
                self.recovery.snapshot_ignored = Some(error.to_string());
                return Ok(None);
            }
        };
        let Self { store, layers, adapter, .. } = self;
        let loaded =
            store.read_snapshot(layers, |layer, weight| guarded(|| adapter.write_weight(layer.number, weight)));
        match loaded {
            Ok(report) => {
                self.report = report;
                Ok(Some(place))
            }
            Err(error @ EditError::Adapter(_)) => Err(error),
            Err(error) => {
                self.recovery.snapshot_ignored = Some(error.to_string());
                Ok(None)
            }
        }
    }

    /// Back to the model before the first edit.
    pub(super) fn reset(&mut self) -> Result<()> {
        let Self { store, layers, adapter, .. } = self;
        layers.iter_mut().try_for_each(Layer::reset)?;
        store.read_base(layers, |layer, weight| guarded(|| adapter.write_weight(layer.number, weight)))
    }

    /// Does again what a record says. Returns the number of edits.
    fn play(&mut self, record: &Record<A::Scalar>, place: Mark) -> Result<usize> {
        match record {
            Record::Description(_) => Ok(0),
            Record::Rejected { count, .. } => {
                // Nothing but the refreshes; what failed then fails again.
                let _ = self.refresh();
                self.report.rejected += *count as u64;
                Ok(*count)
            }
            Record::Undone { ids, rebuilt } => {
                if *rebuilt {
                    self.rebuild(ids, place)?;
                } else {
                    self.withdraw(ids, place)?;
                }
                self.report.undone += ids.len() as u64;
                Ok(ids.len())
            }
            Record::Batch(batch) => {
                let mut refreshes = self.refresh_again();
                if !batch.replaced.is_empty() {
                    self.withdraw(&batch.replaced, place)?;
                    refreshes = refreshes.into_iter().zip(self.refresh_again()).map(|(a, b)| b.or(a)).collect();
                }
                let mut layers = Vec::with_capacity(self.layers.len());
                for (i, (part, refresh)) in batch.layers.iter().cloned().zip(refreshes).enumerate() {
                    layers.push(self.write(i, part.keys, part.residuals, refresh)?);
                }
                let ids: Vec<EditId> = (batch.first..).take(batch.subjects.len()).map(EditId).collect();
                let (edits, replaced) = (ids.len(), batch.replaced.clone());
                let outcome = Outcome::Applied { ids, replaced, conflicts: Vec::new(), layers };
                self.report.add(&outcome, batch.first + edits as u64);
                Ok(edits)
            }
        }
    }

    /// As [`refresh`](Self::refresh), for a batch that came through when it was new.
    fn refresh_again(&mut self) -> Vec<Option<RefreshReport>> {
        self.refresh().unwrap_or_else(|_| vec![None; self.layers.len()])
    }

    /// A batch at one layer, without guards.
    pub(super) fn write(
        &mut self,
        i: usize,
        keys: Mat<A::Scalar>,
        residuals: Mat<A::Scalar>,
        refresh: Option<RefreshReport>,
    ) -> Result<LayerOutcome> {
        let (_, mut proposed) = self.propose(i, keys, residuals, refresh)?;
        self.apply(i, &proposed.update)?;
        self.layers[i].commit(&mut proposed)?;
        Ok(proposed.outcome)
    }

    pub(super) fn count_towards_snapshot(&mut self, edits: usize) {
        self.since_snapshot = self.since_snapshot.saturating_add(edits);
        if self.since_snapshot >= self.snapshot_every {
            self.snapshot_failure = self.snapshot().err();
            self.since_snapshot = 0;
        }
    }

    /// Writes a snapshot now. Without a directory there is nothing to do.
    ///
    /// # Errors
    /// A directory that cannot be written; the last snapshot stays then.
    pub fn snapshot(&mut self) -> Result<()> {
        if !self.store.is_durable() {
            return Ok(());
        }
        let place = self.journal.end();
        let Self { store, layers, adapter, report, .. } = self;
        store.write_snapshot(place, report, layers, |layer| copy_weight(adapter, layer))?;
        self.since_snapshot = 0;
        self.snapshot_failure = None;
        Ok(())
    }
}
