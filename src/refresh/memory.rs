//! What an editor keeps of past keys for its refreshes: one type per rule. No editor knows which.

use std::io::{Read, Write};
use std::mem;
use std::sync::Arc;

use faer::{MatRef, Par};

use super::first::FirstSpace;
use super::full::Full;
use super::keys::Keys;
use super::maximal::Tilt;
use super::nested::{Headroom, HeadroomPlan};
use super::solve::Solve;
use super::{Refresh, RefreshRule};
use crate::engine::{Constraint, InverseGram, Solution, WholeStart};
use crate::error::numerics::{NumericsError, Result};
use crate::linalg::{self, Need};
use crate::projector::{HistoryWeighting, Projector, SpectralGap, Threshold};
use crate::scalar::Scalar;
use crate::second_moment::SecondMoment;
use crate::spectrum::Spectrum;
use crate::util::bytes;
use crate::util::large::Large;
use crate::util::on_demand::OnDemand;

/// What past keys leave behind, for each refresh rule.
#[derive(Clone)]
enum Rule {
    /// No refreshes.
    Never,
    Full(Full),
    /// The headroom, and the keys since the last refresh.
    Nested(Headroom, Keys),
    /// The headroom, tested at every commit.
    Continuous(Headroom),
    /// All keys in the eigenbasis of `C`, and those since the last refresh.
    Maximal(Tilt, Keys),
}

/// The space that may be edited, and what its refreshes need.
#[derive(Clone)]
pub(crate) struct Memory {
    first: FirstSpace,
    rule: Rule,
    kept: usize,
    solve: Solve,
    par: Par,
}

/// What changes besides `Q` when keys join the history, computed before anything changes.
#[derive(Clone, Default)]
pub(crate) struct Plan {
    headroom: Option<HeadroomPlan>,
    constraint: Option<Constraint>,
}

/// The result of a refresh.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Refreshed {
    pub(crate) moved: Option<f64>,
    pub(crate) gap: SpectralGap,
}

impl Plan {
    /// Number of directions that the keys will remove from the space.
    pub(crate) fn saturated(&self) -> usize {
        self.headroom.as_ref().map_or(0, |plan| plan.saturated.ncols())
    }
}

impl Memory {
    /// * `threshold`: where the null space ends; `None` if edits are allowed everywhere
    /// * `projector`: the initial one, cut from `spectrum`
    pub(crate) fn new(
        refresh: Refresh,
        threshold: Option<Threshold>,
        projector: &Projector,
        spectrum: &OnDemand<Spectrum>,
        solve: Solve,
        par: Par,
    ) -> Result<Self> {
        let cut = projector.without_spectrum(spectrum.clone());
        let rule = match refresh {
            Refresh::Never => Rule::Never,
            Refresh::Continuous { weight } => Rule::Continuous(Headroom::new(projector, weight, par)?),
            Refresh::Every { rule: RefreshRule::Full(weighting), .. } => {
                Rule::Full(Full { H: SecondMoment::new(projector.dim()), weighting, threshold })
            }
            Refresh::Every { rule: RefreshRule::Nested { weight }, .. } => {
                Rule::Nested(Headroom::new(projector, weight, par)?, Keys::default())
            }
            Refresh::Every { rule: RefreshRule::Maximal { weight }, .. } => {
                Rule::Maximal(Tilt::new(&cut, weight, (solve.weight, solve.ridge), par), Keys::default())
            }
        };
        Ok(Self { kept: cut.kept, first: FirstSpace::Cut(cut), rule, solve, par })
    }

    /// The whole space, without a spectrum and without refreshes.
    ///
    /// * `start`: kept for `s`, if `Q` will change
    pub(crate) fn whole(dim: usize, start: Option<WholeStart>, solve: Solve, par: Par) -> Self {
        let first = FirstSpace::Whole { dim, start: start.map(Arc::new) };
        Self { kept: dim, first, rule: Rule::Never, solve, par }
    }

    /// Bytes that a rule holds beside `Q`, for `r` directions, up to its first refresh.
    pub(crate) fn need(refresh: Refresh, d: usize, r: usize) -> Need {
        match refresh {
            Refresh::Never | Refresh::Every { rule: RefreshRule::Maximal { .. }, .. } => Need::new("no memory", d, d),
            Refresh::Every { rule: RefreshRule::Full(_), .. } => SecondMoment::need(d),
            Refresh::Every { rule: RefreshRule::Nested { .. }, .. } | Refresh::Continuous { .. } => {
                Headroom::need(d, r)
            }
        }
    }

    /// The space of the start.
    pub(crate) fn first(&self) -> &FirstSpace {
        &self.first
    }

    /// Directions that may be edited.
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    pub(crate) fn headroom(&self) -> Option<&Headroom> {
        match &self.rule {
            Rule::Nested(headroom, _) | Rule::Continuous(headroom) => Some(headroom),
            Rule::Never | Rule::Full(_) | Rule::Maximal(..) => None,
        }
    }

    /// Ends refreshes and forgets the keys.
    pub(crate) fn stop(&mut self) {
        self.rule = Rule::Never;
    }

    /// How keys will change the headroom, if every commit tests them.
    pub(crate) fn plan<T: Scalar>(&self, keys: MatRef<'_, T>) -> Result<Plan> {
        let headroom = match &self.rule {
            Rule::Continuous(headroom) => Some(headroom.plan(keys)?),
            _ => None,
        };
        Ok(Plan { headroom, constraint: None })
    }

    /// Adds to the plan what constraining `Q` takes, once the solution for its keys is known.
    pub(crate) fn completed(&self, mut plan: Plan, Q: &InverseGram, solution: &Solution) -> Result<Plan> {
        let saturated = plan.headroom.as_ref().map(|plan| plan.saturated.as_ref()).filter(|Y| Y.ncols() > 0);
        // A single key needs only its solution.
        if let Some(Y) = saturated
            && Y.nrows() > 1
        {
            plan.constraint = Q.constraint_after(solution, Y)?;
        }
        Ok(plan)
    }

    /// Adds the keys of a solution to the history. Everything that can fail comes before the first change.
    pub(crate) fn absorb(&mut self, Q: &mut InverseGram, solution: &Solution, plan: &Plan) -> Result<()> {
        let keys = solution.keys();
        if let Rule::Full(full) = &mut self.rule {
            full.absorb(keys, self.par)?;
        }
        // The editor's token guarantees that the solution is fresh, so this does not fail.
        if plan.headroom.as_ref().is_some_and(HeadroomPlan::removes_its_only_key) {
            Q.remove_solution(solution)?;
        } else {
            Q.absorb_solution(solution)?;
        }
        if let Some(constraint) = &plan.constraint {
            Q.take(constraint);
        }
        match (&mut self.rule, &plan.headroom) {
            (Rule::Continuous(headroom), Some(plan)) => {
                self.kept -= plan.saturated.ncols().min(self.kept);
                headroom.carry_out(plan);
            }
            (Rule::Nested(_, waiting) | Rule::Maximal(_, waiting), _) => waiting.extend(keys),
            _ => {}
        }
        Ok(())
    }

    /// Refreshes the space. Everything that can fail comes before the first change.
    ///
    /// * `edits`: edits committed so far, for the error of an exhausted space
    pub(crate) fn refresh(&mut self, Q: &mut InverseGram, edits: usize) -> Result<Refreshed> {
        if let Some(full) = self.outgrown()? {
            return self.refresh_fully(full, Q, edits);
        }
        match self.refresh_by_rule(Q, edits) {
            // Where keys and threshold leave the small systems of `Maximal` singular, a decomposition does it.
            Err(error @ NumericsError::Singular { .. }) => match self.summed()? {
                Some(full) => self.refresh_fully(full, Q, edits),
                None => Err(error),
            },
            outcome => outcome,
        }
    }

    /// Refreshes by a decomposition from now on. If that fails, the rule stays.
    fn refresh_fully(&mut self, full: Full, Q: &mut InverseGram, edits: usize) -> Result<Refreshed> {
        let before = mem::replace(&mut self.rule, Rule::Full(full));
        let outcome = self.refresh_by_rule(Q, edits);
        if outcome.is_err() {
            self.rule = before;
        }
        outcome
    }

    fn refresh_by_rule(&mut self, Q: &mut InverseGram, edits: usize) -> Result<Refreshed> {
        let exhausted = self.exhausted(edits);
        let (d_in, par) = (Q.dim(), self.par);
        match &mut self.rule {
            Rule::Full(full) => {
                let first = self.first.projector("a refresh")?;
                let (projector, refreshed) = full.refreshed(&first, Q, &self.solve, par)?;
                let moved = first.distance_squared(&projector, par)?;
                (self.kept, *Q) = (projector.kept(), refreshed);
                return Ok(Refreshed { moved: Some(moved), gap: projector.gap() });
            }
            Rule::Nested(headroom, keys) if !keys.is_empty() => {
                let plan = headroom.plan(keys.as_mat(d_in))?;
                let removed = plan.saturated.ncols();
                if removed >= self.kept {
                    return Err(exhausted);
                }
                if removed > 0 {
                    let N = linalg::product(keys.as_mat(d_in), plan.saturated.as_ref(), par);
                    Q.constrain(N.as_ref())?;
                }
                headroom.carry_out(&plan);
                *keys = Keys::default();
                self.kept -= removed;
            }
            Rule::Maximal(tilt, keys) if !keys.is_empty() => {
                let plan = tilt.plan(keys.as_mat(d_in))?;
                if plan.kept == 0 {
                    return Err(exhausted);
                }
                self.kept = plan.kept;
                tilt.carry_out(plan, Q);
                *keys = Keys::default();
            }
            Rule::Never | Rule::Continuous(_) | Rule::Nested(..) | Rule::Maximal(..) => {}
        }
        Ok(Refreshed::default())
    }

    pub(crate) fn exhausted(&self, edits: usize) -> NumericsError {
        NumericsError::CapacityExhausted { edits, first: self.first.kept() }
    }

    /// Whether past keys have shaped the space, after this many refreshes.
    pub(crate) fn is_shaped(&self, refreshes: usize) -> bool {
        match &self.rule {
            Rule::Never => false,
            Rule::Full(_) => refreshes > 0,
            Rule::Nested(..) | Rule::Continuous(_) | Rule::Maximal(..) => true,
        }
    }

    /// Removes keys from the history, in `Q` and in what a refresh needs. On error, nothing is changed.
    pub(crate) fn release<T: Scalar>(&mut self, Q: &mut InverseGram, keys: MatRef<'_, T>) -> Result<()> {
        if let Rule::Full(full) = &self.rule {
            full.H.holds(keys)?;
        }
        Q.release(keys)?;
        if let Rule::Full(full) = &mut self.rule {
            full.H.forget(keys, self.par)?;
        }
        Ok(())
    }

    /// What makes up most of the state.
    pub(crate) fn large(&mut self) -> Option<&mut dyn Large> {
        match &mut self.rule {
            Rule::Never | Rule::Maximal(..) => None,
            Rule::Full(full) => full.H.large(),
            Rule::Nested(headroom, _) | Rule::Continuous(headroom) => Some(headroom.large()),
        }
    }

    /// Whether refreshes have ended.
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.rule, Rule::Never)
    }

    /// The sum of all keys, once the keys and the matrices that each refresh leaves behind would take more memory: from
    /// `0.31 d_in` keys on.
    fn outgrown(&self) -> Result<Option<Full>> {
        let Rule::Maximal(tilt, keys) = &self.rule else { return Ok(None) };
        let d_in = self.first.dim();
        let t = tilt.len() + keys.as_mat(d_in).ncols();
        if 2 * t * (d_in + 2 * t) <= d_in * d_in { Ok(None) } else { self.summed() }
    }

    /// The sum of all keys, if the rule is `Maximal`.
    fn summed(&self) -> Result<Option<Full>> {
        let Rule::Maximal(tilt, keys) = &self.rule else { return Ok(None) };
        let d_in = self.first.dim();
        let mut full = self.sum_for(tilt.weight());
        let known = tilt.keys()?;
        for keys in [known.as_ref(), keys.as_mat(d_in)] {
            if keys.ncols() > 0 {
                full.absorb(keys, self.par)?;
            }
        }
        Ok(Some(full))
    }

    /// A full refresh that replaces another rule uses the absolute threshold of the start, even if that was given as a
    /// fraction.
    fn sum_for(&self, weight: f64) -> Full {
        let threshold = self.first.threshold();
        Full {
            H: SecondMoment::new(self.first.dim()),
            weighting: HistoryWeighting::Sum { weight },
            threshold: threshold.is_finite().then_some(Threshold::Absolute(threshold)),
        }
    }

    /// Identifies the rule in a file.
    fn tag(&self) -> u64 {
        match &self.rule {
            Rule::Never => 0,
            Rule::Full(_) => 1,
            Rule::Nested(..) | Rule::Continuous(_) => 2,
            Rule::Maximal(..) => 3,
        }
    }

    pub(crate) fn save(&self, out: &mut dyn Write) -> bytes::Result<()> {
        bytes::write_u64(out, self.tag())?;
        match &self.rule {
            Rule::Never => Ok(()),
            Rule::Full(full) => full.H.save(out),
            Rule::Nested(headroom, keys) => {
                headroom.save(out)?;
                keys.save(out)
            }
            Rule::Continuous(headroom) => {
                headroom.save(out)?;
                Keys::default().save(out)
            }
            Rule::Maximal(tilt, keys) => {
                tilt.save(out)?;
                keys.save(out)
            }
        }
    }

    /// Loads a state that [`save`](Self::save) wrote, with `kept` directions left. After an error the state is
    /// unspecified.
    pub(crate) fn load(&mut self, from: &mut dyn Read, kept: usize) -> bytes::Result<()> {
        let d = self.first.dim();
        self.kept = kept;
        match (bytes::read_u64(from)?, &mut self.rule) {
            (0, rule) => *rule = Rule::Never,
            (1, Rule::Full(full)) => full.H.load(from)?,
            (1, Rule::Maximal(tilt, _)) => {
                let weight = tilt.weight();
                let mut full = self.sum_for(weight);
                full.H.load(from)?;
                self.rule = Rule::Full(full);
            }
            (2, Rule::Nested(headroom, keys)) => {
                headroom.load(from)?;
                *keys = Keys::load(from, d)?;
            }
            (2, Rule::Continuous(headroom)) => {
                headroom.load(from)?;
                Keys::load(from, d)?;
            }
            (3, Rule::Maximal(tilt, keys)) => {
                tilt.load(from)?;
                *keys = Keys::load(from, d)?;
            }
            _ => return Err(bytes::invalid("the state belongs to another refresh rule")),
        }
        Ok(())
    }
}
