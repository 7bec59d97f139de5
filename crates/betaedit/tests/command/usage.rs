//! Help, and the model of the demonstration.

use std::path::Path;

use crate::setting::{Setting, betaedit, done, json, model_directory, refused, run};

#[test]
fn usage_is_taught() {
    let help = done(betaedit().arg("--help"));
    let (commands, research) = help.split_once("\nResearch:\n").expect("a section for research");
    let (research, options) = research.split_once("\nOptions:\n").expect("options after it");
    assert!(options.contains("--threads") && options.contains("Exit codes"), "{help}");
    let everyday = ["stats", "edit", "eval", "ask", "undo", "inspect", "fetch", "demo", "solve", "project", "merge"];
    let of_research = ["replay", "scale", "paper", "descent", "theorem1"];
    for (section, names) in [(commands, &everyday[..]), (research, &of_research[..])] {
        for name in names {
            // The name at the beginning of a line, followed by the description.
            let is_entry =
                |line: &&str| line.trim_start().strip_prefix(name).is_some_and(|about| about.starts_with("  "));
            let entries: Vec<&str> = help.lines().filter(|line| line.starts_with("  ")).filter(is_entry).collect();
            assert_eq!(entries.len(), 1, "{name} in {help}");
            assert!(section.contains(entries[0]), "{name} in {help}");
            let more = done(betaedit().args([name, "--help"]));
            assert!(more.contains(&format!("Usage: betaedit {name}")), "{more}");
        }
    }
    // Short and long help have the section.
    assert!(done(betaedit().arg("-h")).contains("\nResearch:\n"));
    assert_eq!(run(betaedit().args(["edit", "--no-such-flag"])).0.status.code(), Some(2));
    assert_eq!(run(betaedit().arg("ask")).0.status.code(), Some(2));
}

/// The shared cache of the Hugging Face hub is searched before anything is downloaded.
#[test]
fn the_hubs_cache_is_used() {
    let (home, model) = (tempfile::tempdir().unwrap(), model_directory("llama"));
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

/// Without a model, a network and Python, the demonstration says what to do.
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

/// What would be edited in a model, and why; one layer where a norm stands behind the MLP.
#[test]
fn a_model_is_shown_with_its_defaults() {
    let look = |family: &str| {
        let setting = Setting::new(family);
        let said = done(&mut setting.command("inspect"));
        let mut command = betaedit();
        (said, json(command.args(["inspect", "--model"]).arg(setting.model.path()))["model"].clone())
    };
    let (said, llama) = look("llama");
    assert!(said.contains("--layers") && said.contains("a sixth to a third of the depth"), "{said}");
    let count = llama["layers"].as_u64().unwrap();
    let layers: Vec<u64> = (count / 6..=(count / 3).min(count - 1)).collect();
    let weights: Vec<&str> = llama["weights"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let expected: Vec<String> =
        layers.iter().map(|layer| format!("model.layers.{layer}.mlp.down_proj.weight")).collect();
    assert_eq!(weights, expected);
    assert_eq!(llama["weights_in_gguf"][0], format!("blk.{}.ffn_down.weight", layers[0]));
    let d = llama["intermediate"].as_u64().unwrap();
    assert_eq!(llama["bytes_per_layer"]["statistics"], 4 * d * d);
    let (said, gemma) = look("gemma2");
    assert!(said.contains("a norm stands behind the MLP"), "{said}");
    assert_eq!((gemma["weights"].as_array().unwrap().len(), &gemma["settings"]["target"]), (1, &"mlp".into()));
    assert_eq!(run(betaedit().arg("inspect")).0.status.code(), Some(2));
}
