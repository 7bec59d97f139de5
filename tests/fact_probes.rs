//! Probes from generated answers: conditions on the unedited model, one or all of some questions, and agreement.

use std::collections::HashMap;
use std::slice::from_ref;

use betaedit_core::Result;
use betaedit_core::facts::metrics::{ProbeRates, ProbeReplies, Probing, Question, Setting, probe, rouge_l_recall};
use betaedit_core::facts::{Facts, ProbeCategory};
use serde_json::{Value, json};

fn parse(records: &Value) -> Facts {
    Facts::parse("facts.json", records.to_string()).unwrap()
}

/// A model that knows some answers, and says "nothing" to other questions.
fn model(known: &[(&'static str, &'static str)]) -> impl FnMut(&[Question<'_>]) -> Result<Vec<String>> {
    let known: HashMap<&str, &str> = known.iter().copied().collect();
    move |questions| {
        let answer = |question: &Question<'_>| known.get(question.prompt).copied().unwrap_or("nothing").to_owned();
        Ok(questions.iter().map(answer).collect())
    }
}

fn ask(facts: &Facts, known: &[(&'static str, &'static str)], setting: Setting) -> Probing {
    probe(&mut model(known), facts.iter(), setting).unwrap()
}

fn mean(rates: &[ProbeRates], criterion: &str) -> Option<f64> {
    rates.iter().find(|rates| rates.criterion == criterion)?.passed.map(|rate| rate.mean)
}

fn query(prompt: &str, answers: &[&[&str]]) -> Value {
    let answer = |forms: &&[&str]| json!({"value": forms[0], "aliases": forms[1..]});
    json!({"prompt": prompt, "answers": answers.iter().map(answer).collect::<Vec<_>>(), "subject_id": "Q1", "relation": prompt})
}

fn ripple() -> Facts {
    let test = |queries: &[Value], condition: &str, conditions: &[Value]| -> Value {
        json!({"test_queries": queries, "test_condition": condition, "condition_queries": conditions})
    };
    let mother = query("The mother of Ada Lund is", &[&["Bea Lund", "Beatrix"]]);
    let siblings = query("The siblings of Ada Lund are", &[&["Cy Lund"], &["Di", "Diana"]]);
    let city = query("The capital of Porto is", &[&["Old Porto"]]);
    let (yes, alive) = (
        query("Is Ada Lund from Porto? Answer:", &[&["yes"]]),
        query("Was Ada Lund born in Porto? Answer:", &[&["true"]]),
    );
    parse(&json!([{
        "edit": {"prompt": "The home of Ada Lund is Porto.", "subject_id": "Q1", "relation": "HOME",
            "original_fact": {"prompt": "The home of Ada Lund is Lima."}},
        "Relation_Specificity": [test(from_ref(&mother), "OR", from_ref(&mother)), test(from_ref(&siblings), "OR", from_ref(&siblings))],
        "Compositionality_I": [test(&[query("The capital of the home of Ada Lund is", &[&["Old Porto"]])], "OR", &[city])],
        "Logical_Generalization": [test(&[yes.clone(), alive.clone()], "OR", &[]), test(&[yes, alive], "AND", &[])]
    }]))
}

#[test]
fn rippleedits_counts_a_test_only_if_its_condition_held() {
    let facts = ripple();
    let setting = Setting::Plain;
    // The unedited model knows the mother and one of two siblings, and not the capital.
    let before = ask(
        &facts,
        &[("The mother of Ada Lund is", " Beatrix, who"), ("The siblings of Ada Lund are", " Cy Lund")],
        setting,
    );
    let known = [
        ("The home of Ada Lund is", " in Porto."),
        ("The mother of Ada Lund is", " called bea  LUND"),
        ("The siblings of Ada Lund are", " Cy Lund and Diana"),
        ("The capital of the home of Ada Lund is", " Lima"),
        ("Is Ada Lund from Porto? Answer:", " Yes."),
    ];
    let after = ask(&facts, &known, setting);
    let rates = after.summary(setting, &before);
    let of = |criterion: &str| rates.iter().find(|rates| rates.criterion == criterion).unwrap();
    // The siblings were not all known, so their test does not count.
    assert_eq!((of("Relation_Specificity").counted, of("Relation_Specificity").probes), (1, 2));
    assert_eq!(of("Relation_Specificity").category, ProbeCategory::Locality);
    assert_eq!(mean(&rates, "Relation_Specificity"), Some(1.0));
    // The answers are both right, but other ones.
    assert_eq!(of("Relation_Specificity").agreement.unwrap().mean, 0.0);
    assert_eq!((of("Compositionality_I").counted, mean(&rates, "Compositionality_I")), (0, None));
    // Of two questions one is answered: enough for OR, not for AND.
    assert_eq!((of("Logical_Generalization").counted, mean(&rates, "Logical_Generalization")), (2, Some(0.5)));
    assert_eq!(of("Logical_Generalization").passed_where_written.unwrap().mean, 0.5);
    assert!(of("Logical_Generalization").agreement.is_none());

    // Without the unedited model's answers no condition is known to hold.
    let alone = after.summary(setting, &Probing::default());
    assert_eq!((mean(&alone, "Relation_Specificity"), mean(&alone, "Logical_Generalization")), (None, Some(0.5)));
    // Where the edit was not written, the authors do not count.
    let failed = ask(&facts, &known[1..], setting).summary(setting, &before);
    let logical = failed.iter().find(|rates| rates.criterion == "Logical_Generalization").unwrap();
    assert_eq!((logical.passed.unwrap().mean, logical.passed_where_written), (0.5, None));
    // In another setting nothing was asked.
    assert!(after.summary(Setting::Qa, &before).is_empty());
    // What is stored is read back.
    let stored: Probing = serde_json::from_str(&serde_json::to_string(&after).unwrap()).unwrap();
    assert_eq!(stored, after);
    serde_json::from_str::<Vec<ProbeRates>>(&serde_json::to_string(&rates).unwrap()).unwrap();
}

#[test]
fn mquake_counts_any_of_three_questions() {
    let facts = parse(&json!([{
        "case_id": 1,
        "requested_rewrite": [{"subject": "Ada", "prompt": "{} plays", "target_new": {"str": "chess"}}],
        "questions": ["Whence is Ada's game?", "Ada's game is from?", "Where was Ada's game made?"],
        "new_answer": "Chile", "new_answer_alias": ["Republic of Chile"],
        "new_single_hops": [{"question": "What does Ada play?", "answer": "chess"}, {"question": "Whence is chess?", "answer": "Chile"}]
    }]));
    let setting = Setting::Qa;
    for (known, multi, single) in [
        (&[("Ada's game is from?", " From chile.\nQ: No")][..], 1.0, 0.0),
        // Another line than the first is no answer in this setting.
        (&[("Ada's game is from?", " Peru\nChile"), ("What does Ada play?", "chess")], 0.0, 0.0),
        (&[("What does Ada play?", "chess"), ("Whence is chess?", "Chile")], 0.0, 1.0),
    ] {
        let rates = ask(&facts, known, setting).summary(setting, &Probing::default());
        assert_eq!((mean(&rates, "multi-hop"), mean(&rates, "single-hop")), (Some(multi), Some(single)), "{known:?}");
    }
}

#[test]
fn locality_agrees_with_the_unedited_model() {
    let facts = parse(&json!([{
        "subject": "Ada", "prompt": "{} lives in", "target_new": "Porto",
        "locality": {"Relation_Specificity": [
            {"prompt": "Ada is", "ground_truth": "a beekeeper"}, {"prompt": "Ada plays", "ground_truth": ["female chess"]}
        ]}
    }]));
    let setting = Setting::Plain;
    let before = ask(&facts, &[("Ada is", " a singer of songs"), ("Ada plays", " the male lead")], setting);
    let after = ask(&facts, &[("Ada is", " a singer of hymns"), ("Ada plays", " the lead")], setting);
    let rates = after.summary(setting, &before);
    assert_eq!(rates.len(), 1);
    assert_eq!((rates[0].passed.unwrap().mean, rates[0].agreement.unwrap().mean), (0.0, 0.5));
    assert_eq!(rates[0].recall.unwrap().mean, 0.25);
    assert!(rates[0].passed_where_written.is_none());
    // A form counts as a word of its own only.
    let facts = parse(&json!([{"subject": "Ada", "prompt": "{} lives in", "target": "Porto",
        "portability": {"x": [{"prompt": "Ada is", "ground_truth": "male"}]}}]));
    let rates = ask(&facts, &[("Ada is", " female")], setting).summary(setting, &Probing::default());
    assert_eq!(mean(&rates, "x"), Some(0.0));
}

#[test]
fn prompts_are_asked_once_and_answers_are_counted() {
    let facts = ripple();
    let mut asked = vec![];
    let mut listening = |questions: &[Question<'_>]| -> Result<Vec<String>> {
        asked.extend(questions.iter().map(|question| (question.prompt.to_owned(), question.tokens)));
        Ok(vec![String::new(); questions.len()])
    };
    let replies = ProbeReplies::new(&mut listening, &facts[0], Setting::Plain).unwrap();
    assert_eq!((replies.case_id, replies.probes.len()), (0, 5));
    assert_eq!(asked.len(), 7, "{asked:?}");
    assert!(asked.iter().all(|(_, tokens)| *tokens >= 30), "{asked:?}");

    // An edited model is not asked conditions, which changes nothing: the unedited model's answers to them count.
    let known = [("The siblings of Ada Lund are", " Cy Lund"), ("The mother of Ada Lund is", " Beatrix, who")];
    let mut questions = 0;
    let mut counting = |asked: &[Question<'_>]| {
        questions = asked.len();
        model(&known)(asked)
    };
    let edited = ProbeReplies::without_conditions(&mut counting, &facts[0], Setting::Plain).unwrap();
    // The capital is a condition only; the other conditions are questions, too.
    assert_eq!(questions, 6);
    let (edited, before) = (Probing::from_iter([edited]), ask(&facts, &known, Setting::Plain));
    assert_eq!(edited.summary(Setting::Plain, &before), before.summary(Setting::Plain, &before));
    assert_eq!(mean(&edited.summary(Setting::Plain, &Probing::default()), "Compositionality_I"), None);

    let mut silent = |_: &[Question<'_>]| -> Result<Vec<String>> { Ok(vec![]) };
    let error = ProbeReplies::new(&mut silent, &facts[0], Setting::Plain).unwrap_err().to_string();
    assert!(error.contains("0 answers to 7 questions"), "{error}");
    let without = parse(&json!([{"subject": "A", "prompt": "{} is", "target": "b"}]));
    assert!(probe(&mut silent, without.iter(), Setting::Plain).unwrap().cases().is_empty());
}

#[test]
fn recall_is_of_words_in_order() {
    for (answer, target, expected) in [
        ("Ada keeps bees, and sells honey", "ada sells honey.", 1.0),
        ("honey sells Ada", "Ada sells honey", 1.0 / 3.0),
        ("nothing", "Ada", 0.0),
        ("a", "", 0.0),
    ] {
        assert_eq!(rouge_l_recall(answer, target), expected, "{answer}, {target}");
    }
}
