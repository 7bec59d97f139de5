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
use betaedit_core::faer::{Mat, MatRef, Par, Scale, mat};
use betaedit_core::metrics::{Measurement, Retention, RunningTotal, Theorem1, stability};
use betaedit_core::{
    AlphaEdit, BetaEdit, EditBatch, Editor, History, HistoryWeighting, Memit, Method, Projector, ProjectorBuilder,
    Refresh, RefreshRule, SecondMoment, Spectrum, Threshold,
};
use clap::Parser;
use support::plot::{self, Curve, Panel};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The matrices are small: threads would cost more than they bring.
const PAR: Par = Par::Seq;

/// Shows when protecting past edits reduces the drift of a weight, and when it does not.
///
/// Everything is synthetic and made from the seed. The program explains itself as it goes, checks what it says, and
/// fails if a check fails.
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
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let mut random = Random::new(arguments.seed);
    explain();
    counterexample()?;
    random_study(&mut random)?;

    let world = World::new(&mut random)?;
    let families = families(&world)?;
    let runs = closed_loop(&world, &families)?;
    one_shot(&world, &families, &runs, &mut random)?;
    draw(&arguments.plot, &families, &runs)
}

// ---------------------------------------------------------------------------------------------------------------------
// 1. The words

fn explain() {
    println!(
        "\
1. WHAT THIS IS ABOUT

A layer of a language model answers a key k (a vector that stands for a subject) with W k. An edit asks for another
answer v: what is missing is the residual r = v - W k. The edit is a change of rank one,

    Delta = r x^T    with    x = (A + k k^T)^-1 k

where A says what must not change. At first that is A0 = lambda C, with C the mean of k k^T over ordinary text. After
many edits W has become W + D, with D = Delta_1 + ... + Delta_t. The words:

  history   the keys of past edits. Without history A stays A0; with it, A = A0 + k_1 k_1^T + ... + k_t k_t^T.
  drift     |D|, the Frobenius norm: how far the weight has moved.
  leakage   tr(D C D^T): the mean squared change of the layer's answers over ordinary text.
  s         k^T A0^-1 k: the size of a key against what protects the model. A first edit moves the answer by the share
            s / (1 + s) of its residual.

Theorem 1 of the BetaEdit paper (arXiv 2605.09285) as printed: if no two updates point against each other,
tr(Delta_i Delta_j^T) >= 0 for all i and j, then from the second edit on

    drift with history  <  drift without history."
    );
}

// ---------------------------------------------------------------------------------------------------------------------
// 2. The counterexample

fn counterexample() -> Outcome<()> {
    println!(
        "
2. A COUNTEREXAMPLE

A0 = I, two keys with |k|^2 = 10 and k_1 . k_2 = 5, two orthogonal residuals of length 1. Drift after both edits, squared:
"
    );
    let run = two_keys(10.0)?;
    let [without, with] = final_squares(&run);
    println!("  without history {without:.5}      with history {with:.5}      (the theorem says: smaller)\n");
    let yes = |holds: bool| if holds { "yes" } else { "NO" };
    println!("  no two updates point against each other (all that the theorem asks for)   {}", yes(run.non_conflicting));
    println!("\nWhat a proof needs as well:\n");
    println!("  (1) the same residuals with and without history                           yes, here they are given");
    println!("  (2) A0 a multiple of I, or leakage in place of drift                      {}", yes(run.isotropic));
    println!("  (3) every s <= 1                                                          {}", yes(run.small_keys));
    println!("  (4) no two residuals point against each other, and history reduces");
    let reduced = run.residuals_agree && run.interference_reduced;
    println!("      the overlap of every two x without turning it negative                {}", yes(reduced));
    ensure((without - 0.16529).abs() < 5e-6 && (with - 0.18139).abs() < 5e-6, "the counterexample has other numbers")?;
    ensure(run.non_conflicting && run.isotropic && reduced, "the counterexample fails more than condition (3)")?;
    ensure(!run.small_keys, "the counterexample meets condition (3)")?;

    println!("\nIt is (3) that fails. The same two keys, made longer and shorter:\n");
    println!("  {:>6}  {:>15}  {:>12}  {:>9}  conditions", "s", "without history", "with history", "smaller");
    for s in [0.1, 1.0, 3.0, 10.0, 100.0] {
        let run = two_keys(s)?;
        let [without, with] = final_squares(&run);
        let (smaller, conditions) = (yes(with < without), if run.conditions_hold() { "hold" } else { "fail" });
        println!("  {s:>6}  {without:>15.5}  {with:>12.5}  {smaller:>9}  {conditions}");
        ensure(with < without || !run.conditions_hold(), "the corrected theorem is violated by two keys")?;
    }
    Ok(())
}

/// Two keys with `|k|² = s` and half of that as their inner product, orthogonal residuals, `A0 = I`.
fn two_keys(s: f64) -> Outcome<Theorem1> {
    let keys = mat![[1.0, 0.5], [0.0, 0.75_f64.sqrt()]] * Scale(s.sqrt());
    let residuals = Mat::<f64>::identity(2, 2);
    let A0 = Arc::new(Spectrum::of_matrix(Mat::identity(2, 2).as_ref(), PAR)?);
    Ok(Theorem1::run(&A0, &EditBatch::new(keys.as_ref(), residuals.as_ref())?, PAR)?)
}

fn final_squares(run: &Theorem1) -> [f64; 2] {
    [&run.drift_without, &run.drift_with].map(|drift| drift.last().map_or(0.0, |drift| drift * drift))
}

// ---------------------------------------------------------------------------------------------------------------------
// 3. Random streams

/// How many random streams did what.
#[derive(Default)]
struct Counts {
    non_conflicting: usize,
    claim_fails: usize,
    conditions_hold: usize,
    leaks_more: usize,
    drifts_more: usize,
}

impl Counts {
    fn add(&mut self, run: &Theorem1) {
        let holds = run.conditions_hold();
        let [leaks_more, drifts_more] =
            [(&run.leakage_with, &run.leakage_without), (&run.drift_with, &run.drift_without)]
                .map(|(with, without)| with.iter().zip(without).any(|(with, without)| *with > without * (1.0 + 1e-9)));
        self.non_conflicting += usize::from(run.non_conflicting);
        self.claim_fails += usize::from(run.non_conflicting && drifts_more);
        self.conditions_hold += usize::from(holds);
        self.leaks_more += usize::from(holds && leaks_more);
        self.drifts_more += usize::from(holds && drifts_more);
    }
}

fn random_study(random: &mut Random) -> Outcome<()> {
    const STREAMS: usize = 2_000;
    const D: usize = 20;
    println!(
        "
3. RANDOM STREAMS

{STREAMS} streams of {LENGTH} edits in {D} dimensions a line, the same residuals with and without history. Keys share a direction, and
residuals share one, so that many streams have no updates that point against each other. \"Claim fails\": at some edit the
drift with history is larger. The last columns are the streams that meet conditions (3) and (4).
"
    );
    println!("                        |   theorem as printed    |   conditions (3) and (4)");
    println!("  A0                  s | no conflict  claim fails |  hold  leaks more  drifts more");
    for (name, condition) in [("multiple of I", 1.0), ("eigenvalues 1 to 1000", 1e3)] {
        let A0 = Mat::from_fn(D, D, |i, j| if i == j { f64::powf(condition, i as f64 / (D - 1) as f64) } else { 0.0 });
        let spectrum = Arc::new(Spectrum::of_matrix(A0.as_ref(), PAR)?);
        for s in [0.1, 1.0, 10.0, 100.0] {
            let mut counts = Counts::default();
            for _ in 0..STREAMS {
                counts.add(&random_stream(&spectrum, A0.as_ref(), s, random)?);
            }
            let Counts { non_conflicting, claim_fails, conditions_hold, leaks_more, drifts_more } = counts;
            println!("{name:>22} {s:>5} | {non_conflicting:>6} {claim_fails:>8} | {conditions_hold:>5} {leaks_more:>8} {drifts_more:>8}");
        }
    }
    Ok(())
}

const LENGTH: usize = 6;

fn random_stream(spectrum: &Arc<Spectrum>, A0: MatRef<'_, f64>, s: f64, random: &mut Random) -> Outcome<Theorem1> {
    let d = A0.nrows();
    // Just below s, so that rounding does not carry s = 1 above 1.
    let whitened = random.cone(d, LENGTH) * Scale((s * (1.0 - 1e-12)).sqrt());
    let keys = Mat::from_fn(d, LENGTH, |i, j| A0[(i, i)].sqrt() * whitened[(i, j)]);
    let residuals = random.cone(d, LENGTH);
    Ok(Theorem1::run(spectrum, &EditBatch::new(keys.as_ref(), residuals.as_ref())?, PAR)?)
}

// ---------------------------------------------------------------------------------------------------------------------
// 4. The closed loop

const D_IN: usize = 256;
const D_OUT: usize = 64;
const EDITS: usize = 400;
const TOPICS: usize = 40;
const TOKENS: usize = 8_192;
/// Median `s` of the edited keys, for every method.
const S: f64 = 0.5;

/// The statistics of ordinary text, and a stream of edits.
struct World {
    moment: Arc<SecondMoment>,
    spectrum: Arc<Spectrum>,
    keys: Mat<f64>,
    /// What the edits ask for beyond the unedited answer, `v - W0 k`.
    goals: Mat<f64>,
    /// As many keys of other edits, never made.
    others: Mat<f64>,
}

impl World {
    fn new(random: &mut Random) -> Outcome<Self> {
        let mut moment = SecondMoment::new(D_IN);
        moment.observe(text(random, TOKENS).as_ref(), PAR)?;
        let shared = text(random, 1);
        let topics = text(random, TOPICS);
        let keys = edited(&shared, &topics, random);
        let others = edited(&shared, &text(random, TOPICS), random);
        let goals = random.cone(D_OUT, EDITS);
        let spectrum = Arc::new(Spectrum::of(&moment, PAR)?);
        Ok(Self { moment: Arc::new(moment), spectrum, keys, goals, others })
    }
}
/// Keys of ordinary text: energy falls with the power 3/2 over the directions, from 20 to 0.005.
fn text(random: &mut Random, count: usize) -> Mat<f64> {
    Mat::from_fn(D_IN, count, |i, _| (20.0 * ((i + 1) as f64).powf(-1.5)).sqrt() * random.normal())
}

fn edited(shared: &Mat<f64>, topics: &Mat<f64>, random: &mut Random) -> Mat<f64> {
    let own = text(random, EDITS);
    let topic: Vec<usize> = (0..EDITS).map(|_| (random.uniform() * TOPICS as f64) as usize).collect();
    Mat::from_fn(D_IN, EDITS, |i, j| 0.5 * shared[(i, 0)] + 0.5 * topics[(i, topic[j])] + 0.5_f64.sqrt() * own[(i, j)])
}

struct Contender {
    name: &'static str,
    recipe: Recipe,
    random_history: bool,
}

fn families(world: &World) -> Outcome<[Vec<Contender>; 2]> {
    let whole = Projector::identity(&world.spectrum);
    let null = ProjectorBuilder::new(&world.spectrum).build(PAR)?;
    let scale = |p: &Projector, w, r| -> Outcome<f64> { Ok(median(stability(p, w, r, world.keys.as_ref(), PAR)?.into_iter()) / S) };
    let lambda = scale(&whole, 1.0, 0.0)?;
    let alpha = scale(&null, 0.0, 1.0)?;
    let beta = scale(&null, 300.0, 1.0)?;
    println!("lambda {lambda} alpha {alpha} beta {beta} kept {}", null.kept());
    let c = |name, recipe| Contender { name, recipe, random_history: false };
    let memit = Memit::default().with_lambda(lambda);
    let a = AlphaEdit::default().with_lambda2(alpha);
    let b = BetaEdit::default().with_lambda1(300.0 * beta).with_lambda2(beta).with_refresh(Refresh::Every { edits: 100, rule: RefreshRule::Full(HistoryWeighting::Mean { lambda1: 300.0 * beta }) });
    Ok([
        vec![
            c("MEMIT", memit.recipe()),
            c("MEMIT, lambda doubled", memit.with_lambda(2.0 * lambda).recipe()),
            Contender { random_history: true, ..c("MEMIT-R", memit.recipe()) },
            c("MEMIT-H", memit.with_history(History::Absorbed).recipe()),
        ],
        vec![c("AlphaEdit", a.recipe()), c("AlphaEdit-H", a.with_history(History::Absorbed).recipe()), c("BetaEdit", b.recipe())],
    ])
}

struct Run { measured: Vec<Measurement>, total: Mat<f64>, errors: Vec<f64> }

fn play(world: &World, c: &Contender, order: &[usize]) -> Outcome<Run> {
    let mut editor = ClosedFormEditor::<f64>::new(c.name, c.recipe, &world.spectrum, PAR)?;
    let mut total = RunningTotal::new(&world.moment, D_OUT, 1, PAR)?;
    let mut retention = Retention::new(D_IN, D_OUT);
    let mut measured = vec![];
    for &i in order {
        let key = world.keys.as_ref().subcols(i, 1);
        let residual = world.goals.as_ref().subcols(i, 1) - total.total() * key;
        let batch = EditBatch::new(key, residual.as_ref())?;
        retention.record(&batch, total.total(), PAR)?;
        let update = editor.edit(&batch)?;
        if c.random_history { editor.protect(world.others.as_ref().subcols(i, 1))?; }
        measured.extend(total.record(&update)?);
    }
    Ok(Run { measured, total: total.total().to_owned(), errors: retention.errors(total.total(), PAR)? })
}

fn closed_loop(world: &World, families: &[Vec<Contender>; 2]) -> Outcome<Vec<Vec<Run>>> {
    let order: Vec<usize> = (0..EDITS).collect();
    let mut all = vec![];
    for f in families {
        let mut runs = vec![];
        for c in f {
            let run = play(world, c, &order)?;
            for n in [25, 50, 100, 200, 300, 400] { let m = run.measured[n-1]; print!("{:8.3} {:8.4} |", m.drift, m.leakage); }
            println!(" {:22} err {:.3} first {:.3}", c.name, median(run.errors.iter().copied()), median(run.errors[..100].iter().copied()));
            runs.push(run);
        }
        all.push(runs);
    }
    Ok(all)
}

fn one_shot(_w: &World, _f: &[Vec<Contender>; 2], _r: &[Vec<Run>], _random: &mut Random) -> Outcome<()> { Ok(()) }
fn draw(_p: &Path, _f: &[Vec<Contender>; 2], _r: &[Vec<Run>]) -> Outcome<()> { Ok(()) }

fn ensure(holds: bool, otherwise: &str) -> Outcome<()> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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

    /// `count` vectors of length 1 about a common random direction.
    fn cone(&mut self, dim: usize, count: usize) -> Mat<f64> {
        let axis: Vec<f64> = (0..dim).map(|_| self.normal()).collect();
        let mut vectors = Mat::from_fn(dim, count, |i, _| axis[i] + self.normal());
        for vector in vectors.col_iter_mut() {
            let norm = vector.norm_l2();
            vector.iter_mut().for_each(|x| *x /= norm);
        }
        vectors
    }
}
