//! Targets that are sought together: in a batch, and ahead.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::setting::{Setting, done, json, read, refused};

/// The command that writes the facts of a setting into a session and a model.
fn edit(setting: &Setting, name: &str, more: &[&str]) -> Command {
    let mut edit = setting.edit();
    edit.args(more).args(["--enough", "0", "--show", "0", "--eval-limit", "0"]);
    edit.arg("--session").arg(setting.path(name)).arg("--out").arg(setting.path(&format!("{name}-out")));
    edit
}

fn weights(setting: &Setting, name: &str) -> Vec<u8> {
    read(&setting.path(&format!("{name}-out")).join("model.safetensors"))
}

/// A run that is killed while targets are sought, or between facts whose targets are known, goes on to the same bits.
#[test]
fn a_killed_run_goes_on_with_the_targets_it_had() {
    let setting = Setting::with_statistics("llama");
    for (kind, flag) in ["--batch", "--lookahead"].into_iter().enumerate() {
        let more = [flag, "3"];
        done(&mut edit(&setting, &format!("whole-{kind}"), &more));
        let mut within = 0;
        for attempt in 0..40 {
            let name = format!("killed-{kind}-{attempt}");
            let found = setting.path(&name).join("targets.jsonl");
            let mut child = edit(&setting, &name, &more).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            // Until some targets are found, and then a little longer each time.
            while child.try_wait().unwrap().is_none() {
                if std::fs::read_to_string(&found).is_ok_and(|text| text.lines().count() > 1) {
                    std::thread::sleep(Duration::from_millis(attempt));
                    child.kill().unwrap();
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            child.wait().unwrap();
            within += usize::from(found.exists());
            done(&mut edit(&setting, &name, &more));
            assert!(!found.exists());
            assert!(weights(&setting, &name) == weights(&setting, &format!("whole-{kind}")), "{flag}, {attempt}");
            if within >= 3 {
                break;
            }
        }
        assert!(within > 0, "no run was killed while it knew targets");
    }
}

/// The targets of the next facts are those of the model before; the first fact of a window is written as without.
#[test]
fn looking_ahead_changes_the_facts_behind_the_first() {
    let setting = Setting::with_statistics("qwen2");
    let drift = |report: &Value| report["layers"][0]["drift"].as_f64().unwrap();
    let report = |name: &str, more: &[&str]| json(&mut edit(&setting, name, more));
    let one_by_one = report("one", &[]);
    assert_eq!(one_by_one["settings"]["lookahead"], 1);
    let ahead = report("ahead", &["--lookahead", "4"]);
    assert_eq!((&ahead["edits"], &ahead["settings"]["lookahead"]), (&4.into(), &4.into()));
    assert_ne!(drift(&ahead), drift(&one_by_one));
    assert!((drift(&ahead) / drift(&one_by_one) - 1.0).abs() < 0.5, "{ahead:#}\n{one_by_one:#}");
    refused(&mut edit(&setting, "none", &["--lookahead", "0"]), &["--lookahead must be at least 1"]);
    refused(&mut edit(&setting, "ahead", &["--lookahead", "2"]), &["lookahead is 4 there, 2 here"]);
}
