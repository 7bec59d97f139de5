//! Seeded data, textbook oracles and recorded goldens for all topics.

#[cfg(feature = "safetensors")]
use std::path::PathBuf;
use std::sync::Arc;

use betaedit_core::faer::linalg::solvers::Solve;
use betaedit_core::faer::{Mat, MatRef, Par};
use betaedit_core::{Scalar, SecondMoment, Spectrum};
use proptest::prelude::ProptestConfig;
use proptest::test_runner::{FileFailurePersistence, RngSeed};

/// Relative distance `|a - b|_F / |b|_F`, absolute where `b` is zero.
#[track_caller]
pub fn distance<T: Scalar>(a: MatRef<'_, T>, b: MatRef<'_, T>) -> f64 {
    assert_eq!(a.shape(), b.shape());
    let scale = b.norm_l2().to_f64();
    (a - b).norm_l2().to_f64() / if scale > 0.0 { scale } else { 1.0 }
}

/// A seeded generator of uniform and normal numbers (xorshift64*): the same on every platform.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Uniform in (0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Independent standard normal entries.
    pub fn matrix<T: Scalar>(&mut self, rows: usize, cols: usize) -> Mat<T> {
        Mat::from_fn(rows, cols, |_, _| T::from_f64(self.normal()))
    }

    /// A random orthogonal matrix.
    pub fn rotation(&mut self, n: usize) -> Mat<f64> {
        self.matrix::<f64>(n, n).qr().compute_thin_Q()
    }

    /// Statistics with exactly this rank and eigenvalues falling from 1 to `smallest` on a logarithmic scale.
    pub fn moment(&mut self, d: usize, rank: usize, smallest: f64) -> SecondMoment {
        let U = self.rotation(d);
        let eigenvalue = |j: usize| smallest.powf(j as f64 / (rank.max(2) - 1) as f64);
        let K = Mat::from_fn(d, rank, |i, j| U[(i, j)] * (eigenvalue(j) * rank as f64).sqrt());
        let mut moment = SecondMoment::new(d);
        moment.observe(K.as_ref(), Par::Seq).unwrap();
        moment
    }
}

pub fn spectrum(moment: &SecondMoment) -> Arc<Spectrum> {
    Arc::new(Spectrum::new(moment, Par::Seq).unwrap())
}

/// `A⁻¹ B` by a dense LU with partial pivoting: the textbook.
pub fn lu_solve<T: Scalar>(A: MatRef<'_, T>, B: MatRef<'_, T>) -> Mat<T> {
    A.partial_piv_lu().solve(B)
}

/// The update of every method as the papers print it: `(P (K Kᵀ + A) + ridge I) X = P K`, `Delta = R Xᵀ`.
///
/// Dense, not symmetric, one LU: no line of it is shared with the library.
pub fn textbook_update<T: Scalar>(
    P: MatRef<'_, T>,
    A: MatRef<'_, T>,
    ridge: f64,
    K: MatRef<'_, T>,
    R: MatRef<'_, T>,
) -> Mat<T> {
    let d = P.nrows();
    let mut system = P * (K * K.transpose() + A);
    for i in 0..d {
        system[(i, i)] += T::from_f64(ridge);
    }
    R * lu_solve(system.as_ref(), (P * K).as_ref()).transpose()
}

/// A file of `tests/data`.
#[cfg(feature = "safetensors")]
pub fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// How many problems a property sees, and which: 256, always the same ones. `PROPTEST_CASES` and `PROPTEST_RNG_SEED` ask for
/// more and for others. The seed of one that fails is kept beside the test in a file `.proptest-regressions`, to be committed;
/// those seeds are tried first.
pub fn property_config() -> ProptestConfig {
    let asked = |name| {
        let number = std::env::var(name).ok()?;
        Some(number.parse::<u64>().unwrap_or_else(|_| panic!("{name} is `{number}`, which is no number")))
    };
    ProptestConfig {
        cases: asked("PROPTEST_CASES").unwrap_or(256) as u32,
        rng_seed: RngSeed::Fixed(asked("PROPTEST_RNG_SEED").unwrap_or(0)),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..ProptestConfig::default()
    }
}

/// A safetensors file by the format's own library, of tensors with their number types, shapes and bytes.
#[cfg(feature = "safetensors")]
pub fn safetensors_file(tensors: &[(&str, safetensors::Dtype, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (*name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).unwrap()
}

/// Matrices that a script of `tests/python` computed: a JSON object in `tests/data`, each matrix a list of rows.
pub struct Matrices(serde_json::Map<String, serde_json::Value>);

impl Matrices {
    pub fn read(name: &str) -> Self {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
        Self(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
    }

    pub fn get(&self, name: &str) -> Mat<f64> {
        let rows: Vec<Vec<f64>> = serde_json::from_value(self.0[name].clone()).unwrap();
        Mat::from_fn(rows.len(), rows[0].len(), |i, j| rows[i][j])
    }
}
