//! The copy of `Q` in `f32`, and what is done where its precision is not enough.

use faer::{Accum, Mat};

use super::InverseGram;
use super::solution::Workspace;
use crate::error::numerics::Result;
use crate::linalg;
use crate::linalg::symmetric::BLOCK;

impl InverseGram {
    /// Keeps a copy of `Q` in `f32` beside it, `2 d_in²` bytes, from which [`solve`](Self::solve) multiplies keys of `f32`, up to
    /// eight of them, one by one: half the bytes of a pass, so twice as fast.
    ///
    /// Directions are then right to about `1e-7`, as they are when they are rounded to `f32`. A key for which that would not
    /// do (`s` large, or hardly in the space) is multiplied once more, with `Q` itself; a block of pending factors with such a
    /// key is computed again in `f64` from its keys before it is folded, as it is before anything but an absorption. Else
    /// the rounding stays: 2e-7 of the state after 10,000 edits (test `endurance`), and [`drift`](Self::drift) measures it.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn with_rounded_copy(mut self) -> Result<Self> {
        self.Q.keep_rounded(self.largest)?;
        self.unsettled.keys.reserve(BLOCK * self.dim());
        self.unsettled.fates.reserve(BLOCK);
        Ok(self)
    }

    /// Computes the pending factors that came from rounded products again, from their keys and with `Q` itself, so that
    /// their rounding does not become part of the state. Should that be impossible, they stay as they are.
    pub(super) fn settle(&mut self) {
        if self.unsettled.is_empty() {
            return;
        }
        let Ok(factor) = self.settled_factor() else { return self.leave_unsettled() };
        self.Q.replace_last(factor.as_ref());
        self.probe.follow(&self.unsettled, |i| factor.as_ref().subcols(i, 1));
        self.forget_unsettled();
    }

    /// At the price of half a pass for each key, so only where the rounding shows.
    pub(super) fn settle_if_it_shows(&mut self) {
        if self.unsettled.strong { self.settle() } else { self.leave_unsettled() }
    }

    /// Lets the pending factors stay as they are, with their rounding.
    fn leave_unsettled(&mut self) {
        let Self { Q, probe, unsettled, .. } = self;
        probe.follow(unsettled, |i| unsettled.column(Q, i));
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
        linalg::matmul(workspace.Z.as_mut(), Accum::Add, rounded, coordinates.as_ref(), 1.0, par);
        let G = self.gram(&workspace)?;
        Ok(self.factor(&workspace, &G, |i| self.unsettled.fates[i])?.0)
    }
}
