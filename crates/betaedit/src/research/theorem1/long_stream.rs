//! A long stream, with the residuals of the theorem and with those of a program that edits a model.

use std::sync::Arc;

use betaedit_core::editor::ClosedFormEditor;
use betaedit_core::faer::{Mat, Scale};
use betaedit_core::metrics::{Measurement, RunningTotal};
use betaedit_core::{EditBatch, Editor, Spectrum};
use serde_json::{Value, json};

use super::contender::{Contender, Family, Past, contenders};
use super::theorem::Theorem1;
use super::world::{D_IN, D_OUT, EDITS, TOPICS, TYPICAL_S, World};
use super::{PAR, ensure, yes};
use crate::research::numbers::median;
use crate::terminal::{Done, Terminal};

/// Where residuals come from.
#[derive(Clone, Copy, PartialEq)]
pub enum Residuals {
    /// `v - W0 k`, the same for every method: the theorem's setting.
    Given,
    /// `v - (W0 + D) k`, from the weight as edited so far, as in a program that edits a model.
    Measured,
}

/// The results of a method on the stream.
pub struct Run {
    pub steps: Vec<Measurement>,
    pub total: Mat<f64>,
}

impl Run {
    pub fn of(world: &World, contender: &Contender, residuals: Residuals, order: &[usize]) -> Done<Self> {
        let mut editor = ClosedFormEditor::<f64>::new(contender.name, contender.recipe, &world.spectrum, PAR)?;
        let mut total = RunningTotal::new(&world.moment, D_OUT, 1, PAR)?;
        let mut steps = Vec::with_capacity(order.len());
        for &edit in order {
            let key = world.keys.as_ref().subcols(edit, 1);
            let mut residual = world.goals.as_ref().subcols(edit, 1).to_owned();
            if residuals == Residuals::Measured {
                residual -= total.total()? * key;
            }
            let update = editor.edit(&EditBatch::new(key, residual.as_ref())?)?;
            if contender.past == Past::OtherKeys {
                editor.protect(world.other_keys.as_ref().subcols(edit, 1))?;
            }
            steps.extend(total.record(&update)?);
        }
        Ok(Self { steps, total: total.total()?.to_owned() })
    }

    fn drift(&self) -> f64 {
        self.steps.last().map_or(0.0, |step| step.drift)
    }

    fn leakage(&self) -> f64 {
        self.steps.last().map_or(0.0, |step| step.leakage)
    }

    /// The median of `|v - (W0 + D) k|` over all edits, at the end.
    fn median_error(&self, world: &World) -> f64 {
        let missing = &self.total * &world.keys - &world.goals;
        median(missing.col_iter().map(|column| column.norm_l2())).unwrap_or(f64::NAN)
    }
}

/// Both runs of a contender.
pub struct Trial {
    pub contender: Contender,
    pub given: Run,
    pub measured: Run,
}

impl Trial {
    pub fn json(&self, world: &World) -> Value {
        let run = |run: &Run| json!({ "drift": run.drift(), "leakage": run.leakage() });
        json!({
            "method": self.contender.name,
            "given": run(&self.given),
            "measured": run(&self.measured),
            "error": self.measured.median_error(world),
        })
    }
}

/// Section 4: the curves of the paper's Figure 3, with both kinds of residuals.
pub fn show(world: &World, terminal: Terminal) -> Done<Vec<Trial>> {
    terminal.say(format!(
        "
4. A LONG STREAM

{EDITS} edits of a {D_OUT} x {D_IN} weight. The keys have much in common: they share a part, fall into {TOPICS} topics,
and fill a third of the space. The residual of each edit, v - W0 k, is random and of length 1.

  MEMIT        as in section 1; with lambda doubled, every edit writes less
  MEMIT-H      with history
  MEMIT-R      with as many keys as history has, but from other edits, which are never made
  AlphaEdit    writes only where C has eigenvalues below 0.02; A0 = lambda2 I. H: with history
  BetaEdit     as AlphaEdit-H with A0 = lambda1 C + lambda2 I; refreshes its space every 100 edits

All start at a median s of {TYPICAL_S}, or half of it where lambda is doubled. \"Given\": the residuals are
v - W0 k for all methods, as in the theorem. \"Measured\": they are v - (W0 + D) k, on the weight as
edited so far, as in a program. Error: the median of |v - (W0 + D) k| over all edits at the end;
before the first edit it is 1.

                           given residuals         measured residuals
                           drift   leakage     drift   leakage     error"
    ));
    let order: Vec<usize> = (0..EDITS).collect();
    let mut trials = Vec::new();
    for contender in contenders(world)? {
        let given = Run::of(world, &contender, Residuals::Given, &order)?;
        let measured = Run::of(world, &contender, Residuals::Measured, &order)?;
        let [a, b, c, d] = [given.drift(), given.leakage(), measured.drift(), measured.leakage()];
        let error = measured.median_error(world);
        terminal.say(format!("  {:<22} {a:>7.2} {b:>9.3} {c:>9.2} {d:>9.3} {error:>9.2}", contender.name));
        trials.push(Trial { contender, given, measured });
    }
    terminal.say("");
    for family in [Family::Memit, Family::NullSpace] {
        compare(pair(&trials, family)?, terminal);
    }
    the_theorem_on(world, pair(&trials, Family::Memit)?, terminal)?;
    Ok(trials)
}

/// The method without history, and the same with it.
fn pair(trials: &[Trial], family: Family) -> Done<[&Trial; 2]> {
    let find = |past| trials.iter().find(|trial| trial.contender.family == family && trial.contender.past == past);
    match (find(Past::Nothing), find(Past::Keys)) {
        (Some(without), Some(with)) => Ok([without, with]),
        _ => Err("no method with and without history".into()),
    }
}

/// Prints what history did to the drift.
fn compare([without, with]: [&Trial; 2], terminal: Terminal) {
    let larger = |without: &Run, with: &Run| {
        let pairs = without.steps.iter().zip(&with.steps);
        let larger: Vec<usize> = pairs.filter(|(a, b)| b.drift > a.drift * 1.000_001).map(|(a, _)| a.edits).collect();
        match larger.last() {
            Some(last) => format!("larger after {} of the edits, last after edit {last}", larger.len()),
            None => "never larger".to_owned(),
        }
    };
    terminal.say(format!("Drift of {} against {}:", with.contender.name, without.contender.name));
    terminal.say(format!("  given residuals     {}", larger(&without.given, &with.given)));
    terminal.say(format!("  measured residuals  {}", larger(&without.measured, &with.measured)));
}

/// Prints which conditions of the theorem the stream meets.
fn the_theorem_on(world: &World, trials: [&Trial; 2], terminal: Terminal) -> Done {
    let A0 = world.moment.to_mean(PAR)? * Scale(trials[0].contender.recipe.weight);
    let spectrum = Arc::new(Spectrum::from_matrix(A0.as_ref(), PAR)?);
    let run = Theorem1::run(&spectrum, &EditBatch::new(world.keys.as_ref(), world.goals.as_ref())?)?;
    for (trial, drift) in trials.iter().zip([&run.drift_without, &run.drift_with]) {
        let off = |(step, drift): (&Measurement, &f64)| (step.drift / drift - 1.0).abs();
        let worst = trial.given.steps.iter().zip(drift).map(off).fold(0.0, f64::max);
        ensure(worst < 1e-8, "two computations of the drift disagree")?;
    }
    let largest = run.s.iter().copied().fold(0.0, f64::max);
    terminal.say("\nThe conditions that the stream meets, for MEMIT:\n");
    terminal.say(format!("  {:<3}  the theorem's assumption", yes(run.non_conflicting)));
    terminal.say("  yes  (1) for the given residuals; not for the measured ones, which differ between methods");
    terminal.say(format!("  {:<3}  (2)", yes(run.isotropic)));
    terminal.say(format!("  {:<3}  (3), the largest s is {largest:.2}", yes(run.small_keys)));
    terminal.say(format!("  {:<3}  (4)", yes(run.residuals_agree && run.interference_reduced)));
    if !run.leakage_cannot_grow() && trials[1].given.drift() < trials[0].given.drift() {
        terminal
            .say("\nWith given residuals, history reduced the drift nevertheless: the conditions are sufficient, not");
        terminal.say("necessary.");
    }
    Ok(())
}
