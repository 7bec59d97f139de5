//! Batches of edits: keys and residuals, checked.

use faer::{Mat, MatRef};

use crate::error::numerics::Result;
use crate::scalar::Scalar;
use crate::util::named::named;
use crate::util::shown::{Shown, shown};
use crate::util::validate;

/// Whether the edits of a batch are written together or one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Order {
    /// Together: one solve for all. Every residual is relative to the weight before the batch.
    #[default]
    Together,
    /// One after the other, as if each edit were its own batch, but at the speed of a matrix product. For streams whose
    /// keys are known in advance. The residual of an edit is relative to the weight after the edits before it. No
    /// refresh comes in between, and a continuous refresh tests the keys of the sequence together.
    InSequence,
}

named!(Order, "order of a batch", { Together => "together", InSequence => "in-sequence" });

/// A batch of edits for one layer: keys and residuals, checked.
///
/// * `keys`: `d_in x n`, the inputs of the edited matrix at the edited token, one column per edit
/// * `residuals`: `d_out x n`, the change that each edit asks of the matrix's output
///
/// # Examples
/// ```
/// use betaedit_core::{EditBatch, error::NumericsError, faer::mat};
///
/// let keys = mat![[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]];
/// let residuals = mat![[0.5, f64::NAN], [0.0, 0.25]];
/// let refused = EditBatch::new(keys.as_ref(), residuals.as_ref());
/// assert!(matches!(refused, Err(NumericsError::NonFinite { argument: "residuals", row: 0, col: 1, .. })));
/// # Ok::<(), NumericsError>(())
/// ```
#[derive(Clone, Copy)]
pub struct EditBatch<'a, T: Scalar> {
    keys: MatRef<'a, T>,
    residuals: MatRef<'a, T>,
    context: Option<MatRef<'a, T>>,
    order: Order,
}

shown!([T: Scalar] EditBatch<'_, T>, "EditBatch", self => {
    "keys": Shown::from(self.keys.shape()),
    "residuals": Shown::from(self.residuals.shape()),
    "context": self.context.map(|context| Shown::from(context.shape())),
    "order": self.order,
});

impl<'a, T: Scalar> EditBatch<'a, T> {
    /// Checks a batch.
    ///
    /// # Errors
    /// A different number of keys and residuals, an empty batch, NaN or infinity.
    pub fn new(keys: MatRef<'a, T>, residuals: MatRef<'a, T>) -> Result<Self> {
        validate::not_empty("keys", keys)?;
        validate::not_empty("residuals", residuals)?;
        validate::shape("residuals", residuals, residuals.nrows(), keys.ncols())?;
        validate::finite("keys", keys)?;
        validate::finite("residuals", residuals)?;
        Ok(Self { keys, residuals, context: None, order: Order::Together })
    }

    /// The same edits, written one after the other.
    #[must_use]
    pub fn in_sequence(mut self) -> Self {
        self.order = Order::InSequence;
        self
    }

    /// The same edits, with the inputs of the edited matrix at all tokens of their requests, `d_in x m`. For methods
    /// that use more than the edited token ([`SimIe`](crate::editor::SimIe)).
    ///
    /// # Errors
    /// Inputs whose length differs from that of the keys, no column, NaN or infinity.
    pub fn with_context(mut self, context: MatRef<'a, T>) -> Result<Self> {
        validate::columns("context", context, self.keys.nrows())?;
        validate::finite("context", context)?;
        self.context = Some(context);
        Ok(self)
    }

    /// The inputs of the edited matrix at all tokens, if given.
    #[must_use]
    pub fn context(&self) -> Option<MatRef<'a, T>> {
        self.context
    }

    /// This batch with merged keys and residuals, each for one or more edits.
    pub(crate) fn merged<'b>(&self, keys: &'b Mat<T>, residuals: &'b Mat<T>) -> EditBatch<'b, T>
    where
        'a: 'b,
    {
        EditBatch { keys: keys.as_ref(), residuals: residuals.as_ref(), ..*self }
    }

    /// Whether the edits are written together or one after the other.
    #[must_use]
    pub fn order(&self) -> Order {
        self.order
    }

    /// The keys `K`, `d_in x n`.
    #[must_use]
    pub fn keys(&self) -> MatRef<'a, T> {
        self.keys
    }

    /// The residuals `R`, `d_out x n`.
    #[must_use]
    pub fn residuals(&self) -> MatRef<'a, T> {
        self.residuals
    }

    /// Number of edits `n` in the batch.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.keys.ncols()
    }
}
