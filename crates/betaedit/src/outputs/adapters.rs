//! The edits of a session as adapters.

use std::num::NonZeroUsize;
use std::path::Path;

use betaedit_core::Update;
use betaedit_core::faer::Mat;
use betaedit_core::format::{Updates, lora};
use serde_json::{Value, json};

use super::held::{Keys, Totals};
use crate::directory::Place;
use crate::run::Run;
use crate::terminal::{Done, Terminal};

/// The changes of the layers, of a rank that the adapter may have.
pub struct Factors {
    updates: Vec<(usize, Update<f32>)>,
    rank: usize,
    /// The share of the edits that is left at their keys, of each layer.
    kept: Vec<(usize, f64)>,
}

/// The least share of the edits of a layer that an adapter must hold.
const LEAST: f64 = 0.5;

impl Factors {
    /// Cuts the changes to a rank, so that the loss at the keys of the edits is the smallest.
    ///
    /// * `keys`: needed where a rank is given
    /// * `out`: the place of an adapter, for the error
    pub fn new(
        totals: &Totals,
        keys: &Keys,
        most: Option<NonZeroUsize>,
        out: &Path,
        terminal: Terminal,
    ) -> Done<Option<Self>> {
        let (mut updates, mut kept) = (vec![], vec![]);
        let needed = totals.values().map(Update::rank).max().unwrap_or(0);
        for (&layer, total) in totals {
            let most = most.map_or(needed, NonZeroUsize::get);
            let (update, share) = match keys.get(&layer).filter(|_| total.rank() > most) {
                None => (total.clone(), 1.0),
                Some(keys) => {
                    let keys = Mat::from_fn(keys.nrows(), keys.ncols(), |i, j| f64::from(keys[(i, j)]));
                    let cut = total.compressed_at(most, keys.as_ref(), terminal.par)?;
                    let asked = total.product(keys.as_ref(), terminal.par)?.norm_l2();
                    (cut.update, 1.0 - if cut.error > 0.0 { cut.error / asked } else { 0.0 })
                }
            };
            if share < LEAST {
                let (out, share) = (out.display(), 100.0 * share);
                return Err(format!(
                    "`{out}`: rank {most} holds {share:.0} % of the edits of layer {layer}, which is too little: give --rank {needed}, which \
                     holds all of them, or something between the two"
                )
                .into());
            }
            kept.push((layer, share));
            updates.push((layer, update.cast()?));
        }
        let rank = updates.iter().map(|(_, update)| update.rank()).max();
        Ok(rank.map(|rank| Self { updates, rank, kept }))
    }

    fn named(&self, name: impl Fn(usize) -> Done<String>) -> Done<Updates<f32>> {
        self.updates.iter().map(|(layer, update)| Ok((name(*layer)?, update.clone()))).collect()
    }
}

/// Adapters in a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Peft,
    Mlx,
}

pub fn write(
    out: &Path,
    place: &Place,
    layout: Layout,
    factors: Option<&Factors>,
    run: &Run,
    terminal: Terminal,
) -> Done<Value> {
    let Some(factors) = factors else {
        place.clear()?;
        terminal.note(format!("nothing in the model is edited: no adapter is written to {}", out.display()));
        return Ok(Value::Null);
    };
    let said = say(out, factors, terminal);
    let base = run.description.model.display().to_string();
    let (_, orientation) = run.unedited.edited_tensor(run.description.plan.layers.0[0])?;
    match layout {
        Layout::Peft => {
            let updates = factors.named(|layer| Ok(run.unedited.edited_tensor(layer)?.0))?;
            place.fill(|folder| Ok(lora::write(folder, &updates, &base, orientation)?))?;
        }
        Layout::Mlx => {
            let updates = factors.named(|layer| Ok(in_mlx(&run.unedited.edited_tensor(layer)?.0)))?;
            place.fill(|folder| Ok(lora::write_mlx(folder, &updates, &base)?))?;
        }
    }
    Ok(said)
}

pub fn write_gguf(out: &Path, factors: Option<&Factors>, run: &Run, terminal: Terminal) -> Done<Value> {
    let Some(factors) = factors else {
        let there = if out.exists() { ", and what is there stays" } else { "" };
        terminal.note(format!("nothing in the model is edited: no adapter is written to {}{there}", out.display()));
        return Ok(Value::Null);
    };
    let said = say(out, factors, terminal);
    let (_, architecture) = run.unedited.edited_tensor_in_gguf(run.description.plan.layers.0[0])?;
    let updates = factors.named(|layer| Ok(run.unedited.edited_tensor_in_gguf(layer)?.0))?;
    lora::write_gguf(out, &updates, &architecture)?;
    Ok(said)
}

/// The name of a parameter in MLX: its GPT-2 and GPT-J call the decoder as all other models do.
fn in_mlx(name: &str) -> String {
    name.strip_prefix("transformer.").map_or_else(|| name.to_owned(), |rest| format!("model.{rest}"))
}

fn say(out: &Path, factors: &Factors, terminal: Terminal) -> Value {
    let Factors { rank, kept, .. } = factors;
    let cut: Vec<String> = kept
        .iter()
        .filter(|(_, share)| *share < 1.0)
        .map(|(layer, share)| format!("{:.1} % of layer {layer}", 100.0 * share))
        .collect();
    let left = if cut.is_empty() { String::new() } else { format!("; it holds of the edits {}", cut.join(", ")) };
    terminal.say(format!("the adapter is in {}, rank {rank}{left}", out.display()));
    json!({ "rank": rank, "layers": kept.iter().map(|(layer, share)| json!({ "layer": layer, "kept": share })).collect::<Vec<_>>() })
}
