//! Which layers are edited by default, and why.

use std::ops::RangeInclusive;

use betaedit_core::llm::{Arrangement, BlockNorms, Config, Positions};

/// The layers that are edited by default.
pub struct UsualLayers {
    pub layers: RangeInclusive<usize>,
    pub why: &'static str,
}

impl UsualLayers {
    /// The published layers for models of a published shape, else layers at the same relative depth.
    pub fn of(model: &Config) -> Self {
        let depth = "a sixth to a third of the depth, like most published choices";
        let (layers, why) = match (&model.positions, model.arrangement, model.layers) {
            (Positions::Learned, _, 48) => (13..=17, "as published for GPT-2 XL"),
            (_, Arrangement::Parallel, 28) => (3..=8, "as published for GPT-J"),
            (_, _, 32 | 36 | 28) => (4..=8, "as published for models of this depth, LLaMA-3-8B among them"),
            (_, _, n) => (n / 6..=(n / 3).min(n - 1), depth),
        };
        // Behind a norm, a block's output is not what is written, and cannot be divided among layers.
        if model.block_norms == BlockNorms::Before {
            Self { layers, why }
        } else {
            let last = *layers.end();
            Self {
                layers: last..=last,
                why: "a norm stands behind the MLP, so one layer is edited, at a third of the depth",
            }
        }
    }
}
