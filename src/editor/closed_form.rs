//! The editor that runs any recipe on the engine.

use std::marker::PhantomData;
use std::sync::Arc;

use faer::{MatRef, Par};

use super::{Editor, EditorState, History, Recipe, Space};
use crate::edit::{EditBatch, Update};
use crate::error::{EditError, Result};
use crate::inverse_gram::InverseGram;
use crate::moment::SecondMoment;
use crate::projector::{HistoryWeighting, Projector, ProjectorBuilder};
use crate::refresh::{Refresh, RefreshReport, RefreshRule};
use crate::scalar::Scalar;
use crate::spectrum::Spectrum;
use crate::{check, metrics};

/// An editor for one layer that runs any [`Recipe`].
///
/// # Memory
/// `Q` (`d_in² / 2` numbers of `f64`), and for a recipe that refreshes the sum `H` of past keys (`d_in²` of `f64`) and, after
/// the first full refresh, the spectrum of the protected matrix (as much). The spectrum of `C` is shared. A full refresh takes up to `7 d_in²` numbers of `f64` while it runs.
#[derive(Clone, Debug)]
pub struct ClosedFormEditor<T: Scalar> {
    name: &'static str,
    recipe: Recipe,
    /// The spectrum of the statistics `C`.
    spectrum: Arc<Spectrum>,
    /// Cut from that spectrum at the start: the basis of `s_t`.
    first_projector: Projector,
    projector: Projector,
    Q: InverseGram,
    /// `H`, kept only if a refresh will ask for it.
    H: Option<SecondMoment>,
    edits: usize,
    last_refresh: usize,
    refreshes: usize,
    /// Replaced at every change, so that an update knows the state it was proposed in.
    state: Arc<()>,
    par: Par,
    scalar: PhantomData<T>,
}

impl<T: Scalar> ClosedFormEditor<T> {
    /// An editor from a recipe. [`Method::editor`](super::Method::editor) is the usual way here.
    ///
    /// # Errors
    /// Hyperparameters outside their range, a threshold that keeps nothing, a singular start.
    pub fn new(name: &'static str, recipe: Recipe, spectrum: &Arc<Spectrum>, par: Par) -> Result<Self> {
        recipe.refresh.check()?;
        let projector = match recipe.space {
            Space::Whole => Projector::identity(spectrum),
            Space::Null(threshold) => ProjectorBuilder::new(spectrum).threshold(threshold).build(par)?,
        };
        let Q = InverseGram::diagonal(&projector, recipe.weight, recipe.ridge, par)?;
        let H = match recipe.refresh {
            Refresh::Never => None,
            Refresh::Every { .. } => Some(SecondMoment::new(spectrum.dim())),
        };
        Ok(Self {
            name,
            recipe,
            spectrum: Arc::clone(spectrum),
            first_projector: projector.clone(),
            projector,
            Q,
            H,
            edits: 0,
            last_refresh: 0,
            refreshes: 0,
            state: Arc::default(),
            par,
            scalar: PhantomData,
        })
    }

    /// The recipe that the editor runs.
    #[must_use]
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The present projector.
    #[must_use]
    pub fn projector(&self) -> &Projector {
        &self.projector
    }

    /// The present `Q`.
    #[must_use]
    pub fn inverse_gram(&self) -> &InverseGram {
        &self.Q
    }

    /// `s = kᵀ A0⁻¹ k` of every key, with `A0` the protected Gram matrix **at the start**, on the first projector's
    /// space: see [`metrics::stability`].
    ///
    /// # Errors
    /// Wrong shape, empty, NaN.
    pub fn stability(&self, keys: MatRef<'_, T>) -> Result<Vec<f64>> {
        metrics::stability(&self.first_projector, self.recipe.weight, self.recipe.ridge, keys, self.par)
    }

    /// Goes on with the present projector for good: what to do when a refresh would leave no direction
    /// ([`EditError::NothingKept`]) and editing has to go on. Past keys stay protected by the solve.
    pub fn stop_refreshing(&mut self) {
        self.recipe.refresh = Refresh::Never;
        self.H = None;
        self.state = Arc::default();
    }

    fn refresh_due(&self) -> Option<RefreshRule> {
        match self.recipe.refresh {
            Refresh::Every { edits, rule } if self.edits - self.last_refresh >= edits => Some(rule),
            _ => None,
        }
    }

    /// The state after a full refresh, with this state left as it is.
    fn fully_refreshed(&self, weighting: HistoryWeighting) -> Result<(Projector, InverseGram)> {
        let (Space::Null(threshold), Some(H)) = (self.recipe.space, &self.H) else {
            return Ok((self.projector.clone(), self.Q.clone()));
        };
        let par = self.par;
        let projector = ProjectorBuilder::new(&self.spectrum).threshold(threshold).history(H, weighting).build(par)?;
        let mut A = self.spectrum.matrix(par);
        A *= faer::Scale(self.recipe.weight);
        A += H.sum(par);
        let Q = InverseGram::new(&projector, A.as_ref(), self.recipe.ridge, par)?;
        Ok((projector, Q))
    }
}

impl<T: Scalar> Editor<T> for ClosedFormEditor<T> {
    fn name(&self) -> &str {
        self.name
    }

    fn d_in(&self) -> usize {
        self.Q.dim()
    }

    fn state(&self) -> EditorState {
        EditorState {
            edits: self.edits,
            refreshes: self.refreshes,
            kept_directions: self.projector.kept(),
            capacity: self.projector.capacity(),
        }
    }

    fn refresh_if_due(&mut self) -> Result<Option<RefreshReport>> {
        let Some(RefreshRule::Full(weighting)) = self.refresh_due() else { return Ok(None) };
        let (projector, Q) = self.fully_refreshed(weighting)?;
        let report = RefreshReport {
            edits: self.edits,
            kept_before: self.projector.kept(),
            kept_after: projector.kept(),
            moved: self.projector.distance_squared(&projector, self.par)?,
            gap: projector.gap(),
            capacity: projector.capacity(),
        };
        (self.projector, self.Q) = (projector, Q);
        self.last_refresh = self.edits;
        self.refreshes += 1;
        self.state = Arc::default();
        Ok(Some(report))
    }

    fn propose(&self, batch: &EditBatch<'_, T>) -> Result<Update<T>> {
        check::shape("keys", batch.keys(), self.d_in(), batch.len())?;
        if self.refresh_due().is_some() {
            return Err(EditError::RefreshDue { edits: self.edits });
        }
        let solution = self.Q.solve(batch.keys())?;
        Update::proposed(batch, solution, Arc::clone(&self.state))
    }

    fn commit(&mut self, update: &Update<T>) -> Result<()> {
        let Some(proposal) = update.proposal.as_ref().filter(|proposal| Arc::ptr_eq(&proposal.state, &self.state))
        else {
            return Err(EditError::StaleUpdate);
        };
        if self.recipe.history == History::Absorbed {
            // The state token vouches for the solution, so only the history can refuse, and it comes first.
            if let Some(H) = &mut self.H {
                H.observe(proposal.keys.as_ref(), self.par)?;
            }
            self.Q.absorb_solution(&proposal.solution)?;
        }
        self.edits += update.rank();
        self.state = Arc::default();
        Ok(())
    }

    fn protect(&mut self, keys: MatRef<'_, T>) -> Result<()> {
        let solution = self.Q.solve(keys)?;
        if let Some(H) = &mut self.H {
            H.observe(keys, self.par)?;
        }
        self.Q.absorb_solution(&solution)?;
        self.state = Arc::default();
        Ok(())
    }
}
