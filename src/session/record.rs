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
            Self::Description(_) | Self::Undone { .. } => None,
        }
    }

    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Description(_) => 0,
            Self::Batch(_) => 1,
            Self::Rejected { .. } => 2,
            Self::Undone { .. } => 3,
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
                Ok(())
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
                Self::Batch(Batch { first, subjects, replaced, columns, layers })
            }
            2 => {
                let (first, count) = (bytes::read_u64(from)?, bytes::read_len(from, MOST_REQUESTS)?);
                Self::Rejected { first, count, reason: read_text(from, most)? }
            }
            3 => {
                let rebuilt = bytes::read_u64(from)? != 0;
                Self::Undone { rebuilt, ids: read_ids(from, most)? }
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

fn write_text(out: &mut Vec<u8>, text: &str) -> io::Result<()> {
    bytes::write_len(out, text.len())?;
    out.extend(text.as_bytes());
    Ok(())
}

fn read_text(from: &mut dyn Read, most: usize) -> io::Result<String> {
    let mut bytes = vec![0; bytes::read_len(from, most)?];
    from.read_exact(&mut bytes)?;
    String::from_utf8(bytes).map_err(|_| bytes::invalid("a text is not UTF-8"))
}
