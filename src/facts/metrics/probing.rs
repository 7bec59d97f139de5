//! The answers that a model generates to the probes of facts, and the rates computed from them.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::generation::{Generator, Question, Setting, ask};
use super::matching::{agree, names};
use super::overlap::rouge_l_recall;
use super::rate::Rate;
use crate::error::Result;
use crate::facts::{Fact, FactProbe, Needed, ProbeCategory, ProbeQuestion};
use crate::util::shown::shown;

/// The least number of tokens of an answer, in the setting `plain`, where an answer may come late. As in RippleEdits' program.
const PLAIN_TOKENS: usize = 30;

/// A question of a probe, and what a model answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProbeAnswer {
    /// The prompt.
    pub question: String,
    /// What the answer must name: of each list one form, the usual one first.
    pub wanted: Vec<Vec<String>>,
    /// What was answered.
    pub answer: String,
}

impl ProbeAnswer {
    /// Whether the answer names all that is wanted, each in one of its forms.
    ///
    /// A form counts wherever it stands as a word of its own: in the settings `plain` and `chat` in the whole answer, in `qa` in its first
    /// line. Letter case, the number of spaces and a full stop at the end of a form do not matter.
    #[must_use]
    pub fn is_right(&self, setting: Setting) -> bool {
        self.wanted.iter().all(|forms| forms.iter().any(|form| names(setting, &self.answer, form)))
    }

    /// The mean over what is wanted of [`rouge_l_recall`], each in the form that has the highest.
    #[must_use]
    pub fn recall(&self) -> f64 {
        let highest =
            |forms: &Vec<String>| forms.iter().map(|form| rouge_l_recall(&self.answer, form)).fold(0.0, f64::max);
        self.wanted.iter().map(highest).sum::<f64>() / self.wanted.len().max(1) as f64
    }

    fn usual_form(&self) -> &str {
        self.wanted.first().and_then(|forms| forms.first()).map_or("", String::as_str)
    }
}

/// The answers of a model to one probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProbeReply {
    /// What the probe tests.
    pub category: ProbeCategory,
    /// The name of the criterion.
    pub criterion: String,
    /// How many of the questions must be answered rightly.
    pub needed: Needed,
    /// Its questions.
    pub questions: Vec<ProbeAnswer>,
    /// Its conditions, which matter where the model is the unedited one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ProbeAnswer>,
}

impl ProbeReply {
    /// Whether the questions are answered rightly: all of them, or one.
    #[must_use]
    pub fn is_passed(&self, setting: Setting) -> bool {
        let mut right = self.questions.iter().map(|question| question.is_right(setting));
        if self.needed == Needed::Any { right.any(|right| right) } else { right.all(|right| right) }
    }

    /// Whether all conditions hold, if this is a reply of the unedited model.
    #[must_use]
    pub fn holds(&self, setting: Setting) -> bool {
        self.conditions.iter().all(|condition| condition.is_right(setting))
    }

    fn recall(&self) -> f64 {
        let recalls = self.questions.iter().map(ProbeAnswer::recall);
        match self.needed {
            Needed::Any => recalls.fold(0.0, f64::max),
            Needed::All => recalls.sum::<f64>() / self.questions.len().max(1) as f64,
        }
    }

    /// Whether another model was asked the same.
    fn is_of(&self, other: &Self) -> bool {
        let same = |these: &[ProbeAnswer], those: &[ProbeAnswer]| {
            these.len() == those.len() && these.iter().zip(those).all(|(a, b)| a.question == b.question)
        };
        same(&self.questions, &other.questions) && same(&self.conditions, &other.conditions)
    }

    /// The share of the questions that are answered as the unedited model answers them.
    fn agreement(&self, before: &Self, setting: Setting) -> f64 {
        let pairs = self.questions.iter().zip(&before.questions);
        let agreeing = pairs.filter(|(now, then)| agree(setting, &now.answer, &then.answer, then.usual_form())).count();
        agreeing as f64 / self.questions.len().max(1) as f64
    }
}

/// The answers of a model to the probes of a fact, in one setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProbeReplies {
    /// The fact's number.
    pub case_id: u64,
    /// How the model was asked.
    pub setting: Setting,
    /// At the fact's own prompt: whether it is written.
    pub fact: ProbeAnswer,
    /// One for each probe.
    pub probes: Vec<ProbeReply>,
}

impl ProbeReplies {
    /// Asks a model about the probes of one fact and their conditions, and at its prompt, in one call of the generator. A prompt that is
    /// there several times is asked once.
    ///
    /// # Errors
    /// Any failure of the generator, and another number of answers than questions.
    pub fn new<G: Generator + ?Sized>(generator: &mut G, fact: &Fact, setting: Setting) -> Result<Self> {
        Self::asked(generator, fact, setting, true)
    }

    /// As [`new`](Self::new), but conditions are not asked: they matter on the unedited model only. Their answers are empty.
    ///
    /// # Errors
    /// As `new`.
    pub fn without_conditions<G: Generator + ?Sized>(generator: &mut G, fact: &Fact, setting: Setting) -> Result<Self> {
        Self::asked(generator, fact, setting, false)
    }

    fn asked<G: Generator + ?Sized>(
        generator: &mut G,
        fact: &Fact,
        setting: Setting,
        with_conditions: bool,
    ) -> Result<Self> {
        let own = ProbeQuestion::new(fact.full_prompt(), fact.target_new());
        let conditions = fact.probes().iter().filter(|_| with_conditions).flat_map(FactProbe::conditions);
        let all = fact.probes().iter().flat_map(FactProbe::questions).chain(conditions);
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut asked: Vec<Question<'_>> = vec![];
        for question in std::iter::once(&own).chain(all) {
            let usual: Vec<&str> =
                question.answers().iter().filter_map(|forms| Some(forms.first()?.as_str())).collect();
            let mut new = Question::new(setting, question.prompt(), &usual.join(", "));
            if setting == Setting::Plain {
                new.tokens = new.tokens.max(PLAIN_TOKENS);
            }
            let place = *places.entry(question.prompt()).or_insert(asked.len());
            match asked.get_mut(place) {
                Some(known) => known.tokens = known.tokens.max(new.tokens),
                None => asked.push(new),
            }
        }
        let answers = ask(generator, &asked)?;
        let answered = |question: &ProbeQuestion| ProbeAnswer {
            question: question.prompt().to_owned(),
            wanted: question.answers().to_vec(),
            answer: places.get(question.prompt()).map_or_else(String::new, |&place| answers[place].clone()),
        };
        let reply = |probe: &FactProbe| ProbeReply {
            category: probe.category(),
            criterion: probe.criterion().to_owned(),
            needed: probe.needed(),
            questions: probe.questions().iter().map(answered).collect(),
            conditions: probe.conditions().iter().map(answered).collect(),
        };
        let probes = fact.probes().iter().map(reply).collect();
        Ok(Self { case_id: fact.case_id(), setting, fact: answered(&own), probes })
    }
}

/// The answers of a model to the probes of many facts, in one or more settings.
///
/// Collect [`ProbeReplies`] into one to report progress; it can be stored and read back.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Probing {
    cases: Vec<ProbeReplies>,
}

shown!([] Probing, "Probing", self => {
    "cases": self.cases.len(),
});

/// Asks a model about the probes of facts. Facts without probes are left out.
///
/// # Errors
/// As [`ProbeReplies::new`].
pub fn probe<'a, G: Generator + ?Sized>(
    generator: &mut G,
    facts: impl IntoIterator<Item = &'a Fact>,
    setting: Setting,
) -> Result<Probing> {
    let with_probes = facts.into_iter().filter(|fact| !fact.probes().is_empty());
    with_probes.map(|fact| ProbeReplies::new(generator, fact, setting)).collect()
}

impl FromIterator<ProbeReplies> for Probing {
    fn from_iter<I: IntoIterator<Item = ProbeReplies>>(cases: I) -> Self {
        Self { cases: cases.into_iter().collect() }
    }
}

impl Extend<ProbeReplies> for Probing {
    fn extend<I: IntoIterator<Item = ProbeReplies>>(&mut self, cases: I) {
        self.cases.extend(cases);
    }
}

/// The rates of one criterion. None where no probe counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProbeRates {
    /// What is tested.
    pub category: ProbeCategory,
    /// The name of the criterion.
    pub criterion: String,
    /// Probes that are passed, of those that count.
    pub passed: Option<Rate>,
    /// The same over the facts that the model gives at their own prompts: the published figure of RippleEdits.
    pub passed_where_written: Option<Rate>,
    /// Of locality: questions whose answer begins as the unedited model's, with as many words as the usual form of what is wanted has, but
    /// at least 8 in the setting `qa` and 16 in `chat`, which may repeat the question.
    pub agreement: Option<Rate>,
    /// Mean [`rouge_l_recall`]: the measure for answers that are sentences.
    pub recall: Option<Rate>,
    /// Number of probes that count: their conditions held on the unedited model.
    pub counted: usize,
    /// Number of probes.
    pub probes: usize,
}

impl Probing {
    /// The answers, in the order in which they were asked for.
    #[must_use]
    pub fn cases(&self) -> &[ProbeReplies] {
        &self.cases
    }

    fn of(&self, setting: Setting) -> impl Iterator<Item = &ProbeReplies> {
        self.cases.iter().filter(move |case| case.setting == setting)
    }

    /// The rates in one setting, by category and criterion. A probe with conditions counts if they held on the unedited model, whose answers
    /// to the same facts must be given; for its own rates, give them twice.
    #[must_use]
    pub fn summary(&self, setting: Setting, unedited: &Probing) -> Vec<ProbeRates> {
        let before: HashMap<u64, &ProbeReplies> = unedited.of(setting).map(|case| (case.case_id, case)).collect();
        let mut tallies: BTreeMap<(ProbeCategory, &str), Tally> = BTreeMap::new();
        for case in self.of(setting) {
            let written = case.fact.is_right(setting);
            let mut touched: BTreeMap<(ProbeCategory, &str), Tally> = BTreeMap::new();
            for (i, reply) in case.probes.iter().enumerate() {
                let earlier = before.get(&case.case_id).and_then(|case| case.probes.get(i));
                let earlier = earlier.filter(|earlier| earlier.is_of(reply));
                let tally = touched.entry((reply.category, &reply.criterion)).or_default();
                tally.count(reply, earlier, setting, written);
            }
            for (key, of_case) in touched {
                tallies.entry(key).or_default().add(of_case);
            }
        }
        let rates = tallies.into_iter().map(|((category, criterion), tally)| tally.rates(category, criterion));
        rates.collect()
    }
}

/// The values at the probes of one criterion, a list for each case.
#[derive(Default)]
struct Tally {
    passed: Vec<Vec<f64>>,
    passed_where_written: Vec<Vec<f64>>,
    agreement: Vec<Vec<f64>>,
    recall: Vec<Vec<f64>>,
    counted: usize,
    probes: usize,
}

impl Tally {
    /// Counts a reply, for a tally of one case.
    fn count(&mut self, reply: &ProbeReply, earlier: Option<&ProbeReply>, setting: Setting, written: bool) {
        fn put(list: &mut Vec<Vec<f64>>, value: f64) {
            if list.is_empty() {
                list.push(vec![]);
            }
            list[0].push(value);
        }
        self.probes += 1;
        if !reply.conditions.is_empty() && !earlier.is_some_and(|earlier| earlier.holds(setting)) {
            return;
        }
        self.counted += 1;
        let passed = f64::from(reply.is_passed(setting));
        put(&mut self.passed, passed);
        if written {
            put(&mut self.passed_where_written, passed);
        }
        put(&mut self.recall, reply.recall());
        if let (ProbeCategory::Locality, Some(earlier)) = (reply.category, earlier) {
            put(&mut self.agreement, reply.agreement(earlier, setting));
        }
    }

    fn add(&mut self, case: Tally) {
        self.passed.extend(case.passed);
        self.passed_where_written.extend(case.passed_where_written);
        self.agreement.extend(case.agreement);
        self.recall.extend(case.recall);
        self.counted += case.counted;
        self.probes += case.probes;
    }

    fn rates(self, category: ProbeCategory, criterion: &str) -> ProbeRates {
        ProbeRates {
            category,
            criterion: criterion.to_owned(),
            passed: Rate::new(self.passed),
            passed_where_written: Rate::new(self.passed_where_written),
            agreement: Rate::new(self.agreement),
            recall: Rate::new(self.recall),
            counted: self.counted,
            probes: self.probes,
        }
    }
}
