//! The commands for matrices: they need files of numbers, but no language model.

mod arrays;
pub mod merge;
pub mod project;
pub mod solve;

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::terminal::Done;

/// Checks that an output is none of the inputs.
fn check_apart(out: &Path, inputs: &[&Path]) -> Done {
    let place = |path: &Path| path.canonicalize().ok();
    match inputs.iter().find(|input| place(out).is_some() && place(out) == place(input)) {
        Some(input) => Err(format!("--out is the input `{}`: give another path", input.display()).into()),
        None => Ok(()),
    }
}

/// Checks that a directory can be created in this place: nothing is there yet, or an empty directory.
fn check_new_directory(out: &Path) -> Done {
    let empty = std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    if out.symlink_metadata().is_ok() && !empty {
        return Err(format!("--out `{}` already exists: give a new directory", out.display()).into());
    }
    let folder = out.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    if folder.is_dir() { Ok(()) } else { Err(format!("`{}` is not a directory", folder.display()).into()) }
}

/// Fills a directory that appears in its place only when it is complete.
fn directory(out: &Path, fill: impl FnOnce(&Path) -> Done) -> Done {
    let staging = beside(out)?;
    let staged = staging.path().join("whole");
    std::fs::create_dir(&staged).map_err(|error| format!("`{}`: {error}", staged.display()))?;
    fill(&staged)?;
    // A rename does not replace a directory everywhere, even an empty one.
    if out.is_dir() {
        std::fs::remove_dir(out).map_err(|error| format!("`{}`: {error}", out.display()))?;
    }
    rename(&staged, out)
}

/// A folder beside an output, for files that are renamed into their place when they are complete.
fn beside(out: &Path) -> Done<TempDir> {
    let folder = out.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    tempfile::tempdir_in(folder).map_err(|error| format!("`{}`: {error}", folder.display()).into())
}

fn copy(from: &Path, to: &Path) -> Done {
    std::fs::copy(from, to).map_err(|error| format!("`{}`: {error}", from.display()))?;
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Done {
    std::fs::rename(from, to).map_err(|error| format!("`{}`: {error}", to.display()).into())
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
