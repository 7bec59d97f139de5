//! The modules of a crate, and which file imports which.

use std::collections::{BTreeMap, BTreeSet};

use super::imports::{Import, Kind, imports};
use super::lexer::{tokens, without_unit_tests};

/// A crate: every module by its path, such as `["session", "undo"]`; the root is the empty path.
pub struct Tree {
    modules: BTreeMap<Vec<String>, Module>,
}

struct Module {
    file: String,
    imports: Vec<Import>,
}

/// One file imports from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    pub from: Vec<String>,
    pub to: Vec<String>,
    /// Where, as `file:line`.
    pub place: String,
}

impl Tree {
    /// From the files of `src`: their paths below it, and what they hold.
    pub fn new<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let modules = files.into_iter().map(|(file, source)| {
            let imports = imports(&without_unit_tests(&tokens(source)));
            (module_of(file), Module { file: file.to_owned(), imports })
        });
        Self { modules: modules.collect() }
    }

    pub fn modules(&self) -> impl Iterator<Item = &Vec<String>> {
        self.modules.keys()
    }

    /// Names that the root gives to the outside, without modules and crates.
    pub fn root_names(&self) -> BTreeSet<&str> {
        let imports = self.modules.get(&[][..]).map_or(&[][..], |root| &root.imports);
        let public = imports.iter().filter(|import| import.kind == Kind::Public && import.path.len() > 1);
        public
            .filter(|import| self.absolute(&[], &import.path).is_some_and(|path| !self.modules.contains_key(&path)))
            .map(|import| import.name.as_str())
            .collect()
    }

    /// Every import of a file from another one, but for what a module passes on from its children.
    pub fn edges(&self) -> BTreeSet<Edge> {
        let mut edges = BTreeSet::new();
        for (from, module) in &self.modules {
            for import in &module.imports {
                let Some(path) = self.absolute(from, &import.path) else { continue };
                let child = path.len() > from.len() && path.starts_with(from);
                if import.kind == Kind::Public && child {
                    continue;
                }
                let to = self.definition(&path, 0);
                if to != *from {
                    edges.insert(Edge { from: from.clone(), to, place: format!("{}:{}", module.file, import.line) });
                }
            }
        }
        edges
    }

    /// A path from the root of the crate; none if it leaves it.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let (mut at, mut rest) = match path[0].as_str() {
            "crate" => (vec![], &path[1..]),
            "self" => (module.to_vec(), &path[1..]),
            "super" => (module.to_vec(), path),
            _ => (module.to_vec(), path),
        };
        while rest.first().is_some_and(|word| word == "super") {
            at.pop()?;
            rest = &rest[1..];
        }
        at.extend_from_slice(rest);
        Some(at)
    }

    /// The module that defines what a path names: names that are passed on are followed to where they come from.
    fn definition(&self, path: &[String], depth: usize) -> Vec<String> {
        let longest = (0..=path.len()).rev().find(|&n| self.modules.contains_key(&path[..n])).unwrap_or(0);
        let (module, rest) = path.split_at(longest);
        let Some(name) = rest.first().filter(|_| depth < 8) else { return module.to_vec() };
        let passed_on = self
            .modules
            .get(module)
            .and_then(|there| there.imports.iter().find(|import| import.kind != Kind::Inline && import.name == *name));
        match passed_on.and_then(|import| self.absolute(module, &import.path)) {
            Some(next) if next != path => self.definition(&[&next[..], &rest[1..]].concat(), depth + 1),
            _ => module.to_vec(),
        }
    }
}

/// `session/undo.rs` and `session/undo/mod.rs` are `["session", "undo"]`, `lib.rs` is the root.
fn module_of(file: &str) -> Vec<String> {
    let mut parts: Vec<_> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}
