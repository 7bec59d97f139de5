//! Edits that contradict each other: found by subject, or by keys that are nearly parallel.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use faer::MatRef;

use super::id::EditId;
use super::journal::Mark;
use super::record::Derivation;
use crate::scalar::Scalar;
use crate::util::named::named;
use crate::util::random;

/// What to do about a conflict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum ConflictPolicy {
    /// Both edits are written, as in the papers; a method that merges within a batch merges them. The outcome reports the
    /// conflict.
    #[default]
    Report,
    /// The batch is rejected.
    Reject,
    /// Within a batch, the edits are merged into one with the mean of their keys and the mean of their residuals (as in
    /// MEMIT-Merge, arXiv 2502.07322, where the group shares one target). Against past edits, as [`LastWins`](Self::LastWins).
    Merge,
    /// The later edit is written. The earlier one is not, or is undone if it is already in the model.
    LastWins,
}

named!(ConflictPolicy, "conflict policy", {
    Report => "report",
    Reject => "reject",
    Merge => "merge",
    LastWins => "last-wins",
});

/// Two edits of the same subject, or with nearly parallel keys at the first layer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Conflict {
    /// The later edit.
    pub edit: EditId,
    /// The earlier one.
    pub with: EditId,
    /// The cosine of the angle between their keys.
    pub cosine: f64,
    /// Whether the adapter names the same subject for both.
    pub same_subject: bool,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = if self.same_subject { "the same subject, " } else { "" };
        write!(f, "edit {} conflicts with edit {}: {subject}keys of cosine {:.4}", self.edit, self.with, self.cosine)
    }
}

/// What is known about every request without reading the journal.
#[derive(Debug)]
pub(super) struct EditIndex {
    /// Requests of batches that were applied, ascending. Rejected requests have no entry: a short record can reject many.
    entries: Vec<IndexEntry>,
    /// Every entry's request as the adapter encodes it.
    requests: Vec<Option<Box<[u8]>>>,
    seen: u64,
    applied: u64,
    by_subject: HashMap<u64, Vec<u32>>,
    /// Entries by each of the eight bytes of their sketch.
    by_sketch: Vec<Vec<u32>>,
    derived: Option<DerivedAt>,
}

#[derive(Clone, Copy, Debug)]
struct IndexEntry {
    id: EditId,
    place: Mark,
    subject: u64,
    sketch: u64,
    /// The first of the edits that it was merged with.
    group: EditId,
    fate: Standing,
}

/// A request that is in the model, or several that were merged.
pub(super) struct HeldGroup<'a> {
    pub(super) ids: Vec<EditId>,
    /// The requests as the adapter encodes them.
    pub(super) requests: Vec<Option<&'a [u8]>>,
}

/// What the last derivation of the weights holds, and where it is in the journal.
#[derive(Clone, Debug)]
pub(super) struct DerivedAt {
    pub(super) place: Mark,
    pub(super) derivation: Derivation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Applied,
    /// Overruled within its batch.
    Never,
    /// Undone or replaced, by the record at this byte of the journal.
    Gone {
        at: u64,
    },
}

impl Default for EditIndex {
    fn default() -> Self {
        let by_sketch = vec![Vec::new(); 8 * 256];
        let (entries, requests, by_subject) = (Vec::new(), Vec::new(), HashMap::new());
        Self { entries, requests, seen: 0, applied: 0, by_subject, by_sketch, derived: None }
    }
}

impl EditIndex {
    pub(super) fn len(&self) -> u64 {
        self.seen
    }

    pub(super) fn applied(&self) -> u64 {
        self.applied
    }

    /// Adds the next request; `written` is the sketch of its key and the first of the edits that it was merged with, if it was applied.
    pub(super) fn add(&mut self, place: Mark, subject: u64, written: Option<(u64, EditId)>, request: Option<&[u8]>) {
        let sketch = written.map(|(sketch, _)| sketch);
        let fate = if sketch.is_some() { Standing::Applied } else { Standing::Never };
        if let (Some(sketch), Ok(at)) = (sketch, u32::try_from(self.entries.len())) {
            self.applied += 1;
            if subject != 0 {
                self.by_subject.entry(subject).or_default().push(at);
            }
            buckets(sketch).for_each(|bucket| self.by_sketch[bucket].push(at));
        }
        let (id, (sketch, group)) = (EditId(self.seen), written.unwrap_or((0, EditId(self.seen))));
        self.entries.push(IndexEntry { id, place, subject, sketch, group, fate });
        self.requests.push(request.map(Into::into));
        self.seen += 1;
    }

    /// Counts the next requests as rejected.
    pub(super) fn pass_over(&mut self, requests: usize) {
        self.seen += requests as u64;
    }

    pub(super) fn is_applied(&self, id: EditId) -> bool {
        self.entry(id).is_some_and(|entry| entry.fate == Standing::Applied)
    }

    pub(super) fn place(&self, id: EditId) -> Option<Mark> {
        self.entry(id).map(|entry| entry.place)
    }

    /// Marks an edit as undone or replaced by the record at a place.
    pub(super) fn take_back(&mut self, id: EditId, place: Mark) {
        let Some(at) = self.position(id) else { return };
        let entry = &mut self.entries[at];
        if entry.fate == Standing::Applied {
            entry.fate = Standing::Gone { at: place.offset };
            self.applied -= 1;
            let other = |&one: &u32| one as usize != at;
            buckets(entry.sketch).for_each(|bucket| self.by_sketch[bucket].retain(other));
            if let Some(entries) = self.by_subject.get_mut(&entry.subject) {
                entries.retain(other);
            }
        }
    }

    /// Whether an edit was in the model when the journal ended at a place.
    pub(super) fn was_applied(&self, id: EditId, place: Mark) -> bool {
        self.entry(id).is_some_and(|entry| match entry.fate {
            Standing::Applied => true,
            Standing::Gone { at } => at >= place.offset,
            Standing::Never => false,
        })
    }

    /// Notes that the weights were derived anew by the record at a place.
    pub(super) fn derive(&mut self, place: Mark, derivation: &Derivation) {
        self.derived = Some(DerivedAt { place, derivation: derivation.clone() });
    }

    /// The last derivation of the weights, also if all of its edits were undone since.
    pub(super) fn last_derived(&self) -> Option<&DerivedAt> {
        self.derived.as_ref()
    }

    /// The last derivation of the weights, if its edits were in the model when the journal ended at a place. They leave it together.
    pub(super) fn derived_before(&self, end: Mark) -> Option<&DerivedAt> {
        let holds = |derived: &&DerivedAt| {
            let first = derived.derivation.ids.first();
            derived.place.offset < end.offset && first.is_some_and(|&id| self.was_applied(id, end))
        };
        self.derived.as_ref().filter(holds)
    }

    /// The edits that are in the model, but for some, in the order in which they came. Those that were merged are together.
    pub(super) fn held_without(&self, gone: &[EditId]) -> Vec<HeldGroup<'_>> {
        let gone: HashSet<EditId> = gone.iter().copied().collect();
        let held = |entry: &IndexEntry| entry.fate == Standing::Applied && !gone.contains(&entry.id);
        let mut groups: Vec<HeldGroup<'_>> = Vec::new();
        let mut at = HashMap::new();
        for (entry, request) in self.entries.iter().zip(&self.requests).filter(|(entry, _)| held(entry)) {
            let i = *at.entry(entry.group).or_insert_with(|| {
                groups.push(HeldGroup { ids: vec![], requests: vec![] });
                groups.len() - 1
            });
            groups[i].ids.push(entry.id);
            groups[i].requests.push(request.as_deref());
        }
        groups
    }

    fn entry(&self, id: EditId) -> Option<&IndexEntry> {
        self.position(id).map(|at| &self.entries[at])
    }

    fn position(&self, id: EditId) -> Option<usize> {
        self.entries.binary_search_by_key(&id, |entry| entry.id).ok()
    }

    /// Edits in the model that may conflict with a new one: the latest of the same subject (their value is `true`), and those
    /// with the most similar sketches, which differ in at most `near` signs.
    pub(super) fn candidates(&self, subject: u64, sketch: u64, near: u32) -> BTreeMap<EditId, bool> {
        let entry = |at: u32| &self.entries[at as usize];
        let distance = |at: u32| (entry(at).sketch ^ sketch).count_ones();
        let alike = buckets(sketch).flat_map(|bucket| self.by_sketch[bucket].iter().copied());
        let mut alike: Vec<(u32, Reverse<u32>)> =
            alike.map(|at| (distance(at), Reverse(at))).filter(|(distance, _)| *distance <= near).collect();
        alike.sort_unstable();
        alike.dedup();
        let mut found: BTreeMap<EditId, bool> =
            alike.into_iter().take(CANDIDATES).map(|(_, Reverse(at))| (entry(at).id, false)).collect();
        let same = self.by_subject.get(&subject).into_iter().flatten().rev().take(CANDIDATES);
        found.extend(same.map(|&at| (entry(at).id, true)));
        found
    }
}

/// The largest number of signs in which keys of at least this cosine may differ: the mean plus four standard deviations.
pub(super) fn near_signs(cosine: f64) -> u32 {
    let mean = 64.0 * cosine.clamp(-1.0, 1.0).acos() / std::f64::consts::PI;
    (mean + 4.0 * mean.sqrt() + 1.0).ceil() as u32
}

fn buckets(sketch: u64) -> impl Iterator<Item = usize> {
    (0..8).map(move |byte| 256 * byte + (sketch >> (8 * byte) & 255) as usize)
}

/// The most candidates of each kind that are examined for a new edit.
const CANDIDATES: usize = 8;

/// The signs of 64 fixed random projections of a key. The number in which two sketches differ estimates the keys' angle.
pub(super) fn sketch<T: Scalar>(key: MatRef<'_, T>) -> u64 {
    let mut sums = [0.0_f64; 64];
    for (i, k) in key.col(0).iter().enumerate() {
        let signs = random::scrambled(i as u64);
        let k = k.to_f64();
        for (bit, sum) in sums.iter_mut().enumerate() {
            *sum += if signs >> bit & 1 == 1 { k } else { -k };
        }
    }
    sums.iter().enumerate().fold(0, |sketch, (bit, &sum)| sketch | u64::from(sum > 0.0) << bit)
}

/// A hash of the subject, never 0; 0 if there is none.
pub(super) fn subject_hash(subject: Option<&str>) -> u64 {
    subject.map_or(0, |subject| {
        let hash = blake3::hash(subject.trim().to_lowercase().as_bytes());
        u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes")).max(1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of a few bytes can reject a million requests.
    #[test]
    fn rejected_requests_take_numbers_and_no_memory() {
        let place = |offset| Mark { offset, check: [0; 16] };
        let mut index = EditIndex::default();
        index.add(place(8), 1, Some((5, EditId(0))), None);
        index.pass_over(1 << 20);
        index.add(place(80), 1, Some((5, EditId((1 << 20) + 1))), None);
        let (first, rejected, last) = (EditId(0), EditId(7), EditId((1 << 20) + 1));
        assert_eq!((index.len(), index.applied(), index.entries.len()), ((1 << 20) + 2, 2, 2));
        assert_eq!(
            (index.place(first), index.place(rejected), index.place(last)),
            (Some(place(8)), None, Some(place(80)))
        );
        assert_eq!(index.candidates(1, 5, 0), BTreeMap::from([(first, true), (last, true)]));
        index.take_back(first, place(120));
        index.take_back(rejected, place(120));
        assert!(!index.is_applied(first) && index.was_applied(first, place(100)) && index.is_applied(last));
        assert_eq!(index.candidates(1, 5, 0), BTreeMap::from([(last, true)]));
    }
}
