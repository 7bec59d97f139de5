//! The editor that runs any recipe on the engine.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::sync::Arc;

use faer::{Mat, MatRef, Par};

use super::random_keys::RandomKeys;
use super::simulated::Simulated;
use super::{Editor, EditorState, History, Proposal, Recipe, Reversal};
use crate::batch::{EditBatch, Order};
use crate::engine::{InverseGram, Solution, StateToken};
use crate::error::numerics::{NumericsError, Result};
use crate::metrics;
use crate::projector::Projector;
use crate::refresh::first::FirstSpace;
use crate::refresh::memory::{Memory, Plan};
use crate::refresh::{Headroom, Refresh, RefreshReport};
use crate::scalar::Scalar;
use crate::update::Update;
use crate::util::large::Large;
use crate::util::shown::shown;
use crate::util::validate;

/// An editor for one layer that runs any [`Recipe`].
///
/// # Memory
/// `Q` (`4 d_in²` bytes), and what the refresh rule needs: the sum `H` of past keys for a full refresh, the headroom
/// for `Nested` and continuous refresh (`4 d_in²` bytes each), or the keys for `Maximal`. Between two refreshes the new
/// keys are kept as well (`8 d_in` bytes each). Editors share the spectrum of `C`, if it is in memory at all.
#[derive(Clone)]
pub struct ClosedFormEditor<T: Scalar> {
    name: Cow<'static, str>,
    pub(super) recipe: Recipe,
    pub(super) Q: InverseGram,
    pub(super) memory: Memory,
    pub(super) random: Option<RandomKeys>,
    pub(super) simulated: Option<Simulated>,
    pub(super) edits: usize,
    pub(super) last_refresh: usize,
    pub(super) refreshes: usize,
    /// Advanced at every change that proposals depend on, so that a proposal identifies the state it was made in.
    pub(super) token: StateToken,
    /// Whether the large matrices are in memory.
    matrices: Matrices,
    par: Par,
    scalar: PhantomData<T>,
}

shown!([T: Scalar] ClosedFormEditor<T>, "ClosedFormEditor", self => {
    "name": self.name,
    "d_in": self.Q.dim(),
    "recipe": self.recipe,
    "state": self.state(),
});

/// Where the large matrices of an editor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Matrices {
    Here,
    Dropped,
}

/// What a commit needs. It is computed with the proposal, so that a commit cannot fail halfway.
struct Memo {
    solution: Solution,
    plan: Plan,
    /// Keys that join the history instead of the edited ones.
    random: Option<Solution>,
    /// What the ideal editor learns.
    simulated: Option<Solution>,
}

impl<T: Scalar> ClosedFormEditor<T> {
    /// Before the first edit.
    pub(super) fn started(
        name: Cow<'static, str>,
        recipe: Recipe,
        Q: InverseGram,
        memory: Memory,
        par: Par,
    ) -> Result<Self> {
        let simulated = recipe.simulation.map(|simulation| Simulated::new(simulation, Q.dim(), par)).transpose()?;
        let random = match recipe.history {
            History::Random { seed } => Some(RandomKeys::new(seed)),
            History::Ignored | History::Absorbed => None,
        };
        Ok(Self {
            name,
            recipe,
            Q,
            memory,
            random,
            simulated,
            edits: 0,
            last_refresh: 0,
            refreshes: 0,
            token: StateToken::new(),
            matrices: Matrices::Here,
            par,
            scalar: PhantomData,
        })
    }

    /// Sets the keys to draw from for [`History::Random`], `d_in x m`, for example those of other facts. Other methods
    /// ignore them.
    ///
    /// # Errors
    /// Wrong shape, no key, NaN.
    pub fn with_random_keys(mut self, keys: &Arc<Mat<f64>>) -> Result<Self> {
        validate::columns("random keys", keys.as_ref().as_ref(), self.Q.dim())?;
        validate::finite("random keys", keys.as_ref().as_ref())?;
        if let Some(random) = &mut self.random {
            random.pool = Some(Arc::clone(keys));
            self.token.advance();
        }
        Ok(self)
    }

    /// The recipe that the editor runs.
    #[must_use]
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The initial projector. Refreshes change the space, but the editor keeps no projector on it: the range of `Q` is what may
    /// be edited. For a full refresh, [`ProjectorBuilder`](crate::projector::ProjectorBuilder) gives its projector from the same
    /// history.
    ///
    /// # Errors
    /// A spectrum that is at rest (`KeyStatistics::at_rest`) and cannot be read; [`NumericsError::Unsupported`] if the editor was made
    /// [without one](Self::from_moment).
    pub fn projector(&self) -> Result<Projector> {
        self.memory.first().projector("a projector")
    }

    /// The present `Q`.
    #[must_use]
    pub fn inverse_gram(&self) -> &InverseGram {
        &self.Q
    }

    /// The remaining headroom, for `Nested` and continuous refresh. It tells how much of it a key would use, before the
    /// key is edited.
    #[must_use]
    pub fn headroom(&self) -> Option<&Headroom> {
        self.memory.headroom()
    }

    /// Keeps the present space and ends refreshes. Use it to continue editing when a refresh would leave no direction
    /// ([`NumericsError::NothingKept`], [`NumericsError::CapacityExhausted`]). Past keys stay protected by the solve.
    pub fn stop_refreshing(&mut self) {
        self.recipe.refresh = Refresh::Never;
        self.memory.stop();
        self.token.advance();
    }

    /// Refuses what needs the large matrices while they are away.
    fn awake(&self) -> Result<()> {
        match self.matrices {
            Matrices::Here => Ok(()),
            Matrices::Dropped => Err(at_rest()),
        }
    }

    fn is_refresh_due(&self) -> bool {
        matches!(self.recipe.refresh, Refresh::Every { edits, .. } if self.edits - self.last_refresh >= edits)
    }

    /// Refuses batches that the editor cannot take now.
    fn check_batch(&self, batch: &EditBatch<'_, T>) -> Result<()> {
        self.awake()?;
        validate::shape("keys", batch.keys(), self.d_in(), batch.len())?;
        if self.is_refresh_due() {
            return Err(NumericsError::RefreshDue { edits: self.edits });
        }
        if self.memory.kept() == 0 {
            return Err(self.memory.exhausted(self.edits));
        }
        if self.random.is_some() && batch.order() == Order::InSequence {
            let what = "edits in sequence with random keys; give the edits one at a time".into();
            return Err(NumericsError::Unsupported { what });
        }
        Ok(())
    }
}

impl<T: Scalar> Editor<T> for ClosedFormEditor<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn d_in(&self) -> usize {
        self.Q.dim()
    }

    fn state(&self) -> EditorState {
        EditorState::new(self.edits, self.refreshes, self.memory.kept(), self.memory.first().kept())
    }

    fn refresh_if_due(&mut self) -> Result<Option<RefreshReport>> {
        if !self.is_refresh_due() {
            return Ok(None);
        }
        self.awake()?;
        let kept_before = self.memory.kept();
        let done = self.memory.refresh(&mut self.Q, self.edits)?;
        self.last_refresh = self.edits;
        self.refreshes += 1;
        self.token.advance();
        let (edits, kept_after) = (self.edits, self.memory.kept());
        Ok(Some(RefreshReport { edits, kept_before, kept_after, moved: done.moved, gap: done.gap }))
    }

    fn propose(&self, batch: &EditBatch<'_, T>) -> Result<Proposal<T>> {
        self.check_batch(batch)?;
        let one_for_several = self.recipe.merging.of(batch);
        let edits = batch.len();
        let batch = one_for_several.as_ref().map_or(*batch, |(keys, residuals)| batch.merged(keys, residuals));
        let plan = match self.recipe.history {
            History::Absorbed => self.memory.plan(batch.keys())?,
            History::Ignored | History::Random { .. } => Plan::default(),
        };
        let mut solution = self.solution(batch.keys(), batch.order(), &plan)?;
        let (plan, random) = match &self.random {
            None => (self.memory.completed(plan, &self.Q, &solution)?, None),
            Some(random) => {
                let keys = random.draw(batch.len(), self.projector()?.spectrum(), self.par);
                let drawn = self.Q.solve(keys.as_ref())?;
                let plan = self.memory.plan(keys.as_ref())?;
                (self.memory.completed(plan, &self.Q, &drawn)?, Some(drawn))
            }
        };
        let mut directions = solution.take_directions();
        let mut left = batch.residuals().to_owned();
        let mut learned = None;
        if let Some(simulated) = &self.simulated {
            let found;
            (left, found) = simulated.learn(&batch, directions.as_ref())?;
            directions = found.directions().to_owned();
            learned = Some(found);
        }
        let update = Update::from_directions(left, &directions, edits)?;
        let (gains, taken) = (solution.gains().to_vec(), plan.saturated());
        let memo = Memo { solution, plan, random, simulated: learned };
        Ok(Proposal::new(update, memo, &self.token).with_gains(gains).with_directions_taken(taken))
    }

    fn commit(&mut self, proposal: Proposal<T>) -> Result<()> {
        self.awake()?;
        let (update, memo) = proposal.into_memo::<Memo>(&self.token)?;
        let joining = match self.recipe.history {
            History::Absorbed => Some(&memo.solution),
            History::Ignored | History::Random { .. } => memo.random.as_ref(),
        };
        let changes = joining.is_some() || self.simulated.is_some();
        if let Some(solution) = joining {
            self.memory.absorb(&mut self.Q, solution, &memo.plan)?;
        }
        if let (Some(simulated), Some(learned)) = (&mut self.simulated, &memo.simulated) {
            simulated.commit(learned, &update)?;
        }
        if let (Some(random), Some(drawn)) = (&mut self.random, &memo.random) {
            random.drawn += drawn.keys().ncols();
        }
        self.edits += update.edits();
        // If nothing joins `Q`, other proposals are still what the editor would propose, unless a refresh comes first.
        if changes || self.is_refresh_due() {
            self.token.advance();
        }
        Ok(())
    }

    fn protect(&mut self, keys: MatRef<'_, T>) -> Result<()> {
        self.awake()?;
        let plan = self.memory.plan(keys)?;
        let solution = self.solve(keys, &plan)?;
        let plan = self.memory.completed(plan, &self.Q, &solution)?;
        let learned = self.simulated.as_ref().map(|simulated| simulated.Q.solve(keys)).transpose()?;
        self.memory.absorb(&mut self.Q, &solution, &plan)?;
        if let (Some(simulated), Some(learned)) = (&mut self.simulated, learned) {
            simulated.Q.absorb_solution(&learned)?;
        }
        self.token.advance();
        Ok(())
    }

    fn reversal(&self) -> Reversal {
        self.recipe.reversal()
    }

    fn release(&mut self, keys: MatRef<'_, T>) -> Result<()> {
        self.awake()?;
        validate::columns("keys", keys, self.d_in())?;
        if self.memory.is_shaped(self.refreshes) {
            return Err(NumericsError::HistoryInProjector);
        }
        if self.simulated.is_some() || self.random.is_some() {
            return Err(NumericsError::NotReversible);
        }
        if self.recipe.history == History::Absorbed {
            self.memory.release(&mut self.Q, keys)?;
        }
        self.edits = self.edits.saturating_sub(keys.ncols());
        self.last_refresh = self.last_refresh.min(self.edits);
        self.token.advance();
        Ok(())
    }

    fn product(&self, keys: MatRef<'_, T>) -> Result<Mat<f64>> {
        self.awake()?;
        self.Q.product(keys)
    }

    fn stability(&self, keys: MatRef<'_, T>) -> Result<Option<Vec<f64>>> {
        let Recipe { weight, ridge, .. } = self.recipe;
        let s = match self.memory.first() {
            FirstSpace::Cut(cut) => metrics::stability(&cut.projector()?, weight, ridge, keys, self.par)?,
            FirstSpace::Whole { start: Some(start), .. } => start.stability(keys, self.par)?,
            // Nothing joins `Q`, so it is that of the start.
            FirstSpace::Whole { start: None, .. } => {
                let products = self.product(keys)?;
                let columns = products.col_iter().zip(keys.col_iter());
                columns.map(|(z, k)| z.iter().zip(k.iter()).map(|(z, k)| z * k.to_f64()).sum()).collect()
            }
        };
        Ok(Some(s))
    }

    fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        self.awake().map_err(io::Error::other)?;
        self.write_state(out)
    }

    /// A `Maximal` editor that has replaced its keys by their sum loads only states that have done so too.
    fn load(&mut self, from: &mut dyn Read) -> io::Result<()> {
        self.awake().map_err(io::Error::other)?;
        *self = self.with_state(from)?;
        Ok(())
    }

    fn write_matrices(&mut self, out: &mut dyn Write) -> Result<()> {
        self.awake()?;
        self.large().try_for_each(|large| large.write(out)).map_err(NumericsError::AtRest)
    }

    fn drop_matrices(&mut self) {
        self.large().for_each(Large::let_go);
        self.matrices = Matrices::Dropped;
    }

    fn read_matrices(&mut self, from: &mut dyn Read) -> Result<()> {
        let read = self.large().try_for_each(|large| large.read(from));
        if let Err(error) = read {
            self.drop_matrices();
            return Err(NumericsError::AtRest(error));
        }
        self.matrices = Matrices::Here;
        Ok(())
    }
}

/// The error of what needs matrices that were dropped.
fn at_rest() -> NumericsError {
    NumericsError::AtRest(io::Error::other("the editor has dropped its matrices: read them first"))
}
