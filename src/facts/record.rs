//! Parses JSON records of any layout into facts.

use std::fmt;

use serde_json::{Map, Value};

use super::fact::Fact;
use super::fields::{Fault, Fields, kind};
use super::layouts::zsre::ZsreTarget;
use super::layouts::{mquake, ripple_edits, unke_bench, zsre};
use super::{neighborhood, probes, rewrite};

/// The layouts of a record; the table is in the [module documentation](super).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Layout {
    /// CounterFact and multi_counterfact, as published.
    CounterFact,
    /// The ZsRE evaluation set of MEND, as published. The target is the first of the `answers`, as in MEMIT's experiments, or `alt`: see
    /// [`ZsreTarget`]. The unrelated question `loc` (a question mark added) is the one neighborhood prompt.
    Zsre,
    /// MQuAKE, as published. A record of several rewrites becomes as many facts, numbered from 100 times the record's number + 1 up. The
    /// last one has the record's questions, so they are asked where all of its facts are written. They are the probes `multi-hop`, of which
    /// any of the three wordings counts, and `single-hop`, of which all facts along the way must be known (the paper's instance-wise
    /// accuracy). The `question` of a rewrite is a paraphrase.
    Mquake,
    /// RippleEdits, as published: the prompt is the sentence up to the verb before its target, the probes are the tests of its six criteria.
    /// A record has no subject: it is what the sentence has in common with questions about the same `subject_id`.
    RippleEdits,
    /// UnKEBench, as published: a question with a passage as target. The probes are `sub_question`, each with its answer.
    UnkeBench,
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
            Layout::Mquake => "MQuAKE (`requested_rewrite`, a list)",
            Layout::RippleEdits => "RippleEdits (`edit`)",
            Layout::UnkeBench => "UnKEBench (`question`, `answer`)",
            Layout::Flat => "flat (`target_new`)",
            Layout::Plain => "plain (`target`)",
        })
    }
}

const NEW_TARGETS: [&str; 3] = ["target_new", "ans", "labels"];
const PARAPHRASES: [&str; 4] = ["paraphrase_prompts", "rephrase_prompts", "rephrase_prompt", "rephrase"];

/// Fields that are no part of a fact.
const NOTES: [&str; 10] =
    ["id", "pararel_idx", "known_id", "relation", "relation_id", "tag", "source", "lang", "cond", "pred"];

/// A record that was read.
pub(super) struct Parsed {
    pub(super) layout: Layout,
    /// At least one; several from MQuAKE.
    pub(super) facts: Vec<Fact>,
    /// The names of the fields that were not read, and that could hold a part of a fact.
    pub(super) unread: Vec<String>,
    /// Whether the subject was taken from the prompt.
    pub(super) inferred: bool,
}

/// The facts in a record. A record without a `case_id` gets `default_id`.
pub(super) fn parse(value: &Value, default_id: u64, target: ZsreTarget) -> Result<Parsed, Fault> {
    let Value::Object(record) = value else {
        return Err(Fault::of_record(format!("is {}, expected an object with the fields of a fact", kind(value))));
    };
    let layout = layout(record)?;
    let record = Fields::new("", record);
    let case_id = record.case_id()?.unwrap_or(default_id);
    let mut unread = vec![];
    let mut inferred = false;
    let mut facts = match layout {
        Layout::CounterFact => {
            let rewrite = record.object("requested_rewrite", "requested_rewrite.")?;
            inferred = !rewrite::names_subject(&rewrite);
            let fact = measured(&rewrite, &record, "target_new")?;
            unread.extend(rewrite.unread().filter(|name| !NOTES.contains(name)).map(|name| rewrite.path(name)));
            unread.extend(rewrite.unread_within());
            vec![fact]
        }
        Layout::Mquake => mquake::read(&record, case_id)?,
        Layout::Zsre => vec![zsre::read(&record, target)?],
        Layout::RippleEdits => {
            inferred = record.map["edit"].get("subject").is_none();
            vec![ripple_edits::read(&record)?]
        }
        Layout::UnkeBench => {
            inferred = !rewrite::names_subject(&record);
            vec![unke_bench::read(&record)?]
        }
        Layout::Flat | Layout::Plain => {
            inferred = !rewrite::names_subject(&record);
            let target = if layout == Layout::Plain { "target" } else { record.named(&NEW_TARGETS) };
            vec![measured(&record, &record, target)?]
        }
    };
    if layout != Layout::Mquake {
        facts[0].case_id = case_id;
    }
    unread.extend(record.unread().filter(|name| !NOTES.contains(name)).map(str::to_owned));
    unread.extend(record.unread_within());
    Ok(Parsed { layout, facts, unread, inferred })
}

/// The name of a field that another name is nearly equal to.
pub(super) fn meant(name: &str) -> Option<&'static str> {
    let names = [
        &rewrite::SUBJECTS[..],
        &rewrite::PROMPTS,
        &NEW_TARGETS,
        &rewrite::TRUE_TARGETS,
        &PARAPHRASES,
        &neighborhood::NAMES,
        &probes::NAMES,
    ]
    .concat();
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
        let facts = parse(&value, 0, ZsreTarget::default()).map_err(|fault| fault.to_string())?.facts;
        let [fact] = <[Fact; 1]>::try_from(facts)
            .map_err(|several| format!("holds {} facts; read it with `Facts::read`", several.len()))?;
        Ok(fact)
    }
}

fn layout(record: &Map<String, Value>) -> Result<Layout, Fault> {
    let has = |field: &str| record.contains_key(field);
    if has("ent") && (has("pos") || has("neg")) {
        return Err(Fault::of_record(
            "is of ConvSent, a part of KnowEdit (`ent`, `pos`, `neg`): it gives opinions in place of one target; \
             write `subject`, `prompt` and `target`",
        ));
    }
    if has("success") && record["success"].is_array() {
        return Err(Fault::of_record(
            "is Sanitation, a part of KnowEdit (`success`, `locality`): its questions name no subject and share one target; \
             write a list of `subject`, `prompt` and `target`",
        ));
    }
    if record.get("requested_rewrite").is_some_and(Value::is_array) {
        return Ok(Layout::Mquake);
    }
    [
        ("requested_rewrite", Layout::CounterFact),
        ("src", Layout::Zsre),
        ("target_new", Layout::Flat),
        ("target", Layout::Plain),
        ("ans", Layout::Flat),
        ("labels", Layout::Flat),
        ("edit", Layout::RippleEdits),
    ]
    .into_iter()
    .find_map(|(field, layout)| has(field).then_some(layout))
    .or((has("question") && has("answer")).then_some(Layout::UnkeBench))
    .ok_or_else(|| {
        let found: Vec<_> = record.keys().take(8).map(String::as_str).collect();
        let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        Fault::of_record(format!(
            "is of no known layout: expected one of the fields `requested_rewrite` (CounterFact, MQuAKE), `src` (ZsRE), \
             `edit` (RippleEdits), `question` with `answer` (UnKEBench), `target_new` (flat) or `target` (plain); its \
             fields are: {found}"
        ))
    })
}

/// A fact from the fields of its rewrite, and the prompts to measure it on from those around them.
fn measured(rewrite: &Fields<'_>, record: &Fields<'_>, target: &str) -> Result<Fact, Fault> {
    let mut fact = rewrite::read(rewrite, target)?;
    fact.paraphrase_prompts = rewrite::paraphrases(record, record.named(&PARAPHRASES), &fact.subject)?;
    fact.neighborhood_prompts = neighborhood::read(record, fact.target_true.as_deref())?;
    fact.probes = probes::read(record, &fact.target_new)?;
    Ok(fact)
}
