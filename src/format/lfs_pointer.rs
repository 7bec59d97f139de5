//! Files of Git LFS that were not downloaded.

use std::path::Path;

use super::malformed;
use crate::error::Result;

/// How such a file begins.
const START: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Refuses a file that is a pointer to the real one.
///
/// * `beginning`: the first bytes of the file
pub(crate) fn check(path: &Path, beginning: &[u8]) -> Result<()> {
    if !beginning.starts_with(START) {
        return Ok(());
    }
    let problem = "this is a Git LFS pointer, a text in place of the real file: run `git lfs install` and `git lfs pull` in its \
                   repository, or download the file itself";
    Err(malformed(path, problem))
}

/// As [`check`], by the first bytes of a file. What cannot be read is no pointer.
#[cfg(feature = "safetensors")]
pub(crate) fn check_file(path: &Path) -> Result<()> {
    use std::io::Read;
    let mut beginning = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(START.len() as u64).read_to_end(&mut beginning));
    read.map_or(Ok(()), |_| check(path, &beginning))
}
