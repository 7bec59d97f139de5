//! A proposal: an update, and what the editor needs to commit it.

use std::any::Any;
use std::fmt;

use crate::engine::StateToken;
use crate::error::numerics::{NumericsError, Result};
use crate::scalar::Scalar;
use crate::update::Update;
use crate::util::shown::Few;

/// An update that an [`Editor`](super::Editor) has computed but not yet recorded.
///
/// It holds the update, a memo with what the editor needs to commit it, and the token of the state that it was computed
/// in. An editor commits only its own proposals, made in its present state. To reject a proposal, drop it: it leaves no
/// trace.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use betaedit_core::{EditBatch, Editor, Memit, Method, Spectrum, faer::{mat, Mat, Par}};
///
/// let spectrum = Arc::new(Spectrum::from_matrix(Mat::<f64>::identity(2, 2).as_ref(), Par::Seq)?);
/// let mut editor = Memit::default().with_lambda(1.0).editor::<f64>(&spectrum, Par::Seq)?;
/// let (k, r) = (mat![[1.0], [0.0]], mat![[4.0]]);
/// let proposal = editor.propose(&EditBatch::new(k.as_ref(), r.as_ref())?)?;
/// assert_eq!(proposal.gains(), [1.0]); // half of the residual is written
///
/// let half = proposal.scaled(0.5)?;
/// assert_eq!(half.update().to_dense(Par::Seq), mat![[1.0, 0.0]]);
/// editor.commit(half)?;
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[must_use = "dropping a proposal rejects it"]
pub struct Proposal<T: Scalar> {
    update: Update<T>,
    gains: Vec<f64>,
    directions_taken: usize,
    memo: Box<dyn Any + Send + Sync>,
    token: StateToken,
}

impl<T: Scalar> Proposal<T> {
    /// Makes a proposal.
    ///
    /// * `memo`: what the editor needs at the commit, see [`into_memo`](Self::into_memo); `()` for nothing
    /// * `token`: the token of the editor's present state
    pub fn new(update: Update<T>, memo: impl Any + Send + Sync, token: &StateToken) -> Self {
        Self { update, gains: Vec::new(), directions_taken: 0, memo: Box::new(memo), token: token.clone() }
    }

    /// Sets `g = kᵀ Q k` of every key of the batch.
    pub fn with_gains(mut self, gains: Vec<f64>) -> Self {
        self.gains = gains;
        self
    }

    /// Sets the number of directions that a commit will remove from the space that may be edited.
    pub fn with_directions_taken(mut self, directions: usize) -> Self {
        self.directions_taken = directions;
        self
    }

    /// The update.
    pub fn update(&self) -> &Update<T> {
        &self.update
    }

    /// Returns the update alone, for example of a proposal that is not committed.
    pub fn into_update(self) -> Update<T> {
        self.update
    }

    /// `g = kᵀ Q k` of every key of the batch. An edit on its own writes the share `g / (1 + g)` of its residual. Empty
    /// if the editor does not provide it.
    #[must_use]
    pub fn gains(&self) -> &[f64] {
        &self.gains
    }

    /// Number of directions that a commit will remove from the space that may be edited.
    #[must_use]
    pub fn directions_taken(&self) -> usize {
        self.directions_taken
    }

    /// The same proposal with another update. Its keys join the history all the same. A [restraint](crate::restraint)
    /// changes an update in this way.
    ///
    /// # Errors
    /// Those of `change`, and an update of another shape.
    pub fn map_update(mut self, change: impl FnOnce(&Update<T>) -> Result<Update<T>>) -> Result<Self> {
        let changed = change(&self.update)?;
        changed.check_shape("the changed update", self.update.d_out(), self.update.d_in())?;
        self.update = changed.for_edits(self.update.edits());
        Ok(self)
    }

    /// The same proposal with its update times `c`.
    ///
    /// # Errors
    /// Those of [`Update::scaled`].
    pub fn scaled(self, c: f64) -> Result<Self> {
        self.map_update(|update| update.scaled(c))
    }

    /// Splits a proposal into update and memo, for the editor that commits it.
    ///
    /// * `token`: the token of the editor's present state
    ///
    /// # Errors
    /// [`NumericsError::StaleProposal`] if the proposal was made in another state; [`NumericsError::Editor`] if its memo
    /// is not an `M`.
    pub fn into_memo<M: Any>(self, token: &StateToken) -> Result<(Update<T>, M)> {
        if self.token != *token {
            return Err(NumericsError::StaleProposal);
        }
        let memo = self.memo.downcast::<M>().map_err(|_| {
            NumericsError::Editor("the memo of the proposal has another type than the commit asks for".into())
        })?;
        Ok((self.update, *memo))
    }
}

impl<T: Scalar> fmt::Debug for Proposal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proposal")
            .field("update", &self.update)
            .field("gains", &Few(&self.gains))
            .field("directions_taken", &self.directions_taken)
            .finish_non_exhaustive()
    }
}
