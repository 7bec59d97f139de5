//! What a model generates about the facts and about what it is expected to know: the settings in which it is asked, the rates of its
//! answers, and the file of them.

use std::path::PathBuf;
use std::str::FromStr;

use betaedit_core::facts::metrics::{
    Generation, KnownAnswer, KnownAnswers, Purpose, Rate, Replies, Reply, Setting, says,
};
use betaedit_core::facts::{Fact, Known, shipped};
use betaedit_core::llm::{Message, Model, Role, Scoring, Tokenizer};
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
        let mut lines = vec![];
        for (model, scores) in models {
            for case in scores.generation.cases() {
                lines.extend(case.replies.iter().map(|reply| line(model, case, reply)));
            }
            for known in &scores.known {
                lines.extend(known.answers().iter().map(|answer| known_line(model, known.setting(), answer)));
            }
        }
        replace(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>())
    }
}

fn line(model: &str, case: &Replies, reply: &Reply) -> Value {
    json!({
        "model": model, "case_id": case.case_id, "subject": case.subject, "setting": case.setting, "purpose": reply.purpose,
        "question": reply.question, "wanted": reply.wanted, "answer": reply.answer,
        "says": says(case.setting, &reply.answer, &reply.wanted),
    })
}

fn known_line(model: &str, setting: Setting, KnownAnswer { known, answer, right, .. }: &KnownAnswer) -> Value {
    json!({
        "model": model, "setting": setting, "purpose": "known", "question": known.prompt, "wanted": known.answers.first(),
        "answer": answer, "says": right,
    })
}

/// The known facts that come with the program, without those about subjects that are edited: these may rightly change.
pub fn known<'a>(edited: impl IntoIterator<Item = &'a str>) -> Vec<Known> {
    let mut known = shipped::known();
    for subject in edited {
        known.retain(|fact| !fact.is_about(subject));
    }
    known
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

/// Whether a model's context holds what it is asked about a known fact. A tokenizer of few tokens makes many of a text.
fn fits(model: &Model, tokenizer: &Tokenizer, known: &Known, setting: Setting) -> bool {
    let asked = setting.asked(&known.prompt);
    let tokens = match setting {
        Setting::Chat => tokenizer.encode_chat(&[Message::new(Role::User, asked)]),
        _ => tokenizer.encode(&asked),
    };
    tokens.is_ok_and(|tokens| tokens.len() < model.config().context)
}

/// Asks a model what it is expected to know, in some settings, as far as its context holds the questions.
pub fn ask_known(
    (model, tokenizer): (&Model, &Tokenizer),
    scoring: &mut Scoring<'_>,
    known: &[Known],
    settings: &[Setting],
    terminal: Terminal,
) -> Done<Vec<KnownAnswers>> {
    let bar = terminal.bar(settings.len() as u64, "known facts");
    let mut asked = vec![];
    for &setting in settings {
        let known: Vec<Known> = known.iter().filter(|known| fits(model, tokenizer, known, setting)).cloned().collect();
        asked.push(KnownAnswers::ask(scoring, &known, setting)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(asked)
}

/// The rates of a setting by name. The last are of targets that are passages, and belong to files that have some.
fn rates(scores: &Scores, setting: Setting, unedited: &Generation) -> Vec<(&'static str, Option<Rate>)> {
    let summary = scores.generation.summary(setting, unedited);
    let known = scores.known.iter().find(|known| known.setting() == setting);
    vec![
        ("efficacy", summary.efficacy),
        ("exact", summary.exact),
        ("generality", summary.generality),
        ("agreement", summary.agreement),
        ("subject_named", summary.subject_named),
        ("known", known.and_then(KnownAnswers::share)),
        ("efficacy_recall", summary.efficacy_recall),
        ("generality_recall", summary.generality_recall),
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
        let mut rates = rates(scores, setting, unedited);
        rates.retain(|(name, rate)| rate.is_some() || !name.ends_with("_recall"));
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
