//! Merging: edits of a batch that ask one key for several values.

use faer::{Mat, MatRef};

use crate::batch::{EditBatch, Order};
use crate::error::numerics::{NumericsError, Result};
use crate::linalg;
use crate::scalar::Scalar;

/// Whether edits of a batch with the same key are merged.
///
/// Facts about one subject have nearly the same key at the subject's last token, but different targets. Least squares
/// writes their mean, from a nearly singular system. MEMIT-Merge gives them one key and one target.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Merging {
    /// No.
    #[default]
    Never,
    /// Edits whose keys are alike, directly or through others, become one edit with the mean of their keys and the mean
    /// of their residuals. A `session::Session` also merges edits of one subject.
    Alike {
        /// Two keys are alike if the cosine of their angle is at least this.
        cosine: f64,
    },
}

impl Merging {
    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::Alike { cosine: value } if !(0.0..=1.0).contains(&value) => {
                Err(NumericsError::Parameter { parameter: "cosine of merged keys", value, allowed: "from 0 to 1" })
            }
            Self::Never | Self::Alike { .. } => Ok(()),
        }
    }

    /// Keys and residuals of a batch with its groups merged; `None` if no edits are merged.
    pub(super) fn of<T: Scalar>(self, batch: &EditBatch<'_, T>) -> Option<(Mat<T>, Mat<T>)> {
        let (Self::Alike { cosine: least }, Order::Together) = (self, batch.order()) else { return None };
        let groups = groups(batch.len(), |a, b| cosine(batch.keys(), a, batch.keys(), b) >= least);
        (groups.len() < batch.len()).then(|| (merged(batch.keys(), &groups), merged(batch.residuals(), &groups)))
    }
}

/// Groups the numbers below `n`: those that are alike, directly or through others, share a group. Groups are in the
/// order of their first members. `alike` is called once per pair, with `a < b`.
pub(crate) fn groups(n: usize, mut alike: impl FnMut(usize, usize) -> bool) -> Vec<Vec<usize>> {
    let mut first: Vec<usize> = (0..n).collect();
    for b in 1..n {
        for a in 0..b {
            if alike(a, b) {
                // Two groups that meet become one.
                let (one, other) = (first[a].min(first[b]), first[a].max(first[b]));
                first.iter_mut().filter(|first| **first == other).for_each(|first| *first = one);
            }
        }
    }
    let members = |of: usize| (0..n).filter(|&i| first[i] == of).collect::<Vec<_>>();
    (0..n).map(members).filter(|group| !group.is_empty()).collect()
}

/// The mean of the columns of every group.
pub(crate) fn merged<T: Scalar>(matrix: MatRef<'_, T>, groups: &[Vec<usize>]) -> Mat<T> {
    Mat::from_fn(matrix.nrows(), groups.len(), |i, j| {
        let sum: f64 = groups[j].iter().map(|&column| matrix[(i, column)].to_f64()).sum();
        T::from_f64(sum / groups[j].len() as f64)
    })
}

/// The cosine of the angle between two columns, 0 where one of them is zero.
pub(crate) fn cosine<T: Scalar>(A: MatRef<'_, T>, a: usize, B: MatRef<'_, T>, b: usize) -> f64 {
    let ((a, _), (b, _)) = (linalg::unit_scaled(A.subcols(a, 1)), linalg::unit_scaled(B.subcols(b, 1)));
    let norms = a.norm_l2() * b.norm_l2();
    if norms > 0.0 { linalg::inner(a.as_ref(), b.as_ref()) / norms } else { 0.0 }
}
