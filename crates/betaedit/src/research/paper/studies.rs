//! The studies, with their runs and measures.

use std::ops::Range;

use betaedit_core::editor::Hyperparameters;
use betaedit_core::editor::{METHODS, Penalty, Space, method};
use betaedit_core::llm::{FactToken, FineTuning, LowRankTuning};
use betaedit_core::projector::HistoryWeighting;
use betaedit_core::{Refresh, RefreshRule, Threshold};

use super::edited::{By, ClosedForm};
use super::lab::Lab;
use super::run::{Measure, Run};
use crate::terminal::Done;
use serde::Serialize;

/// How large the runs are.
#[derive(Clone, Copy, Serialize)]
pub struct Scale {
    /// Edits of a run.
    pub edits: usize,
    /// Edits between checkpoints.
    pub every: usize,
    /// Facts that a checkpoint evaluates.
    pub sample: usize,
    /// Tokens of held-out text at a checkpoint.
    pub perplexity_tokens: u64,
    /// Edits between refreshes.
    pub period: usize,
    /// Facts for the choice of each method's strength, from the end of the list: no run edits them.
    pub trials: usize,
}

impl Scale {
    pub const FULL: Self =
        Self { edits: 400, every: 200, sample: 100, perplexity_tokens: 1024, period: 100, trials: 60 };
    pub const QUICK: Self = Self { edits: 24, every: 24, sample: 6, perplexity_tokens: 512, period: 8, trials: 6 };

    /// The scale, with at most as many edits as there are facts.
    pub fn within(mut self, facts: usize) -> Done<Self> {
        self.edits = self.edits.min(facts.saturating_sub(self.trials));
        if self.edits == 0 || self.trials == 0 {
            return Err(format!("{facts} facts are too few for {} trials and any edit", self.trials).into());
        }
        Ok(self)
    }

    fn stream(&self) -> Range<usize> {
        0..self.edits
    }
}

type Runs = Done<Vec<Run>>;

/// Runs that belong together.
pub struct Study {
    pub name: &'static str,
    pub title: &'static str,
    pub measures: &'static [Measure],
    pub runs: fn(&mut Lab, &Scale) -> Runs,
}

use Measure::{Agreement, Drift, Efficacy, Generality, Kept, Leakage, Perplexity};

pub const STUDIES: &[Study] = &[
    Study {
        name: "methods",
        title: "Five methods, each at the best of three strengths",
        measures: &[Efficacy, Generality, Agreement, Perplexity],
        runs: |lab, scale| MAIN.iter().map(|name| tuned(lab, scale, name)).collect(),
    },
    Study {
        name: "collapse",
        title: "Figure 1: editing without history",
        measures: &[Efficacy, Perplexity],
        runs: |_, scale| named(scale, &["memit", "alphaedit", "emmet", "pmet", "betaedit"]),
    },
    Study {
        name: "leakage",
        title: "Figure 2: leakage grows",
        measures: &[Leakage, Agreement],
        runs: |_, scale| named(scale, &["memit", "alphaedit", "alphaedit-h", "betaedit"]),
    },
    Study {
        name: "drift",
        title: "Figure 3: drift with and without history, and remedies in part",
        measures: &[Drift, Efficacy],
        runs: |_, scale| {
            let mut runs = named(scale, &["memit", "memit-h", "alphaedit", "alphaedit-h"])?;
            // The paper's MEMIT-30000: twice the published weight.
            runs.insert(1, run("memit, lambda doubled", "memit", scale, |h| h.lambda *= 2.0)?);
            Ok(runs)
        },
    },
    Study {
        name: "horizon",
        title: "Figure 4: efficacy, leakage and drift along the way",
        measures: &[Efficacy, Leakage, Drift, Perplexity],
        runs: |_, scale| named(scale, &MAIN),
    },
    Study {
        name: "null-space-history",
        title: "Figure 5: history through the null space, for other editors",
        measures: &[Efficacy, Agreement, Leakage, Drift],
        runs: |_, scale| {
            let mut runs = vec![];
            for name in ["memit-h", "emmet-h", "pmet-h"] {
                let mut with = closed_form(name, scale, |_| {})?;
                with.recipe.space = Space::Null(Threshold::default());
                with.recipe.refresh = refreshed(scale, SUM);
                let label = format!("{name} with null space");
                runs.extend([run(name, name, scale, |_| {})?, stream(label, By::ClosedForm(with), scale)]);
            }
            Ok(runs)
        },
    },
    Study {
        name: "lambda1",
        title: "Figure 6: the weight of the statistics",
        measures: &[Efficacy, Generality, Agreement, Perplexity],
        runs: |_, scale| {
            let weights = [0.0, 30.0, 100.0, 300.0, 1000.0, 3000.0];
            let at = |weight| run(&format!("lambda1 = {weight}"), "betaedit", scale, |h| h.lambda1 = weight);
            weights.into_iter().map(at).collect()
        },
    },
    Study {
        name: "period",
        title: "Figure 6: the refresh period",
        measures: &[Efficacy, Kept, Agreement, Perplexity],
        runs: |_, scale| {
            let periods = [scale.period / 2, scale.period, 2 * scale.period].into_iter();
            let each = periods.map(|edits| (format!("every {edits}"), Refresh::Every { edits, rule: SUM }));
            let ends = [("never".into(), Refresh::Never), ("every edit".into(), Refresh::Continuous { weight: 1e-2 })];
            each.chain(ends).map(|(label, refresh)| refreshing(&label, refresh, scale)).collect()
        },
    },
    Study {
        name: "refresh",
        title: "The rule of refresh",
        measures: &[Efficacy, Kept, Agreement, Perplexity],
        runs: |_, scale| {
            let rules = [
                ("never", Refresh::Never),
                ("mean", refreshed(scale, MEAN)),
                ("sum", refreshed(scale, SUM)),
                ("maximal, w = 0.01", refreshed(scale, RefreshRule::Maximal { weight: 1e-2 })),
                ("maximal, w = 0.0001", refreshed(scale, RefreshRule::Maximal { weight: 1e-4 })),
                ("nested, w = 1", refreshed(scale, RefreshRule::Nested { weight: 1.0 })),
                ("nested, w = 0.01", refreshed(scale, RefreshRule::Nested { weight: 1e-2 })),
                ("nested, w = 0.0001", refreshed(scale, RefreshRule::Nested { weight: 1e-4 })),
                ("continuous, w = 0.0001", Refresh::Continuous { weight: 1e-4 }),
            ];
            rules.into_iter().map(|(label, refresh)| refreshing(label, refresh, scale)).collect()
        },
    },
    Study {
        name: "ablations",
        title: "Table 2: BetaEdit without its parts",
        measures: &[Efficacy, Generality, Agreement, Perplexity],
        runs: |_, scale| {
            Ok(vec![
                run("betaedit", "betaedit", scale, |_| {})?,
                run("without the penalty", "betaedit", scale, |h| h.penalty = Penalty::Dropped)?,
                run("without refresh", "betaedit", scale, |h| h.refresh = Some(Refresh::Never))?,
                run("without both", "betaedit", scale, |h| {
                    (h.penalty, h.refresh) = (Penalty::Dropped, Some(Refresh::Never));
                })?,
            ])
        },
    },
    Study {
        name: "anchoring",
        title: "Table 3: the token at which a fact is written",
        measures: &[Efficacy, Generality, Agreement, Perplexity],
        runs: |_, scale| {
            let tokens = [
                ("subject's last", FactToken::SubjectLast),
                ("subject's first", FactToken::SubjectFirst),
                ("prompt's last", FactToken::PromptLast),
            ];
            let at = |(label, token): (&str, _)| {
                let form = ClosedForm { token, ..closed_form("betaedit", scale, |_| {})? };
                Ok(stream(label.into(), By::ClosedForm(form), scale))
            };
            tokens.into_iter().map(at).collect()
        },
    },
    Study {
        name: "baselines",
        title: "Fine-tuning beside editing",
        measures: &[Efficacy, Generality, Agreement, Perplexity, Drift],
        runs: |_, scale| {
            let mut runs = named(scale, &["memit", "betaedit"])?;
            let tunings = [By::FineTuning(FineTuning::default()), By::LowRank(LowRankTuning::default())];
            runs.extend(tunings.map(|by| stream(by.name().into(), by, scale)));
            Ok(runs)
        },
    },
];

/// The studies' names, for the command line.
pub const NAMES: [&str; STUDIES.len()] = {
    let mut names = [""; STUDIES.len()];
    let mut i = 0;
    while i < STUDIES.len() {
        names[i] = STUDIES[i].name;
        i += 1;
    }
    names
};

const MAIN: [&str; 5] = ["memit", "memit-h", "alphaedit", "alphaedit-h", "betaedit"];

/// The default hyperparameters: weights that suit 15,000 tokens of statistics on a model of this size, a tenth of the published
/// ones.
const LAMBDA: f64 = 1500.0;
const LAMBDA1: f64 = 300.0;

/// The published program: the null space of the mean over past keys, mixed into `C`.
const MEAN: RefreshRule = RefreshRule::Full(HistoryWeighting::Mean { lambda1: LAMBDA1 });

/// The paper's text: the null space of `C + H`.
const SUM: RefreshRule = RefreshRule::Full(HistoryWeighting::Sum { weight: 1.0 });

fn refreshed(scale: &Scale, rule: RefreshRule) -> Refresh {
    Refresh::Every { edits: scale.period, rule }
}

/// The strengths to try for a method: of the weight of its statistics or, if it has none, of its ridge.
fn strengths(name: &str) -> [f64; 3] {
    match name {
        "betaedit" => [100.0, 300.0, 1000.0],
        name if name.starts_with("alphaedit") => [3.0, 10.0, 30.0],
        _ => [500.0, 1500.0, 4500.0],
    }
}

fn set_strength(hyperparameters: &mut Hyperparameters, name: &str, strength: f64) {
    *match name {
        "betaedit" => &mut hyperparameters.lambda1,
        name if name.starts_with("alphaedit") => &mut hyperparameters.lambda2,
        _ => &mut hyperparameters.lambda,
    } = strength;
}

/// A method with the default hyperparameters, except for a change.
fn closed_form(name: &str, scale: &Scale, change: impl FnOnce(&mut Hyperparameters)) -> Done<ClosedForm> {
    let entry = method(name)?;
    let mut hyperparameters = Hyperparameters::default();
    (hyperparameters.lambda, hyperparameters.lambda1) = (LAMBDA, LAMBDA1);
    hyperparameters.refresh = Some(refreshed(scale, MEAN));
    change(&mut hyperparameters);
    Ok(ClosedForm {
        method: entry.name().to_owned(),
        recipe: entry.recipe(&hyperparameters),
        token: FactToken::default(),
    })
}

/// A run on the stream of facts.
fn stream(label: String, by: By, scale: &Scale) -> Run {
    Run { label, by, facts: scale.stream() }
}

fn run(label: &str, name: &str, scale: &Scale, change: impl FnOnce(&mut Hyperparameters)) -> Done<Run> {
    Ok(stream(label.into(), By::ClosedForm(closed_form(name, scale, change)?), scale))
}

/// Runs of the methods with these names.
fn named(scale: &Scale, names: &[&str]) -> Runs {
    let there = |name: &&&str| METHODS.iter().any(|entry| entry.name() == **name);
    names.iter().filter(there).map(|name| run(name, name, scale, |_| {})).collect()
}

fn refreshing(label: &str, refresh: Refresh, scale: &Scale) -> Done<Run> {
    run(label, "betaedit", scale, |h| h.refresh = Some(refresh))
}

/// A method at the strength that is best on the trial facts.
fn tuned(lab: &mut Lab, scale: &Scale, name: &str) -> Done<Run> {
    let end = lab.facts().len();
    let trial_scale = Scale { edits: scale.trials, every: scale.trials, sample: scale.trials, ..*scale };
    let mut best: Option<(f64, Run)> = None;
    for strength in strengths(name) {
        let run = run(&format!("{name} at {strength}"), name, scale, |h| set_strength(h, name, strength))?;
        let trial = Run { facts: end - scale.trials..end, ..run.clone() };
        let record = trial.record(lab, &trial_scale)?;
        lab.terminal().say(record.line(&format!("  trial of {}", run.label)));
        let score = record.score();
        if best.as_ref().is_none_or(|(other, _)| score > *other) {
            best = Some((score, run));
        }
    }
    best.map(|(_, run)| run).ok_or_else(|| "no strength to try".into())
}
