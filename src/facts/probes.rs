//! Probes of a record, in the forms in which data sets have them.

use serde_json::Value;

use super::fields::{Fault, Fields, PROMPT, TARGET, all_texts, first_text, kind, wrong_kind};
use super::probe::{FactProbe, Needed, ProbeCategory, ProbeQuestion};

const PROBES: &str = "probes";

/// The names of the fields that are read here.
pub(super) const NAMES: [&str; 5] = [PROBES, "portability", "personas", "mhop", "mhop_ans"];

/// All probes of a record.
pub(super) fn read(record: &Fields<'_>, target_new: &str) -> Result<Vec<FactProbe>, Fault> {
    let mut probes = vec![];
    if record.has(PROBES) {
        for (i, value) in record.list(PROBES, "")?.iter().enumerate() {
            probes.push(whole(record, &format!("{PROBES}[{i}]."), value)?);
        }
    }
    for (field, category) in [("portability", ProbeCategory::Portability), ("locality", ProbeCategory::Locality)] {
        // A list has no criteria: that of QAEdit's `locality` gives neighborhood prompts alone.
        if let Some(Value::Object(kinds)) = record.map.get(field) {
            record.get(field, "")?;
            for (criterion, list) in kinds {
                probes.extend(listed(record, category, field, criterion, list)?);
            }
        } else if field == "portability" && record.has(field) {
            return Err(wrong_kind(field, record.get(field, "")?, "an object with a list for each criterion"));
        }
    }
    if record.has("personas") {
        let prompt = record.text("personas", PROMPT)?;
        probes.push(FactProbe::single(ProbeCategory::Portability, "personas", prompt, vec![target_new.to_owned()]));
    }
    if record.has("mhop") {
        let (prompt, answer) = (record.text("mhop", PROMPT)?, record.text("mhop_ans", TARGET)?);
        probes.push(FactProbe::single(ProbeCategory::Portability, "multi-hop", prompt, vec![answer]));
    }
    Ok(probes)
}

/// The questions of a criterion as KnowEdit has them: {`prompt`, `ground_truth`}, each a probe. A question without an answer is left out,
/// as KnowEdit's programs do.
fn listed(
    record: &Fields<'_>,
    category: ProbeCategory,
    field: &str,
    criterion: &str,
    list: &Value,
) -> Result<Vec<FactProbe>, Fault> {
    let path = format!("{field}.{criterion}");
    let Value::Array(list) = list else { return Err(wrong_kind(&path, list, "a list")) };
    let mut probes = vec![];
    for (i, value) in list.iter().enumerate() {
        let prefix = format!("{path}[{i}].");
        let Some((prompt, forms)) = asked(record, &path, &prefix, value)? else { continue };
        probes.push(FactProbe::single(category, criterion, prompt, forms));
    }
    Ok(probes)
}

/// A question and the forms of its answer; `None` if it has no answer, which is noted.
pub(super) fn asked(
    record: &Fields<'_>,
    path: &str,
    prefix: &str,
    value: &Value,
) -> Result<Option<(String, Vec<String>)>, Fault> {
    let Value::Object(map) = value else {
        return Err(wrong_kind(prefix.trim_end_matches('.'), value, "an object with `prompt` and `ground_truth`"));
    };
    let fields = Fields::new(prefix, map);
    let (question, answer) =
        (fields.named(&["prompt", "loc"]), fields.named(&["ground_truth", "loc_ans", "target_true"]));
    let forms = all_texts(&fields.path(answer), fields.get(answer, TARGET)?)?;
    let prompt = match fields.get(question, PROMPT)? {
        list @ Value::Array(_) => first_text(&fields.path(question), list, PROMPT)?,
        _ => fields.prompt(question)?,
    };
    record.note(&fields, path);
    if forms.is_empty() {
        record.note_left_out(format!("{path} (without an answer)"));
        return Ok(None);
    }
    Ok(Some((prompt, forms)))
}

/// A probe as facts are written.
fn whole(record: &Fields<'_>, prefix: &str, value: &Value) -> Result<FactProbe, Fault> {
    let Value::Object(map) = value else {
        return Err(wrong_kind(prefix.trim_end_matches('.'), value, "an object with `criterion` and `questions`"));
    };
    let fields = Fields::new(prefix, map);
    let category = choice(&fields, "category", ProbeCategory::Portability)?;
    let needed = choice(&fields, "needed", Needed::All)?;
    let criterion = fields.text("criterion", "give the name of what is tested")?;
    let questions = questions(&fields, "questions")?;
    if questions.is_empty() {
        return Err(Fault::of_field(fields.path("questions"), format!("is empty; {PROMPT}")));
    }
    let conditions = if fields.has("conditions") { self::questions(&fields, "conditions")? } else { vec![] };
    record.note(&fields, PROBES);
    Ok(FactProbe { category, criterion, needed, questions, conditions })
}

/// A value by its name.
fn choice<V: std::str::FromStr>(fields: &Fields<'_>, field: &str, default: V) -> Result<V, Fault>
where
    V::Err: std::fmt::Display,
{
    if !fields.has(field) {
        return Ok(default);
    }
    let name = fields.text(field, "")?;
    name.parse().map_err(|error| Fault::of_field(fields.path(field), format!("is no such value: {error}")))
}

fn questions(fields: &Fields<'_>, field: &str) -> Result<Vec<ProbeQuestion>, Fault> {
    let question = |(i, value): (usize, &Value)| {
        let prefix = format!("{}[{i}].", fields.path(field));
        let Value::Object(map) = value else {
            return Err(wrong_kind(prefix.trim_end_matches('.'), value, "an object with `prompt` and `answers`"));
        };
        let inner = Fields::new(&prefix, map);
        let answers = answers(&inner.path("answers"), inner.get("answers", TARGET)?)?;
        let prompt = inner.prompt("prompt")?;
        fields.note(&inner, &format!("{PROBES}.{field}"));
        Ok(ProbeQuestion { prompt, answers })
    };
    fields.list(field, PROMPT)?.iter().enumerate().map(question).collect()
}

/// A list for each answer, with its forms; or one answer, as a text or the list of its forms.
fn answers(path: &str, value: &Value) -> Result<Vec<Vec<String>>, Fault> {
    let list = match value {
        Value::Array(list) if list.iter().all(Value::is_array) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    let mut answers = vec![];
    for value in list {
        let forms = all_texts(path, value)?;
        if forms.is_empty() {
            return Err(Fault::of_field(path, format!("is {} without a text; {TARGET}", kind(value))));
        }
        answers.push(forms);
    }
    if answers.is_empty() {
        return Err(Fault::of_field(path, format!("is empty; {TARGET}")));
    }
    Ok(answers)
}
