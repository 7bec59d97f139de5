//! RippleEdits: edits with tests of six criteria, each with conditions on the unedited model.
//!
//! Source: Cohen et al., "Evaluating the Ripple Effects of Knowledge Editing in Language Models", TACL 12 (2024, arXiv 2307.12976).

use serde_json::{Map, Value};

use crate::facts::fact::Fact;
use crate::facts::fields::{Fault, Fields, PROMPT, all_texts, kind, wrong_kind};
use crate::facts::probe::{FactProbe, Needed, ProbeCategory, ProbeQuestion};
use crate::facts::{rewrite, subject};

const ALIASING: &str = "Subject_Aliasing";

/// The criteria: the name of the field, the usual name, and what is tested. The first name is a slip in the data set's description, and the
/// paper says Preservation for Forgetfulness.
const CRITERIA: [(&str, &str, ProbeCategory); 8] = [
    ("Relation_Specifity", "Relation_Specificity", ProbeCategory::Locality),
    ("Relation_Specificity", "Relation_Specificity", ProbeCategory::Locality),
    ("Forgetfulness", "Forgetfulness", ProbeCategory::Locality),
    ("Preservation", "Preservation", ProbeCategory::Locality),
    ("Logical_Generalization", "Logical_Generalization", ProbeCategory::Portability),
    (ALIASING, ALIASING, ProbeCategory::Portability),
    ("Compositionality_I", "Compositionality_I", ProbeCategory::Portability),
    ("Compositionality_II", "Compositionality_II", ProbeCategory::Portability),
];

pub(in crate::facts) fn read(record: &Fields<'_>) -> Result<Fact, Fault> {
    record.ignore(&["example_type"]);
    let mut probes = vec![];
    for (field, criterion, category) in CRITERIA {
        if !record.has(field) {
            continue;
        }
        for (i, value) in record.list(field, "")?.iter().enumerate() {
            let test = test(record, field, &format!("{field}[{i}]"), value)?;
            let Some((needed, questions, conditions)) = test else { continue };
            probes.push(FactProbe { category, criterion: criterion.to_owned(), needed, questions, conditions });
        }
    }
    let edit = record.object("edit", "edit.")?;
    let sentence = edit.text("prompt", "give the sentence that the edit makes true")?;
    let original = original(&edit)?;
    let Some((prompt, target_new)) = split(&sentence, original.as_deref(), &probes) else {
        let problem = "has no `is`, `are`, `follows` or `is followed by` with a target behind it; \
                       write the record as {subject, prompt, target}";
        return Err(Fault::of_field("edit.prompt", problem));
    };
    let target_true = original.as_deref().and_then(|original| Some(target(original.strip_prefix(prompt)?)));
    let subject = match rewrite::names_subject(&edit) {
        true => edit.text("subject", rewrite::SUBJECT)?,
        false => subject(record, &edit, prompt).ok_or_else(|| rewrite::no_subject("edit.subject", prompt))?,
    };
    let template = rewrite::question_template("edit.prompt", prompt.to_owned(), &subject)?;
    let target_true = target_true.filter(|text| !text.is_empty()).map(str::to_owned);
    let mut fact = rewrite::checked(&edit, "prompt", Fact::new(subject, template, target_new.to_owned(), target_true))?;
    fact.probes = probes;
    Ok(fact)
}

/// The sentence that is true before the edit; sets of recent facts have none.
fn original(edit: &Fields<'_>) -> Result<Option<String>, Fault> {
    for field in ["original_fact", "previous_fact"] {
        if edit.has(field) {
            let path = format!("edit.{field}.");
            return edit.object(field, &path)?.text("prompt", "give the sentence that is true before").map(Some);
        }
    }
    Ok(None)
}

/// A sentence as a prompt and a target: behind a verb that the sentence of before has, too, or, if there is none, before an answer to the
/// questions that name the subject in another way.
fn split<'a>(sentence: &'a str, original: Option<&str>, probes: &[FactProbe]) -> Option<(&'a str, &'a str)> {
    const VERBS: [&str; 4] = [" is followed by ", " follows ", " is ", " are "];
    let behind_verb = |text: &str| VERBS.iter().filter_map(|verb| Some(text.rfind(verb)? + verb.len())).max();
    let limit = match original {
        Some(original) => {
            let same = sentence.char_indices().zip(original.chars()).take_while(|((_, a), b)| a == b);
            same.last().map_or(0, |((at, c), _)| at + c.len_utf8())
        }
        None => sentence.len(),
    };
    let answers = probes.iter().filter(|probe| original.is_none() && probe.criterion() == ALIASING);
    let forms = answers.flat_map(|probe| probe.questions()).flat_map(|question| question.answers().iter().flatten());
    let ending = |form: &String| {
        let start = sentence.strip_suffix('.').unwrap_or(sentence).strip_suffix(form.as_str())?.len();
        (behind_verb(&sentence[..start]) == Some(start)).then_some(start)
    };
    let start = forms.filter_map(ending).min().or_else(|| behind_verb(&sentence[..limit]))?;
    let (prompt, rest) = (sentence[..start].trim_end(), target(&sentence[start..]));
    (!rest.is_empty()).then_some((prompt, rest))
}

/// The target behind a prompt, without the sentence's full stop.
fn target(rest: &str) -> &str {
    rest.strip_suffix('.').unwrap_or(rest).trim()
}

/// The words that the prompt has in common with questions about the same entity and another relation, or else the name in it.
fn subject(record: &Fields<'_>, edit: &Fields<'_>, prompt: &str) -> Option<String> {
    edit.ignore(&["relation", "target_id", "subject_id"]);
    for verb in [" is followed by", " follows"] {
        if let Some(name) = prompt.strip_suffix(verb) {
            return Some(name.to_owned());
        }
    }
    let mut questions = vec![];
    for (field, ..) in CRITERIA.iter().filter(|(field, ..)| *field != ALIASING) {
        let tests = record.map.get(*field).and_then(Value::as_array);
        let lists = tests.into_iter().flatten().flat_map(|test| [&test["test_queries"], &test["condition_queries"]]);
        for query in lists.filter_map(Value::as_array).flatten() {
            let same = |name: &str| query.get(name).is_some() && query.get(name) == edit.map.get(name);
            if same("subject_id") && !same("relation") {
                questions.extend(query["prompt"].as_str().filter(|question| !questions.contains(question)));
            }
        }
    }
    subject::shared_with(prompt, &questions).or_else(|| subject::named_in(prompt, &[]))
}

type Test = (Needed, Vec<ProbeQuestion>, Vec<ProbeQuestion>);

/// A test; `None` if none of its questions has an answer, which is noted.
fn test(record: &Fields<'_>, field: &str, path: &str, value: &Value) -> Result<Option<Test>, Fault> {
    let Value::Object(map) = value else { return Err(wrong_kind(path, value, "an object with `test_queries`")) };
    let prefix = format!("{path}.");
    let test = Fields::new(&prefix, map);
    let needed = match map.get("test_condition") {
        None | Some(Value::Null) => Needed::Any,
        Some(Value::String(name)) if name == "OR" => Needed::Any,
        Some(Value::String(name)) if name == "AND" => Needed::All,
        Some(value) => {
            let found = value.as_str().map_or_else(|| kind(value), |name| format!("`{name}`"));
            return Err(Fault::of_field(test.path("test_condition"), format!("is {found}, expected `OR` or `AND`")));
        }
    };
    let mut lists = [vec![], vec![]];
    for (name, questions) in ["test_queries", "condition_queries"].into_iter().zip(&mut lists) {
        if !test.has(name) {
            continue;
        }
        for (i, value) in test.list(name, PROMPT)?.iter().enumerate() {
            match query(&format!("{prefix}{name}[{i}]"), value)? {
                Some(question) => questions.push(question),
                None => record.note_left_out(format!("{field}.{name} (without an answer)")),
            }
        }
    }
    let [questions, conditions] = lists;
    Ok((!questions.is_empty()).then_some((needed, questions, conditions)))
}

/// A question; `None` if it has no answer. All of several answers must be named. As in the data set's program, forms of one letter do not
/// count.
fn query(path: &str, value: &Value) -> Result<Option<ProbeQuestion>, Fault> {
    let Value::Object(map) = value else {
        return Err(wrong_kind(path, value, "an object with `prompt` and `answers`"));
    };
    let prefix = format!("{path}.");
    let query = Fields::new(&prefix, map);
    let prompt = query.prompt(query.named(&["prompt", "phrase"]))?;
    let mut answers = vec![];
    for (i, answer) in query.list("answers", "give a list of {value, aliases}")?.iter().enumerate() {
        let path = format!("{prefix}answers[{i}]");
        let Value::Object(answer) = answer else { return Err(wrong_kind(&path, answer, "an object with `value`")) };
        let forms = all_forms(&path, answer)?;
        if !forms.is_empty() {
            answers.push(forms);
        }
    }
    Ok((!answers.is_empty()).then_some(ProbeQuestion { prompt, answers }))
}

fn all_forms(path: &str, answer: &Map<String, Value>) -> Result<Vec<String>, Fault> {
    let mut forms: Vec<String> = vec![];
    for name in ["value", "aliases"] {
        for form in all_texts(&format!("{path}.{name}"), answer.get(name).unwrap_or(&Value::Null))? {
            let counts = form.chars().count() > 1 || form.chars().all(|c| c.is_ascii_digit());
            if counts && !forms.contains(&form) {
                forms.push(form);
            }
        }
    }
    Ok(forms)
}
