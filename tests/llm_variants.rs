//! Variants of models: what `transformers` computes for them (`tests/data/variants.json`), or a refusal that names the reason.

use std::collections::BTreeMap;
use std::path::Path;

use betaedit_core::faer::Par;
use betaedit_core::llm::{Bias, Model};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};

use crate::llm_models::directory;

/// A stored tensor of `f32`: shape and numbers.
type Stored = (Vec<usize>, Vec<f32>);

fn tensors(folder: &Path) -> BTreeMap<String, Stored> {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |view: &TensorView<'_>| match view.dtype() {
        Dtype::BF16 => view.data().chunks(2).map(|x| f32::from_le_bytes([0, 0, x[0], x[1]])).collect(),
        _ => view.data().chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect(),
    };
    file.tensors().into_iter().map(|(name, view)| (name, (view.shape().to_vec(), numbers(&view)))).collect()
}

fn write_tensors(path: &Path, tensors: &BTreeMap<String, Stored>) {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, numbers))| (name, shape, numbers.iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let views = bytes
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn config(folder: &Path) -> Map<String, Value> {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
}

/// Changes a `config.json`: null removes an entry.
fn change(folder: &Path, changes: &Value) {
    let mut config = config(folder);
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(config.remove(name)),
            Value::String(text) if text == "null" => drop(config.insert(name.clone(), Value::Null)),
            Value::Object(inner) => {
                let value = |value: &Value| if *value == "null" { Value::Null } else { value.clone() };
                let inner: Map<String, Value> =
                    inner.iter().map(|(name, inner)| (name.clone(), value(inner))).collect();
                drop(config.insert(name.clone(), Value::Object(inner)));
            }
            value => drop(config.insert(name.clone(), value.clone())),
        }
    }
    std::fs::write(folder.join("config.json"), Value::Object(config).to_string()).unwrap();
}

/// Changes tensors as `make_variants.py` does.
fn change_tensors(folder: &Path, changes: &Value) {
    let mut stored = tensors(folder);
    let config = config(folder);
    let layers = config.get("num_hidden_layers").or(config.get("n_layer")).unwrap().as_u64().unwrap();
    for projection in changes["biases"].as_array().into_iter().flatten() {
        for layer in 0..layers {
            let name = format!("model.layers.{layer}.{}", projection.as_str().unwrap());
            let n = stored[&format!("{name}.weight")].0[0];
            let bias = (0..n).map(|i| ((i % 7) as f32 - 3.0) * 0.05).collect();
            stored.insert(format!("{name}.bias"), (vec![n], bias));
        }
    }
    for (old, new) in changes["rename"].as_object().into_iter().flatten() {
        let tensor = stored.remove(old).unwrap();
        stored.insert(new.as_str().unwrap().to_owned(), tensor);
    }
    for end in changes["remove"].as_array().into_iter().flatten() {
        stored.retain(|name, _| !name.ends_with(end.as_str().unwrap()));
    }
    if let Some(head) = changes["head"].as_str() {
        let (shape, mut numbers) = stored["model.embed_tokens.weight"].clone();
        if head == "another" {
            numbers = numbers.chunks(shape[1]).rev().flatten().copied().collect();
        }
        stored.insert("lm_head.weight".to_owned(), (shape, numbers));
    }
    if changes["buffers"] == true {
        for layer in 0..layers {
            stored.insert(format!("transformer.h.{layer}.attn.bias"), (vec![1, 1, 8, 8], vec![1.0; 64]));
            stored.insert(format!("transformer.h.{layer}.attn.masked_bias"), (vec![], vec![-1e4]));
        }
    }
    write_tensors(&folder.join("model.safetensors"), &stored);
}

fn mean_nll(model: &Model, tokens: &[u32]) -> f64 {
    let scores = model.score_continuations(&[(tokens, 1)]).unwrap().remove(0).log_probabilities;
    -scores.iter().map(|x| f64::from(*x)).sum::<f64>() / scores.len() as f64
}

#[test]
fn variants_are_what_transformers_computes() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/variants.json");
    let recorded: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let tokens: Vec<u32> = serde_json::from_value(recorded["tokens"].clone()).unwrap();
    let variants = recorded["variants"].as_array().unwrap();
    assert!(variants.len() > 40);
    for variant in variants {
        let folder = directory(variant["family"].as_str().unwrap());
        change(folder.path(), &variant["config"]);
        change_tensors(folder.path(), &variant["tensors"]);
        let (model, tokenizer) = Model::open(folder.path(), Par::Seq).unwrap();
        let (found, expected) = (mean_nll(&model, &tokens), variant["nll"].as_f64().unwrap());
        assert!((found - expected).abs() < 2e-5 * expected, "{}: {found} {expected}", variant["name"]);

        // Saved in full, it is the same model, also for whoever reads its `config.json` alone.
        let saved = tempfile::tempdir().unwrap();
        model.save(&tokenizer, saved.path()).unwrap();
        let (again, _) = Model::open(saved.path(), Par::Seq).unwrap();
        assert!((mean_nll(&again, &tokens) - found).abs() < 1e-6 * found, "{}", variant["name"]);
    }
}

/// What could change the computation and is not understood is refused by name, and so is what contradicts itself.
#[test]
fn other_variants_are_refused_by_name() {
    let linear = json!({"rope_type": "linear", "factor": 4.0});
    for (family, changes, named) in [
        ("llama", json!({"rope_scaling": linear}), vec!["rope_parameters", "rope_scaling"]),
        ("llama", json!({"rope_parameters": {"rope_type": "mrope", "factor": 4.0}}), vec!["mrope"]),
        ("llama", json!({"rope_parameters": {"rope_type": "yarn"}}), vec!["rope_parameters", "`factor`"]),
        (
            "llama",
            json!({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "truncate": false}}),
            vec!["truncate"],
        ),
        ("llama", json!({"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "alpha": 2.0}}), vec!["alpha"]),
        (
            "llama",
            json!({"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}),
            vec!["LongRope", "head of 16"],
        ),
        ("llama", json!({"rope_parameters": {"rope_type": "longrope", "short_factor": 1.0}}), vec!["short_factor"]),
        ("phi3", json!({"partial_rotary_factor": 0.5}), vec!["partial_rotary_factor", "0.75"]),
        ("phi3", json!({"original_max_position_embeddings": "null"}), vec!["original_max_position_embeddings", "4096"]),
        ("phi3", json!({"num_local_experts": 16}), vec!["num_local_experts"]),
        ("gemma2", json!({"use_bidirectional_attention": true}), vec!["use_bidirectional_attention"]),
        ("gemma2", json!({"final_logit_softcapping": -1.0}), vec!["logit_cap", "-1"]),
        ("gemma3", json!({"attn_logit_softcapping": 3.0}), vec!["attn_logit_softcapping", "3.0"]),
        ("gemma3", json!({"rope_parameters": {"rope_type": "default"}}), vec!["rope_parameters", "full_attention"]),
        ("gpt_neox", json!({"rotary_pct": 0.1}), vec!["rotary_pct", "0.5"]),
        ("gpt_neox", json!({"rope_theta": 5e5}), vec!["rope_theta"]),
        ("stablelm", json!({"qk_layernorm": true}), vec!["qk_layernorm"]),
        ("llama", json!({"rope_parameters": {"rope_type": "default", "beta_fast": 32.0}}), vec!["beta_fast"]),
        ("llama", json!({"rope_parameters": {"rope_theta": 1e4}, "rope_theta": 5e5}), vec!["rope_theta", "500000"]),
        ("llama", json!({"partial_rotary_factor": 0.5}), vec!["partial_rotary_factor"]),
        (
            "llama",
            json!({"residual_multiplier": 0.22, "logit_scale": 2.0}),
            vec!["residual_multiplier", "0.22", "logit_scale"],
        ),
        ("llama", json!({"final_logit_softcapping": 30.0}), vec!["final_logit_softcapping"]),
        ("llama", json!({"quantization_config": {"quant_method": "gptq"}}), vec!["quantization_config", "gptq"]),
        ("llama", json!({"sliding_window": 8}), vec!["sliding_window"]),
        ("llama", json!({"hidden_act": "relu"}), vec!["hidden_act", "relu"]),
        ("llama", json!({"rms_norm_eps": "1e-5"}), vec!["rms_norm_eps", "a number"]),
        ("llama", json!({"head_dim": "16"}), vec!["head_dim", "a whole number"]),
        ("llama", json!({"attention_bias": true}), vec!["q_proj.bias"]),
        ("qwen3", json!({"layer_types": ["full_attention"], "use_sliding_window": true}), vec!["layer_types", "4"]),
        (
            "qwen3",
            json!({"layer_types": ["full_attention", "chunked_attention", "full_attention", "full_attention"]}),
            vec!["chunked_attention"],
        ),
        (
            "qwen2",
            json!({"layer_types": ["sliding_attention", "full_attention", "full_attention", "full_attention"], "use_sliding_window": false}),
            vec!["layer_types", "use_sliding_window"],
        ),
        ("mistral", json!({"layer_types": ["full_attention"]}), vec!["layer_types"]),
        ("gpt2", json!({"scale_attn_by_inverse_layer_idx": true}), vec!["scale_attn_by_inverse_layer_idx"]),
        ("gpt2", json!({"scale_attn_weights": false}), vec!["scale_attn_weights"]),
        ("gpt2", json!({"num_attention_heads": 2}), vec!["n_head", "num_attention_heads"]),
        ("gptj", json!({"add_cross_attention": true}), vec!["add_cross_attention"]),
    ] {
        let folder = directory(family);
        change(folder.path(), &changes);
        let error = Model::open(folder.path(), Par::Seq).unwrap_err().to_string();
        assert!(named.iter().all(|name| error.contains(name)), "{changes}: {error}");
    }
}

/// Files as they are published have entries that their classes pass over.
#[test]
fn published_entries_are_known() {
    for (family, more) in [
        (
            "phi3",
            json!({"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": false, "attention_bias": false, "embd_pdrop": 0.0}),
        ),
        ("gemma2", json!({"hidden_act": "gelu_pytorch_tanh", "cache_implementation": "hybrid"})),
        ("gemma3", json!({"cache_implementation": "hybrid"})),
        ("gemma", json!({"hidden_activation": "gelu_pytorch_tanh"})),
        ("gpt_neox", json!({"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0, "is_decoder": true})),
        ("falcon", json!({"apply_residual_connection_post_layernorm": false, "auto_map": {"AutoConfig": "a--b.C"}})),
        (
            "starcoder2",
            json!({
                "activation_function": "gelu", "attention_softmax_in_fp32": true, "layer_norm_epsilon": 1e-5, "mlp_type": "default",
                "norm_type": "layer_norm", "scale_attention_softmax_in_fp32": true, "scale_attn_weights": true
            }),
        ),
    ] {
        let folder = directory(family);
        change(folder.path(), &more);
        Model::open(folder.path(), Par::Seq).unwrap();
    }
    // A context in which the frequencies are what they are.
    let folder = directory("phi3");
    let (model, _) = Model::open(folder.path(), Par::Seq).unwrap();
    assert_eq!(model.config().context, 256);
    assert!(model.trace(&[1; 257]).is_err() && model.trace(&[1; 256]).is_ok());
    // Experts are told apart from an unknown model.
    let folder = directory("llama");
    change(folder.path(), &json!({"model_type": "mixtral", "num_local_experts": 8}));
    let error = Model::open(folder.path(), Par::Seq).unwrap_err().to_string();
    assert!(error.contains("`model_type` is mixtral") && error.contains("experts"), "{error}");
}

/// Entries that change nothing do no harm.
#[test]
fn harmless_entries_are_passed_over() {
    let folder = directory("llama");
    let plain = Model::open(folder.path(), Par::Seq).unwrap().0;
    let more = json!({
        "attention_dropout": 0.1, "unsloth_version": "2025.1", "pretraining_tp": 1, "residual_multiplier": 1.0, "sliding_window": "null",
        "temperature": 0.6, "_attn_implementation_autoset": true, "pruned_heads": {}, "rope_interleaved": false, "id2label": {"0": "A"}
    });
    change(folder.path(), &more);
    assert_eq!(Model::open(folder.path(), Par::Seq).unwrap().0.fingerprint(), plain.fingerprint());
}

#[test]
fn tensors_that_are_not_part_of_the_model_are_refused_by_name() {
    for (family, name) in [
        ("llama", "model.layers.0.self_attn.q_proj.lora_A.default.weight"),
        ("llama", "model.layers.1.self_attn.q_norm.weight"),
        ("llama", "model.layers.3.mlp.down_proj.bias"),
        ("qwen2", "model.layers.0.self_attn.o_proj.bias"),
        ("gpt2", "lm_head.bias"),
        ("llama-untied", "score.weight"),
    ] {
        let folder = directory(family);
        let mut stored = tensors(folder.path());
        stored.insert(name.to_owned(), (vec![64], vec![0.5; 64]));
        write_tensors(&folder.path().join("model.safetensors"), &stored);
        let error = Model::open(folder.path(), Par::Seq).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("not part of"), "{error}");
    }
    // Frequencies that older programs stored are computed anew.
    let folder = directory("llama");
    let mut stored = tensors(folder.path());
    stored.insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), (vec![8], vec![1.0; 8]));
    write_tensors(&folder.path().join("model.safetensors"), &stored);
    let (model, _) = Model::open(folder.path(), Par::Seq).unwrap();
    assert_eq!(model.config().biases.mlp, Bias::Absent);
    assert!(model.config().tied);
}

/// What is wrong with a directory is said, with what to do.
#[test]
fn wrong_directories_are_told_apart() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4\n";
    type Spoil = fn(&Path);
    let spoiled: [(Spoil, &[&str]); 13] = [
        (
            |folder| std::fs::rename(folder.join("model.safetensors"), folder.join("tf_model.h5")).unwrap(),
            &["tf_model.h5", "save_pretrained"],
        ),
        (
            |folder| std::fs::write(folder.join("adapter_config.json"), "{}").unwrap(),
            &["adapter beside the model", "adapter_config.json"],
        ),
        (
            |folder| std::fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap(),
            &["pytorch_model.bin", "save_pretrained"],
        ),
        (
            |folder| {
                std::fs::rename(folder.join("model.safetensors"), folder.join("model-00001-of-00002.safetensors"))
                    .unwrap()
            },
            &["model-00001-of-00002.safetensors", "index"],
        ),
        (
            |folder| std::fs::remove_file(folder.join("model.safetensors")).unwrap(),
            &["neither `model.safetensors` nor"],
        ),
        (|folder| std::fs::remove_file(folder.join("config.json")).unwrap(), &["no `config.json`"]),
        (
            |folder| {
                std::fs::remove_file(folder.join("config.json")).unwrap();
                std::fs::remove_file(folder.join("model.safetensors")).unwrap();
                std::fs::write(folder.join("adapter_config.json"), "{}").unwrap();
            },
            &["adapter", "merge_and_unload"],
        ),
        (
            |folder| {
                std::fs::remove_file(folder.join("config.json")).unwrap();
                std::fs::create_dir(folder.join("snapshots")).unwrap();
            },
            &["cache", "snapshots/REVISION"],
        ),
        (
            |folder| {
                std::fs::remove_file(folder.join("config.json")).unwrap();
                std::fs::create_dir(folder.join("models--org--name")).unwrap();
            },
            &["cache of many", "models--org--name"],
        ),
        (
            |folder| {
                std::fs::remove_file(folder.join("model.safetensors")).unwrap();
                std::fs::write(folder.join("some.gguf"), "GGUF").unwrap();
            },
            &["some.gguf"],
        ),
        (
            |folder| std::fs::rename(folder.join("tokenizer.json"), folder.join("tokenizer.model")).unwrap(),
            &["tokenizer.model", "save_pretrained"],
        ),
        (|folder| std::fs::write(folder.join("config.json"), "[1]").unwrap(), &["not a JSON object"]),
        (
            |folder| {
                let index = json!({"weight_map": {"a": "model-00001-of-00001.safetensors"}});
                std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
            },
            &["two sets of weights"],
        ),
    ];
    for (spoil, said) in spoiled {
        let folder = directory("llama");
        spoil(folder.path());
        let error = Model::open(folder.path(), Par::Seq).unwrap_err().to_string();
        assert!(said.iter().all(|part| error.contains(part)), "{said:?}: {error}");
    }
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        let folder = directory("llama");
        std::fs::write(folder.path().join(name), pointer).unwrap();
        let error = Model::open(folder.path(), Par::Seq).unwrap_err().to_string();
        assert!(error.contains("Git LFS pointer") && error.contains("git lfs pull") && error.contains(name), "{error}");
    }
    let folder = directory("llama");
    for name in ["model.safetensors", "config.json"] {
        let error = Model::open(folder.path().join(name), Par::Seq).unwrap_err().to_string();
        assert!(error.contains("give the directory"), "{error}");
    }
    std::fs::write(folder.path().join("model.gguf"), pointer).unwrap();
    let error = Model::open(folder.path().join("model.gguf"), Par::Seq).unwrap_err().to_string();
    assert!(error.contains("Git LFS pointer"), "{error}");

    // An index of the one file is no second set.
    let names: Map<String, Value> =
        tensors(folder.path()).into_keys().map(|name| (name, json!("model.safetensors"))).collect();
    std::fs::write(folder.path().join("model.safetensors.index.json"), json!({"weight_map": names}).to_string())
        .unwrap();
    Model::open(folder.path(), Par::Seq).unwrap();
}
