//! Further keys of a batch.

use faer::{Mat, MatRef};

use crate::error::{ModelError, Result};
use crate::scalar::Scalar;
use crate::util::shown::{Shown, shown};
use crate::util::validate;

/// Keys that are written together with those of the requests of a batch, at one layer.
///
/// A fact is asked for in more than one place, and each place has a key of its own. What is like the fact, but must not change, has keys
/// too: an edit that is written with them at residual zero leaves their outputs as they are, as far as the room allows.
///
/// A key and its residual may be scaled by a common factor: then they count in the solution as often as the square of it.
///
/// ```
/// use betaedit_core::adapter::Companions;
/// use betaedit_core::faer::mat;
///
/// // One request. Its key in another place gets the same residual, and another subject's key gets none.
/// let companions = Companions::new(mat![[0.8, 0.0], [0.6, 2.0]], vec![(0, 1.0), (0, 0.0)]);
/// let (K, R) = companions.joined(mat![[1.0], [0.0]].as_ref(), mat![[0.5], [0.25]].as_ref())?;
/// assert_eq!(K, mat![[1.0, 0.8, 0.0], [0.0, 0.6, 2.0]]);
/// assert_eq!(R, mat![[0.5, 0.5, 0.0], [0.25, 0.25, 0.0]]);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Companions<T: Scalar> {
    /// The keys, `d_in x m`.
    pub keys: Mat<T>,
    /// For each key, the request that it belongs to, and the multiple of its residual that the key is given. The multiple is 0 where the
    /// output must stay.
    pub of: Vec<(usize, f64)>,
}

shown!([T: Scalar] Companions<T>, "Companions", self => {
    "keys": Shown::from(self.keys.shape()),
    "of": self.of.len(),
});

impl<T: Scalar> Companions<T> {
    /// Further keys.
    ///
    /// * `keys`: `d_in x m`
    /// * `of`: for each, the request that it belongs to, and the multiple of its residual
    #[must_use]
    pub fn new(keys: Mat<T>, of: Vec<(usize, f64)>) -> Self {
        Self { keys, of }
    }

    /// The keys and residuals of a batch with these behind them.
    ///
    /// * `keys`, `residuals`: `d_in x n` and `d_out x n`, of the requests
    ///
    /// # Errors
    /// Another number of keys than of requests that they belong to, a request that the batch does not have, NaN or infinity.
    pub fn joined(&self, keys: MatRef<'_, T>, residuals: MatRef<'_, T>) -> Result<(Mat<T>, Mat<T>)> {
        let (d_in, n) = keys.shape();
        validate::shape("residuals", residuals, residuals.nrows(), n)?;
        validate::shape("the companions' keys", self.keys.as_ref(), d_in, self.of.len())?;
        validate::finite("the companions' keys", self.keys.as_ref())?;
        if let Some(&(index, _)) = self.of.iter().find(|(of, _)| *of >= n) {
            return Err(ModelError::UnknownRequest { index, len: n }.into());
        }
        validate::in_range("the companions' multiples", &self.of.iter().map(|(_, times)| *times).collect::<Vec<_>>())?;
        let all = n + self.of.len();
        let K = Mat::from_fn(d_in, all, |i, j| if j < n { keys[(i, j)] } else { self.keys[(i, j - n)] });
        let R = Mat::from_fn(residuals.nrows(), all, |i, j| match j.checked_sub(n).map(|j| self.of[j]) {
            None => residuals[(i, j)],
            // Zero times infinity would not be zero.
            Some((_, 0.0)) => T::from_f64(0.0),
            Some((of, times)) => residuals[(i, of)] * T::from_f64(times),
        });
        Ok((K, R))
    }
}
