//! Replaying the journal when a session is opened.

use faer::Mat;

use super::Session;
use super::awake::awake;
use super::id::EditId;
use super::journal::Mark;
use super::layer::{Layer, LayerOutcome};
use super::outcome::{Applied, Outcome};
use super::record::{Batch, Record};
use super::report::Report;
use super::transaction::{copy_weight, guarded};
use crate::adapter::Adapter;
use crate::editor::Editor;
use crate::error::{Error, FileError, NumericsError, Result, SessionError};
use crate::refresh::RefreshReport;

impl<A: Adapter, E: Editor<A::Scalar> + Clone> Session<A, E> {
    /// The batch recorded at a place.
    pub(super) fn batch(&mut self, place: Mark) -> Result<Batch<A::Scalar>> {
        match self.record(place)?.0 {
            Record::Batch(batch) => Ok(batch),
            _ => Err(SessionError::Broken { problem: "the journal has no batch where one was written".into() }.into()),
        }
    }

    /// The record at a place, and the place after it.
    pub(super) fn record(&mut self, place: Mark) -> Result<(Record<A::Scalar>, Mark)> {
        let shapes: Vec<_> = self.layers.iter().map(Layer::shape).collect();
        let (kind, payload, end) = self.journal.read(place)?;
        let record = Record::decode(kind, &payload, &shapes)
            .map_err(|error| SessionError::Broken { problem: format!("the journal cannot be read: {error}") })?;
        Ok((record, end))
    }

    /// Brings model and editors to the end of the journal, from the snapshot or, without one, from the start.
    pub(super) fn recover(&mut self) -> Result<()> {
        // What was before the last derivation is not needed, and a snapshot of then is of no use.
        let derived = self.index.last_derived().map(|derived| derived.place);
        let is_later = |place: &Mark| derived.is_none_or(|derived| place.offset > derived.offset);
        let mut place = match (self.start_from_snapshot(is_later)?, derived) {
            (Some(place), _) => place,
            (None, Some(derived)) => derived,
            (None, None) => {
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

    /// Loads the snapshot, if there is a usable one, and returns its place.
    fn start_from_snapshot(&mut self, is_wanted: impl Fn(&Mark) -> bool) -> Result<Option<Mark>> {
        let place = match self.store.snapshot_place() {
            Ok(None) => return Ok(None),
            Ok(Some(place)) if !is_wanted(&place) => return Ok(None),
            Ok(Some(place)) if self.journal.holds(place) => place,
            Ok(Some(_)) => {
                self.recovery.snapshot_ignored = Some("it was taken beyond the end of the journal".into());
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
            Err(error @ Error::Model(_)) => Err(error),
            Err(error) => {
                self.recovery.snapshot_ignored = Some(error.to_string());
                Ok(None)
            }
        }
    }

    /// Resets to the model before the first edit.
    pub(super) fn reset(&mut self) -> Result<()> {
        self.reset_editors()?;
        let Self { store, layers, adapter, .. } = self;
        store.read_base(layers, |layer, weight| guarded(|| adapter.write_weight(layer.number, weight)))
    }

    fn reset_editors(&mut self) -> Result<()> {
        let Self { layers, method, par, .. } = self;
        (0..layers.len()).try_for_each(|i| {
            let layer = awake(layers, i)?;
            let editor = method.layer_editor(layer.statistics(), *par)?;
            layer.reset(editor)
        })
    }

    /// Brings model and editors to the weights that were derived at a place in the journal. Returns the report of then.
    pub(super) fn load_derived(&mut self, place: Mark) -> Result<Report> {
        self.reset_editors()?;
        let Self { store, layers, adapter, .. } = self;
        store.read_derived(place, layers, |layer, weight| guarded(|| adapter.write_weight(layer.number, weight)))
    }

    /// Replays a record. Returns the number of edits.
    fn play(&mut self, record: &Record<A::Scalar>, place: Mark) -> Result<usize> {
        match record {
            Record::Description(_) => Ok(0),
            Record::Rejected { count, .. } => {
                // Only the refreshes are replayed. What failed then fails again.
                let _ = self.refresh();
                self.report.rejected += *count as u64;
                Ok(*count)
            }
            Record::Undone { ids, rebuilt } => {
                if *rebuilt {
                    self.rebuild(ids, place)?;
                } else {
                    self.take_out(ids, place)?;
                }
                self.report.undone += ids.len() as u64;
                Ok(ids.len())
            }
            Record::Consolidated { gone, .. } => {
                self.report = self.load_derived(place)?;
                self.report.undone += gone.len() as u64;
                Ok(gone.len())
            }
            Record::Batch(batch) => {
                let mut refreshes = match batch.derivation {
                    None => self.refresh_again(),
                    Some(_) => vec![None; self.layers.len()],
                };
                if !batch.replaced.is_empty() {
                    match batch.derivation {
                        None => drop(self.withdraw(&batch.replaced, place)?),
                        Some(_) => self.report = self.load_derived(place)?,
                    }
                    refreshes = refreshes.into_iter().zip(self.refresh_again()).map(|(a, b)| b.or(a)).collect();
                }
                let own = batch.own_columns();
                let mut layers = Vec::with_capacity(self.layers.len());
                for (i, (part, refresh)) in batch.layers.iter().cloned().zip(refreshes).enumerate() {
                    layers.push(self.write(i, part.keys, part.residuals, own, refresh)?);
                }
                let ids: Vec<EditId> = (batch.first..).take(batch.subjects.len()).map(EditId).collect();
                let (edits, replaced) = (ids.len(), batch.replaced.clone());
                let outcome = Outcome::Applied(Applied { ids, replaced, conflicts: Vec::new(), layers });
                self.report.add(&outcome, batch.first + edits as u64);
                Ok(edits)
            }
        }
    }

    /// As [`refresh`](Self::refresh), for a batch that was applied.
    fn refresh_again(&mut self) -> Vec<Option<RefreshReport>> {
        self.refresh().unwrap_or_else(|_| vec![None; self.layers.len()])
    }

    /// Writes a batch to one layer, without guards.
    pub(super) fn write(
        &mut self,
        i: usize,
        keys: Mat<A::Scalar>,
        residuals: Mat<A::Scalar>,
        own: usize,
        refresh: Option<RefreshReport>,
    ) -> Result<LayerOutcome> {
        let (_, proposed) = self.propose(i, keys, residuals, own, refresh)?;
        self.apply(i, proposed.proposal.update())?;
        awake(&mut self.layers, i)?.commit(proposed)
    }

    pub(super) fn count_towards_snapshot(&mut self, edits: usize) {
        self.since_snapshot = self.since_snapshot.saturating_add(edits);
        if self.since_snapshot >= self.snapshot_every {
            // Without a way to save its editors, a session has no snapshots.
            let unsupported = |error: &Error| matches!(error, Error::Numerics(NumericsError::Unsupported { .. }));
            self.snapshot_failure = self.snapshot().err().filter(|error| !unsupported(error));
            self.since_snapshot = 0;
        }
    }

    /// Writes a snapshot now. Does nothing in a session without a directory.
    ///
    /// # Errors
    /// A directory that cannot be written, or an editor that cannot be saved. The previous snapshot stays then.
    pub fn snapshot(&mut self) -> Result<()> {
        if !self.store.is_durable() {
            return Ok(());
        }
        let place = self.journal.end();
        let Self { store, layers, adapter, report, .. } = self;
        let written = store.write_snapshot(place, report, layers, |layer| copy_weight(adapter, layer));
        written.map_err(unsaved)?;
        self.since_snapshot = 0;
        self.snapshot_failure = None;
        Ok(())
    }
}

/// The error of a state that could not be written.
pub(super) fn unsaved(error: Error) -> Error {
    match error {
        Error::File(FileError::Io { error, .. }) if error.kind() == std::io::ErrorKind::Unsupported => {
            NumericsError::Unsupported { what: "snapshots, by an editor that cannot be saved".into() }.into()
        }
        other => other,
    }
}
