//! Edited models in Python.

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
