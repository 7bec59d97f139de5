//! Editors: every closed-form method of the field as a row of one table.
//!
//! All of them compute
//!
//! ```text
//! Delta = R (G + e I)⁻¹ Zᵀ,    Z = Q K,    G = Kᵀ Z
//! ```
//!
//! They differ in how `Q` starts, whether the keys of past edits join it, whether its projector is refreshed, and in
//! `e`, which is 1 except for EMMET:
//!
//! | name | method | `Q` at the start | history | projector | also |
//! |---|---|---|---|---|---|
//! | `memit` | [`Memit`] | `(lambda C)⁻¹` | no | none | |
//! | `memit-h` | with [`History::Absorbed`] | same | yes | none | |
//! | `memit-r` | with [`History::Random`] | same | random keys | none | |
//! | `memit-merge` | with [`Merging::Alike`] | same | no | none | edits with the same key become one |
//! | `memit-ns` | [`NullSpace`] around it | `V (lambda Vᵀ C V)⁻¹ Vᵀ` | yes | refreshed | |
//! | `pmet`, `pmet-h`, `pmet-ns` | [`Pmet`] | as `memit` | as `memit` | as `memit` | share `1 / sqrt(l)` of a residual |
//! | `emmet`, `emmet-h`, `emmet-ns` | [`Emmet`] | as `memit` | as `memit` | as `memit` | `e = 0` or 0.1 |
//! | `encore` | [`Encore`] | `(lambda C + mu I)⁻¹` | yes | none | |
//! | `rlsedit` | [`RlsEdit`] | `(mu² lambda C + nu² I)⁻¹` | yes | none | |
//! | `simie` | [`SimIe`] around EMMET | as `emmet` | no | none | a second `Q` learns from its updates |
//! | `alphaedit` | [`AlphaEdit`] | `P / lambda2` | no | from `C`, once | |
//! | `alphaedit-h` | with [`History::Absorbed`] | same | yes | from `C`, once | |
//! | `betaedit` | [`BetaEdit`] | `V diag(1 / (lambda1 s_i + lambda2)) Vᵀ` | yes | refreshed | |
//! | | with [`Penalty::Dropped`] | `P / lambda2` | yes | refreshed | |
//! | | with [`Refresh::Never`](crate::Refresh::Never) | as BetaEdit | yes | from `C`, once | |
//!
//! A row is a [`Recipe`]. A [`Method`] provides one, and [`ClosedFormEditor`] runs it. [`METHODS`] lists the rows by
//! name. [`NullSpace`] and [`SimIe`] wrap any method.

mod boxed;
mod closed_form;
mod describe;
mod hyperparameters;
pub(crate) mod merging;
mod method;
mod methods;
mod proposal;
mod random_keys;
mod recipe;
mod simulated;
mod solution;
mod start;
mod state;
mod table;

pub use crate::util::description::Description;
pub use closed_form::ClosedFormEditor;
pub use hyperparameters::Hyperparameters;
pub use merging::Merging;
pub use method::{AnyMethod, Method, NamedRecipe};
pub use methods::alphaedit::AlphaEdit;
pub use methods::betaedit::{BetaEdit, Penalty};
pub use methods::emmet::Emmet;
pub use methods::encore::Encore;
pub use methods::memit::Memit;
pub use methods::null_space::NullSpace;
pub use methods::pmet::Pmet;
pub use methods::rlsedit::{Anchors, RlsEdit};
pub use methods::simie::SimIe;
pub use proposal::Proposal;
pub use recipe::{Base, History, Recipe, Share, Simulation, Slack, Space};
pub use table::{METHODS, MethodEntry, method};

use std::{fmt, io};

use faer::{Mat, MatRef};

use crate::batch::EditBatch;
use crate::error::numerics::{NumericsError, Result};
use crate::refresh::{Capacity, RefreshReport};
use crate::scalar::Scalar;
use crate::update::Update;
use crate::util::validate;

/// What an editor has done so far.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct EditorState {
    /// Edits committed.
    pub edits: usize,
    /// Projector refreshes made.
    pub refreshes: usize,
    /// Directions that may be edited now (`d_in` if there is no projector).
    pub kept_directions: usize,
    /// Directions of the initial space that are protected by now.
    pub removed_directions: usize,
    /// Whether many, few or no directions are left: an early warning. It counts directions, whatever the keys: how much
    /// room they leave for keys like yours is [`metrics::room`](crate::metrics::room), in every outcome of a session.
    pub capacity: Capacity,
}

impl EditorState {
    /// The state after `edits` edits and `refreshes` refreshes, with `kept` directions left of `first`.
    ///
    /// ```
    /// use betaedit_core::{editor::EditorState, refresh::Capacity};
    /// let state = EditorState::new(10, 0, 3, 40);
    /// assert_eq!((state.removed_directions, state.capacity), (37, Capacity::Low));
    /// ```
    #[must_use]
    pub fn new(edits: usize, refreshes: usize, kept: usize, first: usize) -> Self {
        Self {
            edits,
            refreshes,
            kept_directions: kept,
            removed_directions: first.saturating_sub(kept),
            capacity: Capacity::new(kept, first),
        }
    }
}

/// How a committed edit can be undone without a trace. A session asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reversal {
    /// The editor is least squares with history: [`Editor::release`] removes the key, and the weight changes by a term
    /// of rank one along [`Editor::product`].
    Downdate,
    /// Edits of different batches are independent: the update of a batch is replaced by the update of its remaining
    /// edits. [`Editor::propose`] computes both, and [`Editor::release`] removes the edits from the count.
    Replace,
    /// The other edits are replayed from the start, towards their original targets `W k + r`. For editors in which an
    /// edit depends on those before it.
    ReplayTargets,
    /// The other edits are replayed from the start, with their original residuals.
    ReplayResiduals,
}

/// Edits one layer: proposes updates, and remembers those that are committed.
///
/// [`propose`](Self::propose) changes nothing, so an update can be inspected, guarded and rejected without a trace.
/// [`commit`](Self::commit) records an update that was applied. [`edit`](Self::edit) does both in one call.
///
/// An editor of your own implements the five methods without a default, or wraps another editor and forwards the calls.
/// The guide `docs/adding-an-editor.md` shows both. The other methods serve a session: without them it can edit, and
/// undo by replaying, but not take snapshots.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use betaedit_core::{EditBatch, Editor, Memit, Method, SecondMoment, Spectrum, faer::{mat, Mat, Par}};
///
/// let mut moment = SecondMoment::new(2);
/// moment.observe(mat![[2.0, 0.0], [0.0, 1.0]].as_ref(), Par::Seq)?;
/// let spectrum = Arc::new(Spectrum::new(&moment, Par::Seq)?);
/// let mut editor = Memit::default().with_lambda(1.0).editor::<f64>(&spectrum, Par::Seq)?;
///
/// let (k, r) = (mat![[0.0], [1.0]], mat![[3.0]]);
/// let proposal = editor.propose(&EditBatch::new(k.as_ref(), r.as_ref())?)?;
/// // Delta = r kᵀ (C + k kᵀ)⁻¹ with C = diag(2, 1/2)
/// assert!((proposal.update().to_dense(Par::Seq) - mat![[0.0, 2.0]]).norm_l2() < 1e-15);
/// editor.commit(proposal)?;
/// assert_eq!(editor.state().edits, 1);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
pub trait Editor<T: Scalar>: fmt::Debug + Send + Sync {
    /// The method's name.
    fn name(&self) -> &str;

    /// Length of the keys.
    fn d_in(&self) -> usize;

    /// What the editor has done so far.
    fn state(&self) -> EditorState;

    /// Computes the update for a batch. Changes nothing.
    ///
    /// # Errors
    /// Keys of another length, a refresh that is due, overflow, a singular small system.
    fn propose(&self, batch: &EditBatch<'_, T>) -> Result<Proposal<T>>;

    /// Records a proposal that this editor made in its present state, so that later proposals take it into account. The
    /// caller has applied its [`update`](Proposal::update) to the weight.
    ///
    /// # Errors
    /// [`NumericsError::StaleProposal`] if the state that the proposal depends on has changed since, or if another editor
    /// made it. (A clone is the same editor until one of the two changes.) In a method without history and simulation, a
    /// commit changes nothing that proposals depend on, so several proposals of one state can be committed. On error,
    /// nothing is changed.
    fn commit(&mut self, proposal: Proposal<T>) -> Result<()>;

    /// Refreshes the projector if a refresh is due, and returns what was done. Call it before
    /// [`propose`](Self::propose). The default does nothing, for editors without a projector.
    ///
    /// # Errors
    /// A refresh that is impossible, for example because the history leaves no direction. On error, the editor is
    /// unchanged.
    fn refresh_if_due(&mut self) -> Result<Option<RefreshReport>> {
        Ok(None)
    }

    /// Protects keys without editing them: they join the history as if they had been edited with residual zero, even in
    /// editors without history. They do not count as edits.
    ///
    /// # Errors
    /// Wrong shape, empty, NaN, overflow; [`NumericsError::Unsupported`] by default. On error, nothing is changed.
    fn protect(&mut self, keys: MatRef<'_, T>) -> Result<()> {
        let _ = keys;
        Err(self.unsupported("protecting keys without editing them"))
    }

    /// How a committed edit can be undone. The default, [`Reversal::ReplayTargets`], is right for any editor.
    fn reversal(&self) -> Reversal {
        Reversal::ReplayTargets
    }

    /// Removes committed edits from the history, as if they had never been made: `A <- A - K Kᵀ`. The caller changes
    /// the weight: see `Session::undo`.
    ///
    /// * `keys`: the keys of these edits, each released once
    ///
    /// # Errors
    /// [`NumericsError::HistoryInProjector`] once the keys have shaped the projector;
    /// [`NumericsError::NotReversible`] for SimIE and random keys, and by default; the errors of
    /// [`InverseGram::release`](crate::InverseGram::release); wrong shape, NaN. On error, nothing is changed.
    fn release(&mut self, keys: MatRef<'_, T>) -> Result<()> {
        let _ = keys;
        Err(NumericsError::NotReversible)
    }

    /// `Q K` (`d_in x n`) in the present state, for [`Reversal::Downdate`].
    ///
    /// # Errors
    /// Wrong shape, NaN; [`NumericsError::NotReversible`] by default.
    fn product(&self, keys: MatRef<'_, T>) -> Result<Mat<f64>> {
        let _ = keys;
        Err(NumericsError::NotReversible)
    }

    /// `s = kᵀ A0⁻¹ k` of every key, with `A0` the initial protected Gram matrix: see
    /// [`metrics::stability`](crate::metrics::stability). The default, `None`, means that the editor does not know it.
    ///
    /// # Errors
    /// Wrong shape, empty, NaN.
    fn stability(&self, keys: MatRef<'_, T>) -> Result<Option<Vec<f64>>> {
        let _ = keys;
        Ok(None)
    }

    /// Writes the state, bit for bit. An editor that loads it and continues computes the same numbers, with an equal
    /// `Par`.
    ///
    /// The bytes hold no checksum and no version; a `session::Session` adds both. If an editor does not
    /// implement this, a session takes no snapshots and replays its journal from the start when it is opened.
    ///
    /// # Errors
    /// Those of the writer; [`Unsupported`](io::ErrorKind::Unsupported) by default.
    fn save(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let _ = out;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Loads a state that [`save`](Self::save) wrote for an editor with the same settings.
    ///
    /// # Errors
    /// Those of the reader; [`InvalidData`](io::ErrorKind::InvalidData) for a state that cannot belong to this editor;
    /// [`Unsupported`](io::ErrorKind::Unsupported) by default. On error, the editor is unchanged.
    fn load(&mut self, from: &mut dyn io::Read) -> io::Result<()> {
        let _ = from;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Writes the large matrices of the state, so that [`drop_matrices`](Self::drop_matrices) can give their memory back. By default an
    /// editor has none: it stays in memory.
    ///
    /// A `session::Session` whose layers are at rest puts an editor away like this between its turns.
    ///
    /// # Errors
    /// Those of the writer; [`NumericsError::AtRest`] if they are dropped already.
    fn write_matrices(&mut self, out: &mut dyn io::Write) -> Result<()> {
        let _ = out;
        Ok(())
    }

    /// Gives the memory of the large matrices back. Until [`read_matrices`](Self::read_matrices) has brought them back, everything that
    /// needs them is an error ([`NumericsError::AtRest`]).
    fn drop_matrices(&mut self) {}

    /// Reads what [`write_matrices`](Self::write_matrices) wrote. Proposals made before are still good.
    ///
    /// # Errors
    /// Those of the reader. The editor is then as it was, without the matrices.
    fn read_matrices(&mut self, from: &mut dyn io::Read) -> Result<()> {
        let _ = from;
        Ok(())
    }

    /// Refreshes if a refresh is due, proposes, and commits. Returns the update, which the caller applies to the weight.
    ///
    /// # Errors
    /// Those of the three methods. On error, a refresh that was made stays, and nothing else is changed.
    fn edit(&mut self, batch: &EditBatch<'_, T>) -> Result<Update<T>> {
        validate::shape("keys", batch.keys(), self.d_in(), batch.len())?;
        self.refresh_if_due()?;
        let proposal = self.propose(batch)?;
        let update = proposal.update().clone();
        self.commit(proposal)?;
        Ok(update)
    }

    /// The error of an operation that this editor does not support.
    #[doc(hidden)]
    fn unsupported(&self, operation: &'static str) -> NumericsError {
        NumericsError::Unsupported { what: format!("{operation} with the editor `{}`", self.name()) }
    }
}
