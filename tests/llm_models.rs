//! Every family of models against another implementation: `transformers` (see `tests/data/README.md`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use betaedit_core::Error;
use betaedit_core::error::FileError;
use betaedit_core::faer::{Mat, MatRef, Par};
use betaedit_core::llm::{BlockNorms, Model, Sampler, Site, TargetSearch, Tokenizer};
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use serde_json::Value;

pub const FAMILIES: [&str; 18] = [
    "llama",
    "llama-untied",
    "mistral",
    "qwen2",
    "qwen3",
    "gpt2",
    "gptj",
    "phi3",
    "gemma2",
    "gemma3",
    "olmo2",
    "gpt_neox",
    "stablelm",
    "gemma",
    "phi",
    "falcon",
    "falcon-grouped",
    "starcoder2",
];

/// Families with a norm behind the MLP.
pub const NORM_BEHIND_MLP: [&str; 3] = ["gemma2", "gemma3", "olmo2"];

/// Families whose MLP does not read the attention.
pub const PARALLEL: [&str; 5] = ["gptj", "gpt_neox", "phi", "falcon", "falcon-grouped"];

/// A search at the block's output, or at the MLP's where a norm stands behind it.
pub fn search(model: &Model) -> TargetSearch {
    TargetSearch::default().with_site(match model.config().block_norms {
        BlockNorms::Before => Site::Block,
        _ => Site::Mlp,
    })
}

/// A directory as a user has it: the models share one tokenizer, which is stored once.
pub fn directory(family: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let data = data();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(data.join(family).join(file), directory.path().join(file)).unwrap();
    }
    std::fs::copy(data.join("tokenizer.json"), directory.path().join("tokenizer.json")).unwrap();
    directory
}

pub fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny-models")
}

pub fn open(family: &str) -> (Model, Tokenizer) {
    Model::open(directory(family).path(), Par::Seq).unwrap()
}

/// What `transformers` computed: columns are tokens.
pub struct Expected {
    pub facts: Value,
    pub tokens: Vec<u32>,
    tensors: HashMap<String, Mat<f32>>,
}

impl Expected {
    pub fn of(family: &str) -> Self {
        let folder = data().join(family);
        let facts = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let ids = file.tensor("input_ids").unwrap();
        let size = ids.data().len() / ids.shape()[0];
        let tokens = ids.data().chunks(size).map(|id| u32::from_le_bytes(id[..4].try_into().unwrap())).collect();
        let mut tensors = HashMap::new();
        for (name, view) in file.tensors().into_iter().filter(|(name, _)| name != "input_ids") {
            let numbers: Vec<f32> = view.data().chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
            let rows = *view.shape().last().unwrap();
            let matrix = MatRef::from_column_major_slice(&numbers, rows, numbers.len() / rows).to_owned();
            tensors.insert(name, matrix);
        }
        Self { facts, tokens, tensors }
    }

    pub fn assert_near(&self, name: &str, found: MatRef<'_, f32>) {
        let expected = &self.tensors[name];
        assert_eq!(found.shape(), expected.shape(), "{name}");
        let error = (found - expected).norm_max() / expected.norm_max();
        assert!(error < 1e-4, "{name} is off by {error:e}");
    }
}

#[test]
fn logits_keys_and_block_outputs_are_those_of_transformers() {
    for family in FAMILIES {
        println!("{family}");
        let (model, _) = open(family);
        let expected = Expected::of(family);
        let trace = model.trace(&expected.tokens).unwrap();
        expected.assert_near("logits", trace.logits.as_ref());
        for layer in 0..model.config().layers {
            expected.assert_near(&format!("keys.{layer}"), trace.keys[layer].as_ref());
            expected.assert_near(&format!("block_output.{layer}"), trace.block_outputs[layer].as_ref());
        }
    }
}

#[test]
fn the_tokenizer_reads_the_prompt_as_transformers_does() {
    let (_, tokenizer) = open("llama");
    let expected = Expected::of("llama");
    let prompt = expected.facts["prompt"].as_str().unwrap();
    assert_eq!(tokenizer.encode(prompt).unwrap(), expected.tokens);
    // A start that is asked for stands in front of that.
    let tokens = tokenizer.clone().with_start(Some(0)).encode(prompt).unwrap();
    assert_eq!((tokens[0], &tokens[1..]), (0, &expected.tokens[..]));
    assert_eq!(tokenizer.decode(&tokens).unwrap(), prompt);
}

/// The directory again, its tensors of another type and in two files.
fn sharded(family: &str, dtype: DType) -> tempfile::TempDir {
    let directory = directory(family);
    let at = |file: &str| directory.path().join(file);
    let tensors = candle_core::safetensors::load(at("model.safetensors"), &Device::Cpu).unwrap();
    std::fs::remove_file(at("model.safetensors")).unwrap();
    let mut shards: [HashMap<String, Tensor>; 2] = Default::default();
    let mut places = serde_json::Map::new();
    for (i, (name, tensor)) in tensors.into_iter().enumerate() {
        places.insert(name.clone(), format!("model-{}-of-2.safetensors", i % 2 + 1).into());
        shards[i % 2].insert(name, tensor.to_dtype(dtype).unwrap());
    }
    for (i, shard) in shards.iter().enumerate() {
        candle_core::safetensors::save(shard, at(&format!("model-{}-of-2.safetensors", i + 1))).unwrap();
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": places});
    std::fs::write(at("model.safetensors.index.json"), index.to_string()).unwrap();
    directory
}

#[test]
fn shards_and_half_precision_are_read() {
    let tokens = Expected::of("qwen2").tokens;
    let whole = open("qwen2").0;
    let logits = whole.trace(&tokens).unwrap().logits;
    for (dtype, tolerance) in [(DType::F32, 0.0), (DType::F16, 5e-3), (DType::BF16, 5e-2)] {
        let directory = sharded("qwen2", dtype);
        let (model, _) = Model::open(directory.path(), Par::Seq).unwrap();
        let found = model.trace(&tokens).unwrap().logits;
        let error = (&found - &logits).norm_max() / logits.norm_max();
        assert!(error <= tolerance, "{dtype:?}: {error}");
        assert_eq!(model.fingerprint() == whole.fingerprint(), dtype == DType::F32);
    }
}

#[test]
fn a_directory_that_is_not_in_order_is_refused_by_name() {
    let problem = |path: &Path| match Model::open(path, Par::Seq).err().unwrap() {
        Error::File(FileError::Format { path, problem }) => format!("{}: {problem}", path.display()),
        Error::File(FileError::Io { path, .. }) => format!("{}: io", path.display()),
        other => panic!("{other}"),
    };
    let sharded = sharded("llama", DType::F32);
    std::fs::remove_file(sharded.path().join("model-2-of-2.safetensors")).unwrap();
    assert!(problem(sharded.path()).contains("model-2-of-2.safetensors: io"));

    let changed = |from: &str, to: &str| {
        let directory = directory("llama");
        let config = directory.path().join("config.json");
        let text = std::fs::read_to_string(&config).unwrap();
        assert!(text.contains(from));
        std::fs::write(&config, text.replace(from, to)).unwrap();
        problem(directory.path())
    };
    assert!(
        changed(r#""model_type": "llama""#, r#""model_type": "mamba""#)
            .contains("`model_type` is mamba, choose one of: llama, mistral")
    );
    assert!(changed(r#""hidden_act": "silu""#, r#""hidden_act": "tanh""#).contains("`hidden_act` is tanh"));
    assert!(changed(r#""rope_type": "default""#, r#""rope_type": "mrope""#).contains("`mrope` is not supported"));
    assert!(changed(r#""hidden_size": 64"#, r#""hidden_size": 65"#).contains("model.embed_tokens.weight"));
    assert!(
        changed(r#""num_hidden_layers": 4"#, r#""num_hidden_layers": 5"#)
            .contains("layers.4.self_attn.q_proj.weight` is missing")
    );
    assert!(changed(r#""num_key_value_heads": 2"#, r#""num_key_value_heads": 0"#).contains("do not fit together"));

    let directory = directory("llama");
    let weights = directory.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    assert!(problem(directory.path()).contains("bytes of tensors, there are"));
    std::fs::write(&weights, [255; 100]).unwrap();
    assert!(problem(directory.path()).contains("a header of"));
    std::fs::write(&weights, bytes).unwrap();
    std::fs::write(directory.path().join("tokenizer.json"), "{}").unwrap();
    assert!(problem(directory.path()).contains("not a readable tokenizer"));
}

/// What is written is what was read: the fingerprint is that of all numbers.
#[test]
fn a_model_survives_being_written() {
    for family in FAMILIES {
        let (model, tokenizer) = open(family);
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("new").join("model");
        model.save(&tokenizer, &place).unwrap();
        let (again, tokenizer_again) = Model::open(&place, Par::Seq).unwrap();
        assert_eq!(again.config(), model.config(), "{family}");
        assert_eq!(again.fingerprint(), model.fingerprint(), "{family}");
        let text = "The Eiffel Tower is in";
        let tokens = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer_again.encode(text).unwrap(), tokens, "{family}");
        assert_eq!(again.trace(&tokens).unwrap().logits, model.trace(&tokens).unwrap().logits, "{family}");
    }
}

/// A window of one token: each sees itself alone, and says what it says as the whole text. Of two: what stands two before is
/// not seen by the first block. As long as the text: no window.
#[test]
fn a_sliding_window_hides_what_is_before_it() {
    let windowed = |window: Value| {
        let folder = directory("mistral");
        let path = folder.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["sliding_window"] = window;
        std::fs::write(&path, config.to_string()).unwrap();
        Model::open(folder.path(), Par::Seq).unwrap().0
    };
    let tokens = Expected::of("mistral").tokens;
    let near = |a: MatRef<'_, f32>, b: MatRef<'_, f32>| (a - b).norm_max() < 1e-4 * b.norm_max();

    let one = windowed(1.into());
    let whole = one.trace(&tokens).unwrap().logits;
    for (t, &token) in tokens.iter().enumerate() {
        let alone = one.trace(&[token]).unwrap().logits;
        assert!(near(whole.as_ref().subcols(t, 1), alone.as_ref()), "token {t}");
    }

    let two = windowed(2.into());
    let mut others = tokens.clone();
    others[0] += 1;
    let [a, b] = [&tokens, &others].map(|tokens| two.trace(tokens).unwrap().block_outputs.swap_remove(0));
    for t in 0..tokens.len() {
        assert_eq!(near(a.as_ref().subcols(t, 1), b.as_ref().subcols(t, 1)), t >= 2, "token {t}");
    }

    let all = windowed(Value::Null).trace(&tokens).unwrap().logits;
    assert_eq!(windowed(tokens.len().into()).trace(&tokens).unwrap().logits, all);
}

/// Prompts of which all begin alike, up to where one of them ends, and prompts that do not.
#[test]
fn answers_together_are_those_of_each_alone() {
    for family in FAMILIES {
        let (model, _) = open(family);
        let tokens = Expected::of(family).tokens;
        let (one, other) = (&tokens[..], [&tokens[..2], &tokens[3..]].concat());
        for prompts in [
            vec![(one, 4), (&other[..], 6), (&tokens[..3], 1)],
            vec![(one, 3), (one, 5)],
            vec![(one, 3), (&tokens[..1], 3)],
            vec![(one, 3), (&tokens[1..], 3)],
            vec![(one, 0), (&other[..], 2), (&tokens[..4], 2)],
        ] {
            // So many of them that a common start is run once.
            let prompts = prompts.repeat(9);
            let together = model.generate_each(&prompts, &[]).unwrap();
            for ((prompt, count), found) in prompts.iter().zip(together) {
                assert_eq!(found.len(), *count, "{family}");
                assert_eq!(found, model.generate(prompt, *count, &mut Sampler::Greedy).unwrap(), "{family}");
            }
        }
    }
}
