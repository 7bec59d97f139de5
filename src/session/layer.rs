//! One layer of a session: its editor, its gauges, and its weight from before the current batch.

use std::io::{Read, Write};

use faer::{Mat, MatRef, Par};

use super::method::LayerStatistics;
use crate::batch::EditBatch;
use crate::editor::{Editor, EditorState, Proposal};
use crate::error::Result;
use crate::linalg::lanczos::spectral_norm;
use crate::metrics::{Gauges, Measurement, RunningTotal};
use crate::refresh::RefreshReport;
use crate::restraint::{Prune, Rect, Restraint};
use crate::scalar::{Scalar, cast};
use crate::update::Update;
use crate::util::bytes;

/// What an applied batch did to one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LayerOutcome {
    /// The layer.
    pub layer: usize,
    /// `|Delta|_F`.
    pub update_norm: f64,
    /// `|W|_F` before the first edit.
    pub weight_norm: f64,
    /// Largest `s = kᵀ A0⁻¹ k` of the batch, see [`metrics::stability`](crate::metrics::stability). `None` if the gauges are
    /// off and no guard limits it.
    pub stability: Option<f64>,
    /// Largest `g = kᵀ Q k` of the batch.
    pub gain: f64,
    /// Leakage `tr(D C Dᵀ)` of all edits so far; `None` with the gauges off.
    pub leakage: Option<f64>,
    /// Drift `|D|_F` of all edits so far; `None` with the gauges off.
    pub drift: Option<f64>,
    /// The editor's state after the batch.
    pub state: EditorState,
    /// The refresh before the batch, if one was due.
    pub refresh: Option<RefreshReport>,
}

#[derive(Debug)]
pub(super) struct Layer<T: Scalar, E> {
    pub(super) number: usize,
    pub(super) editor: E,
    statistics: LayerStatistics,
    total: Option<RunningTotal>,
    /// The weight before the current batch.
    pub(super) before: Mat<T>,
    weight_norm: f64,
    restraint: Option<Restrained>,
    par: Par,
}

/// A restraint with the numbers that it needs.
#[derive(Clone, Copy, Debug)]
enum Restrained {
    Rect(Rect),
    /// With the largest singular value of the first weight.
    Prune(Prune, f64),
}

/// What edits change in a layer, besides its weight.
#[derive(Debug)]
pub(super) struct State<E> {
    editor: E,
    total: Option<RunningTotal>,
}

/// An update that was computed for a layer and is not applied yet.
#[derive(Debug)]
pub(super) struct Proposed<T: Scalar> {
    pub(super) proposal: Proposal<T>,
    measured: Option<Measurement>,
    pub(super) outcome: LayerOutcome,
}

/// When the largest `s` of a batch is measured, which takes a pass over the basis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stability {
    Measured,
    WithTheGauges,
}

impl<T: Scalar, E: Editor<T> + Clone> Layer<T, E> {
    pub(super) fn new(
        statistics: LayerStatistics,
        editor: E,
        weight: Mat<T>,
        gauged: bool,
        restraint: Option<Restraint>,
        par: Par,
    ) -> Result<Self> {
        let total = if gauged { Some(RunningTotal::new(&statistics.moment, weight.nrows(), 1, par)?) } else { None };
        let restraint = match restraint {
            None => None,
            Some(Restraint::Rect(rect)) => Some(Restrained::Rect(rect)),
            Some(Restraint::Prune(prune)) => Some(Restrained::Prune(prune, spectral_norm(weight.as_ref(), par)?)),
        };
        let (number, weight_norm) = (statistics.layer, weight.norm_l2().to_f64());
        Ok(Self { number, editor, statistics, total, before: weight, weight_norm, restraint, par })
    }

    pub(super) fn statistics(&self) -> &LayerStatistics {
        &self.statistics
    }

    /// Whether updates are changed before they are applied.
    pub(super) fn is_restrained(&self) -> bool {
        self.restraint.is_some()
    }

    /// The proposal after the restraint.
    fn restrained(&self, proposal: Proposal<T>) -> Result<Proposal<T>> {
        let par = self.par;
        match (self.restraint, &self.total) {
            (None, _) | (Some(Restrained::Prune(..)), None) => Ok(proposal),
            (Some(Restrained::Rect(rect)), _) => {
                Ok(proposal.map_update(|update| rect.restrain(update, self.before.as_ref(), par))?)
            }
            (Some(Restrained::Prune(prune, largest)), Some(total)) => {
                // The drift bounds the singular values.
                if total.after(proposal.update())?.drift <= largest {
                    return Ok(proposal);
                }
                let sum = total.so_far() + cast::<T, f64>(proposal.update().to_dense(par).as_ref());
                match prune.correction(sum.as_ref(), largest, par)? {
                    None => Ok(proposal),
                    Some(correction) => Ok(proposal.map_update(|update| {
                        let both = Update::stacked([update, &correction.cast()?])?;
                        update.with_factors(both.left().to_owned(), both.right().transpose().to_owned())
                    })?),
                }
            }
        }
    }

    pub(super) fn shape(&self) -> (usize, usize) {
        self.before.shape()
    }

    pub(super) fn total(&self) -> Option<MatRef<'_, f64>> {
        self.total.as_ref().map(RunningTotal::so_far)
    }

    pub(super) fn gauges(&self) -> Option<Gauges> {
        self.total.as_ref().map(RunningTotal::gauges)
    }

    /// A copy of the state, for [`put_back`](Self::put_back).
    pub(super) fn state(&self) -> State<E> {
        State { editor: self.editor.clone(), total: self.total.clone() }
    }

    pub(super) fn put_back(&mut self, state: State<E>) {
        (self.editor, self.total) = (state.editor, state.total);
    }

    /// Resets to the state before the first edit, with a new editor.
    pub(super) fn reset(&mut self, editor: E) -> Result<()> {
        let (d_out, _) = self.shape();
        if self.total.is_some() {
            self.total = Some(RunningTotal::new(&self.statistics.moment, d_out, 1, self.par)?);
        }
        self.editor = editor;
        Ok(())
    }

    /// The update of a batch.
    pub(super) fn propose(
        &self,
        batch: &EditBatch<'_, T>,
        stability: Stability,
        refresh: Option<RefreshReport>,
    ) -> Result<Proposed<T>> {
        let proposal = self.editor.propose(batch)?;
        let (d_out, d_in) = self.shape();
        proposal.update().check_shape("the editor's update", d_out, d_in)?;
        let proposal = self.restrained(proposal)?;
        let update = proposal.update();
        let measured = self.measure(update)?;
        let largest = |numbers: &[f64]| numbers.iter().copied().fold(0.0, f64::max);
        let stability = match (&self.total, stability) {
            (None, Stability::WithTheGauges) => None,
            _ => self.editor.stability(batch.keys())?.map(|s| largest(&s)),
        };
        let mut state = self.editor.state();
        let taken = proposal.directions_taken().min(state.kept_directions);
        state.kept_directions -= taken;
        state.removed_directions += taken;
        let outcome = LayerOutcome {
            layer: self.number,
            update_norm: measured.map_or_else(|| update.frobenius_norm(), |measured| measured.update_norm),
            weight_norm: self.weight_norm,
            stability,
            gain: largest(proposal.gains()),
            leakage: measured.map(|measured| measured.leakage),
            drift: measured.map(|measured| measured.drift),
            state,
            refresh,
        };
        Ok(Proposed { proposal, measured, outcome })
    }

    /// Commits the proposal and returns what it did to the layer.
    pub(super) fn commit(&mut self, proposed: Proposed<T>) -> Result<LayerOutcome> {
        let Proposed { proposal, measured, outcome } = proposed;
        let update = self.editor.commit(proposal)?;
        self.count(&update, measured.as_ref());
        Ok(LayerOutcome { state: self.editor.state(), ..outcome })
    }

    /// The gauges as they would be after a change of the weight.
    pub(super) fn measure(&self, update: &Update<T>) -> Result<Option<Measurement>> {
        Ok(self.total.as_ref().map(|total| total.after(update)).transpose()?)
    }

    /// Adds a change of the weight to the gauges.
    pub(super) fn count(&mut self, update: &Update<T>, measured: Option<&Measurement>) {
        if let (Some(total), Some(measured)) = (&mut self.total, measured) {
            total.accept(update, measured);
        }
    }

    pub(super) fn save(&self, out: &mut dyn Write) -> bytes::Result<()> {
        self.editor.save(out)?;
        self.total.as_ref().map_or(Ok(()), |total| total.save(out))
    }

    /// Loads a state that [`save`](Self::save) wrote. After an error the state is undefined.
    pub(super) fn load(&mut self, from: &mut dyn Read) -> bytes::Result<()> {
        self.editor.load(from)?;
        self.total.as_mut().map_or(Ok(()), |total| total.load(from))
    }
}
