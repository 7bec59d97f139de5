//! Commands that measure methods, for research.

mod descent;
mod numbers;
mod paper;
mod replay;
mod scale;
mod theorem1;

use clap::Subcommand;

use crate::terminal::{Done, Terminal};

#[derive(Subcommand)]
pub enum Research {
    /// Run a recorded stream of edits through a method: leakage, drift, stability, write error
    ///
    /// The recording holds the keys and residuals of one layer, so the language model is not needed.
    Replay(Box<replay::Arguments>),
    /// Measure the time and memory of edits and refreshes on a synthetic layer of any size
    ///
    /// Runs a stream of single edits by BetaEdit and, for comparison, plain products and dense solves of the same size. The
    /// layer's statistics have the shape of a real model's spectrum, and its edits have keys of a realistic length. Everything
    /// is made from the seed.
    Scale(scale::Arguments),
    /// Run the studies of the BetaEdit paper on a small model
    ///
    /// A study is a set of runs and a figure. A run edits facts one after the other by one method, towards targets found on
    /// the unedited model, and measures the model at checkpoints. The statistics, the targets and every finished run are kept
    /// under --out: the command continues where it stopped, and studies share runs.
    Paper(paper::Arguments),
    /// Compare the descents that search for targets, on the unedited model
    ///
    /// A good descent needs few evaluations to find a vector that makes a fact probable, and the vector is short: the damage
    /// done by writing it grows with its length.
    Descent(descent::Arguments),
    /// Test Theorem 1 of the BetaEdit paper: where it holds, where it fails, and what is true instead
    ///
    /// Shows when protecting past edits reduces the drift of a weight, when it does not, and what is true in any case. All
    /// data is made from the seed. The command explains each step, and fails if a statement that must be true is not.
    Theorem1(theorem1::Arguments),
}

impl Research {
    pub fn run(&self, terminal: Terminal) -> Done {
        match self {
            Self::Replay(arguments) => replay::run(arguments, terminal),
            Self::Scale(arguments) => scale::run(arguments, terminal),
            Self::Paper(arguments) => paper::run(arguments, terminal),
            Self::Descent(arguments) => descent::run(arguments, terminal),
            Self::Theorem1(arguments) => theorem1::run(arguments, terminal),
        }
    }
}
