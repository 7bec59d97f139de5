//! Random numbers, vectors and orders from a seed.

use betaedit_core::faer::Mat;

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

    /// `count` vectors of length 1 that have this share of their energy in common.
    pub fn cone(&mut self, dim: usize, count: usize, share: f64) -> Mat<f64> {
        let axis: Vec<f64> = (0..dim).map(|_| self.normal()).collect();
        let (common, own) = (share.sqrt(), (1.0 - share).sqrt());
        let vectors = Mat::from_fn(dim, count, |i, _| common * axis[i] + own * self.normal());
        Mat::from_fn(dim, count, |i, j| vectors[(i, j)] / vectors.col(j).norm_l2())
    }

    /// The numbers below `n` in random order.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<(f64, usize)> = (0..n).map(|i| (self.uniform(), i)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        order.into_iter().map(|(_, i)| i).collect()
    }
}
