//! The regression without its samples: an inverse and a weight, changed together.

use faer::{Mat, MatRef, Par};

use crate::engine::InverseGram;
use crate::error::numerics::{NumericsError, Result};
use crate::linalg::{self, Need};
use crate::util::validate;

/// `Q = (gamma I + X Xᵀ)⁻¹` and `W = Y Xᵀ Q` over all samples.
#[derive(Clone, Debug)]
pub(super) struct RidgeState {
    Q: InverseGram,
    W: Mat<f64>,
}

const STEP: &str = "the weight of the regression";

/// A weight of zeros.
fn weights(d_out: usize, d_in: usize) -> Result<Mat<f64>> {
    Need::new(STEP, d_out, d_in).matrix::<f64>(d_out, d_in).zeros(d_out, d_in)
}

impl RidgeState {
    /// Without samples.
    pub(super) fn new(Q: InverseGram, d_out: usize) -> Result<Self> {
        let W = weights(d_out, Q.dim())?;
        Ok(Self { Q, W })
    }

    /// The parts of a state.
    #[cfg(feature = "files")]
    pub(super) fn from_parts(Q: InverseGram, W: Mat<f64>) -> Self {
        Self { Q, W }
    }

    pub(super) fn weight(&self) -> MatRef<'_, f64> {
        self.W.as_ref()
    }

    pub(super) fn inverse_gram(&self) -> &InverseGram {
        &self.Q
    }

    pub(super) fn add_outputs(&mut self, count: usize) -> Result<()> {
        let rows = self.W.nrows();
        let mut W = weights(rows.saturating_add(count), self.W.ncols())?;
        W.as_mut().subrows_mut(0, rows).copy_from(&self.W);
        self.W = W;
        Ok(())
    }

    /// `W <- W + (Y - W X) Xᵀ Q'`, with the `Q'` after the samples have joined. On error, nothing is changed.
    pub(super) fn fit(&mut self, X: MatRef<'_, f64>, Y: MatRef<'_, f64>, par: Par) -> Result<()> {
        let solution = self.Q.solve(X).map_err(|error| explained(error, "fitting samples"))?;
        let W = self.moved(X, Y, solution.directions(), 1.0, par)?;
        self.Q.absorb_solution(&solution)?;
        self.W = W;
        Ok(())
    }

    /// `W <- W - (Y - W X) Xᵀ Q'`, with the `Q'` after the samples have left. On error, the state is unspecified.
    pub(super) fn forget(&mut self, X: MatRef<'_, f64>, Y: MatRef<'_, f64>, par: Par) -> Result<()> {
        self.Q.release(X).map_err(|error| explained(error, "forgetting samples"))?;
        let directions = self.Q.product(X)?;
        self.W = self.moved(X, Y, directions.as_ref(), -1.0, par)?;
        Ok(())
    }

    /// `W + sign (Y - W X) directionsᵀ`.
    fn moved(
        &self,
        X: MatRef<'_, f64>,
        Y: MatRef<'_, f64>,
        directions: MatRef<'_, f64>,
        sign: f64,
        par: Par,
    ) -> Result<Mat<f64>> {
        let R = Y - linalg::product(self.weight(), X, par);
        let mut W = self.W.clone();
        linalg::matmul(W.as_mut(), faer::Accum::Add, R.as_ref(), directions.transpose(), sign, par);
        validate::no_overflow(STEP, W.as_ref())?;
        Ok(W)
    }
}

/// An error of the engine in the words of a regression.
fn explained(error: NumericsError, step: &'static str) -> NumericsError {
    match error {
        NumericsError::Singular { pivot, .. } => NumericsError::Singular {
            pivot,
            step,
            advice: "the samples are too large relative to gamma for the precision of f64: use a larger gamma or scale the \
                     samples down; samples that cannot be forgotten are left out by fitting the others from scratch",
        },
        error => error,
    }
}
