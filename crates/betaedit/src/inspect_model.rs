//! What `betaedit inspect` says about a model: its shape, what would be edited, and what that takes.

use std::path::Path;

use betaedit_core::llm::{Config, Model};
use serde_json::{Value, json};

use crate::settings::Plan;
use crate::source::open_lowest;
use crate::terminal::{Done, Terminal, table};
use crate::usual::UsualLayers;

pub fn inspect(path: &Path, terminal: Terminal) -> Done<Value> {
    let (model, _) = open_lowest(path, |_| 0, terminal)?;
    let (config, plan) = (model.config(), Plan::usual(model.config()));
    let UsualLayers { why, .. } = UsualLayers::of(config);
    let weights = plan.layers.0.iter().map(|&layer| Ok(model.edited_tensor(layer)?.0)).collect::<Done<Vec<_>>>()?;
    let in_gguf: Vec<String> =
        plan.layers.0.iter().filter_map(|&layer| Some(model.edited_tensor_in_gguf(layer).ok()?.0)).collect();
    let strength = match config.hidden < Plan::SMALL {
        true => "chosen on SmolLM2-135M; the published ones suit models of billions of parameters",
        false => "as published for models of billions of parameters",
    };
    let bytes = LayerBytes::of(config);
    terminal.say(table(&rows(&model, &plan, why, strength, &bytes)));
    Ok(json!({
        "family": model.family().name(),
        "layers": config.layers, "hidden": config.hidden, "intermediate": config.intermediate,
        "vocabulary": config.vocabulary, "context": config.context,
        "settings": plan, "why": { "layers": why, "strength": strength },
        "weights": weights, "weights_in_gguf": in_gguf,
        "bytes_per_layer": { "statistics": bytes.statistics, "decomposition": bytes.decomposition, "session": bytes.session },
    }))
}

/// What a layer takes, by the table in docs/performance.md.
struct LayerBytes {
    /// The second moment, half of a square matrix.
    statistics: usize,
    /// Five matrices, while the spectrum is computed.
    decomposition: usize,
    /// `Q` with its copy in `f32`, the sum of past keys, the spectrum and the second moment; the total change in `f64`, and the weight before
    /// a batch and now.
    session: usize,
}

impl LayerBytes {
    fn of(config: &Config) -> Self {
        let (d, d_out) = (config.intermediate, config.hidden);
        Self { statistics: 4 * d * d, decomposition: 40 * d * d, session: 22 * d * d + 16 * d * d_out }
    }
}

fn rows(model: &Model, plan: &Plan, why: &str, strength: &str, bytes: &LayerBytes) -> Vec<Vec<String>> {
    let config = model.config();
    let megabytes = |bytes: usize| format!("{:.0} MB", bytes as f64 / 1e6);
    let row = |what: &str, value: String, note: &str| vec![what.to_owned(), value, note.to_owned()];
    let first = plan.layers.0[0];
    let weight = model.edited_tensor(first).map(|(name, _)| name).unwrap_or_default();
    vec![
        row("family", model.family().name().to_owned(), ""),
        row("blocks", config.layers.to_string(), ""),
        row("weight", format!("{} x {}", config.hidden, config.intermediate), &format!("`{weight}` and so on")),
        row("--layers", plan.layers.to_string(), why),
        row("--target", plan.target.to_string(), ""),
        row("--lambda1", plan.lambda1.to_string(), strength),
        row("--lambda2", plan.lambda2.to_string(), strength),
        row("--threshold", plan.threshold.to_string(), strength),
        row("statistics", megabytes(bytes.statistics), "a layer, on disk"),
        row("spectrum", megabytes(bytes.decomposition), "a layer, in memory while it is computed"),
        row("session", megabytes(bytes.session), "a layer, in memory, beside the model"),
    ]
}
