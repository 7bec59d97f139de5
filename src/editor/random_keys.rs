//! Random keys, unrelated to the edits: the history of MEMIT-R.

use std::sync::Arc;

use faer::{Mat, Par};

use crate::linalg;
use crate::spectrum::Spectrum;
use crate::util::random;

/// The source of random keys, and how many were drawn.
#[derive(Clone)]
pub(super) struct RandomKeys {
    pub(super) seed: u64,
    pub(super) pool: Option<Arc<Mat<f64>>>,
    pub(super) drawn: usize,
}

impl RandomKeys {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, pool: None, drawn: 0 }
    }

    /// The next `n` keys, `d_in x n`. Changes nothing.
    pub(super) fn draw(&self, n: usize, spectrum: &Spectrum, par: Par) -> Mat<f64> {
        // Every key has its own seed, so that keys do not depend on how edits are batched.
        let seeds: Vec<u64> =
            (0..n).map(|j| random::scrambled(self.seed) ^ (self.drawn + j) as u64).map(random::scrambled).collect();
        if let Some(pool) = &self.pool {
            let index = |j: usize| (random::uniform(seeds[j]) * pool.ncols() as f64) as usize;
            return Mat::from_fn(pool.nrows(), n, |i, j| pool[(i, index(j))]);
        }
        // k = U sqrt(s) xi has the second moment U diag(s) Uᵀ = C.
        let d = spectrum.dim();
        let columns: Vec<Vec<f64>> = seeds.iter().map(|&seed| random::normal(seed, d)).collect();
        let coordinates = Mat::from_fn(d, n, |i, j| spectrum.values()[i].sqrt() * columns[j][i]);
        linalg::product(spectrum.vectors(), coordinates.as_ref(), par)
    }
}
