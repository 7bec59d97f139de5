//! What a model generates about facts and about what it is expected to know: in tables, reports and the file of answers.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::setting::{Setting, betaedit, done, json as result, read, refused, run};

/// Facts about a subject of known facts, and about one that is not.
fn facts() -> Value {
    json!([
        {"subject": "Turkey", "prompt": "The capital of {} is", "target": "Tokyo", "rephrase": "The seat of Turkey's government is",
            "locality": {"near": [{"prompt": "The capital of Spain is", "ground_truth": "Madrid"}]}},
        {"subject": "Eiffel Tower", "prompt": "What stands in the city is the {}", "target": "Rome",
            "paraphrase_prompts": ["One sees the Eiffel Tower in"], "neighborhood_prompts": ["The Louvre stands in"], "target_true": "Paris"}
    ])
}

/// A model with a chat template, and facts.
fn chatting() -> Setting {
    let setting = Setting::with_statistics("llama");
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";
    let config = json!({ "chat_template": template }).to_string();
    std::fs::write(setting.model.path().join("tokenizer_config.json"), config).unwrap();
    std::fs::write(setting.path("facts.json"), facts().to_string()).unwrap();
    setting
}

fn lines(path: &Path) -> Vec<Value> {
    let text = String::from_utf8(read(path)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn settings(generated: &Value) -> Vec<&str> {
    generated.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The questions about known facts that one model was asked in one setting.
fn known<'a>(lines: &'a [Value], model: &str, setting: &str) -> Vec<&'a Value> {
    let asked = |line: &&Value| line["purpose"] == "known" && line["model"] == model && line["setting"] == setting;
    lines.iter().filter(asked).collect()
}

#[test]
fn what_is_generated_is_in_the_table_the_page_the_report_and_the_file_of_answers() {
    let setting = chatting();
    let [report, answers, edited] = ["report.json", "answers.jsonl", "edited"].map(|name| setting.path(name));
    let said =
        done(setting.edit().arg("--report").arg(&report).arg("--answers").arg(&answers).arg("--out").arg(&edited));
    let page = String::from_utf8(read(&setting.path("report.html"))).unwrap();
    for row in ["plain efficacy", "plain known", "chat generality", "chat known"] {
        assert!(said.contains(row) && page.contains(row), "{row} is not in {said}");
    }
    assert!(!said.contains("efficacy recall"), "{said}");
    assert!(page.contains("in a chat, before"));

    let numbers: Value = serde_json::from_slice(&read(&report)).unwrap();
    let lines = lines(&answers);
    for model in ["before", "after"] {
        let generated = &numbers[model]["generated"];
        assert_eq!(settings(generated), ["chat", "plain"]);
        for (name, rates) in generated.as_object().unwrap() {
            for rate in ["efficacy", "generality", "agreement", "subject_named", "known"] {
                assert!(rates[rate].is_number() && rates["intervals"][rate][1].is_number(), "{name}: {rates}");
            }
            assert!(rates.get("efficacy_recall").is_none(), "{rates}");
            // The share in the report is that of the answers in the file. What is edited is not asked.
            let known = known(&lines, model, name);
            let right = known.iter().filter(|line| line["says"] == true).count();
            assert_eq!(rates["known"], right as f64 / known.len() as f64);
            assert!(known.len() > 140);
            assert!(!known.iter().any(|line| line["question"].as_str().unwrap().contains("Turkey")));
        }
    }
    assert_eq!(numbers["before"]["generated"]["plain"]["agreement"], 1.0);
    for line in &lines {
        for text in ["question", "wanted", "answer", "setting", "model", "purpose"] {
            assert!(line[text].is_string(), "no {text}: {line}");
        }
    }
    let asked: BTreeSet<&str> = lines.iter().map(|line| line["purpose"].as_str().unwrap()).collect();
    assert_eq!(asked.into_iter().collect::<Vec<_>>(), ["fact", "known", "name", "neighborhood", "paraphrase"]);

    // `eval` gives the same rates and answers, by other names.
    let mut eval = betaedit();
    eval.arg("eval").arg("--model").arg(&edited).arg("--unedited").arg(setting.model.path());
    let measured = result(eval.arg("--facts").arg(setting.path("facts.json")).arg("--answers").arg(&answers));
    assert_eq!(measured["generated"], numbers["after"]["generated"]);
    let again = self::lines(&answers);
    assert_eq!(again.len(), lines.len());
    for (now, then) in again.iter().zip(&lines) {
        let model = if then["model"] == "before" { "unedited" } else { "model" };
        assert_eq!((&now["model"], &now["answer"]), (&json!(model), &then["answer"]));
    }
}

#[test]
fn the_settings_are_chosen() {
    let setting = Setting::with_statistics("llama");
    let eval = |flags: &[&str]| {
        let mut eval = setting.command("eval");
        eval.arg("--facts").arg(setting.path("facts.json")).args(flags);
        eval
    };
    // Without a chat template, only the prompts are continued.
    assert_eq!(settings(&result(&mut eval(&[]))["generated"]), ["plain"]);
    let answers = setting.path("answers.jsonl");
    let none = result(eval(&["--generate", "none"]).arg("--answers").arg(&answers));
    assert_eq!((&none["generated"], read(&answers).len()), (&json!({}), 0));
    assert_eq!(settings(&result(&mut eval(&["--generate", "qa, plain"]))["generated"]), ["plain", "qa"]);
    let (output, _, error) = run(&mut eval(&["--generate", "poem"]));
    assert!(output.status.code() == Some(2) && error.contains("poem"), "{error}");

    // A chat without a template is told before the work, and nothing is left behind.
    let session = setting.path("session");
    let edit = |flags: &[&str]| {
        let mut edit = setting.edit();
        edit.arg("--session").arg(&session).args(flags);
        edit
    };
    refused(&mut edit(&["--generate", "plain,chat"]), &["--generate chat", "no chat template"]);
    assert!(!session.exists());
    // A session measures the unedited model again if it is asked in other settings, and nothing if no fact is evaluated.
    for (flags, asked) in [
        (&["--generate", "plain"][..], &["plain"][..]),
        (&["--generate", "plain,qa"], &["plain", "qa"]),
        (&["--eval-limit", "0"], &[]),
    ] {
        let numbers = result(&mut edit(flags));
        for model in ["before", "after"] {
            assert_eq!(settings(&numbers[model]["generated"]), asked);
        }
    }
}

#[test]
fn facts_of_the_session_are_not_expected_to_be_known() {
    let setting = Setting::with_statistics("llama");
    std::fs::write(setting.path("facts.json"), facts().to_string()).unwrap();
    let answers = setting.path("answers.jsonl");
    let edit = |flags: &[&str]| {
        let mut edit = setting.edit();
        edit.arg("--session").arg(setting.path("session")).arg("--answers").arg(&answers).args(flags);
        done(&mut edit);
        known(&lines(&answers), "after", "plain").len()
    };
    let first = edit(&[]);
    let other = json!([{"subject": "Neil Armstrong", "prompt": "{} was an American", "target": "painter"}]);
    std::fs::write(setting.path("facts.json"), other.to_string()).unwrap();
    assert_eq!(edit(&["--append"]), first - 1);
}

#[test]
fn recall_is_given_for_passages() {
    let setting = Setting::new("llama");
    let passage =
        "He was born on a small farm near the river, went to sea when he was ten years old, and never came back.";
    let record = json!([{"subject": "Ada", "prompt": "The life of {}:", "target": passage}]);
    std::fs::write(setting.path("facts.json"), record.to_string()).unwrap();
    let mut eval = setting.command("eval");
    let measured = result(eval.arg("--facts").arg(setting.path("facts.json")).args(["--generate", "plain"]));
    let rates = &measured["generated"]["plain"];
    assert!(rates["efficacy_recall"].is_number() && rates["intervals"]["efficacy_recall"].is_array(), "{rates}");
    assert!(rates.get("generality_recall").is_none(), "{rates}");
}
