//! Families of models: those of the crate by what they write down, and one from outside of it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use betaedit_core::Error;
use betaedit_core::Orientation;
use betaedit_core::error::{FileError, ModelError};
use betaedit_core::faer::{Mat, Par};
use betaedit_core::format::Checkpoint;
use betaedit_core::llm::families::{
    AttentionNames, ConfigFile, GgufLayout, GgufMetadata, Gpt2, GptJ, Llama, Mistral, Qwen2, Qwen3, TensorLayout,
};
use betaedit_core::llm::serde_json::{Value, json};
use betaedit_core::llm::{
    Anchor, CollectionProgress, Collector, Config, Contexts, Continuation, Descent, Families, Family, FineTuning,
    LowRankTuning, Model, ModelAdapter, Positions, Request, Rotary, Sampler, Site, Sizes, Source, Steered,
    SteeredEvaluation, Steering, StoredTensor, Target, TargetSearch, Tokenizer, Trace, Tuned,
};
use betaedit_core::{Adapter, Result};
use candle_core::{Device, Tensor};

use crate::llm_gguf::gguf;
use crate::llm_models::{Expected, FAMILIES, data, directory, open};

/// Statistics and sessions on disk are kept under these texts.
#[test]
fn fingerprints_are_those_of_earlier_versions() {
    let expected = [
        ("llama", "Llama 51008491e7263c4ae8935582afa6b9bf8c42e50c00775ff16317e51ba16e790d"),
        ("llama-untied", "Llama 7872f8db666c643b6f35cd2b1c4bb7a1027f1625a8a8057555671ecb6f590ff4"),
        ("mistral", "Mistral 78d57bad8703435ff9c1b4e375528c9d30fba35eb49a266df38cc8698d58f604"),
        ("qwen2", "Qwen2 3f43e1cbf6b921522b9157c4d9f78e156f4fbf1cb763dfb1ba85b4dda85024a1"),
        ("qwen3", "Qwen3 1a1afc11ef941e4647aea8d6187dc971009126a3dea7d042e12a9dfc95655ec8"),
        ("gpt2", "Gpt2 2b8cb3cf47971d8ccb5ec704aae26d4fa3b4361727a1ed68a6ed1f37b9ff9123"),
        ("gptj", "GptJ 575936749e02ab97cac2ecc4bfd0d4cc30f1a10f1d777382e7cf6ab1aa0ce943"),
        ("phi3", "Phi3 92a8deb3df61902e658a0a7563ca71c0455de460216835b2a1a0ae705dae0ceb"),
        ("gemma2", "Gemma2 7e8011df20321806fefdb9da520bf22e677872cfaa634d63757260ac5030c89a"),
        ("gemma3", "Gemma3 7fed96e66524ece9cc82afdf443af97463a29cf0421cfc4f8f7ee301e2593381"),
        ("olmo2", "Olmo2 fb28b1c1f35da40434eb632dcf8b51191d272c3f3b56c3e4967829458b20edd2"),
        ("gpt_neox", "GptNeoX e5535fdc2932fa9f8490feae09936a55935dc9115aca06aafcac90b719ea3589"),
        ("stablelm", "StableLm 211b4b743138861d61b8c8214e7423ad59288b7fb206cdca189322928d394dab"),
        ("gemma", "Gemma dec825ad45336806e1c2855f88ecdf9102448fb0c24639a0859a5b4c816e6ed7"),
        ("phi", "Phi 7ad35262925f62c677da6330c4e71fc498c288b949084a98d6e233bf29aeda65"),
        ("falcon", "Falcon ab00c1b318e1346773710bb51d943af955a6a2a8e7a1de2558906031e332ecce"),
        ("falcon-grouped", "Falcon cb5d198933bc1eaffb3845426a9fb1277c768a16fc940711a49c40f9320c078f"),
        ("starcoder2", "StarCoder2 97545b460cd7dcd775699d6d379c84237623762ece2cdd842edd8d2847175dea"),
    ];
    assert_eq!(expected.map(|(family, _)| family), FAMILIES);
    let found = FAMILIES.map(|family| (family, open(family).0.fingerprint().to_owned()));
    assert_eq!(found.each_ref().map(|(family, found)| (*family, &**found)), expected);
    for family in ["llama", "qwen2", "qwen3"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        gguf(family, family, &path);
        let (model, _) = Model::open(&path, Par::Seq).unwrap();
        assert_eq!(model.fingerprint(), open(family).0.fingerprint(), "{family}");
    }
}

/// A family of somebody else: Llama's shape, under other names, with queries, keys and values in one matrix if it is `joined`.
#[derive(Clone, Debug)]
struct Own {
    joined: bool,
    /// A tensor that its layout has no name for.
    without_gate: bool,
}

const OWN: Own = Own { joined: false, without_gate: false };

impl Family for Own {
    fn name(&self) -> &str {
        "Own"
    }

    fn model_type(&self) -> &str {
        "own"
    }

    fn config(&self, file: &ConfigFile) -> Result<Config> {
        if file.flag_or("has_adapters", false)? {
            return Err(file.refuse("adapters are not supported"));
        }
        let mut config = Config::new(Sizes {
            layers: file.size("depth")?,
            hidden: file.size("width")?,
            intermediate: file.size("mlp_width")?,
            heads: file.size("query_heads")?,
            vocabulary: file.size("tokens")?,
            context: file.size("longest")?,
        });
        config.kv_heads = file.size("key_heads")?;
        config.norm_epsilon = file.number_or("epsilon", 1e-5)?;
        config.positions = Positions::Rotary(Rotary::new(file.number_or("base", 1e4)?, config.head_dim));
        config.tied = true;
        Ok(config)
    }

    fn config_json(&self, config: &Config) -> Value {
        let Positions::Rotary(rotary) = &config.positions else { panic!("{config:?}") };
        json!({
            "model_type": self.model_type(), "base": rotary.theta, "depth": config.layers, "width": config.hidden, "tokens": config.vocabulary,
            "mlp_width": config.intermediate, "query_heads": config.heads, "key_heads": config.kv_heads,
            "longest": config.context, "epsilon": config.norm_epsilon,
        })
    }

    fn layout(&self) -> TensorLayout {
        let mut layout = TensorLayout::llama();
        layout.embedding = "tokens".into();
        layout.norm = "last_norm".into();
        layout.attention_norm = "{}.norm_1".into();
        layout.attention = match self.joined {
            false => AttentionNames::separate("{}.q", "{}.k", "{}.v"),
            true => AttentionNames::Joined("{}.qkv".into()),
        };
        layout.attention_output = "{}.o".into();
        layout.mlp_norm = Some("{}.norm_2".into());
        layout.gate = Some("{}.gate".into()).filter(|_| !self.without_gate);
        layout.up = "{}.up".into();
        layout.down = "{}.down".into();
        layout
    }

    fn gguf(&self) -> Option<GgufLayout> {
        Some(GgufLayout::llama_cpp("own"))
    }
}

/// The tiny Llama, with everything renamed.
fn renamed(joined: bool) -> tempfile::TempDir {
    let names = [
        ("model.embed_tokens", "tokens"),
        ("model.norm", "last_norm"),
        ("model.layers.", ""),
        ("input_layernorm", "norm_1"),
        ("post_attention_layernorm", "norm_2"),
        ("self_attn.q_proj", "q"),
        ("self_attn.k_proj", "k"),
        ("self_attn.v_proj", "v"),
        ("self_attn.o_proj", "o"),
        ("mlp.gate_proj", "gate"),
        ("mlp.up_proj", "up"),
        ("mlp.down_proj", "down"),
    ];
    let folder = directory("llama");
    let path = folder.path().join("model.safetensors");
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let rename = |name: String| names.iter().fold(name, |name, (from, to)| name.replace(from, to));
    let mut tensors: HashMap<String, Tensor> =
        tensors.into_iter().map(|(name, tensor)| (rename(name), tensor)).collect();
    if joined {
        for layer in 0..4 {
            let parts = ["q", "k", "v"].map(|part| tensors.remove(&format!("{layer}.{part}.weight")).unwrap());
            tensors.insert(format!("{layer}.qkv.weight"), Tensor::cat(&parts, 0).unwrap());
        }
    }
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let config = open("llama").0.config().clone();
    std::fs::write(folder.path().join("config.json"), OWN.config_json(&config).to_string()).unwrap();
    folder
}

fn own(joined: bool) -> Own {
    Own { joined, ..OWN }
}

#[test]
fn a_family_from_outside_is_the_same_model_under_other_names() {
    let (llama, _) = open("llama");
    let tokens = Expected::of("llama").tokens;
    let expected = llama.trace(&tokens).unwrap();
    for joined in [false, true] {
        let folder = renamed(joined);
        let families = Families::built_in().with(own(joined));
        let (model, tokenizer) = Model::open_with(folder.path(), &families, Par::Seq).unwrap();
        assert_eq!(model.config(), llama.config());
        let trace = model.trace(&tokens).unwrap();
        assert_eq!((trace.logits, trace.keys), (expected.logits.clone(), expected.keys.clone()), "joined: {joined}");
        assert_eq!(model.edited_tensor(2).unwrap(), ("2.down.weight".into(), Orientation::OutputsByInputs));
        // The numbers are the same ones in the same order.
        let hash = llama.fingerprint().strip_prefix("Llama ").unwrap();
        assert_eq!(model.fingerprint(), format!("Own {hash}"));
        // It is written as it was read.
        let place = tempfile::tempdir().unwrap();
        model.save(&tokenizer, place.path()).unwrap();
        let (again, _) = Model::open_with(place.path(), &families, Par::Seq).unwrap();
        assert_eq!((again.fingerprint(), again.config()), (model.fingerprint(), model.config()));
        let names = |folder: &Path| Checkpoint::open(folder).unwrap().names().map(String::from).collect::<Vec<_>>();
        assert_eq!(names(place.path()), names(folder.path()));
    }
}

#[test]
fn what_a_family_cannot_say_is_refused_by_name() {
    let problem = |folder: &Path, families: &Families| match Model::open_with(folder, families, Par::Seq) {
        Err(Error::File(FileError::Format { path, problem })) => {
            format!("{}: {problem}", path.file_name().unwrap().display())
        }
        other => panic!("{other:?}"),
    };
    let folder = renamed(false);
    let refused = problem(folder.path(), &Families::built_in());
    assert_eq!(
        refused,
        "config.json: `model_type` is own, choose one of: llama, mistral, qwen2, qwen3, gpt2, gptj, phi3, gemma2, gemma3_text, olmo2, gpt_neox, \
         stablelm, gemma, phi, falcon, starcoder2"
    );
    let without_gate = Families::built_in().with(Own { without_gate: true, ..OWN });
    assert!(problem(folder.path(), &without_gate).ends_with("the model's family has no name for the gate of the MLP"));
    let families = Families::built_in().with(own(true));
    assert!(problem(folder.path(), &families).contains("tensor `0.qkv.weight` is missing; there are: "));
    std::fs::write(folder.path().join("config.json"), r#"{ "model_type": "own", "has_adapters": true }"#).unwrap();
    assert_eq!(problem(folder.path(), &families), "config.json: adapters are not supported");
    std::fs::write(folder.path().join("config.json"), r#"{ "model_type": "own" }"#).unwrap();
    assert_eq!(problem(folder.path(), &families), "config.json: `depth` is missing");
}

/// The files of Mistral have Llama's names, so an adapter for llama.cpp can be written, and are read as Llama's.
#[test]
fn mistral_has_the_names_of_llama_in_gguf_files() {
    let [name, architecture] = <[String; 2]>::from(open("mistral").0.edited_tensor_in_gguf(1).unwrap());
    assert_eq!((name.as_str(), architecture.as_str()), ("blk.1.ffn_down.weight", "llama"));
    let found = Families::built_in();
    assert_eq!(found.by_architecture("llama").unwrap().name(), "Llama");
}

/// A family that goes by a known name takes its place.
#[test]
fn the_family_added_last_is_taken() {
    #[derive(Debug)]
    struct Other;
    impl Family for Other {
        fn name(&self) -> &str {
            "Other"
        }
        fn model_type(&self) -> &str {
            "llama"
        }
        fn config(&self, file: &ConfigFile) -> Result<Config> {
            Llama.config(file)
        }
        fn config_json(&self, config: &Config) -> Value {
            Llama.config_json(config)
        }
        fn layout(&self) -> TensorLayout {
            Llama.layout()
        }
    }
    let families = Families::built_in().with(Other);
    let (model, _) = Model::open_with(directory("llama").path(), &families, Par::Seq).unwrap();
    assert_eq!(model.family().name(), "Other");
    let hash = |fingerprint: &str| fingerprint.split_once(' ').unwrap().1.to_owned();
    assert_eq!(hash(model.fingerprint()), hash(open("llama").0.fingerprint()));
    // It has no GGUF files, and does not stand in the way of those of the other.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    gguf("llama", "llama", &path);
    assert_eq!(Model::open_with(&path, &families, Par::Seq).unwrap().0.family().name(), "Llama");
}

#[test]
fn a_gguf_file_of_a_family_from_outside_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    gguf("qwen2", "own", &path);
    let refused = Model::open(&path, Par::Seq);
    assert!(
        matches!(&refused, Err(Error::File(FileError::Format { problem, .. }))
            if problem.starts_with("the architecture is `own`, known in GGUF files are llama, qwen2, qwen3, gpt2")),
        "{refused:?}"
    );
    let (model, _) = Model::open_with(&path, &Families::default().with(OWN), Par::Seq).unwrap();
    let tokens = Expected::of("qwen2").tokens;
    assert_eq!(model.trace(&tokens).unwrap().logits, open("qwen2").0.trace(&tokens).unwrap().logits);
}

/// A model needs no files.
#[test]
fn a_model_is_made_of_tensors_in_memory() {
    let (expected, _) = open("gpt2");
    let path = data().join("gpt2/model.safetensors");
    let mut tensors: BTreeMap<String, StoredTensor> = (candle_core::safetensors::load(path, &Device::Cpu).unwrap())
        .into_iter()
        .map(|(name, tensor)| {
            let numbers = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            (name, StoredTensor { shape: tensor.dims().to_vec(), numbers: numbers.into() })
        })
        .collect();
    let build = |config: &Config, tensors: &mut BTreeMap<String, StoredTensor>| {
        Model::from_source(config.clone(), Arc::new(Gpt2), tensors, Par::Seq)
    };
    let model = build(expected.config(), &mut tensors).unwrap();
    assert_eq!(model.fingerprint(), expected.fingerprint());

    let problem = |refused: Result<Model>| match refused {
        Err(Error::File(FileError::Format { path, problem })) => format!("{}: {problem}", path.display()),
        other => panic!("{other:?}"),
    };
    let mut wrong = expected.config().clone();
    wrong.kv_heads = 3;
    assert!(problem(build(&wrong, &mut tensors)).starts_with("tensors in memory: sizes that do not fit together"));
    wrong.heads = 0;
    assert_eq!(problem(build(&wrong, &mut tensors)), "tensors in memory: no attention heads");
    wrong = expected.config().clone();
    (wrong.heads, wrong.kv_heads, wrong.head_dim) = (1 << 40, 1 << 40, 1 << 40);
    assert!(problem(build(&wrong, &mut tensors)).contains("do not fit together"));
    let name = "transformer.ln_f.weight";
    let mut numbers = tensors[name].numbers.to_vec();
    numbers.pop();
    tensors.get_mut(name).unwrap().numbers = numbers.clone().into();
    assert!(problem(build(expected.config(), &mut tensors)).contains("and 63 numbers"));
    numbers.push(f32::NAN);
    tensors.get_mut(name).unwrap().numbers = numbers.into();
    assert!(
        problem(build(expected.config(), &mut tensors))
            .contains("`transformer.ln_f.weight` holds NaN at [63] (from 0)")
    );
    tensors.remove(name);
    assert!(problem(build(expected.config(), &mut tensors)).contains("tensor `transformer.ln_f.weight` is missing"));
}

/// Early files of GPT-2 hold the decoder alone, under bare names: they are read, and edited weights find their place.
#[test]
fn edited_weights_are_written_under_the_names_of_the_checkpoint() {
    for prefix in ["transformer.", ""] {
        let folder = directory("gpt2");
        let path = folder.path().join("model.safetensors");
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        let rename = |name: String| name.replace("transformer.", prefix);
        let tensors: HashMap<String, Tensor> =
            tensors.into_iter().map(|(name, tensor)| (rename(name), tensor)).collect();
        candle_core::safetensors::save(&tensors, &path).unwrap();
        let (model, tokenizer) = Model::open(folder.path(), Par::Seq).unwrap();
        assert_eq!(model.fingerprint(), open("gpt2").0.fingerprint());

        let layers = vec![0, 3];
        let contexts = Contexts::default();
        let mut adapter =
            ModelAdapter::new(model, tokenizer, layers.clone(), contexts, TargetSearch::default()).unwrap();
        let (rows, cols) = adapter.weight_shape(0).unwrap();
        for &layer in &layers {
            let weight = Mat::from_fn(rows, cols, |i, j| (layer + i) as f32 - 0.5 * j as f32);
            adapter.write_weight(layer, weight.as_ref()).unwrap();
        }
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let written = adapter.model().write_edited(&checkpoint, &layers).unwrap();
        let names = [0, 3].map(|layer| format!("{prefix}h.{layer}.mlp.c_proj.weight"));
        assert_eq!(written.keys().cloned().collect::<Vec<_>>(), names);
        let after = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        assert_eq!(after.len(), tensors.len());
        for (name, tensor) in &tensors {
            let numbers = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(numbers(&after[name]) == numbers(tensor), !names.contains(name), "{name}");
        }
        // What is on disk is the edited model.
        let tokens = Expected::of("gpt2").tokens;
        let (again, _) = Model::open(folder.path(), Par::Seq).unwrap();
        assert_eq!(again.trace(&tokens).unwrap().logits, adapter.model().trace(&tokens).unwrap().logits);
        let unknown = adapter.model().write_edited(&checkpoint, &[4]);
        assert!(matches!(unknown, Err(Error::Model(ModelError::UnknownLayer { layer: 4, .. }))));
    }
}

#[test]
fn public_types_can_be_shared_and_shown() {
    fn shared<T: Send + Sync + Debug>() {}
    shared::<(Model, Trace, Continuation, Tokenizer, Config, Sizes, Request, Contexts, Sampler)>();
    shared::<(Families, Arc<dyn Family>, ConfigFile, TensorLayout, GgufLayout, GgufMetadata<'_>)>();
    shared::<(Llama, Mistral, Qwen2, Qwen3, Gpt2, GptJ)>();
    shared::<(ModelAdapter, Collector<'_>, CollectionProgress, FineTuning, LowRankTuning, Tuned)>();
    shared::<(Steering<'_>, SteeredEvaluation, Steered<'_>, Anchor<'_>, Site, Descent, TargetSearch, Target)>();
    shared::<StoredTensor>();
    #[cfg(feature = "facts")]
    shared::<betaedit_core::llm::Scoring<'_>>();
    let _: Option<&mut dyn Source> = None;
}

/// Nobody wants to see ten million numbers because an assertion failed.
#[test]
fn what_is_shown_of_a_model_is_short() {
    let (model, tokenizer) = open("llama");
    let tokens = Expected::of("llama").tokens;
    let trace = model.trace(&tokens).unwrap();
    let one = Steered::new(&tokens, &[2], 3);
    let steering = Steering::new(&model, 1, Site::Block, &[one], None).unwrap();
    let evaluation = steering.evaluate(&[0.0; 64]).unwrap();
    let request = Request::new("Paris", "The city of {} is in", "Spain").unwrap();
    let search = TargetSearch::default().with_steps(2);
    let target = search.run(&model, &tokenizer, Contexts::default(), 1, &request).unwrap();
    let collector = Collector::new(&model, &tokenizer, &[1]).unwrap();
    let adapter = ModelAdapter::new(model.clone(), tokenizer.clone(), vec![1], Contexts::default(), search).unwrap();
    let stored = StoredTensor { shape: vec![100, 100], numbers: vec![0.5; 10_000].into() };
    let shown: [&dyn Debug; 9] =
        [&model, &tokenizer, &trace, &steering, &evaluation, &target, &collector, &adapter, &stored];
    for shown in shown {
        let shown = format!("{shown:?}");
        assert!(shown.len() < 1_500, "{} characters: {}", shown.len(), &shown[..300]);
    }
    let shown = format!("{model:?}");
    assert!(shown.contains(r#"family: "Llama""#) && shown.contains("hidden: 64"), "{shown}");
    assert!(format!("{trace:?}").contains("logits: Shape { rows: 384"));
}
