//! MEMIT and MEMIT-H.

use super::{History, Method, Recipe, Space};
use crate::check;
use crate::error::Result;
use crate::refresh::Refresh;

/// MEMIT: `Delta = R Kᵀ (lambda C + K Kᵀ)⁻¹`, and with history `Delta = R Kᵀ (lambda C + H + K Kᵀ)⁻¹`.
///
/// It balances writing the new facts against changing the outputs of all other keys, `lambda |Delta K0|²`. `C` must
/// have full rank; [`with_ridge`](Self::with_ridge) adds a ridge where it has not.
///
/// # References
/// Meng et al., "Mass-Editing Memory in a Transformer", ICLR 2023 (equations 2 and 6 of the BetaEdit paper); with
/// history: equation 5 of the BetaEdit paper (MEMIT-H).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Memit {
    /// Weight of the statistics. Default: `15_000.0`, in units of one edited key.
    pub lambda: f64,
    /// Ridge on the norm of the update. Default: `0.0`, as published.
    pub ridge: f64,
    /// Whether past keys are protected. Default: [`History::Ignored`].
    pub history: History,
}

impl Default for Memit {
    fn default() -> Self {
        Self { lambda: 15_000.0, ridge: 0.0, history: History::Ignored }
    }
}

impl Memit {
    /// Sets the weight of the statistics.
    #[must_use]
    pub fn with_lambda(mut self, lambda: f64) -> Self {
        self.lambda = lambda;
        self
    }

    /// Sets the ridge.
    #[must_use]
    pub fn with_ridge(mut self, ridge: f64) -> Self {
        self.ridge = ridge;
        self
    }

    /// Sets whether past keys are protected.
    #[must_use]
    pub fn with_history(mut self, history: History) -> Self {
        self.history = history;
        self
    }
}

impl Method for Memit {
    fn name(&self) -> &'static str {
        match self.history {
            History::Ignored => "memit",
            History::Absorbed => "memit-h",
        }
    }

    fn check(&self) -> Result<()> {
        check::non_negative("lambda", self.lambda)?;
        check::non_negative("ridge", self.ridge)
    }

    fn recipe(&self) -> Recipe {
        Recipe {
            weight: self.lambda,
            ridge: self.ridge,
            space: Space::Whole,
            history: self.history,
            refresh: Refresh::Never,
        }
    }
}
