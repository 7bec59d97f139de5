//! Data sets whose records have more than a fact: probes, several rewrites, no subject.

use betaedit_core::facts::{
    Fact, FactProbe, Facts, Layout, Needed, ProbeCategory, ProbeQuestion, ReadOptions, ZsreTarget,
};
use serde_json::{Value, json};

fn parse(records: &Value) -> Facts {
    Facts::parse("facts.json", records.to_string()).unwrap()
}

fn refusal(record: &Value) -> String {
    Facts::parse("facts.json", json!([record]).to_string()).unwrap_err().to_string()
}

/// A probe in short: its category, criterion, number needed, and questions with their answers.
type Short<'a> = (ProbeCategory, &'a str, Needed, Vec<(&'a str, Vec<Vec<&'a str>>)>);

fn questions(questions: &[ProbeQuestion]) -> Vec<(&str, Vec<Vec<&str>>)> {
    questions
        .iter()
        .map(|question| {
            let answers = question.answers().iter();
            (question.prompt(), answers.map(|forms| forms.iter().map(String::as_str).collect()).collect())
        })
        .collect()
}

fn short(probe: &FactProbe) -> Short<'_> {
    (probe.category(), probe.criterion(), probe.needed(), questions(probe.questions()))
}

fn one(
    category: ProbeCategory,
    criterion: &'static str,
    prompt: &'static str,
    forms: &[&'static str],
) -> Short<'static> {
    (category, criterion, Needed::All, vec![(prompt, vec![forms.to_vec()])])
}

use ProbeCategory::{Locality, Portability};

/// What is written is read again, as one record of the flat layout for each fact.
fn round_trip(facts: &Facts) {
    let written = serde_json::to_string(&facts[..]).unwrap();
    let read = Facts::parse("written.json", &written).unwrap();
    assert_eq!((&read[..], read.layout(), read.unread().len()), (&facts[..], Layout::Flat, 0));
    assert_eq!(serde_json::from_str::<Vec<Fact>>(&written).unwrap(), facts[..]);
}

#[test]
fn knowedit_and_wikibigedit_have_probes_by_criterion() {
    let facts = parse(&json!([{
        "subject": "Tomas Ferro", "prompt": "The place of birth of Tomas Ferro is", "target_new": "Porto", "ground_truth": "Lisbon",
        "portability": {
            "Reasoning": [{"prompt": "The river of the place of birth of Tomas Ferro is", "ground_truth": [["Douro", "Duero"]]}],
            "Logical_Generalization": [
                {"prompt": "Was Tomas Ferro born in Porto?", "ground_truth": [["yes"], ["true"]]},
                {"prompt": "Was he?", "ground_truth": [[]]}
            ],
            "Subject_Aliasing": []
        },
        "locality": {
            "Relation_Specificity": [{"prompt": "The gender of Tomas Ferro is", "ground_truth": "male"}],
            "Forgetfulness": [{"prompt": ["Before, Tomas Ferro was born in"], "ground_truth": ["Lisbon"]}]
        }
    }]));
    assert_eq!(facts.layout(), Layout::Flat);
    let unread: Vec<_> = facts.unread().keys().map(String::as_str).collect();
    assert_eq!(unread, ["portability.Logical_Generalization (without an answer)"]);
    let found: Vec<_> = facts[0].probes().iter().map(short).collect();
    let expected = [
        one(Portability, "Logical_Generalization", "Was Tomas Ferro born in Porto?", &["yes", "true"]),
        one(Portability, "Reasoning", "The river of the place of birth of Tomas Ferro is", &["Douro", "Duero"]),
        one(Locality, "Forgetfulness", "Before, Tomas Ferro was born in", &["Lisbon"]),
        one(Locality, "Relation_Specificity", "The gender of Tomas Ferro is", &["male"]),
    ];
    assert_eq!(found.len(), 4);
    assert!(expected.iter().all(|probe| found.contains(probe)), "{found:?}");
    assert_eq!(facts[0].neighborhood_prompts().len(), 2);
    round_trip(&facts);

    let facts = parse(&json!([{
        "tag": "new", "subject": "Ferro Bridge", "update": "Which river does Ferro Bridge cross?", "ans": "Douro",
        "rephrase": "What flows under Ferro Bridge?", "personas": "Tell me, what runs below Ferro Bridge?",
        "mhop": "In which sea does the river below Ferro Bridge end?", "mhop_ans": "Atlantic",
        "loc": "Which river does Old Bridge cross?", "loc_ans": "Tagus"
    }, {
        "subject": "Ferro Tower", "update": "Where is Ferro Tower?", "ans": "Porto", "personas": null, "mhop": null, "mhop_ans": null
    }]));
    assert_eq!((facts.unread().len(), facts[1].probes().len()), (0, 0));
    let found: Vec<_> = facts[0].probes().iter().map(short).collect();
    let personas = one(Portability, "personas", "Tell me, what runs below Ferro Bridge?", &["Douro"]);
    let hops = one(Portability, "multi-hop", "In which sea does the river below Ferro Bridge end?", &["Atlantic"]);
    assert_eq!(found, [personas, hops]);
    round_trip(&facts);
    let bad =
        json!({"subject": "A", "prompt": "{} is", "target_new": "b", "portability": {"Reasoning": [{"prompt": "c"}]}});
    assert!(refusal(&bad).contains("field `portability.Reasoning[0].ground_truth`: is missing"), "{}", refusal(&bad));
}

fn mquake() -> Value {
    let rewrite = |subject: &str, prompt: &str, new: &str, old: &str, question: &str| {
        json!({"prompt": prompt, "relation_id": "P1", "subject": subject, "question": question,
            "target_new": {"str": new, "id": "Q1"}, "target_true": {"str": old, "id": "Q2"}})
    };
    let hop = |question: &str, answer: &str| -> Value {
        json!({"question": question, "cloze": "It is", "answer": answer, "answer_alias": [answer.to_uppercase()]})
    };
    json!({
        "case_id": 12,
        "requested_rewrite": [
            rewrite("Ada Lund", "{} plays", "chess", "go", "What does Ada Lund play?"),
            rewrite("chess", "{} was invented in", "Chile", "India", "Where was chess invented?")
        ],
        "questions": ["Where was Ada Lund's game invented?", "Whence is the game of Ada Lund?", "Ada Lund's game is from where?"],
        "answer": "China", "answer_alias": ["PRC"], "new_answer": "Chile", "new_answer_alias": ["Republic of Chile", "Chile"],
        "single_hops": [hop("What does Ada Lund play?", "go")],
        "new_single_hops": [hop("What does Ada Lund play?", "chess"), hop("Where was chess invented?", "Chile")],
        "orig": {"triples": [["Q1", "P1", "Q2"]]}
    })
}

#[test]
fn mquake_asks_when_all_rewrites_are_written() {
    let facts = parse(&json!([mquake()]));
    assert_eq!((facts.layout(), facts.len(), facts.unread().len()), (Layout::Mquake, 2, 0), "{:?}", facts.unread());
    let numbers: Vec<_> = facts.iter().map(|fact| (fact.case_id(), fact.full_prompt(), fact.target_new())).collect();
    assert_eq!(numbers, [(1201, "Ada Lund plays".into(), "chess"), (1202, "chess was invented in".into(), "Chile")]);
    assert_eq!(facts[0].paraphrase_prompts(), ["What does Ada Lund play?"]);
    assert_eq!((facts[0].target_true(), facts[0].probes().len()), (Some("go"), 0));
    let [hops, questions] = facts[1].probes() else { panic!("{:?}", facts[1].probes()) };
    let all = vec![
        ("What does Ada Lund play?", vec![vec!["chess", "CHESS"]]),
        ("Where was chess invented?", vec![vec!["Chile", "CHILE"]]),
    ];
    assert_eq!(short(hops), (Portability, "single-hop", Needed::All, all));
    assert_eq!((questions.criterion(), questions.needed(), questions.questions().len()), ("multi-hop", Needed::Any, 3));
    assert_eq!(questions.questions()[2].answers(), [["Chile", "Republic of Chile"]]);
    round_trip(&facts);

    let mut bad = mquake();
    bad["requested_rewrite"] = json!([]);
    assert!(refusal(&bad).contains("field `requested_rewrite`: is empty"), "{}", refusal(&bad));
    bad["requested_rewrite"] = json!([{"prompt": "{} plays", "subject": "Ada"}]);
    assert!(refusal(&bad).contains("field `requested_rewrite[0].target_new`: is missing"), "{}", refusal(&bad));
    let mut great = mquake();
    great["case_id"] = json!(u64::MAX / 50);
    assert!(refusal(&great).contains("too great a number"), "{}", refusal(&great));
    let error = serde_json::from_value::<Fact>(mquake()).unwrap_err().to_string();
    assert!(error.contains("holds 2 facts"), "{error}");
    let twice = json!([mquake(), mquake()]).to_string();
    assert!(Facts::parse("facts.json", twice).unwrap_err().to_string().contains("as in record 1"));
}

fn query(prompt: &str, relation: &str, answers: Value) -> Value {
    json!({"prompt": prompt, "answers": answers, "query_type": "regular", "subject_id": "Q7", "relation": relation, "target_ids": ["Q8"],
        "phrase": null})
}

fn ripple(sentence: &str, original: Option<&str>) -> Value {
    let mother = query(
        "The name of the mother of Ada of the Hills is",
        "MOTHER",
        json!([{"value": "Bea", "aliases": ["Beatrix", "B"]}]),
    );
    let children = query(
        "The names of the siblings of Ada of the Hills are",
        "SIBLING",
        json!([{"value": "Cy", "aliases": []}, {"value": "", "aliases": [""]}, {"value": "Di", "aliases": ["Diana"]}]),
    );
    let unanswered = query("The name of the uncle of Ada of the Hills is", "UNCLE", json!([]));
    let mut record = json!({
        "example_type": "popular",
        "edit": {"prompt": sentence, "subject_id": "Q7", "relation": "COUNTRY_OF_CITIZENSHIP", "target_id": "Q1"},
        "Relation_Specifity": [
            {"test_queries": [mother], "test_condition": "OR", "condition_queries": [mother]},
            {"test_queries": [children], "test_condition": "AND", "condition_queries": []},
            {"test_queries": [unanswered], "test_condition": "OR", "condition_queries": [mother]}
        ],
        "Compositionality_I": [], "Forgetfulness": []
    });
    if let Some(original) = original {
        record["edit"]["original_fact"] =
            json!({"prompt": original, "subject_id": "Q7", "relation": "COUNTRY_OF_CITIZENSHIP"});
    }
    record
}

#[test]
fn rippleedits_have_conditions_and_no_subject() {
    let sentence = "The name of the country of citizenship of Ada of the Hills is New Spain.";
    let original = "The name of the country of citizenship of Ada of the Hills is New Zealand.";
    for (original, truth) in [(Some(original), Some("New Zealand")), (None, None)] {
        let facts = parse(&json!([ripple(sentence, original)]));
        assert_eq!((facts.layout(), facts.inferred_subjects()), (Layout::RippleEdits, 1));
        let unread: Vec<_> = facts.unread().keys().map(String::as_str).collect();
        assert_eq!(unread, ["Relation_Specifity.test_queries (without an answer)"]);
        let fact = &facts[0];
        assert_eq!((fact.subject(), fact.target_new(), fact.target_true()), ("Ada of the Hills", "New Spain", truth));
        assert_eq!(fact.prompt(), "The name of the country of citizenship of {} is");
        let [mother, siblings] = fact.probes() else { panic!("{:?}", fact.probes()) };
        let asked = vec![("The name of the mother of Ada of the Hills is", vec![vec!["Bea", "Beatrix"]])];
        assert_eq!(short(mother), (Locality, "Relation_Specificity", Needed::Any, asked.clone()));
        assert_eq!(questions(mother.conditions()), asked);
        assert_eq!((siblings.needed(), siblings.conditions().len()), (Needed::All, 0));
        assert_eq!(siblings.questions()[0].answers(), [vec!["Cy"], vec!["Di", "Diana"]]);
        round_trip(&facts);
    }
    for (sentence, subject, prompt, target) in [
        ("Ada's Third Song follows Ada's Second Song.", "Ada's Third Song", "{} follows", "Ada's Second Song"),
        ("Old Song is followed by New Song.", "Old Song", "{} is followed by", "New Song"),
        ("The gender of Ada of the Hills is female.", "Ada of the Hills", "The gender of {} is", "female"),
    ] {
        let facts = parse(&json!([ripple(sentence, None)]));
        assert_eq!((facts[0].subject(), facts[0].prompt(), facts[0].target_new()), (subject, prompt, target));
    }
    let known = "The gender of Ada of the Hills is male.";
    for (sentence, original, message) in [
        ("The gender of it is male.", None, "field `edit.subject`: is missing"),
        (known, Some(known), "which is the true target as well"),
        ("Ada sings.", None, "field `edit.prompt`: has no `is`"),
    ] {
        let mut record = ripple(sentence, original);
        if message.contains("missing") {
            record["Relation_Specifity"] = json!([]);
        }
        assert!(refusal(&record).contains(message), "{}", refusal(&record));
    }
    let mut record = ripple(known, None);
    record["Relation_Specifity"][0]["test_condition"] = json!("XOR");
    assert!(refusal(&record).contains("is `XOR`, expected `OR` or `AND`"), "{}", refusal(&record));
}

#[test]
fn unkebench_has_passages_and_questions_about_them() {
    let record = json!({
        "id": 3, "question": "What is Ada Lund's occupation?", "para_question": "What does Ada Lund do for a living?",
        "answer": "Ada Lund has kept bees for ten years. She sells honey.",
        "sub_question": ["How long has Ada Lund kept bees?", "What does she sell?"], "sub_answer": ["Ten years.", "Honey."]
    });
    let facts = parse(&json!([record]));
    assert_eq!((facts.layout(), facts.unread().len(), facts.inferred_subjects()), (Layout::UnkeBench, 0, 1));
    let fact = &facts[0];
    assert_eq!((fact.subject(), fact.prompt()), ("Ada Lund", "What is {}'s occupation?"));
    assert_eq!(fact.paraphrase_prompts(), ["What does Ada Lund do for a living?"]);
    assert_eq!(short(&fact.probes()[1]), one(Portability, "sub_question", "What does she sell?", &["Honey."]));
    round_trip(&facts);

    let mut uneven = record.clone();
    uneven["sub_answer"] = json!(["Ten years."]);
    assert!(refusal(&uneven).contains("field `sub_answer`: has 1 entries for 2 questions"), "{}", refusal(&uneven));
    let mut nameless = record;
    nameless["question"] = json!("what is her occupation?");
    let said = refusal(&nameless);
    assert!(said.contains("field `subject`: is missing") && said.contains("give the person or thing"), "{said}");
}

#[test]
fn records_without_a_subject_get_one_or_are_refused_by_name() {
    let facts = parse(&json!([
        {"prompt": "who wrote \"the last bee\"?", "target": "Ada Lund", "locality": [{"loc": "who sang it", "loc_ans": "Bea"}]},
        {"prompt": "Which club did Bea Storm leave for Old Town United of Porto in 1999?", "target": "Lisbon", "subject": "",
            "rephrase": "In 1999, which club did Bea Storm leave?"},
        {"prompt": "Where is Mount Wills?", "target": "Asia", "subject": "Mount Wills"}
    ]));
    let subjects: Vec<_> = facts.iter().map(|fact| (fact.subject(), fact.prompt())).collect();
    assert_eq!(subjects[0], ("the last bee", "who wrote \"{}\"?"));
    assert_eq!(subjects[1].0, "Bea Storm");
    assert_eq!((facts.inferred_subjects(), facts[0].probes().len(), facts[0].neighborhood_prompts().len()), (2, 0, 1));

    for (record, message) in [
        (json!({"prompt": "where is it?", "target": "Asia"}), "has no name that could be one"),
        (json!({"prompt": "{} is in", "target": "Asia"}), "field `subject`: is missing; give the person or thing"),
        (json!({"ent": "tea", "pos": ["fine"], "neg": ["bad"]}), "is of ConvSent, a part of KnowEdit"),
        (json!({"success": [{"question": "a"}], "locality": []}), "is Sanitation, a part of KnowEdit"),
    ] {
        assert!(refusal(&record).contains(message), "{}", refusal(&record));
    }
}

#[test]
fn zsre_is_edited_to_either_target() {
    let record = |alt: &str| -> Value {
        json!([{"subject": "Mount Wills", "src": "Where is Mount Wills?", "answers": ["Antarctica", "the pole"], "alt": alt}])
    };
    let read =
        |target, alt| ReadOptions::new().zsre_target(target).parse("zsre.json", record(alt).to_string()).unwrap();
    let facts = read(ZsreTarget::Answers, "Asia");
    assert_eq!((facts[0].target_new(), facts[0].target_true(), facts.unread().len()), ("Antarctica", None, 0));
    assert_eq!(facts[..], parse(&record("Asia"))[..]);
    let facts = read(ZsreTarget::Alt, "Asia");
    assert_eq!((facts[0].target_new(), facts[0].target_true()), ("Asia", Some("Antarctica")));
    // Where both are the same, there is no other truth.
    assert_eq!(read(ZsreTarget::Alt, "Antarctica")[0].target_true(), None);
    let mut missing = record("Asia");
    missing[0].as_object_mut().unwrap().remove("alt");
    let error = ReadOptions::new().zsre_target(ZsreTarget::Alt).parse("zsre.json", missing.to_string()).unwrap_err();
    assert!(error.to_string().contains("field `alt`: is missing"), "{error}");
}

#[test]
fn probes_written_by_hand_are_checked() {
    let with = |probe: Value| json!({"subject": "A", "prompt": "{} is", "target": "b", "probes": [probe]});
    let facts = parse(&json!([with(json!({"criterion": "c", "questions": [{"prompt": "d", "answers": "e"}]}))]));
    assert_eq!(short(&facts[0].probes()[0]), one(Portability, "c", "d", &["e"]));
    for (probe, message) in [
        (json!("c"), "field `probes[0]`: is a string, expected an object"),
        (json!({"criterion": "c", "questions": []}), "field `probes[0].questions`: is empty"),
        (json!({"questions": [{"prompt": "d", "answers": "e"}]}), "field `probes[0].criterion`: is missing"),
        (json!({"criterion": "c", "questions": [{"prompt": "d", "answers": []}]}), "answers`: is empty"),
        (json!({"criterion": "c", "questions": [{"prompt": "d", "answers": [["e"], []]}]}), "without a text"),
        (json!({"criterion": "c", "needed": "some", "questions": []}), "`probes[0].needed`: is no such value"),
        (json!({"criterion": "c", "category": "x", "questions": []}), "`probes[0].category`: is no such value"),
    ] {
        let said = refusal(&with(probe));
        assert!(said.contains(message), "{said}");
    }
}
