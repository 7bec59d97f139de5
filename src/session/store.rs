//! Storage of a session's first weights and snapshots, in a directory. Without a directory, the first weights are kept in
//! memory, and there are no snapshots.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use faer::{Mat, MatRef};

use super::journal::Mark;
use super::layer::Layer;
use super::report::Report;
use crate::editor::Editor;
use crate::error::{FileError, Result};
use crate::scalar::Scalar;
use crate::util::atomic_file::io_error;
use crate::util::bytes;
use crate::util::sealed::{self, HASH};

const SNAPSHOT: [u8; 8] = *b"betasnp3";
const BASE: [u8; 8] = *b"betabas1";

/// What opening a session's directory found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Recovery {
    /// Whether there was a session to continue.
    pub resumed: bool,
    /// Batches and undos since the snapshot, which were replayed.
    pub replayed: u64,
    /// Bytes of an incomplete record at the end of the journal, which were dropped. Its batch had not been confirmed.
    pub dropped_bytes: u64,
    /// Why a snapshot was not used, if there was one. The journal was replayed from the start then.
    pub snapshot_ignored: Option<String>,
}

#[derive(Debug)]
pub(super) enum Store<T: Scalar> {
    Memory { base: Vec<Mat<T>> },
    Directory { path: PathBuf, fingerprint: [u8; HASH] },
}

impl<T: Scalar> Store<T> {
    pub(super) fn journal_path(directory: &Path) -> PathBuf {
        directory.join("journal")
    }

    fn base_path(directory: &Path) -> PathBuf {
        directory.join("base")
    }

    fn snapshot_path(directory: &Path) -> PathBuf {
        directory.join("snapshot")
    }

    pub(super) fn is_durable(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }

    /// The store in a directory, for the session with this description.
    pub(super) fn in_directory(path: &Path, description: &str) -> Self {
        let fingerprint = *blake3::hash(description.as_bytes()).as_bytes();
        Self::Directory { path: path.to_owned(), fingerprint }
    }

    /// The snapshot in a directory, if there is one. It should have a journal beside it.
    pub(super) fn leftover(directory: &Path) -> Option<PathBuf> {
        Some(Self::snapshot_path(directory)).filter(|path| path.exists())
    }

    /// Removes incomplete files of a killed process. Files that cannot be removed stay.
    pub(super) fn sweep(&self) {
        let Self::Directory { path, .. } = self else { return };
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        let unfinished = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(".tmp"));
        unfinished.for_each(|entry| drop(std::fs::remove_file(entry.path())));
    }

    /// Writes the first weights.
    pub(super) fn write_base<E: Editor<T> + Clone>(&self, layers: &[Layer<T, E>]) -> Result<()> {
        let Self::Directory { path, fingerprint } = self else { return Ok(()) };
        let there = Self::base_path(path);
        let mut beginning = [0; BASE.len()];
        let read = std::fs::File::open(&there).and_then(|mut file| file.read_exact(&mut beginning));
        if there.exists() && (read.is_err() || beginning != BASE) {
            let problem = "it is in the place of a session's first weights, and is none: use another directory".into();
            return Err(FileError::Format { path: there, problem }.into());
        }
        write_sealed(&there, BASE, fingerprint, |out| {
            layers.iter().try_for_each(|layer| bytes::write_matrix(out, layer.before.as_ref()))
        })
    }

    /// Passes the first weight of every layer to `each`, with one weight at a time in memory.
    pub(super) fn read_base<E: Editor<T> + Clone>(
        &self,
        layers: &mut [Layer<T, E>],
        mut each: impl FnMut(&mut Layer<T, E>, MatRef<'_, T>) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Memory { base } => {
                layers.iter_mut().zip(base).try_for_each(|(layer, weight)| each(layer, weight.as_ref()))
            }
            Self::Directory { path, fingerprint } => {
                let path = Self::base_path(path);
                let mut from = open_sealed(&path, BASE, fingerprint)?;
                layers.iter_mut().try_for_each(|layer| {
                    let (d_out, d_in) = layer.shape();
                    let weight = bytes::read_matrix(&mut from, d_out, d_in).map_err(io_error(&path))?;
                    each(layer, weight.as_ref())
                })
            }
        }
    }

    /// Writes a snapshot of the state at a place in the journal. Does nothing without a directory.
    pub(super) fn write_snapshot<E: Editor<T> + Clone>(
        &self,
        place: Mark,
        report: &Report,
        layers: &mut [Layer<T, E>],
        mut weight: impl FnMut(&mut Layer<T, E>) -> Result<()>,
    ) -> Result<()> {
        let Self::Directory { path, fingerprint } = self else { return Ok(()) };
        let mut failure = None;
        let written = write_sealed(&Self::snapshot_path(path), SNAPSHOT, fingerprint, |out| {
            bytes::write_u64(out, place.offset)?;
            out.write_all(&place.check)?;
            report.save(out)?;
            for layer in layers {
                if let Err(error) = weight(layer) {
                    failure = Some(error);
                    return Err(bytes::invalid("the weight could not be read"));
                }
                bytes::write_matrix(out, layer.before.as_ref())?;
                layer.save(out)?;
            }
            Ok(())
        });
        failure.map_or(written, Err)
    }

    /// The place in the journal at which the snapshot was taken, if there is one.
    pub(super) fn snapshot_place(&self) -> Result<Option<Mark>> {
        let Self::Directory { path, fingerprint } = self else { return Ok(None) };
        let path = Self::snapshot_path(path);
        if !path.exists() {
            return Ok(None);
        }
        let mut from = open_sealed(&path, SNAPSHOT, fingerprint)?;
        read_place(&mut from).map(Some).map_err(io_error(&path))
    }

    /// Loads the snapshot: loads the editors, and passes every weight to `each`. Returns the report.
    pub(super) fn read_snapshot<E: Editor<T> + Clone>(
        &self,
        layers: &mut [Layer<T, E>],
        mut each: impl FnMut(&mut Layer<T, E>, MatRef<'_, T>) -> Result<()>,
    ) -> Result<Report> {
        let Self::Directory { path, fingerprint } = self else { return Ok(Report::default()) };
        let path = Self::snapshot_path(path);
        let mut from = open_sealed(&path, SNAPSHOT, fingerprint)?;
        read_place(&mut from).map_err(io_error(&path))?;
        let report = Report::load(&mut from, layers.len()).map_err(io_error(&path))?;
        for layer in layers {
            let (d_out, d_in) = layer.shape();
            let weight = bytes::read_matrix(&mut from, d_out, d_in).map_err(io_error(&path))?;
            layer.load(&mut from).map_err(io_error(&path))?;
            each(layer, weight.as_ref())?;
        }
        Ok(report)
    }
}

fn read_place(from: &mut dyn Read) -> io::Result<Mark> {
    let mut place = Mark { offset: bytes::read_u64(from)?, check: [0; 16] };
    from.read_exact(&mut place.check)?;
    Ok(place)
}

/// Writes a file of a magic number, a fingerprint and contents.
fn write_sealed(
    path: &Path,
    magic: [u8; 8],
    fingerprint: &[u8; HASH],
    contents: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    sealed::write(path, &[&magic, fingerprint], contents)
}

/// Opens such a file and checks all of it. The reader starts at the contents.
fn open_sealed(path: &Path, magic: [u8; 8], fingerprint: &[u8; HASH]) -> Result<impl Read + use<>> {
    let of_kind = |head: &[u8]| match head.starts_with(&magic) {
        true => Ok(()),
        false => Err("another kind of file, or another version".to_owned()),
    };
    let (head, contents) = sealed::open::<{ 8 + HASH }>(path, of_kind)?;
    if head[magic.len()..] != fingerprint[..] {
        let problem = "from another session: model, layers, statistics or hyperparameters differ".to_owned();
        return Err(FileError::Format { path: path.to_owned(), problem }.into());
    }
    Ok(contents)
}
