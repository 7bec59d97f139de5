//! Runs a recorded stream of edits through a method, and reports what it did to the weight.
//!
//! ```sh
//! cargo run --release --features safetensors,session --example replay -- \
//!     --stream tests/data/smollm2-layer10-slice.safetensors --method betaedit --plot curves.svg
//! ```

#![allow(non_snake_case)]

#[path = "../support/refresh.rs"]
mod refresh;
mod session;
#[path = "../support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use betaedit_core::adapter::{RecordedStream, write_delta};
use betaedit_core::editor::{ClosedFormEditor, METHODS, Penalty, Simulation, Slack, method};
use betaedit_core::metrics::{Measurement, Retention, RunningTotal, write_errors};
use betaedit_core::restraint::{Prune, Rect, Restraint};
use betaedit_core::{Adapter, EditBatch, Editor, Hyperparameters, RefreshReport, Scalar, Spectrum, Threshold};
use clap::{Parser, ValueEnum};
use refresh::{Rule, Weighting, refresh};
use serde_json::{Value, json};
use support::command::{self, progress, say};
use support::median;
use support::plot::{self, Curve, Panel};

/// Runs a recorded stream of edits through a method, and reports leakage, drift, stability and write error.
///
/// The recording holds the keys and residuals of one layer, so nothing of the language model is needed.
#[derive(Parser)]
#[command(
    after_help = "The stream is a safetensors file with the f32 tensors second_moment [d_in, d_in] (the mean of \
k k^T), weight [d_out, d_in], keys [N, d_in] and residuals [N, d_out]; row t is edit t.

Example:
  replay --stream tests/data/smollm2-layer10-slice.safetensors --method betaedit --lambda1 300 \\
         --refresh-every 50 --history sum --report report.json --plot curves.svg"
)]
struct Arguments {
    /// The recorded stream, a safetensors file
    #[arg(long, value_name = "FILE")]
    stream: PathBuf,
    /// How to edit
    #[arg(long, value_parser = METHODS.iter().map(|entry| entry.name).collect::<Vec<_>>())]
    method: String,
    /// MEMIT, PMET, EMMET, ENCORE, RLSEdit: weight of the statistics, in units of one edited key
    #[arg(long, default_value_t = 15_000.0)]
    lambda: f64,
    /// BetaEdit: weight of the statistics in the solve
    #[arg(long, default_value_t = 3_000.0)]
    lambda1: f64,
    /// AlphaEdit, BetaEdit, ENCORE: ridge on the norm of the update
    #[arg(long, default_value_t = 10.0)]
    lambda2: f64,
    /// AlphaEdit, BetaEdit, -ns: directions with eigenvalues of C below this may be edited
    #[arg(long, default_value_t = 0.02)]
    threshold: f64,
    /// BetaEdit, -ns: edits between refreshes of the projector, 0 = never
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    refresh_every: usize,
    /// BetaEdit, -ns: how past keys join the statistics at a full refresh
    #[arg(long, value_enum, default_value_t = Weighting::Mean)]
    history: Weighting,
    /// BetaEdit, -ns: how the projector is refreshed
    #[arg(long, value_enum, default_value_t = Rule::Full)]
    refresh_rule: Rule,
    /// BetaEdit, -ns: what an edited key counts against the mean over the text, in C + w H (not for the history `mean`)
    #[arg(long, value_name = "W", default_value_t = 1.0)]
    refresh_weight: f64,
    /// BetaEdit: no lambda1 C in the solve (C stays in the projector)
    #[arg(long)]
    without_penalty: bool,
    /// EMMET: how far residuals may be missed, for single edits and for batches
    #[arg(long, num_args = 2, value_names = ["SINGLE", "BATCH"], default_values_t = [0.0, 0.1])]
    slack: Vec<f64>,
    /// RLSEdit: strengths of the anchors to the outputs and to the weight of the start
    #[arg(long, num_args = 2, value_names = ["MU", "NU"], default_values_t = [1.0, 0.0])]
    anchors: Vec<f64>,
    /// MEMIT-Merge: the cosine from which two keys are one
    #[arg(long, value_name = "COSINE", default_value_t = 0.99)]
    alike: f64,
    /// MEMIT-R: which random keys
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// SimIE around the method, with this weight of the distance from the start [default for simie: 10000]
    #[arg(long, value_name = "LAMBDA")]
    simie: Option<f64>,
    /// RECT: keep this share of the entries of every update, those with the largest relative change
    #[arg(long, value_name = "SHARE")]
    rect: Option<f64>,
    /// With --session, PRUNE: damp the singular values of the total change that are above those of the weight
    #[arg(long, requires = "session", conflicts_with = "rect")]
    prune: bool,
    /// Run only the first N edits [default: all]
    #[arg(long, value_name = "N")]
    edits: Option<usize>,
    /// Edits a batch
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// Number type of the engine; statistics and metrics are f64 always
    #[arg(long, value_enum, default_value_t = Precision::F64)]
    precision: Precision,
    /// Threads, 0 = all cores
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Keep the run in a directory: one that was interrupted goes on where it was
    #[arg(long, value_name = "DIR")]
    session: Option<PathBuf>,
    /// With --session: edits between snapshots
    #[arg(long, value_name = "N", default_value_t = 100, requires = "session")]
    snapshot_every: usize,
    /// With --session: take back this edit (may be given several times), and stop
    #[arg(long, value_name = "ID", requires = "session")]
    undo: Vec<u64>,
    /// Write all numbers, a value a step, as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the cumulative update as the f64 tensor `delta` [d_out, d_in]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Draw the curves as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Precision {
    F64,
    F32,
}

impl Arguments {
    fn hyperparameters(&self) -> Hyperparameters {
        let mut hyperparameters = Hyperparameters::default();
        hyperparameters.lambda = self.lambda;
        hyperparameters.lambda1 = self.lambda1;
        hyperparameters.lambda2 = self.lambda2;
        hyperparameters.threshold = Threshold::Absolute(self.threshold);
        hyperparameters.refresh =
            refresh(self.refresh_rule, self.history, self.refresh_weight, self.lambda1, self.refresh_every);
        hyperparameters.slack = Slack { single: self.slack[0], batch: self.slack[1] };
        hyperparameters.anchors = (self.anchors[0], self.anchors[1]);
        hyperparameters.alike = self.alike;
        hyperparameters.seed = self.seed;
        hyperparameters.simulation = self.simie.map(|lambda| Simulation { lambda, ..Simulation::default() });
        hyperparameters.penalty = if self.without_penalty { Penalty::Dropped } else { Penalty::Kept };
        hyperparameters
    }

    fn restraint(&self) -> Option<Restraint> {
        let rect = self.rect.map(|kept| Rect::default().with_kept(kept).into());
        rect.or(self.prune.then(|| Prune::default().into()))
    }
}

/// What one step, an edit or a batch, came to.
struct Step {
    measured: Measurement,
    s: f64,
    gain: f64,
    write_error: f64,
}

/// How well all edits so far hold.
struct Checkpoint {
    edits: usize,
    errors: Vec<f64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    command::exit(match arguments.precision {
        Precision::F64 => run::<f64>(&arguments),
        Precision::F32 => run::<f32>(&arguments),
    })
}

fn run<T: Scalar>(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let par = command::par(arguments.threads);
    check_outputs(arguments)?;
    if let Some(directory) = &arguments.session {
        return session::run::<T>(arguments, directory, par);
    }
    let started = Instant::now();
    let mut stream = RecordedStream::<T>::open(&arguments.stream, par)?;
    let layer = stream.layers()[0];
    let (d_out, d_in) = stream.weight_shape(layer)?;
    let edits = arguments.edits.unwrap_or(stream.len());
    if arguments.batch == 0 || edits == 0 || edits > stream.len() {
        return Err(
            format!("--edits must be 1 to {} (the length of the stream) and --batch at least 1", stream.len()).into()
        );
    }
    let weight_norm = stream.weight().norm_l2().to_f64();

    let moment = Arc::new(stream.second_moment().clone());
    let spectrum = Arc::new(Spectrum::of(&moment, par)?);
    let entry = method(&arguments.method)?;
    let recipe = entry.recipe(&arguments.hyperparameters());
    let mut editor = ClosedFormEditor::<T>::new(entry.name, recipe, &spectrum, par)?;
    let build_seconds = started.elapsed().as_secs_f64();
    let kept_first = editor.state().kept_directions;
    let (below, above) = editor.projector().gap();
    let at_the_cut = |s: Option<f64>| s.map_or("none".into(), |s| format!("{s:.6}"));
    say(&format!(
        "{}: {edits} edits of a {d_out} x {d_in} weight, {} per batch, {}\n\
         projector: {kept_first} of {d_in} directions kept, eigenvalues {} | {} at the cut, capacity {:.0}",
        entry.name,
        arguments.batch,
        T::NAME,
        at_the_cut(below),
        at_the_cut(above),
        editor.projector().capacity(),
    ))?;

    let bar = progress(edits, "edits")?;
    let mut total = RunningTotal::new(&moment, d_out, 1, par)?;
    let mut retention = Retention::new(d_in, d_out);
    let (mut steps, mut checkpoints, mut refreshes) = (Vec::<Step>::new(), Vec::new(), Vec::new());
    let mut edit_seconds = 0.0;
    let requests: Vec<usize> = (0..edits).collect();
    for batch in requests.chunks(arguments.batch) {
        let (K, R) = (stream.keys(layer, batch)?, stream.residuals(layer, batch)?);
        let batch = EditBatch::new(K.as_ref(), R.as_ref())?;
        let clock = Instant::now();
        refreshes.extend(editor.refresh_if_due()?);
        let mut update = editor.propose(&batch)?;
        if let Some(Restraint::Rect(rect)) = arguments.restraint() {
            update = rect.restrain(&update, stream.weight(), par)?;
        }
        stream.apply(layer, &update)?;
        editor.commit(&update)?;
        edit_seconds += clock.elapsed().as_secs_f64();

        retention.record(&batch, total.total()?, par)?;
        let measured = total.record(&update)?.ok_or("the stride is 1")?;
        let errors = write_errors(&update, &batch, par)?;
        steps.push(Step {
            measured,
            s: editor.stability(batch.keys())?.into_iter().fold(0.0, f64::max),
            gain: update.gains().iter().copied().fold(0.0, f64::max),
            write_error: errors.iter().map(|e| e * e).sum::<f64>().sqrt(),
        });
        let done = measured.edits;
        // Ten looks back over the run; each costs as much as a product of all past keys with the total.
        if done == edits || done * 10 / edits > (done - batch.len()) * 10 / edits {
            checkpoints.push(Checkpoint { edits: done, errors: retention.errors(total.total()?, par)? });
        }
        bar.set_message(format!("leakage {:.4}  drift {:.3}", measured.leakage, measured.drift));
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();

    // What was asked for comes before what is printed, so that a closed pipe loses nothing.
    let mut failures = Vec::new();
    let mut written = Vec::new();
    let mut attempt = |what: &str, path: &Path, outcome: Result<(), Box<dyn Error>>| match outcome {
        Ok(()) => written.push(format!("{what:<22}{}", path.display())),
        Err(error) => failures.push(format!("{what}: {error}")),
    };
    if let Some(path) = &arguments.report {
        let state = editor.state();
        let mut report = report(arguments, &steps, &checkpoints, &refreshes);
        report["d_in"] = json!(d_in);
        report["d_out"] = json!(d_out);
        report["edits"] = json!(edits);
        report["weight_norm"] = json!(weight_norm);
        report["kept_directions_first"] = json!(kept_first);
        report["kept_directions_last"] = json!(state.kept_directions);
        report["removed_directions"] = json!(state.removed_directions);
        report["seconds"] = json!({ "build": build_seconds, "edits": edit_seconds });
        attempt("report", path, write(path, &serde_json::to_string_pretty(&report)?));
    }
    if let Some(path) = &arguments.out {
        let metadata = HashMap::from([("method".into(), entry.name.into()), ("edits".into(), edits.to_string())]);
        attempt("update", path, write_delta(path, total.total()?, metadata).map_err(Into::into));
    }
    if let Some(path) = &arguments.plot {
        let title = format!("{} on {edits} edits", entry.name);
        let drawn = plot::save(path, &title, "edits", &panels(&steps, &checkpoints));
        attempt("curves", path, drawn.map_err(|error| format!("{}: {error}", path.display()).into()));
    }

    let last = &steps.last().ok_or("no step was made")?.measured;
    let held = &checkpoints.last().ok_or("no step was made")?.errors;
    let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let mut lines: Vec<String> = refreshes
        .iter()
        .map(|refresh| {
            let (edits, before, after) = (refresh.edits, refresh.kept_before, refresh.kept_after);
            let moved = refresh.moved.map_or(String::new(), |moved| format!(", |P - P_start|^2 = {moved:.2}"));
            format!("refresh after {edits} edits: {before} -> {after} directions{moved}")
        })
        .collect();
    let share = 100.0 * last.drift / weight_norm;
    lines.extend([
        format!("leakage tr(D C D^T)   {:.6}", last.leakage),
        format!("drift |D|_F           {:.6}  ({share:.2} % of |W|_F)", last.drift),
        format!("largest s             {:.4}", largest(&mut steps.iter().map(|step| step.s))),
        format!("write error, median   {:.6}", median(steps.iter().map(|step| step.write_error))),
        format!(
            "retention error now   {:.6} median, {:.6} largest",
            median(held.iter().copied()),
            largest(&mut held.iter().copied())
        ),
        format!(
            "time                  {build_seconds:.2} s to build, {:.3} ms an edit (refreshes included)",
            1e3 * edit_seconds / edits as f64
        ),
    ]);
    lines.extend(written);
    say(&lines.join("\n"))?;
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\nerror: ").into()) }
}

/// Finds out before the run, not after it, that an output cannot be written.
fn check_outputs(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let outputs: Vec<&Path> =
        [&arguments.report, &arguments.out, &arguments.plot].into_iter().flatten().map(PathBuf::as_path).collect();
    for (i, path) in outputs.iter().enumerate() {
        if outputs[..i].contains(path) {
            return Err(format!("{}: two outputs cannot have the same path", path.display()).into());
        }
        let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        if path.is_dir() || !folder.is_dir() {
            return Err(format!("{}: not a file in an existing folder", path.display()).into());
        }
    }
    Ok(())
}

fn report(arguments: &Arguments, steps: &[Step], checkpoints: &[Checkpoint], refreshes: &[RefreshReport]) -> Value {
    let values = |value: fn(&Step) -> f64| steps.iter().map(value).collect::<Vec<_>>();
    json!({
        "method": arguments.method,
        "precision": match arguments.precision { Precision::F64 => "f64", Precision::F32 => "f32" },
        "batch": arguments.batch,
        "hyperparameters": {
            "lambda": arguments.lambda,
            "lambda1": arguments.lambda1,
            "lambda2": arguments.lambda2,
            "threshold": arguments.threshold,
            "refresh_every": arguments.refresh_every,
            "history": match arguments.history { Weighting::Mean => "mean", Weighting::Sum => "sum" },
            "without_penalty": arguments.without_penalty,
        },
        "edits_done": steps.iter().map(|step| step.measured.edits).collect::<Vec<_>>(),
        "leakage": values(|step| step.measured.leakage),
        "drift": values(|step| step.measured.drift),
        "s": values(|step| step.s),
        "write_error": values(|step| step.write_error),
        "gain": values(|step| step.gain),
        "update_leakage": values(|step| step.measured.update_leakage),
        "update_norm": values(|step| step.measured.update_norm),
        "interference": values(|step| step.measured.interference),
        "retention": checkpoints.iter().map(|checkpoint| json!({
            "edits": checkpoint.edits,
            "median": median(checkpoint.errors.iter().copied()),
            "largest": checkpoint.errors.iter().copied().fold(0.0, f64::max),
        })).collect::<Vec<_>>(),
        "retention_errors": checkpoints.last().map(|checkpoint| checkpoint.errors.clone()),
        "refreshes": refreshes.iter().map(|refresh| json!({
            "edits": refresh.edits,
            "kept_before": refresh.kept_before,
            "kept_after": refresh.kept_after,
            "moved": refresh.moved,
            "gap": [refresh.gap.0, refresh.gap.1],
        })).collect::<Vec<_>>(),
    })
}

fn panels(steps: &[Step], checkpoints: &[Checkpoint]) -> Vec<Panel> {
    let curve = |name: &str, value: fn(&Step) -> f64| Curve {
        name: name.into(),
        dashed: false,
        points: steps.iter().map(|step| (step.measured.edits as f64, value(step))).collect(),
    };
    let retained = |name: &str, value: fn(&[f64]) -> f64| Curve {
        name: name.into(),
        dashed: false,
        points: checkpoints.iter().map(|c| (c.edits as f64, value(&c.errors))).collect(),
    };
    let panel = |title: &str, y: &str, curves| Panel { title: title.into(), y: y.into(), curves };
    vec![
        panel("Leakage of the total update", "tr(D C Dᵀ)", vec![curve("", |step| step.measured.leakage)]),
        panel("Drift", "|D|", vec![curve("", |step| step.measured.drift)]),
        panel(
            "Stability of the keys",
            "s",
            vec![curve("s = kᵀ A0⁻¹ k", |step| step.s), curve("now: kᵀ Q k", |step| step.gain)],
        ),
        panel(
            "Error of an edit",
            "norm",
            vec![
                curve("when written", |step| step.write_error),
                retained("all so far, median", |errors| median(errors.iter().copied())),
                retained("all so far, largest", |errors| errors.iter().copied().fold(0.0, f64::max)),
            ],
        ),
    ]
}

fn write(path: &Path, text: &str) -> Result<(), Box<dyn Error>> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()).into())
}
