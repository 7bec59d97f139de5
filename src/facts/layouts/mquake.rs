//! MQuAKE: edits whose consequences are asked for over several hops.
//!
//! Source: Zhong et al., "MQuAKE: Assessing Knowledge Editing in Language Models via Multi-Hop Questions", EMNLP 2023 (arXiv 2305.14795).

use serde_json::Value;

use crate::facts::fact::Fact;
use crate::facts::fields::{Fault, Fields, PROMPT, TARGET, all_texts, wrong_kind};
use crate::facts::probe::{FactProbe, Needed, ProbeCategory, ProbeQuestion};
use crate::facts::rewrite;

const REWRITES: &str = "requested_rewrite";

/// What the unedited model should answer, and the graph from which the record was made.
const BEFORE: [&str; 4] = ["answer", "answer_alias", "single_hops", "orig"];

/// Numbers of a record's facts begin at this many times its own.
const NUMBERS: u64 = 100;

/// The facts of a record, in order. The last one has the record's questions, as they hold when all are written.
pub(in crate::facts) fn read(record: &Fields<'_>, case_id: u64) -> Result<Vec<Fact>, Fault> {
    record.ignore(&BEFORE);
    let rewrites = record.list(REWRITES, "")?;
    let number = |i: usize| {
        let number = case_id.checked_mul(NUMBERS).and_then(|first| first.checked_add(i as u64 + 1));
        number.filter(|_| (i as u64) < NUMBERS - 1).ok_or_else(|| {
            let problem = format!("has too many entries, or the record too great a number, {case_id}; split it");
            Fault::of_field(REWRITES, problem)
        })
    };
    let mut facts = vec![];
    for (i, value) in rewrites.iter().enumerate() {
        let path = format!("{REWRITES}[{i}]");
        let Value::Object(map) = value else { return Err(wrong_kind(&path, value, "an object")) };
        let prefix = format!("{path}.");
        let rewrite = Fields::new(&prefix, map);
        let mut fact = rewrite::read(&rewrite, "target_new")?;
        fact.case_id = number(i)?;
        // A rewrite without a prompt is asked by its question alone.
        if rewrite.has("prompt") {
            fact.paraphrase_prompts = rewrite::paraphrases(&rewrite, "question", &fact.subject)?;
        }
        rewrite.ignore(&["relation_id"]);
        record.note(&rewrite, REWRITES);
        facts.push(fact);
    }
    let Some(last) = facts.last_mut() else {
        return Err(Fault::of_field(REWRITES, "is empty; give at least one fact to write"));
    };
    last.probes.extend(hops(record)?);
    last.probes.extend(questions(record)?);
    Ok(facts)
}

/// The facts along the way, of which all must be known.
fn hops(record: &Fields<'_>) -> Result<Option<FactProbe>, Fault> {
    const HOPS: &str = "new_single_hops";
    if !record.has(HOPS) {
        return Ok(None);
    }
    let mut questions = vec![];
    for (i, value) in record.list(HOPS, "")?.iter().enumerate() {
        let path = format!("{HOPS}[{i}]");
        let Value::Object(map) = value else { return Err(wrong_kind(&path, value, "an object")) };
        let prefix = format!("{path}.");
        let hop = Fields::new(&prefix, map);
        hop.ignore(&["cloze"]);
        let prompt = hop.text(hop.named(&["question", "cloze"]), PROMPT)?;
        questions.push(ProbeQuestion { prompt, answers: vec![forms(&hop, "answer", "answer_alias")?] });
        record.note(&hop, HOPS);
    }
    Ok((!questions.is_empty()).then(|| probe("single-hop", Needed::All, questions)))
}

/// The questions over several hops, wordings of one, of which any counts.
fn questions(record: &Fields<'_>) -> Result<Option<FactProbe>, Fault> {
    if !record.has("questions") {
        return Ok(None);
    }
    let prompts = record.strings("questions", PROMPT)?;
    if prompts.is_empty() {
        return Ok(None);
    }
    let answers = vec![forms(record, "new_answer", "new_answer_alias")?];
    let ask = |prompt| ProbeQuestion { prompt, answers: answers.clone() };
    Ok(Some(probe("multi-hop", Needed::Any, prompts.into_iter().map(ask).collect())))
}

fn probe(criterion: &str, needed: Needed, questions: Vec<ProbeQuestion>) -> FactProbe {
    let category = ProbeCategory::Portability;
    FactProbe { category, criterion: criterion.to_owned(), needed, questions, conditions: vec![] }
}

/// An answer and its aliases.
fn forms(fields: &Fields<'_>, answer: &str, aliases: &str) -> Result<Vec<String>, Fault> {
    let mut forms = vec![fields.text(answer, TARGET)?];
    if fields.has(aliases) {
        let more = all_texts(&fields.path(aliases), fields.get(aliases, TARGET)?)?;
        forms.extend(more.into_iter().filter(|alias| *alias != forms[0]).collect::<Vec<_>>());
    }
    Ok(forms)
}
