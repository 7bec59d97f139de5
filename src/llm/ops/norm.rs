//! Root-mean-square and layer norms.

use std::sync::Arc;

use super::elementwise::sum;
use super::{Function, Rows};
use crate::llm::config::NormKind;
use crate::util::vectorized::vectorized;

#[derive(Clone)]
pub(in crate::llm) struct Normalize {
    pub(in crate::llm) kind: NormKind,
    pub(in crate::llm) epsilon: f32,
    pub(in crate::llm) gain: Arc<[f32]>,
    pub(in crate::llm) bias: Option<Arc<[f32]>>,
}

impl Normalize {
    /// What the stored gains are counted from.
    fn gains_from(&self) -> f32 {
        match self.kind {
            NormKind::Rms | NormKind::Layer => 0.0,
            NormKind::RmsFromOne => 1.0,
        }
    }

    /// The number that is subtracted from a row, and the factor by which the result is multiplied.
    #[inline(always)]
    fn centre_and_scale(&self, row: &[f32]) -> (f32, f32) {
        let n = row.len() as f32;
        let centre = match self.kind {
            NormKind::Rms | NormKind::RmsFromOne => 0.0,
            NormKind::Layer => sum([row], |[x]| x) / n,
        };
        let variance = sum([row], |[x]| (x - centre) * (x - centre)) / n;
        (centre, 1.0 / (variance + self.epsilon).sqrt())
    }
}

impl Function<1> for Normalize {
    const NAME: &'static str = "normalize";

    fn value(&self, [x]: [Rows<'_>; 1]) -> (Vec<f32>, usize) {
        let from = self.gains_from();
        let mut y = vec![0.0; x.numbers.len()];
        for (y, row) in y.chunks_exact_mut(x.cols).zip(x.iter()) {
            vectorized(
                #[inline(always)]
                || {
                    let (centre, scale) = self.centre_and_scale(row);
                    for ((y, x), gain) in y.iter_mut().zip(row).zip(&*self.gain) {
                        *y = (x - centre) * scale * (gain + from);
                    }
                },
            );
            if let Some(bias) = &self.bias {
                y.iter_mut().zip(&**bias).for_each(|(y, b)| *y += b);
            }
        }
        (y, x.cols)
    }

    /// With `u = (x - centre) scale` and `h = gain g`: `scale (h - mean(h) - u mean(u h))`, without `mean(h)` if the norm does
    /// not centre.
    fn gradient(&self, [x]: [Rows<'_>; 1], g: Rows<'_>) -> [Vec<f32>; 1] {
        let (n, from) = (x.cols as f32, self.gains_from());
        let mut dx = vec![0.0; x.numbers.len()];
        for ((dx, row), g) in dx.chunks_exact_mut(x.cols).zip(x.iter()).zip(g.iter()) {
            vectorized(
                #[inline(always)]
                || {
                    let (centre, scale) = self.centre_and_scale(row);
                    let along = sum([row, &self.gain, g], |[x, gain, g]| (x - centre) * scale * (gain + from) * g) / n;
                    let mean = match self.kind {
                        NormKind::Rms | NormKind::RmsFromOne => 0.0,
                        NormKind::Layer => sum([&self.gain, g], |[gain, g]| gain * g) / n,
                    };
                    for (((dx, x), gain), g) in dx.iter_mut().zip(row).zip(&*self.gain).zip(g) {
                        *dx = scale * ((gain + from) * g - mean - (x - centre) * scale * along);
                    }
                },
            );
        }
        [dx]
    }
}
