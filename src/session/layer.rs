//! One layer of a session: its editor, its gauges, and its weight from before the current batch.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use faer::{Mat, MatMut, MatRef, Par};

use super::method::LayerStatistics;
use super::rest::Rest;
use crate::batch::EditBatch;
use crate::editor::{Editor, EditorState, Proposal};
use crate::error::Result;
use crate::linalg::lanczos::spectral_norm;
use crate::metrics::{self, Gauges, Measurement, RunningTotal, Written};
use crate::refresh::RefreshReport;
use crate::restraint::{Needs, Restraint, Situation, Total};
use crate::scalar::Scalar;
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
    /// The share of the residuals that the update writes, `<Delta K, R> / |R|²`. If a key of the batch has so little room that
    /// less of its residual can be written, the share of that edit: `g / (1 + g)`, or what is measured, if that is more. 1 if all
    /// residuals are zero. See [`metrics::written`](fn@crate::metrics::written) for each edit.
    pub written_share: f64,
    /// The share of the residuals that the update misses, `|Delta K - R|_F / |R|_F`. 0 if all residuals are zero.
    pub write_error: f64,
    /// The room left for keys like those of the batch: the share of a residual that can be written now, relative to the
    /// share at the first edit, the smallest of the batch. It falls as edits fill the space and as refreshes narrow it.
    /// `None` if `s` or `g` is not known.
    pub room: Option<f64>,
    /// Leakage `tr(D C Dᵀ)` of all edits so far; `None` with the gauges off.
    pub leakage: Option<f64>,
    /// Expected loss `tr(G D C Dᵀ) / 2` of all edits so far, nats a token; `None` with the gauges off, or without gradients.
    pub expected_loss: Option<f64>,
    /// Drift `|D|_F` of all edits so far; `None` with the gauges off.
    pub drift: Option<f64>,
    /// The editor's state after the batch.
    pub state: EditorState,
    /// The refresh before the batch, if one was due.
    pub refresh: Option<RefreshReport>,
}

pub(super) struct Layer<T: Scalar, E> {
    pub(super) number: usize,
    /// `(d_out, d_in)` of the weight.
    shape: (usize, usize),
    pub(super) editor: E,
    statistics: LayerStatistics,
    total: Option<RunningTotal>,
    /// Where the matrices of editor and total are between the turns of a layer that rests.
    pub(super) rest: Option<Rest>,
    /// The weight before the current batch. A layer that rests has it only during a batch.
    pub(super) before: Mat<T>,
    weight_norm: f64,
    restraint: Option<Restrained<T>>,
    /// Whether an update has been seen to arrive in the weight.
    pub(super) verified: bool,
    par: Par,
}

/// A restraint with the number that it needs.
#[derive(Clone, Debug)]
struct Restrained<T: Scalar> {
    by: Arc<dyn Restraint<T>>,
    /// The largest singular value of the first weight, if the restraint needs the total.
    largest: Option<f64>,
}

/// What edits change in a layer, besides its weight.
pub(super) struct State<E> {
    editor: E,
    total: Option<RunningTotal>,
    /// The matrices of both, of a layer that rests.
    rest: Option<Rest>,
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
        restraint: Option<Arc<dyn Restraint<T>>>,
        par: Par,
    ) -> Result<Self> {
        let total = if gauged { Some(first_total(&statistics, weight.nrows(), par)?) } else { None };
        let restrained = |by: Arc<dyn Restraint<T>>| -> Result<_> {
            let largest = match by.needs() {
                Needs::Weight => None,
                Needs::Total => Some(spectral_norm(weight.as_ref(), par)?),
            };
            Ok(Restrained { by, largest })
        };
        let restraint = restraint.map(restrained).transpose()?;
        let (number, weight_norm) = (statistics.layer, weight.norm_l2().to_f64());
        let verified = false;
        let (shape, rest, before) = (weight.shape(), None, weight);
        Ok(Self { number, shape, editor, statistics, total, rest, before, weight_norm, restraint, verified, par })
    }

    pub(super) fn statistics(&self) -> &LayerStatistics {
        &self.statistics
    }

    /// Whether updates are changed before they are applied.
    pub(super) fn is_restrained(&self) -> bool {
        self.restraint.is_some()
    }

    /// An update after the restraint.
    pub(super) fn restrained_update(&self, update: Update<T>) -> Result<Update<T>> {
        let Some(Restrained { by, largest }) = &self.restraint else { return Ok(update) };
        let mut situation = Situation::new(self.before.as_ref(), self.par);
        if let (Some(largest), Some(total)) = (*largest, &self.total) {
            let drift = total.after(&update)?.drift;
            situation = situation.with_total(Total { change: total.so_far(), drift, largest });
        }
        Ok(by.restrained(&update, &situation)?.unwrap_or(update))
    }

    /// The proposal after the restraint.
    fn restrained(&self, proposal: Proposal<T>) -> Result<Proposal<T>> {
        if self.restraint.is_none() {
            return Ok(proposal);
        }
        let restrained = self.restrained_update(proposal.update().clone())?;
        Ok(proposal.map_update(|_| Ok(restrained))?)
    }

    pub(super) fn shape(&self) -> (usize, usize) {
        self.shape
    }

    pub(super) fn gauges(&self) -> Option<Gauges> {
        self.total.as_ref().map(RunningTotal::gauges)
    }

    /// A copy of the state, for [`put_back`](Self::put_back).
    ///
    /// * `directory`: where the matrices of layers at rest are
    pub(super) fn state(&mut self, directory: Option<&Path>) -> Result<State<E>> {
        let rest = self.copied(directory)?;
        if rest.is_some() {
            self.lie_down();
        }
        Ok(State { editor: self.editor.clone(), total: self.total.clone(), rest })
    }

    pub(super) fn put_back(&mut self, state: State<E>) {
        (self.editor, self.total) = (state.editor, state.total);
        if let Some(rest) = state.rest {
            self.take_over(rest);
        }
    }

    /// Forgets the weight from before a batch, if the layer rests.
    pub(super) fn forget_before(&mut self) {
        if self.rest.is_some() {
            self.before = Mat::new();
        }
    }

    /// A place for the weight, to be read into.
    pub(super) fn before_mut(&mut self) -> MatMut<'_, T> {
        let (d_out, d_in) = self.shape;
        self.before.resize_with(d_out, d_in, |_, _| T::default());
        self.before.as_mut()
    }

    pub(super) fn drop_matrices(&mut self) {
        self.editor.drop_matrices();
        if let Some(total) = &mut self.total {
            total.let_go();
        }
    }

    /// The total in memory.
    pub(super) fn total_here(&self) -> Option<MatRef<'_, f64>> {
        self.total.as_ref().map(RunningTotal::so_far)
    }

    pub(super) fn write_total(&self, out: &mut dyn Write) -> bytes::Result<()> {
        self.total.as_ref().map_or(Ok(()), |total| total.write(out))
    }

    pub(super) fn read_total(&mut self, from: &mut dyn Read) -> bytes::Result<()> {
        let shape = self.shape;
        self.total.as_mut().map_or(Ok(()), |total| total.read(from, shape))
    }

    /// Resets to the state before the first edit, with a new editor.
    pub(super) fn reset(&mut self, editor: E) -> Result<()> {
        let (d_out, _) = self.shape();
        if self.total.is_some() {
            self.total = Some(first_total(&self.statistics, d_out, self.par)?);
        }
        self.editor = editor;
        Ok(())
    }

    /// The update of a batch, of whose columns the first `own` are of the requests themselves.
    pub(super) fn propose(
        &self,
        batch: &EditBatch<'_, T>,
        own: usize,
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
        let s = match (&self.total, stability) {
            (None, Stability::WithTheGauges) => None,
            _ => self.editor.stability(batch.keys().subcols(0, own))?,
        };
        let gains = proposal.gains();
        let gains = gains.get(..own).unwrap_or(gains);
        let requested = EditBatch::new(batch.keys().subcols(0, own), batch.residuals().subcols(0, own))?;
        let written = metrics::written(update, &requested, self.par)?;
        let mut state = self.editor.state();
        let taken = proposal.directions_taken().min(state.kept_directions);
        state.kept_directions -= taken;
        state.removed_directions += taken;
        let outcome = LayerOutcome {
            layer: self.number,
            update_norm: measured.map_or_else(|| update.frobenius_norm(), |measured| measured.update_norm),
            weight_norm: self.weight_norm,
            stability: s.as_deref().map(largest),
            gain: largest(gains),
            written_share: written_share(gains, &written),
            write_error: written.all.map_or(0.0, |all| all.error),
            room: s.and_then(|s| metrics::room(gains, &s)),
            leakage: measured.map(|measured| measured.leakage),
            expected_loss: measured.and_then(|measured| measured.expected_loss),
            drift: measured.map(|measured| measured.drift),
            state,
            refresh,
        };
        Ok(Proposed { proposal, measured, outcome })
    }

    /// What a change of the weight that was derived did to the layer.
    pub(super) fn derived(&self, update: &Update<T>, measured: Option<Measurement>) -> LayerOutcome {
        LayerOutcome {
            layer: self.number,
            update_norm: measured.map_or_else(|| update.frobenius_norm(), |measured| measured.update_norm),
            weight_norm: self.weight_norm,
            stability: None,
            gain: 0.0,
            written_share: 1.0,
            write_error: 0.0,
            room: None,
            leakage: measured.map(|measured| measured.leakage),
            expected_loss: measured.and_then(|measured| measured.expected_loss),
            drift: measured.map(|measured| measured.drift),
            state: self.editor.state(),
            refresh: None,
        }
    }

    /// Commits the proposal and returns what it did to the layer.
    pub(super) fn commit(&mut self, proposed: Proposed<T>) -> Result<LayerOutcome> {
        let Proposed { proposal, measured, outcome } = proposed;
        let update = proposal.update().clone();
        self.editor.commit(proposal)?;
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

/// The gauges of a layer before the first edit.
fn first_total(layer: &LayerStatistics, d_out: usize, par: Par) -> Result<RunningTotal> {
    let total = RunningTotal::of_statistics(&layer.statistics, d_out, par)?;
    Ok(match &layer.gradients {
        None => total,
        Some(gradients) => total.with_gradients(gradients)?,
    })
}

/// The share that the batch writes in all, or that of an edit whose key has less room. Edits that a batch asks for in vain
/// because they contradict each other do not count on their own.
fn written_share(gains: &[f64], written: &Written) -> f64 {
    let by_gain = gains.iter().map(|g| g / (1.0 + g));
    let edits = by_gain.zip(&written.edits).filter_map(|(by_gain, edit)| Some(by_gain.max(edit.as_ref()?.share)));
    edits.fold(written.all.map_or(1.0, |all| all.share), f64::min)
}
