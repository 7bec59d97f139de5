//! `y = W x + b`.

use std::ops::Range;
use std::sync::Arc;

use faer::{Accum, MatMut, MatRef, Par};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, IntoParallelRefIterator, ParallelIterator};

use super::{Function, Parameter, Rows};
use crate::linalg;
use crate::update::Orientation;

pub(in crate::llm) struct Project {
    pub(in crate::llm) weight: Arc<Parameter>,
    pub(in crate::llm) bias: Option<Arc<[f32]>>,
    pub(in crate::llm) par: Par,
}

/// Outputs per product. The head of a model has tens of thousands; with few rows, one product over all of them takes several
/// times as long.
const OUTPUTS: usize = 2048;

/// Rows per product, about. A product is fastest if the weight is read in its storage order, so the result is formed column by column.
const ROWS: usize = 144;

/// `result += lhs rhs`, where `result` is stored row by row.
fn add_product(mut result: MatMut<'_, f32>, lhs: MatRef<'_, f32>, rhs: MatRef<'_, f32>, par: Par) {
    let rows = result.nrows();
    let height = rows.div_ceil(rows.div_ceil(ROWS).max(1)).max(1);
    for start in (0..rows).step_by(height) {
        let count = height.min(rows - start);
        let mut result = result.as_mut().subrows_mut(start, count);
        result += linalg::product(lhs.subrows(start, count), rhs, par);
    }
}

/// The two products with the weight as it is stored, `S`, which is widened panel by panel.
impl Project {
    /// `result += x Sᵀ`. Every panel gives columns of the result.
    fn add_across(&self, mut result: MatMut<'_, f32>, x: MatRef<'_, f32>) {
        let panels = self.weight.panels(self.par.degree());
        let height = panels.first().map_or(1, Range::len);
        let one = |result: MatMut<'_, f32>, rows: &Range<usize>| {
            self.weight.with_panel(rows.clone(), |panel| add_product(result, x, panel.transpose(), Par::Seq));
        };
        if self.par.degree() > 1 {
            result.par_col_chunks_mut(height).zip(panels.par_iter()).for_each(|(result, rows)| one(result, rows));
        } else {
            for rows in &panels {
                one(result.as_mut().subcols_mut(rows.start, rows.len()), rows);
            }
        }
    }

    /// `result += x S`. Every panel takes columns of `x`; the threads have panels of their own, and a sum each.
    fn add_along(&self, result: &mut [f32], x: MatRef<'_, f32>) {
        let (panels, cols) = (self.weight.panels(self.par.degree()), self.weight.stored_shape().1);
        let sum = |panels: &[Range<usize>]| {
            let mut sum = vec![0.0; x.nrows() * cols];
            for rows in panels {
                let sum = MatMut::from_row_major_slice_mut(&mut sum, x.nrows(), cols).transpose_mut();
                let x = x.subcols(rows.start, rows.len()).transpose();
                self.weight.with_panel(rows.clone(), |panel| {
                    linalg::matmul(sum, Accum::Add, panel.transpose(), x, 1.0, Par::Seq);
                });
            }
            sum
        };
        let shares: Vec<_> = panels.chunks(panels.len().div_ceil(self.par.degree()).max(1)).collect();
        let sums: Vec<Vec<f32>> = match shares.len() {
            0 | 1 => shares.into_iter().map(sum).collect(),
            _ => shares.into_par_iter().map(sum).collect(),
        };
        for sum in sums {
            result.iter_mut().zip(sum).for_each(|(result, x)| *result += x);
        }
    }
}

/// The parts of a weight, `outputs x inputs` each, and the range of outputs of each.
fn parts(matrix: MatRef<'_, f32>) -> impl Iterator<Item = (Range<usize>, MatRef<'_, f32>)> {
    (0..matrix.nrows()).step_by(OUTPUTS).map(move |start| {
        let range = start..(start + OUTPUTS).min(matrix.nrows());
        (range.clone(), matrix.subrows(range.start, range.len()))
    })
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
        match (self.weight.as_matrix(), self.weight.orientation()) {
            (Some(matrix), _) => {
                for (range, weight) in parts(matrix) {
                    let result = result.as_mut().subcols_mut(range.start, range.len());
                    add_product(result, x, weight.transpose(), self.par);
                }
            }
            (None, Orientation::OutputsByInputs) => self.add_across(result, x),
            (None, Orientation::InputsByOutputs) => self.add_along(&mut y, x),
        }
        (y, outputs)
    }

    fn gradient(&self, [x]: [Rows<'_>; 1], g: Rows<'_>) -> [Vec<f32>; 1] {
        let (n, (outputs, inputs)) = (x.count(), self.weight.shape());
        let mut dx = vec![0.0; n * inputs];
        let g = MatRef::from_row_major_slice(g.numbers, n, outputs);
        let result = MatMut::from_row_major_slice_mut(&mut dx, n, inputs);
        match (self.weight.as_matrix(), self.weight.orientation()) {
            // The columns of the transposed weight are stored like those of the result, so one product is fast.
            (Some(matrix), _) => {
                let result = result.transpose_mut();
                linalg::matmul(result, Accum::Replace, matrix.transpose(), g.transpose(), 1.0, self.par);
            }
            (None, Orientation::OutputsByInputs) => self.add_along(&mut dx, g),
            (None, Orientation::InputsByOutputs) => self.add_across(result, g),
        }
        [dx]
    }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};
    use faer::Mat;
    use half::{bf16, f16};

    use super::*;
    use crate::llm::numbers::StoredNumbers;

    /// The products with a matrix that is widened panel by panel, against those with the same numbers in `f32`.
    #[test]
    fn products_are_those_of_the_widened_matrix() {
        let entry = |i: usize| ((i * 37 + i / 7) % 64) as f32 / 32.0 - 1.0;
        for (outputs, inputs) in [(1, 32), (70, 64), (900, 608), (300, 2048)] {
            let numbers: Vec<f32> = (0..outputs * inputs).map(entry).collect();
            let quantized = |kind| {
                let tensor = Tensor::from_vec(numbers.clone(), (outputs, inputs), &Device::Cpu).unwrap();
                let tensor = QTensor::quantize(&tensor, kind).unwrap();
                StoredNumbers::quantized(kind, tensor.data().unwrap(), outputs, inputs).unwrap()
            };
            let stored: [StoredNumbers; 4] = [
                numbers.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>().into(),
                numbers.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>().into(),
                quantized(GgmlDType::Q4_1),
                quantized(GgmlDType::Q8_0),
            ];
            for numbers in stored {
                for orientation in [Orientation::OutputsByInputs, Orientation::InputsByOutputs] {
                    if orientation == Orientation::InputsByOutputs && numbers.cols().is_some() {
                        continue;
                    }
                    let widened = Parameter::new(numbers.to_vec(), outputs, inputs, orientation);
                    let stored = Parameter::new(numbers.clone(), outputs, inputs, orientation);
                    assert!(stored.to_matrix(Par::Seq) == widened.to_matrix(Par::Seq), "{numbers:?}");
                    compare(stored.into(), widened.into());
                }
            }
        }
    }

    fn compare(stored: Arc<Parameter>, widened: Arc<Parameter>) {
        let (outputs, inputs) = stored.shape();
        for (n, par) in [(1, Par::Seq), (3, Par::rayon(2)), (65, Par::rayon(3))] {
            let x: Vec<f32> = (0..n * inputs).map(|i| (i % 11) as f32 - 5.0).collect();
            let g: Vec<f32> = (0..n * outputs).map(|i| (i % 7) as f32 - 3.0).collect();
            let [one, other] = [&stored, &widened].map(|weight| {
                let bias: Arc<[f32]> = (0..outputs).map(|i| i as f32).collect();
                let project = Project { weight: weight.clone(), bias: Some(bias), par };
                let x = Rows { numbers: &x, cols: inputs };
                let (y, _) = project.value([x]);
                let [dx] = project.gradient([x], Rows { numbers: &g, cols: outputs });
                [y, dx].map(|numbers| Mat::from_fn(numbers.len(), 1, |i, _| numbers[i]))
            });
            for (one, other) in one.iter().zip(&other) {
                let error = (one - other).norm_max() / other.norm_max().max(1.0);
                assert!(error < 1e-5, "{:?}, {n} rows: {error:e}", stored.numbers());
            }
        }
    }
}
