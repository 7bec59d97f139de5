//! `y = W x + b`.

use std::ops::Range;
use std::sync::Arc;

use faer::{Accum, MatMut, MatRef, Par};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};

use super::{Function, Rows};
use crate::linalg;
use crate::update::Orientation;

/// A matrix of the model, as its file stores it.
#[derive(Clone)]
pub(in crate::llm) struct Parameter {
    numbers: Vec<f32>,
    outputs: usize,
    inputs: usize,
    orientation: Orientation,
}

impl Parameter {
    pub(in crate::llm) fn new(numbers: Vec<f32>, outputs: usize, inputs: usize, orientation: Orientation) -> Self {
        debug_assert_eq!(numbers.len(), outputs * inputs);
        Self { numbers, outputs, inputs, orientation }
    }

    pub(in crate::llm) fn shape(&self) -> (usize, usize) {
        (self.outputs, self.inputs)
    }

    /// As stored, row by row.
    pub(in crate::llm) fn numbers(&self) -> &[f32] {
        &self.numbers
    }

    /// `d_out x d_in`, however it is stored.
    pub(in crate::llm) fn matrix(&self) -> MatRef<'_, f32> {
        match self.orientation {
            Orientation::OutputsByInputs => MatRef::from_row_major_slice(&self.numbers, self.outputs, self.inputs),
            Orientation::InputsByOutputs => MatRef::from_column_major_slice(&self.numbers, self.outputs, self.inputs),
        }
    }

    /// `d_out x d_in`, however it is stored.
    pub(in crate::llm) fn matrix_mut(&mut self) -> MatMut<'_, f32> {
        let Self { numbers, outputs, inputs, .. } = self;
        match self.orientation {
            Orientation::OutputsByInputs => MatMut::from_row_major_slice_mut(numbers, *outputs, *inputs),
            Orientation::InputsByOutputs => MatMut::from_column_major_slice_mut(numbers, *outputs, *inputs),
        }
    }
}

pub(in crate::llm) struct Project {
    pub(in crate::llm) weight: Arc<Parameter>,
    pub(in crate::llm) bias: Option<Arc<[f32]>>,
    pub(in crate::llm) par: Par,
}

/// Outputs per product. The head of a model has tens of thousands; with few rows, one product over all of them takes several
/// times as long.
const OUTPUTS: usize = 2048;

/// Up to this number of rows, a product is limited by memory. It is fastest if the weight is read in its storage order, so the
/// result is formed column by column.
const FEW_ROWS: usize = 64;

/// `result += lhs rhs`, where `result` is stored row by row.
fn add_product(mut result: MatMut<'_, f32>, lhs: MatRef<'_, f32>, rhs: MatRef<'_, f32>, par: Par) {
    if result.nrows() > FEW_ROWS {
        return linalg::matmul(result, Accum::Add, lhs, rhs, 1.0, par);
    }
    result += linalg::product(lhs, rhs, par);
}

impl Project {
    /// The parts of the weight, `outputs x inputs` each, and the range of outputs of each.
    fn parts(&self) -> impl Iterator<Item = (Range<usize>, MatRef<'_, f32>)> {
        let matrix = self.weight.matrix();
        (0..matrix.nrows()).step_by(OUTPUTS).map(move |start| {
            let range = start..(start + OUTPUTS).min(matrix.nrows());
            (range.clone(), matrix.subrows(range.start, range.len()))
        })
    }
}

impl Function<1> for Project {
    const NAME: &'static str = "project";

    fn value(&self, [x]: [Rows<'_>; 1]) -> (Vec<f32>, usize) {
        let (n, (outputs, inputs)) = (x.count(), self.weight.shape());
        let mut y = match &self.bias {
            Some(bias) => bias.repeat(n),
            None => vec![0.0; n * outputs],
        };
        let x = MatRef::from_row_major_slice(x.numbers, n, inputs);
        let mut result = MatMut::from_row_major_slice_mut(&mut y, n, outputs);
        for (range, weight) in self.parts() {
            let result = result.as_mut().subcols_mut(range.start, range.len());
            add_product(result, x, weight.transpose(), self.par);
        }
        (y, outputs)
    }

    fn gradient(&self, [x]: [Rows<'_>; 1], g: Rows<'_>) -> [Vec<f32>; 1] {
        let (n, (outputs, inputs)) = (x.count(), self.weight.shape());
        let mut dx = vec![0.0; n * inputs];
        let g = MatRef::from_row_major_slice(g.numbers, n, outputs);
        // The columns of the transposed weight are stored like those of the result, so one product is fast.
        let result = MatMut::from_row_major_slice_mut(&mut dx, n, inputs).transpose_mut();
        linalg::matmul(result, Accum::Replace, self.weight.matrix().transpose(), g.transpose(), 1.0, self.par);
        [dx]
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
