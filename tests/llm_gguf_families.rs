//! GGUF files of all architectures, by the rules of llama.cpp's converter (`tests/python/gguf_families.py` holds the rules to llama.cpp),
//! against `transformers`.

use std::path::Path;

use betaedit_core::faer::Par;
use betaedit_core::llm::{Model, Positions, RotaryScaling};
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use serde_json::Value as Json;

use crate::llm_models::{Expected, data, open};

type Entries = Vec<(String, Value)>;

/// The names of tensors in directories and in GGUF files, in the order in which they are replaced.
pub fn names(family: &str) -> Vec<(&'static str, &'static str)> {
    let llama = [
        ("model.embed_tokens", "token_embd"),
        ("lm_head", "output"),
        ("model.norm", "output_norm"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.qkv_proj", "attn_qkv"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_up_proj", "ffn_up"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let more: &[(&str, &str)] = match family {
        "gemma2" | "gemma3" | "olmo2" => &[
            ("post_attention_layernorm", "post_attention_norm"),
            ("pre_feedforward_layernorm", "ffn_norm"),
            ("post_feedforward_layernorm", "post_ffw_norm"),
        ],
        "phi" => &[
            ("model.final_layernorm", "output_norm"),
            ("self_attn.dense", "attn_output"),
            ("mlp.fc1", "ffn_up"),
            ("mlp.fc2", "ffn_down"),
        ],
        "starcoder2" => &[("post_attention_layernorm", "ffn_norm"), ("mlp.c_fc", "ffn_up"), ("mlp.c_proj", "ffn_down")],
        _ => &[("post_attention_layernorm", "ffn_norm")],
    };
    match family {
        "gpt2" => vec![
            ("transformer.wte", "token_embd"),
            ("transformer.wpe", "position_embd"),
            ("transformer.ln_f", "output_norm"),
            ("transformer.h", "blk"),
            ("ln_1", "attn_norm"),
            ("ln_2", "ffn_norm"),
            ("attn.c_attn", "attn_qkv"),
            ("attn.c_proj", "attn_output"),
            ("mlp.c_fc", "ffn_up"),
            ("mlp.c_proj", "ffn_down"),
        ],
        "falcon" => vec![
            ("transformer.word_embeddings", "token_embd"),
            ("transformer.ln_f", "output_norm"),
            ("lm_head", "output"),
            ("transformer.h", "blk"),
            ("input_layernorm", "attn_norm"),
            ("self_attention.query_key_value", "attn_qkv"),
            ("self_attention.dense", "attn_output"),
            ("mlp.dense_h_to_4h", "ffn_up"),
            ("mlp.dense_4h_to_h", "ffn_down"),
        ],
        "gpt_neox" => vec![
            ("gpt_neox.embed_in", "token_embd"),
            ("gpt_neox.final_layer_norm", "output_norm"),
            ("embed_out", "output"),
            ("gpt_neox.layers", "blk"),
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("attention.query_key_value", "attn_qkv"),
            ("attention.dense", "attn_output"),
            ("mlp.dense_h_to_4h", "ffn_up"),
            ("mlp.dense_4h_to_h", "ffn_down"),
        ],
        _ => llama.into_iter().chain(more.iter().copied()).collect(),
    }
}

fn config(family: &str) -> Json {
    serde_json::from_slice(&std::fs::read(data().join(family).join("config.json")).unwrap()).unwrap()
}

/// The tensors of a model, as the converter names and stores them.
fn tensors(family: &str, config: &Json) -> Vec<(String, Tensor)> {
    let stored = candle_core::safetensors::load(data().join(family).join("model.safetensors"), &Device::Cpu).unwrap();
    let heads = config["num_attention_heads"].as_u64().unwrap_or(1) as usize;
    let mut tensors = vec![];
    for (name, tensor) in stored {
        let mut tensor = tensor.to_dtype(DType::F32).unwrap();
        let name = names(family).into_iter().fold(name, |name, (from, to)| name.replace(from, to));
        if family == "gpt2" && name.starts_with("blk") && tensor.rank() == 2 {
            tensor = tensor.t().unwrap().contiguous().unwrap();
        }
        if family == "gpt_neox" && name.contains("attn_qkv") {
            // By heads, to all queries, all keys, all values.
            let (shape, rows) = (tensor.shape().clone(), tensor.dims()[0]);
            let by_heads = tensor.reshape((heads, 3, rows / heads / 3, tensor.elem_count() / rows)).unwrap();
            tensor = by_heads.transpose(0, 1).unwrap().contiguous().unwrap().reshape(shape).unwrap();
        }
        if family.starts_with("gemma") && name.ends_with("norm.weight") {
            tensor = (tensor + 1.0).unwrap();
        }
        // llama.cpp scales by the length of a head, whatever the model does: the rest goes into the queries.
        let into = if family == "gemma2" { "attn_q.weight" } else { "attn_q_norm.weight" };
        if config["query_pre_attn_scalar"].is_number() && name.ends_with(into) {
            let (length, scalar) = (config["head_dim"].as_f64(), config["query_pre_attn_scalar"].as_f64());
            tensor = (tensor * (length.unwrap() / scalar.unwrap()).sqrt()).unwrap();
        }
        tensors.push((name, tensor));
    }
    for kind in ["short", "long"].into_iter().filter(|_| family == "phi3") {
        let list: Vec<f32> =
            serde_json::from_value(config["rope_parameters"][format!("{kind}_factor")].clone()).unwrap();
        tensors.push((format!("rope_factors_{kind}.weight"), Tensor::new(list, &Device::Cpu).unwrap()));
    }
    tensors
}

/// The metadata, as the converter writes it.
fn entries(family: &str, architecture: &str, config: &Json) -> Entries {
    let number = |names: &[&str]| names.iter().find_map(|name| config[*name].as_f64());
    let size = |names: &[&str]| Value::U32(number(names).unwrap() as u32);
    let (hidden, heads) =
        (number(&["hidden_size", "n_embd"]).unwrap(), number(&["num_attention_heads", "n_head"]).unwrap());
    let head_dim = number(&["head_dim"]).unwrap_or(hidden / heads);
    let kv_heads = if family == "falcon" { 1.0 } else { number(&["num_key_value_heads"]).unwrap_or(heads) };
    let mut entries = vec![
        ("context_length", size(&["max_position_embeddings", "n_positions"])),
        ("embedding_length", size(&["hidden_size", "n_embd"])),
        ("block_count", size(&["num_hidden_layers", "n_layer"])),
        (
            "feed_forward_length",
            Value::U32(number(&["intermediate_size", "ffn_hidden_size"]).unwrap_or(4.0 * hidden) as u32),
        ),
        ("attention.head_count", size(&["num_attention_heads", "n_head"])),
        ("attention.head_count_kv", Value::U32(kv_heads as u32)),
    ];
    let epsilon =
        Value::F32(number(&["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"]).unwrap() as f32);
    let layer = matches!(family, "gpt2" | "gpt_neox" | "stablelm" | "phi" | "falcon" | "starcoder2");
    entries.push((if layer { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" }, epsilon));
    let rope = &config["rope_parameters"];
    let full = if rope["full_attention"].is_object() { &rope["full_attention"] } else { rope };
    if let Some(part) = rope["partial_rotary_factor"].as_f64() {
        entries.push(("rope.dimension_count", Value::U32((head_dim * part) as u32)));
    }
    if let (Some(theta), false) = (full["rope_theta"].as_f64(), layer) {
        entries.push(("rope.freq_base", Value::F32(theta as f32)));
    }
    if family.starts_with("gemma") {
        entries.push(("attention.key_length", Value::U32(head_dim as u32)));
        entries.push(("attention.value_length", Value::U32(head_dim as u32)));
    }
    if let (Some(window), true) = (number(&["sliding_window"]), family != "qwen2") {
        entries.push(("attention.sliding_window", Value::U32(window as u32)));
    }
    match family {
        "gpt_neox" | "stablelm" => {
            let parallel = config["use_parallel_residual"].as_bool().unwrap_or(false);
            entries.push(("use_parallel_residual", Value::Bool(parallel)));
        }
        "gemma2" => {
            for name in ["attn_logit_softcapping", "final_logit_softcapping"] {
                entries.push((name, Value::F32(number(&[name]).unwrap() as f32)));
            }
        }
        "gemma3" => {
            entries.push(("attention.sliding_window_pattern", Value::U32(2)));
            entries.push(("rope.scaling.type", Value::String("linear".into())));
            entries.push(("rope.scaling.factor", Value::F32(full["factor"].as_f64().unwrap() as f32)));
        }
        "phi3" => {
            let original = rope["original_max_position_embeddings"].as_f64().unwrap();
            let grown = number(&["max_position_embeddings"]).unwrap() / original;
            let attention = (1.0 + grown.ln() / original.ln()).sqrt();
            entries.push(("rope.scaling.original_context_length", Value::U32(original as u32)));
            entries.push(("rope.scaling.attn_factor", Value::F32(attention as f32)));
        }
        _ => {}
    }
    let mut all = vec![("general.architecture".to_owned(), Value::String(architecture.into()))];
    all.extend(entries.into_iter().map(|(name, value)| (format!("{architecture}.{name}"), value)));
    all
}

/// A file of tensors in `f32`.
pub fn write(path: &Path, entries: &Entries, tensors: &[(String, Tensor)]) {
    let stored: Vec<QTensor> =
        tensors.iter().map(|(_, tensor)| QTensor::quantize(tensor, GgmlDType::F32).unwrap()).collect();
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().zip(&stored).map(|((name, _), tensor)| (&**name, tensor)).collect();
    let entries: Vec<(&str, &Value)> = entries.iter().map(|(name, value)| (&**name, value)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &entries, &tensors).unwrap();
}

/// As [`write`], with the tokenizer of all tiny models beside the file.
fn write_with_tokenizer(path: &Path, entries: &Entries, tensors: &[(String, Tensor)]) {
    write(path, entries, tensors);
    std::fs::copy(data().join("tokenizer.json"), path.with_file_name("tokenizer.json")).unwrap();
}

/// Entries of the tokenizer, which is read from the file beside.
fn with_tokens(mut entries: Entries) -> Entries {
    let tokenizer: Json = serde_json::from_slice(&std::fs::read(data().join("tokenizer.json")).unwrap()).unwrap();
    let mut tokens: Vec<(&String, u64)> =
        tokenizer["model"]["vocab"].as_object().unwrap().iter().map(|(t, id)| (t, id.as_u64().unwrap())).collect();
    tokens.sort_by_key(|(_, id)| *id);
    let texts = tokens.iter().map(|(text, _)| Value::String((*text).clone())).collect();
    entries.push(("tokenizer.ggml.model".into(), Value::String("gpt2".into())));
    entries.push(("tokenizer.ggml.tokens".into(), Value::Array(texts)));
    entries
}

const ARCHITECTURES: [(&str, &str); 11] = [
    ("gpt2", "gpt2"),
    ("phi3", "phi3"),
    ("gemma2", "gemma2"),
    ("gemma3", "gemma3"),
    ("olmo2", "olmo2"),
    ("gpt_neox", "gptneox"),
    ("stablelm", "stablelm"),
    ("gemma", "gemma"),
    ("phi", "phi2"),
    ("falcon", "falcon"),
    ("starcoder2", "starcoder2"),
];

#[test]
fn files_of_all_architectures_are_the_same_models() {
    for (family, architecture) in ARCHITECTURES {
        let folder = tempfile::tempdir().unwrap();
        let (path, config) = (folder.path().join("model.gguf"), config(family));
        write_with_tokenizer(&path, &with_tokens(entries(family, architecture, &config)), &tensors(family, &config));
        let (model, tokenizer) = Model::open(&path, Par::Seq).unwrap();
        let expected = Expected::of(family);
        println!("{family}");
        expected.assert_near("logits", model.trace(&expected.tokens).unwrap().logits.as_ref());
        // It is written as a directory, which is the same model.
        let saved = tempfile::tempdir().unwrap();
        model.save(&tokenizer, saved.path()).unwrap();
        let (again, _) = Model::open(saved.path(), Par::Seq).unwrap();
        expected.assert_near("logits", again.trace(&expected.tokens).unwrap().logits.as_ref());
        assert_eq!(again.family().name(), open(family).0.family().name());
    }
}

/// Divisors of the frequencies are those of the scaling that they were made for.
#[test]
fn scaled_positions_are_read() {
    let scaled = |more: Vec<(&str, Value)>, freqs: Option<Vec<f32>>| {
        let folder = tempfile::tempdir().unwrap();
        let (path, config) = (folder.path().join("model.gguf"), config("qwen2"));
        let (mut entries, mut tensors) = (entries("qwen2", "qwen2", &config), tensors("qwen2", &config));
        entries.extend(more.into_iter().map(|(name, value)| (format!("qwen2.rope.scaling.{name}"), value)));
        tensors.extend(freqs.map(|freqs| ("rope_freqs.weight".to_owned(), Tensor::new(freqs, &Device::Cpu).unwrap())));
        write_with_tokenizer(&path, &with_tokens(entries), &tensors);
        Model::open(&path, Par::Seq).map(|(model, _)| model)
    };
    let text = |text: &str| Value::String(text.into());
    let (plain, tokens) = (open("qwen2").0, Expected::of("qwen2").tokens);
    let directory = |scaling: RotaryScaling| {
        let folder = crate::llm_models::directory("qwen2");
        let mut tensors =
            candle_core::safetensors::load(folder.path().join("model.safetensors"), &Device::Cpu).unwrap();
        let mut source: std::collections::BTreeMap<_, _> = tensors
            .drain()
            .map(|(name, tensor)| {
                let numbers = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                (name, betaedit_core::llm::StoredTensor { shape: tensor.dims().to_vec(), numbers: numbers.into() })
            })
            .collect();
        let mut config = plain.config().clone();
        let Positions::Rotary(rotary) = &mut config.positions else { panic!("{config:?}") };
        rotary.scaling = scaling;
        let family = std::sync::Arc::new(betaedit_core::llm::families::Qwen2);
        Model::from_source(config, family, &mut source, Par::Seq).unwrap()
    };
    let logits = |model: &Model| model.trace(&tokens).unwrap().logits;
    let same = |one: &Model, other: &Model| {
        let (one, other) = (logits(one), logits(other));
        (&one - &other).norm_max() < 1e-4 * other.norm_max()
    };

    let linear = directory(RotaryScaling::Linear(4.0));
    assert!(!same(&linear, &plain));
    assert!(same(&scaled(vec![("type", text("linear")), ("factor", Value::F32(4.0))], None).unwrap(), &linear));
    let freqs = Some(vec![4.0; 8]);
    let by_freqs = scaled(vec![], freqs.clone()).unwrap();
    assert!(same(&by_freqs, &linear));

    let attention = 0.1 * 4.0_f64.ln() + 1.0;
    let yarn = RotaryScaling::Yarn { factor: 4.0, fast: 32.0, slow: 1.0, original_context: 32.0, attention };
    let yarn = directory(yarn);
    let original = ("original_context_length", Value::U32(32));
    let finetuned = ("finetuned", Value::Bool(true));
    let kind = [("type", text("yarn")), ("factor", Value::F32(4.0)), original, finetuned];
    assert!(same(&scaled(kind.to_vec(), None).unwrap(), &yarn) && !same(&yarn, &plain));

    for (more, freqs, named) in [
        (vec![("type", text("linear")), ("factor", Value::F32(4.0))], freqs.clone(), "rope_freqs.weight"),
        (vec![("type", text("other"))], None, "kind `other`"),
        (vec![("attn_factor", Value::F32(2.0))], None, "attn_factor"),
        (vec![("type", text("yarn")), ("yarn_log_multiplier", Value::F32(0.5))], None, "yarn_log_multiplier"),
        (vec![], Some(vec![4.0; 7]), "head of 16"),
    ] {
        let error = scaled(more, freqs).unwrap_err().to_string();
        assert!(error.contains(named), "{named}: {error}");
    }
}
