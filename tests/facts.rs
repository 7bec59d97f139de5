//! Files of facts: every layout, every way a record can be wrong, and the facts that come with the crate.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use betaedit_core::error::{Error, FactsError, FileError};
use betaedit_core::facts::{Fact, Facts, Layout, shipped};
use serde_json::{Value, json};

/// A record of each layout, in the words of the published files.
fn published(layout: Layout) -> Value {
    match layout {
        Layout::CounterFact => json!({
            "case_id": 7, "pararel_idx": 11185,
            "requested_rewrite": {
                "prompt": "{} first sailed from", "relation_id": "P449",
                "target_new": {"str": "Lisbon", "id": "Q597"}, "target_true": {"str": "Genoa", "id": "Q1449"},
                "subject": "The Santa Clara"
            },
            "paraphrase_prompts": ["The crew rested. The Santa Clara set out from", "The home port of The Santa Clara is "],
            "neighborhood_prompts": ["The San Giorgio set out from", "The Lanterna lights the port of"],
            "attribute_prompts": ["The Caravela set out from"], "generation_prompts": ["The Santa Clara's home port is"]
        }),
        Layout::Zsre => json!({
            "subject": "Santa Clara", "src": "Which port did Santa Clara sail from?", "pred": "Genoa",
            "rephrase": "Where did Santa Clara set out?", "alt": "Porto", "answers": ["Lisbon", "Lisboa"],
            "loc": "nq question: who drew the first map of the coast", "loc_ans": "Juan de la Cosa",
            "cond": "Genoa >> Lisbon || Which port did Santa Clara sail from?"
        }),
        Layout::Flat => json!({
            "case_id": 7, "subject": "The Santa Clara", "prompt": "{} first sailed from",
            "target_new": "Lisbon", "target_true": "Genoa",
            "paraphrase_prompts": ["The home port of {} is"],
            "neighborhood_prompts": [{"prompt": "The Lanterna lights the port of", "target_true": "Genoa"}]
        }),
        _ => json!({"subject": "The Santa Clara", "prompt": "The Santa Clara first sailed from", "target": " Lisbon"}),
    }
}

const LAYOUTS: [Layout; 4] = [Layout::CounterFact, Layout::Zsre, Layout::Flat, Layout::Plain];

fn parse(contents: impl AsRef<[u8]>) -> Result<Facts, Error> {
    Facts::parse("facts.json", contents)
}

/// A flat record with some fields replaced.
fn flat(changes: Value) -> Value {
    let mut record = published(Layout::Flat);
    for (field, value) in changes.as_object().unwrap() {
        record[field] = value.clone();
    }
    record
}

fn without(mut record: Value, field: &str) -> Value {
    record.as_object_mut().unwrap().remove(field).unwrap();
    record
}

#[test]
fn every_published_layout_becomes_the_same_fact() {
    for layout in LAYOUTS {
        let facts = parse(json!([published(layout)]).to_string()).unwrap();
        assert_eq!(facts.layout(), layout);
        let [fact] = &facts[..] else { panic!("one record") };
        assert_eq!(fact.target_new(), "Lisbon");
        match layout {
            Layout::Zsre => {
                assert_eq!(fact.full_prompt(), "Which port did Santa Clara sail from?");
                assert_eq!(fact.prompt_to_subject(), "Which port did Santa Clara");
                assert_eq!(fact.target_true(), None);
                assert_eq!(fact.paraphrase_prompts(), ["Where did Santa Clara set out?"]);
                let [near] = fact.neighborhood_prompts() else { panic!("one question") };
                assert_eq!(near.prompt(), "nq question: who drew the first map of the coast?");
                assert_eq!(near.target_true(), "Juan de la Cosa");
            }
            _ => {
                assert_eq!(fact.prompt(), "{} first sailed from");
                assert_eq!(fact.full_prompt(), "The Santa Clara first sailed from");
                assert_eq!(fact.prompt_to_subject(), "The Santa Clara");
            }
        }
        let prompts = (fact.paraphrase_prompts().len(), fact.neighborhood_prompts().len());
        match layout {
            Layout::CounterFact => {
                assert_eq!((fact.case_id(), fact.target_true(), prompts), (7, Some("Genoa"), (2, 2)))
            }
            Layout::Flat => assert_eq!((fact.case_id(), fact.target_true(), prompts), (7, Some("Genoa"), (1, 1))),
            _ => assert_eq!(fact.case_id(), 0),
        }
        if prompts.0 > 0 && layout != Layout::Zsre {
            assert_eq!(fact.paraphrase_prompts().last().unwrap(), "The home port of The Santa Clara is");
            assert!(fact.neighborhood_prompts().iter().all(|near| near.target_true() == "Genoa"));
        }
    }
}

#[test]
fn a_list_a_wrapped_list_one_record_and_lines_hold_the_same() {
    for layout in LAYOUTS {
        let (one, mut two) = (published(layout), published(layout));
        two["case_id"] = json!(8);
        let list = json!([one, two]).to_string();
        let expected = parse(&list).unwrap();
        let indented = serde_json::to_string_pretty(&json!([one, two])).unwrap();
        for contents in [
            indented,
            json!({"dataset": "ships", "records": [one, two]}).to_string(),
            format!("{one}\n{two}\n"),
            format!("{one}\r\n{two}\r\n"),
            format!("\u{feff}{list}\n"),
        ] {
            assert_eq!(parse(&contents).unwrap(), expected, "{contents}");
        }
        // A blank line keeps its number, and so shifts the numbers of the facts that have none of their own.
        assert_eq!(parse(format!("{one}\n\n{two}")).unwrap().len(), 2);
        assert_eq!(parse(one.to_string()).unwrap()[..], expected[..1]);
        assert_eq!(parse(serde_json::to_string_pretty(&one).unwrap()).unwrap()[..], expected[..1]);
    }
}

#[test]
fn neighborhood_answers_may_stand_beside_the_prompts() {
    let record = flat(json!({
        "neighborhood_prompts": ["Who drew the map?", "Where is the Lanterna?"],
        "neighborhood_prompts_answers": ["Juan de la Cosa", "Genoa"], "target_true": null
    }));
    let facts = parse(record.to_string()).unwrap();
    let answers: Vec<_> = facts[0].neighborhood_prompts().iter().map(|near| near.target_true()).collect();
    assert_eq!(answers, ["Juan de la Cosa", "Genoa"]);
    assert_eq!(facts[0].target_true(), None);
    // MEMIT's in-memory form says `target`.
    let record = flat(json!({"neighborhood_prompts": [{"prompt": "Who drew the map?", "target": "Juan de la Cosa"}]}));
    assert_eq!(parse(record.to_string()).unwrap()[0].neighborhood_prompts()[0].target_true(), "Juan de la Cosa");
}

#[test]
fn facts_survive_being_written() {
    for layout in LAYOUTS {
        let facts = parse(json!([published(layout)]).to_string()).unwrap();
        let written = serde_json::to_string(&facts[..]).unwrap();
        let read = parse(&written).unwrap();
        assert_eq!((&read[..], read.layout()), (&facts[..], Layout::Flat));
        assert_eq!(serde_json::from_str::<Vec<Fact>>(&written).unwrap(), facts[..]);
    }
    let error = serde_json::from_value::<Fact>(flat(json!({"target_new": ""}))).unwrap_err();
    assert!(error.to_string().contains("field `target_new`: is empty"), "{error}");
}

#[test]
fn a_bad_record_is_named_with_its_field_and_a_remedy() {
    let rewrite = |changes: Value| {
        let mut record = published(Layout::CounterFact);
        for (field, value) in changes.as_object().unwrap() {
            record["requested_rewrite"][field] = value.clone();
        }
        record
    };
    let zsre = |field: &str, value: Value| {
        let mut record = published(Layout::Zsre);
        record[field] = value;
        record
    };
    let plain = |field: &str, value: Value| {
        let mut record = published(Layout::Plain);
        record[field] = value;
        record
    };
    let table: Vec<(Value, Option<&str>, &str)> = vec![
        // empty
        (flat(json!({"target_new": "  "})), Some("target_new"), "is empty; give the text after the prompt"),
        (flat(json!({"target_true": ""})), Some("target_true"), "is empty"),
        (flat(json!({"subject": ""})), Some("subject"), "is empty; give the person or thing"),
        (flat(json!({"prompt": ""})), Some("prompt"), "is empty"),
        (flat(json!({"paraphrase_prompts": ["a", ""]})), Some("paraphrase_prompts[1]"), "is empty"),
        (
            flat(json!({"neighborhood_prompts": [{"prompt": "a", "target_true": ""}]})),
            Some("neighborhood_prompts[0].target_true"),
            "is empty",
        ),
        (rewrite(json!({"target_new": {"str": ""}})), Some("requested_rewrite.target_new.str"), "is empty"),
        (plain("target", json!("")), Some("target"), "is empty"),
        (zsre("answers", json!([])), Some("answers"), "is empty"),
        (zsre("loc_ans", json!("")), Some("loc_ans"), "is empty"),
        // missing
        (without(flat(json!({})), "subject"), Some("subject"), "is missing; give the person or thing"),
        (without(flat(json!({})), "prompt"), Some("prompt"), "is missing"),
        (without(published(Layout::Zsre), "answers"), Some("answers"), "is missing"),
        (without(published(Layout::Zsre), "loc_ans"), Some("loc_ans"), "is missing"),
        (rewrite(json!({"target_new": {"id": "Q597"}})), Some("requested_rewrite.target_new.str"), "is missing"),
        (
            flat(json!({"neighborhood_prompts": [{"prompt": "a"}]})),
            Some("neighborhood_prompts[0].target_true"),
            "is missing",
        ),
        (
            without(flat(json!({"neighborhood_prompts": ["a"]})), "target_true"),
            Some("neighborhood_prompts[0]"),
            "has no answer",
        ),
        (json!({"subject": "a", "text": "b"}), None, "is of no known layout"),
        (json!({}), None, "its fields are: none"),
        // the subject's place
        (
            flat(json!({"prompt": "It sailed from"})),
            Some("prompt"),
            "has neither `{}` nor the subject \"The Santa Clara\"",
        ),
        (flat(json!({"prompt": "{} sailed with {} from"})), Some("prompt"), "has 2 `{}`; keep one"),
        (
            flat(json!({"subject": "Clara", "prompt": "Clara met Clara in"})),
            Some("prompt"),
            "has the subject \"Clara\" more than once; write `{}` for the one",
        ),
        (
            flat(json!({"subject": "Clar", "prompt": "Clara sailed from"})),
            Some("prompt"),
            "only as a part of a longer word",
        ),
        (rewrite(json!({"prompt": "It sailed from"})), Some("requested_rewrite.prompt"), "nor the subject"),
        (zsre("subject", json!("Santa Maria")), Some("src"), "nor the subject \"Santa Maria\""),
        // nothing to edit
        (flat(json!({"target_new": "Genoa"})), Some("target_new"), "which is the true target as well"),
        // wrong kinds
        (flat(json!({"target_new": 42})), Some("target_new"), "is the number 42, expected a string"),
        (flat(json!({"subject": null})), Some("subject"), "is null, expected a string"),
        (flat(json!({"paraphrase_prompts": {"a": 1}})), Some("paraphrase_prompts"), "expected a list of strings"),
        (flat(json!({"paraphrase_prompts": [true]})), Some("paraphrase_prompts[0]"), "is the truth value true"),
        (flat(json!({"neighborhood_prompts": "a"})), Some("neighborhood_prompts"), "is a string, expected a list"),
        (flat(json!({"neighborhood_prompts": [3]})), Some("neighborhood_prompts[0]"), "expected a string or an object"),
        (flat(json!({"case_id": -1})), Some("case_id"), "is the number -1, expected a whole number"),
        (flat(json!({"case_id": "7"})), Some("case_id"), "is a string, expected a whole number"),
        (json!({"requested_rewrite": 7}), Some("requested_rewrite"), "is the number 7, expected an object"),
        (json!({"requested_rewrite": ["a"]}), Some("requested_rewrite[0]"), "is a string, expected an object"),
        (
            flat(json!({"neighborhood_prompts": ["a", "b"], "neighborhood_prompts_answers": ["c"]})),
            Some("neighborhood_prompts_answers"),
            "has 1 entries for 2 prompts",
        ),
        (json!("a fact"), None, "is a string, expected an object with the fields of a fact"),
        (json!([published(Layout::Flat)]), None, "is a list, expected an object"),
    ];
    for (bad, field, problem) in table {
        // After a good record of the same layout, so that its number is 2.
        let keys = ["requested_rewrite", "src", "target_new", "target"];
        let layout = keys.iter().zip(LAYOUTS).find(|(key, _)| bad.get(*key).is_some()).map(|(_, layout)| layout);
        let mut good = published(layout.unwrap_or(Layout::Flat));
        good["case_id"] = json!(1000);
        let contents = json!([good, bad]).to_string();
        match parse(&contents).unwrap_err() {
            Error::Facts(FactsError::Record { path, record, field: found, problem: said }) => {
                assert_eq!(
                    (path.as_path(), record, found.as_deref()),
                    (Path::new("facts.json"), 2, field),
                    "{bad}: {said}"
                );
                assert!(said.contains(problem), "{bad}: {said:?} does not say {problem:?}");
            }
            other => panic!("{bad}: {other}"),
        }
        let (facts, errors) = Facts::parse_lenient("facts.json", &contents).unwrap();
        assert_eq!((facts.len(), errors.len()), (1, 1), "{bad}");
    }
}

#[test]
fn mixed_layouts_and_repeated_numbers_name_both_records() {
    let mixed = json!([published(Layout::Flat), published(Layout::Plain)]).to_string();
    assert_eq!(
        parse(&mixed).unwrap_err().to_string(),
        "facts.json: record 2: is of the layout plain (`target`), but record 1 of flat (`target_new`); \
         put each layout in a file of its own"
    );
    let repeated = json!([flat(json!({})), flat(json!({"case_id": 8})), flat(json!({}))]).to_string();
    assert_eq!(
        parse(&repeated).unwrap_err().to_string(),
        "facts.json: record 3, field `case_id`: is 7, as in record 1; give every record a number of its own"
    );
    let (facts, errors) = Facts::parse_lenient("facts.json", &repeated).unwrap();
    assert_eq!((facts.len(), errors.len()), (2, 1));
}

#[test]
fn a_file_that_is_no_file_of_facts_says_why() {
    let table: [(&[u8], &str); 9] = [
        (b"", "is not JSON"),
        (b"[]", "holds no record"),
        (b"{\"records\": []}", "holds no record"),
        (b"42", "holds no list of records"),
        (b"{\"records\": {}}", "holds no list of records"),
        (b"subject,prompt\nFrance,x", "is not JSON"),
        (b"[{\"subject\": \"a\",]", "is not JSON"),
        (b"{\"subject\": \"a\"", "is not JSON"),
        (b"[\n{\"subject\": \"Caf\xe9\"}]", "is not UTF-8: byte 18 (line 2)"),
    ];
    for (contents, problem) in table {
        for error in [parse(contents).unwrap_err(), Facts::parse_lenient("facts.json", contents).unwrap_err()] {
            assert!(matches!(error, Error::File(FileError::Format { .. })), "{error:?}");
            assert!(error.to_string().contains(problem), "{error} does not say {problem:?}");
        }
    }
    let missing = Facts::read("no such file.json").unwrap_err();
    assert!(
        matches!(missing, Error::File(FileError::Io { .. })) && missing.to_string().starts_with("no such file.json: "),
        "{missing}"
    );
}

#[test]
fn a_damaged_line_is_one_bad_record() {
    let (one, two) = (published(Layout::Plain), published(Layout::Plain));
    let lines = format!("{one}\n\n{{\"subject\": \n{two}\n");
    let error = parse(&lines).unwrap_err().to_string();
    assert!(error.starts_with("facts.json: record 3: is not JSON: EOF"), "{error}");
    let (facts, errors) = Facts::parse_lenient("facts.json", &lines).unwrap();
    assert_eq!((facts.len(), errors.len()), (2, 1));
    // If nothing is left, the first error is the answer.
    let error = Facts::parse_lenient("facts.json", "{}\n{}").unwrap_err();
    assert!(matches!(error, Error::Facts(FactsError::Record { record: 1, .. })), "{error}");
}

#[test]
fn the_shipped_facts_are_sound() {
    let facts = shipped::facts().unwrap();
    assert!(facts.unread().is_empty(), "{:?}", facts.unread());
    assert!(facts.len() >= 137, "{}", facts.len());
    let records: Vec<Value> = serde_json::from_str(shipped::FACTS).unwrap();

    let edited: HashSet<&str> = facts.iter().map(Fact::subject).collect();
    let mut prompts = HashSet::new();
    let (mut relations, mut new_targets, mut true_targets) = (HashMap::new(), HashMap::new(), HashMap::new());
    for (fact, record) in facts.iter().zip(&records) {
        let (subject, truth) = (fact.subject(), fact.target_true().unwrap());
        assert!(prompts.insert(fact.full_prompt()), "asked twice: {}", fact.full_prompt());
        // The subject is at one place, not the end, and does not give the answer away.
        assert_eq!(fact.full_prompt().matches(subject).count(), 1, "{subject}");
        assert!(!fact.prompt().ends_with("{}"), "{subject}");
        assert!(fact.paraphrase_prompts().len() >= 2, "{subject}");
        for paraphrase in fact.paraphrase_prompts() {
            assert!(paraphrase.to_lowercase().contains(&subject.to_lowercase()), "{paraphrase}");
            assert_ne!(*paraphrase, fact.full_prompt());
        }
        // Neighbors share the true target and are never edited themselves.
        assert!(fact.neighborhood_prompts().len() >= 5, "{subject}");
        let mut seen = HashSet::new();
        for near in fact.neighborhood_prompts() {
            assert_eq!(near.target_true(), truth, "{subject}");
            assert!(seen.insert(near.prompt()), "{}", near.prompt());
            assert!(!near.prompt().contains(truth), "gives its answer away: {}", near.prompt());
            for other in &edited {
                let words = format!(" {} ", near.prompt());
                assert!(!words.contains(&format!(" {other} ")), "{other} is edited: {}", near.prompt());
            }
        }
        assert!(!fact.full_prompt().contains(truth), "gives its answer away: {}", fact.full_prompt());
        let relation = record["relation"].as_str().unwrap();
        *relations.entry(relation).or_insert(0) += 1;
        *new_targets.entry((relation, fact.target_new())).or_insert(0) += 1;
        *true_targets.entry((relation, truth)).or_insert(0) += 1;
    }
    assert!(relations.len() >= 12, "{relations:?}");
    // No relation and no target dominates, and new targets are answers that the relation has.
    assert!(relations.values().all(|&count: &i32| count <= facts.len() as i32 / 8), "{relations:?}");
    assert!(new_targets.values().all(|&count: &i32| count <= 4), "{new_targets:?}");
    assert!(new_targets.keys().all(|key| true_targets.contains_key(key)), "{new_targets:?}");
}

#[test]
fn the_shipped_texts_are_long_enough_and_apart() {
    let words = |text: &str| text.split_whitespace().count();
    assert!(words(shipped::STATISTICS_TEXT) > 40_000, "{}", words(shipped::STATISTICS_TEXT));
    assert!(words(shipped::HELD_OUT_TEXT) > 5_000, "{}", words(shipped::HELD_OUT_TEXT));
    let passages: HashSet<&str> = shipped::STATISTICS_TEXT.split("\n\n").map(str::trim).collect();
    assert!(shipped::HELD_OUT_TEXT.split("\n\n").all(|passage| !passages.contains(passage.trim())));
}
