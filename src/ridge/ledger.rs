//! The samples that a regression holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use faer::{ColRef, Mat, MatRef};

use crate::error::numerics::{NumericsError, Result};
use crate::util::named::named;
use crate::util::random::scrambled;

/// What a [`Ridge`](super::Ridge) remembers of its samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Samples {
    /// A checksum of 16 bytes for each sample, by which it is recognised when it is to be forgotten. The sample itself cannot be
    /// recovered from it.
    #[default]
    Recognised,
    /// The samples themselves, `8 (d_in + d_out)` bytes each, so that they can be forgotten by their numbers.
    Kept,
}

named!(Samples, "sample memory", { Recognised => "recognised", Kept => "kept" });

/// Samples: `X` (`d_in x n`) and `Y` (`d_out x n`).
pub(super) type Held = (Mat<f64>, Mat<f64>);

/// Every sample that is held, by its number.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    kept: Samples,
    next: u64,
    entries: BTreeMap<u64, Entry>,
    /// The numbers of the samples with a checksum, ascending.
    numbers: HashMap<u128, Vec<u64>>,
}

#[derive(Clone, Debug)]
struct Entry {
    checksum: u128,
    /// Empty if samples are not kept.
    x: Box<[f64]>,
    y: Box<[f64]>,
}

impl Ledger {
    pub(super) fn new(kept: Samples) -> Self {
        Self { kept, next: 0, entries: BTreeMap::new(), numbers: HashMap::new() }
    }

    /// Number of samples that are held.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Number of samples that were ever fitted.
    pub(super) fn fitted(&self) -> u64 {
        self.next
    }

    pub(super) fn add(&mut self, X: MatRef<'_, f64>, Y: MatRef<'_, f64>) -> Range<u64> {
        let first = self.next;
        for (x, y) in X.col_iter().zip(Y.col_iter()) {
            let copied = |column: ColRef<'_, f64>| match self.kept {
                Samples::Recognised => Box::default(),
                Samples::Kept => column.iter().copied().collect(),
            };
            self.insert(self.next, checksum(x, y), copied(x), copied(y));
        }
        first..self.next
    }

    /// Holds a sample with a number above all others.
    pub(super) fn insert(&mut self, number: u64, checksum: u128, x: Box<[f64]>, y: Box<[f64]>) {
        self.numbers.entry(checksum).or_default().push(number);
        self.entries.insert(number, Entry { checksum, x, y });
        self.next = number + 1;
    }

    /// What is remembered of the samples.
    #[cfg(feature = "files")]
    pub(super) fn samples(&self) -> Samples {
        self.kept
    }

    /// Every sample: its number, its checksum, and itself if it is kept.
    #[cfg(feature = "files")]
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u128, &[f64], &[f64])> {
        self.entries.iter().map(|(number, entry)| (*number, entry.checksum, &*entry.x, &*entry.y))
    }

    /// Gives the next sample this number.
    #[cfg(feature = "files")]
    pub(super) fn skip_to(&mut self, next: u64) {
        self.next = next;
    }

    /// The numbers of samples; of equal ones, the last fitted. A sample that is given twice is found twice.
    pub(super) fn find(&self, X: MatRef<'_, f64>, Y: MatRef<'_, f64>) -> Result<Vec<u64>> {
        let mut found: HashMap<u128, usize> = HashMap::new();
        let columns = X.col_iter().zip(Y.col_iter()).enumerate();
        columns
            .map(|(sample, (x, y))| {
                let checksum = checksum(x, y);
                let before = found.entry(checksum).or_default();
                *before += 1;
                let equal = self.numbers.get(&checksum).map_or(&[][..], Vec::as_slice);
                let which = equal.len().checked_sub(*before);
                which.map(|which| equal[which]).ok_or(NumericsError::NotFitted { sample: sample as u64 })
            })
            .collect()
    }

    /// Kept samples. Outputs that were added later have the target 0.
    pub(super) fn recall(&self, numbers: &[u64], d_in: usize, d_out: usize) -> Result<Held> {
        if self.kept != Samples::Kept {
            let what = "forgetting by number, because the samples are not kept: give the samples to `forget`, or keep them \
                        (`with_samples(Samples::Kept)`)";
            return Err(NumericsError::Unsupported { what: what.to_owned() });
        }
        let mut seen = BTreeSet::new();
        let mut entries = Vec::with_capacity(numbers.len());
        for &sample in numbers {
            let entry = self.entries.get(&sample).filter(|_| seen.insert(sample));
            entries.push(entry.ok_or(NumericsError::NotFitted { sample })?);
        }
        let X = Mat::from_fn(d_in, entries.len(), |i, j| entries[j].x[i]);
        let Y = Mat::from_fn(d_out, entries.len(), |i, j| entries[j].y.get(i).copied().unwrap_or(0.0));
        Ok((X, Y))
    }

    /// Removes samples that are held.
    pub(super) fn remove(&mut self, numbers: &[u64]) {
        for number in numbers {
            let Some(entry) = self.entries.remove(number) else { continue };
            if let Some(equal) = self.numbers.get_mut(&entry.checksum) {
                equal.retain(|other| other != number);
                if equal.is_empty() {
                    self.numbers.remove(&entry.checksum);
                }
            }
        }
    }
}

/// Equal for equal samples, and different for different ones except with a chance of 2⁻¹²⁸. Outputs that are zero at the end do
/// not count: more may be added later.
fn checksum(x: ColRef<'_, f64>, y: ColRef<'_, f64>) -> u128 {
    let outputs = (0..y.nrows()).rev().find(|&i| y[i] != 0.0).map_or(0, |last| last + 1);
    let y = y.subrows(0, outputs);
    let lane = |seed: u64| {
        // Adding zero makes one number of 0.0 and -0.0.
        let mixed = |sum: u64, number: &f64| scrambled(sum ^ (number + 0.0).to_bits());
        x.iter().chain(y.iter()).fold(scrambled(seed), mixed)
    };
    u128::from(lane(0)) << 64 | u128::from(lane(1))
}
