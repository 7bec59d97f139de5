//! Undoing past edits, as if they had never been made.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::Session;
use super::awake::awake;
use super::id::EditId;
use super::journal::Mark;
use super::layer::Layer;
use super::outcome::Undone;
use super::record::{Part, Record};
use super::transaction::guarded_editor;
use crate::adapter::Adapter;
use crate::batch::EditBatch;
use crate::editor::{Editor, Reversal};
use crate::error::{Error, NumericsError, Result, SessionError};
use crate::linalg;
use crate::scalar::cast;
use crate::update::Update;

/// The largest `s = kᵀ Q k` of a key that is removed from a history; the error of the removal is about `1e-16 s²`.
const RELEASABLE: f64 = 1e3;

impl<A: Adapter, E: Editor<A::Scalar> + Clone> Session<A, E> {
    /// Undoes past edits: weights and history become what they would be without them, with the keys and targets (`W k + r` at
    /// the time) of all other edits as they were recorded.
    ///
    /// With a fixed projector this costs as much as an edit, by the identity
    ///
    /// ```text
    /// Q <- Q + z zᵀ / (1 - g),    W <- W - (v - W k) zᵀ / (1 - g),    z = Q k,  g = kᵀ z
    /// ```
    ///
    /// and is exact to about `1e-16 s²`. Without history, the update of the batch is replaced by that of its other edits.
    ///
    /// Here `s = kᵀ Q k` with the `Q` of the other edits, at most [`LayerOutcome::stability`](super::LayerOutcome::stability).
    ///
    /// If the edits have shaped a projector, if `s > 1000`, or if the method or a restraint does not allow either way, the other
    /// edits are replayed from the start. This costs as much as they did, and approximates nothing. In a session of several
    /// layers, the keys of the layers above an undone edit stay as they were recorded. If no other edit is left, the first weights
    /// are restored, bit for bit. If one of the edits was [consolidated](Self::consolidate), the weights are derived anew without it.
    ///
    /// # Errors
    /// [`SessionError::UnknownEdit`] for edits that are not in the model, and the errors of [`edit`](Self::edit). Nothing is
    /// changed then.
    pub fn undo(&mut self, ids: &[EditId]) -> Result<Undone> {
        self.usable()?;
        if ids.is_empty() {
            return Err(NumericsError::Empty { argument: "ids", item: "edit" }.into());
        }
        let ids = self.with_partners(ids)?;
        if self.derived_holds(&ids) && self.others_held(&ids, self.journal.end()) {
            self.consolidate_without(&ids, &self.as_last())?;
            self.count_towards_snapshot(ids.len());
            return Ok(Undone { ids, rebuilt: true });
        }
        let kept = self.keep()?;
        let undone = self
            .take_out(&ids, self.journal.end())
            .and_then(|rebuilt| Ok((rebuilt, self.append(&Record::Undone { ids: ids.clone(), rebuilt })?)));
        let (rebuilt, place) = match undone {
            Ok(done) => done,
            Err(error) => {
                self.put_back(kept)?;
                return Err(error);
            }
        };
        ids.iter().for_each(|&id| self.index.take_back(id, place));
        self.report.undone += ids.len() as u64;
        // A rebuild is expensive; a snapshot keeps it from being repeated.
        self.count_towards_snapshot(if rebuilt { self.snapshot_every } else { ids.len() });
        Ok(Undone { ids, rebuilt })
    }

    /// These edits, each once, and those that were merged with one of them. All must be in the model.
    pub(super) fn with_partners(&mut self, ids: &[EditId]) -> Result<Vec<EditId>> {
        let mut all = BTreeSet::new();
        for &id in ids {
            let processed = self.processed();
            let place = self.index.place(id).filter(|_| self.index.is_applied(id));
            let place = place.ok_or(SessionError::UnknownEdit { id: id.0, processed })?;
            let batch = self.batch(place)?;
            let column = batch.column(id).ok_or(SessionError::UnknownEdit { id: id.0, processed })?;
            all.extend(&batch.columns[column]);
        }
        Ok(all.into_iter().collect())
    }

    /// As [`withdraw`](Self::withdraw), but restores the first weights as they were if no other edit is left.
    pub(super) fn take_out(&mut self, ids: &[EditId], end: Mark) -> Result<bool> {
        if self.others_held(ids, end) {
            return self.withdraw(ids, end);
        }
        guarded_editor(|| self.reset())?;
        Ok(false)
    }

    /// Whether other edits than these are in the model at a place of the journal.
    fn others_held(&self, ids: &[EditId], end: Mark) -> bool {
        let ids: HashSet<EditId> = ids.iter().copied().collect();
        // The latest first: one of them is usually there.
        let before_end = |id| self.index.place(id).is_some_and(|place| place.offset < end.offset);
        let mut all = (0..self.processed()).rev().map(EditId);
        all.any(|id| !ids.contains(&id) && self.index.was_applied(id, end) && before_end(id))
    }

    /// Removes edits from weights and histories. Returns whether that took a rebuild from the journal up to `end`. After an
    /// error the state is undefined.
    pub(super) fn withdraw(&mut self, ids: &[EditId], end: Mark) -> Result<bool> {
        match guarded_editor(|| self.withdraw_directly(ids, end)) {
            Ok(()) => Ok(false),
            Err(Error::Numerics(
                NumericsError::HistoryInProjector
                | NumericsError::NotReversible
                | NumericsError::RefreshDue { .. }
                | NumericsError::Singular { .. },
            )) => {
                guarded_editor(|| self.rebuild(ids, end))?;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    fn withdraw_directly(&mut self, ids: &[EditId], end: Mark) -> Result<()> {
        if self.layers.iter().any(Layer::is_restrained) {
            return Err(NumericsError::NotReversible.into());
        }
        let mut places = BTreeMap::new();
        for id in ids {
            let unknown = SessionError::UnknownEdit { id: id.0, processed: self.processed() };
            let place = self.index.place(*id).ok_or(unknown)?;
            places.insert(place.offset, place);
        }
        for place in places.into_values() {
            let batch = self.batch(place)?;
            let (mut leaving, mut staying) = (Vec::new(), Vec::new());
            for (column, members) in batch.columns.iter().enumerate() {
                match members.first() {
                    Some(id) if ids.contains(id) => leaving.push(column),
                    Some(&id) if self.index.was_applied(id, end) => staying.push(column),
                    _ => {}
                }
            }
            for (i, part) in batch.layers.iter().enumerate() {
                match self.layers[i].editor.reversal() {
                    Reversal::Downdate => {
                        leaving.iter().try_for_each(|&column| self.downdate(i, part, column))?;
                    }
                    Reversal::Replace => self.replace_update(i, part, &leaving, &staying)?,
                    Reversal::ReplayTargets | Reversal::ReplayResiduals => {
                        return Err(NumericsError::NotReversible.into());
                    }
                }
            }
        }
        Ok(())
    }

    /// `W <- W - (v - W k) zᵀ / (1 - g)`, and removes the key from the history.
    fn downdate(&mut self, i: usize, part: &Part<A::Scalar>, column: usize) -> Result<()> {
        self.read_weight(i)?;
        let k = part.keys.as_ref().subcols(column, 1);
        let layer = awake(&mut self.layers, i)?;
        layer.editor.release(k)?;
        // After the release, Q k = z / (1 - g).
        let z = layer.editor.product(k)?;
        let s = linalg::inner(cast(k).as_ref(), z.as_ref());
        if !(s <= RELEASABLE) {
            return Err(NumericsError::Singular {
                step: "undoing an edit",
                pivot: None,
                advice: "replay the other edits",
            }
            .into());
        }
        let now = linalg::product(layer.before.as_ref(), k, self.par);
        let left = now - part.targets().as_ref().subcols(column, 1);
        self.change(i, &Update::from_factors(left, cast(z.transpose()))?)
    }

    /// In an editor without history: replaces the update of a batch by that of the columns that stay.
    fn replace_update(&mut self, i: usize, part: &Part<A::Scalar>, leaving: &[usize], staying: &[usize]) -> Result<()> {
        let present: Vec<usize> = leaving.iter().chain(staying).copied().collect();
        let layer = awake(&mut self.layers, i)?;
        let mut changes = Vec::new();
        for (columns, sign) in [(&present[..], -1.0), (staying, 1.0)] {
            if !columns.is_empty() {
                let some = part.columns(columns);
                let batch = EditBatch::new(some.keys.as_ref(), some.residuals.as_ref())?;
                changes.push(layer.editor.propose(&batch)?.into_update().scaled(sign)?);
            }
        }
        layer.editor.release(part.columns(leaving).keys.as_ref())?;
        changes.iter().try_for_each(|update| self.change(i, update))
    }

    /// Applies a change of a weight that no editor proposed.
    fn change(&mut self, i: usize, update: &Update<A::Scalar>) -> Result<()> {
        let measured = self.layers[i].measure(update)?;
        self.apply(i, update)?;
        self.layers[i].count(update, measured.as_ref());
        Ok(())
    }

    /// Replays the journal up to a place, without these edits and without those that were undone before.
    pub(super) fn rebuild(&mut self, ids: &[EditId], end: Mark) -> Result<()> {
        let mut gone: HashSet<EditId> = ids.iter().copied().collect();
        let mut place = self.journal.start();
        while place != end {
            let (record, next) = self.record(place)?;
            match record {
                Record::Undone { ids, .. } | Record::Consolidated { gone: ids, .. } => gone.extend(ids),
                Record::Batch(batch) => gone.extend(batch.replaced),
                _ => {}
            }
            place = next;
        }
        // A derivation holds all that came before it. A batch that goes with one comes behind it.
        let derived = self.index.derived_before(end).map(|derived| derived.place);
        let mut place = match derived {
            Some(place) => {
                self.load_derived(place)?;
                place
            }
            None => {
                self.reset()?;
                self.journal.start()
            }
        };
        let mut diverged = false;
        while place != end {
            let (record, next) = self.record(place)?;
            place = next;
            let batch = match record {
                Record::Batch(batch) => batch,
                Record::Rejected { .. } => {
                    let _ = self.refresh();
                    continue;
                }
                _ => continue,
            };
            self.refresh().map_err(|(_, error)| error)?;
            let stays = |column: &usize| batch.columns[*column].iter().all(|id| !gone.contains(id));
            let keep: Vec<usize> = (0..batch.columns.len()).filter(stays).collect();
            diverged |= keep.len() < batch.columns.len();
            if keep.is_empty() {
                continue;
            }
            let own = batch.own_columns();
            let own = keep.iter().filter(|column| **column < own).count();
            for (i, part) in batch.layers.iter().enumerate() {
                let part = part.columns(&keep);
                let residuals = if diverged && aims_at_targets(self.layers[i].editor.reversal()) {
                    self.read_weight(i)?;
                    part.targets() - linalg::product(self.layers[i].before.as_ref(), part.keys.as_ref(), self.par)
                } else {
                    part.residuals
                };
                self.write(i, part.keys, residuals, own, None)?;
            }
        }
        Ok(())
    }
}

/// Whether an edit that is replayed without others must reach its target; otherwise it adds its residual.
fn aims_at_targets(reversal: Reversal) -> bool {
    match reversal {
        Reversal::Downdate | Reversal::ReplayTargets => true,
        Reversal::Replace | Reversal::ReplayResiduals => false,
    }
}
