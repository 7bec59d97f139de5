//! An edited weight in the number type of its tensor.

use faer::{Mat, Par};
use rayon::iter::{IndexedParallelIterator, IntoParallelRefMutIterator, ParallelIterator};

use super::header::{GgufEntry, GgufHeader};
use super::kind::{GgufType, Line};
use super::nearest::{self, Importance};
use crate::error::{NumericsError, Result};
use crate::format::{Precision, malformed};
use crate::linalg;
use crate::util::validate;

/// A weight with its edits.
#[derive(Clone, Debug)]
pub struct EditedWeight {
    /// `d_out x d_in`.
    pub weight: Mat<f32>,
    /// Where its rounding to a quantized type matters. Without this, every number is rounded by itself, and small edits are lost.
    pub importance: Option<Importance>,
}

/// How much of the edits of a weight is left in its number type.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Survival {
    /// The number type of the stored weight.
    pub kind: GgufType,
    /// `|Delta|_F`, the change that was asked for.
    pub asked: f64,
    /// `|E|_F`, the distance of the stored weight from what was asked for.
    pub error: f64,
    /// `|E K|_F / |Delta K|_F` at the keys of the [`Importance`], if there is one.
    pub lost_at_keys: Option<f64>,
}

impl Survival {
    /// The share of the edits that is left: at their keys, if these were given, else of all entries. 0 if the loss is as large as the edits.
    #[must_use]
    pub fn share(&self) -> f64 {
        let lost = self.lost_at_keys.unwrap_or(if self.error > 0.0 { self.error / self.asked } else { 0.0 });
        (1.0 - lost).max(0.0)
    }
}

/// The bytes of a tensor with a new weight, in a number type that is its own or a larger one.
pub(super) fn encoded(
    header: &mut GgufHeader,
    tensor: &GgufEntry,
    kind: GgufType,
    new: &EditedWeight,
    par: Par,
) -> Result<(Vec<u8>, Survival)> {
    let (d_out, d_in) = check_shape(header, tensor, new)?;
    let path = header.path.clone();
    let refused = |problem: String| malformed(&path, format!("tensor `{}`: {problem}", tensor.name));
    let Some((own, bytes)) = header.kind(tensor) else {
        return Err(refused("its rows are not whole blocks of its type".to_owned()));
    };
    let old = header.read(header.start + tensor.offset, bytes)?;
    let mut rows = GridRows::read(own, &old, d_out, d_in);
    let before = rows.numbers();
    if !linalg::largest(before.as_ref()).is_finite() {
        return Err(refused("it holds NaN or infinity".to_owned()));
    }
    let wanted = Mat::from_fn(d_out, d_in, |i, j| f64::from(new.weight[(i, j)]));
    let change = &wanted - &before;
    let (stored, bytes) = match (kind == own).then(|| own.codes()).flatten() {
        Some(codes) => {
            rows.settle(codes, &wanted, &change, new.importance.as_ref(), par);
            (rows.numbers(), rows.encoded(&old))
        }
        None => plain(kind, &wanted).map_err(|error| refused(error.to_string()))?,
    };
    let error = &stored - &wanted;
    let at_keys = |importance: &Importance| {
        let norm = |E: &Mat<f64>| linalg::product(E.as_ref(), importance.keys(), par).norm_l2();
        let (lost, asked) = (norm(&error), norm(&change));
        if lost > 0.0 { lost / asked } else { 0.0 }
    };
    let lost_at_keys = new.importance.as_ref().map(at_keys);
    Ok((bytes, Survival { kind, asked: change.norm_l2(), error: error.norm_l2(), lost_at_keys }))
}

/// The rows of a weight, as numbers on the grids of their blocks. Numbers that are stored as they are have a grid of one point each.
struct GridRows {
    kind: GgufType,
    rows: Vec<Vec<Line>>,
}

impl GridRows {
    fn read(kind: GgufType, bytes: &[u8], d_out: usize, d_in: usize) -> Self {
        let row_bytes = d_in / kind.block() * kind.bytes();
        let row = |bytes: &[u8]| -> Vec<Line> {
            match precision(kind) {
                Some(precision) => {
                    let mut numbers = vec![0.0; d_in];
                    precision.decode(bytes, &mut numbers);
                    numbers.into_iter().map(|offset| Line { offset, step: 0.0, code: 0 }).collect()
                }
                None => bytes.chunks_exact(kind.bytes()).flat_map(|block| kind.lines(block)).collect(),
            }
        };
        Self { kind, rows: bytes.chunks_exact(row_bytes.max(1)).take(d_out).map(row).collect() }
    }

    fn numbers(&self) -> Mat<f64> {
        let d_in = self.rows.first().map_or(0, Vec::len);
        Mat::from_fn(self.rows.len(), d_in, |i, j| self.rows[i][j].number())
    }

    /// Brings the codes to those of the wanted numbers, which are those of the rows and a change.
    fn settle(
        &mut self,
        codes: (i32, i32),
        wanted: &Mat<f64>,
        change: &Mat<f64>,
        importance: Option<&Importance>,
        par: Par,
    ) {
        // Before any code changes, the error is the change that is missing.
        let weighed = importance.map(|importance| (importance, -importance.weighed(change.as_ref(), par)));
        let settle = |(i, row): (usize, &mut Vec<Line>)| match &weighed {
            None => nearest::round(row, codes, wanted.row(i).iter().copied()),
            Some((importance, weighed)) => {
                let mut weighed: Vec<f64> = weighed.row(i).iter().copied().collect();
                importance.settle(row, codes, &mut weighed);
            }
        };
        match par {
            Par::Seq => self.rows.iter_mut().enumerate().for_each(settle),
            Par::Rayon(_) => self.rows.par_iter_mut().enumerate().with_max_len(1).for_each(settle),
        }
    }

    /// The blocks, with their codes in place of those that were there.
    fn encoded(&self, old: &[u8]) -> Vec<u8> {
        let mut bytes = old.to_vec();
        let blocks = self.rows.iter().flat_map(|row| row.chunks(self.kind.block()));
        for (block, lines) in bytes.chunks_exact_mut(self.kind.bytes()).zip(blocks) {
            self.kind.set_codes(block, lines.iter().map(|line| line.code));
        }
        bytes
    }
}

fn precision(kind: GgufType) -> Option<Precision> {
    match kind {
        GgufType::F32 => Some(Precision::F32),
        GgufType::F16 => Some(Precision::F16),
        GgufType::Bf16 => Some(Precision::Bf16),
        _ => None,
    }
}

/// Each number rounded once, and its bytes.
fn plain(kind: GgufType, wanted: &Mat<f64>) -> Result<(Mat<f64>, Vec<u8>), NumericsError> {
    let precision = precision(kind).unwrap_or(Precision::F32);
    let mut bytes = Vec::with_capacity(wanted.nrows() * wanted.ncols() * precision.bytes());
    let mut stored = Mat::zeros(wanted.nrows(), wanted.ncols());
    for i in 0..wanted.nrows() {
        for j in 0..wanted.ncols() {
            stored[(i, j)] = precision.encode(wanted[(i, j)], &mut bytes);
        }
    }
    match linalg::largest(stored.as_ref()).is_finite() {
        true => Ok((stored, bytes)),
        false => Err(NumericsError::Overflow { step: "the edited weight", scalar: precision.name() }),
    }
}

/// Refuses a weight of another shape than its tensor.
fn check_shape(header: &GgufHeader, tensor: &GgufEntry, new: &EditedWeight) -> Result<(usize, usize)> {
    let [d_in, d_out] = tensor.dimensions[..] else {
        let (name, n) = (&tensor.name, tensor.dimensions.len());
        return Err(malformed(&header.path, format!("tensor `{name}` has {n} dimensions, expected 2")));
    };
    let (d_out, d_in) = (d_out as usize, d_in as usize);
    let refused = |error| malformed(&header.path, format!("tensor `{}`: {error}", tensor.name));
    validate::shape("weight", new.weight.as_ref(), d_out, d_in).map_err(refused)?;
    validate::finite("weight", new.weight.as_ref()).map_err(refused)?;
    if let Some(importance) = &new.importance
        && importance.d_in() != d_in
    {
        let (expected, found) = ((d_in, 1).into(), (importance.d_in(), 1).into());
        return Err(refused(NumericsError::Shape { argument: "the keys", expected, found }));
    }
    Ok((d_out, d_in))
}
