//! UnKEBench: questions whose answers are passages.
//!
//! Source: Deng et al., "Everything is Editable: Extend Knowledge Editing to Unstructured Data in Large Language Models", ICLR 2025
//! (arXiv 2405.15349).

use crate::facts::fact::Fact;
use crate::facts::fields::{Fault, Fields, PROMPT, TARGET};
use crate::facts::probe::{FactProbe, ProbeCategory};
use crate::facts::rewrite;

pub(in crate::facts) fn read(record: &Fields<'_>) -> Result<Fact, Fault> {
    // AnyEdit's set of this layout sorts its records by field of knowledge.
    record.ignore(&["category"]);
    let mut fact = rewrite::read(record, "answer")?;
    fact.paraphrase_prompts = rewrite::paraphrases(record, "para_question", &fact.subject)?;
    if record.has("sub_question") {
        let questions = record.strings("sub_question", PROMPT)?;
        let answers = record.strings("sub_answer", TARGET)?;
        if questions.len() != answers.len() {
            let problem = format!("has {} entries for {} questions; give one each", answers.len(), questions.len());
            return Err(Fault::of_field("sub_answer", problem));
        }
        let pairs = questions.into_iter().zip(answers);
        let ask =
            |(prompt, answer)| FactProbe::single(ProbeCategory::Portability, "sub_question", prompt, vec![answer]);
        fact.probes = pairs.map(ask).collect();
    }
    Ok(fact)
}
