//! Questions beside a fact: what should follow from an edit, and what should not.

use serde::{Deserialize, Serialize};

use crate::util::named::named;

/// What a probe tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ProbeCategory {
    /// What follows from the edit: answers that change with it.
    Portability,
    /// What must stay as it was.
    Locality,
}

named!(ProbeCategory, "category of a probe", { Portability => "portability", Locality => "locality" });

/// How many of a probe's questions must be answered rightly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Needed {
    /// All of them.
    #[default]
    All,
    /// One of them.
    Any,
}

named!(Needed, "number of questions", { All => "all", Any => "any" });

/// A question, and what its answer must name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct ProbeQuestion {
    pub(super) prompt: String,
    pub(super) answers: Vec<Vec<String>>,
}

impl ProbeQuestion {
    /// A question whose answer must name one thing.
    pub(super) fn new(prompt: String, answer: &str) -> Self {
        Self { prompt, answers: vec![vec![answer.to_owned()]] }
    }

    /// The complete prompt.
    #[must_use]
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// What an answer must name: of each list one form. There is at least one list, and the first form of each is the usual one.
    #[must_use]
    pub fn answers(&self) -> &[Vec<String>] {
        &self.answers
    }
}

/// A test beside a fact: one or more questions, which count together.
///
/// [`metrics::probe`](super::metrics::probe) asks them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct FactProbe {
    pub(super) category: ProbeCategory,
    pub(super) criterion: String,
    pub(super) needed: Needed,
    pub(super) questions: Vec<ProbeQuestion>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) conditions: Vec<ProbeQuestion>,
}

impl FactProbe {
    /// A test of one question, whose answer must name one thing, in any of some forms.
    pub(super) fn single(category: ProbeCategory, criterion: &str, prompt: String, forms: Vec<String>) -> Self {
        let questions = vec![ProbeQuestion { prompt, answers: vec![forms] }];
        Self { category, criterion: criterion.to_owned(), needed: Needed::All, questions, conditions: vec![] }
    }

    /// What it tests.
    #[must_use]
    pub fn category(&self) -> ProbeCategory {
        self.category
    }

    /// The name of the criterion, as the data set has it: `Reasoning`, `Subject_Aliasing`, `multi-hop`.
    #[must_use]
    pub fn criterion(&self) -> &str {
        &self.criterion
    }

    /// How many of the questions must be answered rightly.
    #[must_use]
    pub fn needed(&self) -> Needed {
        self.needed
    }

    /// The questions, at least one.
    #[must_use]
    pub fn questions(&self) -> &[ProbeQuestion] {
        &self.questions
    }

    /// Questions that the unedited model must answer rightly, all of them, or the probe does not count.
    #[must_use]
    pub fn conditions(&self) -> &[ProbeQuestion] {
        &self.conditions
    }
}
