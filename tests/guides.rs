//! The guides of `docs/`, followed literally: every program in them is built and run in a crate outside of the repository's
//! tree, as its reader would.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The guides, with the features that their programs need.
const GUIDES: [(&str, &[&str]); 5] = [
    ("docs/adding-an-editor.md", &["session"]),
    ("docs/adding-an-adapter.md", &["session"]),
    ("docs/adding-a-model-family.md", &["llm"]),
    ("docs/matrices.md", &["npz", "safetensors"]),
    ("README.md", &[]),
];

#[test]
#[ignore = "builds a crate of its own, which takes minutes; the gate runs it"]
fn every_program_of_a_guide_runs_in_a_crate_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let programs = folder.path().join("src/bin");
    std::fs::create_dir_all(&programs).unwrap();
    let mut names = Vec::new();
    for (path, _) in GUIDES {
        let text = std::fs::read_to_string(root.join(path)).unwrap();
        let guide = Path::new(path).file_stem().unwrap().to_str().unwrap();
        let found = programs_of(&text);
        assert!(!found.is_empty(), "{guide} has no program");
        for (i, program) in found.iter().enumerate() {
            let name = format!("{guide}-{i}");
            std::fs::write(programs.join(&name).with_extension("rs"), program).unwrap();
            names.push(name);
        }
    }
    assert!(names.contains(&"README-0".to_owned()));
    // A method that is no recipe, in a session: the guide must keep showing one.
    assert!(names.contains(&"adding-an-editor-1".to_owned()));
    std::fs::write(folder.path().join("Cargo.toml"), manifest(root)).unwrap();
    std::fs::copy(root.join("Cargo.lock"), folder.path().join("Cargo.lock")).unwrap();
    for name in &names {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["run", "--quiet", "--bin", name]).current_dir(folder.path());
        // Its own target directory would build every dependency again.
        cargo.env("CARGO_TARGET_DIR", target());
        let output = cargo.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{name}: {text}");
        // What a reader copies compiles without a warning.
        assert!(!text.contains("warning"), "{name}: {text}");
    }
}

/// The folder that this test was built in.
fn target() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.ancestors().nth(3).unwrap().to_owned()
}

fn manifest(root: &Path) -> String {
    let mut features: Vec<&str> = GUIDES.iter().flat_map(|(_, features)| *features).copied().collect();
    features.dedup();
    // The profiles of the repository, so that dependencies are built once.
    let text = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let profiles = &text[text.find("[profile.dev]").expect("a profile")..];
    let path = root.display();
    format!(
        "[package]\nname = \"guides\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
         [dependencies]\nbetaedit-core = {{ path = \"{path}\", features = {features:?} }}\ntempfile = \"3\"\n\n{profiles}"
    )
}

/// The Rust blocks of a guide as whole programs, with the lines that its reader does not see.
fn programs_of(guide: &str) -> Vec<String> {
    let mut programs = Vec::new();
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        if !line.starts_with("```rust") {
            continue;
        }
        let mut program = String::new();
        for line in lines.by_ref().take_while(|line| !line.starts_with("```")) {
            let shown = if line == "#" { "" } else { line.strip_prefix("# ").unwrap_or(line) };
            writeln!(program, "{shown}").unwrap();
        }
        // A part of a program is tested as a doctest.
        if program.contains("fn main()") {
            programs.push(program);
        }
    }
    programs
}
