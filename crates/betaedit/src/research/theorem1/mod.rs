//! `betaedit theorem1`: does protecting past edits reduce the drift of a weight? A test of Theorem 1 of the BetaEdit paper on
//! synthetic matrices: where it holds, where it fails, and what is true instead.

mod contender;
mod counterexample;
mod figure;
mod long_stream;
mod one_shot;
mod random;
mod random_streams;
mod theorem;
mod world;

use std::path::PathBuf;

use betaedit_core::faer::Par;
use serde_json::json;

use crate::terminal::{Done, Terminal};
use random::Random;
use world::World;

/// The matrices are small: threads would cost more time than they save.
const PAR: Par = Par::Seq;

#[derive(clap::Args)]
pub struct Arguments {
    /// SVG file for the curves
    #[arg(long, value_name = "FILE", default_value = "theorem1.svg")]
    plot: PathBuf,
    /// Seed for all random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub fn run(arguments: &Arguments, terminal: Terminal) -> Done {
    let mut random = Random::new(arguments.seed);
    explain(terminal);
    let [without, with] = counterexample::show(terminal)?;
    let counts = random_streams::show(&mut random, terminal)?;
    let world = World::new(&mut random)?;
    let trials = long_stream::show(&world, terminal)?;
    one_shot::show(&world, &trials, &mut random, terminal)?;
    figure::draw(&arguments.plot, &trials, terminal)?;
    terminal.result(&json!({
        "counterexample": { "squared_drift_without": without, "squared_drift_with": with },
        "random_streams": counts.json(),
        "long_stream": trials.iter().map(|trial| trial.json(&world)).collect::<Vec<_>>(),
        "plot": arguments.plot,
    }));
    Ok(())
}

/// Section 1: the terms and the theorem.
fn explain(terminal: Terminal) {
    terminal.say(
        "\
1. WHAT THIS IS ABOUT

A layer of a language model answers a key k, a vector that stands for a subject, with W k. An edit
asks for another answer v. The missing part is the residual r = v - W k, and the edit is a change of
rank one,

    Delta = r x^T    with    x = (A + k k^T)^-1 k,

where A protects what must not change. At first it is A0 = lambda C, with C the mean of k k^T over
ordinary text. After t edits W0 has become W0 + D, with D = Delta_1 + ... + Delta_t. The terms:

  history   the keys of past edits. Without history A stays A0;
            with it, A = A0 + k_1 k_1^T + ... + k_t k_t^T.
  drift     |D|, the Frobenius norm: how far the weight has moved.
  leakage   tr(D C D^T): the mean squared change of the layer's answers over ordinary text.
  s         k^T A0^-1 k: the size of a key relative to the protection. Without history an edit writes
            the share s / (1 + s) of its residual.

Theorem 1 of the BetaEdit paper (arXiv 2605.09285) as printed: if no two updates point against each
other, that is, tr(Delta_i Delta_j^T) >= 0 for all i and j, then from the second edit on

    drift with history  <  drift without history.",
    );
}

fn yes(holds: bool) -> &'static str {
    if holds { "yes" } else { "NO" }
}

fn ensure(holds: bool, otherwise: &str) -> Done {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}
