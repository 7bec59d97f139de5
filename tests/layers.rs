//! The laws of the source tree: rooms in their order, no circles, short files and functions, few names at the root.
//!
//!     cargo test --test suite layers -- --nocapture

mod imports;
mod lexer;
mod order;
mod planted;
mod size;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use self::size::Function;
use self::tree::Tree;

/// The rooms of `src`, the lowest first. A room imports only rooms before it.
const ORDER: [&str; 25] = [
    "error",
    "scalar",
    // Checks of arguments speak of scalars.
    "util",
    // Kernels check their arguments.
    "linalg",
    "second_moment",
    "spectrum",
    "key_statistics",
    "projector",
    "batch",
    "engine",
    "update",
    "refresh",
    "metrics",
    "editor",
    "restraint",
    "ridge",
    "concept",
    "regmean",
    "format",
    "interop",
    "adapter",
    "facts",
    "session",
    "llm",
    "guides",
];

/// A session edits whatever model an adapter speaks for.
const APART: [(&str, &str); 1] = [("session", "llm")];

const LONGEST_FILE: usize = 450;
const LONGEST_FUNCTION: usize = 80;
const LONGEST_EXAMPLE: usize = 100;
const MOST_ROOT_NAMES: usize = 22;

fn manifest() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files below a folder, with what they hold; none if there is no such folder, as in the packaged crate.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            found.push((path, source));
        }
    }
    found.sort();
    found
}

fn library() -> Vec<(String, String)> {
    let src = manifest().join("src");
    let named = |(path, source): (PathBuf, String)| {
        let parts: Vec<_> = path.strip_prefix(&src).unwrap().iter().map(|part| part.to_str().unwrap()).collect();
        (parts.join("/"), source)
    };
    let files: Vec<_> = sources(&src).into_iter().map(named).collect();
    assert!(files.len() > 50, "only {} files in {}", files.len(), src.display());
    files.into_iter().filter(|(file, _)| !file.starts_with("bin/")).collect()
}

fn tree(files: &[(String, String)]) -> Tree {
    Tree::new(files.iter().map(|(file, source)| (file.as_str(), source.as_str())))
}

#[track_caller]
fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn no_room_imports_against_the_order() {
    let files = library();
    assert_none(&order::against_order(&tree(&files), &ORDER, &APART));
}

#[test]
fn no_files_and_no_rooms_import_each_other_in_a_circle() {
    let files = library();
    let tree = tree(&files);
    println!("{} files of the library, {} imports between them", files.len(), tree.edges().len());
    assert_none(&order::circles(&tree));
}

#[test]
fn the_root_has_few_names() {
    let files = library();
    let tree = tree(&files);
    let names: Vec<_> = tree.root_names().into_iter().collect();
    println!("{} names at the root, {MOST_ROOT_NAMES} allowed: {}", names.len(), names.join(", "));
    assert!(!names.is_empty() && names.len() <= MOST_ROOT_NAMES, "{} names: {}", names.len(), names.join(", "));
}

#[test]
fn files_and_functions_are_short() {
    let root = manifest();
    let members =
        fs::read_dir(root.join("crates")).into_iter().flatten().map(|member| member.unwrap().path().join("src"));
    let code: Vec<_> = members.chain([root.join("src")]).flat_map(|folder| sources(&folder)).collect();
    let examples = sources(&root.join("examples"));
    let mut problems = vec![];
    let mut functions: Vec<(usize, String)> = vec![];
    for (limit, files) in [(LONGEST_FILE, &code), (LONGEST_EXAMPLE, &examples)] {
        let mut longest = (0, String::new());
        for (path, source) in files {
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            let lines = source.lines().count();
            if lines > limit {
                problems.push(format!("{name} has {lines} lines, {limit} allowed"));
            }
            functions.extend(
                size::functions(source)
                    .into_iter()
                    .map(|Function { name: function, line, lines }| (lines, format!("`{function}` at {name}:{line}"))),
            );
            longest = longest.max((lines, name));
        }
        println!("longest of {} files: {} lines, {} ({limit} allowed)", files.len(), longest.0, longest.1);
    }
    let longest = functions.iter().max().unwrap();
    println!(
        "longest of {} functions: {} lines, {} ({LONGEST_FUNCTION} allowed)",
        functions.len(),
        longest.0,
        longest.1
    );
    let long = functions.iter().filter(|(lines, _)| *lines > LONGEST_FUNCTION);
    problems.extend(long.map(|(lines, name)| format!("{name} has {lines} lines, {LONGEST_FUNCTION} allowed")));
    assert_none(&problems);
}
