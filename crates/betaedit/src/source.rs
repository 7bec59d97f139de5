//! Opens the models, facts and texts that the arguments name.

use std::path::{Path, PathBuf};

use betaedit_core::facts::{Fact, Facts, Layout, ReadOptions, Unread, ZsreTarget, shipped};
use betaedit_core::llm::{Config, Model, Tokenizer};
use clap::Args;

use crate::settings::named;
use crate::terminal::{Done, Failure, Terminal};

/// Given as a file name, this stands for the data that comes with the program.
pub const SHIPPED: &str = "shipped";

pub fn open_model(path: &Path, terminal: Terminal) -> Done<(Model, Tokenizer)> {
    check_is_there(path)?;
    Ok(Model::open(path, terminal.par)?)
}

/// As [`open_model`], without the blocks and the head that statistics do not need.
///
/// * `blocks`: how many blocks to keep
pub fn open_lowest(path: &Path, blocks: impl FnOnce(&Config) -> usize, terminal: Terminal) -> Done<(Model, Tokenizer)> {
    check_is_there(path)?;
    Ok(Model::open_lowest(path, blocks, terminal.par)?)
}

fn check_is_there(path: &Path) -> Done {
    if path.exists() {
        return Ok(());
    }
    Err(format!("there is no model at `{}`: give a Hugging Face directory or a .gguf file", path.display()).into())
}

/// A hash of everything besides the weights that a model's keys and answers depend on: its configuration and its tokenizer. What is
/// measured with a model and kept is recognised by it, and by the fingerprint of the weights.
pub fn setting(model: &Model, tokenizer: &Tokenizer) -> Done<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(model.family().config_json(model.config()).to_string().as_bytes());
    hasher.update(tokenizer.fingerprint()?.as_bytes());
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}

/// The contents of a text file, or the given text of the program for the name "shipped".
pub fn text(path: &str, shipped: &str) -> Done<String> {
    if path == SHIPPED {
        return Ok(shipped.to_owned());
    }
    std::fs::read_to_string(path).map_err(|error| -> Failure { format!("the text `{path}`: {error}").into() })
}

const ZSRE_TARGETS: [&str; 2] = [
    "the first of the true answers, as ROME, MEMIT and AlphaEdit",
    "the answer that may be false, as EasyEdit and UltraEdit",
];

/// The arguments that choose facts.
#[derive(Args, Clone)]
pub struct FactArguments {
    /// File of facts: CounterFact, ZsRE, MQuAKE, RippleEdits or UnKEBench as published, flat records (KnowEdit, WikiBigEdit),
    /// or a list of {subject, prompt, target} (QAEdit); "shipped" for the 162 that come with the program
    #[arg(long, value_name = "FACTS.json")]
    pub facts: String,
    /// Use at most N facts, after --skip
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Skip the first N facts
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub skip: usize,
    /// Leave out and report invalid records instead of stopping
    #[arg(long)]
    pub skip_bad: bool,
    /// Field of a ZsRE record that gives the new target
    #[arg(long, value_name = "FIELD", default_value_t, value_parser = named(ZsreTarget::ALL, &ZSRE_TARGETS))]
    pub zsre_target: ZsreTarget,
}

impl FactArguments {
    fn note_unread(&self, facts: &Facts, terminal: Terminal) {
        let field = |(name, unread): (&String, &Unread)| {
            let meant = unread.meant.map_or(String::new(), |meant| format!("; did you mean `{meant}`?"));
            format!("`{name}` ({} of {} records{meant})", unread.records, facts.len())
        };
        let fields: Vec<String> = facts.unread().iter().map(field).collect();
        if !fields.is_empty() {
            terminal.note(format!("fields of `{}` that are not read: {}", self.facts, fields.join(", ")));
        }
    }

    fn note_choices(&self, facts: &Facts, terminal: Terminal) {
        if facts.layout() == Layout::Zsre {
            let other = if self.zsre_target == ZsreTarget::Alt { ZsreTarget::Answers } else { ZsreTarget::Alt };
            let chosen = self.zsre_target;
            terminal
                .note(format!("new targets of ZsRE are those of `{chosen}`; --zsre-target {other} takes the others"));
        }
        if facts.inferred_subjects() > 0 {
            terminal.note(format!(
                "{} records of `{}` name no subject: it was taken from their prompts",
                facts.inferred_subjects(),
                self.facts
            ));
        }
    }

    /// The facts, and the field of ZsRE that gave their targets if they are of it.
    pub fn read(&self, terminal: Terminal) -> Done<(Vec<Fact>, Option<ZsreTarget>)> {
        let path = PathBuf::from(&self.facts);
        let options = ReadOptions::new().zsre_target(self.zsre_target);
        let facts = match (self.facts == SHIPPED, self.skip_bad) {
            (true, _) => shipped::facts()?,
            (false, false) => options.read(&path)?,
            (false, true) => {
                let (facts, errors) = options.read_lenient(&path)?;
                errors.iter().for_each(|error| terminal.note(format!("left out: {error}")));
                facts
            }
        };
        self.note_choices(&facts, terminal);
        self.note_unread(&facts, terminal);
        let (read, zsre_target) = (facts.len(), Some(self.zsre_target).filter(|_| facts.layout() == Layout::Zsre));
        let facts: Vec<Fact> =
            facts.into_vec().into_iter().skip(self.skip).take(self.limit.unwrap_or(usize::MAX)).collect();
        if facts.is_empty() {
            return Err(format!("no facts are left of the {read} in `{}`: see --skip and --limit", self.facts).into());
        }
        Ok((facts, zsre_target))
    }
}
