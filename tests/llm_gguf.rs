//! GGUF files.

use betaedit_core::Error;
use betaedit_core::error::FileError;
use betaedit_core::faer::Par;
use betaedit_core::llm::{Model, Tokenizer};
use safetensors::SafeTensors;

use crate::llm_models::{Expected, data};

/// A file whose weights are those of a directory.
pub fn gguf(family: &str, architecture: &str, path: &std::path::Path) {
    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
    use candle_core::{Device, Tensor};
    use gguf_file::Value;

    let bytes = std::fs::read(data().join(family).join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let names = [
        ("model.embed_tokens", "token_embd"),
        ("lm_head", "output"),
        ("model.norm", "output_norm"),
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
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
    let strings = |strings: Vec<String>| Value::Array(strings.into_iter().map(Value::String).collect());
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
    ];
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(name, value)| (&**name, value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (&**name, tensor)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

#[test]
fn a_gguf_file_is_the_same_model() {
    for family in ["llama", "qwen2", "qwen3"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.gguf");
        gguf(family, family, &path);
        let (model, tokenizer): (Model, Tokenizer) = Model::open(&path, Par::Seq).unwrap();
        let expected = Expected::of(family);
        let tokens = tokenizer.with_start(None).encode(expected.facts["prompt"].as_str().unwrap()).unwrap();
        assert_eq!(tokens, expected.tokens, "{family}");
        expected.assert_near("logits", model.trace(&tokens).unwrap().logits.as_ref());
        // A damaged file is refused.
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1000]).unwrap();
        assert!(matches!(Model::open(&path, Par::Seq), Err(Error::File(FileError::Format { .. }))));
    }
}
