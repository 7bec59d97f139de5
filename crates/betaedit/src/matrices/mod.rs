//! The commands for matrices: they need files of numbers, but no language model.

mod arrays;
pub mod merge;
pub mod project;
pub mod solve;

use std::path::{Path, PathBuf};

use crate::files::{about, folder_of};
use crate::staging::Staging;
use crate::terminal::Done;

/// A folder beside an output, for files that are renamed into their place when they are complete.
fn beside(out: &Path) -> Done<Staging> {
    Staging::new(folder_of(out), out).map_err(about(out))
}

fn copy(from: &Path, to: &Path) -> Done {
    std::fs::copy(from, to).map_err(about(from))?;
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Done {
    std::fs::rename(from, to).map_err(about(to))
}

/// The names that match patterns, in which `*` stands for any text.
fn matching(names: &[&str], patterns: &[String], file: &Path) -> Done<Vec<String>> {
    let mut found: Vec<String> = vec![];
    for pattern in patterns {
        let before = found.len();
        found.extend(names.iter().filter(|name| matches(name, pattern)).map(|&name| name.to_owned()));
        if found.len() == before {
            let some = names.iter().take(20).copied().collect::<Vec<_>>().join(", ");
            let more = if names.len() > 20 { format!(" and {} more", names.len() - 20) } else { String::new() };
            return Err(format!("`{}` has no tensor `{pattern}`; there are: {some}{more}", file.display()).into());
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn matches(name: &str, pattern: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return name == pattern };
    let Some(name) = name.strip_prefix(start) else { return false };
    let mut ends = name.char_indices().map(|(end, _)| end).chain([name.len()]);
    ends.any(|end| matches(&name[end..], rest))
}

/// A number for people: three digits, or a power of ten where that is shorter.
fn short(x: f64) -> String {
    if x == 0.0 || (1e-3..1e4).contains(&x.abs()) { format!("{x:.4}") } else { format!("{x:.2e}") }
}

fn display(path: &Path) -> String {
    format!("`{}`", path.display())
}

/// Paths that were given.
fn given<'a>(paths: &[&'a Option<PathBuf>]) -> Vec<&'a Path> {
    paths.iter().filter_map(|path| path.as_deref()).collect()
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_text() {
        for (name, pattern) in
            [("a.b", "a.b"), ("a.b", "*"), ("a.b", "a*"), ("a.b", "*.b"), ("a.x.b", "a*b"), ("é1", "*1")]
        {
            assert!(matches(name, pattern), "{name} {pattern}");
        }
        for (name, pattern) in [("a.b", "a"), ("a.b", "*c"), ("a.b", "b*"), ("ab", "a*b*c"), ("", "a*")] {
            assert!(!matches(name, pattern), "{name} {pattern}");
        }
    }
}
