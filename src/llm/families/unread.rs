//! Entries of a `config.json` that a family does not read: whether they could change what the model computes.

use serde_json::Value;

/// What is said of a model with experts, behind why it is refused.
const EXPERTS: &str =
    "; this model has experts: a token is in a few of many MLPs, and no one matrix holds what is edited";

/// What to say if one of these entries is about experts.
pub(in crate::llm) fn experts<'a>(mut names: impl Iterator<Item = &'a str>) -> &'static str {
    if names.any(|name| name.contains("expert")) { EXPERTS } else { "" }
}

/// Parts of the names of entries that describe a computation.
const COMPUTATION: [&str; 48] = [
    "scal",
    "multiplier",
    "soft",
    "cap",
    "window",
    "rope",
    "rotary",
    "norm",
    "eps",
    "bias",
    "attn",
    "attention",
    "activ",
    "act_fn",
    "hidden_act",
    "gate",
    "expert",
    "moe",
    "head",
    "layer",
    "residual",
    "logit",
    "embed",
    "position",
    "alibi",
    "parallel",
    "clip",
    "clamp",
    "sink",
    "chunk",
    "quant",
    "lora",
    "adapter",
    "factor",
    "interleav",
    "rank",
    "ssm",
    "conv",
    "sparse",
    "mixture",
    "mtp",
    "nextn",
    "theta",
    "temper",
    "mup",
    "block",
    "kernel",
    "proj",
];

/// Names that contain such a part and change nothing in a forward pass of a decoder.
const HARMLESS: [&str; 12] = [
    "attn_implementation",
    "num_hidden_layers_teacher",
    "summary_use_proj",
    "summary_activation",
    "summary_proj_to_labels",
    "summary_type",
    // How attention is computed, not what.
    "reorder_and_upcast_attn",
    "output_attentions",
    // Of the beginning of training and of generation.
    "initializer_range",
    "temperature",
    "chunk_size_feed_forward",
    "gradient_checkpointing",
];

/// Parts of the names of entries that count in training only, or that say how something is computed, not what.
const TRAINING: [&str; 5] = ["dropout", "pdrop", "layerdrop", "initializer", "flash"];

/// Whether an entry could change what a decoder computes.
pub(super) fn may_matter(name: &str, value: &Value) -> bool {
    let lower = name.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
    if name == "is_causal" {
        return *value == Value::Bool(false);
    }
    // What begins so is of `transformers` itself.
    let private = name.starts_with('_');
    has(&COMPUTATION) && !has(&TRAINING) && !private && !HARMLESS.contains(&name) && !changes_nothing(&lower, value)
}

/// Whether a value switches off whatever it stands for.
fn changes_nothing(name: &str, value: &Value) -> bool {
    let factor = ["scal", "multiplier", "factor"].iter().any(|part| name.contains(part));
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(if factor { 1.0 } else { 0.0 }),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

/// A value in a message.
pub(super) fn shown(value: &Value) -> String {
    const LENGTH: usize = 60;
    let text = value.to_string();
    if text.chars().count() <= LENGTH { text } else { text.chars().take(LENGTH).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_changes_the_computation_is_told_from_what_does_not() {
        for (name, value) in [
            ("residual_multiplier", json!(0.22)),
            ("final_logit_softcapping", json!(30.0)),
            ("quantization_config", json!({"quant_method": "gptq"})),
            ("sliding_window", json!(4096)),
            ("num_local_experts", json!(8)),
            ("layer_types", json!(["full_attention"])),
            ("is_causal", json!(false)),
        ] {
            assert!(may_matter(name, &value), "{name}");
        }
        for (name, value) in [
            ("_flash_attn_2_enabled", json!(true)),
            ("residual_multiplier", json!(1.0)),
            ("sliding_window", json!(null)),
            ("attention_dropout", json!(0.1)),
            ("bos_token_id", json!(1)),
            ("rope_interleaved", json!(false)),
            ("pruned_heads", json!({})),
            ("unsloth_version", json!("2025.1")),
            ("transformers_version", json!("5.0")),
        ] {
            assert!(!may_matter(name, &value), "{name}");
        }
    }
}
