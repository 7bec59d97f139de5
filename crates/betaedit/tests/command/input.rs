//! Input that gives an error or a note.

use std::path::Path;

use serde_json::Value;

use crate::setting::{Setting, betaedit, done, json, read, refused, run};

#[test]
fn a_setting_of_the_other_descent_is_refused() {
    let setting = Setting::with_statistics("llama");
    refused(setting.edit().args(["--learning-rate", "1.0"]), &["--learning-rate is for --descent adam"]);
    let other = ["--descent", "adam", "--step-length", "0.1"];
    refused(setting.edit().args(other), &["--step-length is for --descent steepest"]);
    done(setting.edit().args(["--limit", "1", "--descent", "adam", "--learning-rate", "1.0"]));
    // A file may hold the settings of both descents.
    let file = setting.path("settings.toml");
    std::fs::write(&file, "descent = \"steepest\"\nlearning-rate = 1.0\nstep-length = 0.1\n").unwrap();
    done(setting.edit().args(["--limit", "1"]).arg("--config").arg(&file));
}

/// An edit is meant to change what a text says about its subject, so a text for perplexity should not name it.
#[test]
fn a_text_for_perplexity_that_names_subjects_is_pointed_out() {
    let setting = Setting::with_statistics("llama");
    let edit = |text: &str| {
        let (path, report) = (setting.path("text.txt"), setting.path("report.json"));
        std::fs::write(&path, text).unwrap();
        let mut edit = setting.edit();
        let (output, _, err) =
            run(edit.args(["--limit", "3"]).arg("--eval-text").arg(path).arg("--report").arg(&report));
        assert!(output.status.success(), "{err}");
        (err, serde_json::from_slice::<Value>(&read(&report)).unwrap()["named_subjects"].clone())
    };
    let (said, names) = edit("Down the Danube, past Marie Curies and the Eiffel Tower. Mount Fuji is not edited.");
    assert!(said.contains("names 2 of the subjects (Eiffel Tower, Danube)"), "{said}");
    assert_eq!(names, serde_json::json!(["Eiffel Tower", "Danube"]));
    let (said, names) = edit("A long river, and a tower in the city.");
    assert!(!said.contains("of the subjects"), "{said}");
    assert_eq!(names, serde_json::json!([]));
}

#[test]
fn bad_input_is_named() {
    let setting = Setting::with_statistics("llama");
    let facts = |name: &str, text: &str| {
        std::fs::write(setting.path(name), text).unwrap();
        setting.path(name)
    };
    let edit_with = |path: &Path| {
        let mut command = setting.command("edit");
        command.args(["--layers", "1-2", "--threshold", "1", "--steps", "2", "--contexts", "0", "--stats"]);
        command.arg(setting.path("stats")).arg("--facts").arg(path);
        command
    };
    let good = r#"{"subject": "Danube", "prompt": "A long river is the {}", "target": "Paris"}"#;
    let empty =
        facts("empty.json", &format!(r#"[{good}, {{"subject": "Rhine", "prompt": "The {{}}", "target": ""}}]"#));
    refused(&mut edit_with(&empty), &["empty.json", "record 2", "target"]);
    let skipped = json(edit_with(&empty).arg("--skip-bad"));
    assert_eq!(skipped["edits"], 1);
    let elsewhere = r#"[{"subject": "Rhine", "prompt": "A river is long", "target": "Paris"}]"#;
    refused(&mut edit_with(&facts("elsewhere.json", elsewhere)), &["elsewhere.json", "record 1"]);
    let long =
        format!(r#"[{good}, {{"subject": "Rhine", "prompt": "{} {{}}", "target": "Paris"}}]"#, "long ".repeat(200));
    let long = facts("long.json", &long);
    refused(&mut edit_with(&long), &["fact 1", "--skip-bad"]);
    assert_eq!(json(edit_with(&long).arg("--skip-bad"))["edits"], 1);
    refused(&mut edit_with(&setting.path("none.json")), &["none.json"]);

    let facts = setting.path("facts.json");
    let mut other = setting.command("edit");
    other.args(["--layers", "0-1", "--stats"]).arg(setting.path("stats")).arg("--facts").arg(&facts);
    refused(&mut other, &["no statistics of layer 0", "betaedit stats"]);
    let foreign = Setting::with_statistics("mistral");
    let mut wrong = setting.command("edit");
    wrong.args(["--layers", "1-2", "--stats"]).arg(foreign.path("stats")).arg("--facts").arg(&facts);
    refused(&mut wrong, &["another model", "betaedit stats"]);
    refused(edit_with(&facts).arg("--out").arg(setting.model.path()), &["is the input"]);
    refused(edit_with(&facts).args(["--report", "/nowhere/at/all/report.json"]), &["/nowhere/at/all"]);

    let config = setting.path("settings.toml");
    std::fs::write(&config, "lambda1 = 7.0\nlamda2 = 1.0\n").unwrap();
    refused(edit_with(&facts).arg("--config").arg(&config), &["settings.toml", "lamda2"]);
    std::fs::write(&config, "lambda1 = 7.0\nlambda2 = 1.0\nmethod = \"alphaedit-h\"\n").unwrap();
    let settings = json(edit_with(&facts).arg("--config").arg(&config).args(["--lambda2", "3"]))["settings"].clone();
    assert_eq!(
        (&settings["lambda1"], &settings["lambda2"], &settings["method"]),
        (&7.0.into(), &3.0.into(), &"alphaedit-h".into())
    );
    assert_eq!(settings["target"], "block");

    let shard = setting.model.path().join("model.safetensors.index.json");
    std::fs::write(&shard, r#"{"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}"#).unwrap();
    refused(setting.command("ask").arg("Paris"), &["two sets of weights", "model.safetensors.index.json"]);
    std::fs::remove_file(setting.model.path().join("model.safetensors")).unwrap();
    refused(setting.command("ask").arg("Paris"), &["model-00002-of-00002.safetensors"]);
    std::fs::remove_file(shard).unwrap();
    let config = setting.model.path().join("config.json");
    std::fs::write(&config, r#"{"model_type": "mamba"}"#).unwrap();
    refused(setting.command("ask").arg("Paris"), &["config.json", "mamba", "llama"]);
    refused(betaedit().args(["ask", "--model", "/nowhere/model.gguf", "Paris"]), &["/nowhere/model.gguf"]);
}
