//! The two number types of weights, keys and residuals.

use std::fmt::{Debug, Display};

use faer::{Mat, MatRef};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// `f32` or `f64`: the type of weights, keys and residuals.
///
/// The engine's state, statistics, eigendecompositions, small systems and metrics are always `f64`.
pub trait Scalar:
    faer::traits::RealField + Copy + Debug + Display + Default + Send + Sync + 'static + sealed::Sealed
{
    /// Name of the type in error messages and reports.
    const NAME: &'static str;
    /// Distance from 1 to the next larger number, as `f64`.
    const EPSILON: f64;
    /// Largest finite number, as `f64`.
    const MAX: f64;

    /// The value as `f64`, exactly.
    fn to_f64(self) -> f64;
    /// The nearest value to `x`.
    fn from_f64(x: f64) -> Self;

    /// Writes the value, little endian, to the front of `bytes`, and returns its size.
    #[doc(hidden)]
    fn put(self, bytes: &mut [u8]) -> usize;
    /// Reads the value that [`put`](Self::put) wrote; zero if there are too few bytes.
    #[doc(hidden)]
    fn get(bytes: &[u8]) -> Self;
}

impl Scalar for f32 {
    const NAME: &'static str = "f32";
    const EPSILON: f64 = f32::EPSILON as f64;
    const MAX: f64 = f32::MAX as f64;

    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    #[expect(clippy::cast_possible_truncation, reason = "rounding is what this is for")]
    fn from_f64(x: f64) -> Self {
        x as f32
    }

    fn put(self, bytes: &mut [u8]) -> usize {
        bytes[..4].copy_from_slice(&self.to_le_bytes());
        4
    }

    fn get(bytes: &[u8]) -> Self {
        bytes.first_chunk().map_or(0.0, |bytes| Self::from_le_bytes(*bytes))
    }
}

impl Scalar for f64 {
    const NAME: &'static str = "f64";
    const EPSILON: f64 = f64::EPSILON;
    const MAX: f64 = f64::MAX;

    fn to_f64(self) -> f64 {
        self
    }

    fn from_f64(x: f64) -> Self {
        x
    }

    fn put(self, bytes: &mut [u8]) -> usize {
        bytes[..8].copy_from_slice(&self.to_le_bytes());
        8
    }

    fn get(bytes: &[u8]) -> Self {
        bytes.first_chunk().map_or(0.0, |bytes| Self::from_le_bytes(*bytes))
    }
}

/// A copy of `matrix` in another number type, every entry rounded once.
///
/// ```
/// use betaedit_core::{faer::mat, scalar::cast};
/// let K = mat![[1.0_f64, 0.1]];
/// assert_eq!(cast::<f64, f32>(K.as_ref())[(0, 1)], 0.1_f32);
/// ```
#[must_use]
pub fn cast<T: Scalar, U: Scalar>(matrix: MatRef<'_, T>) -> Mat<U> {
    Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| U::from_f64(matrix[(i, j)].to_f64()))
}
