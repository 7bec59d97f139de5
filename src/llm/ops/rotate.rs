//! Rotary position embeddings.

use std::f64::consts::TAU;
use std::sync::Arc;

use super::{Function, Rows};
use crate::llm::config::{Pairing, Rotary, RotaryScaling};

/// The angles of some positions: cosine and sine of every pair, times the factor of the scaling, one position after the other.
pub(in crate::llm) struct Angles {
    turns: Vec<(f32, f32)>,
    pairs: usize,
    pairing: Pairing,
}

impl Angles {
    pub(in crate::llm) fn new(rotary: &Rotary, positions: impl Iterator<Item = usize>) -> Self {
        let pairs = rotary.dims / 2;
        let frequencies: Vec<f64> = (0..pairs).map(|i| frequency(rotary, i)).collect();
        let factor = match rotary.scaling {
            RotaryScaling::Yarn { attention, .. } | RotaryScaling::LongRope { attention, .. } => attention,
            _ => 1.0,
        };
        let mut turns = vec![];
        for position in positions {
            turns.extend(frequencies.iter().map(|frequency| {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                ((factor * cos) as f32, (factor * sin) as f32)
            }));
        }
        Self { turns, pairs, pairing: rotary.pairing }
    }
}

fn frequency(rotary: &Rotary, pair: usize) -> f64 {
    let plain = rotary.theta.powf(-2.0 * pair as f64 / rotary.dims as f64);
    match &rotary.scaling {
        RotaryScaling::None | RotaryScaling::Dynamic { .. } => plain,
        RotaryScaling::Linear(factor) => plain / factor,
        RotaryScaling::LongRope { short, .. } => plain / short[pair],
        RotaryScaling::Yarn { factor, fast, slow, original_context, .. } => {
            // The pair that turns so often in the original context.
            let pair_of =
                |turns: f64| rotary.dims as f64 * (original_context / (turns * TAU)).ln() / (2.0 * rotary.theta.ln());
            let low = pair_of(*fast).floor().max(0.0);
            let high = pair_of(*slow).ceil().min(rotary.dims as f64 - 1.0);
            let length = if low == high { 0.001 } else { high - low };
            let scaled = ((pair as f64 - low) / length).clamp(0.0, 1.0);
            scaled * plain / factor + (1.0 - scaled) * plain
        }
        RotaryScaling::Llama3 { factor, low, high, original_context } => {
            let waves = original_context * plain / TAU;
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
    /// `sense` is 1, or -1 for the transposed rotation.
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
