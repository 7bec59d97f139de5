//! Rotary position embeddings.

use std::sync::Arc;

use super::{Function, Rows};
use crate::llm::config::{Pairing, Rotary, RotaryScaling};

/// The angles of some positions: cosine and sine of every pair, one position after the other.
pub(in crate::llm) struct Angles {
    turns: Vec<(f32, f32)>,
    pairs: usize,
    pairing: Pairing,
}

impl Angles {
    pub(in crate::llm) fn new(rotary: &Rotary, positions: impl Iterator<Item = usize>) -> Self {
        let pairs = rotary.dims / 2;
        let frequencies: Vec<f64> = (0..pairs).map(|i| frequency(rotary, i)).collect();
        let mut turns = vec![];
        for position in positions {
            turns.extend(frequencies.iter().map(|frequency| {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                (cos as f32, sin as f32)
            }));
        }
        Self { turns, pairs, pairing: rotary.pairing }
    }
}

fn frequency(rotary: &Rotary, pair: usize) -> f64 {
    let plain = rotary.theta.powf(-2.0 * pair as f64 / rotary.dims as f64);
    match rotary.scaling {
        RotaryScaling::None => plain,
        RotaryScaling::Linear(factor) => plain / factor,
        RotaryScaling::Llama3 { factor, low, high, original_context } => {
            let waves = original_context * plain / std::f64::consts::TAU;
            let kept = ((waves - low) / (high - low)).clamp(0.0, 1.0);
            kept * plain + (1.0 - kept) * plain / factor
        }
    }
}

/// Rotates every head of every row by the row's angles.
pub(in crate::llm) struct Rotate {
    pub(in crate::llm) angles: Arc<Angles>,
    pub(in crate::llm) head_dim: usize,
}

impl Rotate {
    /// `sense` is 1, or -1 for the inverse rotation.
    fn turned(&self, x: Rows<'_>, sense: f32) -> Vec<f32> {
        let Angles { turns, pairs, pairing } = &*self.angles;
        let mut y = x.numbers.to_vec();
        for (row, turns) in y.chunks_exact_mut(x.cols).zip(turns.chunks_exact(*pairs)) {
            for head in row.chunks_exact_mut(self.head_dim) {
                for (i, (cos, sin)) in turns.iter().enumerate() {
                    let (a, b) = match pairing {
                        Pairing::Halves => (i, i + pairs),
                        Pairing::Interleaved => (2 * i, 2 * i + 1),
                    };
                    let (p, q, sin) = (head[a], head[b], sense * sin);
                    head[a] = p * cos - q * sin;
                    head[b] = q * cos + p * sin;
                }
            }
        }
        y
    }
}

impl Function<1> for Rotate {
    const NAME: &'static str = "rotate";

    fn value(&self, [x]: [Rows<'_>; 1]) -> (Vec<f32>, usize) {
        (self.turned(x, 1.0), x.cols)
    }

    fn gradient(&self, _: [Rows<'_>; 1], g: Rows<'_>) -> [Vec<f32>; 1] {
        [self.turned(g, -1.0)]
    }
}
