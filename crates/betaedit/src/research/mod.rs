//! Commands that measure methods rather than edit a model for use.

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
    /// The recording holds the keys and residuals of one layer, so nothing of the language model is needed.
    Replay(Box<replay::Arguments>),
    /// Measure what edits and refreshes cost, in time and memory, on a synthetic layer of any size
    ///
    /// Runs a stream of single edits by BetaEdit, beside the products and the solves that they are to be compared with, in
    /// the same run. The layer's statistics have the shape of a real model's spectrum, and its edits have keys of a realistic
    /// length. All of it is made from the seed.
    Scale(scale::Arguments),
    /// Make the studies of the BetaEdit paper on a small model
    ///
    /// A study is a set of runs, and a figure. A run edits some facts one after the other by one method, towards targets
    /// found on the unedited model, and measures the model at checkpoints. The statistics, the targets and every finished run
    /// are kept under --out: the command continues where it stopped, and studies share runs.
    Paper(paper::Arguments),
    /// Compare the descents that search for targets, on the unedited model
    ///
    /// A good descent finds a vector that makes a fact probable in few evaluations, and a short one: what writing it does to
    /// everything else grows with its length.
    Descent(descent::Arguments),
    /// Put Theorem 1 of the BetaEdit paper to the test: where it holds, where it fails, what is true instead
    ///
    /// Shows when protecting past edits reduces the drift of a weight, when it does not, and what is true in any case. All
    /// data is made from the seed. The command explains itself as it goes, and fails if anything that must be true is not.
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
