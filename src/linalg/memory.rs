//! The memory that an operation needs: added up, and asked for, before the first allocation.

use faer::Mat;

use crate::error::numerics::{NumericsError, Result, Shape};
use crate::scalar::Scalar;

/// The bytes of everything that an operation will hold at once. A sum that overflows counts as too much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    purpose: &'static str,
    size: Shape,
    bytes: usize,
}

impl Need {
    /// * `purpose`: what the memory is for, as in "a decomposition of a matrix"
    /// * `rows`, `cols`: the size of that
    pub(crate) fn new(purpose: &'static str, rows: usize, cols: usize) -> Self {
        Self { purpose, size: Shape { rows, cols }, bytes: 0 }
    }

    pub(crate) fn bytes(self, bytes: usize) -> Self {
        Self { bytes: self.bytes.saturating_add(bytes), ..self }
    }

    /// A dense matrix.
    pub(crate) fn matrix<T>(self, rows: usize, cols: usize) -> Self {
        self.bytes(rows.saturating_mul(cols).saturating_mul(size_of::<T>()))
    }

    /// What another operation holds within this one.
    pub(crate) fn and(self, other: Self) -> Self {
        self.bytes(other.bytes)
    }

    #[cfg(test)]
    pub(crate) fn total(self) -> usize {
        self.bytes
    }

    /// Asks for all of it at once, and gives it back.
    ///
    /// # Errors
    /// [`NumericsError::OutOfMemory`], which names the whole need.
    pub(crate) fn reserve(self) -> Result<()> {
        Vec::<u8>::new().try_reserve_exact(self.bytes).map_err(|_| self.missing())
    }

    /// Zeros that are a part of the need.
    pub(crate) fn zeros<T: Scalar>(self, rows: usize, cols: usize) -> Result<Mat<T>> {
        let part = Self { bytes: 0, ..self }.matrix::<T>(rows, cols).bytes;
        let mut matrix = Mat::new();
        if part > isize::MAX as usize || matrix.try_reserve(rows, cols).is_err() {
            return Err(Self { bytes: self.bytes.max(part), ..self }.missing());
        }
        matrix.resize_with(rows, cols, |_, _| T::default());
        Ok(matrix)
    }

    /// The error for a part that could not be had.
    pub(crate) fn missing(self) -> NumericsError {
        let Self { purpose, size, bytes } = self;
        NumericsError::OutOfMemory { purpose, size, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_need_is_the_sum_of_its_parts_and_saturates() {
        let need =
            Need::new("a test", 3, 4).matrix::<f32>(3, 4).bytes(5).and(Need::new("more", 1, 1).matrix::<f64>(1, 2));
        assert_eq!(need.bytes, 48 + 5 + 16);
        need.reserve().unwrap();
        for too_much in [usize::MAX / 2, usize::MAX] {
            let Err(error) = need.matrix::<f64>(too_much, too_much).reserve() else {
                panic!("{too_much} squared was reserved")
            };
            let text = "not enough memory: a test of size 3 x 4 needs more memory than can be addressed";
            assert_eq!(error.to_string(), text);
        }
        assert!(Need::new("a test", 1, 1).zeros::<f64>(1 << 40, 1 << 20).is_err());
    }
}
