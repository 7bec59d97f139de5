//! Parses JSON records of any layout into facts.

use std::fmt;

use serde_json::{Map, Value};

use super::fact::{Fact, NeighborhoodPrompt, PLACE};

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
    /// The same facts without nesting.
    Flat,
    /// Subject, prompt and target only.
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

/// A problem in a record, and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The field; `None` for the record as a whole.
    pub(super) field: Option<String>,
    pub(super) problem: String,
}

impl Fault {
    pub(super) fn of_field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: Some(field.into()), problem: problem.into() }
    }

    pub(super) fn of_record(problem: impl Into<String>) -> Self {
        Self { field: None, problem: problem.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            None => f.write_str(&self.problem),
            Some(field) => write!(f, "field `{field}`: {}", self.problem),
        }
    }
}

/// The fact in a record and the layout it was in. A record without a `case_id` gets `default_id`.
pub(super) fn parse(value: &Value, default_id: u64) -> Result<(Layout, Fact), Fault> {
    let Value::Object(record) = value else {
        return Err(Fault::of_record(format!("is {}, expected an object with the fields of a fact", kind(value))));
    };
    let layout = layout(record)?;
    let record = Fields { prefix: "", map: record };
    let mut fact = match layout {
        Layout::CounterFact => measured(&record.object("requested_rewrite")?, &record)?,
        Layout::Zsre => zsre(&record)?,
        Layout::Flat => measured(&record, &record)?,
        Layout::Plain => Fact::checked(&record, "target", None)?,
    };
    fact.case_id = record.case_id()?.unwrap_or(default_id);
    Ok((layout, fact))
}

impl TryFrom<Value> for Fact {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        parse(&value, 0).map(|(_, fact)| fact).map_err(|fault| fault.to_string())
    }
}

fn layout(record: &Map<String, Value>) -> Result<Layout, Fault> {
    [
        ("requested_rewrite", Layout::CounterFact),
        ("src", Layout::Zsre),
        ("target_new", Layout::Flat),
        ("target", Layout::Plain),
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
fn measured(rewrite: &Fields<'_>, record: &Fields<'_>) -> Result<Fact, Fault> {
    let target_true = rewrite.has("target_true").then(|| rewrite.target("target_true")).transpose()?;
    let mut fact = Fact::checked(rewrite, "target_new", target_true)?;
    if record.has("paraphrase_prompts") {
        fact.paraphrase_prompts = record.strings("paraphrase_prompts", PROMPT)?;
        for prompt in &mut fact.paraphrase_prompts {
            *prompt = prompt.replace(PLACE, &fact.subject);
        }
    }
    if record.has("neighborhood_prompts") {
        fact.neighborhood_prompts = record.neighborhood(fact.target_true.as_deref())?;
    }
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
    let paraphrase_prompts = record.strings("rephrase", PROMPT)?;
    let neighborhood_prompts = if record.has("loc") {
        let prompt = record.text("loc", PROMPT)?;
        let target_true = record.text("loc_ans", TARGET)?;
        vec![NeighborhoodPrompt { prompt: format!("{}?", prompt.trim_end_matches('?')), target_true }]
    } else {
        Vec::new()
    };
    Ok(Fact { case_id: 0, subject, prompt, target_new, target_true: None, paraphrase_prompts, neighborhood_prompts })
}

const SUBJECT: &str = "give the person or thing that the fact is about";
const PROMPT: &str = "give the text before the target";
const TARGET: &str = "give the text after the prompt";

impl Fact {
    /// Subject, prompt and targets, checked against one another.
    fn checked(record: &Fields<'_>, target: &str, target_true: Option<String>) -> Result<Self, Fault> {
        let subject = record.text("subject", SUBJECT)?;
        let prompt = template(&record.path("prompt"), record.text("prompt", PROMPT)?, &subject)?;
        let target_new = record.target(target)?;
        if target_true.as_ref() == Some(&target_new) {
            return Err(Fault::of_field(
                record.path(target),
                format!(
                    "is {target_new:?}, which is the true target as well; give another, or leave `target_true` out"
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

/// A prompt with exactly one `{}`: its own, or in place of the subject's one occurrence.
fn template(field: &str, prompt: String, subject: &str) -> Result<String, Fault> {
    match prompt.matches(PLACE).count() {
        1 => Ok(prompt),
        0 => match occurrences(&prompt, subject)[..] {
            [start] => Ok(at_place(&prompt, start, subject)),
            [] => Err(not_in_prompt(field, subject, &prompt)),
            [..] => Err(Fault::of_field(
                field,
                format!(
                    "{prompt:?} has the subject {subject:?} more than once; write `{PLACE}` for the one to edit at"
                ),
            )),
        },
        several => Err(Fault::of_field(
            field,
            format!("{prompt:?} has {several} `{PLACE}`; keep one, where the subject stands"),
        )),
    }
}

fn not_in_prompt(field: &str, subject: &str, prompt: &str) -> Fault {
    Fault::of_field(
        field,
        format!("{prompt:?} has neither `{PLACE}` nor the subject {subject:?}; write `{PLACE}` where it stands"),
    )
}

fn at_place(text: &str, start: usize, subject: &str) -> String {
    format!("{}{PLACE}{}", &text[..start], &text[start + subject.len()..])
}

/// The places of the subject in a text as whole words.
fn occurrences(text: &str, subject: &str) -> Vec<usize> {
    let joins = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    text.match_indices(subject)
        .map(|(start, _)| start)
        .filter(|&start| {
            !joins(text[..start].chars().next_back()) && !joins(text[start + subject.len()..].chars().next())
        })
        .collect()
}

/// The fields of an object, and the path to it for messages.
struct Fields<'a> {
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn path(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }

    /// Whether the field is there; `null` counts as absent.
    fn has(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(|value| !value.is_null())
    }

    fn get(&self, field: &str, advice: &str) -> Result<&'a Value, Fault> {
        self.map.get(field).ok_or_else(|| Fault::of_field(self.path(field), format!("is missing; {advice}")))
    }

    fn text(&self, field: &str, advice: &str) -> Result<String, Fault> {
        text(&self.path(field), self.get(field, advice)?, advice)
    }

    /// A list of texts, or one text alone.
    fn strings(&self, field: &str, advice: &str) -> Result<Vec<String>, Fault> {
        match self.get(field, advice)? {
            Value::Array(list) => list
                .iter()
                .enumerate()
                .map(|(i, value)| text(&format!("{}[{i}]", self.path(field)), value, advice))
                .collect(),
            value @ Value::String(_) => Ok(vec![text(&self.path(field), value, advice)?]),
            value => Err(wrong_kind(&self.path(field), value, "a list of strings")),
        }
    }

    fn object(&self, field: &'static str) -> Result<Fields<'a>, Fault> {
        match self.get(field, "")? {
            Value::Object(map) => Ok(Fields { prefix: "requested_rewrite.", map }),
            value => Err(wrong_kind(&self.path(field), value, "an object")),
        }
    }

    /// A target: a string, or the `str` of an object.
    fn target(&self, field: &str) -> Result<String, Fault> {
        match self.get(field, TARGET)? {
            Value::Object(map) => {
                let prefix = format!("{}.", self.path(field));
                Fields { prefix: &prefix, map }.text("str", TARGET)
            }
            value => text(&self.path(field), value, TARGET),
        }
    }

    fn case_id(&self) -> Result<Option<u64>, Fault> {
        match self.map.get("case_id") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(id) => Ok(Some(id)),
                None => Err(wrong_kind("case_id", value, "a whole number from 0 up")),
            },
        }
    }

    /// Neighborhood prompts: objects with a target each, or strings whose targets stand in `neighborhood_prompts_answers`
    /// or are the fact's own true target.
    fn neighborhood(&self, target_true: Option<&str>) -> Result<Vec<NeighborhoodPrompt>, Fault> {
        const FIELD: &str = "neighborhood_prompts";
        const ANSWERS: &str = "neighborhood_prompts_answers";
        let Value::Array(list) = self.get(FIELD, "")? else {
            return Err(wrong_kind(FIELD, &self.map[FIELD], "a list"));
        };
        let answers = if self.has(ANSWERS) {
            let answers = self.strings(ANSWERS, TARGET)?;
            if answers.len() != list.len() {
                let problem = format!("has {} entries for {} prompts; give one each", answers.len(), list.len());
                return Err(Fault::of_field(ANSWERS, problem));
            }
            Some(answers)
        } else {
            None
        };
        let neighbor = |(i, value): (usize, &Value)| {
            let path = format!("{FIELD}[{i}]");
            match value {
                Value::Object(map) => {
                    let prefix = format!("{path}.");
                    let fields = Fields { prefix: &prefix, map };
                    let target =
                        if fields.has("target_true") || !fields.has("target") { "target_true" } else { "target" };
                    Ok(NeighborhoodPrompt {
                        prompt: fields.text("prompt", PROMPT)?,
                        target_true: fields.target(target)?,
                    })
                }
                Value::String(_) => {
                    let answer = answers.as_ref().map(|answers| answers[i].as_str()).or(target_true);
                    let Some(answer) = answer else {
                        return Err(Fault::of_field(
                            path,
                            format!(
                                "has no answer; write {{\"prompt\": .., \"target_true\": ..}}, or give `{ANSWERS}`"
                            ),
                        ));
                    };
                    Ok(NeighborhoodPrompt { prompt: text(&path, value, PROMPT)?, target_true: answer.to_owned() })
                }
                value => Err(wrong_kind(&path, value, "a string or an object with `prompt` and `target_true`")),
            }
        };
        list.iter().enumerate().map(neighbor).collect()
    }
}

fn text(field: &str, value: &Value, advice: &str) -> Result<String, Fault> {
    match value {
        Value::String(text) if text.trim().is_empty() => Err(Fault::of_field(field, format!("is empty; {advice}"))),
        Value::String(text) => Ok(text.trim().to_owned()),
        value => Err(wrong_kind(field, value, "a string")),
    }
}

fn wrong_kind(field: &str, value: &Value, expected: &str) -> Fault {
    Fault::of_field(field, format!("is {}, expected {expected}", kind(value)))
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("the truth value {value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
