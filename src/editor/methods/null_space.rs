//! History through the null space, for any method.

use std::borrow::Cow;

use super::betaedit::published_refresh;
use crate::editor::{BetaEdit, History, Method, Recipe, Space};
use crate::error::numerics::Result;
use crate::projector::Threshold;
use crate::refresh::Refresh;

/// Wraps a method so that it protects past edits as BetaEdit does: their keys join the solve, and the projector is
/// refreshed over them.
///
/// # References
/// Liu, Liu, Li, "BetaEdit", arXiv 2605.09285, Figure 5.
///
/// # Examples
/// ```
/// use betaedit_core::{Method, Refresh, Threshold, editor::{Emmet, NullSpace}};
/// let method = NullSpace::new(Emmet::default()).with_threshold(Threshold::Directions(700));
/// assert_eq!(method.name(), "emmet-ns");
/// assert!(method.recipe().refresh != Refresh::Never);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct NullSpace<M> {
    /// The wrapped method.
    pub method: M,
    /// Where the null space ends. Default: `Threshold::Absolute(0.02)`.
    #[cfg_attr(feature = "serde", serde(default))]
    pub threshold: Threshold,
    /// When and how the projector is rebuilt. Default: `None`, as [`BetaEdit`] with its default `lambda1`.
    #[cfg_attr(feature = "serde", serde(default))]
    pub refresh: Option<Refresh>,
}

impl<M: Method> NullSpace<M> {
    /// Wraps a method.
    #[must_use]
    pub fn new(method: M) -> Self {
        Self { method, threshold: Threshold::default(), refresh: None }
    }

    /// Sets where the null space ends.
    #[must_use]
    pub fn with_threshold(mut self, threshold: Threshold) -> Self {
        self.threshold = threshold;
        self
    }

    /// Sets when and how the projector is rebuilt.
    #[must_use]
    pub fn with_refresh(mut self, refresh: impl Into<Option<Refresh>>) -> Self {
        self.refresh = refresh.into();
        self
    }
}

impl<M: Method> Method for NullSpace<M> {
    fn name(&self) -> Cow<'static, str> {
        let name = self.method.name();
        if name.ends_with("-ns") { name } else { format!("{}-ns", name.trim_end_matches("-h")).into() }
    }

    fn check(&self) -> Result<()> {
        self.method.check()?;
        self.threshold.check()?;
        self.refresh.map_or(Ok(()), |refresh| refresh.check())
    }

    fn recipe(&self) -> Recipe {
        Recipe {
            space: Space::Null(self.threshold),
            history: History::Absorbed,
            refresh: self.refresh.unwrap_or_else(|| published_refresh(BetaEdit::default().lambda1)),
            ..self.method.recipe()
        }
    }
}
