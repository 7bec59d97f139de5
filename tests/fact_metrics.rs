//! Efficacy, generality, specificity and agreement on a toy model, against numbers worked out by hand.

use approx::assert_relative_eq;
use betaedit_core::error::{ModelError, NumericsError};
use betaedit_core::facts::Facts;
use betaedit_core::facts::metrics::{Case, Evaluation, Perplexity, Query, Rate, Scorer, TokenScore, evaluate};
use betaedit_core::{Error, Result};

/// Probability of each token of a target, and whether it is the argmax.
type Row = (&'static str, &'static str, &'static [(f64, bool)]);

/// A model that is a table.
struct Table(Vec<Row>);

impl Scorer for Table {
    fn score(&mut self, queries: &[Query<'_>]) -> Result<Vec<Vec<TokenScore>>> {
        let answer = |query: &Query<'_>| {
            let (_, _, tokens) = self.0.iter().find(|row| (row.0, row.1) == (query.prompt, query.target)).unwrap();
            let score = |(i, &(p, best)): (usize, &(f64, bool))| TokenScore {
                token: 10 + i as u32,
                log_probability: p.ln(),
                argmax: if best { 10 + i as u32 } else { 0 },
            };
            tokens.iter().enumerate().map(score).collect()
        };
        Ok(queries.iter().map(answer).collect())
    }
}

/// Three facts: one with everything, one plain, one with a single paraphrase and neighbor.
fn facts() -> Facts {
    let records = r#"[
        {"subject": "France", "prompt": "The capital of {} is", "target_new": "New Rome", "target_true": "Paris",
         "paraphrase_prompts": ["France is ruled from", "{}'s capital is"],
         "neighborhood_prompts": ["The Louvre is in", "Montmartre is in"]},
        {"subject": "Loire", "prompt": "The {} is a", "target_new": "bank"},
        {"subject": "Japan", "prompt": "In {} they pay in", "target_new": "euro", "target_true": "yen",
         "paraphrase_prompts": ["Japan prints the"], "neighborhood_prompts": [{"prompt": "In Osaka they pay in", "target_true": "yen"}]}
    ]"#;
    Facts::parse("inline", records).unwrap()
}

fn table() -> Table {
    Table(vec![
        // By the geometric mean, 0.4, the new target wins; by the product, 0.16, it would not.
        ("The capital of France is", "New Rome", &[(0.5, true), (0.32, true)]),
        ("The capital of France is", "Paris", &[(0.39, false)]),
        ("France is ruled from", "New Rome", &[(0.5, true), (0.02, false)]),
        ("France is ruled from", "Paris", &[(0.2, false)]),
        ("France's capital is", "New Rome", &[(0.9, true), (0.9, true)]),
        ("France's capital is", "Paris", &[(0.01, false)]),
        ("The Louvre is in", "Paris", &[(0.6, true)]),
        ("The Louvre is in", "New Rome", &[(0.1, false), (0.1, false)]),
        // A tie is lost.
        ("Montmartre is in", "Paris", &[(0.3, false)]),
        ("Montmartre is in", "New Rome", &[(0.3, false), (0.3, false)]),
        ("The Loire is a", "bank", &[(0.2, false)]),
        ("In Japan they pay in", "euro", &[(0.9, true)]),
        ("In Japan they pay in", "yen", &[(0.05, false)]),
        ("Japan prints the", "euro", &[(0.4, true)]),
        ("Japan prints the", "yen", &[(0.3, false)]),
        ("In Osaka they pay in", "yen", &[(0.1, false)]),
        ("In Osaka they pay in", "euro", &[(0.8, true)]),
    ])
}

#[test]
fn rates_by_hand() {
    let summary = evaluate(&mut table(), facts().iter()).unwrap().summary();
    let counted = |rate: Option<Rate>| rate.map(|rate| (rate.mean, rate.cases, rate.prompts)).unwrap();
    assert_eq!(counted(summary.efficacy), (2.0 / 3.0, 3, 3));
    assert_eq!(counted(summary.efficacy_tokens), (2.0 / 3.0, 3, 3));
    // Only facts that have a true target.
    assert_eq!(counted(summary.efficacy_prob), (1.0, 2, 2));
    // Cases count alike, not prompts: (1/2 + 1) / 2, where the prompts alone would give 2/3.
    assert_eq!(counted(summary.generality), (0.75, 2, 3));
    assert_eq!(counted(summary.generality_prob), (0.75, 2, 3));
    assert_eq!(counted(summary.generality_tokens), (0.875, 2, 3));
    assert_eq!(counted(summary.specificity), (0.25, 2, 3));
    assert_eq!(counted(summary.specificity_prob), (0.25, 2, 3));
    assert_eq!(counted(summary.specificity_tokens), (0.25, 2, 3));
    // 3 / (1/1 + 1/0.75 + 1/0.25)
    assert_relative_eq!(summary.score().unwrap(), 9.0 / 19.0, max_relative = 1e-12);
}

#[test]
fn agreement_is_with_the_model_before() {
    let facts = facts();
    let before = evaluate(&mut table(), facts.iter()).unwrap();
    assert_eq!(before.neighborhood_agreement(&before).map(|rate| rate.mean), Some(1.0));
    // Montmartre's argmax changes; at Osaka the true target's probability does, but not the argmax.
    let mut edited = table();
    for row in &mut edited.0 {
        match (row.0, row.1) {
            ("Montmartre is in", "Paris") => row.2 = &[(0.9, true)],
            ("In Osaka they pay in", "yen") => row.2 = &[(0.001, false)],
            _ => {}
        }
    }
    let after = evaluate(&mut edited, facts.iter()).unwrap();
    let rate = after.neighborhood_agreement(&before).unwrap();
    assert_eq!((rate.mean, rate.cases, rate.prompts), (0.75, 2, 3));
    // Over the cases that both have; none without any.
    let first = evaluate(&mut edited, &facts[..1]).unwrap();
    assert_eq!(first.neighborhood_agreement(&before).map(|rate| (rate.mean, rate.cases)), Some((0.5, 1)));
    assert_eq!(Evaluation::default().neighborhood_agreement(&before), None);
}

#[test]
fn an_evaluation_is_the_sum_of_its_cases_and_can_be_stored() {
    let facts = facts();
    let whole = evaluate(&mut table(), facts.iter()).unwrap();
    let mut pieces: Evaluation = facts[..2].iter().map(|fact| Case::new(&mut table(), fact).unwrap()).collect();
    pieces.extend([Case::new(&mut table(), &facts[2]).unwrap()]);
    assert_eq!(pieces, whole);
    let stored = serde_json::to_string(&whole).unwrap();
    assert_eq!(serde_json::from_str::<Evaluation>(&stored).unwrap(), whole);
}

#[test]
fn queries_of_a_prompt_come_together_in_one_call_a_fact() {
    let mut calls = Vec::new();
    let mut table = table();
    let mut scorer = |queries: &[Query<'_>]| {
        calls.push(queries.iter().map(|query| query.prompt.to_owned()).collect::<Vec<_>>());
        table.score(queries)
    };
    evaluate(&mut scorer, facts().iter()).unwrap();
    assert_eq!(calls.iter().map(Vec::len).collect::<Vec<_>>(), [10, 1, 6]);
    assert!(
        calls
            .iter()
            .filter(|prompts| prompts.len() > 1)
            .all(|prompts| prompts.chunks(2).all(|pair| pair[0] == pair[1]))
    );
}

#[test]
fn wrong_answers_of_a_scorer_are_refused() {
    let facts = facts();
    let ask = |answer: fn(&[Query<'_>]) -> Vec<Vec<TokenScore>>| {
        let mut scorer = |queries: &[Query<'_>]| Ok(answer(queries));
        evaluate(&mut scorer, facts.iter()).unwrap_err()
    };
    let score = |log_probability| TokenScore { token: 1, log_probability, argmax: 1 };
    assert_eq!(ask(|_| vec![]).to_string(), "the adapter failed: the scorer gave 0 answers to 10 queries");
    let empty = ask(|queries| queries.iter().map(|_| vec![]).collect()).to_string();
    assert!(empty.contains("no token for the target \"New Rome\" of \"The capital of France is\""), "{empty}");
    let nan = |queries: &[Query<'_>]| {
        queries.iter().map(|_| vec![TokenScore { token: 1, log_probability: f64::NAN, argmax: 1 }]).collect()
    };
    assert!(matches!(ask(nan), Error::Numerics(NumericsError::NonFinite { row: 0, col: 0, .. })));
    let mut failing =
        |_: &[Query<'_>]| -> Result<Vec<Vec<TokenScore>>> { Err(ModelError::Adapter("out of memory".into()).into()) };
    assert!(evaluate(&mut failing, facts.iter()).is_err());
    let mut sound = |queries: &[Query<'_>]| Ok(queries.iter().map(|_| vec![score(-1.0)]).collect());
    assert!(evaluate(&mut sound, facts.iter()).is_ok());
}

#[test]
fn intervals_are_wilsons_at_the_effective_number_of_trials() {
    let single = |hits: usize, n: usize| Rate::new((0..n).map(|i| [f64::from(i < hits)])).unwrap();
    // The roots of |p - q| = z sqrt(q (1 - q) / n), found by bisection.
    for (hits, n, low, high) in [
        (8, 10, 0.4901624715, 0.9433178485),
        (0, 10, 0.0000000000, 0.2775327999),
        (10, 10, 0.7224672001, 1.0000000000),
        (97, 137, 0.6270518075, 0.7776585703),
        (1, 3, 0.0614919447, 0.7923403992),
    ] {
        let rate = single(hits, n);
        assert_relative_eq!(rate.low, low, epsilon = 1e-9);
        assert_relative_eq!(rate.high, high, epsilon = 1e-9);
        assert!(rate.low <= rate.mean && rate.mean <= rate.high);
    }
    // Ten prompts a case that all agree are worth one; ten that do not are worth up to ten.
    let alike = Rate::new((0..10).map(|i| vec![f64::from(i < 8); 10])).unwrap();
    let ten = single(8, 10);
    assert_relative_eq!(alike.low, ten.low, epsilon = 1e-12);
    assert_relative_eq!(alike.high, ten.high, epsilon = 1e-12);
    let spread =
        Rate::new((0..10).map(|case| (0..10).map(move |i| f64::from((case + i) % 10 < 8 || (case == 3 && i == 0)))))
            .unwrap();
    let hundred = single(81, 100);
    assert!(spread.high - spread.low < 1.05 * (hundred.high - hundred.low), "{spread:?} {hundred:?}");
    assert_eq!((spread.cases, spread.prompts), (10, 100));
    assert_eq!(Rate::new([Vec::new()]), None);
}

#[test]
fn perplexity_adds_up() {
    let tokens = [0.5f64, 0.25, 0.125, 0.9];
    let (mut whole, mut left, mut right) = (Perplexity::default(), Perplexity::default(), Perplexity::default());
    assert_eq!(whole.value(), None);
    whole.observe(tokens.map(f64::ln));
    left.observe(tokens[..3].iter().map(|p| p.ln()));
    right.observe(tokens[3..].iter().map(|p| p.ln()));
    left.merge(&right);
    // (2 * 4 * 8 / 0.9)^(1/4)
    assert_relative_eq!(whole.value().unwrap(), (64.0f64 / 0.9).powf(0.25), max_relative = 1e-14);
    assert_relative_eq!(left.value().unwrap(), whole.value().unwrap(), max_relative = 1e-14);
    assert_eq!((left.tokens(), whole.tokens()), (4, 4));
}
