//! A matrix of the model.

use std::borrow::Cow;
use std::ops::Range;

use faer::{Mat, MatMut, MatRef, Par};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};

use crate::llm::numbers::StoredNumbers;
use crate::update::Orientation;

/// A matrix of the model, as its file stores it.
#[derive(Clone)]
pub(in crate::llm) struct Parameter {
    numbers: StoredNumbers,
    outputs: usize,
    inputs: usize,
    orientation: Orientation,
}

/// About how many numbers are widened at once: they stay in a core's cache until they are multiplied.
const PANEL: usize = 1 << 18;

/// The least number of rows of a panel: a product with fewer is slow.
const HEIGHT: usize = 64;

impl Parameter {
    pub(in crate::llm) fn new(
        numbers: impl Into<StoredNumbers>,
        outputs: usize,
        inputs: usize,
        orientation: Orientation,
    ) -> Self {
        let numbers = numbers.into();
        debug_assert_eq!(numbers.len(), outputs * inputs);
        Self { numbers, outputs, inputs, orientation }
    }

    pub(in crate::llm) fn shape(&self) -> (usize, usize) {
        (self.outputs, self.inputs)
    }

    pub(in crate::llm) fn orientation(&self) -> Orientation {
        self.orientation
    }

    pub(in crate::llm) fn numbers(&self) -> &StoredNumbers {
        &self.numbers
    }

    /// Rows and columns, as stored.
    pub(super) fn stored_shape(&self) -> (usize, usize) {
        match self.orientation {
            Orientation::OutputsByInputs => (self.outputs, self.inputs),
            Orientation::InputsByOutputs => (self.inputs, self.outputs),
        }
    }

    /// A row, as stored.
    pub(in crate::llm) fn row(&self, i: usize) -> Cow<'_, [f32]> {
        self.numbers.rows(i..i + 1, self.stored_shape().1)
    }

    /// The stored rows of each panel, as many panels for each thread.
    pub(super) fn panels(&self, threads: usize) -> Vec<Range<usize>> {
        self.panels_of(0..self.stored_shape().0, threads)
    }

    fn panels_of(&self, rows: Range<usize>, threads: usize) -> Vec<Range<usize>> {
        let count = (rows.len() * self.stored_shape().1).div_ceil(PANEL).next_multiple_of(threads.max(1));
        let height = rows.len().div_ceil(count.max(1)).max(HEIGHT);
        rows.clone().step_by(height).map(|start| start..(start + height).min(rows.end)).collect()
    }

    /// Calls `f` with some of the stored rows in `f32`.
    pub(super) fn with_panel<R>(&self, rows: Range<usize>, f: impl FnOnce(MatRef<'_, f32>) -> R) -> R {
        let (count, cols) = (rows.len(), self.stored_shape().1);
        f(MatRef::from_row_major_slice(&self.numbers.rows(rows, cols), count, cols))
    }

    /// `d_out x d_in`, however it is stored, if it is held in `f32`.
    pub(super) fn as_matrix(&self) -> Option<MatRef<'_, f32>> {
        let numbers = self.numbers.as_f32()?;
        Some(match self.orientation {
            Orientation::OutputsByInputs => MatRef::from_row_major_slice(numbers, self.outputs, self.inputs),
            Orientation::InputsByOutputs => MatRef::from_column_major_slice(numbers, self.outputs, self.inputs),
        })
    }

    /// `d_out x d_in`, however it is stored.
    pub(in crate::llm) fn to_matrix(&self, par: Par) -> Mat<f32> {
        let mut matrix = Mat::zeros(self.outputs, self.inputs);
        self.copy_to(matrix.as_mut(), par);
        matrix
    }

    /// As [`to_matrix`](Self::to_matrix), into a matrix that is there.
    pub(in crate::llm) fn copy_to(&self, dst: MatMut<'_, f32>, par: Par) {
        self.copy_outputs_to(0..self.outputs, dst, par);
    }

    /// As [`copy_to`](Self::copy_to), some outputs alone.
    pub(in crate::llm) fn copy_outputs_to(&self, outputs: Range<usize>, mut dst: MatMut<'_, f32>, par: Par) {
        if let Some(matrix) = self.as_matrix() {
            return copy(dst, matrix.subrows(outputs.start, outputs.len()), par);
        }
        match self.orientation {
            Orientation::OutputsByInputs => {
                for rows in self.panels_of(outputs.clone(), 1) {
                    let dst = dst.as_mut().subrows_mut(rows.start - outputs.start, rows.len());
                    self.with_panel(rows, |panel| copy(dst, panel, par));
                }
            }
            Orientation::InputsByOutputs => {
                for rows in self.panels(1) {
                    let dst = dst.as_mut().subcols_mut(rows.start, rows.len()).transpose_mut();
                    let outputs = outputs.clone();
                    self.with_panel(rows, |panel| copy(dst, panel.subcols(outputs.start, outputs.len()), par));
                }
            }
        }
    }

    /// `d_out x d_in`, however it is stored. From now on it is held in `f32`.
    pub(in crate::llm) fn matrix_mut(&mut self) -> MatMut<'_, f32> {
        let Self { numbers, outputs, inputs, .. } = self;
        let numbers = numbers.make_f32();
        match self.orientation {
            Orientation::OutputsByInputs => MatMut::from_row_major_slice_mut(numbers, *outputs, *inputs),
            Orientation::InputsByOutputs => MatMut::from_column_major_slice_mut(numbers, *outputs, *inputs),
        }
    }
}

/// `dst <- src`, tile by tile, so that both sides stay in cache even if one is stored by rows and the other by columns.
pub(in crate::llm) fn copy(dst: MatMut<'_, f32>, src: MatRef<'_, f32>, par: Par) {
    const TILE: usize = 16;
    const WORTH_SHARING: usize = 1 << 17;
    let tiles = |mut dst: MatMut<'_, f32>, src: MatRef<'_, f32>| {
        let (rows, cols) = src.shape();
        for col in (0..cols).step_by(TILE) {
            for row in (0..rows).step_by(TILE) {
                let (height, width) = (TILE.min(rows - row), TILE.min(cols - col));
                let mut to = dst.as_mut().submatrix_mut(row, col, height, width);
                to.copy_from(src.submatrix(row, col, height, width));
            }
        }
    };
    let threads = par.degree();
    if threads > 1 && src.nrows() * src.ncols() >= WORTH_SHARING {
        let parts = dst.par_col_partition_mut(threads).zip(src.par_col_partition(threads));
        parts.for_each(|(dst, src)| tiles(dst, src));
    } else {
        tiles(dst, src);
    }
}

#[cfg(test)]
mod tests {
    use faer::Mat;

    use super::*;

    #[test]
    fn a_copy_is_the_same_however_both_sides_lie() {
        for (rows, cols) in [(1, 1), (16, 33), (50, 7), (0, 3), (500, 301)] {
            let from = Mat::from_fn(rows, cols, |i, j| (i * 1000 + j) as f32);
            for par in [Par::Seq, Par::rayon(2)] {
                let (mut along, mut across) = (Mat::zeros(rows, cols), Mat::zeros(cols, rows));
                copy(along.as_mut(), from.as_ref(), par);
                copy(across.as_mut().transpose_mut(), from.as_ref(), par);
                assert!(along == from && across.transpose() == from, "{rows} x {cols}");
            }
        }
    }
}
