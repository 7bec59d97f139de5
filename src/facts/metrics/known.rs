//! Whether a model still answers what it knew.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::generation::{Generator, Question, Setting, ask};
use super::matching::says_whole;
use super::rate::Rate;
use crate::error::Result;
use crate::facts::Known;
use crate::util::shown::shown;

/// A fact that a model is expected to know, and what it answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KnownAnswer {
    /// The fact.
    #[serde(flatten)]
    pub known: Known,
    /// What the model answered.
    pub answer: String,
    /// Whether the answer says one of the answers that are right, in whole words.
    pub right: bool,
}

/// What a model answered about facts that it is expected to know, in one setting.
///
/// An answer is right if it says one of the answers that the fact has, as the table of [`Setting`] has it, but in whole words: `O` is not in
/// "Oxygen", nor `4` in "40". Quotation marks and asterisks before it do not matter.
///
/// Leave out the facts about subjects that are edited ([`Known::is_about`]): their answers may rightly change.
///
/// ```
/// use betaedit_core::facts::Known;
/// use betaedit_core::facts::metrics::{KnownAnswers, Question, Setting};
///
/// let known = [Known::new("The capital of Iceland is", ["Reykjavik"]), Known::new("Cheese is made from", ["milk"])];
/// let mut unedited = |asked: &[Question<'_>]| Ok(vec![" Reykjavik. It is".to_owned(); asked.len()]);
/// let mut edited = |asked: &[Question<'_>]| Ok(vec![" Oslo, a city".to_owned(); asked.len()]);
///
/// let before = KnownAnswers::ask(&mut unedited, &known, Setting::Plain)?;
/// let after = KnownAnswers::ask(&mut edited, &known, Setting::Plain)?;
/// assert_eq!(before.share().unwrap().mean, 0.5);
/// // Of what the model knew, nothing is kept.
/// let kept = after.kept(&before).unwrap();
/// assert_eq!((kept.mean, kept.cases), (0.0, 1));
/// let forgotten: Vec<&str> = after.forgotten(&before).map(|fact| &*fact.known.prompt).collect();
/// assert_eq!(forgotten, ["The capital of Iceland is"]);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownAnswers {
    setting: Setting,
    answers: Vec<KnownAnswer>,
}

shown!([] KnownAnswers, "KnownAnswers", self => {
    "setting": self.setting,
    "answers": self.answers.len(),
});

impl KnownAnswers {
    /// Asks a model about facts, in one call of the generator.
    ///
    /// # Errors
    /// Any failure of the generator, and another number of answers than questions.
    pub fn ask<G: Generator + ?Sized>(generator: &mut G, known: &[Known], setting: Setting) -> Result<Self> {
        let mut questions = vec![];
        for Known { prompt, answers } in known {
            let longest = answers.iter().max_by_key(|answer| answer.len());
            questions.push(Question::new(setting, prompt, longest.map_or("", String::as_str)));
        }
        let answers = ask(generator, &questions)?;
        let answered = |(known, answer): (&Known, String)| KnownAnswer {
            right: known.answers.iter().any(|wanted| says_whole(setting, &answer, wanted)),
            known: known.clone(),
            answer,
        };
        Ok(Self { setting, answers: known.iter().zip(answers).map(answered).collect() })
    }

    /// How the model was asked.
    #[must_use]
    pub fn setting(&self) -> Setting {
        self.setting
    }

    /// The answers, in the order of the facts.
    #[must_use]
    pub fn answers(&self) -> &[KnownAnswer] {
        &self.answers
    }

    /// The share of facts that the model answers right. `None` if there are no facts.
    #[must_use]
    pub fn share(&self) -> Option<Rate> {
        Rate::new(self.answers.iter().map(|answer| [f64::from(answer.right)]))
    }

    /// Of the facts that a model answered right before, the share that is still answered right. `None` if there are none, or if the model was
    /// asked in another setting.
    #[must_use]
    pub fn kept(&self, before: &Self) -> Option<Rate> {
        Rate::new(self.known_before(before).map(|answer| [f64::from(answer.right)]))
    }

    /// The facts that a model answered right before and now does not.
    pub fn forgotten<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a KnownAnswer> {
        self.known_before(before).filter(|answer| !answer.right)
    }

    /// The answers about facts that a model answered right before, in the same setting.
    fn known_before<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a KnownAnswer> {
        let comparable = self.setting == before.setting;
        let right: HashMap<&str, bool> =
            before.answers.iter().map(|answer| (&*answer.known.prompt, answer.right && comparable)).collect();
        self.answers.iter().filter(move |answer| right.get(&*answer.known.prompt).copied().unwrap_or_default())
    }
}
