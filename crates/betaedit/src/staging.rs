//! Directories beside an output, in which it is made.

use std::fs::File;
use std::io;
use std::path::Path;

use tempfile::TempDir;

/// A directory that is gone in the end. What a killed run left for the same output is removed first.
pub struct Staging {
    folder: TempDir,
    /// Locked while this run is at work, so that another run does not take the directory for one that was left.
    _lock: File,
}

/// The file that is locked.
const LOCK: &str = "lock";

impl Staging {
    /// A directory in a folder, for an output of this name.
    pub fn new(folder: &Path, output: &Path) -> io::Result<Self> {
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        let prefix = format!(".{name}.betaedit-");
        for entry in std::fs::read_dir(folder)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                remove_if_left(&entry.path())?;
            }
        }
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(folder)?;
        let lock = File::create(folder.path().join(LOCK))?;
        // Where a file system has no locks, runs are not told apart.
        let _ = lock.try_lock();
        Ok(Self { folder, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Whether a name is that of such a directory.
    pub fn is_name(name: &str) -> bool {
        name.starts_with('.') && name.contains(".betaedit-")
    }
}

/// Removes a directory, unless a run that is still at work holds it.
fn remove_if_left(path: &Path) -> io::Result<()> {
    let lock = File::open(path.join(LOCK));
    if lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(std::fs::TryLockError::WouldBlock))) {
        return Err(io::Error::other("another run is writing there"));
    }
    // What cannot be removed is in nobody's way.
    let _ = std::fs::remove_dir_all(path);
    Ok(())
}
