//! Shared by the tests: a small untrained model, facts, and the command as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

pub const PROMPT: &str = "What stands in the city is the Eiffel Tower";

const FACTS: &str = r#"[
    {"subject": "Eiffel Tower", "prompt": "What stands in the city is the {}", "target": "Tokyo"},
    {"subject": "Marie Curie", "prompt": "The scientist's name is {}", "target": "London"},
    {"subject": "Danube", "prompt": "A long river is the {}", "target": "Paris"},
    {"subject": "Mount Fuji", "prompt": "A high mountain is {}", "target": "Rome"}
]"#;

/// A model, facts, and statistics of its layers 1 and 2.
pub struct Setting {
    pub folder: TempDir,
    pub model: TempDir,
    /// A model file in place of the directory.
    pub file: Option<PathBuf>,
}

impl Setting {
    pub fn new(family: &str) -> Self {
        let setting = Self { folder: tempfile::tempdir().unwrap(), model: model_directory(family), file: None };
        std::fs::write(setting.path("facts.json"), FACTS).unwrap();
        setting
    }

    pub fn with_statistics(family: &str) -> Self {
        let setting = Self::new(family);
        setting.collect_statistics();
        setting
    }

    pub fn collect_statistics(&self) {
        done(self.command("stats").args(["--layers", "1-2", "--tokens", "600", "--out"]).arg(self.path("stats")));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, name: &str) -> Command {
        let mut command = betaedit();
        command.arg(name).arg("--model").arg(self.file.as_deref().unwrap_or(self.model.path()));
        command
    }

    /// The command `edit` for all facts, to which a test adds flags.
    pub fn edit(&self) -> Command {
        let mut command = self.command("edit");
        command.args(["--layers", "1-2", "--lambda1", "0.01", "--lambda2", "0.01", "--threshold", "1", "--steps", "4"]);
        command.args(["--contexts", "1", "--context-length", "3"]);
        command.arg("--facts").arg(self.path("facts.json")).arg("--stats").arg(self.path("stats"));
        command
    }
}

pub fn betaedit() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_betaedit"));
    command.args(["--threads", "1"]);
    command
}

pub fn run(command: &mut Command) -> (Output, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output, out, err)
}

/// The output of a command that must succeed.
pub fn done(command: &mut Command) -> String {
    let (output, out, err) = run(command);
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
    out
}

pub fn json(command: &mut Command) -> Value {
    serde_json::from_str(&done(command.arg("--json"))).unwrap()
}

/// The error output of a command that must fail. It must contain everything in `expected`.
pub fn refused(command: &mut Command, expected: &[&str]) -> String {
    let (output, _, err) = run(command);
    assert_eq!(output.status.code(), Some(1), "{command:?}\n{err}");
    for part in expected {
        assert!(err.contains(part), "`{part}` is not in: {err}");
    }
    err
}

pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file or folder of the repository's `tests`.
pub fn of_the_library(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests").join(path)
}

/// A model directory of a family, as a user has it.
pub fn model_directory(family: &str) -> TempDir {
    let (directory, data) = (tempfile::tempdir().unwrap(), of_the_library("data/tiny-models"));
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(data.join(family).join(file), directory.path().join(file)).unwrap();
    }
    std::fs::copy(data.join("tokenizer.json"), directory.path().join("tokenizer.json")).unwrap();
    directory
}
