//! The part of a record that is written: subject, prompt and targets, checked against one another.

use serde_json::Value;

use super::fact::{Fact, PLACE};
use super::fields::{Fault, Fields, PROMPT, TARGET, first_text};
use super::subject;
use crate::util::text::{Quoted, has_in_another_form, occurrences};

/// The names of a field, the usual one first.
pub(super) const SUBJECTS: [&str; 2] = ["subject", "concept"];
pub(super) const PROMPTS: [&str; 4] = ["prompt", "update", "text", "question"];
pub(super) const TRUE_TARGETS: [&str; 2] = ["target_true", "ground_truth"];

pub(super) const SUBJECT: &str = "give the person or thing that the fact is about";

/// Subject, prompt and targets.
pub(super) fn read(record: &Fields<'_>, target: &str) -> Result<Fact, Fault> {
    let field = record.named(&PROMPTS);
    let (subject, prompt) = if names_subject(record) || written_for_one(record, field) {
        let subject = record.text(record.named(&SUBJECTS), SUBJECT)?;
        let prompt = template(&record.path(field), record.prompt(field)?, &subject)?;
        (subject, prompt)
    } else {
        let prompt = record.prompt(field)?;
        let subject = subject_of(record, field, &prompt)?;
        let prompt = question_template(&record.path(field), prompt, &subject)?;
        (subject, prompt)
    };
    let target_new = record.target(target, TARGET)?;
    let target_true = true_target(record)?;
    checked(record, target, Fact::new(subject, prompt, target_new, target_true))
}

/// A fact whose targets differ.
pub(super) fn checked(record: &Fields<'_>, target: &str, fact: Fact) -> Result<Fact, Fault> {
    if fact.target_true.as_ref() == Some(&fact.target_new) {
        let target_new = Quoted(&fact.target_new);
        return Err(Fault::of_field(
            record.path(target),
            format!(
                "is {target_new}, which is the true target as well; give another, or leave `{}` out",
                record.named(&TRUE_TARGETS)
            ),
        ));
    }
    Ok(fact)
}

impl Fact {
    /// A fact with nothing to measure it on.
    pub(super) fn new(subject: String, prompt: String, target_new: String, target_true: Option<String>) -> Self {
        Self {
            case_id: 0,
            subject,
            prompt,
            target_new,
            target_true,
            paraphrase_prompts: Vec::new(),
            neighborhood_prompts: Vec::new(),
            probes: Vec::new(),
        }
    }
}

/// Whether a record has a subject that says something.
pub(super) fn names_subject(record: &Fields<'_>) -> bool {
    match record.map.get(record.named(&SUBJECTS)) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.trim().is_empty(),
        Some(_) => true,
    }
}

/// Whether a prompt has the place of a subject already, or is missing: then only its author can give the subject.
fn written_for_one(record: &Fields<'_>, field: &str) -> bool {
    record.map.get(field).and_then(Value::as_str).is_none_or(|prompt| prompt.contains(PLACE))
}

/// The subject of a record that names none, by its prompt and the other texts of the record.
pub(super) fn subject_of(record: &Fields<'_>, field: &str, prompt: &str) -> Result<String, Fault> {
    let mut others = vec![];
    for (_, value) in record.map.iter().filter(|(name, _)| *name != field) {
        match value {
            Value::String(text) => others.push(text.as_str()),
            Value::Array(list) => others.extend(list.iter().filter_map(Value::as_str)),
            _ => {}
        }
    }
    subject::named_in(prompt, &others).ok_or_else(|| no_subject(&record.path("subject"), prompt))
}

/// A record without a subject, whose prompt has no name.
pub(super) fn no_subject(field: &str, prompt: &str) -> Fault {
    let prompt = Quoted(prompt);
    Fault::of_field(
        field,
        format!("is missing, and {prompt} has no name that could be one (in quotation marks or capitals); {SUBJECT}"),
    )
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

/// Other ways to ask for the fact, with the subject in its place.
pub(super) fn paraphrases(record: &Fields<'_>, field: &str, subject: &str) -> Result<Vec<String>, Fault> {
    if !record.has(field) {
        return Ok(vec![]);
    }
    let prompts = record.strings(field, PROMPT)?;
    Ok(prompts.into_iter().map(|prompt| prompt.replace(PLACE, subject)).collect())
}

/// As [`template`], but of several occurrences the first is taken: a question that was not written for editing marks none.
pub(super) fn question_template(field: &str, question: String, subject: &str) -> Result<String, Fault> {
    match occurrences(&question, subject)[..] {
        [start, _, ..] if !question.contains(PLACE) => Ok(at_place(&question, start, subject)),
        _ => template(field, question, subject),
    }
}

/// A prompt with exactly one `{}`: its own, or in place of the subject's one occurrence.
pub(super) fn template(field: &str, prompt: String, subject: &str) -> Result<String, Fault> {
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
