//! Tokenizers: what stands in front of a text and behind it, patterns, and the tokens that end a text.

use betaedit_core::faer::Par;
use betaedit_core::llm::{Model, Sampler, Tokenizer};
use serde_json::{Value, json};

use crate::llm_models::{data, directory};

/// The tokenizer of the tiny models, changed.
fn changed(change: impl FnOnce(&mut Value)) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(data().join("tokenizer.json")).unwrap()).unwrap();
    change(&mut tokenizer);
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    Tokenizer::open(path).unwrap()
}

/// A template of `transformers`: names of special tokens, and `$A`.
fn template(parts: &[&str]) -> Value {
    let part = |name: &&str| match *name {
        "$A" => json!({"Sequence": {"id": "A", "type_id": 0}}),
        name => json!({"SpecialToken": {"id": name, "type_id": 0}}),
    };
    let special = |name: &str, id: u32| json!({"id": name, "ids": [id], "tokens": [name]});
    json!({
        "type": "TemplateProcessing", "single": parts.iter().map(part).collect::<Vec<_>>(), "pair": [],
        "special_tokens": {"<bos>": special("<bos>", 7), "<eos>": special("<eos>", 9), "<|endoftext|>": special("<|endoftext|>", 0)}
    })
}

#[test]
fn what_a_template_puts_behind_a_text_is_no_part_of_a_prompt() {
    let text = "The Eiffel Tower";
    let bare = changed(|_| {}).encode(text).unwrap();
    for (parts, before) in [
        (&["<bos>", "$A"][..], &[7][..]),
        (&["<bos>", "$A", "<eos>"], &[7]),
        (&["<bos>", "<bos>", "$A", "<eos>", "<eos>"], &[7, 7]),
        // Nothing in front, although there is a token between texts (0).
        (&["$A"], &[]),
        (&["$A", "<eos>"], &[]),
        (&["$A", "<|endoftext|>"], &[]),
        (&["<|endoftext|>", "$A"], &[0]),
    ] {
        let tokenizer = changed(|tokenizer| tokenizer["post_processor"] = template(parts));
        assert_eq!(tokenizer.encode(text).unwrap(), [before, &bare].concat(), "{parts:?}");
        assert_eq!(tokenizer.encode("").unwrap(), before, "{parts:?}");
        for window in tokenizer.windows(&text.repeat(9), 6).unwrap() {
            assert!(window.starts_with(before) && window.len() <= 6 && !window.contains(&9), "{parts:?}: {window:?}");
        }
    }
}

/// Joiners are no letters of a word, as in the Python package of tokenizers.
#[test]
fn patterns_mean_what_they_mean_where_tokenizers_are_made() {
    let split = |pattern: &str| {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        changed(|tokenizer| tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [split, bytes]}))
    };
    let text = "na\u{200c}me 12_a²";
    let by_class = split(r"[\p{L}\p{M}\p{N}\p{Pc}]+").encode(text).unwrap();
    assert_eq!(split(r"\w+").encode(text).unwrap(), by_class);
    assert_eq!(split(r"[\w]+").encode(text).unwrap(), by_class);
}

#[test]
fn generation_stops_at_the_tokens_that_end_a_text() {
    let folder = directory("llama");
    let write = |name: &str, json: Value| std::fs::write(folder.path().join(name), json.to_string()).unwrap();
    let config = folder.path().join("config.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
    let (model, tokenizer) = Model::open(folder.path(), Par::Seq).unwrap();
    assert_eq!(tokenizer.ends(), [0]);
    let start = tokenizer.encode("The capital of France is").unwrap();
    let whole = model.generate(&start, 8, &mut Sampler::Greedy).unwrap();
    assert_eq!(whole.len(), 8);
    let place = whole.iter().position(|token| *token == whole[3]).unwrap();

    // A list in config.json, and generation_config.json before it, as in `transformers`.
    json["eos_token_id"] = json!([whole[3], 383]);
    write("config.json", json);
    let (model, tokenizer) = Model::open(folder.path(), Par::Seq).unwrap();
    assert_eq!(tokenizer.ends(), [whole[3], 383]);
    let ended = model.generate_until(&start, 8, &mut Sampler::Greedy, tokenizer.ends()).unwrap();
    assert_eq!(ended, whole[..place]);
    write("generation_config.json", json!({"eos_token_id": 5}));
    assert_eq!(Model::open(folder.path(), Par::Seq).unwrap().1.ends(), [5]);
    write("generation_config.json", json!({"eos_token_id": "</s>"}));
    let error = Model::open(folder.path(), Par::Seq).unwrap_err().to_string();
    assert!(error.contains("generation_config.json") && error.contains("eos_token_id"), "{error}");
}
