//! Edited models in Python, and tokens and chats as Python has them.

use std::path::Path;
use std::process::Command;

use crate::setting::{PROMPT, Setting, betaedit, done, json, of_the_library};

/// An edited model is read and written by Python's safetensors, and is the same model.
#[test]
#[ignore = "needs BETAEDIT_PYTHON, an interpreter with the packages of tests/python/requirements.txt"]
fn an_edited_model_goes_to_python_and_back() {
    let interpreter = std::env::var("BETAEDIT_PYTHON").expect("BETAEDIT_PYTHON names an interpreter");
    for family in ["qwen3", "gpt2"] {
        let setting = Setting::with_statistics(family);
        let edited = setting.path("edited");
        done(setting.edit().arg("--out").arg(&edited));
        let mut copy = Command::new(&interpreter);
        done(copy.arg(of_the_library("python/round_trip.py")).arg("copy").arg(&edited));
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

/// Tokens of texts, and chats as texts and as tokens, are those of `transformers` for the same files.
#[test]
#[ignore = "needs BETAEDIT_PYTHON, an interpreter with the packages of tests/python/requirements.txt"]
fn tokens_and_chats_are_those_of_transformers() {
    let interpreter = std::env::var("BETAEDIT_PYTHON").expect("BETAEDIT_PYTHON names an interpreter");
    let folder = tempfile::tempdir().unwrap();
    let mut compare = Command::new(interpreter);
    compare.arg("-B").arg(of_the_library("python/tokens_and_chats.py"));
    done(compare.arg(env!("CARGO_BIN_EXE_betaedit")).arg(folder.path()));
}
