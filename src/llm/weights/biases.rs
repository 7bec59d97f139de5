//! Which projections of a model have a bias in its file.

use crate::llm::block::{Block, Linear};
use crate::llm::config::{Bias, Biases};

/// Which projections of the blocks have a bias in the file.
#[derive(Default)]
pub(super) struct Found {
    attention_inputs: bool,
    attention_output: bool,
    mlp: bool,
}

impl Found {
    pub(super) fn see(&mut self, block: &Block) {
        let has = |linear: &Linear| linear.bias.is_some();
        self.attention_inputs |= [&block.query, &block.key, &block.value].into_iter().any(has);
        self.attention_output |= has(&block.attention_output);
        self.mlp |= block.gate.iter().chain([&block.up, &block.down]).any(has);
    }

    pub(super) fn biases(&self, head: &Linear) -> Biases {
        let required = |any| if any { Bias::Required } else { Bias::Absent };
        Biases {
            attention_inputs: required(self.attention_inputs),
            attention_output: required(self.attention_output),
            mlp: required(self.mlp),
            head: required(head.bias.is_some()),
        }
    }
}
