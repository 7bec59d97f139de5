//! Records under the names of other data sets, and in scripts without spaces.

use betaedit_core::facts::metrics::Query;
use betaedit_core::facts::{Facts, Layout, NeighborhoodPrompt};
use serde_json::{Value, json};

fn parse(records: &Value) -> Facts {
    Facts::parse("facts.json", records.to_string()).unwrap()
}

fn near(prompts: &[NeighborhoodPrompt]) -> Vec<(&str, &str)> {
    prompts.iter().map(|near| (near.prompt(), near.target_true())).collect()
}

/// The layouts of EasyEdit, KnowEdit, QAEdit, WikiBigEdit and UltraEdit: the same fact each time.
#[test]
fn a_fact_is_the_same_under_every_name() {
    let base = json!({"subject": "Mount Wills"});
    let with = |more: Value| {
        let mut record = base.clone();
        record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        record
    };
    let (prompt, other, place) = ("Mount Wills is in", "Mount Wills is located in the continent", "Mount Erebus, in");
    let truth = json!([["Antarctica", "the Antarctic"]]);
    for (record, layout) in [
        (
            with(json!({"prompt": prompt, "target_new": "Asia", "ground_truth": "Europe", "rephrase_prompt": other,
            "locality_prompt": place, "locality_ground_truth": "Antarctica"})),
            Layout::Flat,
        ),
        (
            with(
                json!({"prompt": prompt, "target_new": "Asia", "ground_truth": ["Europe", "the continent of Europe"], "rephrase_prompts": [other],
            "locality_prompt": [place], "locality_ground_truth": [truth]}),
            ),
            Layout::Flat,
        ),
        (
            with(json!({"prompt": prompt, "target_new": "Asia", "target_true": {"str": "Europe"}, "rephrase": other,
            "locality": {"Relation_Specificity": [{"prompt": place, "ground_truth": truth}]}})),
            Layout::Flat,
        ),
        (
            with(
                json!({"update": prompt, "ans": "Asia", "ground_truth": "Europe", "rephrase": other, "loc": place, "loc_ans": "Antarctica"}),
            ),
            Layout::Flat,
        ),
        (
            json!({"concept": "Mount Wills", "text": prompt, "labels": "Asia", "ground_truth": "Europe", "rephrase": [other],
            "locality": {"Forgetfulness": [{"prompt": place, "ground_truth": "Antarctica"}]}}),
            Layout::Flat,
        ),
        (
            with(
                json!({"prompt": prompt, "target": "Asia", "ground_truth": "Europe", "rephrase": other, "id": 3, "source": "NQ",
            "locality": [{"loc": place, "loc_ans": "Antarctica"}]}),
            ),
            Layout::Plain,
        ),
    ] {
        let facts = parse(&json!([record]));
        let fact = &facts[0];
        assert_eq!((facts.layout(), facts.unread().len()), (layout, 0), "{record}: {:?}", facts.unread());
        assert_eq!((fact.subject(), fact.prompt(), fact.target_new()), ("Mount Wills", "{} is in", "Asia"), "{record}");
        assert_eq!(fact.target_true(), Some("Europe"), "{record}");
        assert_eq!(fact.paraphrase_prompts(), [other], "{record}");
        assert_eq!(near(fact.neighborhood_prompts()), [(place, "Antarctica")], "{record}");
    }
    let uneven = json!([{"subject": "A", "prompt": "{} is", "target": "b", "locality_prompt": ["c", "d"], "locality_ground_truth": ["e"]}]);
    let error = Facts::parse("facts.json", uneven.to_string()).unwrap_err().to_string();
    assert!(error.contains("locality_ground_truth") && error.contains("2 entries"), "{error}");
}

#[test]
fn fields_that_are_not_read_are_listed() {
    let facts = parse(&json!([
        {"subject": "A", "prompt": "{} is", "target_new": "b", "attribute_prompts": ["c"], "relation_id": "P3"},
        {"subject": "B", "prompt": "{} is", "target_new": "c", "paraphrase_promts": ["d"], "neighbourhood_prompts": [], "portability": {}},
        {"subject": "C", "prompt": "{} is", "target_new": "c", "rephrase_prompt": "d", "rephrase": "e", "attribute_prompts": ["c"]}
    ]));
    let unread: Vec<_> =
        facts.unread().iter().map(|(name, unread)| (name.as_str(), unread.records, unread.meant)).collect();
    let expected =
        [("attribute_prompts", 2, None), ("paraphrase_promts", 1, Some("paraphrase_prompts")), ("rephrase", 1, None)];
    assert_eq!(unread, expected);

    let rewrite = json!({"subject": "A", "prompt": "{} is", "target_new": {"str": "b", "id": "Q1"}, "relation_id": "P3", "question": "d"});
    let facts =
        parse(&json!([{"case_id": 4, "requested_rewrite": rewrite, "generation_prompts": ["c"], "pararel_idx": 3}]));
    let unread: Vec<_> = facts.unread().keys().map(String::as_str).collect();
    assert_eq!(unread, ["generation_prompts", "requested_rewrite.question"]);

    // Within objects, and a field twice.
    let facts = parse(&json!([{
        "subject": "A", "prompt": "{} is", "target_new": {"str": "b", "aliases": ["c"]},
        "neighborhood_prompts": [{"prompt": "d", "target_true": "e", "weight": 2}],
        "locality": {"x": [{"prompt": "f", "ground_truth": "g", "note": "h"}]}
    }]));
    let unread: Vec<_> = facts.unread().keys().map(String::as_str).collect();
    assert_eq!(unread, ["locality.x.note", "neighborhood_prompts.weight", "target_new.aliases"]);
    for twice in [
        r#"[{"subject": "A", "subject": "B", "prompt": "{} is", "target": "c"}]"#,
        r#"[{"requested_rewrite": {"subject": "A", "subject": "A", "prompt": "{} is", "target_new": "c"}}]"#,
    ] {
        let error = Facts::parse("facts.json", twice).unwrap_err().to_string();
        assert!(error.contains("`subject`") && error.contains("twice"), "{error}");
    }
}

/// A prompt may end in a line, and a target then begins the next one.
#[test]
fn lines_at_the_end_of_a_prompt_stay() {
    let facts = parse(&json!([{"subject": "A", "prompt": " Q: Where is {}?\nA:\n", "target": " Rome "}]));
    assert_eq!((facts[0].prompt(), facts[0].target_new()), ("Q: Where is {}?\nA:\n", "Rome"));
    assert_eq!(Query { prompt: "A:\n", target: "Rome" }.text(), "A:\nRome");
    for (subject, prompt) in [("José", "Jose\u{301} is"), ("New York", "new  york is"), ("ABC", "ＡＢＣ is")] {
        let record = json!([{"subject": subject, "prompt": prompt, "target": "x"}]);
        let error = Facts::parse("facts.json", record.to_string()).unwrap_err().to_string();
        assert!(error.contains("in another form"), "{error}");
    }
}

/// In these scripts a subject is found wherever it stands, and a target follows without a space.
#[test]
fn subjects_and_targets_in_any_script() {
    for (subject, prompt, template) in [
        ("东京", "东京是哪个国家的首都?答案:", "{}是哪个国家的首都?答案:"),
        ("서울", "서울은 어느 나라의 수도입니까?", "{}은 어느 나라의 수도입니까?"),
        ("กรุงเทพ", "กรุงเทพเป็นเมืองหลวงของ", "{}เป็นเมืองหลวงของ"),
        ("フランス", "フランスの首都は", "{}の首都は"),
        ("Apple", "公司Apple是", "公司{}是"),
        ("Ankara", "Ankara'nın nüfusu", "{}'nın nüfusu"),
    ] {
        let facts = parse(&json!([{"subject": subject, "prompt": prompt, "target": "x"}]));
        assert_eq!(facts[0].prompt(), template);
    }
    let suffix = json!([{"subject": "Helsinki", "prompt": "Helsinkissä asuu", "target": "x"}]);
    let error = Facts::parse("facts.json", suffix.to_string()).unwrap_err().to_string();
    assert!(error.contains("only as a part of a longer word") && error.contains("Helsinkissä"), "{error}");
    let absent = json!([{"subject": "กรุงเทพ", "prompt": "เมืองหลวงของ", "target": "x"}]);
    let error = Facts::parse("facts.json", absent.to_string()).unwrap_err().to_string();
    assert!(error.contains("\"กรุงเทพ\"") && error.contains("\"เมืองหลวงของ\""), "{error}");

    for (prompt, target, text) in [
        ("The capital of France is", "Paris", "The capital of France is Paris"),
        ("フランスの首都は", "パリ", "フランスの首都はパリ"),
        ("프랑스의 수도는", "파리", "프랑스의 수도는 파리"),
        ("She said: \"", "Yes", "She said: \"Yes"),
    ] {
        assert_eq!(Query { prompt, target }.text(), text);
    }
}
