//! How the projector is refreshed, as programs let it be chosen.

use betaedit_core::projector::HistoryWeighting;
use betaedit_core::{Refresh, RefreshRule};
use clap::ValueEnum;

/// How the projector is refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// A new eigendecomposition
    Full,
    /// The largest space below the threshold, without one
    Maximal,
    /// The largest part of the present space below the threshold
    Nested,
    /// Nested, at every edit; --refresh-every does not matter then
    Continuous,
}

/// How past keys join the statistics at a full refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// (H / t + lambda1 C) / (lambda1 + 1), the published program
    Mean,
    /// C + w H, with w = --refresh-weight; w = 1 is the paper's text
    Sum,
}

/// The refresh that is meant; `every` 0 is never.
pub fn refresh(rule: Rule, weighting: Weighting, weight: f64, lambda1: f64, every: usize) -> Refresh {
    let rule = match (rule, weighting) {
        (Rule::Continuous, _) => return Refresh::Continuous { weight },
        (Rule::Full, Weighting::Mean) => RefreshRule::Full(HistoryWeighting::Mean { lambda1 }),
        (Rule::Full, Weighting::Sum) => RefreshRule::Full(HistoryWeighting::Sum { weight }),
        (Rule::Maximal, _) => RefreshRule::Maximal { weight },
        (Rule::Nested, _) => RefreshRule::Nested { weight },
    };
    if every == 0 { Refresh::Never } else { Refresh::Every { edits: every, rule } }
}
