//! The records of the journal, which hold everything needed to replay a session.

use std::collections::HashSet;
use std::io::{self, Read};

use faer::Mat;

use super::id::EditId;
use crate::scalar::Scalar;
use crate::util::bytes;

/// The most requests in a batch.
pub(super) const MOST_REQUESTS: usize = 1 << 20;

/// A record of the journal.
#[derive(Clone, Debug)]
pub(super) enum Record<T: Scalar> {
    /// What identifies the session, as lines of text.
    Description(String),
    Batch(Batch<T>),
    /// A batch that was rejected: its first request, how many, and why.
    Rejected {
        first: u64,
        count: usize,
        reason: String,
    },
    /// Edits that were undone.
    Undone {
        ids: Vec<EditId>,
        rebuilt: bool,
    },
    /// The weights were derived anew, without the edits in `gone`.
    Consolidated {
        derivation: Derivation,
        gone: Vec<EditId>,
    },
}

/// Weights that were derived from the first weights and a set of edits. The store has them, with the editors that go with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Derivation {
    /// The edits, ascending.
    pub(super) ids: Vec<EditId>,
    /// The passes behind the first one.
    pub(super) passes: usize,
}

/// An applied batch.
#[derive(Clone, Debug)]
pub(super) struct Batch<T: Scalar> {
    /// The first request.
    pub(super) first: u64,
    /// The hash of every request's subject, 0 if the adapter names none.
    pub(super) subjects: Vec<u64>,
    /// Past edits that were undone for it.
    pub(super) replaced: Vec<EditId>,
    /// The requests of every column: one, or several that were merged. First a column for each of these groups, then the companions'. A
    /// request without a column was overruled.
    pub(super) columns: Vec<Vec<EditId>>,
    pub(super) layers: Vec<Part<T>>,
    /// Every request as the adapter encodes it, or none.
    pub(super) requests: Vec<Vec<u8>>,
    /// What the residuals of the requests aimed at, a column each, if the adapter has targets of its own.
    pub(super) targets: Option<Mat<T>>,
    /// The weights that the batch was written on, if replacing edits took a derivation.
    pub(super) derivation: Option<Derivation>,
}

/// A batch at one layer.
#[derive(Clone, Debug)]
pub(super) struct Part<T: Scalar> {
    pub(super) keys: Mat<T>,
    /// The layer's share of the residuals.
    pub(super) residuals: Mat<T>,
    /// `W K` before the batch: with the residuals, the targets.
    pub(super) before: Mat<T>,
}

impl<T: Scalar> Batch<T> {
    /// How many columns are of the requests themselves: those before the first companion.
    pub(super) fn own_columns(&self) -> usize {
        // No request is in two groups, so a companion is the first column whose requests come again.
        let mut seen = HashSet::new();
        self.columns.iter().position(|ids| !seen.insert(ids.first())).unwrap_or(self.columns.len())
    }

    /// The column of an edit.
    pub(super) fn column(&self, id: EditId) -> Option<usize> {
        self.columns.iter().position(|ids| ids.contains(&id))
    }
}

impl<T: Scalar> Part<T> {
    /// Targets `W K + R`.
    pub(super) fn targets(&self) -> Mat<T> {
        &self.before + &self.residuals
    }

    /// Some of the columns.
    pub(super) fn columns(&self, keep: &[usize]) -> Self {
        let some = |matrix: &Mat<T>| Mat::from_fn(matrix.nrows(), keep.len(), |i, j| matrix[(i, keep[j])]);
        Self { keys: some(&self.keys), residuals: some(&self.residuals), before: some(&self.before) }
    }
}

impl<T: Scalar> Record<T> {
    /// The first request of the record, if it has requests.
    pub(super) fn first(&self) -> Option<u64> {
        match self {
            Self::Batch(batch) => Some(batch.first),
            Self::Rejected { first, .. } => Some(*first),
            Self::Description(_) | Self::Undone { .. } | Self::Consolidated { .. } => None,
        }
    }

    /// The derivation that the record goes with.
    pub(super) fn derivation(&self) -> Option<&Derivation> {
        match self {
            Self::Batch(batch) => batch.derivation.as_ref(),
            Self::Consolidated { derivation, .. } => Some(derivation),
            Self::Description(_) | Self::Rejected { .. } | Self::Undone { .. } => None,
        }
    }

    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Description(_) => 0,
            Self::Batch(_) => 1,
            Self::Rejected { .. } => 2,
            Self::Undone { .. } => 3,
            Self::Consolidated { .. } => 4,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes).expect("memory takes all that is written");
        bytes
    }

    fn write(&self, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Description(text) => write_text(out, text),
            Self::Batch(batch) => {
                bytes::write_u64(out, batch.first)?;
                bytes::write_len(out, batch.subjects.len())?;
                batch.subjects.iter().try_for_each(|&subject| bytes::write_u64(out, subject))?;
                write_ids(out, &batch.replaced)?;
                bytes::write_len(out, batch.columns.len())?;
                batch.columns.iter().try_for_each(|ids| write_ids(out, ids))?;
                bytes::write_len(out, batch.layers.len())?;
                for part in &batch.layers {
                    for matrix in [&part.keys, &part.residuals, &part.before] {
                        bytes::write_matrix(out, matrix.as_ref())?;
                    }
                }
                // The end of a record of the first versions.
                if batch.requests.is_empty() && batch.targets.is_none() && batch.derivation.is_none() {
                    return Ok(());
                }
                bytes::write_len(out, batch.requests.len())?;
                batch.requests.iter().try_for_each(|request| write_bytes(out, request))?;
                bytes::write_len(out, batch.targets.as_ref().map_or(0, Mat::nrows))?;
                batch.targets.iter().try_for_each(|targets| bytes::write_matrix(out, targets.as_ref()))?;
                bytes::write_u64(out, u64::from(batch.derivation.is_some()))?;
                batch.derivation.iter().try_for_each(|derivation| write_derivation(out, derivation))
            }
            Self::Rejected { first, count, reason } => {
                bytes::write_u64(out, *first)?;
                bytes::write_len(out, *count)?;
                write_text(out, reason)
            }
            Self::Undone { ids, rebuilt } => {
                bytes::write_u64(out, u64::from(*rebuilt))?;
                write_ids(out, ids)
            }
            Self::Consolidated { derivation, gone } => {
                write_derivation(out, derivation)?;
                write_ids(out, gone)
            }
        }
    }

    /// Decodes a record; `shapes` are the `(d_out, d_in)` of the session's layers.
    pub(super) fn decode(kind: u8, mut bytes: &[u8], shapes: &[(usize, usize)]) -> io::Result<Self> {
        let most = bytes.len();
        let from: &mut dyn Read = &mut bytes;
        let record = match kind {
            0 => Self::Description(read_text(from, most)?),
            1 => {
                let first = bytes::read_u64(from)?;
                let count = bytes::read_len(from, (most / 8).min(MOST_REQUESTS))?;
                let subjects = (0..count).map(|_| bytes::read_u64(from)).collect::<io::Result<_>>()?;
                let replaced = read_ids(from, most)?;
                let n = bytes::read_len(from, most / 8)?;
                let columns = (0..n).map(|_| read_ids(from, most)).collect::<io::Result<_>>()?;
                if bytes::read_len(from, shapes.len())? != shapes.len() {
                    return Err(bytes::invalid("a batch has another number of layers"));
                }
                let column: usize = shapes.iter().map(|(d_out, d_in)| d_in + 2 * d_out).sum();
                if n.saturating_mul(column).saturating_mul(size_of::<T>()) > most {
                    return Err(bytes::invalid("a batch has more columns than numbers"));
                }
                let mut layers = Vec::with_capacity(shapes.len());
                for &(d_out, d_in) in shapes {
                    let keys = bytes::read_matrix(from, d_in, n)?;
                    let residuals = bytes::read_matrix(from, d_out, n)?;
                    let before = bytes::read_matrix(from, d_out, n)?;
                    layers.push(Part { keys, residuals, before });
                }
                let (mut requests, mut targets, mut derivation) = (vec![], None, None);
                // Records of the first versions end here.
                if !bytes.is_empty() {
                    let from: &mut dyn Read = &mut bytes;
                    let n = bytes::read_len(from, count)?;
                    if n != 0 && n != count {
                        return Err(bytes::invalid("a batch does not have all of its requests"));
                    }
                    requests = (0..n).map(|_| read_bytes(from, most)).collect::<io::Result<_>>()?;
                    let rows = bytes::read_len(from, most / size_of::<T>() / count.max(1))?;
                    targets = (rows > 0).then(|| bytes::read_matrix(from, rows, count)).transpose()?;
                    derivation = (bytes::read_len(from, 1)? == 1).then(|| read_derivation(from, most)).transpose()?;
                }
                Self::Batch(Batch { first, subjects, replaced, columns, layers, requests, targets, derivation })
            }
            2 => {
                let (first, count) = (bytes::read_u64(from)?, bytes::read_len(from, MOST_REQUESTS)?);
                Self::Rejected { first, count, reason: read_text(from, most)? }
            }
            3 => {
                let rebuilt = bytes::read_u64(from)? != 0;
                Self::Undone { rebuilt, ids: read_ids(from, most)? }
            }
            4 => {
                let derivation = read_derivation(from, most)?;
                Self::Consolidated { derivation, gone: read_ids(from, most)? }
            }
            _ => return Err(bytes::invalid("a record has an unknown kind")),
        };
        if bytes.is_empty() { Ok(record) } else { Err(bytes::invalid("a record is too long")) }
    }
}

fn write_ids(out: &mut Vec<u8>, ids: &[EditId]) -> io::Result<()> {
    bytes::write_len(out, ids.len())?;
    ids.iter().try_for_each(|id| bytes::write_u64(out, id.0))
}

fn read_ids(from: &mut dyn Read, most: usize) -> io::Result<Vec<EditId>> {
    let n = bytes::read_len(from, most / 8)?;
    (0..n).map(|_| bytes::read_u64(from).map(EditId)).collect()
}

fn write_derivation(out: &mut Vec<u8>, derivation: &Derivation) -> io::Result<()> {
    bytes::write_len(out, derivation.passes)?;
    write_ids(out, &derivation.ids)
}

fn read_derivation(from: &mut dyn Read, most: usize) -> io::Result<Derivation> {
    let passes = bytes::read_len(from, usize::MAX)?;
    Ok(Derivation { passes, ids: read_ids(from, most)? })
}

fn write_text(out: &mut Vec<u8>, text: &str) -> io::Result<()> {
    write_bytes(out, text.as_bytes())
}

fn read_text(from: &mut dyn Read, most: usize) -> io::Result<String> {
    String::from_utf8(read_bytes(from, most)?).map_err(|_| bytes::invalid("a text is not UTF-8"))
}

fn write_bytes(out: &mut Vec<u8>, some: &[u8]) -> io::Result<()> {
    bytes::write_len(out, some.len())?;
    out.extend(some);
    Ok(())
}

fn read_bytes(from: &mut dyn Read, most: usize) -> io::Result<Vec<u8>> {
    let mut some = vec![0; bytes::read_len(from, most)?];
    from.read_exact(&mut some)?;
    Ok(some)
}
