//! Storage of a session's first weights and snapshots, in a directory. Without a directory, the first weights are kept in
//! memory, and there are no snapshots.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use faer::{Mat, MatRef};

use super::awake::{awake, awake_to_read};
use super::id::EditId;
use super::journal::Mark;
use super::layer::Layer;
use super::report::Report;
use crate::editor::Editor;
use crate::error::{Error, FileError, Result};
use crate::scalar::Scalar;
use crate::util::atomic_file::io_error;
use crate::util::bytes;
use crate::util::sealed::{self, HASH};

/// The most numbers of a target.
const LONGEST: usize = 1 << 24;
const DERIVED_NAME: &str = "consolidated-";
const SNAPSHOT: [u8; 8] = *b"betasnp3";
const BASE: [u8; 8] = *b"betabas1";
const DERIVED: [u8; 8] = *b"betader1";

/// What the residuals of edits aim at.
pub(super) type KnownTargets<T> = BTreeMap<EditId, Vec<T>>;

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
    Memory { base: Vec<Mat<T>>, derived: BTreeMap<u64, Vec<u8>> },
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

    /// The file of the weights that were derived at a place in the journal.
    fn derived_path(directory: &Path, place: Mark) -> PathBuf {
        directory.join(format!("{DERIVED_NAME}{}", place.offset))
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

    /// Removes derived weights other than those at a place in the journal, and incomplete files of a killed process. Files that cannot be
    /// removed stay.
    pub(super) fn sweep(&mut self, derived: Option<Mark>) {
        let path = match self {
            Self::Memory { derived: all, .. } => {
                return all.retain(|&offset, _| derived.is_some_and(|place| place.offset == offset));
            }
            Self::Directory { path, .. } => path,
        };
        let kept = derived.map(|place| Self::derived_path(path, place));
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        let unneeded = entries.filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(".tmp") || (name.starts_with(DERIVED_NAME) && Some(entry.path()) != kept)
        });
        unneeded.for_each(|entry| drop(std::fs::remove_file(entry.path())));
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
            Self::Memory { base, .. } => {
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
        weight: impl FnMut(&mut Layer<T, E>) -> Result<()>,
    ) -> Result<()> {
        let Self::Directory { path, fingerprint } = self else { return Ok(()) };
        let mut failure = None;
        let written = write_sealed(&Self::snapshot_path(path), SNAPSHOT, fingerprint, |out| {
            write_place(out, place)?;
            write_state(out, report, layers, weight, &mut failure)
        });
        failure.map_or(written, Err)
    }

    /// Keeps the state as weights that were derived at a place in the journal, where their record comes.
    ///
    /// * `targets`: those of the edits that the weights were derived from
    pub(super) fn write_derived<E: Editor<T> + Clone>(
        &mut self,
        place: Mark,
        report: &Report,
        targets: &KnownTargets<T>,
        layers: &mut [Layer<T, E>],
        weight: impl FnMut(&mut Layer<T, E>) -> Result<()>,
    ) -> Result<()> {
        let mut failure = None;
        let write = |out: &mut dyn Write| {
            write_place(out, place)?;
            write_targets(out, targets)?;
            write_state(out, report, layers, weight, &mut failure)
        };
        let written = match self {
            Self::Memory { derived, .. } => {
                let mut state = Vec::new();
                write(&mut state)
                    .map(|()| drop(derived.insert(place.offset, state)))
                    .map_err(io_error(Path::new("memory")))
            }
            Self::Directory { path, fingerprint } => {
                write_sealed(&Self::derived_path(path, place), DERIVED, fingerprint, write)
            }
        };
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
        each: impl FnMut(&mut Layer<T, E>, MatRef<'_, T>) -> Result<()>,
    ) -> Result<Report> {
        let Self::Directory { path, fingerprint } = self else { return Ok(Report::default()) };
        let path = Self::snapshot_path(path);
        let mut from = open_sealed(&path, SNAPSHOT, fingerprint)?;
        read_place(&mut from).map_err(io_error(&path))?;
        read_state(&mut from, &path, layers, each)
    }

    /// Loads the weights that were derived at a place in the journal, as [`read_snapshot`](Self::read_snapshot) does.
    pub(super) fn read_derived<E: Editor<T> + Clone>(
        &self,
        place: Mark,
        layers: &mut [Layer<T, E>],
        each: impl FnMut(&mut Layer<T, E>, MatRef<'_, T>) -> Result<()>,
    ) -> Result<Report> {
        let (mut from, path) = self.open_derived(place)?;
        read_targets::<T>(&mut *from).map_err(io_error(&path))?;
        read_state(&mut *from, &path, layers, each)
    }

    /// The targets of the edits from which weights were derived at a place in the journal.
    pub(super) fn read_targets(&self, place: Mark) -> Result<KnownTargets<T>> {
        let (mut from, path) = self.open_derived(place)?;
        read_targets(&mut *from).map_err(io_error(&path))
    }

    /// What [`write_derived`](Self::write_derived) wrote, behind the place.
    fn open_derived(&self, place: Mark) -> Result<(Box<dyn Read + '_>, PathBuf)> {
        let (mut from, path): (Box<dyn Read>, _) = match self {
            Self::Memory { derived, .. } => {
                let state = derived.get(&place.offset).map(Vec::as_slice).unwrap_or_default();
                (Box::new(state), PathBuf::from("memory"))
            }
            Self::Directory { path, fingerprint } => {
                let path = Self::derived_path(path, place);
                (Box::new(open_sealed(&path, DERIVED, fingerprint)?), path)
            }
        };
        if read_place(&mut *from).map_err(io_error(&path))? != place {
            let problem = "from another place of the journal: restore the file that belongs to it".into();
            return Err(FileError::Format { path, problem }.into());
        }
        Ok((from, path))
    }
}

fn write_targets<T: Scalar>(out: &mut dyn Write, targets: &KnownTargets<T>) -> io::Result<()> {
    bytes::write_len(out, targets.len())?;
    targets.iter().try_for_each(|(id, target)| {
        bytes::write_u64(out, id.0)?;
        bytes::write_matrix(out, MatRef::from_column_major_slice(target, target.len(), 1))
    })
}

fn read_targets<T: Scalar>(from: &mut dyn Read) -> io::Result<KnownTargets<T>> {
    let mut targets = KnownTargets::new();
    for _ in 0..bytes::read_len(from, usize::MAX)? {
        let id = EditId(bytes::read_u64(from)?);
        let mut target = vec![T::from_f64(0.0); bytes::read_len(from, LONGEST)?];
        bytes::read_len(from, 1)?;
        bytes::read_numbers(from, &mut target)?;
        targets.insert(id, target);
    }
    Ok(targets)
}

fn write_place(out: &mut dyn Write, place: Mark) -> io::Result<()> {
    bytes::write_u64(out, place.offset)?;
    out.write_all(&place.check)
}

/// Writes the report, and of every layer the weight and what it saves.
fn write_state<T: Scalar, E: Editor<T> + Clone>(
    out: &mut dyn Write,
    report: &Report,
    layers: &mut [Layer<T, E>],
    mut weight: impl FnMut(&mut Layer<T, E>) -> Result<()>,
    failure: &mut Option<Error>,
) -> io::Result<()> {
    report.save(out)?;
    for i in 0..layers.len() {
        let ready = awake_to_read(layers, i).and_then(|layer| {
            weight(layer)?;
            Ok(layer)
        });
        let layer = match ready {
            Ok(layer) => layer,
            Err(error) => {
                *failure = Some(error);
                return Err(bytes::invalid("the layer could not be read"));
            }
        };
        bytes::write_matrix(out, layer.before.as_ref())?;
        layer.save(out)?;
        layer.forget_before();
    }
    Ok(())
}

/// Reads what [`write_state`] wrote.
fn read_state<T: Scalar, E: Editor<T> + Clone>(
    from: &mut dyn Read,
    path: &Path,
    layers: &mut [Layer<T, E>],
    mut each: impl FnMut(&mut Layer<T, E>, MatRef<'_, T>) -> Result<()>,
) -> Result<Report> {
    let report = Report::load(from, layers.len()).map_err(io_error(path))?;
    for i in 0..layers.len() {
        let layer = awake(layers, i)?;
        let (d_out, d_in) = layer.shape();
        let weight = bytes::read_matrix(from, d_out, d_in).map_err(io_error(path))?;
        layer.load(from).map_err(io_error(path))?;
        each(layer, weight.as_ref())?;
    }
    Ok(report)
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
