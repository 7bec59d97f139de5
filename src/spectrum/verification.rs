//! The verification of a decomposition, in `O(n²)`.

use faer::{Mat, Par};

use super::stages::Eigen;
use crate::error::numerics::{NumericsError, Result};
use crate::linalg::{self, tolerance};
use crate::util::random;

/// Columns of the random block that verifies a decomposition.
const PROBES: usize = 16;

/// The errors of a decomposition that passed.
pub(super) struct MeasuredErrors {
    pub(super) residual: f64,
    pub(super) orthogonality: f64,
}

impl Eigen {
    /// Verifies the order of the values, the trace, the orthogonality of the vectors, and the residual.
    pub(super) fn verify(
        &self,
        matrix: &Mat<f64>,
        par: Par,
        failed: impl Fn(&'static str, f64, f64) -> NumericsError,
    ) -> Result<MeasuredErrors> {
        let Self { values, vectors } = self;
        let n = matrix.nrows();
        let allowed = tolerance::decomposition(n);
        let check = |name, measured: f64| {
            if measured <= allowed { Ok(measured) } else { Err(failed(name, measured, allowed)) }
        };
        // All of this is O(n²): C X, Uᵀ X, U (Uᵀ X) and U (s . Uᵀ X) for a thin X.
        let norm = values.iter().fold(f64::MIN_POSITIVE, |max, s| max.max(s.abs()));
        let descent = values.windows(2).map(|pair| pair[0] - pair[1]).fold(0.0, f64::max);
        check("ascending order", descent / norm)?;
        let trace: f64 = (0..n).map(|i| matrix[(i, i)]).sum();
        check("trace", (trace - values.iter().sum::<f64>()).abs() / (norm * n as f64))?;
        let X = probes(n);
        let coordinates = linalg::product(vectors.transpose(), X.as_ref(), par);
        let identity = linalg::product(vectors.as_ref(), coordinates.as_ref(), par) - &X;
        let orthogonality = check("orthogonality", identity.norm_l2() / X.norm_l2())?;
        let scaled = Mat::from_fn(n, PROBES, |i, j| values[i] * coordinates[(i, j)]);
        let difference =
            linalg::product(matrix.as_ref(), X.as_ref(), par) - linalg::product(vectors.as_ref(), scaled.as_ref(), par);
        let residual = check("residual", difference.norm_l2() / (norm * X.norm_l2()))?;
        Ok(MeasuredErrors { residual, orthogonality })
    }
}

/// Random vectors with independent uniform entries of mean zero and variance one. They are always the same.
pub(super) fn probes(n: usize) -> Mat<f64> {
    let number = |i: usize| random::uniform(random::scrambled(i as u64));
    Mat::from_fn(n, PROBES, |i, j| (number(j * n + i) - 0.5) * 12.0_f64.sqrt())
}
