//! Consolidation: the weights derived anew from the first weights and the edits that are in the model.

use std::collections::HashSet;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef};

use super::Session;
use super::awake::awake;
use super::id::EditId;
use super::layer::LayerOutcome;
use super::observer::ConsolidationStep;
use super::outcome::Rejection;
use super::record::{Derivation, Record};
use super::store::KnownTargets;
use super::transaction::{copy_weight, guarded, guarded_editor};
use crate::adapter::Adapter;
use crate::editor::{Editor, Reversal};
use crate::error::{NumericsError, Result, SessionError};
use crate::scalar::{Scalar, cast};
use crate::update::Update;
use crate::util::named::named;
use crate::util::setters::setters;
use crate::util::validate;

/// Edits that are asked for at a time; those that were merged count as one.
const PART: usize = 64;

/// How a session is consolidated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Consolidation {
    /// How often what is still missing is added at the last layer, behind the first pass through all layers. Only for adapters whose
    /// residuals are measured on the model as it is. Default: 0.
    pub passes: usize,
    /// Which targets the edits have. Default: [`Targets::Kept`].
    pub targets: Targets,
}

/// Which targets edits have when they are consolidated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Targets {
    /// Those that they were written with. If a session does not have them, they are sought on the unedited model.
    #[default]
    Kept,
    /// All are sought again on the unedited model.
    Unedited,
}

named!(Targets, "targets of a consolidation", { Kept => "kept", Unedited => "unedited" });

setters!(Consolidation {
    /// Sets how often what is missing is added.
    with_passes(passes: usize),
    /// Sets which targets the edits have.
    with_targets(targets: Targets),
});

/// What a consolidation did.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Consolidated {
    /// The edits that the weights are derived from, ascending.
    pub ids: Vec<EditId>,
    /// What was done to each layer, from its first weight to the present one.
    pub layers: Vec<LayerOutcome>,
}

/// Edits that are asked for together.
struct LedgerPart<R> {
    ids: Vec<EditId>,
    requests: Vec<R>,
    /// The requests of every column.
    groups: Vec<Vec<usize>>,
    /// The groups of the companions.
    belonging: Option<Vec<usize>>,
}

impl<A: Adapter, E: Editor<A::Scalar> + Clone> Session<A, E> {
    /// Derives the weights anew from the first weights and all edits that are in the model.
    ///
    /// In a sequence, the keys of old edits are no longer those that the edited model computes, targets are sought on a model that earlier
    /// edits have changed, and damage is never taken back. Here every layer is solved once for all edits together, from below, with the keys
    /// of the model as edited so far:
    ///
    /// ```text
    /// W = W0 + (sum R Kᵀ) Q,    Q = (A0 + sum K Kᵀ)⁻¹ on the method's space
    /// ```
    ///
    /// where `A0` is what the method's editor starts with. `passes` more times, what the last layer's outputs still lack is added there, with
    /// the same `Q`. The result depends on the edits alone, not on how they came: undoing an edit that was consolidated derives the weights
    /// without it, and they are bit for bit those of a session that never had it, with equal `par`.
    ///
    /// The edits go on from there, in methods with history with the keys of the consolidated edits as their history. It is one transaction: a
    /// guard that is exceeded, an error or a crash leaves everything as it was. Methods whose updates are not of this form (EMMET's slack,
    /// SimIE, random keys) are consolidated by it all the same.
    ///
    /// # Cost
    /// The requests of all edits at every layer, in parts of 64, and per layer `O(N d_in (d_in + d_out))` for `N` columns. Beyond the
    /// session's own memory: a copy of all editors and weights, one editor, `d_in x d_out` in `f64`.
    ///
    /// # Errors
    /// No edit in the model; edits that were recorded without their requests, by an adapter without
    /// [`encode`](Adapter::encode); a limit of the guards ([`SessionError::Rejected`]); an editor that cannot
    /// [`protect`](Editor::protect), give its [`product`](Editor::product), or be saved; the errors of [`edit`](Self::edit). Nothing is
    /// changed then.
    pub fn consolidate(&mut self, settings: &Consolidation) -> Result<Consolidated> {
        self.usable()?;
        if self.index.applied() == 0 {
            return Err(NumericsError::Empty { argument: "the session", item: "edit" }.into());
        }
        self.consolidate_without(&[], settings)
    }

    /// How many edits are in the model that were written since the last consolidation.
    #[must_use]
    pub fn unconsolidated(&self) -> u64 {
        let derived = self.index.derived_before(self.journal.end());
        self.index.applied() - derived.map_or(0, |derived| derived.derivation.ids.len() as u64)
    }

    /// Consolidates, and takes these edits out of the model.
    pub(super) fn consolidate_without(&mut self, gone: &[EditId], settings: &Consolidation) -> Result<Consolidated> {
        let kept = self.keep()?;
        let derived = self.derive(gone, settings).and_then(|(derivation, layers)| {
            let record = Record::Consolidated { derivation, gone: gone.to_vec() };
            let place = self.append(&record)?;
            Ok((record, place, layers))
        });
        let (record, place, layers) = match derived {
            Ok(derived) => derived,
            Err(error) => {
                self.put_back(kept)?;
                self.sweep();
                return Err(error);
            }
        };
        super::transaction::enter(&mut self.index, place, &record);
        self.report.undone += gone.len() as u64;
        self.sweep();
        let ids = record.derivation().map(|derivation| derivation.ids.clone()).unwrap_or_default();
        Ok(Consolidated { ids, layers })
    }

    /// Removes the stored weights of earlier derivations.
    pub(super) fn sweep(&mut self) {
        self.store.sweep(self.index.last_derived().map(|derived| derived.place));
    }

    /// Whether the present weights were derived from one of these edits.
    pub(super) fn derived_holds(&self, ids: &[EditId]) -> bool {
        let Some(derived) = self.index.derived_before(self.journal.end()) else { return false };
        let ids: HashSet<&EditId> = ids.iter().collect();
        derived.derivation.ids.iter().any(|id| ids.contains(id))
    }

    /// Derives the weights from the edits in the model without these, as the last consolidation did.
    pub(super) fn derive_without(&mut self, gone: &[EditId]) -> Result<Derivation> {
        Ok(self.derive(gone, &self.as_last())?.0)
    }

    /// As the last consolidation was made, with the targets that it had.
    pub(super) fn as_last(&self) -> Consolidation {
        let passes = self.index.last_derived().map_or(0, |derived| derived.derivation.passes);
        Consolidation::default().with_passes(passes)
    }

    /// Derives the weights and stores them for a record at the end of the journal. After an error the state is undefined.
    fn derive(&mut self, gone: &[EditId], settings: &Consolidation) -> Result<(Derivation, Vec<LayerOutcome>)> {
        let Consolidation { passes, targets } = *settings;
        let mut parts = self.ledger(gone)?;
        let mut ids: Vec<EditId> = parts.iter().flat_map(|part| part.ids.iter().copied()).collect();
        ids.sort_unstable();
        let known = match targets {
            Targets::Kept => self.known_targets(&ids)?,
            Targets::Unedited => KnownTargets::new(),
        };
        guarded_editor(|| self.reset())?;
        let solved = self.aim(&parts, known).and_then(|targets| Ok((targets, self.solve(&mut parts, passes)?)));
        guarded(|| {
            self.adapter.release_targets();
            Ok(())
        })?;
        let (targets, layers) = solved?;
        let place = self.journal.end();
        let Self { store, layers: all, adapter, report, .. } = self;
        store
            .write_derived(place, report, &targets, all, |layer| copy_weight(adapter, layer))
            .map_err(super::replay::unsaved)?;
        Ok((Derivation { ids, passes }, layers))
    }

    /// The targets of edits: those of the last derivation, or with which they were written.
    fn known_targets(&mut self, ids: &[EditId]) -> Result<KnownTargets<A::Scalar>> {
        let mut known = match self.index.last_derived() {
            Some(derived) => self.store.read_targets(derived.place)?,
            None => KnownTargets::new(),
        };
        let written = ids.iter().filter(|id| !known.contains_key(id)).filter_map(|&id| self.index.place(id));
        let mut places: Vec<_> = written.collect();
        places.dedup();
        for place in places {
            let batch = self.batch(place)?;
            for (j, target) in batch.targets.iter().flat_map(Mat::col_iter).enumerate() {
                known.entry(EditId(batch.first + j as u64)).or_insert_with(|| target.iter().copied().collect());
            }
        }
        Ok(known)
    }

    /// Lets the adapter aim at known targets, and at those that it finds on the unedited model. Returns all of them.
    fn aim(
        &mut self,
        parts: &[LedgerPart<A::Request>],
        mut known: KnownTargets<A::Scalar>,
    ) -> Result<KnownTargets<A::Scalar>> {
        let mut all = KnownTargets::new();
        let (mut done, of) = (0, parts.iter().map(|part| part.ids.len()).sum());
        for part in parts {
            let mut left = &part.ids[..];
            // Neighbours without a target, together.
            while let Some(at) = left.iter().position(|id| !known.contains_key(id)) {
                let first = part.ids.len() - left.len() + at;
                let count = left[at..].iter().take_while(|id| !known.contains_key(id)).count();
                left = &left[at + count..];
                let Some(found) = guarded(|| self.adapter.find_targets(&part.requests[first..first + count]))? else {
                    continue;
                };
                validate::shape("the adapter's targets", found.as_ref(), found.nrows(), count)?;
                validate::finite("the adapter's targets", found.as_ref())?;
                let columns = found.col_iter().map(|target| target.iter().copied().collect());
                known.extend(part.ids[first..].iter().copied().zip(columns));
            }
            for (id, request) in part.ids.iter().zip(&part.requests) {
                let Some(target) = known.remove(id) else { continue };
                let column = MatRef::from_column_major_slice(&target, target.len(), 1);
                guarded(|| self.adapter.hold_targets(std::slice::from_ref(request), column))?;
                all.insert(*id, target);
            }
            done += part.ids.len();
            self.observer.consolidating(&ConsolidationStep::Targets { done, of });
        }
        Ok(all)
    }

    fn solve(&mut self, parts: &mut [LedgerPart<A::Request>], passes: usize) -> Result<Vec<LayerOutcome>> {
        let of = self.layers.len();
        let layer = |i| {
            let outcome = self.derive_layer(i, parts, if i + 1 == of { passes } else { 0 })?;
            self.observer.consolidating(&ConsolidationStep::Layer { layer: outcome.layer, done: i + 1, of });
            Ok(outcome)
        };
        (0..of).map(layer).collect()
    }

    /// The edits in the model without some, and their requests in parts.
    fn ledger(&self, gone: &[EditId]) -> Result<Vec<LedgerPart<A::Request>>> {
        let held = self.index.held_without(gone);
        let mut parts = vec![];
        for some in held.chunks(PART) {
            let (mut part_ids, mut requests, mut groups) = (vec![], vec![], vec![]);
            for group in some {
                part_ids.extend(&group.ids);
                groups.push((requests.len()..requests.len() + group.ids.len()).collect());
                for (id, bytes) in group.ids.iter().zip(&group.requests) {
                    let bytes = bytes.ok_or(SessionError::NoRequest { id: id.0 })?;
                    requests.push(guarded(|| self.adapter.decode(bytes))?);
                }
            }
            parts.push(LedgerPart { ids: part_ids, requests, groups, belonging: None });
        }
        Ok(parts)
    }

    /// Solves a layer for all edits. Its editor must be at its start.
    fn derive_layer(&mut self, i: usize, parts: &mut [LedgerPart<A::Request>], passes: usize) -> Result<LayerOutcome> {
        let (d_out, d_in) = awake(&mut self.layers, i)?.shape();
        let edits: usize = parts.iter().map(|part| part.groups.len()).sum();
        let mut solver = self.layers[i].editor.clone();
        let mut outcome = None;
        for pass in 0..=passes {
            let mut sum = Mat::<f64>::zeros(d_in, d_out);
            for part in parts.iter_mut() {
                let LedgerPart { requests, groups, belonging, .. } = part;
                let asked = self.asked(i, requests, groups, None, belonging)?;
                let (K, R) = (cast::<_, f64>(asked.keys.as_ref()), cast::<_, f64>(asked.residuals.as_ref()));
                matmul(sum.as_mut(), Accum::Add, K.as_ref(), R.transpose(), 1.0, self.par);
                if pass == 0 {
                    guarded_editor(|| Ok(solver.protect(asked.keys.as_ref())?))?;
                }
            }
            let update = summed(&solver, sum)?;
            self.read_weight(i)?;
            let update = self.layers[i].restrained_update(update)?;
            let measured = self.layers[i].measure(&update)?;
            self.apply_and_verify(i, &update)?;
            self.layers[i].count(&update, measured.as_ref());
            let found = self.layers[i].derived(&update, measured);
            if let Some(violation) = self.guards.violated(&found, edits.max(1)) {
                return Err(Rejection::Guard(violation).into());
            }
            outcome = Some(found);
        }
        if self.layers[i].editor.reversal() == Reversal::Downdate {
            self.layers[i].editor = solver;
        }
        outcome.ok_or_else(|| NumericsError::Empty { argument: "the passes", item: "pass" }.into())
    }
}

/// The update `(Q sum)ᵀ`. In two parts, so that it has the precision of `Q` whatever the number type of keys.
fn summed<T: Scalar>(solver: &impl Editor<T>, sum: Mat<f64>) -> Result<Update<T>> {
    let high = cast::<f64, T>(sum.as_ref());
    let low = cast::<f64, T>((sum - cast::<T, f64>(high.as_ref())).as_ref());
    let mut product = guarded_editor(|| Ok(solver.product(high.as_ref())?))?;
    if low.norm_max() > T::from_f64(0.0) {
        product += guarded_editor(|| Ok(solver.product(low.as_ref())?))?;
    }
    let change = cast::<f64, T>(product.transpose());
    Ok(Update::from_factors(Mat::identity(change.nrows(), change.nrows()), change)?)
}
