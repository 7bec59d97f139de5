//! The `f32` copy of `Q`, and the fallback where its precision is not enough.

use faer::{Accum, Mat};

use super::InverseGram;
use super::solution::Workspace;
use crate::error::numerics::Result;
use crate::linalg::symmetric::{BLOCK, Symmetric};
use crate::linalg::{self, Need};

impl InverseGram {
    /// Keeps an `f32` copy of `Q`, `2 d_in²` bytes. With it, [`solve`](Self::solve) multiplies up to eight `f32` keys
    /// one by one with the copy, which reads half the bytes and is twice as fast.
    ///
    /// Directions from the copy are accurate to about `1e-7`, like any number rounded to `f32`. A key that needs more
    /// (one with a large `s`, or with a small component in the space) is multiplied again, with `Q` itself. A block of pending
    /// factors with such a key is recomputed in `f64` from its keys before it is folded in; so is any block before a
    /// change other than an absorption. Otherwise the rounding stays: 2e-7 of the state after 10,000 edits (test
    /// `endurance`). [`measure_drift`](Self::measure_drift) measures it.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn with_rounded_copy(mut self) -> Result<Self> {
        let d = self.dim();
        let need = Need::new("a rounded copy of Q", d, d).bytes(Self::rounded_bytes(d));
        need.reserve()?;
        self.Q.keep_rounded(self.largest, need)?;
        self.unsettled.keys.reserve(BLOCK * self.dim());
        self.unsettled.fates.reserve(BLOCK);
        Ok(self)
    }

    /// Bytes of the copy, and of the keys that it may take to settle it.
    pub(crate) fn rounded_bytes(d: usize) -> usize {
        Symmetric::rounded_bytes(d).saturating_add(d.saturating_mul(BLOCK * size_of::<f64>()))
    }

    /// Recomputes the pending factors that came from rounded products, from their keys and `Q` itself, so that their
    /// rounding does not become part of the state. If that fails, they stay as they are.
    pub(super) fn settle(&mut self) {
        if self.unsettled.is_empty() {
            return;
        }
        let Ok(factor) = self.settled_factor() else { return self.leave_unsettled() };
        self.Q.replace_last(factor.as_ref());
        self.probe.follow(&self.unsettled, 1.0, |i| factor.as_ref().subcols(i, 1));
        self.forget_unsettled();
    }

    /// Settles only where the rounding shows, because each key costs half a pass.
    pub(super) fn settle_if_it_shows(&mut self) {
        if self.unsettled.strong { self.settle() } else { self.leave_unsettled() }
    }

    /// Accepts the pending factors with their rounding.
    fn leave_unsettled(&mut self) {
        let Self { Q, probe, unsettled, .. } = self;
        probe.follow(unsettled, Q.scale(), |i| unsettled.column(Q, i));
        self.forget_unsettled();
    }

    fn forget_unsettled(&mut self) {
        self.unsettled.keys.clear();
        self.unsettled.fates.clear();
        self.unsettled.strong = false;
    }

    fn settled_factor(&self) -> Result<Mat<f64>> {
        let (keys, par) = (self.unsettled.as_mat(self.dim()), self.Q.par());
        let mut workspace = Workspace::default();
        self.multiply(keys, &mut workspace)?;
        let rounded = self.Q.last(keys.ncols());
        let coordinates = linalg::product(rounded.transpose(), keys, par);
        linalg::matmul(workspace.Z.as_mut(), Accum::Add, rounded, coordinates.as_ref(), self.Q.scale(), par);
        let G = self.gram(&workspace)?;
        Ok(self.factor(&workspace, &G, |i| self.unsettled.fates[i])?.0)
    }
}
