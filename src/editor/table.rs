//! The table of methods: every editor by its name.

use super::{AlphaEdit, BetaEdit, History, Memit, Method, Penalty, Recipe};
use crate::error::{EditError, Result};
use crate::projector::{HistoryWeighting, Threshold};
use crate::refresh::{Refresh, RefreshRule};

/// The hyperparameters of all methods together, for programs that choose a method by its name. Each method takes what
/// it knows.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Hyperparameters {
    /// Weight of the statistics in MEMIT. Default: `15_000.0`.
    pub lambda: f64,
    /// Weight of the statistics in BetaEdit. Default: `3_000.0`.
    pub lambda1: f64,
    /// Ridge of AlphaEdit and BetaEdit. Default: `10.0`.
    pub lambda2: f64,
    /// Where the null space ends. Default: `Threshold::Absolute(0.02)`.
    pub threshold: Threshold,
    /// When and how BetaEdit refreshes. Default: every 1000 edits, full, mean with `lambda1 = 3_000.0`.
    pub refresh: Refresh,
    /// Whether BetaEdit penalises leakage. Default: [`Penalty::Kept`].
    pub penalty: Penalty,
}

impl Default for Hyperparameters {
    fn default() -> Self {
        let rule = RefreshRule::Full(HistoryWeighting::Mean { lambda1: 3_000.0 });
        Self {
            lambda: 15_000.0,
            lambda1: 3_000.0,
            lambda2: 10.0,
            threshold: Threshold::default(),
            refresh: Refresh::Every { edits: 1_000, rule },
            penalty: Penalty::Kept,
        }
    }
}

/// A line of the table of methods.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MethodEntry {
    /// The name that selects the method.
    pub name: &'static str,
    /// The method in one line.
    pub summary: &'static str,
    recipe: fn(&Hyperparameters) -> Recipe,
}

impl MethodEntry {
    /// The method's recipe with these hyperparameters.
    #[must_use]
    pub fn recipe(&self, hyperparameters: &Hyperparameters) -> Recipe {
        (self.recipe)(hyperparameters)
    }
}

/// All methods. Adding one takes a short file beside this one, and a line here.
pub const METHODS: &[MethodEntry] = &[
    MethodEntry {
        name: "memit",
        summary: "(lambda C)^-1, no history",
        recipe: |h| Memit::default().with_lambda(h.lambda).recipe(),
    },
    MethodEntry {
        name: "memit-h",
        summary: "(lambda C)^-1, past keys protected",
        recipe: |h| Memit::default().with_lambda(h.lambda).with_history(History::Absorbed).recipe(),
    },
    MethodEntry {
        name: "alphaedit",
        summary: "null space of C, no history",
        recipe: |h| AlphaEdit::default().with_lambda2(h.lambda2).with_threshold(h.threshold).recipe(),
    },
    MethodEntry {
        name: "alphaedit-h",
        summary: "null space of C, past keys protected",
        recipe: |h| {
            let method = AlphaEdit::default().with_history(History::Absorbed);
            method.with_lambda2(h.lambda2).with_threshold(h.threshold).recipe()
        },
    },
    MethodEntry {
        name: "betaedit",
        summary: "null space refreshed over past keys, leakage penalised",
        recipe: |h| {
            let method = BetaEdit::default().with_lambda1(h.lambda1).with_lambda2(h.lambda2).with_refresh(h.refresh);
            method.with_threshold(h.threshold).with_penalty(h.penalty).recipe()
        },
    },
];

/// The line of the table with this name.
///
/// ```
/// use betaedit_core::{Hyperparameters, editor::method};
/// let recipe = method("memit-h")?.recipe(&Hyperparameters::default());
/// assert_eq!(recipe.weight, 15_000.0);
/// # Ok::<(), betaedit_core::EditError>(())
/// ```
///
/// # Errors
/// [`EditError::UnknownMethod`], which lists the names.
pub fn method(name: &str) -> Result<&'static MethodEntry> {
    METHODS.iter().find(|entry| entry.name == name).ok_or_else(|| EditError::UnknownMethod {
        name: name.to_owned(),
        known: METHODS.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", "),
    })
}
