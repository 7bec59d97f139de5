//! The answers of a model at every prompt of every fact, and the rates computed from them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Query, Rate, Scorer, TokenScore};
use crate::error::{ModelError, NumericsError, Result};
use crate::facts::Fact;
use crate::util::shown::shown;
use crate::util::text::Quoted;

/// How a model scored one target after one prompt: at least one token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Answer(Vec<TokenScore>);

impl Answer {
    /// The tokens of the target.
    #[must_use]
    pub fn tokens(&self) -> &[TokenScore] {
        &self.0
    }

    /// Mean log-probability of the tokens: the logarithm of their geometric mean.
    #[must_use]
    pub fn mean_log_probability(&self) -> f64 {
        self.0.iter().map(|token| token.log_probability).sum::<f64>() / self.0.len() as f64
    }

    /// Share of the tokens that are the model's argmax.
    #[must_use]
    pub fn token_accuracy(&self) -> f64 {
        share(&self.0, |token| token.token == token.argmax)
    }

    /// Whether every token is the model's argmax.
    #[must_use]
    pub fn is_argmax(&self) -> bool {
        self.0.iter().all(|token| token.token == token.argmax)
    }

    /// Share of the positions where the model's argmax equals that of another answer to the same query.
    #[must_use]
    pub fn agreement(&self, other: &Answer) -> f64 {
        let agreeing = self.0.iter().zip(&other.0).filter(|(a, b)| a.argmax == b.argmax).count();
        agreeing as f64 / self.0.len().max(other.0.len()) as f64
    }
}

/// The target that should win at a prompt, and its rival.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contest {
    /// The new target; at neighborhood prompts the true one.
    pub wanted: Answer,
    /// The other one, if the fact has it.
    pub rival: Option<Answer>,
}

impl Contest {
    /// From the wanted target's answer, and its rival's if there is one.
    fn new(answers: &[Answer]) -> Self {
        Self { wanted: answers[0].clone(), rival: answers.get(1).cloned() }
    }

    /// Whether the wanted target is more probable than its rival, if there is one.
    #[must_use]
    pub fn is_won(&self) -> Option<bool> {
        let rival = self.rival.as_ref()?;
        Some(self.wanted.mean_log_probability() > rival.mean_log_probability())
    }
}

/// The answers of a model at the prompts of one fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// The fact's number.
    pub case_id: u64,
    /// At the prompt itself.
    pub prompt: Contest,
    /// At its paraphrases.
    pub paraphrases: Vec<Contest>,
    /// At its neighborhood prompts.
    pub neighborhood: Vec<Contest>,
}

impl Case {
    /// Asks a model about one fact, in one call of the scorer.
    ///
    /// # Errors
    /// Any failure of the scorer; another number of answers than queries, an answer without tokens, or a
    /// log-probability that is not finite.
    pub fn new<S: Scorer + ?Sized>(scorer: &mut S, fact: &Fact) -> Result<Self> {
        let prompt = fact.full_prompt();
        let (new, truth) = (fact.target_new(), fact.target_true());
        let mut queries = Vec::new();
        for prompt in std::iter::once(&prompt).chain(fact.paraphrase_prompts()) {
            queries.push(Query { prompt, target: new });
            queries.extend(truth.map(|target| Query { prompt, target }));
        }
        for near in fact.neighborhood_prompts() {
            queries.extend([near.target_true(), new].map(|target| Query { prompt: near.prompt(), target }));
        }
        let answers = answers(scorer, &queries)?;
        let per_prompt = 1 + usize::from(truth.is_some());
        let (prompt, rest) = answers.split_at(per_prompt);
        let (paraphrases, neighborhood) = rest.split_at(per_prompt * fact.paraphrase_prompts().len());
        Ok(Self {
            case_id: fact.case_id(),
            prompt: Contest::new(prompt),
            paraphrases: paraphrases.chunks(per_prompt).map(Contest::new).collect(),
            neighborhood: neighborhood.chunks(2).map(Contest::new).collect(),
        })
    }
}

/// The scorer's answers, one a query, checked.
fn answers<S: Scorer + ?Sized>(scorer: &mut S, queries: &[Query<'_>]) -> Result<Vec<Answer>> {
    let scores = scorer.score(queries)?;
    if scores.len() != queries.len() {
        let problem = format!("the scorer gave {} answers to {} queries", scores.len(), queries.len());
        return Err(ModelError::Adapter(problem.into()).into());
    }
    for (row, (tokens, query)) in scores.iter().zip(queries).enumerate() {
        if tokens.is_empty() {
            let problem =
                format!("the scorer gave no token for the target {} of {}", Quoted(query.target), Quoted(query.prompt));
            return Err(ModelError::Adapter(problem.into()).into());
        }
        if let Some(col) = tokens.iter().position(|token| !token.log_probability.is_finite()) {
            let value = tokens[col].log_probability;
            return Err(NumericsError::NonFinite { argument: "log-probabilities", row, col, value }.into());
        }
    }
    Ok(scores.into_iter().map(Answer).collect())
}

/// The answers of a model at the prompts of many facts.
///
/// Collect [`Case`]s into one to report progress or to spread the work; it can be stored and read back.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Evaluation {
    cases: Vec<Case>,
}

shown!([] Evaluation, "Evaluation", self => {
    "cases": self.cases.len(),
});

/// Asks a model about facts.
///
/// # Errors
/// As [`Case::new`].
pub fn evaluate<'a, S: Scorer + ?Sized>(
    scorer: &mut S,
    facts: impl IntoIterator<Item = &'a Fact>,
) -> Result<Evaluation> {
    facts.into_iter().map(|fact| Case::new(scorer, fact)).collect()
}

impl FromIterator<Case> for Evaluation {
    fn from_iter<I: IntoIterator<Item = Case>>(cases: I) -> Self {
        Self { cases: cases.into_iter().collect() }
    }
}

impl Extend<Case> for Evaluation {
    fn extend<I: IntoIterator<Item = Case>>(&mut self, cases: I) {
        self.cases.extend(cases);
    }
}

/// The rates of an [`Evaluation`]; the table is in the [module documentation](super). None where no case has such a
/// prompt, or, in the probability variant, no case has both targets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Summary {
    /// At the prompt, every token of the new target the argmax.
    pub efficacy: Option<Rate>,
    /// At paraphrases, the same.
    pub generality: Option<Rate>,
    /// At neighborhood prompts, every token of the true target the argmax.
    pub specificity: Option<Rate>,
    /// At the prompt, the new target more probable than the true one.
    pub efficacy_prob: Option<Rate>,
    /// At paraphrases, the same.
    pub generality_prob: Option<Rate>,
    /// At neighborhood prompts, the true target more probable than the new one.
    pub specificity_prob: Option<Rate>,
    /// At the prompt, the tokens of the new target that are the argmax.
    pub efficacy_tokens: Option<Rate>,
    /// At paraphrases, the same.
    pub generality_tokens: Option<Rate>,
    /// At neighborhood prompts, the tokens of the true target that are the argmax.
    pub specificity_tokens: Option<Rate>,
}

impl Summary {
    /// The score of ROME and MEMIT: the harmonic mean of efficacy, generality and specificity in the probability
    /// variant; 0 if one of them is.
    #[must_use]
    pub fn score(&self) -> Option<f64> {
        let means = [self.efficacy_prob?.mean, self.generality_prob?.mean, self.specificity_prob?.mean];
        Some(3.0 / means.into_iter().map(f64::recip).sum::<f64>())
    }
}

impl Evaluation {
    /// The cases, in the order in which they were asked.
    #[must_use]
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// All rates.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let exact = |contest: &Contest| Some(f64::from(contest.wanted.is_argmax()));
        let won = |contest: &Contest| contest.is_won().map(f64::from);
        let tokens = |contest: &Contest| Some(contest.wanted.token_accuracy());
        Summary {
            efficacy: self.rate(Case::asked, exact),
            generality: self.rate(Case::paraphrased, exact),
            specificity: self.rate(Case::near, exact),
            efficacy_prob: self.rate(Case::asked, won),
            generality_prob: self.rate(Case::paraphrased, won),
            specificity_prob: self.rate(Case::near, won),
            efficacy_tokens: self.rate(Case::asked, tokens),
            generality_tokens: self.rate(Case::paraphrased, tokens),
            specificity_tokens: self.rate(Case::near, tokens),
        }
    }

    /// Agreement with an evaluation of the unedited model at the neighborhood prompts, over the cases that both have.
    #[must_use]
    pub fn neighborhood_agreement(&self, before: &Evaluation) -> Option<Rate> {
        let before: HashMap<u64, &Case> = before.cases.iter().map(|case| (case.case_id, case)).collect();
        Rate::new(self.cases.iter().filter_map(|case| {
            let earlier = before.get(&case.case_id)?;
            Some(case.near().iter().zip(earlier.near()).map(|(now, then)| now.wanted.agreement(&then.wanted)))
        }))
    }

    fn rate(&self, prompts: fn(&Case) -> &[Contest], value: impl Fn(&Contest) -> Option<f64>) -> Option<Rate> {
        Rate::new(self.cases.iter().map(|case| prompts(case).iter().filter_map(&value)))
    }
}

impl Case {
    fn asked(&self) -> &[Contest] {
        std::slice::from_ref(&self.prompt)
    }

    fn paraphrased(&self) -> &[Contest] {
        &self.paraphrases
    }

    fn near(&self) -> &[Contest] {
        &self.neighborhood
    }
}

fn share<T>(items: &[T], holds: impl Fn(&T) -> bool) -> f64 {
    items.iter().filter(|item| holds(item)).count() as f64 / items.len() as f64
}
