//! Consolidation, and statistics of chats.

use serde_json::{Value, json};

use crate::setting::{PROMPT, Setting, betaedit, done, json, read, refused};

/// The weights depend on the facts alone: with a fact that is undone, they are those of a session that never had it, byte for byte.
#[test]
fn a_consolidated_session_is_that_of_its_facts_alone() {
    let setting = Setting::with_statistics("llama");
    let edit = |session: &str| done(setting.edit().arg("--session").arg(setting.path(session)));
    let consolidate = |session: &str, out: &str| {
        let mut command = betaedit();
        command.arg("consolidate").arg("--session").arg(setting.path(session)).args(["--targets", "unedited"]);
        command.arg("--out").arg(setting.path(out)).arg("--report").arg(setting.path("consolidated.json"));
        json(&mut command)
    };
    edit("session");
    let said = consolidate("session", "all");
    assert_eq!((said["edits"].as_u64(), said["layers"].as_array().map(Vec::len)), (Some(4), Some(2)));
    for side in ["unedited", "before", "after"] {
        assert!(said[side]["perplexity"].is_number() && said[side]["generated"]["plain"].is_object(), "{said:#}");
    }
    assert_eq!(said, serde_json::from_slice::<Value>(&read(&setting.path("consolidated.json"))).unwrap());
    let ask = |edited: &str| {
        let mut ask = setting.command("ask");
        json(ask.arg("--edited").arg(setting.path(edited)).args(["--tokens", "12", PROMPT]))["after"].clone()
    };
    let by_session =
        json(betaedit().arg("ask").arg("--session").arg(setting.path("session")).args(["--tokens", "12", PROMPT]));
    assert_eq!(ask("all"), by_session["after"]);

    let undone = json(
        betaedit()
            .arg("undo")
            .arg("--session")
            .arg(setting.path("session"))
            .arg("1")
            .arg("--out")
            .arg(setting.path("without")),
    );
    assert_eq!((undone["rebuilt"].clone(), undone["edits"].as_u64()), (json!(true), Some(3)));
    let all: Vec<Value> = serde_json::from_slice(&read(&setting.path("facts.json"))).unwrap();
    std::fs::write(setting.path("facts.json"), json!([all[0], all[2], all[3]]).to_string()).unwrap();
    edit("other");
    consolidate("other", "never");
    let weights = |folder: &str| read(&setting.path(folder).join("model.safetensors"));
    assert_eq!(weights("without"), weights("never"));
    assert_ne!(weights("without"), weights("all"));

    refused(betaedit().args(["consolidate", "--session"]).arg(setting.path("stats")), &["no session"]);
    let mut over = betaedit();
    over.args(["consolidate", "--session"]).arg(setting.path("session"));
    refused(over.arg("--report").arg(setting.path("session/edits.jsonl")), &["the place of a file of the session"]);
    done(betaedit().arg("undo").arg("--session").arg(setting.path("session")).args(["0", "2", "3"]));
    refused(betaedit().args(["consolidate", "--session"]).arg(setting.path("session")), &["nothing to consolidate"]);
}

/// `edit` consolidates by itself; run again, it finds nothing to do.
#[test]
fn an_edit_of_many_facts_consolidates_by_itself() {
    let setting = Setting::with_statistics("gpt2");
    let edit = |session: &str, every: &str| {
        let mut edit = setting.edit();
        edit.args(["--consolidate-every", every]).arg("--session").arg(setting.path(session)).arg("--out");
        done(edit.arg(setting.path(&format!("{session}-out"))));
        read(&setting.path(&format!("{session}-out")).join("model.safetensors"))
    };
    let journal = || read(&setting.path("each").join("state/journal"));
    let each = edit("each", "2");
    let before = journal();
    assert_ne!(each, edit("never", "0"));
    assert_eq!(each, edit("each", "2"));
    assert_eq!(before, journal());
    let names: Vec<String> = std::fs::read_dir(setting.path("each/state"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names.iter().filter(|name| name.starts_with("consolidated-")).count(), 1, "{names:?}");
}

/// A share of the statistics is of chats, where the model has a template.
#[test]
fn statistics_are_of_chats_too() {
    let setting = Setting::new("llama");
    let stats = |out: &str, chats: &[&str]| {
        let mut stats = setting.command("stats");
        stats
            .args(["--layers", "1"])
            .args(if chats.contains(&"--tokens") { &[][..] } else { &["--tokens", "900"] })
            .args(chats)
            .arg("--out")
            .arg(setting.path(out));
        stats
    };
    let plain = json(&mut stats("plain", &[]));
    refused(&mut stats("none", &["--chats", "0.5"]), &["no chat template"]);
    refused(&mut stats("none", &["--chats", "1"]), &["chats", "below 1"]);
    let template = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let config = json!({ "chat_template": template }).to_string();
    std::fs::write(setting.model.path().join("tokenizer_config.json"), config).unwrap();
    let trace = |of: &Value| of["layers"][0]["trace"].as_f64().unwrap();
    let without = json(&mut stats("without", &["--chats", "0"]));
    assert_eq!(trace(&plain), trace(&without));
    let with = json(&mut stats("with", &[]));
    assert_ne!(trace(&with), trace(&plain));
    // Another share is another text.
    refused(&mut stats("with", &["--chats", "0"]), &["use another directory"]);
    // In two goes, the same.
    done(&mut stats("parts", &["--tokens", "300"]));
    let parts = json(&mut stats("parts", &[]));
    assert!((trace(&parts) - trace(&with)).abs() < 1e-12 * trace(&with));
    assert_eq!(parts["tokens"], with["tokens"]);
}
