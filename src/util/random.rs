//! Random bits that are the same on every machine and in every run.

/// 64 random bits for a number (splitmix64: the output of the generator after `i + 1` steps from 0).
pub(crate) fn scrambled(i: u64) -> u64 {
    let mut x = i.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A number uniform in (0, 1) from random bits.
pub(crate) fn uniform(bits: u64) -> f64 {
    ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// `n` independent standard normal numbers (Box, Muller 1958), different for every seed.
pub(crate) fn normal(seed: u64, n: usize) -> Vec<f64> {
    let bits = |i: usize| uniform(scrambled(scrambled(seed) ^ i as u64));
    let number = |i: usize| (-2.0 * bits(2 * i).ln()).sqrt() * (std::f64::consts::TAU * bits(2 * i + 1)).cos();
    (0..n).map(number).collect()
}
