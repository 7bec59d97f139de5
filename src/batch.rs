//! Batches of edits: keys and residuals, checked.

use faer::{Col, ColRef, Mat, MatMut, MatRef};

use crate::error::numerics::{NumericsError, Result};
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

/// Keys or residuals as columns, in any common form: a matrix, one column, or one column as a slice.
///
/// It is implemented for faer's matrices and columns, owned (by reference) and as views, for slices, vectors and arrays,
/// and with the feature `nalgebra` for nalgebra's contiguous matrices. Implement it for your own type to pass that.
pub trait IntoColumns<'a, T> {
    /// The columns as a view, without a copy.
    fn into_columns(self) -> MatRef<'a, T>;
}

/// Implements the trait for a type by an expression.
macro_rules! into_columns {
    ($([$($parameters:tt)*] $type:ty, $self:ident => $view:expr;)+) => { $(
        impl<'a, T, $($parameters)*> IntoColumns<'a, T> for $type {
            fn into_columns($self) -> MatRef<'a, T> {
                $view
            }
        }
    )+ };
}

into_columns! {
    [] MatRef<'a, T>, self => self;
    [] &'a MatMut<'_, T>, self => self.as_ref();
    [] &'a Mat<T>, self => self.as_ref();
    [] ColRef<'a, T>, self => self.as_mat();
    [] &'a Col<T>, self => self.as_ref().as_mat();
    [] &'a [T], self => ColRef::from_slice(self).as_mat();
    [] &'a Vec<T>, self => ColRef::from_slice(self).as_mat();
    [const N: usize] &'a [T; N], self => ColRef::from_slice(self).as_mat();
}

/// A batch of edits for one layer: keys and residuals, checked.
///
/// * `keys`: `d_in x n`, the inputs of the edited matrix at the edited token, one column per edit
/// * `residuals`: `d_out x n`, the change of the matrix's output that each edit asks for
///
/// # Examples
/// ```
/// use betaedit_core::{EditBatch, error::NumericsError, faer::mat};
///
/// let keys = mat![[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]];
/// let residuals = mat![[0.5, 1.0], [0.0, 0.25]];
/// let batch = EditBatch::new(&keys, &residuals)?;
/// assert_eq!(batch.len(), 2);
///
/// // One of these edits, from columns, and another from slices.
/// let one = EditBatch::single(keys.col(0), residuals.col(0))?;
/// let other = EditBatch::single(&[0.0, 2.0, 1.0], &[1.0, 0.25])?;
/// assert_eq!((one.len(), other.keys()), (1, keys.as_ref().subcols(1, 1)));
///
/// // NaN is found before anything is computed.
/// let refused = EditBatch::single(keys.col(0), &[0.5, f64::NAN]);
/// assert!(matches!(refused, Err(NumericsError::NonFinite { argument: "residuals", row: 1, col: 0, .. })));
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
    /// * `keys`, `residuals`: a matrix with one column per edit, owned (`&K`) or a view; or one column
    ///
    /// # Errors
    /// A different number of keys and residuals, an empty batch, NaN or infinity.
    pub fn new(keys: impl IntoColumns<'a, T>, residuals: impl IntoColumns<'a, T>) -> Result<Self> {
        let (keys, residuals) = (keys.into_columns(), residuals.into_columns());
        validate::not_empty("keys", keys)?;
        validate::not_empty("residuals", residuals)?;
        validate::shape("residuals", residuals, residuals.nrows(), keys.ncols())?;
        validate::finite("keys", keys)?;
        validate::finite("residuals", residuals)?;
        Ok(Self { keys, residuals, context: None, order: Order::Together })
    }

    /// A batch of one edit, from a key of `d_in` and a residual of `d_out` numbers.
    ///
    /// # Errors
    /// As [`new`](Self::new), and more than one column.
    pub fn single(key: impl IntoColumns<'a, T>, residual: impl IntoColumns<'a, T>) -> Result<Self> {
        let key = key.into_columns();
        validate::shape("keys", key, key.nrows(), 1)?;
        Self::new(key, residual)
    }

    /// A batch of keys and residuals that stand one after the other in memory.
    ///
    /// * `keys`: `n` keys of `d_in` numbers each
    /// * `residuals`: `n` residuals of `d_out` numbers each
    ///
    /// # Errors
    /// As [`new`](Self::new), and a slice that is not a whole number of columns.
    ///
    /// ```
    /// use betaedit_core::EditBatch;
    /// let batch = EditBatch::from_slices(&[1.0_f32, 0.0, 1.0, 0.0, 2.0, 1.0], 3, &[0.5, 0.0, 1.0, 0.25], 2)?;
    /// assert_eq!((batch.keys().shape(), batch.residuals().shape()), ((3, 2), (2, 2)));
    /// # Ok::<(), betaedit_core::Error>(())
    /// ```
    pub fn from_slices(keys: &'a [T], d_in: usize, residuals: &'a [T], d_out: usize) -> Result<Self> {
        Self::new(columns_of(keys, "d_in", d_in)?, columns_of(residuals, "d_out", d_out)?)
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
    pub fn with_context(mut self, context: impl IntoColumns<'a, T>) -> Result<Self> {
        let context = context.into_columns();
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

/// Columns of this length that stand one after the other.
fn columns_of<'a, T>(numbers: &'a [T], parameter: &'static str, length: usize) -> Result<MatRef<'a, T>> {
    if length == 0 || !numbers.len().is_multiple_of(length) {
        let allowed = "a positive divisor of the length of the slice";
        return Err(NumericsError::Parameter { parameter, value: length as f64, allowed });
    }
    Ok(MatRef::from_column_major_slice(numbers, length, numbers.len() / length))
}
