//! A synthetic layer of any size, made from a seed, with statistics, weight and edits; and the dense solve of the published
//! programs, for comparison.
//!
//! The benchmarks of `betaedit-core` and the command `betaedit scale` use it.

#![allow(non_snake_case)]

use std::sync::Arc;

use betaedit_core::faer::linalg::matmul::matmul;
use betaedit_core::faer::linalg::solvers::Solve;
use betaedit_core::faer::{Accum, Mat, MatRef, Par};
use betaedit_core::scalar::cast;
use betaedit_core::{Projector, Result, Scalar, Spectrum, Threshold};

/// BetaEdit's published weight of the statistics in the solve.
pub const LAMBDA1: f64 = 3_000.0;
/// BetaEdit's published ridge.
pub const LAMBDA2: f64 = 10.0;
/// The published threshold: directions with smaller eigenvalues may be edited.
pub const THRESHOLD: Threshold = Threshold::Absolute(0.02);

/// Reflections whose product is the eigenbasis: orthogonal to rounding at any size, and applied in `O(d)` each.
const REFLECTIONS: usize = 8;

/// The shares of a key's energy: common to all edits, like ordinary text, and spread evenly over all directions.
const SHARES: [f64; 3] = [0.3, 0.5, 0.2];

/// Statistics with the spectrum of a real layer, and a stream of edits.
pub struct Layer {
    /// The spectrum of the statistics.
    pub spectrum: Arc<Spectrum>,
    reflections: Vec<Vec<f64>>,
    common: Vec<f64>,
    length: f64,
    seed: u64,
}

impl Layer {
    /// A layer whose keys have a median `s = kᵀ A0⁻¹ k` of about `typical_s`.
    ///
    /// # Errors
    /// Sizes that do not fit in memory.
    pub fn new(d_in: usize, typical_s: f64, seed: u64, par: Par) -> Result<Self> {
        let mut random = Random::new(seed, 0);
        let reflections: Vec<Vec<f64>> = (0..REFLECTIONS).map(|_| random.direction(d_in)).collect();
        let values = eigenvalues(d_in);
        let mut vectors = Mat::identity(d_in, d_in);
        vectors.col_iter_mut().for_each(|column| {
            let column = column.try_as_col_major_mut().expect("a matrix of our own").as_slice_mut();
            reflect(&reflections, column);
        });
        let common = (0..d_in).map(|_| random.normal()).collect();
        let spectrum = Arc::new(Spectrum::from_parts(values, vectors, par)?);
        let mut layer = Self { spectrum, reflections, common, length: 1.0, seed };
        let mut s: Vec<f64> = (0..64).map(|edit| layer.s(edit)).collect();
        s.sort_by(f64::total_cmp);
        layer.length = (typical_s / s[32]).sqrt();
        Ok(layer)
    }

    /// The key of an edit, `d_in x 1`.
    pub fn key<T: Scalar>(&self, edit: usize) -> Mat<T> {
        let mut k = self.coordinates(edit);
        reflect(&self.reflections, &mut k);
        Mat::from_fn(k.len(), 1, |i, _| T::from_f64(k[i]))
    }

    /// The keys of `count` edits from `first` on, `d_in x count`.
    pub fn keys<T: Scalar>(&self, first: usize, count: usize) -> Mat<T> {
        let mut keys = Mat::zeros(self.spectrum.dim(), count);
        for j in 0..count {
            keys.as_mut().subcols_mut(j, 1).copy_from(self.key::<T>(first + j));
        }
        keys
    }

    /// The residuals of `count` edits, `d_out x count`, of length about 1.
    pub fn residuals<T: Scalar>(&self, d_out: usize, first: usize, count: usize) -> Mat<T> {
        let scale = 1.0 / (d_out as f64).sqrt();
        let mut residuals = Mat::zeros(d_out, count);
        for j in 0..count {
            let mut random = Random::new(self.seed, 2 * (first + j) as u64 + 2);
            residuals.col_as_slice_mut(j).iter_mut().for_each(|r| *r = T::from_f64(scale * random.normal()));
        }
        residuals
    }

    /// A weight, `d_out x d_in`.
    pub fn weight<T: Scalar>(&self, d_out: usize) -> Mat<T> {
        let mut random = Random::new(self.seed, u64::MAX);
        Mat::from_fn(d_out, self.spectrum.dim(), |_, _| T::from_f64(0.05 * (random.uniform() - 0.5)))
    }

    /// The key of an edit in the eigenbasis.
    fn coordinates(&self, edit: usize) -> Vec<f64> {
        let mut random = Random::new(self.seed, 2 * edit as u64 + 1);
        let s = self.spectrum.values();
        let flat = self.spectrum.trace() / s.len() as f64;
        let size = self.length * (0.25 * random.normal()).exp();
        let [common, text, spread] = SHARES.map(f64::sqrt);
        let energies = s.iter().zip(&self.common);
        energies
            .map(|(s, shared)| {
                let like_text = s.sqrt() * (common * shared + text * random.normal());
                size * (like_text + spread * flat.sqrt() * random.normal())
            })
            .collect()
    }

    /// `kᵀ A0⁻¹ k` in the initial space of the projector.
    fn s(&self, edit: usize) -> f64 {
        let Threshold::Absolute(tau) = THRESHOLD else { return 1.0 };
        let kept = self.spectrum.values().iter().take_while(|&&s| s < tau);
        kept.zip(self.coordinates(edit)).map(|(s, c)| c * c / (LAMBDA1 * s + LAMBDA2)).sum()
    }
}

/// Ascending eigenvalues with the shape of those measured at SmolLM2-135M's layer 10 (`d_in` = 1536): two large ones, 25
/// and 15; of the others 60 % below 0.02, the median 0.016, the smallest 0.005; the trace 90. At other sizes the
/// quantiles are the same.
fn eigenvalues(d_in: usize) -> Vec<f64> {
    /// Quantiles, interpolated on a logarithmic scale.
    const CURVE: [(f64, f64); 6] = [(0.0, 0.005), (0.5, 0.016), (0.6, 0.02), (0.9, 0.05), (0.985, 0.15), (1.0, 1.5)];
    let at = |u: f64| {
        let upper = CURVE.iter().position(|point| point.0 >= u).unwrap_or(CURVE.len() - 1).max(1);
        let ((u0, s0), (u1, s1)) = (CURVE[upper - 1], CURVE[upper]);
        s0 * (s1 / s0).powf((u - u0) / (u1 - u0))
    };
    (0..d_in)
        .map(|i| match d_in - i {
            1 => 25.0,
            2 => 15.0,
            _ => at((i as f64 + 0.5) / d_in as f64),
        })
        .collect()
}

/// `x <- H_1 ... H_m x` with `H = I - 2 v vᵀ`.
fn reflect(reflections: &[Vec<f64>], x: &mut [f64]) {
    for v in reflections.iter().rev() {
        let share: f64 = 2.0 * v.iter().zip(x.iter()).map(|(v, x)| v * x).sum::<f64>();
        x.iter_mut().zip(v).for_each(|(x, v)| *x -= share * v);
    }
}

/// The system that the published programs solve at every edit, in any precision: `(P (K Kᵀ + A) + lambda2 I) X = P K Rᵀ`,
/// dense, by LU with partial pivoting. It uses faer's global number of threads.
pub struct DenseSolve<T: Scalar> {
    P: Mat<T>,
    A: Mat<T>,
}

impl<T: Scalar> DenseSolve<T> {
    /// The system after some edits.
    ///
    /// * `keys`: the history, `d_in x t`
    pub fn new(projector: &Projector, keys: MatRef<'_, T>, par: Par) -> Self {
        let mut A = projector.spectrum().to_matrix(par);
        A *= betaedit_core::faer::Scale(LAMBDA1);
        let keys = cast::<T, f64>(keys);
        matmul(&mut A, Accum::Add, &keys, keys.transpose(), 1.0, par);
        Self { P: cast(projector.to_dense(par).as_ref()), A: cast(A.as_ref()) }
    }

    /// `Deltaᵀ`, `d_in x d_out`.
    pub fn solve(&mut self, K: MatRef<'_, T>, R: MatRef<'_, T>, par: Par) -> Mat<T> {
        let one = T::from_f64(1.0);
        matmul(&mut self.A, Accum::Add, K, K.transpose(), one, par);
        let mut system = Mat::zeros(self.P.nrows(), self.P.nrows());
        matmul(&mut system, Accum::Replace, &self.P, &self.A, one, par);
        matmul(&mut self.A, Accum::Add, K, K.transpose(), -one, par);
        for i in 0..system.nrows() {
            system[(i, i)] += T::from_f64(LAMBDA2);
        }
        let right = &self.P * K * R.transpose();
        system.partial_piv_lu().solve(right)
    }
}

/// Uniform and normal numbers from a seed and the number of a stream (splitmix64): the same on every platform.
struct Random(u64);

impl Random {
    fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0xD1B5_4A32_D192_ED03));
        random.0 = random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1).
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Standard normal (Box and Muller).
    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// A vector of length 1.
    fn direction(&mut self, dim: usize) -> Vec<f64> {
        let v: Vec<f64> = (0..dim).map(|_| self.normal()).collect();
        let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
        v.into_iter().map(|v| v / norm).collect()
    }
}
