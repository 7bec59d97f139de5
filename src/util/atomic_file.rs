//! Reading and writing whole files.

#![cfg_attr(not(feature = "safetensors"), allow(dead_code, reason = "archives are written in one way only"))]

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, FileError, Result};

/// Size of the buffer for reading and writing.
pub(crate) const BUFFER: usize = 1 << 20;

/// A file that is being written. It can seek, as archives must; a pipe cannot.
pub(crate) type Writer<'a> = BufWriter<&'a File>;

/// The error of the operating system about a file.
pub(crate) fn io_error(path: &Path) -> impl Fn(io::Error) -> Error + Copy + '_ {
    move |error| FileError::Io { path: path.to_owned(), error }.into()
}

/// The contents of a file.
#[cfg(feature = "safetensors")]
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(io_error(path))
}

/// Writes a file so that it is either complete or absent: see [`write_with`].
pub(crate) fn write_whole(path: &Path, contents: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(contents).map_err(io_error(path)))
}

/// Writes a file so that it is either complete or absent: first beside its place, then renamed into it. A link in that place is
/// replaced, and the file that it leads to stays as it is. Anything but a regular file (a pipe, a device) is written to directly.
///
/// After an error of `write` the place is unchanged.
pub(crate) fn write_with(path: &Path, write: impl FnOnce(&mut Writer<'_>) -> Result<()>) -> Result<()> {
    if leads_to_device(path) || std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        let file = File::create(path).map_err(io_error(path))?;
        return fill(path, &file, write);
    }
    Staged::new(path, write)?.commit()
}

/// Whether a path is that of a device, or of an open file of the process, such as `/dev/stdout`, by itself or by a link.
fn leads_to_device(path: &Path) -> bool {
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

/// Makes a file that is to be changed in place this path's own: a link becomes a copy of the file that it leads to.
#[cfg(feature = "session")]
pub(crate) fn make_own(path: &Path) -> Result<()> {
    let io = io_error(path);
    let there = std::fs::symlink_metadata(path).map_err(io)?;
    if !there.is_symlink() && !is_shared(&there) {
        return Ok(());
    }
    let mut from = File::open(path).map_err(io)?;
    write_with(path, |file| io::copy(&mut from, file).map(drop).map_err(io))
}

/// Whether a file has another name.
#[cfg(all(unix, feature = "session"))]
fn is_shared(there: &std::fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(there) > 1
}

#[cfg(all(not(unix), feature = "session"))]
fn is_shared(_: &std::fs::Metadata) -> bool {
    false
}

/// A file written beside its place. Dropping it deletes it and leaves the place unchanged.
pub(crate) struct Staged {
    file: NamedTempFile,
    place: PathBuf,
}

impl Staged {
    /// Writes beside `place`, and syncs to the disk.
    pub(crate) fn new(place: &Path, write: impl FnOnce(&mut Writer<'_>) -> Result<()>) -> Result<Self> {
        let io = io_error(place);
        let mut builder = tempfile::Builder::new();
        // Permissions as for any new file, not private to its owner; the umask applies.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder_of(place)).map_err(io)?;
        fill(place, file.as_file(), write)?;
        file.as_file().sync_all().map_err(io)?;
        Ok(Self { file, place: place.to_owned() })
    }

    /// Renames the file into its place. A link that is there is replaced, not followed.
    pub(crate) fn commit(self) -> Result<()> {
        let Self { file, place } = self;
        file.persist(&place).map_err(|error| io_error(&place)(error.error))?;
        // A rename is durable only when the folder is synced.
        #[cfg(unix)]
        File::open(folder_of(&place)).and_then(|folder| folder.sync_all()).map_err(io_error(&place))?;
        Ok(())
    }
}

fn folder_of(place: &Path) -> &Path {
    place.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

fn fill(path: &Path, file: &File, write: impl FnOnce(&mut Writer<'_>) -> Result<()>) -> Result<()> {
    let mut writer = BufWriter::with_capacity(BUFFER, file);
    write(&mut writer)?;
    writer.flush().map_err(io_error(path))
}
