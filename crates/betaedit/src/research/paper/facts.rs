//! The facts of the studies: those of a file and, for a long run, more made out of neighborhood prompts.

use std::collections::HashSet;
use std::path::Path;

use betaedit_core::facts::{Fact, Facts, shipped};
use serde_json::{Value, json};

use crate::terminal::Done;

/// The facts of a file, or the shipped ones, with up to `neighbors` more inserted before the last `trials`.
pub fn read(path: Option<&Path>, neighbors: usize, trials: usize) -> Done<Vec<Fact>> {
    let facts = match path {
        Some(path) => Facts::read(path)?,
        None => shipped::facts()?,
    };
    let mut facts = facts.iter().map(to_be_asked).collect::<Result<Vec<_>, _>>()?;
    let place = facts.len().saturating_sub(trials);
    let more = facts_about_neighbors(&mut facts, neighbors)?;
    facts.splice(place..place, more);
    Ok(facts)
}

/// The studies report the argmax metrics, which need no true target. Without it, there are half as many questions.
fn to_be_asked(fact: &Fact) -> Result<Fact, serde_json::Error> {
    let mut record = serde_json::to_value(fact)?;
    if let Some(fields) = record.as_object_mut() {
        fields.remove("target_true");
    }
    serde_json::from_value(record)
}

/// Up to `most` facts about the subjects of neighborhood prompts, in the order of the records. A neighborhood prompt that is
/// another record's prompt with a new subject becomes a fact, with the target of its own record. If several prompts fit, the
/// longest is used. These neighborhood prompts are edited, so they are removed from the records and do not count as damage.
fn facts_about_neighbors(facts: &mut [Fact], most: usize) -> Result<Vec<Fact>, serde_json::Error> {
    let prompts: HashSet<String> = facts.iter().map(|fact| fact.prompt().to_owned()).collect();
    let mut subjects: HashSet<String> = facts.iter().map(|fact| fact.subject().to_owned()).collect();
    let mut made = vec![];
    for fact in facts {
        let mut record = serde_json::to_value(&*fact)?;
        let mut left = vec![];
        for neighbor in fact.neighborhood_prompts() {
            let readings = prompts.iter().filter_map(|prompt| Some((prompt, subject_in(neighbor.prompt(), prompt)?)));
            let longest = readings.max_by_key(|(prompt, _)| (prompt.len(), prompt.as_str()));
            match longest.filter(|(_, subject)| made.len() < most && !subjects.contains(*subject)) {
                Some((prompt, subject)) => {
                    subjects.insert(subject.to_owned());
                    // Records are identified by their number.
                    let case_id = u64::MAX - made.len() as u64;
                    let target = fact.target_new();
                    made.push(serde_json::from_value(
                        json!({ "case_id": case_id, "subject": subject, "prompt": prompt, "target_new": target }),
                    )?);
                }
                None => left.push(serde_json::to_value(neighbor)?),
            }
        }
        record["neighborhood_prompts"] = Value::Array(left);
        *fact = serde_json::from_value(record)?;
    }
    Ok(made)
}

/// The subject for which a prompt with `{}` reads as the given text.
fn subject_in<'a>(text: &'a str, prompt: &str) -> Option<&'a str> {
    let (before, after) = prompt.split_once("{}")?;
    let subject = text.strip_prefix(before)?.strip_suffix(after)?;
    (!subject.is_empty() && subject == subject.trim()).then_some(subject)
}
