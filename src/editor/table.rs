//! The table of methods: every editor by its name.

use super::{
    AlphaEdit, Anchors, BetaEdit, Emmet, Encore, History, Memit, Merging, Method, NamedRecipe, NullSpace, Penalty,
    Pmet, Recipe, RlsEdit, SimIe, Simulation, Slack,
};
use crate::error::numerics::{NumericsError, Result};
use crate::projector::Threshold;
use crate::refresh::Refresh;

/// The hyperparameters of all methods together, for programs that select a method by name. Each method uses those it
/// knows.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Hyperparameters {
    /// Weight of the statistics in MEMIT and related methods. Default: `15_000.0`.
    pub lambda: f64,
    /// Weight of the statistics in BetaEdit. Default: `3_000.0`.
    pub lambda1: f64,
    /// Ridge of AlphaEdit, BetaEdit and ENCORE. Default: `10.0`.
    pub lambda2: f64,
    /// Where the null space ends. Default: `Threshold::Absolute(0.02)`.
    pub threshold: Threshold,
    /// When and how BetaEdit and the `-ns` methods refresh. Default: `None`, the default of the method itself: every
    /// 1000 edits, full, with the weighting `Mean` and the method's `lambda1`.
    pub refresh: Option<Refresh>,
    /// Whether BetaEdit penalises leakage. Default: [`Penalty::Kept`].
    pub penalty: Penalty,
    /// How far EMMET may miss its residuals. Default: that of [`Emmet`].
    pub slack: Slack,
    /// Strengths of RLSEdit's anchors. Default: those of [`RlsEdit`].
    pub anchors: Anchors,
    /// The cosine from which MEMIT-Merge treats two keys as the same. Default: `0.99`.
    pub alike: f64,
    /// Seed of MEMIT-R's random keys. Default: `0`.
    pub seed: u64,
    /// Puts SimIE around the selected method. Default: `None`; only `simie` then has it.
    pub simulation: Option<Simulation>,
}

impl Default for Hyperparameters {
    fn default() -> Self {
        let (memit, emmet, anchored, betaedit) =
            (Memit::default(), Emmet::default(), RlsEdit::default(), BetaEdit::default());
        Self {
            lambda: memit.lambda,
            lambda1: betaedit.lambda1,
            lambda2: betaedit.lambda2,
            threshold: betaedit.threshold,
            refresh: None,
            penalty: betaedit.penalty,
            slack: emmet.slack,
            anchors: anchored.anchors,
            alike: 0.99,
            seed: 0,
            simulation: None,
        }
    }
}

impl Hyperparameters {
    fn memit(&self, history: History) -> Memit {
        Memit::default().with_lambda(self.lambda).with_history(history)
    }

    fn pmet(&self, history: History) -> Pmet {
        Pmet::default().with_lambda(self.lambda).with_history(history)
    }

    fn emmet(&self, history: History) -> Emmet {
        Emmet::default().with_lambda(self.lambda).with_slack(self.slack).with_history(history)
    }

    fn alphaedit(&self, history: History) -> AlphaEdit {
        AlphaEdit::default().with_lambda2(self.lambda2).with_threshold(self.threshold).with_history(history)
    }

    fn null_space<M: Method>(&self, method: M) -> Recipe {
        let method = NullSpace::new(method).with_threshold(self.threshold);
        match self.refresh {
            Some(refresh) => method.with_refresh(refresh).recipe(),
            None => method.recipe(),
        }
    }
}

/// A row of the table of methods.
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
    /// A row for a method outside this crate: see `docs/adding-an-editor.md`.
    #[must_use]
    pub const fn new(name: &'static str, summary: &'static str, recipe: fn(&Hyperparameters) -> Recipe) -> Self {
        Self { name, summary, recipe }
    }

    /// The method with these hyperparameters.
    ///
    /// ```
    /// use betaedit_core::{Method, editor::{Hyperparameters, method}};
    /// let memit = method("memit-h")?.method(&Hyperparameters::default());
    /// assert_eq!((&*memit.name(), memit.recipe().weight), ("memit-h", 15_000.0));
    /// # Ok::<(), betaedit_core::Error>(())
    /// ```
    #[must_use]
    pub fn method(&self, hyperparameters: &Hyperparameters) -> NamedRecipe {
        NamedRecipe::new(self.name, self.recipe(hyperparameters))
    }

    /// The method's recipe with these hyperparameters.
    #[must_use]
    pub fn recipe(&self, hyperparameters: &Hyperparameters) -> Recipe {
        let recipe = (self.recipe)(hyperparameters);
        Recipe { simulation: hyperparameters.simulation.or(recipe.simulation), ..recipe }
    }
}

/// All methods. To add one, write a short file in `methods/` and add a row here.
pub const METHODS: &[MethodEntry] = &[
    MethodEntry::new("memit", "(lambda C)^-1, no history", |h| h.memit(History::Ignored).recipe()),
    MethodEntry::new("memit-h", "memit, past keys protected", |h| h.memit(History::Absorbed).recipe()),
    MethodEntry::new("memit-r", "memit, random keys instead of past ones", |h| {
        h.memit(History::Random { seed: h.seed }).recipe()
    }),
    MethodEntry::new("memit-merge", "memit, edits of a batch with the same key are merged", |h| {
        h.memit(History::Ignored).with_merging(Merging::Alike { cosine: h.alike }).recipe()
    }),
    MethodEntry::new("memit-ns", "memit with history through the null space", |h| {
        h.null_space(h.memit(History::Absorbed))
    }),
    MethodEntry::new("pmet", "memit with the square root of the share of a residual", |h| {
        h.pmet(History::Ignored).recipe()
    }),
    MethodEntry::new("pmet-h", "pmet, past keys protected", |h| h.pmet(History::Absorbed).recipe()),
    MethodEntry::new("pmet-ns", "pmet with history through the null space", |h| {
        h.null_space(h.pmet(History::Absorbed))
    }),
    MethodEntry::new("emmet", "residuals met exactly or nearly, no history", |h| h.emmet(History::Ignored).recipe()),
    MethodEntry::new("emmet-h", "emmet, past keys protected", |h| h.emmet(History::Absorbed).recipe()),
    MethodEntry::new("emmet-ns", "emmet with history through the null space", |h| {
        h.null_space(h.emmet(History::Absorbed))
    }),
    MethodEntry::new("encore", "memit-h with a ridge", |h| {
        Encore::default().with_lambda(h.lambda).with_mu(h.lambda2).recipe()
    }),
    MethodEntry::new("rlsedit", "recursive least squares, anchored to the initial weight", |h| {
        RlsEdit::default().with_lambda(h.lambda).with_anchors(h.anchors).recipe()
    }),
    MethodEntry::new("simie", "an ideal editor that learns from emmet", |h| {
        SimIe::new(h.emmet(History::Ignored)).recipe()
    }),
    MethodEntry::new("alphaedit", "null space of C, no history", |h| h.alphaedit(History::Ignored).recipe()),
    MethodEntry::new("alphaedit-h", "null space of C, past keys protected", |h| {
        h.alphaedit(History::Absorbed).recipe()
    }),
    MethodEntry::new("betaedit", "null space refreshed over past keys, leakage penalised", |h| {
        let method = BetaEdit::default().with_lambda1(h.lambda1).with_lambda2(h.lambda2);
        let method = method.with_threshold(h.threshold).with_penalty(h.penalty);
        h.refresh.map_or(method, |refresh| method.with_refresh(refresh)).recipe()
    }),
];

/// The row of the table with this name.
///
/// ```
/// use betaedit_core::editor::{Hyperparameters, method};
/// let recipe = method("memit-h")?.recipe(&Hyperparameters::default());
/// assert_eq!(recipe.weight, 15_000.0);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
///
/// # Errors
/// [`NumericsError::UnknownName`], which lists the names.
pub fn method(name: &str) -> Result<&'static MethodEntry> {
    METHODS.iter().find(|entry| entry.name == name).ok_or_else(|| NumericsError::UnknownName {
        kind: "method",
        name: name.to_owned(),
        known: METHODS.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", "),
    })
}
