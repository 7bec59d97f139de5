//! The editor that runs any recipe on the engine.

use std::io::{Read, Write};
use std::marker::PhantomData;
use std::sync::Arc;

use faer::{Mat, MatRef, Par};

use super::random_keys::RandomKeys;
use super::simulated::Simulated;
use super::{Editor, EditorState, History, Recipe, Slack, Space};
use crate::batch::{EditBatch, Order};
use crate::engine::{Constraint, InverseGram, Solution};
use crate::error::{EditError, Result};
use crate::projector::{HistoryWeighting, Projector, ProjectorBuilder, Threshold};
use crate::refresh::maximal::Tilt;
use crate::refresh::nested::{self, Headroom};
use crate::refresh::{Capacity, Refresh, RefreshReport, RefreshRule};
use crate::scalar::{Scalar, cast};
use crate::second_moment::SecondMoment;
use crate::spectrum::Spectrum;
use crate::update::{Proposal, Update};
use crate::util::{bytes, validate};
use crate::{linalg, metrics};

/// An editor for one layer that runs any [`Recipe`].
///
/// # Memory
/// `Q` (`4 d_in²` bytes), and what the refresh rule needs: for a full refresh the sum `H` of past keys, for `Nested` and
/// continuous refresh the headroom (`4 d_in²` bytes each), for `Maximal` the keys. Between two refreshes the new keys are kept
/// (8 `d_in` bytes each). The spectrum of `C` is shared.
#[derive(Clone, Debug)]
pub struct ClosedFormEditor<T: Scalar> {
    name: &'static str,
    recipe: Recipe,
    /// Cut from the spectrum of `C` at the start.
    projector: Projector,
    Q: InverseGram,
    memory: Memory,
    random: Option<RandomKeys>,
    simulated: Option<Simulated>,
    kept: usize,
    edits: usize,
    last_refresh: usize,
    refreshes: usize,
    /// Replaced at every change, so that an update knows the state it was proposed in.
    state: Arc<()>,
    par: Par,
    scalar: PhantomData<T>,
}

/// What an editor remembers of past keys for its refreshes.
#[derive(Clone, Debug)]
enum Memory {
    /// Nothing: there are none.
    Nothing,
    /// `H`, for full refreshes.
    Sum(SecondMoment),
    /// The headroom, and the keys since the last refresh.
    Headroom(Headroom, Keys),
    /// All keys in the eigenbasis of `C`, and those since the last refresh.
    Tilt(Tilt, Keys),
}

#[cfg(feature = "session")]
impl Remembered {
    pub(crate) fn saturated(&self) -> usize {
        self.headroom.as_ref().map_or(0, |plan| plan.saturated.ncols())
    }
}

impl Memory {
    /// What tells the kinds apart in a file.
    fn tag(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Sum(_) => 1,
            Self::Headroom(..) => 2,
            Self::Tilt(..) => 3,
        }
    }
}

/// The eigenvalues on both sides of a cut.
type Gap = (Option<f64>, Option<f64>);

/// Keys, column after column.
#[derive(Clone, Debug, Default)]
struct Keys(Vec<f64>);

impl Keys {
    fn extend(&mut self, keys: MatRef<'_, f64>) {
        self.0.extend(keys.col_iter().flat_map(|column| column.iter().copied()));
    }

    fn as_mat(&self, d_in: usize) -> MatRef<'_, f64> {
        MatRef::from_column_major_slice(&self.0, d_in, self.0.len() / d_in)
    }
}

/// What a commit changes beside `Q`, computed with the proposal: a commit has nothing left that can fail.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remembered {
    headroom: Option<nested::Plan>,
    constraint: Option<Constraint>,
    /// Keys that join the history in place of the edited ones.
    random: Option<Solution>,
    /// What the ideal editor learns.
    simulated: Option<Solution>,
}

impl<T: Scalar> ClosedFormEditor<T> {
    /// An editor from a recipe. [`Method::editor`](super::Method::editor) is the usual way here.
    ///
    /// # Errors
    /// Hyperparameters outside their range, a threshold that keeps nothing, a singular start, or a refresh rule that needs
    /// a null space in a recipe without one.
    pub fn new(name: &'static str, recipe: Recipe, spectrum: &Arc<Spectrum>, par: Par) -> Result<Self> {
        recipe.check()?;
        let mut projector = match recipe.space {
            Space::Whole => Projector::identity(spectrum),
            Space::Null(threshold) => ProjectorBuilder::new(spectrum).threshold(threshold).build(par)?,
        };
        if !matches!(recipe.refresh, Refresh::Never | Refresh::Every { rule: RefreshRule::Full(_), .. }) {
            projector = projector.with_headroom()?;
        }
        let Q = InverseGram::diagonal(&projector, recipe.weight, recipe.ridge, par)?;
        let Q = Self::fitted(Q, &recipe)?;
        let headroom = |weight| Ok(Memory::Headroom(Headroom::new(&projector, weight, par)?, Keys::default()));
        let memory = match recipe.refresh {
            Refresh::Never => Memory::Nothing,
            Refresh::Every { rule: RefreshRule::Full(_), .. } => Memory::Sum(SecondMoment::new(spectrum.dim())),
            Refresh::Every { rule: RefreshRule::Nested { weight }, .. } | Refresh::Continuous { weight } => {
                headroom(weight)?
            }
            Refresh::Every { rule: RefreshRule::Maximal { weight }, .. } => {
                let solve = (recipe.weight, recipe.ridge);
                Memory::Tilt(Tilt::new(&projector, weight, solve, par), Keys::default())
            }
        };
        let simulated = recipe.simulation.map(|simulation| Simulated::new(simulation, Q.dim(), par)).transpose()?;
        let random = match recipe.history {
            History::Random { seed } => Some(RandomKeys { seed, pool: None, drawn: 0 }),
            History::Ignored | History::Absorbed => None,
        };
        Ok(Self {
            name,
            recipe,
            kept: projector.kept(),
            projector,
            Q,
            memory,
            random,
            simulated,
            edits: 0,
            last_refresh: 0,
            refreshes: 0,
            state: Arc::default(),
            par,
            scalar: PhantomData,
        })
    }

    /// Keys of `f32` come one by one and give directions of `f32`: a copy of `Q` in `f32` serves them faster. Not where
    /// residuals are met closely, which needs the exact product.
    fn fitted(Q: InverseGram, recipe: &Recipe) -> Result<InverseGram> {
        let exact = T::EPSILON <= f64::EPSILON || recipe.slack != Slack::default();
        if exact { Ok(Q) } else { Q.with_rounded_copy() }
    }

    /// Keys to draw from for [`History::Random`], `d_in x m`: those of other facts, for example. Other methods draw none.
    ///
    /// # Errors
    /// Wrong shape, no key, NaN.
    pub fn with_random_keys(mut self, keys: &Arc<Mat<f64>>) -> Result<Self> {
        validate::columns("random keys", keys.as_ref().as_ref(), self.Q.dim())?;
        validate::finite("random keys", keys.as_ref().as_ref())?;
        if let Some(random) = &mut self.random {
            random.pool = Some(Arc::clone(keys));
            self.state = Arc::default();
        }
        Ok(self)
    }

    /// The recipe that the editor runs.
    #[must_use]
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The projector of the start. Refreshes change the space without keeping a projector on it: what may be edited is the
    /// range of `Q`. That of a full refresh is what [`ProjectorBuilder`] makes of the same history.
    #[must_use]
    pub fn projector(&self) -> &Projector {
        &self.projector
    }

    /// The present `Q`.
    #[must_use]
    pub fn inverse_gram(&self) -> &InverseGram {
        &self.Q
    }

    /// The headroom left, for `Nested` and continuous refresh: a gauge of what a key would use, before it is edited.
    #[must_use]
    pub fn headroom(&self) -> Option<&Headroom> {
        match &self.memory {
            Memory::Headroom(headroom, _) => Some(headroom),
            _ => None,
        }
    }

    /// `s = kᵀ A0⁻¹ k` of every key, with `A0` the protected Gram matrix **at the start**, on the space of that
    /// time: see [`metrics::stability`].
    ///
    /// # Errors
    /// Wrong shape, empty, NaN.
    pub fn stability(&self, keys: MatRef<'_, T>) -> Result<Vec<f64>> {
        metrics::stability(&self.projector, self.recipe.weight, self.recipe.ridge, keys, self.par)
    }

    /// Goes on in the present space for good: what to do when a refresh would leave no direction
    /// ([`EditError::NothingKept`], [`EditError::CapacityExhausted`]) and editing has to go on. Past keys stay protected
    /// by the solve.
    pub fn stop_refreshing(&mut self) {
        self.recipe.refresh = Refresh::Never;
        self.memory = Memory::Nothing;
        self.state = Arc::default();
    }

    /// Writes the state, bit for bit, such that an editor that goes on from it gives the same numbers, at an equal `Par`.
    ///
    /// The bytes hold no checksum and no version: a [`Session`](crate::session) adds both.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn save(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let drawn = self.random.as_ref().map_or(0, |random| random.drawn);
        for count in [self.kept, self.edits, self.last_refresh, self.refreshes, drawn] {
            bytes::write_len(out, count)?;
        }
        self.Q.save(out)?;
        self.simulated.as_ref().map_or(Ok(()), |simulated| simulated.save(out))?;
        bytes::write_u64(out, self.memory.tag())?;
        match &self.memory {
            Memory::Nothing => Ok(()),
            Memory::Sum(H) => H.save(out),
            Memory::Headroom(headroom, keys) => {
                headroom.save(out)?;
                bytes::write_slice(out, &keys.0)
            }
            Memory::Tilt(tilt, keys) => {
                tilt.save(out)?;
                bytes::write_slice(out, &keys.0)
            }
        }
    }

    /// Goes on from a state that [`save`](Self::save) wrote for an editor with the same recipe and spectrum.
    ///
    /// # Errors
    /// Those of the reader, and [`InvalidData`](std::io::ErrorKind::InvalidData) for a state that cannot be this
    /// editor's. The editor is unchanged then. A `Maximal` editor that has given its keys up for their sum loads only states
    /// that have done so, too.
    pub fn load(&mut self, from: &mut dyn Read) -> std::io::Result<()> {
        let mut next = self.clone();
        let d = next.Q.dim();
        next.kept = bytes::read_len(from, d)?;
        for count in [&mut next.edits, &mut next.last_refresh, &mut next.refreshes] {
            *count = bytes::read_len(from, usize::MAX)?;
        }
        let drawn = bytes::read_len(from, usize::MAX)?;
        if let Some(random) = &mut next.random {
            random.drawn = drawn;
        }
        if next.last_refresh > next.edits {
            return Err(bytes::invalid("a refresh after the last edit"));
        }
        next.Q.load(from)?;
        next.simulated.as_mut().map_or(Ok(()), |simulated| simulated.load(from))?;
        next.memory = match (bytes::read_u64(from)?, next.memory) {
            (0, _) => {
                next.recipe.refresh = Refresh::Never;
                Memory::Nothing
            }
            (1, _) => {
                let mut H = SecondMoment::new(d);
                H.load(from)?;
                Memory::Sum(H)
            }
            (2, Memory::Headroom(mut headroom, _)) => {
                headroom.load(from)?;
                Memory::Headroom(headroom, Keys(bytes::read_slice(from, d)?))
            }
            (3, Memory::Tilt(mut tilt, _)) => {
                tilt.load(from)?;
                Memory::Tilt(tilt, Keys(bytes::read_slice(from, d)?))
            }
            _ => return Err(bytes::invalid("the state is of another refresh rule")),
        };
        next.state = Arc::default();
        *self = next;
        Ok(())
    }

    fn refresh_due(&self) -> Option<RefreshRule> {
        match self.recipe.refresh {
            Refresh::Every { edits, rule } if self.edits - self.last_refresh >= edits => Some(rule),
            _ => None,
        }
    }

    fn exhausted(&self) -> EditError {
        EditError::CapacityExhausted { edits: self.edits, first: self.projector.kept() }
    }

    /// The state after a full refresh, with this state left as it is.
    fn fully_refreshed(&self, H: &SecondMoment, rule: RefreshRule) -> Result<(Projector, InverseGram)> {
        let Space::Null(threshold) = self.recipe.space else { return Ok((self.projector.clone(), self.Q.clone())) };
        let (threshold, weighting) = match rule {
            RefreshRule::Full(weighting) => (threshold, weighting),
            // These rules stay at the threshold of the start, whatever it was a fraction of.
            RefreshRule::Maximal { weight } | RefreshRule::Nested { weight } => {
                (Threshold::Absolute(self.projector.threshold()), HistoryWeighting::Sum { weight })
            }
        };
        let (spectrum, par) = (self.projector.spectrum(), self.par);
        let projector = ProjectorBuilder::new(spectrum).threshold(threshold).history(H, weighting).build(par)?;
        let mut A = spectrum.matrix(par);
        A *= faer::Scale(self.recipe.weight);
        H.add_to(A.as_mut(), 1.0, par);
        let Q = InverseGram::new(&projector, A.as_ref(), self.recipe.ridge, par)?;
        Ok((projector, Self::fitted(Q, &self.recipe)?))
    }

    /// Refreshes by a rule. Everything that can fail comes before the first change.
    fn refresh(&mut self, rule: RefreshRule) -> Result<(Option<f64>, Gap)> {
        if let Some(H) = self.outgrown()? {
            self.memory = Memory::Sum(H);
        }
        if let Memory::Sum(H) = &self.memory {
            let (projector, Q) = self.fully_refreshed(H, rule)?;
            let moved = self.projector.distance_squared(&projector, self.par)?;
            (self.kept, self.Q) = (projector.kept(), Q);
            return Ok((Some(moved), projector.gap()));
        }
        let (d_in, exhausted) = (self.Q.dim(), self.exhausted());
        match &mut self.memory {
            Memory::Headroom(headroom, keys) if !keys.0.is_empty() => {
                let plan = headroom.plan(keys.as_mat(d_in))?;
                let removed = plan.saturated.ncols();
                if removed >= self.kept {
                    return Err(exhausted);
                }
                if removed > 0 {
                    let N = linalg::product(keys.as_mat(d_in), plan.saturated.as_ref(), self.par);
                    self.Q.constrain(N.as_ref())?;
                }
                headroom.carry_out(&plan);
                *keys = Keys::default();
                self.kept -= removed;
            }
            Memory::Tilt(tilt, keys) if !keys.0.is_empty() => {
                let plan = tilt.plan(keys.as_mat(d_in))?;
                if plan.kept == 0 {
                    return Err(exhausted);
                }
                self.kept = plan.kept;
                tilt.carry_out(plan, &mut self.Q);
                *keys = Keys::default();
            }
            _ => {}
        }
        Ok((None, (None, None)))
    }

    /// The sum of all keys, if there are so many that they and the matrices of their number, which a refresh by each of them
    /// leaves behind, would take more memory: from `0.31 d_in` on.
    fn outgrown(&self) -> Result<Option<SecondMoment>> {
        let Memory::Tilt(tilt, keys) = &self.memory else { return Ok(None) };
        let d_in = self.Q.dim();
        let t = tilt.len() + keys.0.len() / d_in;
        if 2 * t * (d_in + 2 * t) <= d_in * d_in {
            return Ok(None);
        }
        let mut H = SecondMoment::new(d_in);
        let known = tilt.keys();
        for keys in [known.as_ref(), keys.as_mat(d_in)] {
            if keys.ncols() > 0 {
                H.observe(keys, self.par)?;
            }
        }
        Ok(Some(H))
    }

    /// What the keys will change of the headroom.
    fn plan<U: Scalar>(&self, keys: MatRef<'_, U>) -> Result<Option<nested::Plan>> {
        match (&self.memory, self.recipe.refresh) {
            (Memory::Headroom(headroom, _), Refresh::Continuous { .. }) => headroom.plan(keys).map(Some),
            _ => Ok(None),
        }
    }

    /// What is taken out of the space is multiplied exactly, so that nothing of it is left.
    fn solve(&self, keys: MatRef<'_, T>, plan: Option<&nested::Plan>) -> Result<Solution> {
        if plan.is_some_and(|plan| plan.saturated.ncols() > 0) {
            self.Q.solve(cast::<T, f64>(keys).as_ref())
        } else {
            self.Q.solve(keys)
        }
    }

    /// The solution for keys on the present `Q`, with the recipe's slack.
    pub(crate) fn solution(&self, keys: MatRef<'_, T>, order: Order, plan: Option<&nested::Plan>) -> Result<Solution> {
        let (mut solution, size) = match (order, self.recipe.history) {
            (Order::Together, _) => (self.solve(keys, plan)?, keys.ncols()),
            (Order::InSequence, History::Absorbed) => (self.Q.solve_in_sequence(keys)?, 1),
            (Order::InSequence, _) => (self.Q.solve_each(keys)?, 1),
        };
        self.Q.set_slack(&mut solution, self.recipe.slack.of(size), order)?;
        Ok(solution)
    }

    /// What absorbing keys will change beside `Q`.
    fn remembered(&self, solution: &Solution, plan: Option<nested::Plan>) -> Result<Remembered> {
        let saturated = plan.as_ref().map(|plan| plan.saturated.as_ref()).filter(|Y| Y.ncols() > 0);
        let constraint = match saturated {
            // A single key needs no more than its solution.
            Some(Y) if Y.nrows() > 1 => self.Q.constraint_after(solution, Y)?,
            _ => None,
        };
        Ok(Remembered { headroom: plan, constraint, ..Remembered::default() })
    }

    /// The keys join the history. What can fail comes before the first change.
    fn absorb(&mut self, solution: &Solution, remembered: &Remembered) -> Result<()> {
        let keys = solution.keys();
        let Remembered { headroom: plan, constraint, .. } = remembered;
        if let Memory::Sum(H) = &mut self.memory {
            H.observe(keys, self.par)?;
        }
        // The state token vouches for the solution, so this does not fail.
        if plan.as_ref().is_some_and(nested::Plan::removes_its_only_key) {
            self.Q.remove_solution(solution)?;
        } else {
            self.Q.absorb_solution(solution)?;
        }
        if let Some(constraint) = constraint {
            self.Q.take(constraint);
        }
        match (&mut self.memory, plan) {
            (Memory::Headroom(headroom, _), Some(plan)) => {
                self.kept -= plan.saturated.ncols().min(self.kept);
                headroom.carry_out(plan);
            }
            (Memory::Headroom(_, waiting) | Memory::Tilt(_, waiting), None) => waiting.extend(keys),
            _ => {}
        }
        Ok(())
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
        let first = self.projector.kept();
        EditorState {
            edits: self.edits,
            refreshes: self.refreshes,
            kept_directions: self.kept,
            removed_directions: first.saturating_sub(self.kept),
            capacity: Capacity::of(self.kept, first),
        }
    }

    fn refresh_if_due(&mut self) -> Result<Option<RefreshReport>> {
        let Some(rule) = self.refresh_due() else { return Ok(None) };
        let kept_before = self.kept;
        let (moved, gap) = self.refresh(rule)?;
        self.last_refresh = self.edits;
        self.refreshes += 1;
        self.state = Arc::default();
        Ok(Some(RefreshReport { edits: self.edits, kept_before, kept_after: self.kept, moved, gap }))
    }

    fn propose(&self, batch: &EditBatch<'_, T>) -> Result<Update<T>> {
        validate::shape("keys", batch.keys(), self.d_in(), batch.len())?;
        if self.refresh_due().is_some() {
            return Err(EditError::RefreshDue { edits: self.edits });
        }
        if self.kept == 0 {
            return Err(self.exhausted());
        }
        if self.random.is_some() && batch.order() == Order::InSequence {
            let (parameter, value) = ("edits in sequence, with random keys between them", batch.len() as f64);
            return Err(EditError::Parameter { parameter, value, allowed: "none: give them one by one" });
        }
        let one_for_several = self.recipe.merging.of(batch);
        let edits = batch.len();
        let batch = one_for_several.as_ref().map_or(*batch, |(keys, residuals)| batch.merged(keys, residuals));
        let plan = match self.recipe.history {
            History::Absorbed => self.plan(batch.keys())?,
            _ => None,
        };
        let mut solution = self.solution(batch.keys(), batch.order(), plan.as_ref())?;
        let mut remembered = match (self.recipe.history, &self.random) {
            (History::Absorbed, _) => self.remembered(&solution, plan)?,
            (_, Some(random)) => {
                let keys = random.draw(batch.len(), self.projector.spectrum(), self.par);
                let drawn = self.Q.solve(keys.as_ref())?;
                let plan = self.plan(keys.as_ref())?;
                Remembered { random: Some(drawn.clone()), ..self.remembered(&drawn, plan)? }
            }
            _ => Remembered::default(),
        };
        let mut directions = solution.take_directions();
        let mut left = batch.residuals().to_owned();
        if let Some(simulated) = &self.simulated {
            let learned;
            (left, learned) = simulated.learn(&batch, directions.as_ref())?;
            directions = learned.directions().to_owned();
            remembered.simulated = Some(learned);
        }
        Update::proposed(left, &directions, edits, Proposal { solution, remembered, state: Arc::clone(&self.state) })
    }

    fn commit(&mut self, update: &Update<T>) -> Result<()> {
        let Some(proposal) = update.proposal.as_ref().filter(|proposal| Arc::ptr_eq(&proposal.state, &self.state))
        else {
            return Err(EditError::StaleUpdate);
        };
        let Proposal { solution, remembered, .. } = proposal;
        match (&remembered.random, self.recipe.history) {
            (Some(drawn), _) => self.absorb(drawn, remembered)?,
            (None, History::Absorbed) => self.absorb(solution, remembered)?,
            _ => {}
        }
        if let (Some(simulated), Some(learned)) = (&mut self.simulated, &remembered.simulated) {
            simulated.commit(learned, update)?;
        }
        if let (Some(random), Some(drawn)) = (&mut self.random, &remembered.random) {
            random.drawn += drawn.keys().ncols();
        }
        self.edits += update.edits();
        self.state = Arc::default();
        Ok(())
    }

    fn release(&mut self, keys: MatRef<'_, T>) -> Result<()> {
        validate::columns("keys", keys, self.d_in())?;
        let shaped = match &self.memory {
            Memory::Nothing => false,
            Memory::Sum(_) => self.refreshes > 0,
            Memory::Headroom(..) | Memory::Tilt(..) => true,
        };
        if shaped {
            return Err(EditError::HistoryInProjector);
        }
        if self.simulated.is_some() || self.random.is_some() {
            return Err(EditError::NotReversible);
        }
        if self.recipe.history == History::Absorbed {
            if let Memory::Sum(H) = &self.memory {
                H.holds(keys)?;
            }
            self.Q.release(keys)?;
            if let Memory::Sum(H) = &mut self.memory {
                H.forget(keys, self.par)?;
            }
        }
        self.edits = self.edits.saturating_sub(keys.ncols());
        self.last_refresh = self.last_refresh.min(self.edits);
        self.state = Arc::default();
        Ok(())
    }

    fn protect(&mut self, keys: MatRef<'_, T>) -> Result<()> {
        let plan = self.plan(keys)?;
        let solution = self.solve(keys, plan.as_ref())?;
        let remembered = self.remembered(&solution, plan)?;
        let learned = self.simulated.as_ref().map(|simulated| simulated.Q.solve(keys)).transpose()?;
        self.absorb(&solution, &remembered)?;
        if let (Some(simulated), Some(learned)) = (&mut self.simulated, learned) {
            simulated.Q.absorb_solution(&learned)?;
        }
        self.state = Arc::default();
        Ok(())
    }
}
