//! Facts that a model is expected to know: the shipped ones, and what counts as an answer.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Command;

use betaedit_core::error::ModelError;
use betaedit_core::facts::metrics::{Generator, KnownAnswers, Question, Setting};
use betaedit_core::facts::{Fact, Known, NeighborhoodPrompt, mentions, shipped};
use betaedit_core::{Error, Result};
use serde_json::Value;

/// A model that is a table of prompts and answers.
struct Table(Vec<(&'static str, &'static str)>);

impl Generator for Table {
    fn generate(&mut self, questions: &[Question<'_>]) -> Result<Vec<String>> {
        let answer = |question: &Question<'_>| {
            let row = self.0.iter().find(|(prompt, _)| *prompt == question.prompt);
            row.map(|(_, answer)| (*answer).to_owned()).unwrap_or_default()
        };
        Ok(questions.iter().map(answer).collect())
    }
}

/// A setting, an answer, the one that is wanted, and whether it is right.
const JUDGED: [(Setting, &str, &str, bool); 11] = [
    (Setting::Plain, " the town of Bern", "Bern", false),
    (Setting::Plain, "\n**Bern**", "bern", true),
    (Setting::Plain, " New  York City", "New York", true),
    (Setting::Plain, " Bernadette", "Bern", false),
    (Setting::Qa, " It is Bern.\nQ: What", "Bern", true),
    (Setting::Qa, " It is.\nQ: What of Bern", "Bern", false),
    (Setting::Chat, "The capital is\nBern.", "Bern", true),
    (Setting::Chat, "The symbol of oxygen: unknown", "O", false),
    (Setting::Chat, "2 and 2 is 4.", "4", true),
    (Setting::Plain, " Bern", "", false),
    (Setting::Plain, "首都は東京です", "首都", true),
];

fn known() -> [Known; 4] {
    [
        Known::new("The capital of Iceland is", ["Reykjavik", "Reykjavík"]),
        Known::new("The chemical symbol for oxygen is", ["O"]),
        Known::new("The sum of 2 and 2 is", ["4", "four"]),
        Known::new("Cheese is made from", ["milk"]),
    ]
}

fn model() -> Table {
    Table(vec![
        ("The capital of Iceland is", " Reykjavík, which"),
        ("The chemical symbol for oxygen is", " \"O\" and"),
        ("The sum of 2 and 2 is", " 40"),
        ("Cheese is made from", " MILK."),
    ])
}

#[test]
fn shares_by_hand() {
    let before = KnownAnswers::ask(&mut model(), &known(), Setting::Plain).unwrap();
    let right = |answers: &KnownAnswers| answers.answers().iter().map(|answer| answer.right).collect::<Vec<_>>();
    assert_eq!(right(&before), [true, true, false, true]);
    assert_eq!(before.share().map(|rate| (rate.mean, rate.cases)), Some((0.75, 4)));
    assert_eq!(before.kept(&before).map(|rate| (rate.mean, rate.cases)), Some((1.0, 3)));

    // One is forgotten, one learnt: the share stays, and what is kept does not count the new one.
    let mut edited = model();
    edited.0[1].1 = " Oxygen";
    edited.0[2].1 = " Four.";
    let after = KnownAnswers::ask(&mut edited, &known(), Setting::Plain).unwrap();
    assert_eq!(right(&after), [true, false, true, true]);
    assert_eq!(after.share(), before.share());
    assert_eq!(after.kept(&before).map(|rate| (rate.mean, rate.cases)), Some((2.0 / 3.0, 3)));
    let forgotten: Vec<&str> = after.forgotten(&before).map(|fact| &*fact.answer).collect();
    assert_eq!(forgotten, [" Oxygen"]);

    // Only facts that were asked before count, and only in the same setting.
    let half = KnownAnswers::ask(&mut model(), &known()[1..], Setting::Plain).unwrap();
    assert_eq!(after.kept(&half).map(|rate| (rate.mean, rate.cases)), Some((0.5, 2)));
    let chat = KnownAnswers::ask(&mut model(), &known(), Setting::Chat).unwrap();
    assert_eq!((chat.kept(&before), chat.forgotten(&before).count()), (None, 0));
    let none = KnownAnswers::ask(&mut model(), &[], Setting::Plain).unwrap();
    assert_eq!((none.share(), none.kept(&before)), (None, None));
}

#[test]
fn an_answer_is_right_where_the_setting_looks_for_it() {
    for (setting, answer, wanted, right) in JUDGED {
        let mut says = |_: &[Question<'_>]| Ok(vec![answer.to_owned()]);
        let answers = KnownAnswers::ask(&mut says, &[Known::new("Asked", [wanted])], setting).unwrap();
        assert_eq!(answers.answers()[0].right, right, "{setting}: {answer:?} says {wanted:?}");
    }
}

#[test]
fn answers_can_be_stored_and_must_be_complete() {
    let answers = KnownAnswers::ask(&mut model(), &known(), Setting::Qa).unwrap();
    let stored = serde_json::to_value(&answers).unwrap();
    assert_eq!(stored["setting"], "qa");
    assert_eq!(stored["answers"][0]["answers"][0], "Reykjavik");
    assert_eq!(serde_json::from_value::<KnownAnswers>(stored).unwrap(), answers);

    let mut short = |_: &[Question<'_>]| Ok(vec![String::new()]);
    let error = KnownAnswers::ask(&mut short, &known(), Setting::Plain).unwrap_err();
    assert!(matches!(error, Error::Model(ModelError::Adapter(_))), "{error}");
    assert!(error.to_string().contains("the generator gave 1 answers to 4 questions"), "{error}");
}

/// The task for lm-evaluation-harness asks for the shipped file, and judges as the library does.
#[test]
#[ignore = "needs a Python, named by BETAEDIT_PYTHON"]
fn the_task_in_python_judges_alike() {
    const PROGRAM: &str = "import json, sys, known\n\
        for answer, wanted in json.loads(sys.argv[1]):\n\
        \x20   print(int(known.process_results({'answers': [wanted]}, [answer])['right']))";
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let task = std::fs::read_to_string(root.join("docs/lm-eval/known.yaml")).unwrap();
    let file = task.lines().find_map(|line| line.trim().strip_prefix("test: ")).unwrap();
    assert_eq!(std::fs::read_to_string(root.join(file)).unwrap(), shipped::KNOWN);

    let plain = JUDGED.iter().filter(|row| row.0 == Setting::Plain && !row.2.is_empty() && row.2.is_ascii());
    let (cases, right): (Vec<_>, Vec<_>) = plain.map(|&(_, answer, wanted, right)| ((answer, wanted), right)).unzip();
    let interpreter = std::env::var("BETAEDIT_PYTHON").expect("BETAEDIT_PYTHON names a Python");
    let mut python = Command::new(interpreter);
    python.args(["-B", "-c", PROGRAM, &serde_json::to_string(&cases).unwrap()]);
    let output = python.env("PYTHONPATH", root.join("docs/lm-eval")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let judged: Vec<bool> = String::from_utf8(output.stdout).unwrap().lines().map(|line| line == "1").collect();
    assert_eq!(judged, right);
}

/// The names in a prompt: words in capitals that stand together, but for its first word and nationalities.
fn names(prompt: &str) -> Vec<String> {
    let capital = |word: &&str| word.starts_with(char::is_uppercase);
    let words: Vec<&str> = prompt.split(' ').collect();
    let runs = words.split(|word| !capital(word) || ["American", "English", "The"].contains(word));
    runs.filter(|run| !run.is_empty()).map(|run| run.join(" ")).collect()
}

#[test]
fn the_shipped_known_facts_are_sound() {
    /// The topics that edits usually touch.
    const EDITED: [&str; 5] = ["capital", "place", "language", "birth", "person"];
    let known = shipped::known();
    assert!(known.len() >= 140, "{}", known.len());
    let records: Vec<Value> = serde_json::from_str(shipped::KNOWN).unwrap();
    let facts = shipped::facts().unwrap();
    let near: Vec<&str> = facts.iter().flat_map(Fact::neighborhood_prompts).map(NeighborhoodPrompt::prompt).collect();

    let (mut prompts, mut topics) = (HashSet::new(), HashMap::new());
    for (Known { prompt, answers, .. }, record) in known.iter().zip(&records) {
        assert!(prompts.insert(prompt.to_lowercase()), "asked twice: {prompt}");
        assert_eq!(
            (prompt.trim(), prompt.split_whitespace().collect::<Vec<_>>().join(" ")),
            (&**prompt, prompt.clone())
        );
        assert!(!answers.is_empty(), "{prompt}");
        let distinct: HashSet<String> = answers.iter().map(|answer| answer.to_lowercase()).collect();
        assert_eq!(distinct.len(), answers.len(), "{prompt}");
        for answer in answers {
            assert!(!answer.is_empty() && answer.trim() == answer, "{prompt}");
            assert!(!mentions(&prompt.to_lowercase(), &answer.to_lowercase()), "gives its answer away: {prompt}");
        }
        for fact in facts.iter() {
            let subject = fact.subject().trim_start_matches("The ").trim_start_matches("the ");
            assert!(!mentions(&prompt.to_lowercase(), &subject.to_lowercase()), "{subject} is edited: {prompt}");
        }
        let topic = record["topic"].as_str().unwrap();
        if EDITED.contains(&topic) {
            for name in names(prompt) {
                assert!(!near.iter().any(|near| mentions(near, &name)), "{name} is a neighbor: {prompt}");
            }
        }
        *topics.entry(topic).or_insert(0) += 1;
    }
    assert!(topics.len() >= 15 && topics.values().all(|&count| (5..=15).contains(&count)), "{topics:?}");
    assert!(EDITED.iter().map(|topic| topics[topic]).sum::<usize>() >= 40, "{topics:?}");
}
