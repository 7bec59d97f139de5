//! The scores of a model on facts, before and after edits.

use betaedit_core::facts::metrics::{Case, Evaluation, Generation, KnownAnswers, Probing, Rate, Setting};
use betaedit_core::facts::{Fact, Known, mentions};
use betaedit_core::llm::{Message, Model, Role, Sampler, Scoring, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::generated;
use crate::probes;
use crate::terminal::{Done, Terminal};

/// The least number of tokens over which perplexity is measured.
const PERPLEXITY_TOKENS: u64 = 4096;

/// The answers to facts, to known facts and to probes, and the perplexity of a text, if one was given.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Scores {
    pub evaluation: Evaluation,
    #[serde(default)]
    pub generation: Generation,
    #[serde(default)]
    pub known: Vec<KnownAnswers>,
    #[serde(default)]
    pub probing: Probing,
    pub perplexity: Option<f64>,
}

/// What a model is measured on.
#[derive(Clone, Copy)]
pub struct Measured<'a> {
    pub facts: &'a [Fact],
    /// For perplexity.
    pub text: Option<&'a str>,
    /// What it is expected to know.
    pub known: &'a [Known],
    /// How it is asked for answers.
    pub settings: &'a [Setting],
    /// How it is asked the probes of the facts.
    pub probes: Option<Setting>,
    /// Whether it is the unedited model, on which the conditions of probes must hold.
    pub unedited: bool,
}

impl Measured<'_> {
    /// Whether nothing is measured.
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty() && self.known.is_empty() && self.text.is_none()
    }
}

impl Scores {
    pub fn of(
        model: &Model,
        tokenizer: &Tokenizer,
        measured: Measured<'_>,
        what: &'static str,
        terminal: Terminal,
    ) -> Done<Self> {
        let mut scoring = Scoring::new(model, tokenizer);
        let bar = terminal.bar(measured.facts.len() as u64, what);
        let mut evaluation = Evaluation::default();
        for fact in measured.facts {
            let case = Case::new(&mut scoring, fact);
            evaluation.extend([case.map_err(|error| format!("fact {}: {error}", fact.case_id()))?]);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let generation = generated::ask(&mut scoring, measured.facts, measured.settings, terminal)?;
        let known =
            generated::ask_known((model, tokenizer), &mut scoring, measured.known, measured.settings, terminal)?;
        let probing = probes::ask(&mut scoring, measured, terminal)?;
        let perplexity = measured.text.map(|text| scoring.measure_perplexity(text, PERPLEXITY_TOKENS)).transpose()?;
        let perplexity = perplexity.and_then(|perplexity| perplexity.value());
        Ok(Self { evaluation, generation, known, probing, perplexity })
    }

    /// The rates by name, and the agreement with the unedited model, if its scores are given.
    pub fn rates(&self, unedited: Option<&Scores>) -> Vec<(&'static str, Option<Rate>)> {
        let summary = self.evaluation.summary();
        let agreement = unedited.and_then(|unedited| self.evaluation.neighborhood_agreement(&unedited.evaluation));
        vec![
            ("efficacy", summary.efficacy),
            ("generality", summary.generality),
            ("specificity", summary.specificity),
            ("efficacy_prob", summary.efficacy_prob),
            ("generality_prob", summary.generality_prob),
            ("specificity_prob", summary.specificity_prob),
            ("neighborhood_agreement", agreement),
        ]
    }

    pub fn json(&self, unedited: Option<&Scores>) -> Value {
        let rates = self.rates(unedited);
        let mut value = json!({ "perplexity": self.perplexity, "facts": self.evaluation.cases().len() });
        for (name, rate) in &rates {
            value[*name] = json!(rate.map(|rate| rate.mean));
        }
        let intervals =
            rates.iter().filter_map(|(name, rate)| Some((*name, json!([rate.as_ref()?.low, rate.as_ref()?.high]))));
        value["intervals"] =
            intervals.map(|(name, pair)| (name.to_owned(), pair)).collect::<serde_json::Map<_, _>>().into();
        value["probes"] = probes::json(self, unedited);
        value["generated"] = generated::json(self, unedited);
        value
    }
}

/// The subjects that the measured part of a text names. Edits are meant to change what it says about them, which counts as damage.
pub fn named(model: &Model, tokenizer: &Tokenizer, text: &str, facts: &[Fact]) -> Done<Vec<String>> {
    let measured = Scoring::new(model, tokenizer).measured_part(text, PERPLEXITY_TOKENS)?;
    let mut subjects: Vec<String> = vec![];
    for subject in facts.iter().map(Fact::subject).filter(|subject| mentions(&measured, subject)) {
        if !subjects.iter().any(|known| known == subject) {
            subjects.push(subject.to_owned());
        }
    }
    Ok(subjects)
}

/// A rate with its interval.
pub fn percent(rate: Rate) -> String {
    format!("{:.1} % ({:.0} to {:.0})", 100.0 * rate.mean, 100.0 * rate.low, 100.0 * rate.high)
}

/// The metrics as rows of a table, for one model or for before and after.
pub fn rows(columns: &[(&str, &Scores)], unedited: Option<&Scores>) -> Vec<Vec<String>> {
    let mut rows = vec![std::iter::once(String::new()).chain(columns.iter().map(|(name, _)| (*name).into())).collect()];
    let rates: Vec<_> = columns.iter().map(|(_, scores)| scores.rates(unedited)).collect();
    for (i, (name, _)) in rates[0].iter().enumerate() {
        if rates.iter().any(|rates| rates[i].1.is_some()) {
            let cells = rates.iter().map(|rates| rates[i].1.map_or("-".into(), percent));
            rows.push(std::iter::once(name.replace('_', " ")).chain(cells).collect::<Vec<String>>());
        }
    }
    rows.extend(generated::rows(columns, unedited));
    if columns.iter().any(|(_, scores)| scores.perplexity.is_some()) {
        let cells = columns.iter().map(|(_, scores)| scores.perplexity.map_or("-".into(), |x| format!("{x:.2}")));
        rows.push(std::iter::once("perplexity".to_owned()).chain(cells).collect());
    }
    rows
}

/// What a model says, and whether it ended the text itself.
pub struct Completion {
    pub text: String,
    pub ended: bool,
}

/// A model's completion of a prompt, up to the end of the text.
pub fn completion(model: &Model, tokenizer: &Tokenizer, prompt: &str, tokens: usize) -> Done<Completion> {
    let start = tokenizer.encode(prompt)?;
    let more = model.generate_until(&start, tokens, &mut Sampler::Greedy, tokenizer.ends())?;
    Ok(Completion { text: tokenizer.decode_behind(&start, &more)?, ended: more.len() < tokens })
}

/// A model's answer to a user's message in a chat, up to the end of its turn.
pub fn reply(model: &Model, tokenizer: &Tokenizer, message: &str, tokens: usize) -> Done<Completion> {
    let start = tokenizer.encode_chat(&[Message::new(Role::User, message)])?;
    let more = model.generate_until(&start, tokens, &mut Sampler::Greedy, tokenizer.ends())?;
    Ok(Completion { text: tokenizer.decode(&more)?, ended: more.len() < tokens })
}
