//! Neighborhood prompts of a record, in the forms in which data sets have them.

use serde_json::Value;

use super::fact::NeighborhoodPrompt;
use super::fields::{Fault, Fields, PROMPT, TARGET, first_text, strings, text, wrong_kind};
use super::probes;

const PROMPTS: &str = "neighborhood_prompts";
const ANSWERS: &str = "neighborhood_prompts_answers";

/// The names of the fields that are read here.
pub(super) const NAMES: [&str; 7] =
    [PROMPTS, ANSWERS, "locality_prompt", "locality_ground_truth", "locality", "loc", "loc_ans"];

/// Pairs of fields with prompts and their answers.
const PAIRS: [[&str; 2]; 2] = [["locality_prompt", "locality_ground_truth"], ["loc", "loc_ans"]];

/// All neighborhood prompts of a record.
pub(super) fn read(record: &Fields<'_>, target_true: Option<&str>) -> Result<Vec<NeighborhoodPrompt>, Fault> {
    let mut prompts = vec![];
    if record.has(PROMPTS) {
        prompts.extend(usual(record, target_true)?);
    }
    for [questions, answers] in PAIRS {
        if record.has(questions) {
            prompts.extend(paired(record, questions, answers)?);
        }
    }
    if record.has("locality") {
        match record.get("locality", PROMPT)? {
            Value::Object(kinds) => {
                for (kind, list) in kinds {
                    prompts.extend(listed(record, &format!("locality.{kind}"), list)?);
                }
            }
            list => prompts.extend(listed(record, "locality", list)?),
        }
    }
    Ok(prompts)
}

/// The unrelated question of ZsRE.
pub(super) fn of_question(record: &Fields<'_>) -> Result<Vec<NeighborhoodPrompt>, Fault> {
    if !record.has("loc") {
        return Ok(vec![]);
    }
    let prompt = record.text("loc", PROMPT)?;
    let target_true = record.text("loc_ans", TARGET)?;
    Ok(vec![NeighborhoodPrompt { prompt: format!("{}?", prompt.trim_end_matches('?')), target_true }])
}

/// Two fields with as many prompts as answers, or one of each.
fn paired(record: &Fields<'_>, questions: &str, answers: &str) -> Result<Vec<NeighborhoodPrompt>, Fault> {
    let prompts = record.strings(questions, PROMPT)?;
    let value = record.get(answers, TARGET)?;
    let path = record.path(answers);
    let targets = match (value, prompts.len()) {
        // One prompt: a list gives several forms of its answer.
        (value, 1) => vec![first_text(&path, value, TARGET)?],
        (Value::Array(list), n) if list.len() == n => list
            .iter()
            .enumerate()
            .map(|(i, one)| first_text(&format!("{path}[{i}]"), one, TARGET))
            .collect::<Result<_, _>>()?,
        (_, n) => return Err(Fault::of_field(path, format!("has not {n} entries, one for each of `{questions}`"))),
    };
    let both = prompts.into_iter().zip(targets);
    Ok(both.map(|(prompt, target_true)| NeighborhoodPrompt { prompt, target_true }).collect())
}

/// A list of objects with a prompt and its answer each. One without an answer is left out.
fn listed(record: &Fields<'_>, all: &str, list: &Value) -> Result<Vec<NeighborhoodPrompt>, Fault> {
    let Value::Array(list) = list else { return Err(wrong_kind(all, list, "a list")) };
    let mut near = vec![];
    for (i, value) in list.iter().enumerate() {
        if let Some((prompt, forms)) = probes::asked(record, all, &format!("{all}[{i}]."), value)? {
            near.extend(forms.into_iter().next().map(|target_true| NeighborhoodPrompt { prompt, target_true }));
        }
    }
    Ok(near)
}

/// Objects with a target each, or strings whose targets stand in `neighborhood_prompts_answers` or are the fact's own true target.
fn usual(record: &Fields<'_>, target_true: Option<&str>) -> Result<Vec<NeighborhoodPrompt>, Fault> {
    let Value::Array(list) = record.get(PROMPTS, "")? else {
        return Err(wrong_kind(PROMPTS, &record.map[PROMPTS], "a list"));
    };
    let answers = if record.has(ANSWERS) {
        let answers = strings(ANSWERS, record.get(ANSWERS, TARGET)?, TARGET)?;
        if answers.len() != list.len() {
            let problem = format!("has {} entries for {} prompts; give one each", answers.len(), list.len());
            return Err(Fault::of_field(ANSWERS, problem));
        }
        Some(answers)
    } else {
        None
    };
    let neighbor = |(i, value): (usize, &Value)| {
        let path = format!("{PROMPTS}[{i}]");
        match value {
            Value::Object(map) => {
                let prefix = format!("{path}.");
                let fields = Fields::new(&prefix, map);
                let target = if fields.has("target_true") || !fields.has("target") { "target_true" } else { "target" };
                let near = NeighborhoodPrompt {
                    prompt: fields.prompt("prompt")?,
                    target_true: fields.target(target, TARGET)?,
                };
                record.note(&fields, PROMPTS);
                Ok(near)
            }
            Value::String(_) => {
                let answer = answers.as_ref().map(|answers| answers[i].as_str()).or(target_true);
                let Some(answer) = answer else {
                    return Err(Fault::of_field(
                        path,
                        format!("has no answer; write {{\"prompt\": .., \"target_true\": ..}}, or give `{ANSWERS}`"),
                    ));
                };
                Ok(NeighborhoodPrompt { prompt: text(&path, value, PROMPT)?, target_true: answer.to_owned() })
            }
            value => Err(wrong_kind(&path, value, "a string or an object with `prompt` and `target_true`")),
        }
    };
    list.iter().enumerate().map(neighbor).collect()
}
