//! Retention: whether edits still hold, the newest and all before it.

use faer::{Mat, MatRef, Par};

use super::written::change;
use crate::batch::EditBatch;
use crate::error::numerics::Result;
use crate::linalg;
use crate::scalar::{Scalar, cast};
use crate::update::Update;
use crate::util::shown::shown;
use crate::util::validate;

/// Write error `|Delta k - r|` of every edit of a batch: the part of its residual that is left after the update.
///
/// Cost: `O(n² (d_in + d_out))`.
///
/// # Errors
/// A batch whose shape differs from that of the update, or overflow.
pub fn write_errors<T: Scalar>(update: &Update<T>, batch: &EditBatch<'_, T>, par: Par) -> Result<Vec<f64>> {
    let left_over = change(update, batch, par)? - cast::<T, f64>(batch.residuals());
    norms(left_over.as_ref())
}

/// The keys and goals of all past edits, to measure how well each still holds.
///
/// The goal of an edit is the output it asked of the weight when it was made, `v = W k + r`. Goals are kept relative to
/// the unedited weight, `v - W0 k = D k + r`, where `D` is the total change before the edit. So the weight itself is
/// not needed.
///
/// # Memory
/// `d_in + d_out` numbers of `f64` per edit: 150 MB for 1,000 edits at 14336 x 4096.
///
/// # Examples
/// ```
/// use betaedit_core::{EditBatch, faer::{mat, Mat, Par}, metrics::Retention};
///
/// let (k, r) = (mat![[1.0], [0.0]], mat![[2.0]]);
/// let mut retention = Retention::new(2, 1);
/// let mut total = Mat::<f64>::zeros(1, 2);
/// retention.record(&EditBatch::new(k.as_ref(), r.as_ref())?, total.as_ref(), Par::Seq)?;
/// total[(0, 0)] = 1.5; // the edit reaches three quarters of its goal
/// assert_eq!(retention.errors(total.as_ref(), Par::Seq)?, [0.5]);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Retention {
    d_in: usize,
    d_out: usize,
    /// Column by column, so that it grows without a copy at every edit.
    keys: Vec<f64>,
    goals: Vec<f64>,
}

shown!([] Retention, "Retention", self => {
    "d_in": self.d_in,
    "d_out": self.d_out,
    "edits": self.len(),
});

impl Retention {
    /// A record without edits.
    #[must_use]
    pub fn new(d_in: usize, d_out: usize) -> Self {
        Self { d_in, d_out, keys: Vec::new(), goals: Vec::new() }
    }

    /// Number of edits recorded.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len() / self.d_in.max(1)
    }

    /// Whether no edit is recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Records a batch **before** its update is added to `total` (`d_out x d_in`, the sum of all updates so far).
    ///
    /// # Errors
    /// Wrong shapes, NaN, overflow. On error, nothing is recorded.
    pub fn record<T: Scalar>(&mut self, batch: &EditBatch<'_, T>, total: MatRef<'_, f64>, par: Par) -> Result<()> {
        validate::shape("keys", batch.keys(), self.d_in, batch.len())?;
        validate::shape("residuals", batch.residuals(), self.d_out, batch.len())?;
        validate::shape("total", total, self.d_out, self.d_in)?;
        validate::finite("total", total)?;
        let K = cast::<T, f64>(batch.keys());
        let goals = linalg::product(total, K.as_ref(), par) + cast::<T, f64>(batch.residuals());
        validate::no_overflow("the goals of the edits", goals.as_ref())?;
        self.keys.extend(K.col_iter().flat_map(|column| column.iter().copied()));
        self.goals.extend(goals.col_iter().flat_map(|column| column.iter().copied()));
        Ok(())
    }

    /// `|W k - v|` of every recorded edit, where `total` is the sum of all updates so far. Cost: `2 d_in d_out t`
    /// flops.
    ///
    /// # Errors
    /// Wrong shape, NaN, overflow.
    pub fn errors(&self, total: MatRef<'_, f64>, par: Par) -> Result<Vec<f64>> {
        validate::shape("total", total, self.d_out, self.d_in)?;
        validate::finite("total", total)?;
        let K = MatRef::from_column_major_slice(&self.keys, self.d_in, self.len());
        let goals = MatRef::from_column_major_slice(&self.goals, self.d_out, self.len());
        let left_over: Mat<f64> = linalg::product(total, K, par) - goals;
        norms(left_over.as_ref())
    }
}

fn norms(errors: MatRef<'_, f64>) -> Result<Vec<f64>> {
    validate::no_overflow("the errors of the edits", errors)?;
    let norms = linalg::column_norms(errors);
    validate::in_range("the errors of the edits", &norms)?;
    Ok(norms)
}
