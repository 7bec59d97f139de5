//! The research commands on small input.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::setting::{Setting, betaedit, done, json, of_the_library, read, refused, run};

fn replay(folder: &Path) -> Command {
    let mut replay = betaedit();
    replay.args(["replay", "--stream"]).arg(of_the_library("data/smollm2-layer10-slice.safetensors"));
    replay.current_dir(folder).args(["--edits", "40", "--lambda1", "300"]);
    replay
}

fn written(folder: &Path, name: &str) -> Value {
    serde_json::from_slice(&read(&folder.join(name))).unwrap()
}

fn numbers(values: &Value) -> Vec<f64> {
    values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

#[test]
fn a_replay_reports_draws_and_writes_its_update() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = replay(folder.path());
    run.args(["--method", "betaedit", "--refresh-every", "20", "--history", "sum"]);
    run.args(["--report", "report.json", "--out", "delta.safetensors", "--plot", "curves.svg"]);
    let said = done(&mut run);
    for part in ["betaedit: 40 edits", "refresh after 20 edits", "leakage tr(D C D^T)", "delta.safetensors"] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    let report = written(folder.path(), "report.json");
    let fields = ["method", "edits", "precision"].map(|field| report[field].clone());
    assert_eq!(fields, [Value::from("betaedit"), 40.into(), "f64".into()]);
    for curve in ["leakage", "drift", "s", "write_error", "gain", "update_norm"] {
        assert_eq!(numbers(&report[curve]).len(), 40, "{curve}");
    }
    assert_eq!(report["refreshes"][0]["edits"], 20);
    assert_eq!(report["retention"].as_array().unwrap().len(), 10);
    assert!(read(&folder.path().join("curves.svg")).starts_with(b"<svg"));

    // The norm of the update on disk, from the bytes of its only tensor, is the reported drift.
    let bytes = read(&folder.path().join("delta.safetensors"));
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let squares = bytes[header..].chunks_exact(8).map(|x| f64::from_le_bytes(x.try_into().unwrap()).powi(2));
    let (norm, drift) = (squares.sum::<f64>().sqrt(), numbers(&report["drift"])[39]);
    assert!((norm - drift).abs() < 1e-9 * drift, "{norm} {drift}");
}

/// The same stream, whole and in a session, with the numbers in a file and on standard output.
#[test]
fn a_replay_in_a_session_is_the_same_replay() {
    let folder = tempfile::tempdir().unwrap();
    let run = |more: &[&str]| {
        let mut run = replay(folder.path());
        run.args(["--method", "alphaedit-h", "--batch", "4"]).args(more);
        json(&mut run)
    };
    let whole = run(&["--report", "whole.json"]);
    assert_eq!(whole, written(folder.path(), "whole.json"));
    let kept = run(&["--session", "session", "--out", "kept", "--report", "kept.json", "--plot", "kept.svg"]);
    assert_eq!(kept, written(folder.path(), "kept.json"));
    assert!(read(&folder.path().join("kept.svg")).starts_with(b"<svg"));
    let counts = ["applied", "rejected", "undone"].map(|field| kept[field].as_u64());
    assert_eq!(counts, [Some(40), Some(0), Some(0)]);
    let last = |report: &Value| *numbers(&report["drift"]).last().unwrap();
    assert!((last(&whole) - last(&kept)).abs() < 1e-9 * last(&whole), "{} {}", last(&whole), last(&kept));
    let undone = run(&["--session", "session", "--undo", "3", "--undo", "8", "--out", "undone"]);
    assert_eq!(undone["undone"], 2);
    assert_ne!(read(&folder.path().join("kept")), read(&folder.path().join("undone")));
}

#[test]
fn a_replay_refuses_what_it_cannot_do_before_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let memit = |more: &[&str]| {
        let mut run = replay(folder.path());
        run.args(["--method", "memit"]).args(more);
        run
    };
    refused(&mut memit(&["--report", "a", "--plot", "a"]), &["two outputs cannot have the same path"]);
    refused(&mut memit(&["--out", "nowhere/delta"]), &["nowhere/delta", "existing folder"]);
    refused(&mut memit(&["--batch", "0"]), &["--edits must be 1 to 200", "--batch at least 1"]);
    let (output, ..) = run(&mut memit(&["--undo", "1"]));
    assert_eq!(output.status.code(), Some(2), "--undo is for sessions");
}

#[test]
fn a_small_layer_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let scale = |more: &[&str]| {
        let mut scale = betaedit();
        scale.current_dir(folder.path()).args(["scale", "--d-in", "96", "--d-out", "24", "--edits", "40"]).args(more);
        scale
    };
    let fixed = json(&mut scale(&["--precision", "f64", "--dense-reference", "1", "--report", "scale.json"]));
    assert_eq!(fixed, written(folder.path(), "scale.json"));
    let fields = ["d_in", "edits", "precision"].map(|field| fixed[field].clone());
    assert_eq!(fields, [Value::from(96), 40.into(), "f64".into()]);
    assert!(fixed["relative_error_vs_f64"].as_f64().unwrap() < 1e-10, "{fixed:#}");
    assert!(fixed["dense_difference"].as_f64().unwrap() < 1e-8, "{fixed:#}");
    for time in ["edit_seconds_mean", "engine_seconds_mean", "product_seconds", "dense_edit_seconds", "build_seconds"] {
        assert!(fixed[time].as_f64().unwrap() > 0.0, "{time} in {fixed:#}");
    }

    let nested = json(&mut scale(&["--refresh", "nested", "--refresh-every", "16", "--refresh-weight", "0.001"]));
    let refreshes = nested["refreshes"].as_array().unwrap();
    assert_eq!(refreshes.iter().map(|refresh| refresh["edits"].as_u64()).collect::<Vec<_>>(), [Some(16), Some(32)]);
    assert!(nested["full_eigen_seconds"].as_f64().unwrap() > 0.0 && nested["relative_error_vs_f64"].is_null());
    let said = done(&mut scale(&[]));
    assert!(said.contains("40 edits of a 24 x 96 weight") && said.contains("10,000 edits"), "{said}");
    refused(&mut scale(&["--typical-s", "0"]), &["--typical-s must be"]);
    refused(&mut scale(&["--report", "nowhere/scale.json"]), &["nowhere/scale.json"]);
}

/// The command itself fails if anything that must be true is not.
#[test]
fn the_theorem_is_put_to_the_test() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("of/theorem1.svg");
    let mut theorem = betaedit();
    theorem.args(["theorem1", "--seed", "3", "--plot"]).arg(&plot);
    let said = done(&mut theorem);
    let counterexample = "without history 0.16529    with history 0.18139";
    for part in [counterexample, "5. WHAT IS TRUE WITHOUT CONDITIONS", "6. THE CURVES"] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    let svg = String::from_utf8(read(&plot)).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("MEMIT-H") && svg.contains("BetaEdit"));
    let found = json(&mut theorem);
    assert!(found["random_streams"]["assumption"]["more_drift"].as_u64().unwrap() > 0, "{found:#}");
    assert_eq!(found["random_streams"]["all_conditions"]["more_drift"], 0);
    assert_eq!(found["long_stream"].as_array().unwrap().len(), 7);
}

#[test]
fn the_descents_are_compared() {
    let setting = Setting::new("llama");
    let mut descent = setting.command("descent");
    descent.args(["--limit", "2", "--layer", "2", "--steps", "3", "--facts"]).arg(setting.path("facts.json"));
    let found = json(&mut descent);
    assert_eq!(found["facts"], 2);
    let descents = found["descents"].as_array().unwrap();
    assert_eq!(descents.len(), 5);
    for descent in descents {
        let evaluations = descent["evaluations"].as_f64().unwrap();
        assert!((1.0..=4.0).contains(&evaluations) && descent["length"].as_f64().unwrap() > 0.0, "{descent:#}");
    }
    refused(setting.command("descent").args(["--skip", "1000"]), &["no facts"]);
}

/// A study is run once: a second call reads the results of the first.
#[test]
fn a_study_of_the_paper_is_made_and_kept() {
    let setting = Setting::new("llama");
    let out = setting.path("studies");
    let study = || {
        let mut paper = setting.command("paper");
        paper.args(["--quick", "--edits", "2", "--every", "2", "--sample", "2", "--trials", "2", "--layers", "1,2"]);
        paper
            .args(["--contexts", "0", "--study", "drift", "--run", "memit", "memit-h", "--facts"])
            .arg(setting.path("facts.json"));
        json(paper.arg("--out").arg(&out))
    };
    let made = study();
    let runs = made["studies"]["drift"].as_object().unwrap();
    assert_eq!(runs.keys().collect::<Vec<_>>(), ["memit", "memit-h"]);
    for (label, run) in runs {
        let last = run["points"].as_array().unwrap().last().unwrap();
        assert_eq!(last["edits"], 2, "{label}");
        assert!(last["efficacy"].is_number() && last["perplexity"].is_number(), "{label}: {run:#}");
    }
    assert!(read(&out.join("drift.svg")).starts_with(b"<svg"));
    let results: Value = serde_json::from_slice(&read(&out.join("results.json"))).unwrap();
    assert_eq!(results["studies"], made["studies"]);
    assert_eq!(study(), made);
}
