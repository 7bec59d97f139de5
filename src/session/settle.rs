//! Finds the conflicts of a batch and settles them by the policy.

use faer::Mat;

use super::Session;
use super::conflict::{Conflict, ConflictPolicy, near_signs, sketch};
use super::id::EditId;

use super::outcome::Rejection;
use super::transaction::Stop;
use crate::adapter::Adapter;
use crate::editor::{Editor, merging};

/// What to write of a batch, once its conflicts are settled.
pub(super) struct Settled {
    /// The requests of every column.
    pub(super) groups: Vec<Vec<usize>>,
    /// Past edits to undo.
    pub(super) replaced: Vec<EditId>,
    pub(super) found: Vec<Conflict>,
}

impl<A: Adapter, E: Editor<A::Scalar> + Clone> Session<A, E> {
    /// Finds conflicts and decides by the policy what is written.
    pub(super) fn settle(
        &mut self,
        keys: &Mat<A::Scalar>,
        subjects: &[u64],
        ids: &[EditId],
        giving_way: &[EditId],
    ) -> std::result::Result<Settled, Stop> {
        let n = ids.len();
        let mut found = Vec::new();
        let together = merging::groups(n, |a, b| {
            let cosine = merging::cosine(keys.as_ref(), a, keys.as_ref(), b);
            let same_subject = subjects[a] != 0 && subjects[a] == subjects[b];
            let conflict = same_subject || cosine >= self.near;
            if conflict {
                found.push(Conflict { edit: ids[b], with: ids[a], cosine, same_subject });
            }
            conflict
        });
        let groups: Vec<Vec<usize>> = match self.policy {
            ConflictPolicy::Merge => together,
            ConflictPolicy::LastWins => together.iter().filter_map(|group| Some(vec![*group.last()?])).collect(),
            ConflictPolicy::Report if self.merges => together,
            ConflictPolicy::Report | ConflictPolicy::Reject => (0..n).map(|request| vec![request]).collect(),
        };
        let mut replaced = Vec::new();
        for (j, &id) in ids.iter().enumerate() {
            let sketch = sketch(keys.as_ref().subcols(j, 1));
            for (with, same_subject) in self.index.candidates(subjects[j], sketch, near_signs(self.near)) {
                let Some(place) = self.index.place(with).filter(|_| !giving_way.contains(&with)) else { continue };
                let past = self.batch(place).map_err(Stop::Failed)?;
                let Some(column) = past.column(with) else { continue };
                let cosine = merging::cosine(past.layers[0].keys.as_ref(), column, keys.as_ref(), j);
                if same_subject || cosine >= self.near {
                    found.push(Conflict { edit: id, with, cosine, same_subject });
                    // A request that is overruled within its batch overrules nothing.
                    let written = groups.iter().any(|group| group.contains(&j));
                    if written && !replaced.contains(&with) {
                        replaced.push(with);
                    }
                }
            }
        }
        if self.policy == ConflictPolicy::Reject
            && let Some(&conflict) = found.first()
        {
            return Err(Stop::Rejected(Rejection::Conflict(conflict)));
        }
        if matches!(self.policy, ConflictPolicy::Report | ConflictPolicy::Reject) {
            replaced.clear();
        }
        let replaced = self.with_partners(&replaced).map_err(Stop::Failed)?;
        Ok(Settled { groups, replaced, found })
    }
}
