//! Vectors added to some rows of a matrix.

use std::sync::Arc;

use super::{Function, Rows};

/// Adds to every row the vector that the row asks for, if it asks for one. The arguments are the rows and the vectors.
pub(in crate::llm) struct AddAt(pub(in crate::llm) Arc<[Option<usize>]>);

impl AddAt {
    /// The rows that ask for a vector, and which.
    fn asked(&self) -> impl Iterator<Item = (usize, usize)> {
        self.0.iter().enumerate().filter_map(|(row, vector)| Some((row, (*vector)?)))
    }
}

fn add(to: &mut [f32], row: usize, from: &[f32]) {
    to[row * from.len()..(row + 1) * from.len()].iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

impl Function<2> for AddAt {
    const NAME: &'static str = "add-at";

    fn value(&self, [x, vectors]: [Rows<'_>; 2]) -> (Vec<f32>, usize) {
        let mut y = x.numbers.to_vec();
        for (row, vector) in self.asked() {
            add(&mut y, row, vectors.row(vector));
        }
        (y, x.cols)
    }

    fn gradient(&self, [_, vectors]: [Rows<'_>; 2], g: Rows<'_>) -> [Vec<f32>; 2] {
        let mut sums = vec![0.0; vectors.numbers.len()];
        for (row, vector) in self.asked() {
            add(&mut sums, vector, g.row(row));
        }
        [g.numbers.to_vec(), sums]
    }
}
