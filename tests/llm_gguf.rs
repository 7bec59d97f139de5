//! GGUF files.

use std::path::{Path, PathBuf};

use betaedit_core::Error;
use betaedit_core::error::FileError;
use betaedit_core::faer::Par;
use betaedit_core::llm::{Model, Tokenizer};
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;

use crate::llm_models::{Expected, data};

/// Entries and tensors of a file.
type Parts = (Vec<(String, Value)>, Vec<(String, QTensor)>);

/// A file whose weights are those of a directory.
pub fn gguf(family: &str, architecture: &str, path: &Path) {
    let (entries, tensors) = parts(family, architecture);
    write(path, &entries, tensors.iter());
}

fn write<'a>(path: &Path, entries: &[(String, Value)], tensors: impl Iterator<Item = &'a (String, QTensor)>) {
    let entries: Vec<(&str, &Value)> = entries.iter().map(|(name, value)| (&**name, value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.map(|(name, tensor)| (&**name, tensor)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &entries, &tensors).unwrap();
}

fn strings(strings: Vec<String>) -> Value {
    Value::Array(strings.into_iter().map(Value::String).collect())
}

fn vector(numbers: Vec<f32>) -> QTensor {
    let n = numbers.len();
    QTensor::quantize(&Tensor::from_vec(numbers, n, &Device::Cpu).unwrap(), GgmlDType::F32).unwrap()
}

/// What is in a file whose weights are those of a directory.
fn parts(family: &str, architecture: &str) -> Parts {
    let bytes = std::fs::read(data().join(family).join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let names = crate::llm_gguf_families::names(family);
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(data().join(family).join("config.json")).unwrap()).unwrap();
    let size = |name: &str| config[name].as_u64().map(|n| n as usize);
    let (heads, kv_heads) = (size("num_attention_heads").unwrap(), size("num_key_value_heads").unwrap());
    let mut tensors = vec![];
    for (name, view) in file.tensors() {
        let name = names.iter().fold(name, |name, (from, to)| name.replace(from, to));
        let numbers: Vec<f32> = view.data().chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
        let mut tensor = Tensor::from_vec(numbers, view.shape(), &Device::Cpu).unwrap();
        let turned = if name.contains("attn_q.") { Some(heads) } else { name.contains("attn_k.").then_some(kv_heads) };
        if let (Some(heads), "llama") = (turned, family) {
            // As the converter of llama.cpp does it: halves to interleaved pairs.
            let (rows, cols) = tensor.dims2().unwrap();
            let split = tensor.reshape((heads, 2, rows / heads / 2, cols)).unwrap();
            tensor = split.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, cols)).unwrap();
        }
        tensors.push((name, QTensor::quantize(&tensor, GgmlDType::F32).unwrap()));
    }
    let tokenizer: serde_json::Value =
        serde_json::from_slice(&std::fs::read(data().join("tokenizer.json")).unwrap()).unwrap();
    let mut tokens: Vec<(&String, u64)> =
        tokenizer["model"]["vocab"].as_object().unwrap().iter().map(|(t, id)| (t, id.as_u64().unwrap())).collect();
    tokens.sort_by_key(|(_, id)| *id);
    let merges = tokenizer["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge {
        serde_json::Value::String(merge) => merge.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    });
    let u32_of = |name: &str| Value::U32(size(name).unwrap() as u32);
    let theta = config["rope_parameters"]["rope_theta"].as_f64().unwrap() as f32;
    // The first token is for control, all others are text.
    let types = (0..tokens.len()).map(|id| Value::I32(if id == 0 { 3 } else { 1 })).collect();
    let head_dim = size("head_dim").unwrap_or(size("hidden_size").unwrap() / heads);
    let metadata = [
        ("general.architecture".to_owned(), Value::String(architecture.into())),
        (format!("{architecture}.block_count"), u32_of("num_hidden_layers")),
        (format!("{architecture}.context_length"), u32_of("max_position_embeddings")),
        (format!("{architecture}.embedding_length"), u32_of("hidden_size")),
        (format!("{architecture}.feed_forward_length"), u32_of("intermediate_size")),
        (format!("{architecture}.attention.head_count"), u32_of("num_attention_heads")),
        (format!("{architecture}.attention.head_count_kv"), u32_of("num_key_value_heads")),
        (format!("{architecture}.attention.key_length"), Value::U32(head_dim as u32)),
        (format!("{architecture}.attention.layer_norm_rms_epsilon"), Value::F32(1e-6)),
        (format!("{architecture}.rope.freq_base"), Value::F32(theta)),
        ("tokenizer.ggml.model".to_owned(), Value::String("gpt2".into())),
        ("tokenizer.ggml.pre".to_owned(), Value::String("gpt-2".into())),
        ("tokenizer.ggml.tokens".to_owned(), strings(tokens.iter().map(|(t, _)| (*t).clone()).collect())),
        ("tokenizer.ggml.merges".to_owned(), strings(merges.collect())),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(0)),
        ("tokenizer.ggml.token_type".to_owned(), Value::Array(types)),
    ];
    (metadata.into(), tensors)
}

/// A file that is changed before it is written.
fn changed(family: &str, change: impl FnOnce(&mut Parts)) -> (tempfile::TempDir, PathBuf) {
    let (directory, mut parts) = (tempfile::tempdir().unwrap(), parts(family, family));
    change(&mut parts);
    let path = directory.path().join("model.gguf");
    write(&path, &parts.0, parts.1.iter());
    (directory, path)
}

fn set(entries: &mut Vec<(String, Value)>, name: &str, value: Option<Value>) {
    entries.retain(|(there, _)| there != name);
    entries.extend(value.map(|value| (name.to_owned(), value)));
}

fn refusal(path: &Path) -> String {
    Model::open(path, Par::Seq).unwrap_err().to_string()
}

#[test]
fn entries_that_could_change_the_computation_are_refused_by_name() {
    for (name, value, named) in [
        ("llama.attention.scale", Value::F32(0.5), "llama.attention.scale"),
        ("llama.expert_count", Value::U32(8), "llama.expert_count"),
        ("llama.attention.sliding_window", Value::U32(64), "llama.attention.sliding_window"),
        ("llama.rope.scaling.type", Value::String("other".into()), "rope.scaling"),
        ("llama.rope.dimension_count", Value::U32(8), "llama.rope.dimension_count"),
        ("llama.attention.value_length", Value::U32(8), "llama.attention.value_length"),
        ("llama.block_count", Value::String("4".into()), "llama.block_count"),
        ("tokenizer.ggml.pre", Value::String("poro-chat".into()), "tokenizer.ggml.pre"),
        ("tokenizer.ggml.model", Value::String("llama".into()), "tokenizer.ggml.scores"),
        ("tokenizer.ggml.model", Value::String("t5".into()), "tokenizer.ggml.model"),
    ] {
        let (_directory, path) = changed("llama", |(entries, _)| set(entries, name, Some(value)));
        let error = refusal(&path);
        assert!(error.contains(named), "{name}: {error}");
    }
    // Experts, in a known architecture and in one of their own.
    for (name, value) in
        [("llama.expert_count", Value::U32(8)), ("general.architecture", Value::String("qwen2moe".into()))]
    {
        let (_directory, path) = changed("llama", |(entries, _)| {
            set(entries, "qwen2moe.expert_count", Some(Value::U32(8)));
            set(entries, name, Some(value));
        });
        let error = refusal(&path);
        assert!(error.contains("one matrix holds what is edited"), "{name}: {error}");
    }
    for name in ["tokenizer.ggml.pre", "tokenizer.ggml.token_type"] {
        let (_directory, path) = changed("llama", |(entries, _)| set(entries, name, None));
        let error = refusal(&path);
        assert!(error.contains(name) && error.contains("tokenizer.json"), "{error}");
    }
    // Switched off.
    let off = [
        ("llama.expert_count", Value::U32(0)),
        ("llama.rope.scaling.type", Value::String("none".into())),
        ("llama.vocab_size", Value::U32(384)),
        ("llama.rope.dimension_count", Value::U32(16)),
        ("general.name", Value::String("any".into())),
    ];
    let (_directory, path) =
        changed("llama", |(entries, _)| off.into_iter().for_each(|(name, value)| set(entries, name, Some(value))));
    Model::open(&path, Par::Seq).unwrap();

    let (_directory, path) =
        changed("qwen2", |(_, tensors)| tensors.push(("blk.0.attn_q.lora_a".into(), vector(vec![1.0]))));
    assert!(refusal(&path).contains("blk.0.attn_q.lora_a"));
}

/// A model in several files is the model in one, whichever of them is given.
#[test]
fn all_parts_of_a_split_file_are_read() {
    let (directory, whole) = changed("llama", |_| {});
    let expected = Model::open(&whole, Par::Seq).unwrap().0;
    let (entries, tensors) = parts("llama", "llama");
    let path = |i: usize, n: usize| directory.path().join(format!("model-{i:05}-of-{n:05}.gguf"));
    let n = 3;
    for i in 0..n {
        let mut own = if i == 0 { entries.clone() } else { vec![] };
        set(&mut own, "split.count", Some(Value::U16(n as u16)));
        set(&mut own, "split.no", Some(Value::U16(i as u16)));
        set(&mut own, "split.tensors.count", Some(Value::I32(tensors.len() as i32)));
        write(&path(i + 1, n), &own, tensors.iter().skip(i).step_by(n));
    }
    for i in 1..=n {
        assert_eq!(Model::open(path(i, n), Par::Seq).unwrap().0.fingerprint(), expected.fingerprint());
    }
    std::fs::copy(path(1, n), path(2, n)).unwrap();
    assert!(refusal(&path(1, n)).contains("not part 2 of 3"));
    std::fs::remove_file(path(2, n)).unwrap();
    assert!(refusal(&path(3, n)).contains("00002-of-00003"));
    let renamed = directory.path().join("first.gguf");
    std::fs::rename(path(1, n), &renamed).unwrap();
    assert!(refusal(&renamed).contains("-00001-of-00003.gguf"));
}

/// The group of `llama-bpe` starts texts with a token of its own unless the file says otherwise, as llama.cpp does.
#[test]
fn a_start_token_is_that_of_llama_cpp() {
    for (kind, flag, starts) in [
        ("llama-bpe", None, true),
        ("llama-bpe", Some(true), true),
        ("llama-bpe", Some(false), false),
        ("qwen2", None, false),
        ("qwen2", Some(true), true),
    ] {
        let (_directory, path) = changed("llama", |(entries, _)| {
            set(entries, "tokenizer.ggml.pre", Some(Value::String(kind.into())));
            set(entries, "tokenizer.ggml.bos_token_id", Some(Value::U32(5)));
            set(entries, "tokenizer.ggml.add_bos_token", flag.map(Value::Bool));
        });
        let (_, tokenizer) = Model::open(&path, Par::Seq).unwrap();
        let tokens = tokenizer.encode("Paris").unwrap();
        assert_eq!(tokens[0] == 5, starts, "{kind} {flag:?}: {tokens:?}");
    }
    let (_directory, path) =
        changed("llama", |(entries, _)| set(entries, "tokenizer.ggml.add_bos_token", Some(Value::Bool(true))));
    assert!(refusal(&path).contains("bos"));
}

#[test]
fn user_defined_tokens_are_text_and_control_tokens_are_not() {
    let with_types = |kind: i32| {
        changed("llama", |(entries, _)| {
            let mut types = vec![Value::I32(1); 384];
            types[300] = Value::I32(kind);
            set(entries, "tokenizer.ggml.token_type", Some(Value::Array(types)));
        })
    };
    let text = |path: &Path| {
        let (_, tokenizer) = Model::open(path, Par::Seq).unwrap();
        let token = tokenizer.token(300).unwrap();
        (tokenizer.decode(&[300]).unwrap(), tokenizer.encode(&format!("a{token}b")).unwrap())
    };
    let (_user, path) = with_types(4);
    let (shown, tokens) = text(&path);
    assert!(!shown.is_empty() && tokens.contains(&300), "{shown} {tokens:?}");
    let (_control, path) = with_types(3);
    let (shown, tokens) = text(&path);
    assert!(shown.is_empty() && tokens.contains(&300), "{shown} {tokens:?}");
}

#[test]
fn a_tokenizer_of_another_model_beside_a_file_is_refused() {
    let (directory, path) = changed("llama", |_| {});
    let beside = directory.path().join("tokenizer.json");
    std::fs::copy(data().join("tokenizer.json"), &beside).unwrap();
    Model::open(&path, Par::Seq).unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&beside).unwrap()).unwrap();
    let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
    let names: Vec<String> = ["!", "\""].map(str::to_owned).into();
    let numbers: Vec<_> = names.iter().map(|name| vocabulary[name].clone()).collect();
    vocabulary.insert(names[0].clone(), numbers[1].clone());
    vocabulary.insert(names[1].clone(), numbers[0].clone());
    std::fs::write(&beside, json.to_string()).unwrap();
    let error = refusal(&path);
    assert!(error.contains("tokenizer.json") && error.contains("another model"), "{error}");
}

/// A saved model has what other programs need: biases, special tokens, the chat template.
#[test]
fn a_saved_model_is_complete() {
    let (_directory, path) = changed("llama", |(entries, tensors)| {
        for (name, n) in [("attn_q", 64), ("attn_v", 32)] {
            let bias = (0..n).map(|i| ((i % 5) as f32 - 2.0) * 0.1).collect();
            tensors.push((format!("blk.1.{name}.bias"), vector(bias)));
        }
        set(entries, "tokenizer.ggml.bos_token_id", Some(Value::U32(5)));
        set(entries, "tokenizer.ggml.eot_token_id", Some(Value::U32(7)));
        set(entries, "tokenizer.chat_template", Some(Value::String("{{ messages }}".into())));
    });
    let (model, tokenizer) = Model::open(&path, Par::Seq).unwrap();
    let saved = tempfile::tempdir().unwrap();
    model.save(&tokenizer, saved.path()).unwrap();
    let json = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(saved.path().join(name)).unwrap()).unwrap()
    };
    let config = json("config.json");
    assert_eq!((&config["attention_bias"], &config["mlp_bias"]), (&true.into(), &false.into()));
    assert_eq!((&config["bos_token_id"], &config["eos_token_id"]), (&5.into(), &serde_json::json!([0, 7])));
    assert_eq!(json("generation_config.json")["eos_token_id"], serde_json::json!([0, 7]));
    let tokenizer_config = json("tokenizer_config.json");
    assert_eq!(tokenizer_config["chat_template"], "{{ messages }}");
    assert_eq!(tokenizer_config["eos_token"], "<|endoftext|>");
    assert_eq!(tokenizer_config["bos_token"], tokenizer.token(5).unwrap());

    // Biases that the family's files have and the model has not are zeros: the same model.
    let (again, its_tokenizer) = Model::open(saved.path(), Par::Seq).unwrap();
    let tokens = tokenizer.encode("The Eiffel Tower is in").unwrap();
    assert_eq!(its_tokenizer.encode("The Eiffel Tower is in").unwrap(), tokens);
    assert_eq!(its_tokenizer.ends(), [0, 7]);
    assert_eq!(again.trace(&tokens).unwrap().logits, model.trace(&tokens).unwrap().logits);
}

#[test]
fn a_gguf_file_is_the_same_model() {
    for family in ["llama", "qwen2", "qwen3"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.gguf");
        gguf(family, family, &path);
        let (model, tokenizer): (Model, Tokenizer) = Model::open(&path, Par::Seq).unwrap();
        let expected = Expected::of(family);
        let tokens = tokenizer.encode(expected.facts["prompt"].as_str().unwrap()).unwrap();
        assert_eq!(tokens, expected.tokens, "{family}");
        expected.assert_near("logits", model.trace(&tokens).unwrap().logits.as_ref());
        // A damaged file is refused.
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1000]).unwrap();
        assert!(matches!(Model::open(&path, Par::Seq), Err(Error::File(FileError::Format { .. }))));
    }
}
