//! A method as a value: its row in the table of methods.

use std::sync::Arc;

use faer::Par;

use super::Reversal;
use super::merging::Merging;
use crate::engine::InverseGram;
use crate::error::numerics::Result;
use crate::linalg::Need;
use crate::projector::{Projector, ProjectorBuilder, Threshold};
use crate::refresh::memory::Memory;
use crate::refresh::solve::{Products, Solve};
use crate::refresh::{Refresh, RefreshRule};
use crate::scalar::Scalar;
use crate::spectrum::Spectrum;
use crate::util::named::named;
use crate::util::setters::setters;
use crate::util::validate;

/// Whether later edits protect the keys of past edits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum History {
    /// No: every edit is computed as if it were the first.
    #[default]
    Ignored,
    /// Yes: `A` grows by `K Kᵀ` with every committed batch.
    Absorbed,
    /// As many other keys join instead, drawn at random: the control experiment of the BetaEdit paper (MEMIT-R).
    ///
    /// They come from the keys given to [`with_random_keys`](super::ClosedFormEditor::with_random_keys) (in the paper,
    /// keys of other facts). Without those, they are drawn from the normal distribution with the second moment `C`;
    /// each then costs a pass over the eigenvectors.
    Random {
        /// Equal seeds draw equal keys.
        seed: u64,
    },
}

/// The space in which edits are allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Space {
    /// The whole space, `P = I`.
    Whole,
    /// The null space: the eigendirections that the model hardly uses.
    Null(Threshold),
}

impl Space {
    /// Where the null space ends, if there is one.
    pub(super) fn threshold(self) -> Option<Threshold> {
        match self {
            Self::Whole => None,
            Self::Null(threshold) => Some(threshold),
        }
    }
}

/// The slack `e` of the small system in `Delta = R (G + e I)⁻¹ Zᵀ`: how far a batch may miss its residuals.
///
/// 1 is least squares, where missing a residual costs as much as changing the output of an edited key by the same
/// amount. With smaller values the residuals are met more closely; with 0, exactly.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct Slack {
    /// For a single edit.
    pub single: f64,
    /// For two or more edits written together.
    pub batch: f64,
}

impl Default for Slack {
    fn default() -> Self {
        Self { single: 1.0, batch: 1.0 }
    }
}

impl Slack {
    /// The slack for a batch of `n`.
    pub(super) fn of(self, n: usize) -> f64 {
        if n == 1 { self.single } else { self.batch }
    }
}

/// The share of a residual that a layer takes, with `l` layers left, itself included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Share {
    /// `1 / l`: MEMIT and related methods.
    #[default]
    Even,
    /// `1 / sqrt(l)`: PMET.
    SquareRoot,
}

named!(Share, "share of a residual", { Even => "even", SquareRoot => "square-root" });

impl Share {
    /// The share with this many layers left.
    ///
    /// ```
    /// use betaedit_core::editor::Share;
    /// assert_eq!((Share::Even.with_layers_left(4), Share::SquareRoot.with_layers_left(4)), (0.25, 0.5));
    /// ```
    #[must_use]
    pub fn with_layers_left(self, layers_left: usize) -> f64 {
        match self {
            Self::Even => 1.0 / layers_left as f64,
            Self::SquareRoot => 1.0 / (layers_left as f64).sqrt(),
        }
    }
}

/// How the ideal editor of [`SimIe`](super::SimIe) is simulated.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Simulation {
    /// Weight of the distance from the initial weight. Default: `10_000.0`.
    pub lambda: f64,
    /// The weight that the wrapped method edits. Default: [`Base::First`].
    pub base: Base,
}

setters!(Simulation {
    /// Sets the weight of the distance from the initial weight.
    with_lambda(lambda: f64),
    /// Sets the weight that the wrapped method edits.
    with_base(base: Base),
});

/// The weight that a wrapped method edits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Base {
    /// The initial weight, as published: every edit is the method's first.
    #[default]
    First,
    /// The present weight.
    Present,
}

named!(Base, "base of a simulation", { First => "first", Present => "present" });

impl Default for Simulation {
    fn default() -> Self {
        Self { lambda: 10_000.0, base: Base::First }
    }
}

/// A method as a row of the table: the initial `Q = V (Vᵀ (weight C) V + ridge I)⁻¹ Vᵀ`, how a batch is solved, and
/// what happens later.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct Recipe {
    /// Weight of the statistics `C` in the protected Gram matrix: `lambda` of MEMIT, `lambda1` of BetaEdit.
    pub weight: f64,
    /// Ridge on the norm of the update: `lambda2`.
    pub ridge: f64,
    /// Where edits are allowed.
    pub space: Space,
    /// Whether past keys are protected.
    pub history: History,
    /// When the projector is rebuilt.
    pub refresh: Refresh,
    /// How far a batch may miss its residuals.
    pub slack: Slack,
    /// How residuals are divided among layers. A `session::Session` asks the adapter for these shares.
    pub share: Share,
    /// Whether edits of a batch with the same key are merged.
    pub merging: Merging,
    /// If set, an ideal editor learns from the updates, and its own updates are applied instead.
    pub simulation: Option<Simulation>,
}

setters!(Recipe {
    /// Sets the weight of the statistics.
    with_weight(weight: f64),
    /// Sets the ridge on the norm of the update.
    with_ridge(ridge: f64),
    /// Sets where edits are allowed.
    with_space(space: Space),
    /// Sets whether past keys are protected.
    with_history(history: History),
    /// Sets when the projector is rebuilt.
    with_refresh(refresh: Refresh),
    /// Sets how far a batch may miss its residuals.
    with_slack(slack: Slack),
    /// Sets how residuals are divided among layers.
    with_share(share: Share),
    /// Sets whether edits of a batch with the same key are merged.
    with_merging(merging: Merging),
    /// Sets whether an ideal editor learns from the updates.
    with_simulation(simulation: Option<Simulation>),
});

impl Recipe {
    /// A recipe for a method outside this crate. The remaining fields have the values of MEMIT; set them with the
    /// `with_*` functions.
    #[must_use]
    pub fn new(weight: f64, ridge: f64, space: Space, history: History, refresh: Refresh) -> Self {
        Self {
            weight,
            ridge,
            space,
            history,
            refresh,
            slack: Slack::default(),
            share: Share::default(),
            merging: Merging::default(),
            simulation: None,
        }
    }

    /// Whether an editor needs the eigendecomposition of the statistics: for its null space, for a refresh, or to draw random keys.
    /// If not, [`Method::editor_from_moment`](super::Method::editor_from_moment) does without.
    #[must_use]
    pub fn needs_spectrum(&self) -> bool {
        let random = matches!(self.history, History::Random { .. });
        self.space != Space::Whole || self.refresh != Refresh::Never || random
    }

    /// Checks that all numbers are in range.
    pub(super) fn check(&self) -> Result<()> {
        validate::non_negative("weight", self.weight)?;
        validate::non_negative("ridge", self.ridge)?;
        self.space.threshold().map_or(Ok(()), Threshold::check)?;
        self.refresh.check()?;
        self.merging.check()?;
        validate::non_negative("slack of single edits", self.slack.single)?;
        validate::non_negative("slack of batches", self.slack.batch)?;
        self.simulation.map_or(Ok(()), |simulation| validate::positive("lambda of the simulation", simulation.lambda))
    }

    /// The projector of the start.
    pub(super) fn projector(&self, spectrum: &Arc<Spectrum>, par: Par) -> Result<Projector> {
        let projector = match self.space {
            Space::Whole => Projector::identity(spectrum),
            Space::Null(threshold) => ProjectorBuilder::new(spectrum).threshold(threshold).build(par)?,
        };
        match self.refresh {
            Refresh::Never | Refresh::Every { rule: RefreshRule::Full(_), .. } => Ok(projector),
            Refresh::Every { .. } | Refresh::Continuous { .. } => projector.with_headroom(),
        }
    }

    /// How `Q` is computed, for keys of type `T`.
    pub(super) fn solve<T: Scalar>(&self) -> Solve {
        // `f32` keys give `f32` directions, so a rounded copy is enough. If residuals are met closely, the exact
        // product is needed.
        let exact = T::EPSILON <= f64::EPSILON || self.slack != Slack::default();
        let products = if exact { Products::Exact } else { Products::Rounded };
        Solve { weight: self.weight, ridge: self.ridge, products }
    }

    /// What an editor holds at its start, with keys of length `d` and `r` directions to edit in.
    pub(super) fn need(&self, d: usize, r: usize, solve: Solve) -> Need {
        let need = Need::new("an editor", d, d).and(InverseGram::need(d, r)).and(Memory::need(self.refresh, d, r));
        let need = match solve.products {
            Products::Exact => need,
            Products::Rounded => need.bytes(InverseGram::rounded_bytes(d)),
        };
        if self.simulation.is_some() { need.and(InverseGram::need(d, 0)) } else { need }
    }

    /// How an edit is undone.
    pub(super) fn reversal(&self) -> Reversal {
        match (self.history, self.simulation) {
            (History::Absorbed, None) if self.slack == Slack::default() => Reversal::Downdate,
            (History::Ignored, None) => Reversal::Replace,
            (History::Random { .. }, None) => Reversal::ReplayResiduals,
            (History::Absorbed, _) | (_, Some(_)) => Reversal::ReplayTargets,
        }
    }
}
