//! Keys whose pending factors still have to be computed exactly.

use faer::MatRef;

use crate::linalg::symmetric::Symmetric;

/// `f32` keys whose pending factors came from rounded products: see [`settle`](super::InverseGram::settle).
#[derive(Clone, Default)]
pub(super) struct Unsettled {
    /// Column by column.
    pub(super) keys: Vec<f64>,
    /// What became of each key.
    pub(super) fates: Vec<Fate>,
    /// Whether any of these keys leaves so little of itself that the rounding of the others would show.
    pub(super) strong: bool,
}

impl Unsettled {
    pub(super) fn is_empty(&self) -> bool {
        self.fates.is_empty()
    }

    pub(super) fn as_mat(&self, d_in: usize) -> MatRef<'_, f64> {
        MatRef::from_column_major_slice(&self.keys, d_in, self.fates.len())
    }

    /// The pending column of a key that was pushed alone. The latest are on the left.
    pub(super) fn column<'a>(&self, Q: &'a Symmetric, i: usize) -> MatRef<'a, f64> {
        let n = self.fates.len();
        Q.last(n).subcols(n - 1 - i, 1)
    }
}

/// How a key changes `Q`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The key joins the history.
    Absorbed,
    /// The key joins the history and is constrained: `Q k = 0`.
    Removed,
}

impl Fate {
    /// `delta` in `Q - z zᵀ / (delta + g)`.
    pub(super) fn noise(self) -> f64 {
        match self {
            Self::Absorbed => 1.0,
            Self::Removed => 0.0,
        }
    }
}
