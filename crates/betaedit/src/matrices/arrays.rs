//! Arrays of numpy as arguments: one sample in each row.

use std::path::{Path, PathBuf};

use betaedit_core::faer::{Mat, MatRef};
use betaedit_core::format::npy;

use super::display;
use crate::terminal::Done;

/// An array and the file that it came from, for messages.
pub struct Rows {
    matrix: Mat<f64>,
    path: PathBuf,
}

impl Rows {
    pub fn read(path: &Path) -> Done<Self> {
        Ok(Self { matrix: npy::read(path)?, path: path.to_owned() })
    }

    pub fn read_if_given(path: Option<&PathBuf>) -> Done<Option<Self>> {
        path.map(|path| Self::read(path)).transpose()
    }

    /// The samples as columns, as the library takes them.
    pub fn columns(&self) -> MatRef<'_, f64> {
        self.matrix.transpose()
    }

    pub fn count(&self) -> usize {
        self.matrix.nrows()
    }

    pub fn length(&self) -> usize {
        self.matrix.ncols()
    }

    /// Checks the length of the rows against that of something else.
    pub fn check_length(&self, expected: usize, of: &str) -> Done {
        let (path, rows, length) = (display(&self.path), self.count(), self.length());
        if length == expected {
            return Ok(());
        }
        let advice = if rows == expected { "; it looks transposed: each sample is a row" } else { "" };
        Err(format!("{path} is {rows} x {length}, expected rows of length {expected}, {of}{advice}").into())
    }

    /// Checks that there is one row for each row of another array.
    pub fn check_count(&self, other: &Self) -> Done {
        if self.count() == other.count() {
            return Ok(());
        }
        let [ours, theirs] = [self, other].map(|rows| format!("{} has {} rows", display(&rows.path), rows.count()));
        Err(format!("{ours}, {theirs}: give one row for each key").into())
    }

    /// The single row, as often as needed; any other array as it is.
    pub fn repeated(mut self, count: usize) -> Self {
        if self.count() == 1 {
            let length = self.length();
            self.matrix = Mat::from_fn(count, length, |_, j| self.matrix[(0, j)]);
        }
        self
    }
}
