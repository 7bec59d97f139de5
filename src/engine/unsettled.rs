//! Keys whose pending factors are yet to be computed exactly.

use faer::MatRef;

use crate::linalg::symmetric::Symmetric;

/// Keys of `f32` whose pending factors came from rounded products: see [`settle`](super::InverseGram::settle).
#[derive(Clone, Debug, Default)]
pub(super) struct Unsettled {
    /// Column after column.
    pub(super) keys: Vec<f64>,
    /// What has become of each of them.
    pub(super) fates: Vec<Fate>,
    /// Whether a key among them leaves so little of itself behind that the rounding of the others would show.
    pub(super) strong: bool,
}

impl Unsettled {
    pub(super) fn is_empty(&self) -> bool {
        self.fates.is_empty()
    }

    pub(super) fn as_mat(&self, d_in: usize) -> MatRef<'_, f64> {
        MatRef::from_column_major_slice(&self.keys, d_in, self.fates.len())
    }

    /// The pending column of a key that came alone. Those that came last are on the left.
    pub(super) fn column<'a>(&self, Q: &'a Symmetric, i: usize) -> MatRef<'a, f64> {
        let n = self.fates.len();
        Q.last(n).subcols(n - 1 - i, 1)
    }
}

/// What a key does to `Q`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It joins the history.
    Absorbed,
    /// It joins the history and becomes untouchable: `Q k = 0`.
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
