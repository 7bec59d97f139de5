//! The files that a command writes at its end.

use std::path::{Path, PathBuf};

use crate::terminal::Done;

/// Checks before the work that the outputs can be written.
pub fn check(outputs: &[&Option<PathBuf>]) -> Done {
    let outputs: Vec<&Path> = outputs.iter().filter_map(|path| path.as_deref()).collect();
    for (i, path) in outputs.iter().enumerate() {
        if outputs[..i].contains(path) {
            return Err(format!("{}: two outputs cannot have the same path", path.display()).into());
        }
        let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let reason = match (path.is_dir(), folder.is_dir()) {
            (true, _) => "it is a directory".to_owned(),
            (false, false) => format!("`{}` is not a directory", folder.display()),
            (false, true) => continue,
        };
        return Err(format!("`{}` is not a file in an existing folder: {reason}", path.display()).into());
    }
    Ok(())
}

pub fn write(path: &Path, text: &str) -> Done {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()).into())
}
