//! Layers of two kinds in a `config.json`: with a sliding window, and without.

use serde_json::Value;

use super::{ConfigFile, GgufMetadata};
use crate::error::Result;
use crate::llm::config::Window;

/// The names of the kinds of attention in `layer_types`.
pub(super) const SLIDING: &str = "sliding_attention";
pub(super) const FULL: &str = "full_attention";

/// The layers without a window, as `layer_types` lists them; `None` if there is no such entry.
pub(super) fn full_layers(file: &ConfigFile, layers: usize) -> Result<Option<Vec<usize>>> {
    let types = match file.entry("layer_types") {
        None | Some(Value::Null) => return Ok(None),
        Some(types) => types,
    };
    let list = types.as_array().filter(|list| list.len() == layers);
    let list = list.ok_or_else(|| file.refuse(format!("`layer_types` is no list of {layers} kinds, one a layer")))?;
    let mut full = vec![];
    for (layer, kind) in list.iter().enumerate() {
        match kind.as_str() {
            Some(FULL) => full.push(layer),
            Some(SLIDING) => {}
            _ => return Err(file.refuse(format!("`layer_types` has {kind}; known are {FULL} and {SLIDING}"))),
        }
    }
    Ok(Some(full))
}

/// The layers without a window, in a model of layers of two kinds by turns: every `period`th has none.
pub(super) fn every(period: usize, layers: usize) -> Vec<usize> {
    (0..layers).filter(|layer| (layer + 1).is_multiple_of(period)).collect()
}

/// A window in all layers but some; `None` if it is in no layer.
pub(super) fn window(tokens: usize, full: Vec<usize>, layers: usize) -> Option<Window> {
    (full.len() < layers).then_some(Window { tokens, full })
}

/// The window in a GGUF file; one of so many layers has none.
pub(super) fn window_in_gguf(metadata: &GgufMetadata<'_>, period: usize, layers: usize) -> Result<Option<Window>> {
    let period = metadata.size_or("attention.sliding_window_pattern", period)?;
    if period == 0 {
        return Err(metadata.refuse("the metadata's `attention.sliding_window_pattern` is 0, expected at least 1"));
    }
    Ok(metadata.window()?.and_then(|tokens| window(tokens, every(period, layers), layers)))
}

/// The value of `layer_types` for a window.
pub(super) fn kinds(window: Option<&Window>, layers: usize) -> Value {
    let is_full = |layer: &usize| window.is_none_or(|window| window.full.contains(layer));
    (0..layers).map(|layer| if is_full(&layer) { FULL } else { SLIDING }).collect()
}
