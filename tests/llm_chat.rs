//! Chats, against `transformers` (`tests/data/chat.json`).

use std::path::Path;

use betaedit_core::faer::Par;
use betaedit_core::llm::{Message, Model, Role, Tokenizer};
use serde_json::{Value, json};

use crate::llm_models::directory;

fn messages(chat: &Value) -> Vec<Message> {
    let message = |one: &Value| {
        let role = match one["role"].as_str().unwrap() {
            "system" => Role::System,
            "user" => Role::User,
            _ => Role::Assistant,
        };
        Message::new(role, one["content"].as_str().unwrap())
    };
    chat.as_array().unwrap().iter().map(message).collect()
}

/// The tokenizer of a directory with this `tokenizer_config.json`.
fn with_config(config: &Value) -> (tempfile::TempDir, Tokenizer) {
    let folder = directory("llama");
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let (_, tokenizer) = Model::open(folder.path(), Par::Seq).unwrap();
    (folder, tokenizer)
}

#[test]
fn chats_are_rendered_as_by_transformers() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat.json");
    let recorded: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let cases = recorded["cases"].as_array().unwrap();
    assert!(cases.len() >= 16);
    for case in cases {
        let template = &recorded["templates"][case["template"].as_str().unwrap()];
        let config =
            json!({"chat_template": template, "bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}});
        let (_folder, tokenizer) = with_config(&config);
        let rendered = tokenizer.render_chat(&messages(&case["chat"]));
        match (rendered, &case["error"]) {
            (Ok(text), Value::Null) => assert_eq!(text, case["text"].as_str().unwrap(), "{}", case["template"]),
            (Err(error), Value::String(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, expected) => panic!("{}: {found:?}, expected {expected}", case["template"]),
        }
    }
}

#[test]
fn a_template_is_found_in_every_place() {
    let chat = [Message::new(Role::User, "Paris")];
    let named = json!([{"name": "tool_use", "template": "no"}, {"name": "default", "template": "named {{ messages[0].content }}"}]);
    let (folder, tokenizer) = with_config(&json!({"chat_template": named}));
    assert_eq!(tokenizer.render_chat(&chat).unwrap(), "named Paris");
    // What stands in front of every text is the template's business.
    let tokens = tokenizer.encode_chat(&chat).unwrap();
    assert_eq!(tokens, tokenizer.encode("named Paris").unwrap());
    // A file takes precedence.
    std::fs::write(folder.path().join("chat_template.jinja"), "file {{ messages[0].content }}").unwrap();
    let (_, tokenizer) = Model::open(folder.path(), Par::Seq).unwrap();
    assert_eq!(tokenizer.render_chat(&chat).unwrap(), "file Paris");

    let (_folder, tokenizer) = with_config(&json!({}));
    assert!(tokenizer.render_chat(&chat).unwrap_err().to_string().contains("no chat template"));
    let (_folder, tokenizer) = with_config(&json!({"chat_template": "{% for %}"}));
    assert!(tokenizer.render_chat(&chat).unwrap_err().to_string().contains("cannot be rendered"));
    // A template that does not end is stopped.
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}";
    let (_folder, tokenizer) = with_config(&json!({"chat_template": endless}));
    assert!(tokenizer.render_chat(&chat).is_err());
}
