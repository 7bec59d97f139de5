//! The results of a replay, as JSON, as curves, and as text.

use betaedit_core::Scalar;
use serde_json::{Value, json};

use super::recorded::{Replayed, Setup, Step};
use super::{Arguments, Weighting};
use crate::plot::{Curve, Panel};
use crate::research::numbers::{largest, median};
use crate::terminal::Done;

pub fn json<T: Scalar>(arguments: &Arguments, setup: &Setup<T>, replayed: &Replayed) -> Value {
    let Replayed { steps, checkpoints, refreshes, .. } = replayed;
    let values = |value: fn(&Step) -> f64| steps.iter().map(value).collect::<Vec<_>>();
    let mut report = json!({
        "method": arguments.method,
        "precision": arguments.precision.name(),
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
            "largest": largest(checkpoint.errors.iter().copied()),
        })).collect::<Vec<_>>(),
        "retention_errors": checkpoints.last().map(|checkpoint| checkpoint.errors.clone()),
        "refreshes": refreshes.iter().map(|refresh| json!({
            "edits": refresh.edits,
            "kept_before": refresh.kept_before,
            "kept_after": refresh.kept_after,
            "moved": refresh.moved,
            "gap": [refresh.gap.largest_kept, refresh.gap.smallest_protected],
        })).collect::<Vec<_>>(),
    });
    report["d_in"] = json!(setup.d_in);
    report["d_out"] = json!(setup.d_out);
    report["edits"] = json!(setup.edits);
    report["weight_norm"] = json!(setup.weight_norm);
    report["kept_directions_first"] = json!(setup.kept_first);
    report["kept_directions_last"] = json!(replayed.kept_last);
    report["removed_directions"] = json!(replayed.removed);
    report["seconds"] = json!({ "build": setup.build_seconds, "edits": replayed.edit_seconds });
    report
}

pub fn panels(replayed: &Replayed) -> Vec<Panel> {
    let Replayed { steps, checkpoints, .. } = replayed;
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
                retained("all so far, median", |errors| median(errors.iter().copied()).unwrap_or(f64::NAN)),
                retained("all so far, largest", |errors| largest(errors.iter().copied())),
            ],
        ),
    ]
}

/// The end of the run, line by line.
pub fn summary<T: Scalar>(setup: &Setup<T>, replayed: &Replayed) -> Done<Vec<String>> {
    let Replayed { steps, checkpoints, refreshes, edit_seconds, .. } = replayed;
    let last = &steps.last().ok_or("no step was made")?.measured;
    let held = &checkpoints.last().ok_or("no step was made")?.errors;
    let mut lines: Vec<String> = refreshes
        .iter()
        .map(|refresh| {
            let (edits, before, after) = (refresh.edits, refresh.kept_before, refresh.kept_after);
            let moved = refresh.moved.map_or(String::new(), |moved| format!(", |P - P_start|^2 = {moved:.2}"));
            format!("refresh after {edits} edits: {before} -> {after} directions{moved}")
        })
        .collect();
    let share = 100.0 * last.drift / setup.weight_norm;
    lines.extend([
        format!("leakage tr(D C D^T)   {:.6}", last.leakage),
        format!("drift |D|_F           {:.6}  ({share:.2} % of |W|_F)", last.drift),
        format!("largest s             {:.4}", largest(steps.iter().map(|step| step.s))),
        format!("write error, median   {:.6}", median(steps.iter().map(|step| step.write_error)).unwrap_or(f64::NAN)),
        format!(
            "retention error now   {:.6} median, {:.6} largest",
            median(held.iter().copied()).unwrap_or(f64::NAN),
            largest(held.iter().copied())
        ),
        format!(
            "time                  {:.2} s to build, {:.3} ms per edit (refreshes included)",
            setup.build_seconds,
            1e3 * edit_seconds / setup.edits as f64
        ),
    ]);
    Ok(lines)
}
