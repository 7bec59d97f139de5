//! Functions of many numbers, written so that the compiler can use vector instructions.

/// `e^x` to two units in the last place, as straight-line code that the compiler can vectorise. Calling the standard library for
/// every number takes five times as long. `x` is clamped to -87.33 to 88.37. NaN stays NaN.
///
/// The reduction and the polynomial are those of the Cephes library (Moshier).
#[inline(always)]
pub(in crate::llm) fn exp(x: f32) -> f32 {
    // x = n ln 2 + r with a whole n and |r| <= ln 2 / 2: adding 1.5 * 2^23 rounds, and leaves n in the lowest bits.
    let x = x.clamp(-87.33, 88.37);
    let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
    let n = shifted - 12_582_912.0;
    // ln 2 in two parts; the product with the first is exact.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + coefficient;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    (p * r * r + r + 1.0) * power
}

/// The error function to four units in the last place, as straight-line code: a rational function fitted on 0 to 3.92, where the error
/// function is 1 in `f32`.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let x = x.clamp(-3.92, 3.92);
    let t = x * x;
    let mut above = 2.050_077_4e-6_f32;
    for coefficient in [2.848_835e-4, 3.765_66e-3, 5.274_886e-2, 0.190_407_49, std::f32::consts::FRAC_2_SQRT_PI] {
        above = above * t + coefficient;
    }
    let mut below = 3.809_165e-5_f32;
    for coefficient in [1.162_545_4e-3, 1.496_930_4e-2, 0.114_109_54, 0.502_077_1, 1.0] {
        below = below * t + coefficient;
    }
    x * above / below
}

/// `bound tanh(x / bound)`.
#[inline(always)]
pub(super) fn capped(x: f32, bound: f32) -> f32 {
    bound - 2.0 * bound / (1.0 + exp(2.0 * x / bound))
}

/// Lanes of a reduction: numbers that are processed together.
const LANES: usize = 32;

/// `f(.. f(f(initial, x_0), x_1) ..)`, where `x_i` are the numbers at index `i` of some slices of equal length. The lanes are
/// reduced separately and merged at the end. This order suits vector instructions, and is the same on every machine.
#[inline(always)]
pub(super) fn reduce<const N: usize>(
    x: [&[f32]; N],
    initial: f32,
    f: impl Fn(f32, [f32; N]) -> f32,
    merge: impl Fn(f32, f32) -> f32,
) -> f32 {
    let parts = x.map(|x| x.as_chunks::<LANES>());
    // Slices of known equal length, so that the compiler drops the bounds checks.
    let (whole, rest) = (parts[0].0.len(), parts[0].1.len());
    let (chunks, tails) = (parts.map(|(chunks, _)| &chunks[..whole]), parts.map(|(_, tail)| &tail[..rest]));
    let mut lanes = [initial; LANES];
    for i in 0..whole {
        let numbers = chunks.map(|chunks| &chunks[i]);
        for (lane, result) in lanes.iter_mut().enumerate() {
            *result = f(*result, numbers.map(|numbers| numbers[lane]));
        }
    }
    for i in 0..rest {
        lanes[i] = f(lanes[i], tails.map(|tail| tail[i]));
    }
    lanes.into_iter().fold(initial, merge)
}

/// `f(x_0) + f(x_1) + ...`, in the order of [`reduce`].
#[inline(always)]
pub(super) fn sum<const N: usize>(x: [&[f32]; N], f: impl Fn([f32; N]) -> f32) -> f32 {
    reduce(x, 0.0, |sum, x| sum + f(x), |a, b| a + b)
}

/// The largest number; `-inf` if there is none.
#[inline(always)]
pub(super) fn largest(x: &[f32]) -> f32 {
    reduce([x], f32::NEG_INFINITY, |largest, [x]| largest.max(x), f32::max)
}

/// The index of the largest number, the first of equal ones; 0 if there is none.
pub(in crate::llm) fn likeliest(row: &[f32]) -> u32 {
    let best =
        row.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &x)| if x > best.1 { (i, x) } else { best });
    best.0 as u32
}

/// The length of a vector.
pub(in crate::llm) fn norm(x: &[f32]) -> f32 {
    x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_two_units_in_the_last_place_and_keeps_nan() {
        let mut worst = 0.0_f64;
        for i in -873_000..=883_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(-1e9) < 2e-38);
        assert!((1e38..=f32::MAX).contains(&exp(f32::INFINITY)));
    }

    #[test]
    fn reductions_take_every_number_once() {
        for n in [0, 1, 31, 32, 33, 100] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(sum([&x, &x], |[a, b]| a + b), (n * n) as f32 - n as f32);
            assert_eq!(largest(&x), x.last().copied().unwrap_or(f32::NEG_INFINITY));
        }
    }
}
