//! Updates of weights in half precision.

use std::fmt::Debug;

use faer::{Mat, MatMut, MatRef, Par};
use half::{bf16, f16};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};

use super::precision::{Precision, Rounding, to_bf16, to_f16};
use super::{Orientation, Update};
use crate::error::numerics::{NumericsError, Result};
use crate::linalg;
use crate::scalar::{Scalar, cast};
use crate::util::validate;

mod sealed {
    pub trait Sealed {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// `f16` or `bf16`: the types of weights in half precision.
pub trait Half: Copy + Debug + Send + Sync + 'static + sealed::Sealed {
    /// The type as a value.
    const PRECISION: Precision;
    /// Largest finite number, as `f64`.
    const MAX: f64;

    /// The value as `f64`, exactly.
    fn to_f64(self) -> f64;
    /// The nearest value to `x`, with ties to even, by a single rounding; infinite beyond the range.
    fn nearest(x: f64) -> Self;
}

impl Half for f16 {
    const PRECISION: Precision = Precision::F16;
    const MAX: f64 = 65504.0;

    fn to_f64(self) -> f64 {
        self.to_f64()
    }

    fn nearest(x: f64) -> Self {
        to_f16(x)
    }
}

impl Half for bf16 {
    const PRECISION: Precision = Precision::Bf16;
    const MAX: f64 = 255.0 / 128.0 * (1_u128 << 127) as f64;

    fn to_f64(self) -> f64 {
        self.to_f64()
    }

    fn nearest(x: f64) -> Self {
        to_bf16(x)
    }
}

impl<T: Scalar> Update<T> {
    /// `W <- W + Delta` for a weight in half precision: every entry of the sum is computed in `f64` and rounded once, to
    /// the nearest number. Returns the effect of rounding on the change.
    ///
    /// The error ([`Rounding::error`]) is at most `2^-8 |W + Delta|_F` for `bf16` and `2^-11 |W + Delta|_F` for `f16`
    /// (whose numbers below `6e-5` have an absolute error of up to `3e-8`), and near 0.4 of that in practice, however small
    /// the update is. So an update with entries far below those of the weight is lost: [`Rounding::share`] is near 1 then.
    /// Many small updates in a row can all be lost. Keep a copy of the edited weight in `f32`, add the updates to that, and
    /// round the copy.
    ///
    /// To undo an update up to rounding, apply it [`scaled`](Self::scaled) by -1. To undo it exactly, keep a copy of the weight.
    ///
    /// Cost: `2 n d_in d_out` flops, and 8 MiB of working memory per thread.
    ///
    /// # Errors
    /// A weight of another shape, one that holds NaN or infinity, or a sum that rounds to infinity. On error, the weight is
    /// unchanged.
    ///
    /// # Examples
    /// ```
    /// use betaedit_core::update::half::bf16;
    /// use betaedit_core::{Orientation, Update, faer::{Mat, Par, mat}};
    ///
    /// let mut W = Mat::full(2, 2, bf16::ONE);
    /// let update = Update::from_factors(mat![[1.0_f32], [0.0]], mat![[0.25, 0.001]])?;
    /// let rounding = update.apply_to_half(W.as_mut(), Orientation::OutputsByInputs, Par::Seq)?;
    /// assert_eq!(W[(0, 0)].to_f32(), 1.25);
    /// assert_eq!(W[(0, 1)].to_f32(), 1.0); // 1.001 is nearer to 1 than to the next number, 1.0078
    /// assert!((rounding.error - 0.001).abs() < 1e-8 && rounding.share() < 0.005);
    /// # Ok::<(), betaedit_core::Error>(())
    /// ```
    pub fn apply_to_half<H: Half>(
        &self,
        weight: MatMut<'_, H>,
        orientation: Orientation,
        par: Par,
    ) -> Result<Rounding> {
        let weight = self.outputs_by_inputs(weight, orientation)?;
        check_finite(weight.as_ref())?;
        let (weight, change) = match weight.row_stride() {
            1 => (weight, Change::of(self)),
            _ => (weight.transpose_mut(), Change::of_transpose(self)),
        };
        let threads = par.degree().min(weight.ncols()).max(1);
        if largest(weight.as_ref()) + self.bound() > H::MAX {
            let parts = weight.as_ref().par_col_partition(threads).zip(change.columns.par_col_partition(threads));
            if !parts.all(|(weight, columns)| change.fits(weight, columns)) {
                return Err(NumericsError::Overflow { step: "the edited weight", scalar: H::PRECISION.name() });
            }
        }
        let parts = weight.par_col_partition_mut(threads).zip(change.columns.par_col_partition(threads));
        let sums: Vec<(f64, f64)> = parts.map(|(weight, columns)| change.add(weight, columns)).collect();
        Ok(Rounding {
            precision: H::PRECISION,
            asked: self.frobenius_norm(),
            error: sums.iter().map(|(squares, _)| squares).sum::<f64>().sqrt(),
            largest: sums.iter().fold(0.0, |max, (_, largest)| largest.max(max)),
        })
    }
}

/// Entries of `Delta` that are computed at a time.
const ENTRIES: usize = 1 << 20;

/// `Delta = left columns`, or `columns` alone if there is no left factor.
struct Change<'a, T> {
    left: Option<Mat<f64>>,
    columns: MatRef<'a, T>,
}

impl<'a, T: Scalar> Change<'a, T> {
    fn of(update: &'a Update<T>) -> Self {
        match update.entries() {
            Some(entries) => Self { left: None, columns: entries },
            None => Self { left: Some(cast(update.left())), columns: update.right() },
        }
    }

    fn of_transpose(update: &'a Update<T>) -> Self {
        match update.entries() {
            Some(entries) => Self { left: None, columns: entries.transpose() },
            None => Self { left: Some(cast(update.right().transpose())), columns: update.left().transpose() },
        }
    }

    /// The entries of some columns, in blocks with their first columns.
    fn blocks(&self, rows: usize, columns: MatRef<'a, T>) -> impl Iterator<Item = (usize, Mat<f64>)> {
        let width = (ENTRIES / rows).max(1);
        (0..columns.ncols()).step_by(width).map(move |first| {
            let block = cast::<T, f64>(columns.subcols(first, width.min(columns.ncols() - first)));
            let entries = match &self.left {
                Some(left) => linalg::product(left.as_ref(), block.as_ref(), Par::Seq),
                None => block,
            };
            (first, entries)
        })
    }

    /// Whether the sums stay in range.
    fn fits<H: Half>(&self, weight: MatRef<'_, H>, columns: MatRef<'a, T>) -> bool {
        self.blocks(weight.nrows(), columns).all(|(first, delta)| {
            let weight = weight.subcols(first, delta.ncols());
            let fits = |(w, d): (&H, &f64)| H::nearest(w.to_f64() + d).to_f64().is_finite();
            weight.col_iter().zip(delta.col_iter()).all(|(w, d)| w.iter().zip(d.iter()).all(fits))
        })
    }

    /// Adds the change to some columns. Returns the sum of the squared errors and the largest one.
    fn add<H: Half>(&self, mut weight: MatMut<'_, H>, columns: MatRef<'a, T>) -> (f64, f64) {
        let (mut squares, mut largest) = (0.0, 0.0_f64);
        for (first, delta) in self.blocks(weight.nrows(), columns) {
            let block = weight.as_mut().subcols_mut(first, delta.ncols());
            for (w, d) in block.col_iter_mut().zip(delta.col_iter()) {
                for (w, d) in w.iter_mut().zip(d.iter()) {
                    let exact = w.to_f64() + d;
                    *w = H::nearest(exact);
                    let error = (w.to_f64() - exact).abs();
                    squares += error * error;
                    largest = largest.max(error);
                }
            }
        }
        (squares, largest)
    }
}

/// The largest absolute entry.
fn largest<H: Half>(weight: MatRef<'_, H>) -> f64 {
    weight.col_iter().flat_map(|column| column.iter()).fold(0.0, |max: f64, w| max.max(w.to_f64().abs()))
}

fn check_finite<H: Half>(weight: MatRef<'_, H>) -> Result<()> {
    let lines = validate::along_memory(weight);
    if lines.col_iter().all(|line| line.iter().fold(true, |all, w| all & w.to_f64().is_finite())) {
        return Ok(());
    }
    // Says where, by the rule for the other types.
    let wide = Mat::from_fn(weight.nrows(), weight.ncols(), |i, j| weight[(i, j)].to_f64());
    validate::finite("weight", wide.as_ref())
}
