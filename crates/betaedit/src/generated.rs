//! What a model generates: the settings in which it is asked, the rates of its answers, and the file of them.

use std::path::PathBuf;
use std::str::FromStr;

use betaedit_core::facts::Fact;
use betaedit_core::facts::metrics::{Generation, Purpose, Rate, Replies, Reply, Setting, says};
use betaedit_core::llm::{Message, Role, Scoring, Tokenizer};
use serde_json::{Map, Value, json};

use crate::files::replace;
use crate::scores::{Scores, percent};
use crate::terminal::{Done, Terminal};

/// The arguments about generated answers.
#[derive(clap::Args, Clone, Default)]
pub struct Arguments {
    /// Measure what the model generates: plain (it continues the prompt), qa (the prompt as a question in a text), chat (the prompt in the
    /// model's chat template), or none [default: plain,chat, without chat if the model has no template]
    #[arg(long, value_name = "SETTINGS")]
    generate: Option<Settings>,
    /// Write each generated answer to a file of JSON lines: question, wanted answer, answer, setting
    #[arg(long, value_name = "FILE.jsonl")]
    pub answers: Option<PathBuf>,
}

/// Settings, as `plain,chat`.
#[derive(Clone)]
struct Settings(Vec<Setting>);

impl FromStr for Settings {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(vec![]));
        }
        let setting = |name: &str| name.trim().parse::<Setting>().map_err(|error| format!("{error}, or none"));
        let mut settings = text.split(',').map(setting).collect::<Result<Vec<_>, _>>()?;
        settings.sort_by_key(|setting| Setting::ALL.iter().position(|known| known == setting));
        settings.dedup();
        Ok(Self(settings))
    }
}

impl Arguments {
    /// The settings in which a model is asked. A model without a chat template cannot be asked in chats.
    pub fn settings(&self, tokenizer: &Tokenizer) -> Done<Vec<Setting>> {
        let template = || tokenizer.render_chat(&[Message::new(Role::User, "Hello")]);
        match &self.generate {
            Some(Settings(settings)) if settings.contains(&Setting::Chat) => {
                template().map_err(|error| format!("--generate chat: {error}"))?;
                Ok(settings.clone())
            }
            Some(Settings(settings)) => Ok(settings.clone()),
            None if template().is_ok() => Ok(vec![Setting::Plain, Setting::Chat]),
            None => Ok(vec![Setting::Plain]),
        }
    }

    /// Writes the answers of models, each with a name for them.
    pub fn write(&self, models: &[(&str, &Scores)]) -> Done {
        let Some(path) = &self.answers else { return Ok(()) };
        let mut text = String::new();
        for (model, scores) in models {
            for case in scores.generation.cases() {
                for reply in &case.replies {
                    text += &format!("{}\n", line(model, case, reply));
                }
            }
        }
        replace(path, text)
    }
}

fn line(model: &str, case: &Replies, reply: &Reply) -> Value {
    json!({
        "model": model, "case_id": case.case_id, "subject": case.subject, "setting": case.setting, "purpose": reply.purpose,
        "question": reply.question, "wanted": reply.wanted, "answer": reply.answer,
        "says": says(case.setting, &reply.answer, &reply.wanted),
    })
}

/// Asks a model about facts, in some settings.
pub fn ask(scoring: &mut Scoring<'_>, facts: &[Fact], settings: &[Setting], terminal: Terminal) -> Done<Generation> {
    let bar = terminal.bar((facts.len() * settings.len()) as u64, "answers");
    let mut generation = Generation::default();
    for &setting in settings {
        // Some facts at once: their questions are answered together.
        for facts in facts.chunks(FACTS_AT_ONCE) {
            generation.extend(Replies::of_each(scoring, facts, setting)?);
            bar.inc(facts.len() as u64);
        }
    }
    bar.finish_and_clear();
    Ok(generation)
}

/// Facts whose questions are answered together.
const FACTS_AT_ONCE: usize = 16;

/// The rates of a setting by name.
fn rates(scores: &Scores, setting: Setting, unedited: &Generation) -> Vec<(&'static str, Option<Rate>)> {
    let summary = scores.generation.summary(setting, unedited);
    vec![
        ("efficacy", summary.efficacy),
        ("exact", summary.exact),
        ("generality", summary.generality),
        ("agreement", summary.agreement),
        ("subject_named", summary.subject_named),
    ]
}

fn settings(scores: &Scores) -> impl Iterator<Item = Setting> {
    let asked = scores.generation.cases();
    Setting::ALL.iter().copied().filter(|setting| asked.iter().any(|case| case.setting == *setting))
}

/// The rates by setting and name.
pub fn json(scores: &Scores, unedited: Option<&Scores>) -> Value {
    let none = Generation::default();
    let unedited = unedited.map_or(&none, |unedited| &unedited.generation);
    let of = |setting| {
        let rates = rates(scores, setting, unedited);
        let value = |(name, rate): &(&str, Option<Rate>)| ((*name).to_owned(), json!(rate.map(|rate| rate.mean)));
        let mut object: Map<String, Value> = rates.iter().map(value).collect();
        let interval = |(name, rate): &(&str, Option<Rate>)| {
            Some(((*name).to_owned(), json!([rate.as_ref()?.low, rate.as_ref()?.high])))
        };
        object.insert("intervals".into(), rates.iter().filter_map(interval).collect::<Map<_, _>>().into());
        (setting.to_string(), Value::from(object))
    };
    Value::from(settings(scores).map(of).collect::<Map<_, _>>())
}

/// The rates as rows of a table, for one model or for before and after.
pub fn rows(columns: &[(&str, &Scores)], unedited: Option<&Scores>) -> Vec<Vec<String>> {
    let none = Generation::default();
    let unedited = unedited.map_or(&none, |unedited| &unedited.generation);
    let mut rows = vec![];
    for setting in columns.iter().take(1).flat_map(|(_, scores)| settings(scores)) {
        let each: Vec<_> = columns.iter().map(|(_, scores)| rates(scores, setting, unedited)).collect();
        for (i, (name, _)) in each[0].iter().enumerate().filter(|(i, _)| each.iter().any(|rates| rates[*i].1.is_some()))
        {
            let cells = each.iter().map(|rates| rates[i].1.map_or("-".into(), percent));
            rows.push(std::iter::once(format!("{setting} {}", name.replace('_', " "))).chain(cells).collect());
        }
    }
    rows
}

/// What a model answered in a chat at the prompt of a fact, if it was asked in one.
pub fn chat_answer(scores: &Scores, case_id: u64) -> Option<&str> {
    let mut cases = scores.generation.cases().iter();
    let case = cases.find(|case| case.setting == Setting::Chat && case.case_id == case_id)?;
    case.replies.iter().find(|reply| reply.purpose == Purpose::Fact).map(|reply| reply.answer.as_str())
}
