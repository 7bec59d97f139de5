//! What an edit costs, what a refresh costs, and how much memory they take, at the size of any model.
//!
//! ```sh
//! cargo run --release --example scale -- --d-in 4096 --d-out 1024 --edits 512 --dense-reference 1
//! ```

#![allow(non_snake_case)]

#[path = "support/command.rs"]
mod command;
#[path = "support/synthetic.rs"]
mod synthetic;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use betaedit_core::editor::ClosedFormEditor;
use betaedit_core::faer::linalg::matmul::matmul;
use betaedit_core::faer::linalg::solvers::Solve;
use betaedit_core::faer::{Accum, Mat, MatRef, Par, Side, set_global_parallelism};
use betaedit_core::{
    BetaEdit, EditBatch, Editor, HistoryWeighting, Method, Orientation, Refresh, RefreshReport, RefreshRule, Scalar,
    Spectrum, Update, Weight, cast,
};
use clap::{Parser, ValueEnum};
use command::{progress, say};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use synthetic::{DenseSolve, LAMBDA1, LAMBDA2, Layer, THRESHOLD};

/// Up to here the same stream is solved a second time, densely and in f64, one factorisation an edit.
const AFFORDABLE: (usize, usize) = (1024, 512);
/// Up to here a run with a refresh every so many edits also times a full eigendecomposition, unasked.
const AFFORDABLE_EIGEN: usize = 4096;

/// Measures a stream of single edits by BetaEdit on a synthetic layer of any size, beside the products and the solves
/// that they are to be compared with, in the same run.
///
/// The layer's statistics have the shape of a real model's spectrum, and its edits have keys of a realistic length. All of
/// it is made from the seed.
#[derive(Parser)]
#[command(after_help = "\
The report, times in seconds:
  edit_seconds_median      an edit: propose, add the update to the weight, commit; no refresh that was due before it
  edit_seconds_mean        the same, mean: with every 64th commit, which folds 64 edits into the state
  edit_seconds_first       median over the first tenth of the edits
  edit_seconds_last        median over the last tenth
  engine_seconds_median    of an edit, the engine's part: propose and commit
  engine_seconds_mean      the same, mean: foldings included
  outer_product_seconds    of an edit, the other part: checking the weight, and adding r x^T to it; median
  product_seconds          a plain product Q k of a full square matrix by faer, with the same size, precision and
                           threads, between the edits; median
  engine_per_product       engine_seconds_mean / product_seconds
  last_per_first           edit_seconds_last / edit_seconds_first
  dense_edit_seconds       the published programs' edit: P A, its LU with partial pivoting, d_out right-hand sides, in the
                           same precision; median of N, null without --dense-reference
  dense_difference         |Delta - Delta_dense| / |Delta| for the edit after the last; null when the space was refreshed
  speedup_vs_dense         dense_edit_seconds / edit_seconds_mean
  refresh_seconds          a refresh every N edits, the change of Q included; median. With --refresh continuous a refresh
                           is part of every edit, and this is null
  refreshes                every refresh: edits so far, seconds, directions kept before and after
  full_eigen_seconds       an eigendecomposition of the statistics by faer, in f64
  refresh_speedup          full_eigen_seconds / refresh_seconds
  build_seconds            from the spectrum to an editor: state and headroom
  stream_seconds           all edits and refreshes
  peak_rss_bytes           largest resident memory up to the end of the stream, everything in it: the spectrum, the state,
                           the weight, and the square matrix of the plain product; null where the system does not say
  peak_rss_bytes_total     the same after the dense solves and the eigendecomposition
  relative_error_vs_f64    |D - D'| / |D'| for the sum D of all updates, with D' from one dense f64 factorisation an edit;
                           null where that is not affordable (d_in > 1024, edits > 512) or not written (refresh rules
                           other than never and full)
  gain_median, gain_first  k^T Q k of the keys: how much of its residual an edit writes is g / (1 + g)
  kept_directions_first, kept_directions_last
                           directions that may be edited

Examples:
  scale --d-in 4096 --d-out 1024 --edits 512 --dense-reference 1 --report scale.json
  scale --d-in 4096 --d-out 1024 --edits 256 --refresh nested --refresh-every 256
  scale --d-in 14336 --d-out 4096 --edits 256")]
struct Arguments {
    /// Length of the keys
    #[arg(long, value_name = "N", default_value_t = 4096)]
    d_in: usize,
    /// Length of the residuals
    #[arg(long, value_name = "N", default_value_t = 1024)]
    d_out: usize,
    /// Length of the stream
    #[arg(long, value_name = "N", default_value_t = 512)]
    edits: usize,
    /// Number type of keys, residuals, weight, and of the products and solves to compare with
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// How the projector is refreshed
    #[arg(long, value_enum, default_value_t = Rule::Never)]
    refresh: Rule,
    /// Edits between refreshes; a refresh that is due after the last edit is made
    #[arg(long, value_name = "N", default_value_t = 256)]
    refresh_every: usize,
    /// What an edited key counts against the mean over the text in a refresh, w of C + w H
    #[arg(long, value_name = "W", default_value_t = 1e-4)]
    refresh_weight: f64,
    /// Times to run the published programs' dense solve
    #[arg(long, value_name = "N", default_value_t = 0)]
    dense_reference: usize,
    /// Time a full eigendecomposition; done unasked where a refresh is to be compared with it, up to --d-in 4096
    #[arg(long)]
    full_eigen: bool,
    /// Median s = k^T A0^-1 k of the keys: 1 is realistic, 100 are keys ten times as long
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    typical_s: f64,
    /// What all random numbers are made from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads, 0 = all cores
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Write all numbers as JSON
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
    /// The space of the start serves for all edits
    Never,
    /// A new eigendecomposition of C + w H
    Full,
    /// The largest space below the threshold, without one
    Maximal,
    /// The largest part of the present space below the threshold
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
    fn par(&self) -> Par {
        command::par(self.threads)
    }

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

    fn check(&self) -> Result<(), Box<dyn Error>> {
        if self.d_in < 16 || self.d_out == 0 || self.edits == 0 {
            return Err("--d-in must be at least 16, --d-out and --edits at least 1".into());
        }
        if !(self.typical_s > 0.0 && self.typical_s.is_finite()) {
            return Err("--typical-s must be a finite number above zero".into());
        }
        // Found out before the run, not after it.
        if let Some(path) = &self.report {
            let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
            if path.is_dir() || !folder.is_dir() {
                return Err(format!("{}: not a file in an existing folder", path.display()).into());
            }
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The dense solves take their threads from here, the library from its arguments.
    set_global_parallelism(arguments.par());
    command::exit(arguments.check().and_then(|()| match arguments.precision {
        Precision::F32 => run::<f32>(&arguments),
        Precision::F64 => run::<f64>(&arguments),
    }))
}

fn run<T: Scalar>(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let par = arguments.par();
    let layer = Layer::new(arguments.d_in, arguments.typical_s, arguments.seed, par)?;
    let clock = Instant::now();
    let mut editor = arguments.method().editor::<T>(&layer.spectrum, par)?;
    let build_seconds = clock.elapsed().as_secs_f64();
    let kept_first = editor.state().kept_directions;

    let stream = Stream::run(arguments, &layer, &mut editor)?;
    let peak = peak_rss();
    let kept_last = editor.state().kept_directions;

    let error = relative_error(arguments, &layer, &stream)?;
    let dense = dense_reference(arguments, &layer, &editor)?;
    let unasked = arguments.periodic() && arguments.d_in <= AFFORDABLE_EIGEN;
    let full_eigen = if arguments.full_eigen || unasked { Some(full_eigen(&layer, par)?) } else { None };

    let refresh = median(stream.refreshes.iter().map(|refresh| refresh.0));
    let (edit, engine) = (mean(&stream.edit), mean(&stream.engine));
    let tenth = arguments.edits.div_ceil(10);
    let [first, last] = [&stream.edit[..tenth], &stream.edit[arguments.edits - tenth..]];
    let [first, last] = [first, last].map(|part| median(part.iter().copied()));
    let product = median(stream.product.iter().copied());
    let report = json!({
        "d_in": arguments.d_in,
        "d_out": arguments.d_out,
        "edits": arguments.edits,
        "precision": T::NAME,
        "refresh": arguments.refresh.name(),
        "refresh_every": arguments.periodic().then_some(arguments.refresh_every),
        "refresh_weight": (arguments.refresh != Rule::Never).then_some(arguments.refresh_weight),
        "threads": par.degree(),
        "seed": arguments.seed,
        "edit_seconds_median": median(stream.edit.iter().copied()),
        "edit_seconds_mean": edit,
        "edit_seconds_first": first,
        "edit_seconds_last": last,
        "last_per_first": last.zip(first).map(|(last, first)| last / first),
        "engine_seconds_median": median(stream.engine.iter().copied()),
        "engine_seconds_mean": engine,
        "outer_product_seconds": median(stream.outer.iter().copied()),
        "product_seconds": product,
        "engine_per_product": product.map(|product| engine / product),
        "dense_edit_seconds": dense.seconds,
        "dense_difference": dense.difference,
        "speedup_vs_dense": dense.seconds.map(|dense| dense / edit),
        "refresh_seconds": refresh,
        "refreshes": stream.refreshes.iter().map(|(seconds, refresh)| json!({
            "edits": refresh.edits,
            "seconds": seconds,
            "kept_before": refresh.kept_before,
            "kept_after": refresh.kept_after,
        })).collect::<Vec<_>>(),
        "full_eigen_seconds": full_eigen,
        "refresh_speedup": full_eigen.zip(refresh).map(|(full, refresh)| full / refresh),
        "build_seconds": build_seconds,
        "stream_seconds": stream.seconds,
        "peak_rss_bytes": peak,
        "peak_rss_bytes_total": peak_rss(),
        "relative_error_vs_f64": error,
        "gain_first": stream.gains.first(),
        "gain_median": median(stream.gains.iter().copied()),
        "kept_directions_first": kept_first,
        "kept_directions_last": kept_last,
    });
    let written = match &arguments.report {
        Some(path) => std::fs::write(path, serde_json::to_string_pretty(&report)?)
            .map_err(|error| format!("{}: {error}", path.display()))
            .map(|()| format!("\nreport                {}", path.display())),
        None => Ok(String::new()),
    };
    let summary = summary(arguments, &report, &stream.refreshes);
    say(&format!("{summary}{}", written.as_deref().unwrap_or_default()))?;
    Ok(written.map(drop)?)
}

/// What was measured of a stream of edits; times in seconds, one number an edit.
struct Stream<T: Scalar> {
    edit: Vec<f64>,
    engine: Vec<f64>,
    outer: Vec<f64>,
    product: Vec<f64>,
    refreshes: Vec<(f64, RefreshReport)>,
    gains: Vec<f64>,
    /// Edits and refreshes together.
    seconds: f64,
    /// Where a comparison is affordable.
    updates: Vec<Update<T>>,
}

impl<T: Scalar> Stream<T> {
    fn run(arguments: &Arguments, layer: &Layer, editor: &mut ClosedFormEditor<T>) -> Result<Self, Box<dyn Error>> {
        let (d_in, edits, par) = (arguments.d_in, arguments.edits, arguments.par());
        let mut stream = Self {
            edit: Vec::with_capacity(edits),
            engine: Vec::with_capacity(edits),
            outer: Vec::with_capacity(edits),
            product: Vec::new(),
            refreshes: Vec::new(),
            gains: Vec::with_capacity(edits),
            seconds: 0.0,
            updates: Vec::new(),
        };
        let bar = progress(edits, "edits")?;
        let mut W = Weight::new(layer.weight::<T>(arguments.d_out), Orientation::OutputsByInputs)?;
        // What the plain product works on; which numbers does not matter.
        let square = Mat::from_fn(d_in, d_in, |i, j| T::of_f64(1.0 / (1.0 + ((i ^ j) % 64) as f64)));
        let mut z = Mat::<T>::zeros(d_in, 1);
        let mut product = |k: MatRef<'_, T>| {
            let clock = Instant::now();
            matmul(&mut z, Accum::Replace, &square, k, T::of_f64(1.0), par);
            std::hint::black_box(&z);
            clock.elapsed().as_secs_f64()
        };
        // Once unmeasured, to wake up memory and threads.
        product(layer.key::<T>(0).as_ref());
        let every = (edits / 8).clamp(1, 16);

        for edit in 0..edits {
            let (k, r) = (layer.key::<T>(edit), layer.residuals::<T>(arguments.d_out, edit, 1));
            stream.refresh(editor)?;
            let clock = Instant::now();
            let update = editor.propose(&EditBatch::new(k.as_ref(), r.as_ref())?)?;
            let proposed = clock.elapsed().as_secs_f64();
            W.apply(&update, par)?;
            let applied = clock.elapsed().as_secs_f64();
            editor.commit(&update)?;
            let committed = clock.elapsed().as_secs_f64();
            stream.edit.push(committed);
            stream.outer.push(applied - proposed);
            stream.engine.push(committed - (applied - proposed));
            stream.seconds += committed;
            stream.gains.extend_from_slice(update.gains());
            if d_in <= AFFORDABLE.0 && edits <= AFFORDABLE.1 {
                stream.updates.push(update.detached());
            }
            if edit % every == 0 {
                stream.product.push(product(k.as_ref()));
            }
            bar.inc(1);
        }
        stream.refresh(editor)?;
        bar.finish_and_clear();
        Ok(stream)
    }

    fn refresh(&mut self, editor: &mut ClosedFormEditor<T>) -> Result<(), Box<dyn Error>> {
        let clock = Instant::now();
        if let Some(refresh) = editor.refresh_if_due()? {
            let seconds = clock.elapsed().as_secs_f64();
            self.refreshes.push((seconds, refresh));
            self.seconds += seconds;
        }
        Ok(())
    }
}

/// `|D - D'| / |D'|` with `D` the sum of all updates, and `D'` from the same keys and residuals on another path: in f64,
/// with the system of every edit formed in a basis of the space, and factored from scratch.
fn relative_error<T: Scalar>(
    arguments: &Arguments,
    layer: &Layer,
    stream: &Stream<T>,
) -> Result<Option<f64>, Box<dyn Error>> {
    if stream.updates.is_empty() || !matches!(arguments.refresh, Rule::Never | Rule::Full) {
        return Ok(None);
    }
    let threshold = 0.02;
    let spectrum = &layer.spectrum;
    let C = spectrum.matrix(arguments.par());
    let mut H = Mat::<f64>::zeros(arguments.d_in, arguments.d_in);
    let mut V = spectrum.vectors().subcols(0, spectrum.count_below(threshold)).to_owned();
    let gram = |V: &Mat<f64>, H: &Mat<f64>| {
        let A = &C * betaedit_core::faer::Scale(LAMBDA1) + H;
        let mut A = V.transpose() * A * V;
        (0..A.nrows()).for_each(|i| A[(i, i)] += LAMBDA2);
        A
    };
    let mut A = gram(&V, &H);
    let (mut found, mut expected) = (Mat::<f64>::zeros(arguments.d_out, arguments.d_in), None::<Mat<f64>>);
    for (edit, update) in stream.updates.iter().enumerate() {
        if arguments.refresh == Rule::Full && edit > 0 && edit % arguments.refresh_every == 0 {
            let M = &C + &H * betaedit_core::faer::Scale(arguments.refresh_weight);
            let eigen = M.self_adjoint_eigen(Side::Lower).map_err(|_| "the eigendecomposition did not converge")?;
            let kept = eigen.S().column_vector().iter().filter(|&&s| s < threshold).count();
            V = eigen.U().subcols(0, kept).to_owned();
            A = gram(&V, &H);
        }
        let k = cast::<T, f64>(layer.key::<T>(edit).as_ref());
        let r = cast::<T, f64>(update.left());
        let z = V.transpose() * &k;
        A += &z * z.transpose();
        H += &k * k.transpose();
        let x = &V * A.llt(Side::Lower).map_err(|_| "the dense system is not positive definite")?.solve(&z);
        let delta = r * x.transpose();
        found += cast::<T, f64>(update.dense(arguments.par()).as_ref());
        match &mut expected {
            Some(sum) => *sum += delta,
            None => expected = Some(delta),
        }
    }
    Ok(expected.map(|expected| (&found - &expected).norm_l2() / expected.norm_l2()))
}

/// What the published programs' solve came to.
#[derive(Default)]
struct Dense {
    seconds: Option<f64>,
    difference: Option<f64>,
}

fn dense_reference<T: Scalar>(
    arguments: &Arguments,
    layer: &Layer,
    editor: &ClosedFormEditor<T>,
) -> Result<Dense, Box<dyn Error>> {
    if arguments.dense_reference == 0 {
        return Ok(Dense::default());
    }
    let (edits, par) = (arguments.edits, arguments.par());
    let mut dense = DenseSolve::new(editor.projector(), layer.keys::<T>(0, edits).as_ref(), par);
    let (k, r) = (layer.key::<T>(edits), layer.residuals::<T>(arguments.d_out, edits, 1));
    let bar = progress(arguments.dense_reference, "dense solves")?;
    let (mut seconds, mut difference) = (Vec::new(), None);
    for _ in 0..arguments.dense_reference {
        let clock = Instant::now();
        let solution = dense.solve(k.as_ref(), r.as_ref(), par);
        seconds.push(clock.elapsed().as_secs_f64());
        if difference.is_none() && editor.state().refreshes == 0 && arguments.refresh != Rule::Continuous {
            let update = editor.propose(&EditBatch::new(k.as_ref(), r.as_ref())?)?.dense(par);
            let difference_norm = (&update - solution.transpose()).norm_l2().to_f64();
            difference = Some(difference_norm / update.norm_l2().to_f64());
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(Dense { seconds: median(seconds.into_iter()), difference })
}

fn full_eigen(layer: &Layer, par: Par) -> Result<f64, Box<dyn Error>> {
    let C = layer.spectrum.matrix(par);
    let bar = ProgressBar::new_spinner().with_message("full eigendecomposition");
    bar.tick();
    let clock = Instant::now();
    std::hint::black_box(Spectrum::of_matrix(C.as_ref(), par)?);
    let seconds = clock.elapsed().as_secs_f64();
    bar.finish_and_clear();
    Ok(seconds)
}

fn summary(arguments: &Arguments, report: &Value, refreshes: &[(f64, RefreshReport)]) -> String {
    let number = |field: &str| report[field].as_f64().unwrap_or(f64::NAN);
    let time = |field: &str| duration(number(field));
    let mut lines = vec![
        format!(
            "{} edits of a {} x {} weight, {}, {} threads, refresh {}",
            arguments.edits,
            arguments.d_out,
            arguments.d_in,
            report["precision"].as_str().unwrap_or_default(),
            report["threads"],
            arguments.refresh.name()
        ),
        format!(
            "space                 {} of {} directions at the start, {} at the end; gain of a key {:.3} first, {:.3} median",
            report["kept_directions_first"],
            arguments.d_in,
            report["kept_directions_last"],
            number("gain_first"),
            number("gain_median")
        ),
        format!("build                 {}", time("build_seconds")),
        format!(
            "edit                  {} mean, {} median, {} first tenth, {} last tenth (x {:.3})",
            time("edit_seconds_mean"),
            time("edit_seconds_median"),
            time("edit_seconds_first"),
            time("edit_seconds_last"),
            number("last_per_first")
        ),
        format!("  engine              {} mean, {} median", time("engine_seconds_mean"), time("engine_seconds_median")),
        format!("  onto the weight     {}", time("outer_product_seconds")),
        format!(
            "plain product Q k     {}; the engine takes {:.2} times that",
            time("product_seconds"),
            number("engine_per_product")
        ),
    ];
    lines.extend(refreshes.iter().map(|(seconds, refresh)| {
        let (edits, before, after) = (refresh.edits, refresh.kept_before, refresh.kept_after);
        format!("refresh               {} after {edits} edits: {before} -> {after} directions", duration(*seconds))
    }));
    if !report["full_eigen_seconds"].is_null() {
        let speedup = number("refresh_speedup");
        let beside =
            if speedup.is_nan() { String::new() } else { format!("; a refresh is {speedup:.1} times as fast") };
        lines.push(format!("eigendecomposition    {}{beside}", time("full_eigen_seconds")));
    }
    if !report["dense_edit_seconds"].is_null() {
        lines.push(format!(
            "dense solve           {}; an edit is {:.0} times as fast",
            time("dense_edit_seconds"),
            number("speedup_vs_dense")
        ));
    }
    if !report["dense_difference"].is_null() {
        lines.push(format!("  its update          differs by {:.1e} of the engine's", number("dense_difference")));
    }
    if !report["relative_error_vs_f64"].is_null() {
        lines.push(format!("error                 {:.1e}, of all updates together", number("relative_error_vs_f64")));
    }
    if !report["peak_rss_bytes"].is_null() {
        lines.push(format!(
            "memory                {:.2} GiB at most up to the end of the stream",
            number("peak_rss_bytes") / 1_073_741_824.0
        ));
    }
    lines.push(format!(
        "10,000 edits          {} at the mean time of an edit",
        duration(1e4 * number("edit_seconds_mean"))
    ));
    lines.join("\n")
}

/// Seconds in a unit that suits them.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.0} us", 1e6 * s),
        s if s < 1.0 => format!("{:.2} ms", 1e3 * s),
        s if s < 120.0 => format!("{s:.2} s"),
        s => format!("{:.1} min", s / 60.0),
    }
}

/// The largest resident memory of this process so far, in bytes, where Linux says it.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some(0.5 * (values[middle - 1] + values[middle])),
    }
}
