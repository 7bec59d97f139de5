//! One layer of a session: its editor, its gauges, and its weight from before the batch that runs.

use std::io::{Read, Write};
use std::sync::Arc;

use faer::{Mat, MatRef, Par};

use super::guard::Guards;
use super::outcome::LayerOutcome;
use crate::batch::EditBatch;
use crate::editor::{ClosedFormEditor, Editor, Recipe};
use crate::error::Result;
use crate::linalg::lanczos::spectral_norm;
use crate::metrics::{Measurement, RunningTotal};
use crate::refresh::RefreshReport;
use crate::restraint::{Prune, Rect, Restraint};
use crate::scalar::{Scalar, cast};
use crate::second_moment::SecondMoment;
use crate::spectrum::Spectrum;
use crate::update::Update;
use crate::util::bytes;

#[derive(Debug)]
pub(super) struct Layer<T: Scalar> {
    pub(super) number: usize,
    pub(super) editor: ClosedFormEditor<T>,
    total: Option<RunningTotal>,
    /// The weight before the batch that runs.
    pub(super) before: Mat<T>,
    weight_norm: f64,
    restraint: Option<Restrained>,
    origin: Origin,
}

/// What a layer's editor is made of, at the start and again.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) name: &'static str,
    pub(super) recipe: Recipe,
    pub(super) moment: Arc<SecondMoment>,
    pub(super) spectrum: Arc<Spectrum>,
    pub(super) random_keys: Option<Arc<Mat<f64>>>,
    pub(super) par: Par,
}

impl Origin {
    fn editor<T: Scalar>(&self) -> Result<ClosedFormEditor<T>> {
        let editor = ClosedFormEditor::new(self.name, self.recipe, &self.spectrum, self.par)?;
        match &self.random_keys {
            Some(keys) => editor.with_random_keys(keys),
            None => Ok(editor),
        }
    }
}

/// A restraint with what it has to know.
#[derive(Clone, Copy, Debug)]
enum Restrained {
    Rect(Rect),
    /// With the largest singular value of the first weight.
    Prune(Prune, f64),
}

/// What edits change of a layer, beside its weight.
#[derive(Debug)]
pub(super) struct State<T: Scalar> {
    editor: ClosedFormEditor<T>,
    total: Option<RunningTotal>,
}

/// An update that was computed for a layer, and nothing changed for it yet.
#[derive(Debug)]
pub(super) struct Proposed<T: Scalar> {
    pub(super) update: Update<T>,
    measured: Option<Measurement>,
    pub(super) outcome: LayerOutcome,
}

impl<T: Scalar> Layer<T> {
    pub(super) fn new(
        number: usize,
        origin: Origin,
        weight: Mat<T>,
        gauged: bool,
        restraint: Option<Restraint>,
    ) -> Result<Self> {
        let Origin { moment, par, .. } = &origin;
        let total = if gauged { Some(RunningTotal::new(moment, weight.nrows(), 1, *par)?) } else { None };
        let restraint = match restraint {
            None => None,
            Some(Restraint::Rect(rect)) => Some(Restrained::Rect(rect)),
            Some(Restraint::Prune(prune)) => Some(Restrained::Prune(prune, spectral_norm(weight.as_ref(), *par)?)),
        };
        let (editor, weight_norm) = (origin.editor()?, weight.norm_l2().to_f64());
        Ok(Self { number, editor, total, before: weight, weight_norm, restraint, origin })
    }

    /// Whether updates are changed before they are applied.
    pub(super) fn is_restrained(&self) -> bool {
        self.restraint.is_some()
    }

    /// The update as the restraint leaves it.
    fn restrained(&self, update: Update<T>) -> Result<Update<T>> {
        let par = self.origin.par;
        match (self.restraint, &self.total) {
            (None, _) | (Some(Restrained::Prune(..)), None) => Ok(update),
            (Some(Restrained::Rect(rect)), _) => rect.restrain(&update, self.before.as_ref(), par),
            (Some(Restrained::Prune(prune, largest)), Some(total)) => {
                // The drift bounds the singular values.
                if total.after(&update)?.drift <= largest {
                    return Ok(update);
                }
                let sum = total.so_far() + cast::<T, f64>(update.dense(par).as_ref());
                match prune.correction(sum.as_ref(), largest, par)? {
                    None => Ok(update),
                    Some(correction) => {
                        let both = Update::stacked([&update, &correction.cast()?])?;
                        update.with_factors(both.left().to_owned(), both.right().transpose().to_owned())
                    }
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

    pub(super) fn gauges(&self) -> Option<(f64, f64)> {
        self.total.as_ref().map(RunningTotal::gauges)
    }

    /// The state, to be put back.
    pub(super) fn state(&self) -> State<T> {
        State { editor: self.editor.clone(), total: self.total.clone() }
    }

    pub(super) fn put_back(&mut self, state: State<T>) {
        (self.editor, self.total) = (state.editor, state.total);
    }

    /// Back to the state before the first edit.
    pub(super) fn reset(&mut self) -> Result<()> {
        let editor = self.origin.editor()?;
        let (d_out, _) = self.shape();
        if self.total.is_some() {
            self.total = Some(RunningTotal::new(&self.origin.moment, d_out, 1, self.origin.par)?);
        }
        self.editor = editor;
        Ok(())
    }

    /// The update of a batch. Its largest `s`, which takes a pass over the basis, is measured for the gauges and for guards.
    pub(super) fn propose(
        &self,
        batch: &EditBatch<'_, T>,
        guards: &Guards,
        refresh: Option<RefreshReport>,
    ) -> Result<Proposed<T>> {
        let update = self.editor.propose(batch)?;
        let (d_out, d_in) = self.shape();
        update.check_shape("the adapter's keys and residuals", d_out, d_in)?;
        let update = self.restrained(update)?;
        let measured = self.total.as_ref().map(|total| total.after(&update)).transpose()?;
        let largest = |numbers: &[f64]| numbers.iter().copied().fold(0.0, f64::max);
        let stability = match (&self.total, guards.stability) {
            (None, None) => None,
            _ => Some(largest(&self.editor.stability(batch.keys())?)),
        };
        let mut state = self.editor.state();
        let saturated = update.saturated().min(state.kept_directions);
        state.kept_directions -= saturated;
        state.removed_directions += saturated;
        let outcome = LayerOutcome {
            layer: self.number,
            update_norm: measured.map_or_else(|| update.frobenius_norm(), |measured| measured.update_norm),
            weight_norm: self.weight_norm,
            stability,
            gain: largest(update.gains()),
            leakage: measured.map(|measured| measured.leakage),
            drift: measured.map(|measured| measured.drift),
            state,
            refresh,
        };
        Ok(Proposed { update, measured, outcome })
    }

    /// The proposal joins the history.
    pub(super) fn commit(&mut self, proposed: &mut Proposed<T>) -> Result<()> {
        self.editor.commit(&proposed.update)?;
        self.count(&proposed.update, proposed.measured.as_ref());
        proposed.outcome.state = self.editor.state();
        Ok(())
    }

    /// A change of the weight that no editor proposed joins the gauges.
    pub(super) fn measure(&self, update: &Update<T>) -> Result<Option<Measurement>> {
        self.total.as_ref().map(|total| total.after(update)).transpose()
    }

    pub(super) fn count(&mut self, update: &Update<T>, measured: Option<&Measurement>) {
        if let (Some(total), Some(measured)) = (&mut self.total, measured) {
            total.accept(update, measured);
        }
    }

    pub(super) fn save(&self, out: &mut dyn Write) -> bytes::Result<()> {
        self.editor.save(out)?;
        self.total.as_ref().map_or(Ok(()), |total| total.save(out))
    }

    /// Takes over a state that [`save`](Self::save) wrote. After an error it means nothing.
    pub(super) fn load(&mut self, from: &mut dyn Read) -> bytes::Result<()> {
        self.editor.load(from)?;
        self.total.as_mut().map_or(Ok(()), |total| total.load(from))
    }
}
