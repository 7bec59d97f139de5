//! The small model as a GGUF file, as the converter of llama.cpp makes it.

use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;

use crate::setting::{of_the_library, read};

const NAMES: [(&str, &str); 12] = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("model.layers.", "blk."),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Writes the Llama of the tests. The matrices that are edited are stored in a type, all others in f32.
pub fn write(path: &Path, edited: GgmlDType) {
    let data = of_the_library("data/tiny-models");
    let bytes = read(&data.join("llama/model.safetensors"));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&read(&data.join("llama/config.json"))).unwrap();
    let size = |name: &str| config[name].as_u64().unwrap() as usize;
    let mut tensors = vec![];
    for (name, view) in file.tensors() {
        let name = NAMES.iter().fold(name, |name, (from, to)| name.replace(from, to));
        let numbers: Vec<f32> = view.data().chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
        let mut tensor = Tensor::from_vec(numbers, view.shape(), &Device::Cpu).unwrap();
        let heads = [("attn_q.", "num_attention_heads"), ("attn_k.", "num_key_value_heads")];
        if let Some((_, heads)) = heads.iter().find(|(part, _)| name.contains(part)) {
            // Halves of heads to interleaved pairs.
            let (rows, cols) = tensor.dims2().unwrap();
            let split = tensor.reshape((size(heads), 2, rows / size(heads) / 2, cols)).unwrap();
            tensor = split.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, cols)).unwrap();
        }
        let kind = if name.contains("ffn_down") { edited } else { GgmlDType::F32 };
        tensors.push((name, QTensor::quantize(&tensor, kind).unwrap()));
    }
    let entries = entries(&data, &|name| Value::U32(size(name) as u32));
    let entries: Vec<(&str, &Value)> = entries.iter().map(|(name, value)| (*name, value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (&**name, tensor)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &entries, &tensors).unwrap();
}

fn entries(data: &Path, size: &dyn Fn(&str) -> Value) -> Vec<(&'static str, Value)> {
    let tokenizer: serde_json::Value = serde_json::from_slice(&read(&data.join("tokenizer.json"))).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap();
    let mut tokens: Vec<(&String, u64)> = vocabulary.iter().map(|(token, id)| (token, id.as_u64().unwrap())).collect();
    tokens.sort_by_key(|(_, id)| *id);
    let merges = tokenizer["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge {
        serde_json::Value::String(merge) => merge.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    });
    let strings = |strings: Vec<String>| Value::Array(strings.into_iter().map(Value::String).collect());
    // The first token is for control, all others are text.
    let types = (0..tokens.len()).map(|id| Value::I32(if id == 0 { 3 } else { 1 })).collect();
    vec![
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", size("num_hidden_layers")),
        ("llama.context_length", size("max_position_embeddings")),
        ("llama.embedding_length", size("hidden_size")),
        ("llama.feed_forward_length", size("intermediate_size")),
        ("llama.attention.head_count", size("num_attention_heads")),
        ("llama.attention.head_count_kv", size("num_key_value_heads")),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
        ("llama.rope.freq_base", Value::F32(100_000.0)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("gpt-2".into())),
        ("tokenizer.ggml.tokens", strings(tokens.iter().map(|(token, _)| (*token).clone()).collect())),
        ("tokenizer.ggml.merges", strings(merges.collect())),
        ("tokenizer.ggml.eos_token_id", Value::U32(0)),
        ("tokenizer.ggml.bos_token_id", Value::U32(0)),
        ("tokenizer.ggml.token_type", Value::Array(types)),
    ]
}
