//! The flags that choose how the projector is refreshed.

use betaedit_core::projector::HistoryWeighting;
use betaedit_core::{Refresh, RefreshRule};
use clap::ValueEnum;

/// How the projector is refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// A new eigendecomposition
    Full,
    /// The largest space below the threshold, without an eigendecomposition
    Maximal,
    /// The largest part of the current space below the threshold
    Nested,
    /// Nested, at every edit; --refresh-every is ignored
    Continuous,
}

/// How a full refresh adds past keys to the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// (H / t + lambda1 C) / (lambda1 + 1), as in the published program
    Mean,
    /// C + w H, with w = --refresh-weight; w = 1 as in the paper's text
    Sum,
}

/// The refresh that the flags describe. `every` = 0 means never.
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
