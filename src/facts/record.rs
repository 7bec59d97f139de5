//! Parses JSON records of any layout into facts.

use std::fmt;

use serde_json::{Map, Value};

use super::fact::{Fact, PLACE};
use super::fields::{Fault, Fields, PROMPT, TARGET, first_text, kind};
use super::neighborhood;
use crate::util::text::{Quoted, has_in_another_form, occurrences};

/// The layouts of a record; the table is in the [module documentation](super).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Layout {
    /// CounterFact and multi_counterfact, as published.
    CounterFact,
    /// The ZsRE evaluation set of MEND, as published. As in MEMIT's experiments, the first of the answers is the target,
    /// and the unrelated question `loc` (a question mark added) is the one neighborhood prompt. There is no true target.
    Zsre,
    /// The same facts without nesting, under the names of EasyEdit, KnowEdit, WikiBigEdit and UltraEdit too.
    Flat,
    /// Subject, prompt and target, as written by hand, and what [`Flat`](Self::Flat) has besides.
    Plain,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::CounterFact => "CounterFact (`requested_rewrite`)",
            Layout::Zsre => "ZsRE (`src`)",
            Layout::Flat => "flat (`target_new`)",
            Layout::Plain => "plain (`target`)",
        })
    }
}

/// The names of a field, the usual one first.
const SUBJECTS: [&str; 2] = ["subject", "concept"];
const PROMPTS: [&str; 3] = ["prompt", "update", "text"];
const NEW_TARGETS: [&str; 3] = ["target_new", "ans", "labels"];
const TRUE_TARGETS: [&str; 2] = ["target_true", "ground_truth"];
const PARAPHRASES: [&str; 4] = ["paraphrase_prompts", "rephrase_prompts", "rephrase_prompt", "rephrase"];

/// Fields that are no part of a fact.
const NOTES: [&str; 9] = ["id", "pararel_idx", "known_id", "relation_id", "tag", "source", "lang", "cond", "pred"];

/// A record that was read.
pub(super) struct Parsed {
    pub(super) layout: Layout,
    pub(super) fact: Fact,
    /// The names of the fields that were not read, and that could hold a part of a fact.
    pub(super) unread: Vec<String>,
}

/// The fact in a record. A record without a `case_id` gets `default_id`.
pub(super) fn parse(value: &Value, default_id: u64) -> Result<Parsed, Fault> {
    let Value::Object(record) = value else {
        return Err(Fault::of_record(format!("is {}, expected an object with the fields of a fact", kind(value))));
    };
    let layout = layout(record)?;
    let record = Fields::new("", record);
    let mut unread = vec![];
    let mut fact = match layout {
        Layout::CounterFact => {
            let rewrite = record.object("requested_rewrite")?;
            let fact = measured(&rewrite, &record, "target_new")?;
            unread.extend(rewrite.unread().filter(|name| !NOTES.contains(name)).map(|name| rewrite.path(name)));
            unread.extend(rewrite.unread_within());
            fact
        }
        Layout::Zsre => zsre(&record)?,
        Layout::Flat => measured(&record, &record, record.named(&NEW_TARGETS))?,
        Layout::Plain => measured(&record, &record, "target")?,
    };
    fact.case_id = record.case_id()?.unwrap_or(default_id);
    unread.extend(record.unread().filter(|name| !NOTES.contains(name)).map(str::to_owned));
    unread.extend(record.unread_within());
    Ok(Parsed { layout, fact, unread })
}

/// The name of a field that another name is nearly equal to.
pub(super) fn meant(name: &str) -> Option<&'static str> {
    let names = [&SUBJECTS[..], &PROMPTS, &NEW_TARGETS, &TRUE_TARGETS, &PARAPHRASES, &neighborhood::NAMES].concat();
    let name = name.to_lowercase();
    if names.contains(&name.as_str()) {
        return None;
    }
    let distances = names.into_iter().map(|known| (strsim::damerau_levenshtein(known, &name), known));
    // A known name was not read because the record has another one for the same.
    let near = distances.filter(|(distance, known)| (1..=2).contains(distance) && known.len() > 5);
    near.min().map(|(_, known)| known)
}

impl TryFrom<Value> for Fact {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        parse(&value, 0).map(|parsed| parsed.fact).map_err(|fault| fault.to_string())
    }
}

fn layout(record: &Map<String, Value>) -> Result<Layout, Fault> {
    [
        ("requested_rewrite", Layout::CounterFact),
        ("src", Layout::Zsre),
        ("target_new", Layout::Flat),
        ("target", Layout::Plain),
        ("ans", Layout::Flat),
        ("labels", Layout::Flat),
    ]
    .into_iter()
    .find_map(|(field, layout)| record.contains_key(field).then_some(layout))
    .ok_or_else(|| {
        let found: Vec<_> = record.keys().take(8).map(String::as_str).collect();
        let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        Fault::of_record(format!(
            "is of no known layout: expected one of the fields `requested_rewrite` (CounterFact), `src` (ZsRE), \
                 `target_new` (flat) or `target` (plain); its fields are: {found}"
        ))
    })
}

/// A fact from the fields of its rewrite, and the prompts to measure it on from those around them.
fn measured(rewrite: &Fields<'_>, record: &Fields<'_>, target: &str) -> Result<Fact, Fault> {
    let mut fact = Fact::checked(rewrite, target)?;
    let paraphrases = record.named(&PARAPHRASES);
    if record.has(paraphrases) {
        fact.paraphrase_prompts = record.strings(paraphrases, PROMPT)?;
        for prompt in &mut fact.paraphrase_prompts {
            *prompt = prompt.replace(PLACE, &fact.subject);
        }
    }
    fact.neighborhood_prompts = neighborhood::read(record, fact.target_true.as_deref())?;
    Ok(fact)
}

fn zsre(record: &Fields<'_>) -> Result<Fact, Fault> {
    let subject = record.text("subject", SUBJECT)?;
    let question = record.text("src", PROMPT)?;
    let prompt = match occurrences(&question, &subject)[..] {
        // A question marks no occurrence as the one to edit at, so the first of several is taken.
        [start, _, ..] if !question.contains(PLACE) => at_place(&question, start, &subject),
        _ => template("src", question, &subject)?,
    };
    let answers = record.strings("answers", TARGET)?;
    let Some(target_new) = answers.into_iter().next() else {
        return Err(Fault::of_field("answers", format!("is empty; {TARGET}")));
    };
    let paraphrase_prompts = if record.has("rephrase") { record.strings("rephrase", PROMPT)? } else { Vec::new() };
    let neighborhood_prompts = neighborhood::of_question(record)?;
    Ok(Fact { case_id: 0, subject, prompt, target_new, target_true: None, paraphrase_prompts, neighborhood_prompts })
}

const SUBJECT: &str = "give the person or thing that the fact is about";

impl Fact {
    /// Subject, prompt and targets, checked against one another.
    fn checked(record: &Fields<'_>, target: &str) -> Result<Self, Fault> {
        let subject = record.text(record.named(&SUBJECTS), SUBJECT)?;
        let field = record.named(&PROMPTS);
        let prompt = template(&record.path(field), record.prompt(field)?, &subject)?;
        let target_new = record.target(target, TARGET)?;
        let target_true = true_target(record)?;
        if target_true.as_ref() == Some(&target_new) {
            let target_new = Quoted(&target_new);
            return Err(Fault::of_field(
                record.path(target),
                format!(
                    "is {target_new}, which is the true target as well; give another, or leave `{}` out",
                    record.named(&TRUE_TARGETS)
                ),
            ));
        }
        Ok(Self {
            case_id: 0,
            subject,
            prompt,
            target_new,
            target_true,
            paraphrase_prompts: Vec::new(),
            neighborhood_prompts: Vec::new(),
        })
    }
}

/// The true target, if the record has one. A list gives several forms of it, the usual one first.
fn true_target(record: &Fields<'_>) -> Result<Option<String>, Fault> {
    let field = record.named(&TRUE_TARGETS);
    if !record.has(field) {
        return Ok(None);
    }
    match record.get(field, TARGET)? {
        list @ Value::Array(_) => first_text(&record.path(field), list, TARGET).map(Some),
        _ => record.target(field, TARGET).map(Some),
    }
}

/// A prompt with exactly one `{}`: its own, or in place of the subject's one occurrence.
fn template(field: &str, prompt: String, subject: &str) -> Result<String, Fault> {
    let (shown, name) = (Quoted(&prompt), Quoted(subject));
    match prompt.matches(PLACE).count() {
        1 => Ok(prompt),
        0 => match occurrences(&prompt, subject)[..] {
            [start] => Ok(at_place(&prompt, start, subject)),
            [] if prompt.contains(subject) => Err(Fault::of_field(
                field,
                format!(
                    "{shown} has the subject {name} only as a part of a longer word; write `{PLACE}` where it stands"
                ),
            )),
            [] if has_in_another_form(&prompt, subject) => Err(Fault::of_field(
                field,
                format!(
                    "{shown} has the subject {name} in another form (case, width, accents or spaces); write `{PLACE}` where it stands"
                ),
            )),
            [] => Err(Fault::of_field(
                field,
                format!("{shown} has neither `{PLACE}` nor the subject {name}; write `{PLACE}` where it stands"),
            )),
            [..] => Err(Fault::of_field(
                field,
                format!("{shown} has the subject {name} more than once; write `{PLACE}` for the one to edit at"),
            )),
        },
        several => {
            Err(Fault::of_field(field, format!("{shown} has {several} `{PLACE}`; keep one, where the subject stands")))
        }
    }
}

fn at_place(text: &str, start: usize, subject: &str) -> String {
    format!("{}{PLACE}{}", &text[..start], &text[start + subject.len()..])
}
