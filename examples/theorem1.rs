//! Does protecting past edits reduce what later edits do to a weight? Theorem 1 of the BetaEdit paper, put to the test
//! on synthetic matrices: where it holds, where it does not, and what is true instead.
//!
//! ```sh
//! cargo run --release --example theorem1
//! ```

#![allow(non_snake_case)]

mod support;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use betaedit_core::editor::{ClosedFormEditor, Recipe, Space};
use betaedit_core::faer::linalg::solvers::Solve;
use betaedit_core::faer::{Mat, Par, Scale, mat};
use betaedit_core::metrics::{Measurement, RunningTotal, Theorem1, stability};
use betaedit_core::{
    AlphaEdit, BetaEdit, EditBatch, Editor, History, HistoryWeighting, Memit, Method, Projector, ProjectorBuilder,
    Refresh, RefreshRule, SecondMoment, Spectrum,
};
use clap::Parser;
use support::median;
use support::plot::{self, Curve, Panel};

/// The matrices are small: threads would cost more than they bring.
const PAR: Par = Par::Seq;

/// Shows when protecting past edits reduces the drift of a weight, when it does not, and what is true instead.
///
/// All data is made from the seed. The program explains itself as it goes, and fails if anything that must be true is
/// not.
#[derive(Parser)]
struct Arguments {
    /// Where to draw the curves, as SVG
    #[arg(long, value_name = "FILE", default_value = "target/theorem1.svg")]
    plot: PathBuf,
    /// What all random numbers are made from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    support::command::exit(run(&Arguments::parse()))
}

type Outcome<T> = Result<T, Box<dyn Error>>;

fn run(arguments: &Arguments) -> Outcome<()> {
    let mut random = Random::new(arguments.seed);
    explain();
    counterexample()?;
    random_streams(&mut random)?;
    let world = World::new(&mut random)?;
    let trials = long_stream(&world)?;
    one_shot(&world, &trials, &mut random)?;
    draw(&arguments.plot, &trials)
}

/// Section 1: the words and the theorem.
fn explain() {
    println!(
        "\
1. WHAT THIS IS ABOUT

A layer of a language model answers a key k, a vector that stands for a subject, with W k. An edit
asks for another answer v. What is missing is the residual r = v - W k, and the edit is a change of
rank one,

    Delta = r x^T    with    x = (A + k k^T)^-1 k,

where A says what must not change. At first that is A0 = lambda C, with C the mean of k k^T over
ordinary text. After t edits W0 has become W0 + D, with D = Delta_1 + ... + Delta_t. The words:

  history   the keys of past edits. Without history A stays A0;
            with it, A = A0 + k_1 k_1^T + ... + k_t k_t^T.
  drift     |D|, the Frobenius norm: how far the weight has moved.
  leakage   tr(D C D^T): the mean squared change of the layer's answers over ordinary text.
  s         k^T A0^-1 k: the size of a key against what protects the model. Without history an edit
            makes up for the share s / (1 + s) of its residual.

Theorem 1 of the BetaEdit paper (arXiv 2605.09285) as printed: if no two updates point against each
other, that is, tr(Delta_i Delta_j^T) >= 0 for all i and j, then from the second edit on

    drift with history  <  drift without history."
    );
}

/// Section 2: the smallest stream that meets the theorem's assumption and violates its claim.
fn counterexample() -> Outcome<()> {
    println!(
        "
2. A COUNTEREXAMPLE

A0 = I, two keys with |k|^2 = 10 and k_1 . k_2 = 5, two orthogonal residuals of length 1. The squared
drift after both edits:
"
    );
    let run = two_keys(10.0)?;
    let [without, with] = squared_drift(&run);
    let reduced = run.residuals_agree && run.interference_reduced;
    println!("    without history {without:.5}    with history {with:.5}    the theorem says: smaller\n");
    println!(
        "  {:<3}  no two updates point against each other: all that the theorem asks for",
        yes(run.non_conflicting)
    );
    println!("\nWhat a proof needs:\n");
    println!("  yes  (1) the same residuals with and without history (here they are given)");
    println!("  {:<3}  (2) A0 is a multiple of I, or leakage takes the place of drift", yes(run.isotropic));
    println!("  {:<3}  (3) every s <= 1", yes(run.small_keys));
    println!("  {:<3}  (4) no two residuals point against each other, and for any two x history", yes(reduced));
    println!("           makes x_i^T A0 x_j no larger, and not negative");
    ensure((without - 0.16529).abs() < 5e-6 && (with - 0.18139).abs() < 5e-6, "the counterexample has other numbers")?;
    ensure(run.non_conflicting && run.isotropic && reduced, "the counterexample fails more than condition (3)")?;
    ensure(!run.small_keys, "the counterexample meets condition (3)")?;

    println!("\nOnly (3) fails. The same two keys, shorter and longer:\n");
    println!("  {:>5}  {:>16}  {:>13}  {:>8}  all conditions", "s", "without history", "with history", "smaller");
    for s in [0.1, 1.0, 3.0, 10.0, 100.0] {
        let run = two_keys(s)?;
        let [without, with] = squared_drift(&run);
        let (smaller, holds) = (yes(with < without), yes(run.drift_cannot_grow()));
        println!("  {s:>5}  {without:>16.5}  {with:>13.5}  {smaller:>8}  {holds}");
        ensure(with < without || !run.leakage_cannot_grow(), "two keys violate the theorem with its conditions")?;
    }
    Ok(())
}

/// Two keys with `|k|² = s` and half of that as their inner product, orthogonal residuals, `A0 = I`.
fn two_keys(s: f64) -> Outcome<Theorem1> {
    let keys = mat![[1.0, 0.5], [0.0, 0.75_f64.sqrt()]] * Scale(s.sqrt());
    let identity = Mat::<f64>::identity(2, 2);
    let A0 = Arc::new(Spectrum::of_matrix(identity.as_ref(), PAR)?);
    Ok(Theorem1::run(&A0, &EditBatch::new(keys.as_ref(), identity.as_ref())?, PAR)?)
}

fn squared_drift(run: &Theorem1) -> [f64; 2] {
    [&run.drift_without, &run.drift_with].map(|drift| drift.last().map_or(0.0, |drift| drift * drift))
}

/// Section 3: many small random streams.
fn random_streams(random: &mut Random) -> Outcome<()> {
    const STREAMS: usize = 5_000;
    const DIM: usize = 20;
    println!(
        "
3. RANDOM STREAMS

{STREAMS} streams of 4 edits in {DIM} dimensions for every line, the same residuals with and without history.
All keys of a stream have the same s. How much keys have in common, and residuals, differs from
stream to stream. \"More drift\", \"more leakage\": with history than without, after any of the edits.

                             theorem's assumption    conditions (3) and (4)
  eigenvalues of A0      s      met   more drift       met   more leakage   more drift"
    );
    let mut all = Counts::default();
    for (name, condition) in [("all 1", 1.0_f64), ("from 1 to 1000", 1e3)] {
        let A0: Vec<f64> = (0..DIM).map(|i| condition.powf(i as f64 / (DIM - 1) as f64)).collect();
        for s in [0.1, 1.0, 10.0, 100.0] {
            let mut counts = Counts::default();
            for run in streams(&A0, s, STREAMS, random)? {
                counts.add(&run);
                all.add(&run);
            }
            println!("  {name:<16} {s:>7} {counts}");
        }
    }
    println!(
        "
As printed, the claim failed in {} of the {} streams that meet its assumption. Under conditions
(3) and (4) history raised the leakage in {} of {} streams. It raised the drift in {} of the {}
with A0 = I, and in {} of the {} with the other A0: for the drift, condition (2) is needed as well.",
        all.claim_fails,
        all.assumption,
        all.leaks_more,
        all.conditions,
        all.drifts_more_isotropic,
        all.isotropic,
        all.drifts_more - all.drifts_more_isotropic,
        all.conditions - all.isotropic,
    );
    ensure(all.conditions > 0 && all.isotropic > 0, "no random stream meets the conditions: nothing was tested")?;
    ensure(all.leaks_more == 0, "history raised the leakage although conditions (3) and (4) hold")?;
    ensure(all.drifts_more_isotropic == 0, "history raised the drift although all conditions hold")
}

/// Random streams of four edits against a diagonal `A0`, with `kᵀ A0⁻¹ k = s` for every key.
fn streams(A0: &[f64], s: f64, count: usize, random: &mut Random) -> Outcome<Vec<Theorem1>> {
    let dim = A0.len();
    let matrix = Mat::from_fn(dim, dim, |i, j| if i == j { A0[i] } else { 0.0 });
    let spectrum = Arc::new(Spectrum::of_matrix(matrix.as_ref(), PAR)?);
    // A shade below s, so that rounding does not lift s = 1 above 1.
    let length = (s * (1.0 - 1e-12)).sqrt();
    let mut stream = || -> Outcome<Theorem1> {
        let [in_keys, in_residuals] = [random.uniform(), random.uniform()];
        let (whitened, residuals) = (random.cone(dim, 4, in_keys), random.cone(dim, 4, in_residuals));
        let keys = Mat::from_fn(dim, 4, |i, j| length * A0[i].sqrt() * whitened[(i, j)]);
        Ok(Theorem1::run(&spectrum, &EditBatch::new(keys.as_ref(), residuals.as_ref())?, PAR)?)
    };
    (0..count).map(|_| stream()).collect()
}

/// How many streams met or did what.
#[derive(Default)]
struct Counts {
    assumption: usize,
    claim_fails: usize,
    /// Conditions 3 and 4.
    conditions: usize,
    leaks_more: usize,
    drifts_more: usize,
    /// Conditions 2 to 4.
    isotropic: usize,
    drifts_more_isotropic: usize,
}

impl Counts {
    fn add(&mut self, run: &Theorem1) {
        let more = |with: &[f64], without: &[f64]| with.iter().zip(without).any(|(a, b)| *a > b * (1.0 + 1e-9));
        let drifts_more = more(&run.drift_with, &run.drift_without);
        let leaks_more = more(&run.leakage_with, &run.leakage_without);
        let (conditions, isotropic) = (run.leakage_cannot_grow(), run.drift_cannot_grow());
        self.assumption += usize::from(run.non_conflicting);
        self.claim_fails += usize::from(run.non_conflicting && drifts_more);
        self.conditions += usize::from(conditions);
        self.leaks_more += usize::from(conditions && leaks_more);
        self.drifts_more += usize::from(conditions && drifts_more);
        self.isotropic += usize::from(isotropic);
        self.drifts_more_isotropic += usize::from(isotropic && drifts_more);
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { assumption, claim_fails, conditions, leaks_more, drifts_more, .. } = self;
        write!(f, "{assumption:>8} {claim_fails:>12} {conditions:>9} {leaks_more:>14} {drifts_more:>12}")
    }
}

const D_IN: usize = 256;
const D_OUT: usize = 64;
const EDITS: usize = 400;
const TOPICS: usize = 40;
/// Median `s` of the edited keys: what every method's hyperparameters are set to.
const TYPICAL_S: f64 = 0.6;

/// The statistics of ordinary text, and a stream of edits.
struct World {
    moment: Arc<SecondMoment>,
    spectrum: Arc<Spectrum>,
    keys: Mat<f64>,
    /// What each edit asks for beyond the unedited answer, `v - W0 k`, of length 1.
    goals: Mat<f64>,
    /// Keys of edits that are never made.
    other_keys: Mat<f64>,
}

impl World {
    fn new(random: &mut Random) -> Outcome<Self> {
        let mut moment = SecondMoment::new(D_IN);
        moment.observe(text(8_192, random).as_ref(), PAR)?;
        let spectrum = Arc::new(Spectrum::of(&moment, PAR)?);
        let common = text(1, random);
        let (keys, other_keys) = (edited_keys(&common, random), edited_keys(&common, random));
        let goals = random.cone(D_OUT, EDITS, 0.0);
        Ok(Self { moment: Arc::new(moment), spectrum, keys, goals, other_keys })
    }
}

/// Keys of ordinary text. The energy of direction `i` falls like `i^-1.5`, from 20 to 0.005.
fn text(count: usize, random: &mut Random) -> Mat<f64> {
    Mat::from_fn(D_IN, count, |i, _| (20.0 * ((i + 1) as f64).powf(-1.5)).sqrt() * random.normal())
}

/// Keys of edits: like text, but they share a part with all other edits, share another with their topic, and live in
/// every third direction only (by their participation ratio, so do the recorded keys in `tests/data`, about).
fn edited_keys(common: &Mat<f64>, random: &mut Random) -> Mat<f64> {
    let (topics, own) = (text(TOPICS, random), text(EDITS, random));
    let topic: Vec<usize> = (0..EDITS).map(|_| (random.uniform() * TOPICS as f64) as usize).collect();
    let share = [0.2_f64, 0.3, 0.5].map(f64::sqrt);
    Mat::from_fn(D_IN, EDITS, |i, j| {
        let inside = if i % 3 == 0 { 3.0_f64.sqrt() } else { 0.0 };
        inside * (share[0] * common[(i, 0)] + share[1] * topics[(i, topic[j])] + share[2] * own[(i, j)])
    })
}

/// A method as it takes part.
struct Contender {
    name: &'static str,
    family: Family,
    recipe: Recipe,
    past: Past,
}

#[derive(Clone, Copy, PartialEq)]
enum Family {
    Memit,
    NullSpace,
}

/// What a method knows of past edits.
#[derive(Clone, Copy, PartialEq)]
enum Past {
    Nothing,
    /// As many keys, but of other edits.
    OtherKeys,
    Keys,
}

impl Contender {
    fn new(name: &'static str, family: Family, method: &impl Method) -> Self {
        let recipe = method.recipe();
        let past = if recipe.history == History::Absorbed { Past::Keys } else { Past::Nothing };
        Self { name, family, recipe, past }
    }
}

fn contenders(world: &World) -> Outcome<Vec<Contender>> {
    use Family::{Memit as Whole, NullSpace};
    let memit = Memit::default();
    let memit = memit.with_lambda(memit.lambda * strength(world, &memit)?);
    let alphaedit = AlphaEdit::default();
    let alphaedit = alphaedit.with_lambda2(alphaedit.lambda2 * strength(world, &alphaedit)?);
    let betaedit = BetaEdit::default();
    let factor = strength(world, &betaedit)?;
    let [lambda1, lambda2] = [betaedit.lambda1, betaedit.lambda2].map(|published| published * factor);
    let rule = RefreshRule::Full(HistoryWeighting::Mean { lambda1 });
    let refresh = Refresh::Every { edits: 100, rule };
    Ok(vec![
        Contender::new("MEMIT", Whole, &memit),
        Contender::new("MEMIT-H", Whole, &memit.with_history(History::Absorbed)),
        Contender::new("MEMIT, lambda doubled", Whole, &memit.with_lambda(2.0 * memit.lambda)),
        Contender { past: Past::OtherKeys, ..Contender::new("MEMIT-R", Whole, &memit) },
        Contender::new("AlphaEdit", NullSpace, &alphaedit),
        Contender::new("AlphaEdit-H", NullSpace, &alphaedit.with_history(History::Absorbed)),
        Contender::new(
            "BetaEdit",
            NullSpace,
            &betaedit.with_lambda1(lambda1).with_lambda2(lambda2).with_refresh(refresh),
        ),
    ])
}

/// The factor on a method's hyperparameters that brings the median `s` to [`TYPICAL_S`].
fn strength(world: &World, method: &impl Method) -> Outcome<f64> {
    let recipe = method.recipe();
    let s = stability(&projector(world, &recipe)?, recipe.weight, recipe.ridge, world.keys.as_ref(), PAR)?;
    Ok(median(s) / TYPICAL_S)
}

/// The space that a method starts with.
fn projector(world: &World, recipe: &Recipe) -> Outcome<Projector> {
    Ok(match recipe.space {
        Space::Null(threshold) => ProjectorBuilder::new(&world.spectrum).threshold(threshold).build(PAR)?,
        _ => Projector::identity(&world.spectrum),
    })
}

/// Where residuals come from.
#[derive(Clone, Copy, PartialEq)]
enum Residuals {
    /// `v - W0 k`, the same for every method: the theorem's setting.
    Given,
    /// `v - (W0 + D) k`, from the weight as edited so far: what a program that edits a model does.
    Measured,
}

/// What a method did with the stream.
struct Run {
    steps: Vec<Measurement>,
    total: Mat<f64>,
}

impl Run {
    fn of(world: &World, contender: &Contender, residuals: Residuals, order: &[usize]) -> Outcome<Self> {
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

    /// `|v - (W0 + D) k|` of every edit, at the end.
    fn errors(&self, world: &World) -> Vec<f64> {
        let missing = &self.total * &world.keys - &world.goals;
        missing.col_iter().map(|column| column.norm_l2()).collect()
    }
}

/// Both runs of a contender.
struct Trial {
    contender: Contender,
    given: Run,
    measured: Run,
}

/// Section 4: the curves of the paper's Figure 3, in the theorem's setting and in a program's.
fn long_stream(world: &World) -> Outcome<Vec<Trial>> {
    println!(
        "
4. A LONG STREAM

{EDITS} edits of a {D_OUT} x {D_IN} weight. The keys have much in common: they share a part, fall into {TOPICS} topics,
and fill a third of the space. What an edit asks for, v - W0 k, is random and of length 1.

  MEMIT        as in section 1; with lambda doubled, every edit writes less
  MEMIT-H      with history
  MEMIT-R      with as many keys as history has, but of other edits, never made
  AlphaEdit    writes only where C has eigenvalues below 0.02; A0 = lambda2 I. H: with history
  BetaEdit     as AlphaEdit-H with A0 = lambda1 C + lambda2 I; renews its space every 100 edits

All start at a median s of {TYPICAL_S}, half that where lambda is doubled. \"Given\": the residuals are v - W0 k
for all methods, as in the theorem. \"Measured\": they are v - (W0 + D) k, on the weight as edited so
far, as a program measures them. Error: what edits lack in the end, the median of |v - (W0 + D) k|;
before the first edit it is 1.

                           given residuals         measured residuals
                           drift   leakage     drift   leakage     error"
    );
    let order: Vec<usize> = (0..EDITS).collect();
    let mut trials = Vec::new();
    for contender in contenders(world)? {
        let given = Run::of(world, &contender, Residuals::Given, &order)?;
        let measured = Run::of(world, &contender, Residuals::Measured, &order)?;
        let [a, b, c, d] = [given.drift(), given.leakage(), measured.drift(), measured.leakage()];
        let error = median(measured.errors(world));
        println!("  {:<22} {a:>7.2} {b:>9.3} {c:>9.2} {d:>9.3} {error:>9.2}", contender.name);
        trials.push(Trial { contender, given, measured });
    }
    println!();
    for family in [Family::Memit, Family::NullSpace] {
        compare(pair(&trials, family)?);
    }
    the_theorem_on(world, pair(&trials, Family::Memit)?)?;
    Ok(trials)
}

/// The method without history, and the same with it.
fn pair(trials: &[Trial], family: Family) -> Outcome<[&Trial; 2]> {
    let find = |past| trials.iter().find(|trial| trial.contender.family == family && trial.contender.past == past);
    match (find(Past::Nothing), find(Past::Keys)) {
        (Some(without), Some(with)) => Ok([without, with]),
        _ => Err("no method with and without history".into()),
    }
}

/// Says in words what history did to the drift.
fn compare([without, with]: [&Trial; 2]) {
    let larger = |without: &Run, with: &Run| {
        let pairs = without.steps.iter().zip(&with.steps);
        let larger: Vec<usize> = pairs.filter(|(a, b)| b.drift > a.drift * 1.000_001).map(|(a, _)| a.edits).collect();
        match larger.last() {
            Some(last) => format!("larger after {} of the edits, last after edit {last}", larger.len()),
            None => "never larger".to_owned(),
        }
    };
    println!("Drift of {} against {}:", with.contender.name, without.contender.name);
    println!("  given residuals     {}", larger(&without.given, &with.given));
    println!("  measured residuals  {}", larger(&without.measured, &with.measured));
}

/// The given residuals are the theorem's setting: what it has to say about them.
fn the_theorem_on(world: &World, trials: [&Trial; 2]) -> Outcome<()> {
    let A0 = world.moment.mean(PAR) * Scale(trials[0].contender.recipe.weight);
    let spectrum = Arc::new(Spectrum::of_matrix(A0.as_ref(), PAR)?);
    let run = Theorem1::run(&spectrum, &EditBatch::new(world.keys.as_ref(), world.goals.as_ref())?, PAR)?;
    for (trial, drift) in trials.iter().zip([&run.drift_without, &run.drift_with]) {
        let off = |(step, drift): (&Measurement, &f64)| (step.drift / drift - 1.0).abs();
        let worst = trial.given.steps.iter().zip(drift).map(off).fold(0.0, f64::max);
        ensure(worst < 1e-8, "two computations of the drift disagree")?;
    }
    let largest = run.s.iter().copied().fold(0.0, f64::max);
    println!("\nWhat does the stream meet, for MEMIT?\n");
    println!("  {:<3}  the theorem's assumption", yes(run.non_conflicting));
    println!("  yes  (1) for the given residuals; no for the measured ones, which every method has its own");
    println!("  {:<3}  (2)", yes(run.isotropic));
    println!("  {:<3}  (3), the largest s is {largest:.2}", yes(run.small_keys));
    println!("  {:<3}  (4)", yes(run.residuals_agree && run.interference_reduced));
    if !run.leakage_cannot_grow() && trials[1].given.drift() < trials[0].given.drift() {
        println!("\nWith given residuals, history reduced the drift all the same: the conditions are sufficient, not");
        println!("necessary.");
    }
    Ok(())
}

/// Section 5: the stronger statement, checked against a dense solve and in another order.
fn one_shot(world: &World, trials: &[Trial], random: &mut Random) -> Outcome<()> {
    println!(
        "
5. WHAT IS TRUE WITHOUT CONDITIONS

With measured residuals, editing with history is recursive least squares: after all edits D is the
one matrix that minimises

    cost(D) = sum_i |v_i - (W0 + D) k_i|^2 + tr(D A0 D^T),

in the space in which the method writes, whatever the order of the edits. No other D has both a
smaller total error and a smaller tr(D A0 D^T). Nothing is assumed about updates or about s.

Here D is compared with the minimiser from one dense system for all edits, each method with its own
A0: the relative distance, with the edits in order and shuffled, and the cost over the least cost.

                            distance    shuffled        cost / least"
    );
    let order = random.permutation(EDITS);
    for Trial { contender, measured, .. } in trials {
        let solution = ridge_solution(world, contender)?;
        let shuffled = Run::of(world, contender, Residuals::Measured, &order)?;
        let [here, there] = [measured, &shuffled].map(|run| (&run.total - &solution).norm_l2() / solution.norm_l2());
        let ratio = cost(world, &contender.recipe, &measured.total) / cost(world, &contender.recipe, &solution);
        println!("  {:<22} {here:>11.1e} {there:>11.1e} {ratio:>19.12}", contender.name);
        if contender.past == Past::Keys && contender.recipe.refresh == Refresh::Never {
            ensure(here < 1e-10 && there < 1e-10, "editing with history is not the one-shot solution")?;
            ensure((ratio - 1.0).abs() < 1e-10, "editing with history does not have the least cost")?;
        }
    }
    println!("\nBetaEdit writes in a space that changes with every renewal; compared is the first one.");
    Ok(())
}

/// The minimiser `D = V Kᵀ (A0 + K Kᵀ)⁻¹` in a method's space, as the papers print it, by a dense LU: for `D = V Xᵀ`,
/// `(P (weight C + K Kᵀ) + ridge I) X = P K`.
fn ridge_solution(world: &World, contender: &Contender) -> Outcome<Mat<f64>> {
    let (P, K) = (projector(world, &contender.recipe)?.dense(PAR), &world.keys);
    let A = world.moment.mean(PAR) * Scale(contender.recipe.weight) + K * K.transpose();
    let system = &P * A + Mat::<f64>::identity(D_IN, D_IN) * Scale(contender.recipe.ridge);
    Ok(&world.goals * system.partial_piv_lu().solve(&P * K).transpose())
}

fn cost(world: &World, recipe: &Recipe, D: &Mat<f64>) -> f64 {
    let error = D * &world.keys - &world.goals;
    let leakage = (D * world.moment.mean(PAR) * D.transpose()).diagonal().column_vector().sum();
    error.squared_norm_l2() + recipe.weight * leakage + recipe.ridge * D.squared_norm_l2()
}

/// Section 6: the figure, a column for each family of methods.
fn draw(path: &Path, trials: &[Trial]) -> Outcome<()> {
    let panel = |family: Family, title: &str, y: &str, values: fn(&Trial) -> Vec<f64>| Panel {
        title: title.into(),
        y: y.into(),
        curves: trials
            .iter()
            .filter(|trial| trial.contender.family == family)
            .map(|trial| Curve {
                name: trial.contender.name.into(),
                dashed: trial.contender.past != Past::Keys,
                points: (1..).map(f64::from).zip(values(trial)).collect(),
            })
            .collect(),
    };
    let given_drift = |trial: &Trial| trial.given.steps.iter().map(|step| step.drift).collect();
    let drift = |trial: &Trial| trial.measured.steps.iter().map(|step| step.drift).collect();
    let leakage = |trial: &Trial| trial.measured.steps.iter().map(|step| step.leakage).collect();
    let row = |title: &str, y: &str, values: fn(&Trial) -> Vec<f64>| {
        [Family::Memit, Family::NullSpace].map(|family| panel(family, title, y, values))
    };
    let rows = [
        row("Drift, the same residuals for all methods", "|D|", given_drift),
        row("Drift, residuals of the weight as edited so far", "|D|", drift),
        row("Leakage, residuals of the weight as edited so far", "tr(D C Dᵀ)", leakage),
    ];

    let title = "Editing with history (solid) and without (dashed)";
    let failed = |error: Box<dyn Error>| format!("{}: {error}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| failed(error.into()))?;
    }
    plot::save(path, title, "edits", &rows.into_iter().flatten().collect::<Vec<_>>()).map_err(failed)?;
    println!(
        "
6. THE CURVES

Drift and leakage of section 4 after every edit, MEMIT on the left, AlphaEdit and BetaEdit on the
right, are drawn in {}",
        path.display()
    );
    Ok(())
}

fn yes(holds: bool) -> &'static str {
    if holds { "yes" } else { "NO" }
}

fn ensure(holds: bool, otherwise: &str) -> Outcome<()> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

/// A seeded generator of uniform and normal numbers (xorshift64*): the same on every platform.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Uniform in (0, 1).
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Standard normal (Box and Muller).
    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// `count` vectors of length 1 that have this share of their energy in common.
    fn cone(&mut self, dim: usize, count: usize, share: f64) -> Mat<f64> {
        let axis: Vec<f64> = (0..dim).map(|_| self.normal()).collect();
        let (common, own) = (share.sqrt(), (1.0 - share).sqrt());
        let vectors = Mat::from_fn(dim, count, |i, _| common * axis[i] + own * self.normal());
        Mat::from_fn(dim, count, |i, j| vectors[(i, j)] / vectors.col(j).norm_l2())
    }

    /// The numbers below `n` in random order.
    fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<(f64, usize)> = (0..n).map(|i| (self.uniform(), i)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        order.into_iter().map(|(_, i)| i).collect()
    }
}
