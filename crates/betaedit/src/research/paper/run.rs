//! One run: facts edited one after the other, with measurements of the model at checkpoints.

use std::ops::Range;
use std::time::Instant;

use betaedit_core::facts::metrics::Rate;
use serde_json::{Value, json};

use super::edited::By;
use super::lab::Lab;
use super::studies::Scale;
use crate::terminal::Done;

/// An editor on some facts.
#[derive(Clone)]
pub struct Run {
    /// In tables and legends.
    pub label: String,
    pub by: By,
    /// Indices of the facts.
    pub facts: Range<usize>,
}

/// The measurements of a run, at every checkpoint.
pub struct Record {
    json: Value,
}

/// A measurement.
#[derive(Clone, Copy)]
pub enum Measure {
    Efficacy,
    Generality,
    Agreement,
    Perplexity,
    Leakage,
    Drift,
    Kept,
}

impl Measure {
    fn name(self) -> &'static str {
        match self {
            Self::Efficacy => "efficacy",
            Self::Generality => "generality",
            Self::Agreement => "agreement",
            Self::Perplexity => "perplexity",
            Self::Leakage => "leakage",
            Self::Drift => "drift",
            Self::Kept => "kept",
        }
    }

    /// For the axis of a chart.
    pub fn description(self) -> &'static str {
        match self {
            Self::Efficacy => "edited prompts with the new target as argmax",
            Self::Generality => "paraphrases with the new target as argmax",
            Self::Agreement => "neighborhood prompts answered as before",
            Self::Perplexity => "perplexity of held-out text",
            Self::Leakage => "leakage / that of W, mean of layers",
            Self::Drift => "drift / norm of W, mean of layers",
            Self::Kept => "directions left, mean of layers",
        }
    }
}

impl Run {
    /// The record of the run, from its file if the run is finished.
    pub fn record(&self, lab: &mut Lab, scale: &Scale) -> Done<Record> {
        let (model, method, scale_json) = (lab.description()?, self.by.description()?, serde_json::to_string(scale)?);
        let settings = format!("{model} {method}, facts {}..{}, {scale_json}", self.facts.start, self.facts.end);
        let path = lab.path_of_run(&format!("{}-{:016x}", self.by.name(), hash(&settings)));
        if let Ok(text) = std::fs::read_to_string(&path) {
            let json: Value = serde_json::from_str(&text)?;
            if json["settings"].as_str() == Some(&settings) {
                return Ok(Record { json });
            }
        }
        let json = self.make(lab, scale, &settings)?;
        crate::files::replace(&path, serde_json::to_string_pretty(&json)?)?;
        Ok(Record { json })
    }

    fn make(&self, lab: &mut Lab, scale: &Scale, settings: &str) -> Done<Value> {
        let (mut edited, requests) = lab.begin(&self.by, self.facts.clone())?;
        let (mut points, mut rejected, mut conflicting) = (vec![], vec![], 0);
        let mut editing = 0.0;
        let bar = lab.terminal().bar(requests.len() as u64, "edits").with_message(self.label.clone());
        for (i, request) in requests.iter().enumerate() {
            let clock = Instant::now();
            match edited.edit(request)? {
                Ok(conflicts) => conflicting += usize::from(conflicts > 0),
                Err(reason) => rejected.push(reason),
            }
            editing += clock.elapsed().as_secs_f64();
            bar.inc(1);
            let edits = i + 1;
            if !edits.is_multiple_of(scale.every) && edits != requests.len() {
                continue;
            }
            let model = edited.model();
            let asked = sample(self.facts.start..self.facts.start + edits, scale.sample);
            let [before, now] = lab.ask(model, &asked)?;
            let summary = now.summary();
            let mean = |rate: Option<Rate>| rate.map(|rate| rate.mean);
            let gauges = edited.gauges(lab)?;
            points.push(json!({
                "edits": edits,
                "asked": asked.len(),
                "efficacy": mean(summary.efficacy),
                "generality": mean(summary.generality),
                "agreement": mean(now.neighborhood_agreement(&before)),
                "perplexity": lab.perplexity(model, scale.perplexity_tokens)?,
                "leakage": gauges.leakage,
                "drift": gauges.drift,
                "kept": gauges.kept,
            }));
        }
        bar.finish_and_clear();
        Ok(json!({
            "settings": settings,
            "conflicting": conflicting,
            "rejected": rejected.len(),
            "first_rejection": rejected.first(),
            "seconds_of_editing": editing,
            "points": points,
        }))
    }
}

impl Record {
    /// A curve over the number of edits. It starts at zero edits where the unedited model's value is known to be 0.
    pub fn curve(&self, measure: Measure) -> Vec<(f64, f64)> {
        let points = self.json["points"].as_array().into_iter().flatten();
        let points = points.filter_map(|p| Some((p["edits"].as_f64()?, p[measure.name()].as_f64()?)));
        let points: Vec<(f64, f64)> = points.collect();
        let from_zero = matches!(measure, Measure::Leakage | Measure::Drift) && !points.is_empty();
        from_zero.then_some((0.0, 0.0)).into_iter().chain(points).collect()
    }

    /// The last value.
    pub fn last(&self, measure: Measure) -> f64 {
        self.curve(measure).last().map_or(f64::NAN, |point| point.1)
    }

    /// The score by which a method's strength is chosen: the harmonic mean of what it writes (efficacy, generality) and what it
    /// preserves (agreement).
    pub fn score(&self) -> f64 {
        let parts = [Measure::Efficacy, Measure::Generality, Measure::Agreement].map(|measure| self.last(measure));
        3.0 / parts.into_iter().map(f64::recip).sum::<f64>()
    }

    /// The last checkpoint, as a line of text.
    pub fn line(&self, label: &str) -> String {
        let percent = |measure| 100.0 * self.last(measure);
        // Values that a run does not have are left out.
        let gauge = |measure, name: &str, digits: usize| match self.last(measure) {
            value if value.is_nan() => String::new(),
            value => format!("  {name} {value:.digits$}"),
        };
        let count = |name: &str| match self.json[name].as_u64() {
            None | Some(0) => String::new(),
            Some(n) => format!(", {n} {name}"),
        };
        format!(
            "{label:32} efficacy {:5.1}  generality {:5.1}  agreement {:5.1}  perplexity {:7.2}{}{}{}{}{}",
            percent(Measure::Efficacy),
            percent(Measure::Generality),
            percent(Measure::Agreement),
            self.last(Measure::Perplexity),
            gauge(Measure::Leakage, "leakage", 4),
            gauge(Measure::Drift, "drift", 3),
            gauge(Measure::Kept, "kept", 0),
            count("conflicting"),
            count("rejected"),
        )
    }

    pub fn into_json(self) -> Value {
        self.json
    }
}

/// Up to `most` numbers of a range, evenly spread, the last included.
fn sample(range: Range<usize>, most: usize) -> Vec<usize> {
    let (n, end) = (range.len(), range.end);
    let count = n.min(most);
    (0..count).map(|i| end - 1 - i * n / count).rev().collect()
}

/// A hash (FNV-1a) for the name of a file. The file itself holds the full settings.
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
