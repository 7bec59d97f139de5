//! The parts of a model in several files.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::format::malformed;

/// All parts of a model, whichever of them is given. A file whose name has no number is the only one.
pub(crate) fn of(path: &Path) -> Result<Vec<PathBuf>> {
    let Some((start, count)) = numbered(path) else { return Ok(vec![path.to_owned()]) };
    let parts: Vec<PathBuf> = (1..=count).map(|i| path.with_file_name(part(start, i, count))).collect();
    match parts.iter().find(|part| !part.exists()) {
        None => Ok(parts),
        Some(missing) => Err(malformed(missing, format!("this part of the model in {count} files is missing"))),
    }
}

/// The names of a file in parts.
pub(super) fn named(path: &Path, count: usize) -> Vec<PathBuf> {
    if count == 1 {
        return vec![path.to_owned()];
    }
    let start = match numbered(path) {
        Some((start, _)) => start,
        None => path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("model"),
    };
    (1..=count).map(|i| path.with_file_name(part(start, i, count))).collect()
}

fn part(start: &str, number: usize, count: usize) -> String {
    format!("{start}-{number:05}-of-{count:05}.gguf")
}

/// The beginning of a part's name, and the number of parts.
fn numbered(path: &Path) -> Option<(&str, usize)> {
    let (rest, count) = path.file_name()?.to_str()?.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (start, number) = rest.rsplit_once('-')?;
    let five = |digits: &str| digits.len() == 5 && digits.bytes().all(|digit| digit.is_ascii_digit());
    let count = count.parse().ok().filter(|&n| five(count) && five(number) && n > 0)?;
    Some((start, count))
}
