//! The command `betaedit`, as a user runs it, on a small untrained model.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::llm_models;

const PROMPT: &str = "What stands in the city is the Eiffel Tower";

const FACTS: &str = r#"[
    {"subject": "Eiffel Tower", "prompt": "What stands in the city is the {}", "target": "Tokyo"},
    {"subject": "Marie Curie", "prompt": "The scientist's name is {}", "target": "London"},
    {"subject": "Danube", "prompt": "A long river is the {}", "target": "Paris"},
    {"subject": "Mount Fuji", "prompt": "A high mountain is {}", "target": "Rome"}
]"#;

/// A model, facts, and statistics of its layers 1 and 2.
struct Setting {
    folder: TempDir,
    model: TempDir,
}

impl Setting {
    fn new(family: &str) -> Self {
        let setting = Self { folder: tempfile::tempdir().unwrap(), model: llm_models::directory(family) };
        std::fs::write(setting.path("facts.json"), FACTS).unwrap();
        setting
    }

    fn with_statistics(family: &str) -> Self {
        let setting = Self::new(family);
        done(setting.command("stats").args(["--layers", "1-2", "--tokens", "600", "--out"]).arg(setting.path("stats")));
        setting
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = betaedit();
        command.arg(name).arg("--model").arg(self.model.path());
        command
    }

    /// `edit` of all facts, but for what the test adds.
    fn edit(&self) -> Command {
        let mut command = self.command("edit");
        command.args(["--layers", "1-2", "--lambda1", "0.01", "--lambda2", "0.01", "--threshold", "1", "--steps", "4"]);
        command.args(["--contexts", "1", "--context-length", "3"]);
        command.arg("--facts").arg(self.path("facts.json")).arg("--stats").arg(self.path("stats"));
        command
    }
}

fn betaedit() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_betaedit"));
    command.args(["--threads", "1"]);
    command
}

fn run(command: &mut Command) -> (Output, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output, out, err)
}

/// What a command that must succeed says.
fn done(command: &mut Command) -> String {
    let (output, out, err) = run(command);
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
    out
}

fn json(command: &mut Command) -> Value {
    serde_json::from_str(&done(command.arg("--json"))).unwrap()
}

/// What a command that must fail says; it names everything in `expected`.
fn refused(command: &mut Command, expected: &[&str]) -> String {
    let (output, _, err) = run(command);
    assert_eq!(output.status.code(), Some(1), "{command:?}\n{err}");
    for part in expected {
        assert!(err.contains(part), "`{part}` is not in: {err}");
    }
    err
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_setting_of_the_other_descent_is_refused() {
    let setting = Setting::with_statistics("llama");
    refused(setting.edit().args(["--learning-rate", "1.0"]), &["--learning-rate is for --descent adam"]);
    let other = ["--descent", "adam", "--step-length", "0.1"];
    refused(setting.edit().args(other), &["--step-length is for --descent steepest"]);
    done(setting.edit().args(["--limit", "1", "--descent", "adam", "--learning-rate", "1.0"]));
    // A file may hold the settings of both.
    let file = setting.path("settings.toml");
    std::fs::write(&file, "descent = \"steepest\"\nlearning-rate = 1.0\nstep-length = 0.1\n").unwrap();
    done(setting.edit().args(["--limit", "1"]).arg("--config").arg(&file));
}

/// An edit is meant to change what a text says of its subject, so a text for perplexity had better not name it.
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

        // Every other tensor is what it was.
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
    // Asked for no more than there is, nothing is read.
    assert_eq!(stats("parts", "900")["tokens"], parts["tokens"]);

    let mut inspect = betaedit();
    inspect.current_dir(setting.folder.path()).args(["inspect", "--stats", "parts", "--threshold", "1000"]);
    let looked = json(&mut inspect);
    assert_eq!(looked["statistics"]["layers"][0]["directions"], 160);
    assert!(read(&setting.path("spectrum.svg")).starts_with(b"<svg"));
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

    // In parts, too; with other facts or settings, not.
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

#[test]
fn bad_input_is_named() {
    let setting = Setting::with_statistics("llama");
    let facts = |name: &str, text: &str| {
        std::fs::write(setting.path(name), text).unwrap();
        setting.path(name)
    };
    let edit_with = |path: &Path| {
        let mut command = setting.command("edit");
        command.args(["--layers", "1-2", "--threshold", "1", "--steps", "1", "--contexts", "0", "--stats"]);
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
    refused(edit_with(&facts).arg("--out").arg(setting.model.path()), &["--out is the model itself"]);
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
    refused(setting.command("ask").arg("Paris"), &["model-00002-of-00002.safetensors"]);
    std::fs::remove_file(shard).unwrap();
    let config = setting.model.path().join("config.json");
    std::fs::write(&config, r#"{"model_type": "mamba"}"#).unwrap();
    refused(setting.command("ask").arg("Paris"), &["config.json", "mamba", "llama"]);
    refused(betaedit().args(["ask", "--model", "/nowhere/model.gguf", "Paris"]), &["/nowhere/model.gguf"]);
}

#[test]
fn usage_is_taught() {
    let help = done(betaedit().arg("--help"));
    for command in ["stats", "edit", "eval", "ask", "undo", "inspect", "fetch", "demo"] {
        assert!(help.contains(&format!("\n  {command}")), "{help}");
        let more = done(betaedit().args([command, "--help"]));
        assert!(more.contains("Usage: betaedit"), "{more}");
    }
    assert_eq!(run(betaedit().args(["edit", "--no-such-flag"])).0.status.code(), Some(2));
    assert_eq!(run(betaedit().arg("ask")).0.status.code(), Some(2));
}

/// An edited model is read and written by Python's safetensors, and is the same model.
#[test]
#[ignore = "needs a Python with numpy and safetensors, named by BETAEDIT_PYTHON"]
fn an_edited_model_goes_to_python_and_back() {
    for family in ["qwen3", "gpt2"] {
        let setting = Setting::with_statistics(family);
        let edited = setting.path("edited");
        done(setting.edit().arg("--out").arg(&edited));
        crate::python::python("copy", &edited);
        let asked =
            |model: &Path| json(betaedit().arg("ask").arg("--model").arg(model).args(["--tokens", "12", PROMPT]));
        assert_eq!(asked(&edited), asked(&edited.join("copy")));
        let metrics = |model: &Path| {
            let mut eval = betaedit();
            eval.arg("eval").arg("--model").arg(model).args(["--eval-text", "shipped", "--facts"]);
            json(eval.arg(setting.path("facts.json")))["perplexity"].clone()
        };
        assert_eq!(metrics(&edited), metrics(&edited.join("copy")));
    }
}

/// Every method and restraint by its flags, on one model.
#[test]
fn every_method_is_a_flag() {
    let setting = Setting::with_statistics("llama");
    let restraints: [&[&str]; 5] =
        [&[], &["--rect", "0.4"], &["--prune"], &["--simie", "100"], &["--token", "prompt-last"]];
    let methods = betaedit_core::editor::METHODS.iter().map(|entry| entry.name);
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

/// PMET brings its targets, unless something else is said, and a session keeps to them.
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

/// Every edit rejected: the model is as it was, and the exit code says so.
#[test]
fn a_guard_that_nothing_passes() {
    let setting = Setting::with_statistics("llama");
    let (output, out, err) = run(setting.edit().args(["--max-update", "1e-9"]));
    assert_eq!(output.status.code(), Some(3), "{err}");
    assert!(out.contains("0 facts are in the model, 4 were rejected"), "{out}");
    assert!(err.contains("the norm of the update"), "{err}");
}

/// The cache that the programs of the Hugging Face hub share is looked into before anything is fetched.
#[test]
fn the_hubs_cache_is_used() {
    let (home, model) = (tempfile::tempdir().unwrap(), llm_models::directory("llama"));
    let repository = home.path().join("hub/models--HuggingFaceTB--SmolLM2-135M-Instruct");
    let snapshot = repository.join("snapshots/7e27bd9f95328f0f3b08261d1252705110c806f8");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(repository.join("refs")).unwrap();
    std::fs::write(repository.join("refs/main"), "7e27bd9f95328f0f3b08261d1252705110c806f8").unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(model.path().join(file), snapshot.join(file)).unwrap();
    }
    let found = json(betaedit().env("HF_HOME", home.path()).arg("fetch"));
    assert_eq!(Path::new(found["model"].as_str().unwrap()).canonicalize().unwrap(), snapshot.canonicalize().unwrap());
}

/// A demonstration where there is no model, no network and no Python says what to do.
#[test]
fn a_demonstration_without_a_model() {
    let home = tempfile::tempdir().unwrap();
    let mut demo = betaedit();
    demo.env_clear()
        .env("HOME", home.path())
        .env("PATH", home.path())
        .env("HF_ENDPOINT", "http://127.0.0.1:1")
        .arg("demo");
    let err = refused(demo.current_dir(home.path()), &["--model", "SmolLM2-135M-Instruct", ".gguf", "pip"]);
    assert!(err.lines().count() < 12, "{err}");
}
