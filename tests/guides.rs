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
    let sources = folder.path().join("src");
    std::fs::create_dir_all(&sources).unwrap();
    // All of them are modules of one program: one build, one link.
    let (mut modules, mut names) = (String::new(), Vec::new());
    for (path, _) in GUIDES {
        let text = std::fs::read_to_string(root.join(path)).unwrap();
        let guide = Path::new(path).file_stem().unwrap().to_str().unwrap();
        let found = programs_of(&text);
        assert!(!found.is_empty(), "{guide} has no program");
        for (i, program) in found.iter().enumerate() {
            let name = format!("{}_{i}", guide.replace('-', "_").to_lowercase());
            std::fs::write(sources.join(&name).with_extension("rs"), format!("{program}\n{RUN}")).unwrap();
            writeln!(modules, "mod {name};").unwrap();
            names.push(name);
        }
    }
    assert!(names.contains(&"readme_0".to_owned()));
    // A method that is no recipe, in a session: the guide must keep showing one.
    assert!(names.contains(&"adding_an_editor_1".to_owned()));
    let chosen: String = names.iter().map(|name| format!("        \"{name}\" => {name}::run(),\n")).collect();
    let main = format!(
        "{modules}\nfn main() -> std::process::ExitCode {{\n    match &*std::env::args().nth(1).unwrap() {{\n{chosen}        \
         _ => std::process::ExitCode::FAILURE,\n    }}\n}}\n"
    );
    std::fs::write(sources.join("main.rs"), main).unwrap();
    std::fs::write(folder.path().join("Cargo.toml"), manifest(root)).unwrap();
    std::fs::copy(root.join("Cargo.lock"), folder.path().join("Cargo.lock")).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    // Its own target directory would build every dependency again.
    cargo.args(["build", "--quiet"]).current_dir(folder.path()).env("CARGO_TARGET_DIR", target());
    // What a reader copies compiles without a warning.
    let said = output("the guides' crate", &mut cargo);
    assert!(!said.contains("warning"), "{said}");
    for name in &names {
        output(name, Command::new(target().join("debug/guides")).arg(name).current_dir(folder.path()));
    }
}

/// How a program is started as a module.
const RUN: &str = "pub fn run() -> std::process::ExitCode {\n    std::process::Termination::report(main())\n}\n";

/// What a program writes to the standard error. It must succeed.
fn output(name: &str, command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{name}: {said}");
    said
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
