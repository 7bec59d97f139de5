//! The solution for a batch of keys.

use faer::{Mat, MatRef};

use super::token::StateToken;

use crate::linalg::symmetric;
use crate::util::shown::{Few, Shown, shown};

/// The solution that [`InverseGram::solve`](super::InverseGram::solve) finds for a batch of `n` keys.
#[derive(Clone)]
pub struct Solution {
    pub(super) keys: Mat<f64>,
    pub(super) directions: Mat<f64>,
    /// `F`, where `Q - F Fᵀ` is the state after the keys are absorbed.
    pub(super) factor: Mat<f64>,
    pub(super) gains: Vec<f64>,
    /// The state it was found in; `None` while it is incomplete.
    pub(super) token: Option<StateToken>,
    pub(super) product: Product,
}

shown!([] Solution, "Solution", self => {
    "keys": Shown::from(self.keys.shape()),
    "directions": Shown::from(self.directions.shape()),
    "gains": Few(&self.gains),
});

/// The product that a solution was computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Product {
    #[default]
    Exact,
    Rounded,
}

impl Default for Solution {
    fn default() -> Self {
        let [keys, directions, factor] = [const { Mat::new() }; 3];
        Self { keys, directions, factor, gains: Vec::new(), token: None, product: Product::Exact }
    }
}

impl Solution {
    /// Moves the directions out. What absorbing the keys needs stays.
    pub(crate) fn take_directions(&mut self) -> Mat<f64> {
        std::mem::replace(&mut self.directions, Mat::new())
    }

    /// The keys of the solution, `d_in x n`.
    #[must_use]
    pub fn keys(&self) -> MatRef<'_, f64> {
        self.keys.as_ref()
    }

    /// The transposed right factor of the update, `d_in x n`: `Delta = R directionsᵀ`.
    #[must_use]
    pub fn directions(&self) -> MatRef<'_, f64> {
        self.directions.as_ref()
    }

    /// `g = kᵀ Q k` of every key. An edit on its own writes the share `g / (1 + g)` of its residual.
    #[must_use]
    pub fn gains(&self) -> &[f64] {
        &self.gains
    }
}

/// Working memory of [`InverseGram::solve_into`](super::InverseGram::solve_into). Reuse it to avoid allocations.
#[derive(Clone)]
pub struct Workspace {
    pub(super) keys: Mat<f64>,
    pub(super) Z: Mat<f64>,
    pub(super) product: symmetric::ProductBuffer,
}

shown!([] Workspace, "Workspace", self => {
    "keys": Shown::from(self.keys.shape()),
});

impl Default for Workspace {
    fn default() -> Self {
        Self { keys: Mat::new(), Z: Mat::new(), product: Default::default() }
    }
}
