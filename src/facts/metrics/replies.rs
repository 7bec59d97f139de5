//! The answers that a model generates at every prompt of every fact, and the rates computed from them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::generation::{Generator, Question, Setting, ask};
use super::matching::{is_exactly, plain, says};
use super::overlap::rouge_l_recall;
use super::rate::Rate;
use crate::error::Result;
use crate::facts::Fact;
use crate::util::shown::shown;

/// What a question asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Purpose {
    /// The fact, at its prompt.
    Fact,
    /// The fact, at a paraphrase.
    Paraphrase,
    /// What must stay, at a neighborhood prompt.
    Neighborhood,
    /// The subject's name.
    Name,
}

/// A question and the answer that a model generated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reply {
    /// What was asked for.
    pub purpose: Purpose,
    /// The prompt.
    pub question: String,
    /// What should be answered: the new target, at neighborhood prompts the true one, or the subject.
    pub wanted: String,
    /// What was answered.
    pub answer: String,
}

/// The answers that a model generated to the questions about a fact, in one setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Replies {
    /// The fact's number.
    pub case_id: u64,
    /// How the model was asked.
    pub setting: Setting,
    /// The subject of the fact.
    pub subject: String,
    /// The answers, one a question.
    pub replies: Vec<Reply>,
}

impl Reply {
    fn unanswered(purpose: Purpose, question: impl Into<String>, wanted: &str) -> Self {
        Self { purpose, question: question.into(), wanted: wanted.to_owned(), answer: String::new() }
    }

    fn ask(&self, setting: Setting) -> Question<'_> {
        let question = Question::new(setting, &self.question, &self.wanted);
        let compared = COMPARED.iter().find(|(of, _)| *of == setting).filter(|_| self.purpose == Purpose::Neighborhood);
        Question { tokens: compared.map_or(question.tokens, |(_, tokens)| *tokens), ..question }
    }
}

/// The questions about a fact.
fn unanswered(fact: &Fact, setting: Setting) -> Vec<Reply> {
    let (target, name) = (fact.target_new(), fact.subject());
    let mut replies = vec![Reply::unanswered(Purpose::Fact, fact.full_prompt(), target)];
    let paraphrases = fact.paraphrase_prompts().iter();
    replies.extend(paraphrases.map(|prompt| Reply::unanswered(Purpose::Paraphrase, prompt, target)));
    if setting == Setting::Plain {
        let again = format!("The name is {name}. Once more, the name is");
        replies.push(Reply::unanswered(Purpose::Name, again, name));
    }
    let near = fact.neighborhood_prompts().iter();
    replies.extend(near.map(|near| Reply::unanswered(Purpose::Neighborhood, near.prompt(), near.target_true())));
    replies
}

/// Tokens of an answer that are compared with the unedited model's. In a chat, the first ones repeat the question.
const COMPARED: [(Setting, usize); 3] = [(Setting::Plain, 2), (Setting::Qa, 8), (Setting::Chat, 16)];

/// The words of the longest target that an answer says as a whole. Longer ones are passages, of which it has a part.
const LONGEST_NAME: usize = 20;

impl Replies {
    /// Asks a model about some facts, in one call of the generator: at the prompt, the paraphrases, and the neighborhood prompts, and in
    /// the setting `plain` for the subject's name.
    ///
    /// # Errors
    /// Any failure of the generator, and another number of answers than questions.
    pub fn of_each<G: Generator + ?Sized>(generator: &mut G, facts: &[Fact], setting: Setting) -> Result<Vec<Self>> {
        let asked: Vec<Vec<Reply>> = facts.iter().map(|fact| unanswered(fact, setting)).collect();
        let questions: Vec<Question<'_>> = asked.iter().flatten().map(|reply| reply.ask(setting)).collect();
        let mut answers = ask(generator, &questions)?.into_iter();
        let case = |(fact, mut replies): (&Fact, Vec<Reply>)| {
            replies.iter_mut().zip(&mut answers).for_each(|(reply, answer)| reply.answer = answer);
            Self { case_id: fact.case_id(), setting, subject: fact.subject().to_owned(), replies }
        };
        Ok(facts.iter().zip(asked).map(case).collect())
    }

    fn of(&self, purpose: Purpose) -> impl Iterator<Item = &Reply> {
        self.replies.iter().filter(move |reply| reply.purpose == purpose)
    }

    /// Whether the answers say what is wanted, for the questions of one purpose.
    fn said(&self, purpose: Purpose) -> Vec<f64> {
        self.of(purpose).map(|reply| f64::from(says(self.setting, &reply.answer, &reply.wanted))).collect()
    }

    /// How much of what is wanted the answers have, for the questions of one purpose, where that is a passage.
    fn recalled(&self, purpose: Purpose) -> Vec<f64> {
        let passages = self.of(purpose).filter(|reply| reply.wanted.split_whitespace().count() > LONGEST_NAME);
        passages.map(|reply| rouge_l_recall(&reply.answer, &reply.wanted)).collect()
    }

    /// Whether the subject is named as it is written.
    fn named(&self) -> Vec<f64> {
        if self.setting == Setting::Plain {
            return self.said(Purpose::Name);
        }
        let name = plain(&self.subject);
        self.of(Purpose::Fact).map(|reply| f64::from(plain(&reply.answer).contains(&name))).collect()
    }
}

/// The answers that a model generated about many facts, in one or more settings.
///
/// Collect [`Replies`] into one to report progress; it can be stored and read back.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation {
    cases: Vec<Replies>,
}

shown!([] Generation, "Generation", self => {
    "cases": self.cases.len(),
});

impl FromIterator<Replies> for Generation {
    fn from_iter<I: IntoIterator<Item = Replies>>(cases: I) -> Self {
        Self { cases: cases.into_iter().collect() }
    }
}

impl Extend<Replies> for Generation {
    fn extend<I: IntoIterator<Item = Replies>>(&mut self, cases: I) {
        self.cases.extend(cases);
    }
}

/// The rates of generated answers in one setting. None where no fact has such a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GenerationSummary {
    /// At the prompt, the answer says the new target.
    pub efficacy: Option<Rate>,
    /// At the prompt, the answer is the new target and nothing else.
    pub exact: Option<Rate>,
    /// At paraphrases, the answer says the new target.
    pub generality: Option<Rate>,
    /// At the prompt, mean [`rouge_l_recall`] of the new target, over targets that are passages: those of more than 20 words.
    pub efficacy_recall: Option<Rate>,
    /// At paraphrases, the same.
    pub generality_recall: Option<Rate>,
    /// At neighborhood prompts, the answer begins as the unedited model's: its first 2 tokens in the setting `plain`, 8 in `qa`, 16 in
    /// `chat`.
    pub agreement: Option<Rate>,
    /// The answer has the subject's name as it is written: in `qa` and `chat` at the prompt itself (where the model may also answer
    /// without it), in `plain` at a text that asks to repeat it.
    pub subject_named: Option<Rate>,
}

impl Generation {
    /// The answers, in the order in which they were asked for.
    #[must_use]
    pub fn cases(&self) -> &[Replies] {
        &self.cases
    }

    /// The rates in one setting. The unedited model's answers serve for the agreement.
    #[must_use]
    pub fn summary(&self, setting: Setting, unedited: &Generation) -> GenerationSummary {
        let cases = || self.cases.iter().filter(|case| case.setting == setting);
        let said = |purpose| Rate::new(cases().map(|case| case.said(purpose)));
        let recall = |purpose| Rate::new(cases().map(|case| case.recalled(purpose)));
        let exactly = |reply: &Reply| f64::from(is_exactly(&reply.answer, &reply.wanted));
        let before: HashMap<u64, &Replies> =
            unedited.cases.iter().filter(|case| case.setting == setting).map(|case| (case.case_id, case)).collect();
        let agreement = cases().filter_map(|case| {
            let pairs = case.of(Purpose::Neighborhood).zip(before.get(&case.case_id)?.of(Purpose::Neighborhood));
            Some(pairs.map(|(now, then)| f64::from(now.answer == then.answer)).collect::<Vec<_>>())
        });
        GenerationSummary {
            efficacy: said(Purpose::Fact),
            exact: Rate::new(cases().map(|case| case.of(Purpose::Fact).map(exactly).collect::<Vec<_>>())),
            generality: said(Purpose::Paraphrase),
            efficacy_recall: recall(Purpose::Fact),
            generality_recall: recall(Purpose::Paraphrase),
            agreement: Rate::new(agreement),
            subject_named: Rate::new(cases().map(Replies::named)),
        }
    }
}
