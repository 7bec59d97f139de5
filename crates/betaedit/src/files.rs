//! Files that a command writes: whole or not at all, and never through a link.

use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::terminal::{Done, Failure};

/// Checks before the work that the outputs can be written, and that none of them is an input.
///
/// * `inputs`: files, or directories, whose files count
pub fn check(outputs: &[&Option<PathBuf>], inputs: &[&Path]) -> Done {
    let outputs: Vec<&Path> = outputs.iter().filter_map(|path| path.as_deref()).collect();
    for (i, path) in outputs.iter().enumerate() {
        if outputs[..i].contains(path) {
            return Err(format!("{}: two outputs cannot have the same path", path.display()).into());
        }
        let folder = folder_of(path);
        let reason = match (path.is_dir(), folder.is_dir()) {
            (true, _) => "it is a directory".to_owned(),
            (false, false) => format!("`{}` is not a directory", folder.display()),
            (false, true) if is_device(path) => continue,
            (false, true) => {
                check_writable(folder)?;
                check_apart(path, inputs)?;
                continue;
            }
        };
        return Err(format!("`{}` is not a file in an existing folder: {reason}", path.display()).into());
    }
    Ok(())
}

/// Refuses a folder in which no file can be made.
pub fn check_writable(folder: &Path) -> Done {
    tempfile::tempfile_in(folder).map(drop).map_err(about(folder))
}

/// Refuses an output that is the same file as an input, by its path or through a link.
pub fn check_apart(output: &Path, inputs: &[&Path]) -> Done {
    let refuse = |input: &Path| -> Failure {
        format!("`{}` is the input `{}`: give another path", output.display(), input.display()).into()
    };
    for input in inputs {
        if is_same(output, input) {
            return Err(refuse(input));
        }
        let inside = std::fs::read_dir(input).into_iter().flatten().flatten();
        if let Some(file) = inside.map(|entry| entry.path()).find(|file| is_same(output, file)) {
            return Err(refuse(&file));
        }
    }
    Ok(())
}

/// Whether two paths lead to one file or directory. False if either is not there, or a pipe, which must not be opened to look at it.
pub fn is_same(one: &Path, other: &Path) -> bool {
    let can_open = |path: &Path| std::fs::metadata(path).is_ok_and(|there| there.is_file() || there.is_dir());
    can_open(one) && can_open(other) && same_file::is_same_file(one, other).unwrap_or(false)
}

/// Whether a path is that of a device, or of an open file of the process, such as `/dev/stdout`, by itself or by a link.
pub fn is_device(path: &Path) -> bool {
    let mut path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for _ in 0..16 {
        if path.starts_with("/dev") || path.starts_with("/proc") {
            return !path.starts_with("/dev/shm");
        }
        let Ok(target) = std::fs::read_link(&path) else { return false };
        path = folder_of(&path).join(target);
    }
    false
}

/// Whether a file is one that desktops put into every folder.
pub fn is_of_desktop(name: &std::ffi::OsStr) -> bool {
    [".DS_Store", "Thumbs.db", "desktop.ini"].iter().any(|known| name == *known)
}

/// The folder of a path.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The error of a path.
pub fn about(path: &Path) -> impl Fn(io::Error) -> Failure + Copy + '_ {
    move |error| format!("`{}`: {error}", path.display()).into()
}

/// Writes a file beside its place and renames it. A link in that place is replaced, and the file that it leads to stays as it is. A
/// pipe or a device is written to.
pub fn replace(path: &Path, contents: impl AsRef<[u8]>) -> Done {
    let contents = contents.as_ref();
    let write = || -> io::Result<()> {
        let is_pipe = || std::fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir());
        if is_device(path) || is_pipe() {
            return File::options().append(true).open(path)?.write_all(contents);
        }
        let mut file = beside(path)?;
        file.write_all(contents)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        sync_folder(folder_of(path))
    };
    write().map_err(about(path))
}

/// Makes a file that is to be appended to this path's own: a link becomes a copy of the file that it leads to.
pub fn make_own(path: &Path) -> Done {
    let Ok(there) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !there.is_symlink() && !is_shared(&there) {
        return Ok(());
    }
    let copy = || -> io::Result<()> {
        let mut file = beside(path)?;
        io::copy(&mut File::open(path)?, file.as_file_mut())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    copy().map_err(about(path))
}

/// Copies a file's contents. The copy has the permissions of a new file, even if the original cannot be written.
pub fn copy(from: &Path, to: &Path) -> Done {
    let mut original = File::open(from).map_err(about(from))?;
    let mut copy = File::create(to).map_err(about(to))?;
    io::copy(&mut original, &mut copy).map(drop).map_err(about(to))
}

/// Waits until the names in a folder are on the disk.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// A new file in the folder of a path.
fn beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    // Readable like any new file, not private to its owner; the process's mask applies.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder_of(path))
}

/// Whether a file has another name.
#[cfg(unix)]
fn is_shared(there: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(there) > 1
}

#[cfg(not(unix))]
fn is_shared(_: &Metadata) -> bool {
    false
}
