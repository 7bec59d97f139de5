//! `betaedit scale`.

mod compare;
mod report;
mod stream;

use std::path::PathBuf;
use std::time::Instant;

use betaedit_core::faer::set_global_parallelism;
use betaedit_core::projector::HistoryWeighting;
use betaedit_core::{BetaEdit, Editor, Method, Refresh, RefreshRule, Scalar};
use betaedit_synthetic::{LAMBDA1, LAMBDA2, Layer, THRESHOLD};
use clap::ValueEnum;

use crate::files;
use crate::terminal::{Done, Terminal};
use compare::Comparison;
use stream::Stream;

#[derive(clap::Args)]
#[command(after_help = "\
The report, times in seconds:
  edit_seconds_median      one edit: propose, add the update to the weight, commit; without refreshes
  edit_seconds_mean        the same, mean; includes every 64th commit, which folds 64 edits into the state
  edit_seconds_first       median over the first tenth of the edits
  edit_seconds_last        median over the last tenth
  engine_seconds_median    the engine's part of an edit: propose and commit
  engine_seconds_mean      the same, mean; includes the folding
  outer_product_seconds    the other part of an edit: checking the weight, and adding r x^T to it; median
  product_seconds          faer's product Q k of a full square matrix, of the same size and precision, on as many
                           threads, between the edits; median
  engine_per_product       engine_seconds_mean / product_seconds
  last_per_first           edit_seconds_last / edit_seconds_first
  dense_edit_seconds       an edit of the published programs: P A, its LU with partial pivoting, and d_out right-hand
                           sides, in the same precision; median of N; null without --dense-reference
  dense_difference         |Delta - Delta_dense| / |Delta| for one more edit; null if the space was refreshed
  speedup_vs_dense         dense_edit_seconds / edit_seconds_mean
  refresh_seconds          one refresh, including the change of Q; median; null with --refresh continuous, where it is
                           part of every edit
  refreshes                every refresh: edits so far, seconds, directions kept before and after
  full_eigen_seconds       faer's eigendecomposition of the statistics, in f64
  refresh_speedup          full_eigen_seconds / refresh_seconds
  build_seconds            building the editor from the spectrum: state and headroom
  stream_seconds           all edits and refreshes
  peak_rss_bytes           largest resident memory up to the end of the stream, including the spectrum, the state, the
                           weight, and the square matrix of the plain product; null if the system does not report it
  peak_rss_bytes_total     the same after the dense solves and the eigendecomposition
  relative_error_vs_f64    |D - D'| / |D'| for the sum D of all updates, with D' from one dense f64 factorisation per
                           edit; null if that takes too long (d_in > 1024, edits > 512) or is not implemented (refresh
                           rules other than never and full)
  gain_median, gain_first  g = k^T Q k of the keys; an edit writes the share g / (1 + g) of its residual
  kept_directions_first, kept_directions_last
                           directions that may be edited

Examples:
  betaedit scale --d-in 4096 --d-out 1024 --edits 512 --dense-reference 1 --report scale.json
  betaedit scale --d-in 4096 --d-out 1024 --edits 256 --refresh nested --refresh-every 256
  betaedit scale --d-in 14336 --d-out 4096 --edits 256")]
pub struct Arguments {
    /// Dimension of the keys
    #[arg(long, value_name = "N", default_value_t = 4096)]
    d_in: usize,
    /// Dimension of the residuals
    #[arg(long, value_name = "N", default_value_t = 1024)]
    d_out: usize,
    /// Number of edits
    #[arg(long, value_name = "N", default_value_t = 512)]
    edits: usize,
    /// Number type of keys, residuals and weight, and of the products and solves for comparison
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// How to refresh the projector
    #[arg(long, value_enum, default_value_t = Rule::Never)]
    refresh: Rule,
    /// Refresh the projector every N edits, also after the last one
    #[arg(long, value_name = "N", default_value_t = 256)]
    refresh_every: usize,
    /// Weight w of the past keys in C + w H, for a refresh
    #[arg(long, value_name = "W", default_value_t = 1e-4)]
    refresh_weight: f64,
    /// Run the dense solve of the published programs N times, for comparison
    #[arg(long, value_name = "N", default_value_t = 0)]
    dense_reference: usize,
    /// Time a full eigendecomposition; always on with refreshes every N edits, up to --d-in 4096
    #[arg(long)]
    full_eigen: bool,
    /// Median s = k^T A0^-1 k of the keys; 1 is realistic, 100 means keys ten times as long
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    typical_s: f64,
    /// Seed for all random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write all numbers to a JSON file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Precision {
    F32,
    F64,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Rule {
    /// Keep the initial space for all edits
    Never,
    /// A new eigendecomposition of C + w H
    Full,
    /// The largest space below the threshold, without an eigendecomposition
    Maximal,
    /// The largest part of the current space below the threshold
    Nested,
    /// Nested, at every edit
    Continuous,
}

impl Rule {
    fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Full => "full",
            Self::Maximal => "maximal",
            Self::Nested => "nested",
            Self::Continuous => "continuous",
        }
    }
}

impl Arguments {
    fn method(&self) -> BetaEdit {
        let (edits, weight) = (self.refresh_every, self.refresh_weight);
        let refresh = match self.refresh {
            Rule::Never => Refresh::Never,
            Rule::Full => Refresh::Every { edits, rule: RefreshRule::Full(HistoryWeighting::Sum { weight }) },
            Rule::Maximal => Refresh::Every { edits, rule: RefreshRule::Maximal { weight } },
            Rule::Nested => Refresh::Every { edits, rule: RefreshRule::Nested { weight } },
            Rule::Continuous => Refresh::Continuous { weight },
        };
        let method = BetaEdit::default().with_lambda1(LAMBDA1).with_lambda2(LAMBDA2);
        method.with_threshold(THRESHOLD).with_refresh(refresh)
    }

    fn periodic(&self) -> bool {
        matches!(self.refresh, Rule::Full | Rule::Maximal | Rule::Nested)
    }

    fn check(&self) -> Done {
        if self.d_in < 16 || self.d_out == 0 || self.edits == 0 {
            return Err("--d-in must be at least 16, --d-out and --edits at least 1".into());
        }
        if !(self.typical_s > 0.0 && self.typical_s.is_finite()) {
            return Err("--typical-s must be a finite number above zero".into());
        }
        files::check(&[&self.report], &[])
    }
}

pub fn run(arguments: &Arguments, terminal: Terminal) -> Done {
    // The dense solves use this number of threads; the library takes its number from its arguments.
    set_global_parallelism(terminal.par);
    arguments.check()?;
    match arguments.precision {
        Precision::F32 => measure::<f32>(arguments, terminal),
        Precision::F64 => measure::<f64>(arguments, terminal),
    }
}

fn measure<T: Scalar>(arguments: &Arguments, terminal: Terminal) -> Done {
    let par = terminal.par;
    let layer = Layer::new(arguments.d_in, arguments.typical_s, arguments.seed, par)?;
    let clock = Instant::now();
    let mut editor = arguments.method().editor::<T>(&layer.spectrum, par)?;
    let build_seconds = clock.elapsed().as_secs_f64();
    let kept_first = editor.state().kept_directions;
    let stream = Stream::run(arguments, &layer, &mut editor, terminal)?;
    let peak = report::peak_rss();
    let space = report::Space { build_seconds, kept_first, kept_last: editor.state().kept_directions, peak };
    let comparison = Comparison::make(arguments, &layer, &stream, &editor, terminal)?;

    let result = report::json(arguments, &stream, &space, &comparison, par);
    let written = match &arguments.report {
        Some(path) => files::replace(path, serde_json::to_string_pretty(&result)?)
            .map(|()| format!("\nreport                {}", path.display())),
        None => Ok(String::new()),
    };
    let summary = report::summary(arguments, &result, &stream.refreshes);
    terminal.say(format!("{summary}{}", written.as_deref().unwrap_or_default()));
    written?;
    terminal.result(&result);
    Ok(())
}
