//! The codes of a quantized row that are nearest to a row of numbers, where it matters.

use faer::{Mat, MatRef, Par};

use super::kind::Line;
use crate::error::numerics::Result;
use crate::linalg;
use crate::scalar::{Scalar, cast};
use crate::second_moment::{self, SecondMoment};
use crate::util::shown::{Shown, shown};
use crate::util::validate;

/// Where the rounding of an edited weight matters: at the keys of its edits, and at the keys of the text of its statistics.
///
/// A quantized weight lies on a grid that is wider than most entries of an edit. Rounded one by one, most of them fall back to where they
/// were, and the edit with them. Instead, codes of a row are changed so that `|E K|² + w tr(E C Eᵀ)` falls for the error `E`, as long as
/// any change makes it smaller. Errors of many entries then cancel at the keys. The row that is left is never worse than the unedited one.
#[derive(Clone)]
pub struct Importance {
    /// `K Kᵀ + w C`.
    metric: Mat<f64>,
    keys: Mat<f64>,
}

shown!([] Importance, "Importance", self => { "keys": Shown::from(self.keys.shape()) });

impl Importance {
    /// * `keys`: `d_in x n`, of the edits
    /// * `moment`: of the keys of a text
    /// * `text`: as many keys of the edits as the text counts for, by the mean of their squared lengths; a sixteenth of `d_in` suits language
    ///   models
    ///
    /// # Errors
    /// No keys, NaN or infinity, another length of the keys than that of the moment, a negative `text`.
    pub fn new<T: Scalar>(keys: MatRef<'_, T>, moment: &SecondMoment, text: f64, par: Par) -> Result<Self> {
        validate::not_empty("keys", keys)?;
        validate::shape("keys", keys, moment.d_in(), keys.ncols())?;
        validate::finite("keys", keys)?;
        validate::non_negative("text", text)?;
        let keys = cast::<T, f64>(keys);
        let length = linalg::squared_column_norms(keys.as_ref()).iter().sum::<f64>() / keys.ncols() as f64;
        let mut metric = moment.to_mean(par)?;
        metric *= faer::Scale(text * length / second_moment::trace(metric.as_ref()).max(f64::MIN_POSITIVE));
        linalg::add_self_outer(metric.as_mut(), keys.as_ref(), 1.0, par);
        Ok(Self { metric, keys })
    }

    /// Length of the keys.
    #[must_use]
    pub fn d_in(&self) -> usize {
        self.keys.nrows()
    }

    pub(super) fn keys(&self) -> MatRef<'_, f64> {
        self.keys.as_ref()
    }

    /// `E (K Kᵀ + w C)`, a row for each row of `E`.
    pub(super) fn weighed(&self, E: MatRef<'_, f64>, par: Par) -> Mat<f64> {
        linalg::product(E, self.metric.as_ref(), par)
    }

    /// Changes codes of a row until none makes the error smaller.
    ///
    /// * `weighed`: the row of [`weighed`](Self::weighed) for the row's error; it is kept up
    pub(super) fn settle(&self, row: &mut [Line], (least, most): (i32, i32), weighed: &mut [f64]) {
        // The best move of a code alone is `-gradient / (curvature step)`, rounded.
        let curvature = |j: usize, line: &Line| self.metric[(j, j)] * line.step * line.step;
        let curvatures: Vec<f64> = row.iter().enumerate().map(|(j, line)| curvature(j, line)).collect();
        for _ in 0..MOVES * row.len() {
            let mut best = (0.0, 0, 0);
            for (j, ((line, &weighed), &curvature)) in row.iter().zip(&*weighed).zip(&curvatures).enumerate() {
                let gradient = weighed * line.step;
                if 2.0 * gradient.abs() <= curvature || curvature <= 0.0 {
                    continue;
                }
                #[expect(clippy::cast_possible_truncation, reason = "clamped to a code")]
                let code =
                    (f64::from(line.code) - gradient / curvature).clamp(least.into(), most.into()).round() as i32;
                let by = f64::from(code - line.code);
                let gain = -by * (2.0 * gradient + by * curvature);
                if gain > best.0 {
                    best = (gain, j, code - line.code);
                }
            }
            let (gain, j, by) = best;
            if gain <= 0.0 {
                break;
            }
            row[j].code += by;
            let change = f64::from(by) * row[j].step;
            weighed.iter_mut().zip(self.metric.col(j).iter()).for_each(|(weighed, h)| *weighed += change * h);
        }
    }
}

/// Moves of the codes of a row at most, for each of them.
const MOVES: usize = 16;

/// The nearest code of each number by itself.
pub(super) fn round(row: &mut [Line], (least, most): (i32, i32), wanted: impl Iterator<Item = f64>) {
    for (line, wanted) in row.iter_mut().zip(wanted) {
        if line.step != 0.0 {
            #[expect(clippy::cast_possible_truncation, reason = "clamped to a code")]
            let code = ((wanted - line.offset) / line.step).clamp(least.into(), most.into()).round() as i32;
            line.code = code;
        }
    }
}
