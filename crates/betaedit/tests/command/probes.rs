//! Questions on portability and locality, in tables and reports.

use serde_json::{Value, json};

use crate::setting::{Setting, betaedit, done, json as result, read, refused, run};

fn query(prompt: &str, answer: &str) -> Value {
    json!({"prompt": prompt, "answers": [{"value": answer, "aliases": []}], "subject_id": "Q1", "relation": "R"})
}

/// A fact of RippleEdits. An untrained model does not know the condition of its last test.
fn ripple() -> Value {
    let test = |prompt: &str, answer: &str, conditions: Vec<Value>| {
        let queries = [query(prompt, answer)];
        json!({"test_queries": queries, "test_condition": "OR", "condition_queries": conditions})
    };
    json!([{
        "edit": {"prompt": "The city of the Eiffel Tower is Tokyo.", "subject_id": "Q1", "relation": "R",
            "original_fact": {"prompt": "The city of the Eiffel Tower is Paris."}},
        "Relation_Specificity": [],
        "Logical_Generalization": [test("The tower of Tokyo is the", "Eiffel Tower", vec![])],
        "Subject_Aliasing": [test("The city of the Eiffel Tower is", "Tokyo", vec![])],
        "Compositionality_I": [
            test("The country of the city of the Eiffel Tower is", "Japan", vec![query("The country of Tokyo is", "Japan")])
        ],
        "Compositionality_II": [],
        "Forgetfulness": [test("The height of the Eiffel Tower is", "330 m", vec![])]
    }])
}

fn criterion<'a>(probes: &'a Value, name: &str) -> &'a Value {
    let mut probes = probes.as_array().unwrap().iter();
    probes.find(|probe| probe["criterion"] == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn probes_are_in_the_table_and_the_reports_of_edit_and_eval() {
    let setting = Setting::with_statistics("llama");
    let (edited, report) = (setting.path("edited"), setting.path("report.json"));
    std::fs::write(setting.path("facts.json"), ripple().to_string()).unwrap();
    let said = done(setting.edit().arg("--out").arg(&edited).arg("--report").arg(&report));
    assert!(said.contains("probes (plain)") && said.contains("portability, Subject_Aliasing"), "{said}");
    let numbers: Value = serde_json::from_slice(&read(&report)).unwrap();
    let (before, after) = (&numbers["before"]["probes"], &numbers["after"]["probes"]);
    for probes in [before, after] {
        let composed = criterion(probes, "Compositionality_I");
        assert_eq!(
            (&composed["probes"], &composed["counted"], &composed["passed"]),
            (&json!(1), &json!(0), &json!(null))
        );
        let alias = criterion(probes, "Subject_Aliasing");
        assert_eq!((&alias["category"], &alias["setting"]), (&json!("portability"), &json!("plain")));
        assert!(alias["passed"].is_number() && alias["recall"].is_number() && alias["agreement"].is_null(), "{alias}");
        assert!(criterion(probes, "Forgetfulness")["agreement"].is_number());
    }
    assert_eq!(criterion(before, "Forgetfulness")["agreement"], 1.0);
    let page = String::from_utf8(read(&setting.path("report.html"))).unwrap();
    assert!(page.contains("Portability and locality") && page.contains("locality, Forgetfulness"));

    // `eval` gives the same rates, if it has the unedited model.
    let facts = setting.path("facts.json");
    let mut eval = betaedit();
    eval.arg("eval").arg("--model").arg(&edited).arg("--facts").arg(&facts).arg("--unedited").arg(setting.model.path());
    let measured = result(&mut eval);
    assert_eq!((&measured["probes"], &measured["unedited"]["probes"]), (after, before));
    let mut eval = setting.command("eval");
    let (_, said, note) = run(eval.arg("--facts").arg(&facts));
    assert!(said.contains("probes (plain)") && note.contains("1 probes do not count"), "{said}\n{note}");

    let mut without = setting.command("eval");
    assert_eq!(result(without.arg("--facts").arg(&facts).args(["--probes", "none"]))["probes"], json!([]));
    let mut questions = setting.command("eval");
    let asked = result(questions.arg("--facts").arg(&facts).args(["--probes", "qa"]));
    assert_eq!(criterion(&asked["probes"], "Subject_Aliasing")["setting"], "qa");
    assert_eq!(asked["zsre_target"], json!(null));
    // This model has no chat template.
    refused(setting.command("eval").arg("--facts").arg(&facts).args(["--probes", "chat"]), &["chat template"]);
}

#[test]
fn the_target_of_zsre_is_chosen_and_said() {
    let setting = Setting::new("llama");
    let facts = setting.path("zsre.json");
    let record = json!([{"subject": "Danube", "src": "Where does the Danube end?", "answers": ["Black Sea"], "alt": "Rhine",
        "rephrase": "In which sea does the Danube end?", "loc": "nq question: who sings", "loc_ans": "Ada"}]);
    std::fs::write(&facts, record.to_string()).unwrap();
    for (flags, expected) in [
        (&[][..], "new targets of ZsRE are those of `answers`; --zsre-target alt takes the others"),
        (&["--zsre-target", "alt"], "new targets of ZsRE are those of `alt`; --zsre-target answers takes the others"),
    ] {
        let (output, report, note) = run(setting.command("eval").arg("--json").arg("--facts").arg(&facts).args(flags));
        assert!(output.status.success() && note.contains(expected), "{note}");
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["zsre_target"], *flags.last().unwrap_or(&"answers"));
    }
}
