//! The table of methods: every editor by its name.

use std::borrow::Cow;
use std::sync::Arc;

use faer::Par;

use super::hyperparameters::Hyperparameters;
use super::{AnyMethod, ClosedFormEditor, History, Merging, Method, Recipe};
use crate::error::numerics::{NumericsError, Result};
use crate::scalar::Scalar;
use crate::spectrum::Spectrum;

/// A row of the table of methods.
///
/// # Examples
/// ```
/// use betaedit_core::{Method, editor::{Hyperparameters, method}};
///
/// let entry = method("memit-h")?;
/// assert_eq!(entry.parameters(), ["lambda"]);
/// let memit = entry.method(&Hyperparameters::default().with_lambda(500.0));
/// assert_eq!((&*memit.name(), memit.recipe().weight), ("memit-h", 500.0));
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MethodEntry {
    name: Cow<'static, str>,
    summary: &'static str,
    parameters: &'static [&'static str],
    make: fn(&Hyperparameters) -> AnyMethod,
    wrappers: &'static [Wrapper],
}

/// A wrapper that a name puts around a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrapper {
    NullSpace,
    SimIe,
}

impl Wrapper {
    fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::NullSpace => &["threshold", "refresh"],
            Self::SimIe => &["simulation"],
        }
    }
}

impl MethodEntry {
    /// A row for a method outside this crate: see `docs/adding-an-editor.md`.
    ///
    /// * `parameters`: the fields of [`Hyperparameters`] that the method uses
    #[must_use]
    pub const fn new(
        name: &'static str,
        summary: &'static str,
        parameters: &'static [&'static str],
        make: fn(&Hyperparameters) -> AnyMethod,
    ) -> Self {
        Self { name: Cow::Borrowed(name), summary, parameters, make, wrappers: &[] }
    }

    /// The name that selects the method.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The method in one line.
    #[must_use]
    pub fn summary(&self) -> &'static str {
        self.summary
    }

    /// The fields of [`Hyperparameters`] that the method uses. Every method takes `simulation`, which wraps it in
    /// SimIE. It is listed only for methods that always use SimIE.
    #[must_use]
    pub fn parameters(&self) -> Vec<&'static str> {
        let mut all = self.parameters.to_vec();
        for name in self.wrappers.iter().flat_map(|wrapper| wrapper.parameters()) {
            if !all.contains(name) {
                all.push(name);
            }
        }
        all
    }

    /// The method with these hyperparameters.
    #[must_use]
    pub fn method(&self, hyperparameters: &Hyperparameters) -> AnyMethod {
        let mut method = (self.make)(hyperparameters);
        for wrapper in self.wrappers {
            method = match wrapper {
                Wrapper::NullSpace => Box::new(hyperparameters.null_space(method)),
                Wrapper::SimIe => Box::new(hyperparameters.simie(method)),
            };
        }
        match hyperparameters.simulation {
            Some(_) if method.recipe().simulation.is_none() => Box::new(hyperparameters.simie(method)),
            _ => method,
        }
    }

    /// The method's recipe with these hyperparameters.
    #[must_use]
    pub fn recipe(&self, hyperparameters: &Hyperparameters) -> Recipe {
        self.method(hyperparameters).recipe()
    }

    /// An editor of the method, see [`Method::editor`].
    ///
    /// # Errors
    /// As [`Method::editor`], in the method's own words.
    pub fn editor<T: Scalar>(
        &self,
        hyperparameters: &Hyperparameters,
        spectrum: &Arc<Spectrum>,
        par: Par,
    ) -> Result<ClosedFormEditor<T>> {
        self.method(hyperparameters).editor(spectrum, par)
    }
}

/// All methods. To add one, write a short file in `methods/` and add a row here. [`method`] also finds methods
/// that are wrapped in [`NullSpace`](super::NullSpace) or [`SimIe`](super::SimIe), by their names.
pub const METHODS: &[MethodEntry] = &[
    MethodEntry::new("memit", "(lambda C)^-1, no history", &["lambda"], |h| Box::new(h.memit(History::Ignored))),
    MethodEntry::new("memit-h", "memit, past keys protected", &["lambda"], |h| Box::new(h.memit(History::Absorbed))),
    MethodEntry::new("memit-r", "memit, random keys instead of past ones", &["lambda", "seed"], |h| {
        Box::new(h.memit(History::Random { seed: h.seed }))
    }),
    MethodEntry::new(
        "memit-merge",
        "memit, edits of a batch with the same key are merged",
        &["lambda", "alike"],
        |h| Box::new(h.memit(History::Ignored).with_merging(Merging::Alike { cosine: h.alike })),
    ),
    MethodEntry::new(
        "memit-ns",
        "memit with history through the null space",
        &["lambda", "threshold", "refresh"],
        |h| Box::new(h.null_space(h.memit(History::Absorbed))),
    ),
    MethodEntry::new("pmet", "memit with the square root of the share of a residual", &["lambda"], |h| {
        Box::new(h.pmet(History::Ignored))
    }),
    MethodEntry::new("pmet-h", "pmet, past keys protected", &["lambda"], |h| Box::new(h.pmet(History::Absorbed))),
    MethodEntry::new("pmet-ns", "pmet with history through the null space", &["lambda", "threshold", "refresh"], |h| {
        Box::new(h.null_space(h.pmet(History::Absorbed)))
    }),
    MethodEntry::new("emmet", "residuals met exactly or nearly, no history", &["lambda", "slack"], |h| {
        Box::new(h.emmet(History::Ignored))
    }),
    MethodEntry::new("emmet-h", "emmet, past keys protected", &["lambda", "slack"], |h| {
        Box::new(h.emmet(History::Absorbed))
    }),
    MethodEntry::new(
        "emmet-ns",
        "emmet with history through the null space",
        &["lambda", "slack", "threshold", "refresh"],
        |h| Box::new(h.null_space(h.emmet(History::Absorbed))),
    ),
    MethodEntry::new("encore", "memit-h with a ridge", &["lambda", "lambda2"], |h| Box::new(h.encore())),
    MethodEntry::new(
        "rlsedit",
        "recursive least squares, anchored to the initial weight",
        &["lambda", "anchors"],
        |h| Box::new(h.rlsedit()),
    ),
    MethodEntry::new("simie", "an ideal editor that learns from emmet", &["lambda", "slack", "simulation"], |h| {
        Box::new(h.simie(h.emmet(History::Ignored)))
    }),
    MethodEntry::new("alphaedit", "null space of C, no history", &["lambda2", "threshold"], |h| {
        Box::new(h.alphaedit(History::Ignored))
    }),
    MethodEntry::new("alphaedit-h", "null space of C, past keys protected", &["lambda2", "threshold"], |h| {
        Box::new(h.alphaedit(History::Absorbed))
    }),
    MethodEntry::new(
        "betaedit",
        "null space refreshed over past keys, leakage penalised",
        &["lambda1", "lambda2", "threshold", "refresh", "penalty"],
        |h| Box::new(h.betaedit()),
    ),
];

/// The row of the table with this name, or the row that the name wraps. Every name that [`NullSpace`](super::NullSpace) or
/// [`SimIe`](super::SimIe) gives to a method of the table is found: `encore-ns`, `simie-memit-h`, `simie-pmet-ns`.
///
/// ```
/// use betaedit_core::editor::{Hyperparameters, method};
/// let recipe = method("memit-h")?.recipe(&Hyperparameters::default());
/// assert_eq!(recipe.weight, 15_000.0);
/// assert_eq!(method("simie-encore-ns")?.parameters(), ["lambda", "lambda2", "threshold", "refresh", "simulation"]);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
///
/// # Errors
/// [`NumericsError::UnknownName`], which lists the names.
pub fn method(name: &str) -> Result<MethodEntry> {
    if let Some(entry) = row(name) {
        return Ok(entry.clone());
    }
    let (wrapped, simulated) = (name.strip_suffix("-ns"), name.strip_prefix("simie-"));
    let both = simulated.and_then(|rest| rest.strip_suffix("-ns"));
    let candidates: [(Option<&str>, &'static [Wrapper]); 3] = [
        (wrapped, &[Wrapper::NullSpace]),
        (simulated, &[Wrapper::SimIe]),
        (both, &[Wrapper::NullSpace, Wrapper::SimIe]),
    ];
    let wrap = |(base, wrappers): (Option<&str>, _)| {
        let entry = MethodEntry { name: name.to_owned().into(), wrappers, ..row(base?)?.clone() };
        // A name that is not the method's own, such as `memit-ns-ns`, is a typo.
        (entry.method(&Hyperparameters::default()).name() == name).then_some(entry)
    };
    let unknown = || NumericsError::UnknownName {
        kind: "method",
        name: name.to_owned(),
        known: METHODS.iter().map(MethodEntry::name).chain(["NAME-ns", "simie-NAME"]).collect::<Vec<_>>().join(", "),
    };
    candidates.into_iter().find_map(wrap).ok_or_else(unknown)
}

fn row(name: &str) -> Option<&'static MethodEntry> {
    METHODS.iter().find(|entry| entry.name == name)
}
