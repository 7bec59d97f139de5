//! The editors: every closed-form method of the field as a row of one table.
//!
//! All of them compute
//!
//! ```text
//! Delta = R (G + e I)⁻¹ Zᵀ,    Z = Q K,    G = Kᵀ Z
//! ```
//!
//! and differ in how `Q` starts, whether the keys of past edits join it, whether its projector is refreshed, and in `e`, which
//! is 1 but for EMMET:
//!
//! | name | method | `Q` at the start | history | projector | also |
//! |---|---|---|---|---|---|
//! | `memit` | [`Memit`] | `(lambda C)⁻¹` | no | none | |
//! | `memit-h` | with [`History::Absorbed`] | same | yes | none | |
//! | `memit-r` | with [`History::Random`] | same | other keys | none | |
//! | `memit-merge` | with [`Merging::Alike`] | same | no | none | edits with the same key become one |
//! | `memit-ns` | [`NullSpace`] of it | `V (lambda Vᵀ C V)⁻¹ Vᵀ` | yes | refreshed | |
//! | `pmet`, `pmet-h`, `pmet-ns` | [`Pmet`] | as `memit` | as `memit` | as `memit` | share `1 / sqrt(l)` of a residual |
//! | `emmet`, `emmet-h`, `emmet-ns` | [`Emmet`] | as `memit` | as `memit` | as `memit` | `e = 0` or 0.1 |
//! | `encore` | [`Encore`] | `(lambda C + mu I)⁻¹` | yes | none | |
//! | `rlsedit` | [`RlsEdit`] | `(mu² lambda C + nu² I)⁻¹` | yes | none | |
//! | `simie` | [`SimIe`] of EMMET | as `emmet` | no | none | a second `Q` learns from its updates |
//! | `alphaedit` | [`AlphaEdit`] | `P / lambda2` | no | from `C`, once | |
//! | `alphaedit-h` | with [`History::Absorbed`] | same | yes | from `C`, once | |
//! | `betaedit` | [`BetaEdit`] | `V diag(1 / (lambda1 s_i + lambda2)) Vᵀ` | yes | refreshed | |
//! | | with [`Penalty::Dropped`] | `P / lambda2` | yes | refreshed | |
//! | | with [`Refresh::Never`](crate::Refresh::Never) | as BetaEdit | yes | from `C`, once | |
//!
//! A row is a [`Recipe`]; a [`Method`] is anything that has one; [`ClosedFormEditor`] runs it. [`METHODS`] finds rows
//! by name. [`NullSpace`] and [`SimIe`] go around any method.

mod closed_form;
pub(crate) mod merging;
mod methods;
mod random_keys;
mod recipe;
mod simulated;
mod table;

pub use closed_form::ClosedFormEditor;
pub(crate) use closed_form::Remembered;
pub use merging::Merging;
pub use methods::alphaedit::AlphaEdit;
pub use methods::betaedit::{BetaEdit, Penalty};
pub use methods::emmet::Emmet;
pub use methods::encore::Encore;
pub use methods::memit::Memit;
pub use methods::null_space::NullSpace;
pub use methods::pmet::Pmet;
pub use methods::rlsedit::RlsEdit;
pub use methods::simie::{Base, SimIe, Simulation};
pub use recipe::{History, Recipe, Share, Slack, Space};
pub use table::{Hyperparameters, METHODS, MethodEntry, method};

use std::sync::Arc;

use faer::{MatRef, Par};

use crate::batch::EditBatch;
use crate::error::Result;
use crate::refresh::{Capacity, RefreshReport};
use crate::scalar::Scalar;
use crate::spectrum::Spectrum;
use crate::update::Update;

/// A closed-form editing method: something that has a [`Recipe`].
pub trait Method {
    /// The name in the table of methods, such as `"memit-h"`.
    fn name(&self) -> &'static str;

    /// The method's row in the table.
    fn recipe(&self) -> Recipe;

    /// Refuses hyperparameters outside their range, by the names that the method gives them.
    ///
    /// # Errors
    /// [`EditError::Parameter`](crate::EditError::Parameter).
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// An editor for one layer, from the spectrum of the layer's second moment. `par` is used for all its work.
    ///
    /// # Errors
    /// Hyperparameters outside their range, a threshold that keeps nothing, or a singular start: see
    /// [`InverseGram::diagonal`](crate::InverseGram::diagonal).
    fn editor<T: Scalar>(&self, spectrum: &Arc<Spectrum>, par: Par) -> Result<ClosedFormEditor<T>>
    where
        Self: Sized,
    {
        self.check()?;
        ClosedFormEditor::new(self.name(), self.recipe(), spectrum, par)
    }
}

/// What an editor has done so far.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct EditorState {
    /// Edits committed.
    pub edits: usize,
    /// Projector refreshes made.
    pub refreshes: usize,
    /// Directions that may be edited now (`d_in` if there is no projector).
    pub kept_directions: usize,
    /// Directions of the start that are protected by now.
    pub removed_directions: usize,
    /// An early warning: whether many, few or no directions are left.
    pub capacity: Capacity,
}

/// Edits one layer: proposes updates, and remembers those that are committed.
///
/// [`propose`](Self::propose) changes nothing, so an update can be looked at, guarded, rejected and forgotten without
/// a trace. [`commit`](Self::commit) records one that was applied. [`edit`](Self::edit) is the two in one.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use betaedit_core::{EditBatch, Editor, Memit, Method, SecondMoment, Spectrum, faer::{mat, Mat, Par}};
///
/// let mut moment = SecondMoment::new(2);
/// moment.observe(mat![[2.0, 0.0], [0.0, 1.0]].as_ref(), Par::Seq)?;
/// let spectrum = Arc::new(Spectrum::of(&moment, Par::Seq)?);
/// let mut editor = Memit::default().with_lambda(1.0).editor::<f64>(&spectrum, Par::Seq)?;
///
/// let (k, r) = (mat![[0.0], [1.0]], mat![[3.0]]);
/// let update = editor.propose(&EditBatch::new(k.as_ref(), r.as_ref())?)?;
/// // Delta = r kᵀ (C + k kᵀ)⁻¹ with C = diag(2, 1/2)
/// assert!((update.dense(Par::Seq) - mat![[0.0, 2.0]]).norm_l2() < 1e-15);
/// editor.commit(&update)?;
/// assert_eq!(editor.state().edits, 1);
/// # Ok::<(), betaedit_core::EditError>(())
/// ```
pub trait Editor<T: Scalar>: Send + Sync {
    /// The method's name.
    fn name(&self) -> &str;

    /// Length of the keys.
    fn d_in(&self) -> usize;

    /// What the editor has done so far.
    fn state(&self) -> EditorState;

    /// Refreshes the projector if that is due; to be called before [`propose`](Self::propose). Returns what was done.
    ///
    /// # Errors
    /// A refresh that is impossible, for example because the history leaves no direction. The editor is unchanged
    /// then.
    fn refresh_if_due(&mut self) -> Result<Option<RefreshReport>>;

    /// Computes the update for a batch and changes nothing.
    ///
    /// # Errors
    /// Keys of another length, a due refresh, overflow, a singular small system.
    fn propose(&self, batch: &EditBatch<'_, T>) -> Result<Update<T>>;

    /// Records an update that was proposed by this editor in its present state, so that later ones know of it.
    ///
    /// # Errors
    /// [`EditError::StaleUpdate`](crate::EditError::StaleUpdate) if anything was committed since the proposal, or if
    /// the update is not this editor's. Nothing is changed then.
    fn commit(&mut self, update: &Update<T>) -> Result<()>;

    /// Protects keys without editing them: they join the history as if they had been edited with residual zero, in
    /// editors without history, too. They do not count as edits.
    ///
    /// # Errors
    /// Wrong shape, empty, NaN, overflow. Nothing is changed then.
    fn protect(&mut self, keys: MatRef<'_, T>) -> Result<()>;

    /// Takes committed edits out of the history, as if they had never been: `A <- A - K Kᵀ`. The weight is the caller's
    /// part: see [`Session::undo`](crate::session).
    ///
    /// * `keys`: those of the edits, each released once
    ///
    /// # Errors
    /// [`EditError::HistoryInProjector`](crate::EditError::HistoryInProjector) once the keys have shaped the projector,
    /// [`EditError::NotReversible`](crate::EditError::NotReversible) for SimIE and random keys,
    /// those of [`InverseGram::release`](crate::InverseGram::release), wrong shape, NaN. Nothing is changed then.
    fn release(&mut self, keys: MatRef<'_, T>) -> Result<()>;

    /// Refreshes if due, proposes, and commits.
    ///
    /// # Errors
    /// Those of the three. A refresh that was made stays; nothing else is changed then.
    fn edit(&mut self, batch: &EditBatch<'_, T>) -> Result<Update<T>> {
        crate::util::validate::shape("keys", batch.keys(), self.d_in(), batch.len())?;
        self.refresh_if_due()?;
        let update = self.propose(batch)?;
        self.commit(&update)?;
        Ok(update)
    }
}
