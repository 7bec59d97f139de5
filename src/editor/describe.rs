//! The written description of a recipe.

use super::{Base, History, Merging, Recipe, Simulation, Space};
use crate::projector::{HistoryWeighting, Threshold};
use crate::refresh::{Refresh, RefreshRule};
use crate::util::description::Description;

impl Recipe {
    /// Everything that the results of an editor depend on, in the form that is written to disk.
    ///
    /// ```
    /// use betaedit_core::{BetaEdit, Method};
    /// let text = BetaEdit::default().recipe().description().to_string();
    /// assert!(text.starts_with("recipe\n  weight: 3000\n  ridge: 10\n  space: below\n    eigenvalue: 0.02"));
    /// ```
    #[must_use]
    pub fn description(&self) -> Description {
        let description = Description::new("recipe")
            .with("weight", self.weight)
            .with("ridge", self.ridge)
            .with("space", space(self.space))
            .with("history", history(self.history))
            .with("refresh", refresh(self.refresh))
            .with("slack of single edits", self.slack.single)
            .with("slack of batches", self.slack.batch)
            .with("share", self.share)
            .with("merging", merging(self.merging));
        match self.simulation {
            None => description,
            Some(found) => description.with("simulation", simulation(found)),
        }
    }
}

fn space(space: Space) -> Description {
    let below = Description::new("below");
    match space {
        Space::Whole => Description::new("whole"),
        Space::Null(Threshold::Absolute(x)) => below.with("eigenvalue", x),
        Space::Null(Threshold::RelativeToLargest(x)) => below.with("fraction of the largest eigenvalue", x),
        Space::Null(Threshold::KeptEnergy(x)) => below.with("share of the trace", x),
        Space::Null(Threshold::Directions(n)) => below.with("directions", n),
    }
}

fn history(history: History) -> Description {
    match history {
        History::Ignored => Description::new("ignored"),
        History::Absorbed => Description::new("absorbed"),
        History::Random { seed } => Description::new("random keys").with("seed", seed),
    }
}

fn refresh(refresh: Refresh) -> Description {
    match refresh {
        Refresh::Never => Description::new("never"),
        Refresh::Continuous { weight } => Description::new("continuous").with("weight", weight),
        Refresh::Every { edits, rule } => Description::new("every").with("edits", edits).with("rule", self::rule(rule)),
    }
}

fn rule(rule: RefreshRule) -> Description {
    match rule {
        RefreshRule::Full(HistoryWeighting::Mean { lambda1 }) => {
            Description::new("full, mean").with("lambda1", lambda1)
        }
        RefreshRule::Full(HistoryWeighting::Sum { weight }) => Description::new("full, sum").with("weight", weight),
        RefreshRule::Maximal { weight } => Description::new("maximal").with("weight", weight),
        RefreshRule::Nested { weight } => Description::new("nested").with("weight", weight),
    }
}

fn merging(merging: Merging) -> Description {
    match merging {
        Merging::Never => Description::new("never"),
        Merging::Alike { cosine } => Description::new("alike").with("cosine", cosine),
    }
}

fn simulation(simulation: Simulation) -> Description {
    let base = match simulation.base {
        Base::First => "first weight",
        Base::Present => "present weight",
    };
    Description::new("ideal editor").with("lambda", simulation.lambda).with("base", base)
}
