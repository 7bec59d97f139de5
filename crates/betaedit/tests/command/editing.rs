//! Statistics, edits, evaluation and undo.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use betaedit_core::Orientation;
use betaedit_core::format::Checkpoint;
use serde_json::Value;

use crate::setting::{PROMPT, Setting, betaedit, done, json, read, refused, run};

const OUTPUTS: Orientation = Orientation::OutputsByInputs;

#[test]
fn the_whole_way_from_statistics_to_undo() {
    for family in ["llama", "gpt2"] {
        let setting = Setting::with_statistics(family);
        let (session, edited, report) = (setting.path("session"), setting.path("edited"), setting.path("report.json"));
        let mut edit = setting.edit();
        edit.arg("--session").arg(&session).arg("--out").arg(&edited).arg("--report").arg(&report);
        edit.arg("--lora").arg(setting.path("adapter")).args(["--eval-text", "shipped"]);
        let said = done(&mut edit);
        assert!(said.contains("4 facts are in the model, 0 were rejected"), "{said}");

        let numbers: Value = serde_json::from_slice(&read(&report)).unwrap();
        assert_eq!((numbers["edits"].as_u64(), numbers["rejected"].as_u64()), (Some(4), Some(0)));
        for side in ["before", "after"] {
            assert!(numbers[side]["efficacy"].is_number() && numbers[side]["perplexity"].is_number(), "{numbers:#}");
            // These facts have neither paraphrases nor neighbours.
            assert!(numbers[side]["generality"].is_null() && numbers[side]["specificity_prob"].is_null());
        }
        for part in ["targets", "keys", "linear_algebra", "total"] {
            assert!(numbers["seconds"][part].as_f64().unwrap() > 0.0);
        }
        let layers = numbers["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 2);
        let of_layer = |layer: &Value| layer["expected_loss"].as_f64().unwrap();
        let (sum, expected) = (layers.iter().map(of_layer).sum::<f64>(), numbers["expected_loss"].as_f64().unwrap());
        assert!(sum > 0.0 && (sum - expected).abs() < 1e-12 * sum, "{numbers:#}");
        for layer in layers {
            assert!(layer["leakage"].as_f64().unwrap() > 0.0 && layer["drift"].as_f64().unwrap() > 0.0);
            assert!(layer["kept_directions"].as_u64().unwrap() > 0);
        }
        let page = String::from_utf8(read(&setting.path("report.html"))).unwrap();
        assert!(page.contains("<svg") && page.contains("Eiffel Tower") && page.ends_with("</html>\n"));

        // The edited files and the session are the same model, and not the unedited one.
        let prompt = ["--tokens", "12", PROMPT];
        let by_files = json(setting.command("ask").arg("--edited").arg(&edited).args(prompt));
        let by_session = json(betaedit().arg("ask").arg("--session").arg(&session).args(prompt));
        assert_eq!(by_files["before"], by_session["before"]);
        assert_eq!(by_files["after"], by_session["after"]);
        let measured = json(
            betaedit().arg("eval").arg("--model").arg(&edited).arg("--unedited").arg(setting.model.path()).args([
                "--facts",
                setting.path("facts.json").to_str().unwrap(),
                "--eval-text",
                "shipped",
            ]),
        );
        assert_eq!(measured["perplexity"], numbers["after"]["perplexity"]);
        assert_eq!(measured["unedited"]["perplexity"], numbers["before"]["perplexity"]);
        assert_ne!(measured["perplexity"], measured["unedited"]["perplexity"]);

        // All other tensors are unchanged.
        let config = |folder: &Path| read(&folder.join("config.json"));
        assert_eq!(config(&edited), config(setting.model.path()));
        let adapter: Value = serde_json::from_slice(&read(&setting.path("adapter/adapter_config.json"))).unwrap();
        assert_eq!(adapter["r"], 4, "one rank an edit");

        let undone = json(betaedit().arg("undo").arg("--session").arg(&session).args(["--subject", "marie curie"]));
        assert_eq!((undone["undone"].clone(), undone["edits"].as_u64()), (serde_json::json!([1]), Some(3)));
        refused(betaedit().arg("undo").arg("--session").arg(&session).arg("1"), &["edit 1 is not in the model"]);
        let out = setting.path("restored");
        done(betaedit().arg("undo").arg("--session").arg(&session).args(["0", "2", "3"]).arg("--out").arg(&out));
        let restored = json(setting.command("ask").arg("--edited").arg(&out).args(prompt));
        assert_eq!(restored["after"], restored["before"]);

        let looked = json(betaedit().current_dir(setting.folder.path()).arg("inspect").arg("--session").arg(&session));
        let states: Vec<&Value> =
            looked["session"]["edits"].as_array().unwrap().iter().map(|edit| &edit["state"]).collect();
        assert_eq!(states, vec!["not in the model"; 4]);
        assert!(read(&setting.path("session.svg")).starts_with(b"<svg"));
    }
}

#[test]
fn statistics_go_on_where_they_were_and_are_looked_at() {
    let setting = Setting::new("llama");
    let stats = |name: &str, tokens: &str| {
        json(setting.command("stats").args(["--layers", "1", "--tokens", tokens, "--out"]).arg(setting.path(name)))
    };
    assert!(stats("parts", "300")["tokens"].as_u64().unwrap() >= 300);
    let (parts, whole) = (stats("parts", "900"), stats("whole", "900"));
    assert_eq!(parts["tokens"], whole["tokens"]);
    let (a, b) = (parts["layers"][0]["trace"].as_f64().unwrap(), whole["layers"][0]["trace"].as_f64().unwrap());
    assert!((a - b).abs() < 1e-12 * b, "{a} {b}");
    // If there are enough tokens already, nothing is read.
    assert_eq!(stats("parts", "900")["tokens"], parts["tokens"]);

    // Three jobs share the text, one of them interrupted and started again.
    for part in ["1/3", "2/3", "3/3", "2/3"] {
        let mut share = setting.command("stats");
        share.args(["--layers", "1", "--tokens", "900", "--part", part, "--out"]);
        done(share.arg(setting.path(&format!("of-three-{}", &part[..1]))));
    }
    let merge = |parts: &[&str]| {
        let mut merge = betaedit();
        merge.args(["stats", "--merge"]).args(parts.iter().map(|part| setting.path(&format!("of-three-{part}"))));
        merge.arg("--out").arg(setting.path("of-three"));
        merge
    };
    let merged = json(&mut merge(&["3", "1", "2"]));
    assert_eq!(merged["tokens"], whole["tokens"]);
    let a = merged["layers"][0]["trace"].as_f64().unwrap();
    assert!((a - b).abs() < 1e-12 * b, "{a} {b}");
    assert!(setting.path("of-three/layer-01.gradients.safetensors").exists());
    refused(&mut merge(&["1", "3"]), &["layer 1", "missing"]);
    refused(&mut merge(&["1", "2"]), &["missing"]);
    let (output, _, err) = run(setting.command("stats").args(["--part", "4/3", "--out", "x"]));
    assert!(output.status.code() == Some(2) && err.contains("4/3") && err.contains("1/8"), "{err}");

    let mut inspect = betaedit();
    inspect.current_dir(setting.folder.path()).args(["inspect", "--stats", "parts", "--threshold", "1000"]);
    let looked = json(&mut inspect);
    assert_eq!(looked["statistics"]["layers"][0]["directions"], 160);
    assert!(read(&setting.path("spectrum.svg")).starts_with(b"<svg"));
}

/// Whether the statistics have gradients is settled when a session begins.
#[test]
fn a_session_keeps_to_the_gradients_that_it_began_with() {
    let setting = Setting::with_statistics("llama");
    let gradients = [1, 2].map(|layer| setting.path(&format!("stats/layer-0{layer}.gradients.safetensors")));
    let moments = gradients.each_ref().map(|path| read(path));
    let edit = |session: &str, limit: &str| {
        let mut edit = setting.edit();
        edit.arg("--session").arg(setting.path(session)).args(["--limit", limit, "--generate", "none"]);
        edit
    };
    let with = json(&mut edit("with", "2"));
    assert!(with["expected_loss"].as_f64().unwrap() > 0.0);
    let (_, limited, _) = run(edit("limited", "2").args(["--max-loss", "1e-12"]));
    assert!(limited.contains("0 facts are in the model, 2 were rejected"), "{limited}");

    gradients.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let (_, out, err) = run(&mut edit("without", "1"));
    assert!(err.contains("no gradients") && out.contains("1 facts are in the model"), "{out}\n{err}");
    refused(&mut edit("with", "3"), &["layer-01.gradients.safetensors"]);
    refused(edit("refused", "1").args(["--max-loss", "1"]), &["no gradients of layer 1"]);
    let (_, _, err) = run(edit("plain", "1").args(["--sensitivity", "0"]));
    assert!(!err.contains("gradients"), "{err}");

    // Collected again, they are the same, and not read again when they are there.
    let mut stats = setting.command("stats");
    stats.args(["--layers", "1-2", "--tokens", "600", "--out"]).arg(setting.path("stats"));
    done(&mut stats);
    assert_eq!(gradients.each_ref().map(|path| read(path)), moments);
    let times = || gradients.each_ref().map(|path| std::fs::metadata(path).unwrap().modified().unwrap());
    let before = times();
    done(&mut stats);
    assert_eq!(times(), before);
    assert!(json(&mut edit("without", "2"))["expected_loss"].is_null());
    assert!(json(&mut edit("with", "3"))["expected_loss"].as_f64().unwrap() > with["expected_loss"].as_f64().unwrap());

    let mut none = setting.command("stats");
    none.args(["--layers", "1", "--tokens", "300", "--gradients", "0", "--out"]).arg(setting.path("none"));
    done(&mut none);
    assert!(!setting.path("none/layer-01.gradients.safetensors").exists());
}

/// Methods on the whole space start from the moments alone; a session that began with spectra keeps to them.
#[test]
fn methods_on_the_whole_space_need_no_spectra() {
    let setting = Setting::new("llama");
    let mut stats = setting.command("stats");
    stats.args(["--layers", "1-2", "--tokens", "600", "--no-spectra", "--out"]).arg(setting.path("stats"));
    let said = json(&mut stats);
    assert!(said["layers"][0]["trace"].as_f64().unwrap() > 0.0 && said["layers"][0]["largest"].is_null(), "{said}");
    let spectrum = setting.path("stats/layer-02.spectrum.safetensors");
    let edit = |session: &str| {
        let mut edit = setting.command("edit");
        edit.args(["--layers", "1-2", "--steps", "4", "--contexts", "1", "--context-length", "3", "--method", "memit"]);
        edit.args(["--limit", "2", "--eval-limit", "0", "--generate", "none", "--facts"])
            .arg(setting.path("facts.json"));
        edit.arg("--stats").arg(setting.path("stats")).arg("--session").arg(setting.path(session));
        done(edit.arg("--out").arg(setting.path(&format!("{session}-out"))));
        let path = setting.path(&format!("{session}-out/model.safetensors"));
        Checkpoint::open(path).unwrap().weight::<f64>("model.layers.2.mlp.down_proj.weight", OUTPUTS).unwrap()
    };
    let from_moments = edit("moments");
    assert!(!spectrum.exists());
    let description = std::fs::read_to_string(setting.path("moments/run.toml")).unwrap();
    assert!(description.contains("start = \"moment\"\n"), "{description}");
    // As an earlier version began it.
    std::fs::create_dir(setting.path("spectra")).unwrap();
    std::fs::write(setting.path("spectra/run.toml"), description.replace("start = \"moment\"\n", "")).unwrap();
    let from_spectra = edit("spectra");
    assert!(spectrum.exists());
    let unedited = Checkpoint::open(setting.model.path()).unwrap();
    let unedited = unedited.weight::<f64>("model.layers.2.mlp.down_proj.weight", OUTPUTS).unwrap();
    let change = (&from_spectra - &unedited).norm_l2();
    assert!(change > 0.0 && (&from_moments - &from_spectra).norm_l2() < 1e-3 * change);
    done(betaedit().args(["undo", "--session"]).arg(setting.path("moments")).arg("0"));
}

#[test]
fn a_killed_edit_goes_on_where_it_was() {
    let setting = Setting::with_statistics("llama");
    let (whole, resumed, session) = (setting.path("whole"), setting.path("resumed"), setting.path("session"));
    let clock = Instant::now();
    done(setting.edit().arg("--out").arg(&whole));
    let usual = clock.elapsed();
    let mut killed = 0;
    for attempt in 1..=40 {
        let mut edit = setting.edit();
        edit.arg("--session").arg(&session).arg("--out").arg(&resumed);
        let mut child = edit.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(usual.mul_f64(0.05 * f64::from(attempt)).max(Duration::from_millis(20)));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
    }
    assert!(killed > 2, "{killed}");
    let model = |folder: &Path| read(&folder.join("model.safetensors"));
    assert!(model(&whole) == model(&resumed), "bit for bit");

    // A session can be continued in parts, but not with other facts or settings.
    let (parts, joined) = (setting.path("parts"), setting.path("joined"));
    done(setting.edit().arg("--session").arg(&parts).args(["--limit", "2"]));
    done(setting.edit().arg("--session").arg(&parts).arg("--out").arg(&joined));
    assert!(model(&whole) == model(&joined));
    let mut others = setting.edit();
    refused(
        others.arg("--session").arg(&parts).args(["--skip", "1"]),
        &["edit 0", "Eiffel Tower", "Marie Curie", "--append"],
    );
    let mut other = setting.edit();
    refused(other.arg("--session").arg(&parts).args(["--seed", "7"]), &["other settings", "seed is 0 there, 7 here"]);
    let more = json(setting.edit().arg("--session").arg(&parts).args(["--append", "--skip", "3"]));
    assert_eq!(more["processed"], 5);
}

/// Every method and restraint, chosen by flags, on one model.
#[test]
fn every_method_is_a_flag() {
    let setting = Setting::with_statistics("llama");
    let restraints: [&[&str]; 5] =
        [&[], &["--rect", "0.4"], &["--prune"], &["--simie", "100"], &["--token", "prompt-last"]];
    let methods = betaedit_core::editor::METHODS.iter().map(|entry| entry.name());
    for (method, more) in methods.map(|method| (method, restraints[0])).chain(restraints.map(|more| ("betaedit", more)))
    {
        let mut edit = setting.command("edit");
        edit.args(["--layers", "1-2", "--lambda", "0.1", "--lambda1", "0.1", "--lambda2", "0.1", "--threshold", "1"]);
        edit.args([
            "--steps",
            "2",
            "--contexts",
            "0",
            "--batch",
            "2",
            "--show",
            "0",
            "--eval-limit",
            "0",
            "--method",
            method,
        ]);
        edit.args(more).arg("--facts").arg(setting.path("facts.json")).arg("--stats").arg(setting.path("stats"));
        let report = json(&mut edit);
        assert_eq!(report["edits"], 4, "{method} {more:?}: {report:#}");
        assert!(report["layers"][0]["drift"].as_f64().unwrap() > 0.0, "{method} {more:?}: {report:#}");
    }
}

/// PMET has its own targets by default, and a session accepts no others.
#[test]
fn the_method_says_what_targets_are_of() {
    let setting = Setting::with_statistics("qwen2");
    let config = setting.path("pmet.toml");
    std::fs::write(&config, "method = \"pmet-h\"\nlambda = 0.01\n").unwrap();
    let edit = |more: &[&str]| {
        let mut edit = setting.edit();
        edit.arg("--config").arg(&config).args(more);
        edit
    };
    let session = setting.path("session");
    let pmet = json(edit(&[]).arg("--session").arg(&session));
    assert_eq!((&pmet["settings"]["target"], &pmet["edits"]), (&"pmet".into(), &4.into()));
    refused(
        edit(&["--target", "block"]).arg("--session").arg(&session),
        &["other settings", "target is \"pmet\" there, \"block\" here"],
    );
    let mlp = json(&mut edit(&["--target", "mlp"]));
    assert_eq!(mlp["settings"]["target"], "mlp");
    let drift = |report: &Value| report["layers"][0]["drift"].as_f64().unwrap();
    assert!(drift(&pmet) > 0.0 && drift(&mlp) > 0.0 && drift(&pmet) != drift(&mlp), "{pmet:#}\n{mlp:#}");
}

/// If every edit is rejected, the model is unchanged, and the exit code says so.
#[test]
fn a_guard_that_nothing_passes() {
    let setting = Setting::with_statistics("llama");
    let (output, out, err) = run(setting.edit().args(["--max-update", "1e-9"]));
    assert_eq!(output.status.code(), Some(3), "{err}");
    assert!(out.contains("0 facts are in the model, 4 were rejected"), "{out}");
    assert!(err.contains("the norm of the update"), "{err}");
}
