//! Descriptions in the first format, which holds the settings as Rust's `Debug` prints them. They are written here field by
//! field, so that these sessions are recognised even if the types change. Do not extend this format.

use crate::editor::{Base, History, Merging, Recipe, Share, Space};
use crate::projector::{HistoryWeighting, Threshold};
use crate::refresh::{Refresh, RefreshRule};

/// Whether a description is in the first format.
pub(super) fn is(description: &str) -> bool {
    description.lines().next() == Some("session format 1")
}

/// The description without the method's name, which does not identify a session.
pub(super) fn without_name(description: &str) -> String {
    let line = |line: &str| match line.strip_prefix("method: ").and_then(|method| method.split_once(" Recipe ")) {
        Some((_, recipe)) => format!("method: Recipe {recipe}"),
        None => line.to_owned(),
    };
    description.lines().map(line).collect::<Vec<_>>().join("\n")
}

pub(super) fn recipe(recipe: &Recipe) -> String {
    let simulation = recipe.simulation.map_or("None".to_owned(), |simulation| {
        let base = match simulation.base {
            Base::First => "First",
            Base::Present => "Present",
        };
        format!("Some(Simulation {{ lambda: {:?}, base: {base} }})", simulation.lambda)
    });
    let share = match recipe.share {
        Share::Even => "Even",
        Share::SquareRoot => "SquareRoot",
    };
    let merging = match recipe.merging {
        Merging::Never => "Never".to_owned(),
        Merging::Alike { cosine } => format!("Alike {{ cosine: {cosine:?} }}"),
    };
    format!(
        "Recipe {{ weight: {:?}, ridge: {:?}, space: {}, history: {}, refresh: {}, slack: Slack {{ single: {:?}, batch: {:?} }}, \
         share: {share}, merging: {merging}, simulation: {simulation} }}",
        recipe.weight,
        recipe.ridge,
        space(recipe.space),
        history(recipe.history),
        refresh(recipe.refresh),
        recipe.slack.single,
        recipe.slack.batch,
    )
}

fn space(space: Space) -> String {
    match space {
        Space::Whole => "Whole".to_owned(),
        Space::Null(Threshold::Absolute(x)) => format!("Null(Absolute({x:?}))"),
        Space::Null(Threshold::RelativeToLargest(x)) => format!("Null(RelativeToLargest({x:?}))"),
        Space::Null(Threshold::KeptEnergy(x)) => format!("Null(KeptEnergy({x:?}))"),
        Space::Null(Threshold::Directions(n)) => format!("Null(Directions({n}))"),
    }
}

fn history(history: History) -> String {
    match history {
        History::Ignored => "Ignored".to_owned(),
        History::Absorbed => "Absorbed".to_owned(),
        History::Random { seed } => format!("Random {{ seed: {seed} }}"),
    }
}

fn refresh(refresh: Refresh) -> String {
    match refresh {
        Refresh::Never => "Never".to_owned(),
        Refresh::Continuous { weight } => format!("Continuous {{ weight: {weight:?} }}"),
        Refresh::Every { edits, rule } => format!("Every {{ edits: {edits}, rule: {} }}", self::rule(rule)),
    }
}

fn rule(rule: RefreshRule) -> String {
    match rule {
        RefreshRule::Full(HistoryWeighting::Mean { lambda1 }) => format!("Full(Mean {{ lambda1: {lambda1:?} }})"),
        RefreshRule::Full(HistoryWeighting::Sum { weight }) => format!("Full(Sum {{ weight: {weight:?} }})"),
        RefreshRule::Maximal { weight } => format!("Maximal {{ weight: {weight:?} }}"),
        RefreshRule::Nested { weight } => format!("Nested {{ weight: {weight:?} }}"),
    }
}
