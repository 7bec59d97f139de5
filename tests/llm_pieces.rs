//! Tokenizers in GGUF files, against llama.cpp: of the kind of SentencePiece (`tests/data/make_pieces.py`), and byte-level ones of all kinds
//! (`tests/data/make_words.py`).

use std::path::Path;

use betaedit_core::faer::Par;
use betaedit_core::llm::{Model, Tokenizer};
use candle_core::quantized::gguf_file::Value;
use candle_core::{DType, Device, Tensor};
use serde_json::Value as Json;

/// A file of a model with this tokenizer, changed as asked for.
fn write(kind: &Json, path: &Path, changes: &[(&str, Option<Value>)]) {
    let list = |name: &str| kind[name].as_array().into_iter().flatten();
    let tokens: Vec<Value> = list("tokens").map(|text| Value::String(text.as_str().unwrap().into())).collect();
    let vocabulary = tokens.len();
    let sizes = [("context_length", 2048), ("embedding_length", 32), ("block_count", 1), ("feed_forward_length", 32)];
    let mut entries: Vec<(String, Value)> = sizes.map(|(name, n)| (format!("llama.{name}"), Value::U32(n))).into();
    entries.extend([
        ("general.architecture".into(), Value::String("llama".into())),
        ("llama.attention.head_count".into(), Value::U32(1)),
        ("llama.attention.layer_norm_rms_epsilon".into(), Value::F32(1e-5)),
        ("tokenizer.ggml.model".into(), Value::String("llama".into())),
        ("tokenizer.ggml.tokens".into(), Value::Array(tokens)),
        (
            "tokenizer.ggml.scores".into(),
            Value::Array(list("scores").map(|score| Value::F32(score.as_f64().unwrap() as f32)).collect()),
        ),
        (
            "tokenizer.ggml.token_type".into(),
            Value::Array(list("types").map(|kind| Value::I32(kind.as_i64().unwrap() as i32)).collect()),
        ),
        ("tokenizer.ggml.add_space_prefix".into(), Value::Bool(kind["add_space_prefix"] == true)),
        ("tokenizer.ggml.bos_token_id".into(), Value::U32(1)),
        ("tokenizer.ggml.eos_token_id".into(), Value::U32(2)),
    ]);
    for (name, value) in changes {
        entries.retain(|(there, _)| there != name);
        entries.extend(value.clone().map(|value| ((*name).to_owned(), value)));
    }
    let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
    let mut tensors = vec![("token_embd.weight".to_owned(), ones(&[vocabulary, 32]))];
    tensors.extend(
        ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"].map(|name| (format!("{name}.weight"), ones(&[32]))),
    );
    for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"] {
        tensors.push((format!("blk.0.{name}.weight"), ones(&[32, 32])));
    }
    crate::llm_gguf_families::write(path, &entries, &tensors);
}

fn kinds() -> Json {
    recorded("pieces.json")
}

fn recorded(name: &str) -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn opened(kind: &Json, changes: &[(&str, Option<Value>)]) -> betaedit_core::Result<(Model, Tokenizer)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write(kind, &path, changes);
    Model::open(&path, Par::Seq)
}

#[test]
fn texts_have_the_tokens_of_llama_cpp() {
    for (name, kind) in kinds().as_object().unwrap() {
        let (model, tokenizer) = opened(kind, &[]).unwrap();
        let saved = tempfile::tempdir().unwrap();
        model.save(&tokenizer, saved.path()).unwrap();
        let (_, again) = Model::open(saved.path(), Par::Seq).unwrap();
        for (text, ids) in kind["texts"].as_array().unwrap().iter().zip(kind["ids"].as_array().unwrap()) {
            let text = text.as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
            assert_eq!(tokenizer.encode(text).unwrap(), ids, "{name}: {text:?}");
            assert_eq!(again.encode(text).unwrap(), ids, "{name}, saved: {text:?}");
            // Control tokens are no text, and the mark of a space is one.
            if !text.contains("<s>") && !text.contains('▁') {
                assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{name}");
            }
        }
    }
}

#[test]
fn entries_count_and_what_is_missing_is_refused_by_name() {
    let kinds = kinds();
    let (llama, gemma) = (&kinds["llama"], &kinds["gemma"]);
    let tokens = |kind, changes: &[(&str, Option<Value>)], text| opened(kind, changes).unwrap().1.encode(text).unwrap();
    let no_bos = [("tokenizer.ggml.add_bos_token", Some(Value::Bool(false)))];
    assert_eq!(tokens(llama, &no_bos, "Paris"), tokens(llama, &[], "Paris")[1..]);
    // Without the entry there is a space in front of a text.
    let without = [("tokenizer.ggml.add_space_prefix", None)];
    assert_eq!(tokens(gemma, &without, "Paris"), tokens(gemma, &[], " Paris"));
    // Special tokens of Phi-3 take the spaces behind them.
    let phi = [("general.name", Some(Value::String("Phi-3 mini".into())))];
    assert_eq!(tokens(llama, &phi, "a</s>  b"), tokens(llama, &phi, "a</s>b"));
    assert_ne!(tokens(llama, &phi, "a<s>  b"), tokens(llama, &phi, "a<s>b"));
    assert_ne!(tokens(llama, &[], "a</s>  b"), tokens(llama, &[], "a</s>b"));
    for (name, value) in [
        ("tokenizer.ggml.scores", None),
        ("tokenizer.ggml.scores", Some(Value::Array(vec![Value::F32(0.0)]))),
        ("tokenizer.ggml.token_type", None),
        ("tokenizer.ggml.bos_token_id", None),
        ("tokenizer.ggml.precompiled_charsmap", Some(Value::Array(vec![Value::U8(1)]))),
        ("tokenizer.ggml.model", Some(Value::String("t5".into()))),
    ] {
        let error = opened(llama, &[(name, value)]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("tokenizer.json"), "{name}: {error}");
    }
}

#[test]
fn words_of_all_kinds_are_cut_as_by_llama_cpp() {
    let recorded = recorded("words.json");
    let strings = |name: &str| recorded[name].as_array().unwrap().iter().map(|text| text.as_str().unwrap());
    let merges = Value::Array(strings("merges").map(|merge| Value::String(merge.into())).collect());
    let types = strings("tokens").enumerate().map(|(id, _)| Value::I32(if id == 0 { 3 } else { 1 })).collect();
    let changes = [
        ("tokenizer.ggml.model", Some(Value::String("gpt2".into()))),
        ("tokenizer.ggml.merges", Some(merges)),
        ("tokenizer.ggml.token_type", Some(Value::Array(types))),
        ("tokenizer.ggml.bos_token_id", Some(Value::U32(0))),
        ("tokenizer.ggml.eos_token_id", Some(Value::U32(0))),
    ];
    for group in recorded["groups"].as_array().unwrap() {
        for kind in group["kinds"].as_array().unwrap().iter().map(|kind| kind.as_str().unwrap()) {
            let mut changes = changes.to_vec();
            changes.push(("tokenizer.ggml.pre", Some(Value::String(kind.into()))));
            let (_, tokenizer) = opened(&recorded, &changes).unwrap();
            for (text, ids) in strings("texts").zip(group["ids"].as_array().unwrap()) {
                let ids: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
                assert_eq!(tokenizer.encode(text).unwrap(), ids, "{kind}: {text:?}");
            }
        }
    }
}
