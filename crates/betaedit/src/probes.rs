//! What follows from edits and what must stay: the answers to the probes of facts, and their rates.

use std::str::FromStr;

use betaedit_core::facts::Fact;
use betaedit_core::facts::metrics::{ProbeRates, ProbeReplies, Probing, Rate, Setting};
use betaedit_core::llm::Scoring;
use serde_json::{Map, Value, json};

use crate::scores::{Measured, Scores, percent};
use crate::terminal::{Done, Terminal, table};

/// The arguments about probes.
#[derive(clap::Args, Clone)]
pub struct Arguments {
    /// Ask the questions on portability and locality of the facts: plain (the model continues the prompt), qa (the prompt as a
    /// question in a text), chat (the prompt in the model's chat template), or none
    #[arg(long, value_name = "SETTING", default_value = "plain")]
    probes: Choice,
}

/// A setting, or none.
#[derive(Clone, Copy)]
struct Choice(Option<Setting>);

impl FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "none" => Ok(Self(None)),
            _ => name.parse().map(|setting| Self(Some(setting))).map_err(|error| format!("{error}, or none")),
        }
    }
}

impl Arguments {
    /// How a model is asked.
    pub fn setting(&self) -> Option<Setting> {
        self.probes.0
    }
}

/// Asks a model about the probes of facts.
pub fn ask(scoring: &mut Scoring<'_>, measured: Measured<'_>, terminal: Terminal) -> Done<Probing> {
    let mut probing = Probing::default();
    let Some(setting) = measured.probes else { return Ok(probing) };
    let asked: Vec<&Fact> = measured.facts.iter().filter(|fact| !fact.probes().is_empty()).collect();
    if asked.is_empty() {
        return Ok(probing);
    }
    let bar = terminal.bar(asked.len() as u64, "probes");
    let replies = if measured.unedited { ProbeReplies::new } else { ProbeReplies::without_conditions };
    for fact in asked {
        let replies = replies(scoring, fact, setting);
        probing.extend([replies.map_err(|error| format!("fact {}: {error}", fact.case_id()))?]);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(probing)
}

/// The setting in which a model was asked, and the rates in it.
fn summary(scores: &Scores, unedited: Option<&Scores>) -> Option<(Setting, Vec<ProbeRates>)> {
    let setting = scores.probing.cases().first()?.setting;
    let nothing = Probing::default();
    let unedited = unedited.map_or(&nothing, |unedited| &unedited.probing);
    Some((setting, scores.probing.summary(setting, unedited)))
}

/// The rates of each criterion.
pub fn json(scores: &Scores, unedited: Option<&Scores>) -> Value {
    let Some((setting, criteria)) = summary(scores, unedited) else { return json!([]) };
    let of = |rates: &ProbeRates| {
        let named = [
            ("passed", rates.passed),
            ("passed_where_written", rates.passed_where_written),
            ("agreement", rates.agreement),
            ("recall", rates.recall),
        ];
        let mut value = json!({
            "category": rates.category, "criterion": rates.criterion, "setting": setting,
            "probes": rates.probes, "counted": rates.counted,
        });
        for (name, rate) in &named {
            value[*name] = json!(rate.map(|rate| rate.mean));
        }
        let interval = |(name, rate): &(&str, Option<Rate>)| {
            rate.as_ref().map(|rate| ((*name).to_owned(), json!([rate.low, rate.high])))
        };
        value["intervals"] = named.iter().filter_map(interval).collect::<Map<_, _>>().into();
        value
    };
    criteria.iter().map(of).collect::<Vec<_>>().into()
}

/// The rates as rows of a table, for one model or for before and after. Empty if no model was asked.
pub fn rows(columns: &[(&str, &Scores)], unedited: Option<&Scores>) -> Vec<Vec<String>> {
    let Some((_, last)) = columns.last() else { return vec![] };
    let Some((setting, criteria)) = summary(last, unedited) else { return vec![] };
    let head = [format!("probes ({setting})"), "counted".into()].into_iter();
    let head = head.chain(columns.iter().map(|(name, _)| format!("passed, {name}")));
    let mut rows = vec![head.chain(["where written", "agreement", "recall"].map(str::to_owned)).collect::<Vec<_>>()];
    let others: Vec<_> = columns.iter().map(|(_, scores)| summary(scores, unedited)).collect();
    let short = |rate: Option<Rate>| rate.map_or("-".to_owned(), |rate| format!("{:.1} %", 100.0 * rate.mean));
    for rates in &criteria {
        let of_same = |of: &&ProbeRates| of.category == rates.category && of.criterion == rates.criterion;
        let passed = others.iter().map(|summary| {
            let rates = summary.as_ref().and_then(|(_, rates)| rates.iter().find(of_same));
            rates.and_then(|rates| rates.passed).map_or("-".to_owned(), percent)
        });
        let mut row = vec![format!("{}, {}", rates.category, rates.criterion)];
        row.push(format!("{} of {}", rates.counted, rates.probes));
        row.extend(passed);
        row.extend([rates.passed_where_written, rates.agreement, rates.recall].map(short));
        rows.push(row);
    }
    rows
}

/// Prints the table, if a model was asked.
pub fn say(columns: &[(&str, &Scores)], unedited: Option<&Scores>, terminal: Terminal) {
    let rows = rows(columns, unedited);
    if !rows.is_empty() {
        terminal.say(format!("\n{}", table(&rows)));
    }
}

/// Says that conditions cannot be checked, if that leaves probes out.
pub fn note_conditions(scores: &Scores, terminal: Terminal) {
    let Some((_, criteria)) = summary(scores, None) else { return };
    let left: usize = criteria.iter().map(|rates| rates.probes - rates.counted).sum();
    if left > 0 {
        terminal
            .note(format!("{left} probes do not count: their conditions must hold on the model given by --unedited"));
    }
}
