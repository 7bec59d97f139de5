//! `betaedit replay`.

mod recorded;
mod report;
mod session;

use std::path::PathBuf;

use betaedit_core::Threshold;
use betaedit_core::editor::Anchors;
use betaedit_core::editor::Hyperparameters;
use betaedit_core::editor::{Penalty, Simulation, Slack};
use betaedit_core::restraint::{KnownRestraint, Prune, Rect};
use clap::ValueEnum;

use crate::files;
use crate::methods;
use crate::refresh::{Rule, Weighting, refresh};
use crate::terminal::{Done, Terminal};

#[derive(clap::Args)]
#[command(
    after_help = "The stream is a safetensors file with the f32 tensors second_moment [d_in, d_in] (the mean of \
k k^T), weight [d_out, d_in], keys [N, d_in] and residuals [N, d_out]; row t is edit t.

Example:
  betaedit replay --stream tests/data/smollm2-layer10-slice.safetensors --method betaedit --lambda1 300 \\
                  --refresh-every 50 --history sum --report report.json --plot curves.svg"
)]
pub struct Arguments {
    /// Recorded stream, a safetensors file
    #[arg(long, value_name = "FILE")]
    stream: PathBuf,
    /// Editing method, see `betaedit methods`
    #[arg(long, value_parser = methods::known)]
    method: String,
    /// MEMIT, PMET, EMMET, ENCORE, RLSEdit: weight of the statistics C, in units of one edited key
    #[arg(long, default_value_t = 15_000.0)]
    lambda: f64,
    /// BetaEdit: weight of the statistics C in the solve
    #[arg(long, default_value_t = 3_000.0)]
    lambda1: f64,
    /// AlphaEdit, BetaEdit, ENCORE: ridge on the norm of the update
    #[arg(long, default_value_t = 10.0)]
    lambda2: f64,
    /// AlphaEdit, BetaEdit, -ns: edit only directions with an eigenvalue of C below this
    #[arg(long, default_value_t = 0.02)]
    threshold: f64,
    /// BetaEdit, -ns: refresh the projector every N edits, 0 = never
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    refresh_every: usize,
    /// BetaEdit, -ns: how a full refresh adds past keys to the statistics
    #[arg(long, value_enum, default_value_t = Weighting::Mean)]
    history: Weighting,
    /// BetaEdit, -ns: how to refresh the projector
    #[arg(long, value_enum, default_value_t = Rule::Full)]
    refresh_rule: Rule,
    /// BetaEdit, -ns: weight w of the past keys in C + w H, for a refresh (not with --history mean)
    #[arg(long, value_name = "W", default_value_t = 1.0)]
    refresh_weight: f64,
    /// BetaEdit: leave lambda1 C out of the solve; C is used only for the projector
    #[arg(long)]
    without_penalty: bool,
    /// EMMET: slack for meeting residuals, for single edits and for batches; 0 = meet them exactly
    #[arg(long, num_args = 2, value_names = ["SINGLE", "BATCH"], default_values_t = [0.0, 0.1])]
    slack: Vec<f64>,
    /// RLSEdit: strength of the anchors to the initial outputs and to the initial weight
    #[arg(long, num_args = 2, value_names = ["MU", "NU"], default_values_t = [1.0, 0.0])]
    anchors: Vec<f64>,
    /// MEMIT-Merge: merge edits whose keys have at least this cosine
    #[arg(long, value_name = "COSINE", default_value_t = 0.99)]
    alike: f64,
    /// MEMIT-R: seed for the random keys
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Wrap the method in SimIE, with this weight of the distance from the start [default for simie: 10000]
    #[arg(long, value_name = "LAMBDA")]
    simie: Option<f64>,
    /// RECT: keep this share of the entries of an update, those with the largest relative change
    #[arg(long, value_name = "SHARE")]
    rect: Option<f64>,
    /// With --session, PRUNE: damp singular values of the total change that exceed the largest of the weight
    #[arg(long, requires = "session", conflicts_with = "rect")]
    prune: bool,
    /// Run only the first N edits [default: all]
    #[arg(long, value_name = "N")]
    edits: Option<usize>,
    /// Number of edits in a batch
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// Number type of the engine; statistics and metrics are always f64
    #[arg(long, value_enum, default_value_t = Precision::F64)]
    precision: Precision,
    /// Keep the run in this directory, to continue it after an interruption and to undo edits
    #[arg(long, value_name = "DIR")]
    session: Option<PathBuf>,
    /// With --session: write a snapshot every N edits
    #[arg(long, value_name = "N", default_value_t = 100, requires = "session")]
    snapshot_every: usize,
    /// With --session: consolidate whenever N edits were made since the last time, 0 = never
    #[arg(long, value_name = "N", default_value_t = 0, requires = "session")]
    consolidate_every: usize,
    /// With --session: undo this edit (may be repeated), and stop
    #[arg(long, value_name = "ID", requires = "session")]
    undo: Vec<u64>,
    /// Write all numbers, one value per step, to a JSON file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the total update to a safetensors file, as the f64 tensor `delta` [d_out, d_in]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Draw the curves to an SVG file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Precision {
    F64,
    F32,
}

impl Precision {
    fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
        }
    }
}

impl Arguments {
    fn hyperparameters(&self) -> Hyperparameters {
        let mut hyperparameters = Hyperparameters::default();
        hyperparameters.lambda = self.lambda;
        hyperparameters.lambda1 = self.lambda1;
        hyperparameters.lambda2 = self.lambda2;
        hyperparameters.threshold = Threshold::Absolute(self.threshold);
        let by_flags = refresh(self.refresh_rule, self.history, self.refresh_weight, self.lambda1, self.refresh_every);
        hyperparameters.refresh = Some(by_flags);
        hyperparameters.slack = Slack { single: self.slack[0], batch: self.slack[1] };
        hyperparameters.anchors = Anchors { mu: self.anchors[0], nu: self.anchors[1] };
        hyperparameters.alike = self.alike;
        hyperparameters.seed = self.seed;
        hyperparameters.simulation = self.simie.map(|lambda| Simulation::default().with_lambda(lambda));
        hyperparameters.penalty = if self.without_penalty { Penalty::Dropped } else { Penalty::Kept };
        hyperparameters
    }

    fn restraint(&self) -> Option<KnownRestraint> {
        let rect = self.rect.map(|kept| Rect::default().with_kept(kept).into());
        rect.or(self.prune.then(|| Prune::default().into()))
    }

    /// The number of recorded edits to run.
    fn edits(&self, recorded: usize) -> Done<usize> {
        let edits = self.edits.unwrap_or(recorded);
        if self.batch == 0 || edits == 0 || edits > recorded {
            let length = "the length of the stream";
            return Err(format!("--edits must be 1 to {recorded} ({length}) and --batch at least 1").into());
        }
        Ok(edits)
    }
}

pub fn run(arguments: &Arguments, terminal: Terminal) -> Done {
    files::check(&[&arguments.report, &arguments.out, &arguments.plot], &[&arguments.stream])?;
    match (arguments.precision, &arguments.session) {
        (Precision::F64, Some(directory)) => session::run::<f64>(arguments, directory, terminal),
        (Precision::F32, Some(directory)) => session::run::<f32>(arguments, directory, terminal),
        (Precision::F64, None) => recorded::run::<f64>(arguments, terminal),
        (Precision::F32, None) => recorded::run::<f32>(arguments, terminal),
    }
}
