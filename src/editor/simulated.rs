//! The ideal editor that SimIE simulates.

use std::io::{Read, Write};

use faer::{Accum, Mat, MatMut, MatRef, Par};

use super::{Base, Simulation};
use crate::batch::{EditBatch, Order};
use crate::engine::{InverseGram, Solution};
use crate::error::numerics::{NumericsError, Result};
use crate::linalg;
use crate::scalar::{Scalar, cast};
use crate::update::Update;
use crate::util::{bytes, validate};

/// `W_t = argmin sum_i |(W - W'_i) X_i|² + lambda |W - W0|²`, by recursion.
#[derive(Clone)]
pub(super) struct Simulated {
    /// `Q` of `lambda I + sum X Xᵀ`.
    pub(super) Q: InverseGram,
    /// `Dᵀ = (W - W0)ᵀ`, column by column; empty before the first commit.
    total: Vec<f64>,
    base: Base,
    par: Par,
}

impl Simulated {
    pub(super) fn new(simulation: Simulation, d_in: usize, par: Par) -> Result<Self> {
        let Q = InverseGram::isotropic(d_in, simulation.lambda, par)?;
        Ok(Self { Q, total: Vec::new(), base: simulation.base, par })
    }

    /// What the ideal editor learns from a batch, given the directions of the wrapped update: the residuals
    /// `(W' - W) X`, and their solution.
    pub(super) fn learn<T: Scalar>(
        &self,
        batch: &EditBatch<'_, T>,
        directions: MatRef<'_, f64>,
    ) -> Result<(Mat<T>, Solution)> {
        let (d_in, d_out) = (self.Q.dim(), batch.residuals().nrows());
        if !self.total.is_empty() {
            validate::shape("residuals", batch.residuals(), self.total.len() / d_in, batch.len())?;
        }
        let (K, R) = (cast::<T, f64>(batch.keys()), cast::<T, f64>(batch.residuals()));
        // The effect of the total change on keys, where it matters.
        let moved = |keys: &Mat<f64>| match self.base {
            Base::First if !self.total.is_empty() => linalg::product(self.total().transpose(), keys.as_ref(), self.par),
            Base::First | Base::Present => Mat::zeros(d_out, keys.ncols()),
        };
        let of_keys = moved(&K);
        let (residuals, solution) = match (batch.order(), batch.context()) {
            (Order::Together, context) => {
                let asked = R + &of_keys;
                let (X, there) = match context.map(cast::<T, f64>) {
                    Some(X) => {
                        let there = moved(&X);
                        (X, there)
                    }
                    None => (K, of_keys),
                };
                let reach = linalg::product(directions.transpose(), X.as_ref(), self.par);
                (linalg::product(asked.as_ref(), reach.as_ref(), self.par) - there, self.Q.solve(X.as_ref())?)
            }
            (Order::InSequence, None) => {
                let solution = self.Q.solve_in_sequence(K.as_ref())?;
                (self.in_sequence(R, of_keys, &K, directions, &solution), solution)
            }
            (Order::InSequence, Some(_)) => {
                let what = "a context for edits in sequence; write edits with a context together".into();
                return Err(NumericsError::Unsupported { what });
            }
        };
        let left = cast::<f64, T>(residuals.as_ref());
        validate::no_overflow("the residuals of the simulated editor", left.as_ref())?;
        Ok((left, solution))
    }

    /// Residuals of edits in sequence. Each is relative to the weight after the earlier edits, which change the output
    /// for its key as well.
    fn in_sequence(
        &self,
        mut R: Mat<f64>,
        mut there: Mat<f64>,
        K: &Mat<f64>,
        wrapped: MatRef<'_, f64>,
        solution: &Solution,
    ) -> Mat<f64> {
        let overlap = linalg::product(solution.directions().transpose(), K.as_ref(), self.par);
        for t in 0..R.ncols() {
            if self.base == Base::First {
                let (before, weights) = (R.as_ref().subcols(0, t), overlap.as_ref().submatrix(0, t, t, 1));
                linalg::matmul(there.as_mut().subcols_mut(t, 1), Accum::Add, before, weights, 1.0, self.par);
            }
            let reach = linalg::inner(wrapped.subcols(t, 1), K.as_ref().subcols(t, 1));
            for i in 0..R.nrows() {
                R[(i, t)] = (R[(i, t)] + there[(i, t)]) * reach - there[(i, t)];
            }
        }
        R
    }

    /// Adds the update of a batch to the total, once it is in the weight.
    pub(super) fn commit<T: Scalar>(&mut self, solution: &Solution, update: &Update<T>) -> Result<()> {
        self.Q.absorb_solution(solution)?;
        if self.base == Base::First {
            let (d_in, d_out) = (update.d_in(), update.d_out());
            self.total.resize(d_in * d_out, 0.0);
            let total = MatMut::from_column_major_slice_mut(&mut self.total, d_in, d_out);
            let (left, right) = (cast::<T, f64>(update.left()), cast::<T, f64>(update.right()));
            linalg::matmul(total, Accum::Add, right.transpose(), left.transpose(), 1.0, self.par);
        }
        Ok(())
    }

    fn total(&self) -> MatRef<'_, f64> {
        let d_in = self.Q.dim();
        MatRef::from_column_major_slice(&self.total, d_in, self.total.len() / d_in)
    }

    pub(super) fn save(&self, out: &mut dyn Write) -> bytes::Result<()> {
        self.Q.save(out)?;
        bytes::write_slice(out, &self.total)
    }

    pub(super) fn load(&mut self, from: &mut dyn Read) -> bytes::Result<()> {
        self.Q.load(from)?;
        self.total = bytes::read_slice(from, self.Q.dim())?;
        Ok(())
    }
}
