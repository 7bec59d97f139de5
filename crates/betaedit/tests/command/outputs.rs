//! What is written, and what stays: links, places that hold something, caches, and edits that write nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use betaedit_core::format::{Precision, Statistics};
use serde_json::Value;

use crate::setting::{PROMPT, Setting, betaedit, done, json, model_directory, read, refused, run};

/// The files of a folder with their contents.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).map(|path| (path.clone(), read(&path))).collect()
}

#[derive(Clone, Copy)]
enum Link {
    Hard,
    Symbolic,
}

fn link_all(from: &Path, to: &Path, link: Link) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let new = to.join(path.file_name().unwrap());
        match (path.is_dir(), link) {
            (true, _) => link_all(&path, &new, link),
            (false, Link::Hard) => std::fs::hard_link(&path, &new).unwrap(),
            (false, Link::Symbolic) => std::os::unix::fs::symlink(&path, &new).unwrap(),
        }
    }
}

/// A place made of links to the model is refused before anything is written, and the model stays.
#[test]
fn a_model_is_not_written_through_links() {
    let setting = Setting::with_statistics("llama");
    let model = files(setting.model.path());
    for link in [Link::Hard, Link::Symbolic] {
        for flag in ["--out", "--lora"] {
            let place = setting.path("linked");
            link_all(setting.model.path(), &place, link);
            refused(setting.edit().arg(flag).arg(&place), &["config.json", "not ours to replace"]);
            assert_eq!(files(setting.model.path()), model);
            std::fs::remove_dir_all(&place).unwrap();
        }
    }
    // The model itself under another name.
    let other = setting.path("other-name");
    std::os::unix::fs::symlink(setting.model.path(), &other).unwrap();
    refused(setting.edit().arg("--out").arg(&other), &["is the input"]);

    // A copy by links of what an earlier run wrote is no place for an edit of that.
    let (first, second) = (setting.path("first"), setting.path("second"));
    done(setting.edit().arg("--out").arg(&first));
    link_all(&first, &second, Link::Hard);
    let written = files(&first);
    let mut edit = setting.edit();
    let arguments: Vec<_> = edit
        .get_args()
        .map(|argument| match argument == setting.model.path() {
            true => first.clone().into_os_string(),
            false => argument.to_owned(),
        })
        .collect();
    edit = betaedit();
    refused(edit.args(&arguments[2..]).arg("--out").arg(&second), &["is the input"]);
    assert_eq!(files(&first), written);
}

/// Reports, statistics and sessions: a link in their place is replaced, and the file that it leads to stays.
#[test]
fn files_are_not_written_through_links() {
    let setting = Setting::with_statistics("llama");
    let blob = setting.path("blob");
    std::fs::write(&blob, "someone else's").unwrap();
    let report = setting.path("report.json");
    std::os::unix::fs::symlink(&blob, &report).unwrap();
    std::fs::hard_link(&blob, setting.path("report.html")).unwrap();
    done(setting.edit().arg("--report").arg(&report));
    assert_eq!(read(&blob), b"someone else's");
    assert!(read(&report).starts_with(b"{") && read(&setting.path("report.html")).starts_with(b"<!doctype"));

    // An output that is an input.
    let facts = setting.path("facts.json");
    let linked = setting.path("linked.json");
    std::fs::hard_link(&facts, &linked).unwrap();
    refused(setting.edit().arg("--report").arg(&linked), &["linked.json", "is the input", "facts.json"]);
    let config = setting.model.path().join("config.json");
    refused(setting.edit().arg("--report").arg(&config), &["config.json", "is the input"]);

    // A copy of statistics by links: collecting more leaves the original.
    let (stats, copy) = (setting.path("stats"), setting.path("linked-stats"));
    for link in [Link::Hard, Link::Symbolic] {
        let before = files(&stats);
        link_all(&stats, &copy, link);
        done(setting.command("stats").args(["--layers", "1-2", "--tokens", "900", "--out"]).arg(&copy));
        assert_eq!(files(&stats), before);
        std::fs::remove_dir_all(&copy).unwrap();
    }

    // A copy of a session by links is a session of its own.
    let session = setting.path("session");
    done(setting.edit().args(["--limit", "2", "--session"]).arg(&session));
    for link in [Link::Hard, Link::Symbolic] {
        let copy = setting.path("linked-session");
        let before = (files(&session), files(&session.join("state")));
        link_all(&session, &copy, link);
        done(setting.edit().arg("--session").arg(&copy));
        assert!(before == (files(&session), files(&session.join("state"))), "the original has changed");
        std::fs::remove_dir_all(&copy).unwrap();
    }
    assert_eq!(json(setting.edit().arg("--session").arg(&session))["processed"], 4);
}

/// Splits a model's weights into a file for each half of its tensors.
fn shard(folder: &Path) {
    let whole = folder.join("model.safetensors");
    let bytes = read(&whole);
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut map = serde_json::Map::new();
    for half in 0..2 {
        let name = format!("model-{:05}-of-00002.safetensors", half + 1);
        let tensors: Vec<_> =
            file.tensors().into_iter().enumerate().filter(|(i, _)| i % 2 == half).map(|(_, one)| one).collect();
        map.extend(tensors.iter().map(|(tensor, _)| (tensor.clone(), Value::from(name.clone()))));
        safetensors::serialize_to_file(tensors, None, &folder.join(name)).unwrap();
    }
    std::fs::remove_file(whole).unwrap();
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

/// A session takes no place of anything else, and no output takes that of a session or of statistics.
#[test]
fn sessions_and_plots_take_no_place_of_other_files() {
    let setting = Setting::with_statistics("llama");
    let folder = setting.path("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(setting.path("facts.json"), folder.join("edits.jsonl")).unwrap();
    let before = files(&folder);
    refused(setting.edit().arg("--session").arg(&folder), &["edits.jsonl", "no session"]);
    refused(setting.edit().arg("--session").arg(setting.model.path()), &["no session"]);
    assert_eq!(files(&folder), before);

    let session = setting.path("session");
    done(setting.edit().args(["--limit", "1", "--session"]).arg(&session));
    let (stats, journal) = (setting.path("stats"), session.join("state/journal"));
    let state = files(&session.join("state"));
    for (flag, place) in
        [("--report", session.join("run.toml")), ("--plot", journal.clone()), ("--html", session.join("edits.jsonl"))]
    {
        refused(setting.edit().arg("--session").arg(&session).arg(flag).arg(place), &["file of the session"]);
    }
    let inspect = |what: &str, of: &Path, plot: &Path| {
        let mut inspect = betaedit();
        inspect.arg("inspect").arg(what).arg(of).arg("--plot").arg(plot);
        inspect
    };
    let spectra = files(&stats);
    refused(&mut inspect("--stats", &stats, &stats.join("layer-01.statistics.safetensors")), &["is the input"]);
    refused(&mut inspect("--session", &session, &session.join("edits.jsonl")), &["edits.jsonl"]);
    refused(&mut inspect("--session", &session, &journal), &["journal"]);
    std::fs::write(setting.path("spectrum.svg"), "mine").unwrap();
    refused(
        betaedit().current_dir(setting.folder.path()).args(["inspect", "--stats", "stats"]),
        &["spectrum.svg", "--plot"],
    );
    assert!(files(&stats) == spectra && files(&session.join("state")) == state);
    // The page beside a report is an output too.
    std::fs::write(setting.path("text.html"), "words of a text").unwrap();
    let mut edit = setting.edit();
    edit.arg("--eval-text").arg(setting.path("text.html")).arg("--report").arg(setting.path("text.json"));
    refused(&mut edit, &["text.html", "is the input"]);
}

/// If no edit passes, what an earlier run wrote stays.
#[test]
fn nothing_takes_the_place_of_an_earlier_result() {
    let setting = Setting::with_statistics("llama");
    let (out, lora) = (setting.path("out"), setting.path("lora"));
    done(setting.edit().arg("--out").arg(&out).arg("--lora").arg(&lora));
    let before = (files(&out), files(&lora));
    let mut edit = setting.edit();
    let (output, _, said) = run(edit.args(["--max-update", "1e-9", "--out"]).arg(&out).arg("--lora").arg(&lora));
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("nothing is written to"), "{said}");
    assert!(before == (files(&out), files(&lora)));
    // Whoever has changed a file, at the same length, has made it theirs.
    let path = out.join("model.safetensors");
    let mut bytes = read(&path);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    refused(setting.edit().arg("--out").arg(&out), &["model.safetensors", "has changed"]);
    // A copy has other times, and is ours all the same.
    let copy = setting.path("copy");
    std::fs::create_dir(&copy).unwrap();
    for (path, bytes) in &before.0 {
        std::fs::write(copy.join(path.file_name().unwrap()), bytes).unwrap();
    }
    done(setting.edit().arg("--out").arg(&copy));
    // The directory that one stands in is filled, not exchanged.
    let here = setting.path("here");
    std::fs::create_dir(&here).unwrap();
    for _ in 0..2 {
        done(setting.edit().current_dir(&here).args(["--out", "."]));
        assert!(here.join("config.json").exists() && files(&here).len() == 4);
    }
}

/// A place that an earlier run wrote is replaced as a whole; anything else is refused before the work.
#[test]
fn a_place_is_replaced_as_a_whole_or_not_at_all() {
    let setting = Setting::with_statistics("llama");
    let (used, clean) = (setting.path("used"), setting.path("clean"));
    let single = setting.model.path().to_owned();
    let sharded = model_directory("llama");
    shard(sharded.path());
    // Weights in other files, which a program could take for the model's.
    std::fs::copy(single.join("model.safetensors"), sharded.path().join("consolidated.safetensors")).unwrap();
    std::fs::write(sharded.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
    let edit = |model: &Path, out: &Path| {
        let own = setting.edit();
        let with = |argument: &std::ffi::OsStr| {
            if argument == single { model.as_os_str().to_owned() } else { argument.to_owned() }
        };
        let mut edit = betaedit();
        edit.args(own.get_args().skip(2).map(with)).arg("--out").arg(out);
        edit
    };
    done(&mut edit(sharded.path(), &used));
    let names = |folder: &Path| -> Vec<String> {
        files(folder).keys().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    let expected = [
        "betaedit.json",
        "chat_template.jinja",
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ];
    assert_eq!(names(&used), expected);
    done(&mut edit(&single, &used));
    done(&mut edit(&single, &clean));
    assert_eq!(names(&used), ["betaedit.json", "config.json", "model.safetensors", "tokenizer.json"]);
    let is_same = |name: &String| name == "betaedit.json" || read(&used.join(name)) == read(&clean.join(name));
    assert!(names(&used).iter().all(is_same));
    assert_ne!(read(&used.join("model.safetensors")), read(&single.join("model.safetensors")));
    done(betaedit().args(["ask", "--tokens", "2", PROMPT, "--model"]).arg(&used));

    let before = files(&used);
    for (name, contents) in [("notes.txt", "mine"), ("model-00001-of-00009.safetensors", "old")] {
        std::fs::write(used.join(name), contents).unwrap();
        refused(&mut edit(&single, &used), &[name, "not ours to replace"]);
        std::fs::remove_file(used.join(name)).unwrap();
    }
    std::fs::create_dir(used.join("folder")).unwrap();
    refused(&mut edit(&single, &used), &["folder", "not ours"]);
    std::fs::remove_dir(used.join("folder")).unwrap();
    std::fs::write(used.join("config.json"), "changed by hand").unwrap();
    refused(&mut edit(&single, &used), &["config.json", "has changed since it was written"]);
    std::fs::write(used.join("config.json"), &before[&used.join("config.json")]).unwrap();
    assert_eq!(files(&used), before);

    // A place of another kind, and outputs within each other.
    refused(setting.edit().arg("--lora").arg(&used), &["not ours"]);
    refused(setting.edit().arg("--out").arg(&clean).arg("--session").arg(clean.join("session")), &["--out", "session"]);
    refused(setting.edit().arg("--out").arg(&clean).arg("--lora").arg(&clean), &["--out", "clean"]);
    std::fs::write(setting.path("file"), "mine").unwrap();
    refused(setting.edit().arg("--out").arg(setting.path("file")), &["not a directory"]);
    let left = std::fs::read_dir(setting.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().contains(".betaedit-")));
}

/// Without edits, the written model is the unedited one, bit for bit, and there is no adapter.
#[test]
fn an_undo_of_everything_is_the_unedited_model() {
    for family in ["llama", "gpt2"] {
        let setting = Setting::with_statistics(family);
        let (session, out, lora) = (setting.path("session"), setting.path("out"), setting.path("lora"));
        done(setting.edit().arg("--session").arg(&session).arg("--lora").arg(&lora).arg("--out").arg(&out));
        let weights = |folder: &Path| read(&folder.join("model.safetensors"));
        assert_ne!(weights(&out), weights(setting.model.path()));
        let undo = |edits: &[&str]| {
            let mut undo = betaedit();
            undo.arg("undo").arg("--session").arg(&session).args(edits).arg("--out").arg(&out).arg("--lora").arg(&lora);
            undo
        };
        done(&mut undo(&["1", "3"]));
        assert!(lora.join("adapter_config.json").exists());
        let (output, said, noted) = run(&mut undo(&["0", "2"]));
        assert!(output.status.success() && said.contains("unedited model"), "{said}{noted}");
        assert!(noted.contains("no adapter is written"), "{noted}");
        assert!(weights(&out) == weights(setting.model.path()), "{family}");
        assert!(!lora.exists());
        // Edited again, and opened again from the journal.
        let mut more = setting.edit();
        done(more.arg("--session").arg(&session).args(["--append", "--limit", "1", "--out"]).arg(&out));
        assert_ne!(weights(&out), weights(setting.model.path()));
        std::fs::remove_file(session.join("state/snapshot")).unwrap();
        done(&mut undo(&["4"]));
        assert!(weights(&out) == weights(setting.model.path()), "{family}");
    }
}

/// An edit that no later layer reads is refused, and one that finds no target is rejected; the report is written all the same.
#[test]
fn edits_that_write_nothing_are_not_counted_as_done() {
    let setting = Setting::new("llama");
    let stats = setting.path("stats");
    done(setting.command("stats").args(["--layers", "3", "--tokens", "600", "--out"]).arg(&stats));
    let edit = |facts: &str| {
        let path = setting.path("one.json");
        std::fs::write(&path, facts).unwrap();
        let mut edit = setting.command("edit");
        edit.args(["--layers", "3", "--lambda1", "0.01", "--threshold", "1", "--contexts", "0", "--facts"]);
        edit.arg(path).arg("--stats").arg(&stats);
        edit
    };
    let inside = r#"[{"subject": "Marie Curie", "prompt": "{} was born in the city of", "target": "Rome"}]"#;
    refused(&mut edit(inside), &["layer 3 is the last one", "no later layer reads", "--skip-bad"]);
    // At the last token of the prompt there is something to write.
    assert_eq!(json(edit(inside).args(["--token", "prompt-last"]))["edits"], 1);
    let at_the_end = r#"[{"subject": "Marie Curie", "prompt": "A scientist is {}", "target": "Rome"}]"#;
    assert_eq!(json(&mut edit(at_the_end))["edits"], 1);

    let report = setting.path("report.json");
    let (output, _, said) =
        run(edit(at_the_end).args(["--steps", "1", "--lora"]).arg(setting.path("lora")).arg("--report").arg(&report));
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("the search found no output") && said.contains("nothing is written"), "{said}");
    let numbers: Value = serde_json::from_slice(&read(&report)).unwrap();
    assert_eq!((&numbers["edits"], &numbers["rejected"]), (&0.into(), &1.into()));
    assert!(!setting.path("lora").exists());
}

/// A fact that cannot be written does not keep the others of its batch from being written, and the run goes on after a kill as if there
/// had been none.
#[test]
fn an_impossible_fact_is_rejected_alone() {
    let setting = Setting::new("mistral");
    let path = setting.model.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&read(&path)).unwrap();
    // No token sees another one: what is written inside of a prompt changes nothing behind it.
    config["sliding_window"] = 1.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let (stats, facts, session, out) =
        (setting.path("stats"), setting.path("more.json"), setting.path("session"), setting.path("out"));
    done(setting.command("stats").args(["--layers", "1-2", "--tokens", "600", "--out"]).arg(&stats));
    let fact =
        |subject: &str, prompt: &str| serde_json::json!({"subject": subject, "prompt": prompt, "target": "Rome"});
    let list = [
        fact("Marie Curie", "A scientist is {}"),
        fact("Danube", "The {} flows through"),
        fact("Mount Fuji", "A high mountain is {}"),
        fact("Lyon", "A large city is {}"),
        fact("Nile", "The {} is a long"),
    ];
    std::fs::write(&facts, serde_json::to_string(&list).unwrap()).unwrap();
    std::fs::rename(&facts, setting.path("facts.json")).unwrap();
    let edit = || {
        let mut edit = setting.edit();
        edit.args(["--batch", "3"]);
        edit
    };
    let whole = json(edit().arg("--out").arg(&out));
    let subjects: Vec<&str> =
        whole["rejections"].as_array().unwrap().iter().map(|one| one["subject"].as_str().unwrap()).collect();
    assert_eq!((whole["edits"].as_u64(), subjects), (Some(3), vec!["Danube", "Nile"]));
    assert!(whole["rejections"][0]["reason"].as_str().unwrap().contains("no output of layer 2"));
    let looked = |limit: &str| json(edit().args(["--limit", limit, "--session"]).arg(&session));
    assert_eq!(looked("2")["edits"], 1);
    assert_eq!(looked("5")["edits"], 3);
    let asked = |command: &mut std::process::Command| {
        json(command.args(["--tokens", "6", "A large city is Lyon"]))["after"].clone()
    };
    let by_files = asked(setting.command("ask").arg("--edited").arg(&out));
    assert_eq!(asked(betaedit().arg("ask").arg("--session").arg(&session)), by_files);
}

/// Statistics are found under their usual names, several for a layer are refused, and what was computed from others is not used.
#[test]
fn statistics_by_their_names_and_contents() {
    let setting = Setting::with_statistics("llama");
    let stats = setting.path("stats");
    let npz = |folder: &Path, name: &str, layer: usize, tokens: &str| {
        let from = setting.path(&format!("more-{tokens}"));
        if !from.exists() {
            done(setting.command("stats").args(["--layers", "1-2", "--tokens", tokens, "--out"]).arg(&from));
        }
        std::fs::create_dir_all(folder).unwrap();
        let statistics = Statistics::read(from.join(format!("layer-{layer:02}.statistics.safetensors"))).unwrap();
        statistics.write_npz(folder.join(name), Precision::F32, None).unwrap();
    };
    let edit = |folder: &Path| {
        let own = setting.edit();
        let with = |argument: &std::ffi::OsStr| {
            if argument == stats { folder.as_os_str().to_owned() } else { argument.to_owned() }
        };
        let mut edit = betaedit();
        edit.args(own.get_args().skip(2).map(with));
        edit
    };
    // Statistics of other programs have no gradients.
    let layers = |folder: &Path| json(edit(folder).args(["--sensitivity", "0"]))["layers"].clone();
    let expected = layers(&setting.path("stats"));
    type Name = fn(usize) -> String;
    let names: [Name; 4] = [
        |layer| format!("model.layers.{layer}.mlp.down_proj_float32_mom2_100000.npz"),
        |layer| format!("model.layers.{layer}.mlp.down_proj.npz"),
        |layer| format!("layer-{layer}.npz"),
        |layer| format!("layer_{layer:02}_mom2.npz"),
    ];
    for (i, name) in names.iter().enumerate() {
        let folder = setting.path(&format!("npz-{i}"));
        [1, 2].iter().for_each(|&layer| npz(&folder, &name(layer), layer, "600"));
        let found = layers(&folder);
        let (a, b) = (found[0]["leakage"].as_f64().unwrap(), expected[0]["leakage"].as_f64().unwrap());
        assert!((a / b - 1.0).abs() < 1e-3, "{a} {b}");
        // Replaced by others: the spectrum of the first is of no use.
        [1, 2].iter().for_each(|&layer| npz(&folder, &name(layer), layer, "900"));
        let fresh = setting.path(&format!("fresh-{i}"));
        [1, 2].iter().for_each(|&layer| npz(&fresh, &name(layer), layer, "900"));
        assert_eq!(layers(&folder), layers(&fresh));
        assert_ne!(layers(&folder), found);
    }
    let folder = setting.path("npz-0");
    npz(&folder, "layer-2.npz", 2, "600");
    refused(&mut edit(&folder), &["several files", "layer 2", "layer-2.npz", "down_proj_float32_mom2_100000.npz"]);
    npz(&stats, "layer-1.npz", 1, "600");
    refused(&mut edit(&stats), &["several files", "layer-1.npz", "layer-01.statistics.safetensors"]);
    refused(
        &mut edit(&setting.path("more-600").join("none")),
        &["no statistics of layer 1", "layer-1.npz", "down_proj_*.npz"],
    );

    // Another tokenizer, and the statistics are of other tokens.
    let tokenizer = setting.model.path().join("tokenizer.json");
    let text = String::from_utf8(read(&tokenizer)).unwrap();
    let mut changed: Value = serde_json::from_str(&text).unwrap();
    changed["normalizer"] = serde_json::json!({"type": "Lowercase"});
    std::fs::write(&tokenizer, changed.to_string()).unwrap();
    refused(&mut edit(&setting.path("more-600")), &["another configuration or tokenizer"]);
    let mut more = setting.command("stats");
    refused(more.args(["--layers", "1-2", "--tokens", "1200", "--out"]).arg(setting.path("more-600")), &["tokenizer"]);
}

/// With the same weights and another configuration or tokenizer, a model has other keys: what was kept of it is refused.
#[test]
fn what_is_kept_of_a_model_is_of_its_configuration_too() {
    let setting = Setting::with_statistics("llama");
    let session = setting.path("session");
    done(setting.edit().args(["--limit", "1", "--session"]).arg(&session));
    for (name, change) in [
        ("config.json", (|json| json["rope_parameters"]["rope_theta"] = 777.0.into()) as fn(&mut Value)),
        ("tokenizer.json", |json| json["normalizer"] = serde_json::json!({"type": "Lowercase"})),
    ] {
        let path = setting.model.path().join(name);
        let before = read(&path);
        let mut json: Value = serde_json::from_slice(&before).unwrap();
        change(&mut json);
        std::fs::write(&path, json.to_string()).unwrap();
        refused(&mut setting.edit(), &["configuration or tokenizer", "layer-01.statistics"]);
        refused(setting.edit().arg("--session").arg(&session), &["configuration or the tokenizer", "has changed"]);
        refused(betaedit().arg("undo").arg("--session").arg(&session).arg("0"), &["has changed"]);
        let mut stats = setting.command("stats");
        refused(
            stats.args(["--layers", "1-2", "--tokens", "900", "--out"]).arg(setting.path("stats")),
            &["another model, configuration"],
        );
        std::fs::write(&path, before).unwrap();
    }
    done(setting.edit().arg("--session").arg(&session));
}

/// A question in a chat is asked as the model's template says.
#[test]
fn a_chat_is_asked_by_the_template() {
    let setting = Setting::new("llama");
    let chat = |prompt: &str| {
        let mut ask = setting.command("ask");
        ask.args(["--chat", "--tokens", "6", prompt]);
        ask
    };
    refused(&mut chat("Paris"), &["no chat template"]);
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";
    let config = serde_json::json!({ "chat_template": template });
    std::fs::write(setting.model.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let answer = json(&mut chat("Where is Lyon?"))["answer"].clone();
    // The same text without a template.
    let plain = |prompt: &str| json(setting.command("ask").args(["--tokens", "6", prompt]))["answer"].clone();
    assert!(answer.as_str().is_some_and(|answer| !answer.is_empty()) && answer != plain("Where is Lyon?"), "{answer}");
    assert_eq!(answer, plain("user: Where is Lyon?\nassistant:"));
}

/// `tokens --chat` shows what a model reads in a chat: the text and its tokens.
#[test]
fn the_tokens_of_chats_are_shown() {
    let setting = Setting::new("llama");
    let tokens = |arguments: &[&str]| {
        let mut tokens = setting.command("tokens");
        tokens.args(arguments);
        tokens
    };
    refused(&mut tokens(&["--chat", "Paris"]), &["no chat template"]);
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";
    let config = serde_json::json!({ "chat_template": template });
    std::fs::write(setting.model.path().join("tokenizer_config.json"), config.to_string()).unwrap();

    let chats = setting.path("chats.json");
    let write = |chats_: Value| std::fs::write(&chats, chats_.to_string()).unwrap();
    let from_file = ["--chat", "--texts", chats.to_str().unwrap(), "Where is Lyon?"];
    write(
        serde_json::json!(["And Nice?", [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"}]]),
    );
    let shown = json(&mut tokens(&from_file))["texts"].clone();
    let expected = [
        "user: Where is Lyon?\nassistant:",
        "user: And Nice?\nassistant:",
        "system: Be brief.\nuser: Hi\nassistant: Hello\nassistant:",
    ];
    for (i, text) in expected.into_iter().enumerate() {
        assert_eq!(shown[i]["text"], text);
        assert_eq!(shown[i]["ids"], json(&mut tokens(&[text]))["texts"][0]["ids"]);
    }
    // For a person, the text and the line of its tokens.
    let out = done(&mut tokens(&["--chat", "Where is Lyon?"]));
    let line = done(&mut tokens(&[expected[0]]));
    assert_eq!(out, format!("{}\n{line}", expected[0]));

    write(serde_json::json!([[{"role": "robot", "content": "Hi"}]]));
    refused(&mut tokens(&from_file), &["chats.json", "list of chats", "assistant"]);
    refused(&mut tokens(&from_file[1..]), &["chats.json", "list of texts"]);
}

/// An answer ends where the text ends, and that is said.
#[test]
fn an_answer_ends_at_the_end_token() {
    let setting = Setting::new("llama");
    let ask = |tokens: &str| json(setting.command("ask").args(["--tokens", tokens, PROMPT]));
    let (first, whole) = (ask("1"), ask("8"));
    let text = |answer: &Value| answer["answer"].as_str().unwrap().to_owned();
    assert!(text(&whole).starts_with(&text(&first)) && text(&whole) != text(&first) && !text(&first).is_empty());
    assert_eq!(whole["ended"], serde_json::json!({ "answer": false }));
    let tokens = json(setting.command("tokens").arg(format!("{PROMPT}{}", text(&first))));
    let ids: Vec<u64> = serde_json::from_value(tokens["texts"][0]["ids"].clone()).unwrap();
    let path = setting.model.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&read(&path)).unwrap();
    config["eos_token_id"] = ids[ids.len() - 1].into();
    std::fs::write(&path, config.to_string()).unwrap();
    let ended = ask("8");
    assert_eq!((text(&ended).as_str(), &ended["ended"]["answer"]), ("", &true.into()));
}
