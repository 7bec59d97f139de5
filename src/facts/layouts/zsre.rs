//! ZsRE, as MEND publishes it.

use serde::{Deserialize, Serialize};

use crate::facts::fact::Fact;
use crate::facts::fields::{Fault, Fields, PROMPT, TARGET};
use crate::facts::neighborhood;
use crate::facts::rewrite::{self, SUBJECT};
use crate::util::named::named;

/// The new target of a record of ZsRE. Data sets of one name are edited in two ways, and their numbers are not comparable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ZsreTarget {
    /// The first of the `answers`, a true one. ROME, MEMIT, AlphaEdit and BetaEdit do this.
    #[default]
    Answers,
    /// The answer in `alt`, which may be false. EasyEdit, LocFT and UltraEdit do this. The first of the `answers` is the true target, where
    /// it is another one.
    Alt,
}

named!(ZsreTarget, "target of ZsRE", { Answers => "answers", Alt => "alt" });

pub(in crate::facts) fn read(record: &Fields<'_>, target: ZsreTarget) -> Result<Fact, Fault> {
    let subject = record.text("subject", SUBJECT)?;
    let prompt = rewrite::question_template("src", record.text("src", PROMPT)?, &subject)?;
    record.ignore(&["alt", "answers"]);
    let first_answer = || match record.strings("answers", TARGET)?.into_iter().next() {
        Some(first) => Ok(first),
        None => Err(Fault::of_field("answers", format!("is empty; {TARGET}"))),
    };
    let (target_new, target_true) = match target {
        ZsreTarget::Answers => (first_answer()?, None),
        ZsreTarget::Alt => {
            let alt = record.text("alt", TARGET)?;
            let truth = if record.has("answers") { Some(first_answer()?).filter(|truth| *truth != alt) } else { None };
            (alt, truth)
        }
    };
    let mut fact = Fact::new(subject, prompt, target_new, target_true);
    if record.has("rephrase") {
        fact.paraphrase_prompts = record.strings("rephrase", PROMPT)?;
    }
    fact.neighborhood_prompts = neighborhood::of_question(record)?;
    Ok(fact)
}
