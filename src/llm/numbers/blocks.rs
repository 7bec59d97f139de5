//! Blocks of quantized numbers, widened with the processor's vector instructions: three to four times as fast as code for any processor.
//!
//! The layouts are those of GGML's types of these names. Results are those of candle's decoders, bit for bit.

use std::hint::black_box;

use candle_core::quantized::GgmlDType;
use half::bf16;

use crate::util::vectorized::vectorized;

/// A type whose blocks are widened here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockType {
    Q4_0,
    Q4_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// Numbers of a block of the simple types, and of one of the others.
const SMALL: usize = 32;
const LARGE: usize = 256;

impl BlockType {
    pub(super) fn of(kind: GgmlDType) -> Option<Self> {
        match kind {
            GgmlDType::Q4_0 => Some(Self::Q4_0),
            GgmlDType::Q4_1 => Some(Self::Q4_1),
            GgmlDType::Q8_0 => Some(Self::Q8_0),
            GgmlDType::Q4K => Some(Self::Q4K),
            GgmlDType::Q5K => Some(Self::Q5K),
            GgmlDType::Q6K => Some(Self::Q6K),
            _ => None,
        }
    }

    /// Widens whole blocks.
    pub(super) fn widen(self, bytes: &[u8], to: &mut [f32]) {
        match self {
            Self::Q4_0 => each::<Q40, 18, SMALL>(bytes, to),
            Self::Q4_1 => each::<Q41, 20, SMALL>(bytes, to),
            Self::Q8_0 => each::<Q80, 34, SMALL>(bytes, to),
            Self::Q4K => each::<Q4K, 144, LARGE>(bytes, to),
            Self::Q5K => each::<Q5K, 176, LARGE>(bytes, to),
            Self::Q6K => each::<Q6K, 210, LARGE>(bytes, to),
        }
    }
}

/// How a block of `B` bytes gives `N` numbers. A type for each, not a function: a function that is passed as a value may not be inlined,
/// and is compiled without vector instructions then.
trait Block<const B: usize, const N: usize> {
    fn widen(block: &[u8; B], y: &mut [f32; N]);
}

fn each<T: Block<B, N>, const B: usize, const N: usize>(bytes: &[u8], to: &mut [f32]) {
    let (blocks, numbers) = (bytes.as_chunks().0, to.as_chunks_mut().0);
    vectorized(
        #[inline(always)]
        || {
            for (block, numbers) in blocks.iter().zip(numbers.iter_mut()) {
                T::widen(block, numbers);
            }
        },
    );
}

/// Numbers whose bits are the upper halves of those of `f32`.
pub(super) fn widen_bf16(numbers: &[bf16]) -> Vec<f32> {
    let mut widened = vec![0.0; numbers.len()];
    vectorized(
        #[inline(always)]
        || {
            for (to, from) in widened.iter_mut().zip(numbers) {
                *to = f32::from_bits(u32::from(from.to_bits()) << 16);
            }
        },
    );
    widened
}

/// A number in half precision. Infinity and NaN become NaN.
#[inline(always)]
fn half(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    // The exponents' biases differ by 112.
    let size = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let number = f32::from_bits(size.to_bits() | (bits & 0x8000) << 16);
    if bits & 0x7c00 == 0x7c00 { f32::NAN } else { number }
}

/// Numbers from the lower and then from the upper halves of 16 bytes. The number of loops is hidden from the compiler: if it unrolls
/// all 32 steps, it misses the vector instructions, and this takes twice as long.
#[inline(always)]
fn in_eights(bytes: &[u8], y: &mut [f32; SMALL], f: impl Fn(u8) -> f32) {
    for part in 0..black_box(2) {
        let (bytes, y) = (&bytes[8 * part..8 * part + 8], &mut y[8 * part..]);
        for j in 0..8 {
            y[j] = f(bytes[j] & 15);
        }
        for j in 0..8 {
            y[16 + j] = f(bytes[j] >> 4);
        }
    }
}

struct Q40;

impl Block<18, SMALL> for Q40 {
    #[inline(always)]
    fn widen(block: &[u8; 18], y: &mut [f32; SMALL]) {
        let d = half([block[0], block[1]]);
        in_eights(
            &block[2..],
            y,
            #[inline(always)]
            |q| (i32::from(q) - 8) as f32 * d,
        );
    }
}

struct Q41;

impl Block<20, SMALL> for Q41 {
    #[inline(always)]
    fn widen(block: &[u8; 20], y: &mut [f32; SMALL]) {
        let (d, m) = (half([block[0], block[1]]), half([block[2], block[3]]));
        in_eights(
            &block[4..],
            y,
            #[inline(always)]
            |q| f32::from(q) * d + m,
        );
    }
}

struct Q80;

impl Block<34, SMALL> for Q80 {
    #[inline(always)]
    fn widen(block: &[u8; 34], y: &mut [f32; SMALL]) {
        let d = half([block[0], block[1]]);
        for j in 0..SMALL {
            y[j] = f32::from(block[2 + j] as i8) * d;
        }
    }
}

/// Scale and minimum of the `j`-th 32 numbers: 6 bits each, in 12 bytes.
#[inline(always)]
fn scale_and_minimum(j: usize, scales: &[u8]) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (scales[j] & 63, scales[j + 4] & 63)
    } else {
        ((scales[j + 4] & 15) | (scales[j - 4] >> 6) << 4, (scales[j + 4] >> 4) | (scales[j] >> 6) << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

struct Q4K;

impl Block<144, LARGE> for Q4K {
    #[inline(always)]
    fn widen(block: &[u8; 144], y: &mut [f32; LARGE]) {
        let (d, least) = (half([block[0], block[1]]), half([block[2], block[3]]));
        let (scales, q) = (&block[4..16], &block[16..]);
        for part in 0..4 {
            let [(low, low_m), (high, high_m)] = [2 * part, 2 * part + 1].map(|j| {
                let (scale, minimum) = scale_and_minimum(j, scales);
                (d * scale, least * minimum)
            });
            for l in 0..32 {
                let q = q[32 * part + l];
                y[64 * part + l] = low * f32::from(q & 15) - low_m;
                y[64 * part + 32 + l] = high * f32::from(q >> 4) - high_m;
            }
        }
    }
}

struct Q5K;

impl Block<176, LARGE> for Q5K {
    #[inline(always)]
    fn widen(block: &[u8; 176], y: &mut [f32; LARGE]) {
        let (d, least) = (half([block[0], block[1]]), half([block[2], block[3]]));
        let (scales, fifth, q) = (&block[4..16], &block[16..48], &block[48..]);
        for part in 0..4 {
            let [(low, low_m), (high, high_m)] = [2 * part, 2 * part + 1].map(|j| {
                let (scale, minimum) = scale_and_minimum(j, scales);
                (d * scale, least * minimum)
            });
            for l in 0..32 {
                let (q, bits) = (q[32 * part + l], fifth[l] >> (2 * part));
                y[64 * part + l] = low * f32::from((q & 15) | (bits & 1) << 4) - low_m;
                y[64 * part + 32 + l] = high * f32::from((q >> 4) | (bits & 2) << 3) - high_m;
            }
        }
    }
}

struct Q6K;

impl Block<210, LARGE> for Q6K {
    #[inline(always)]
    fn widen(block: &[u8; 210], y: &mut [f32; LARGE]) {
        let d = half([block[208], block[209]]);
        for part in 0..2 {
            let (low, high) = (&block[64 * part..64 * part + 64], &block[128 + 32 * part..160 + 32 * part]);
            let scales = &block[192 + 8 * part..200 + 8 * part];
            let y = &mut y[128 * part..128 * part + 128];
            for half in 0..2 {
                let scale = |i: usize| d * f32::from(scales[2 * i + half] as i8);
                let scales = [scale(0), scale(1), scale(2), scale(3)];
                for l in 16 * half..16 * half + 16 {
                    let (a, b, bits) = (low[l], low[l + 32], high[l]);
                    let number = |low: u8, bits: u8| (i32::from(low | (bits & 3) << 4) - 32) as f32;
                    y[l] = scales[0] * number(a & 15, bits);
                    y[l + 32] = scales[1] * number(b & 15, bits >> 2);
                    y[l + 64] = scales[2] * number(a >> 4, bits >> 4);
                    y[l + 96] = scales[3] * number(b >> 4, bits >> 6);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use candle_core::CpuStorage;

    use super::*;

    /// Random bytes are blocks too.
    #[test]
    fn numbers_are_those_of_candle() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        use GgmlDType as Type;
        for kind in [Type::Q4_0, Type::Q4_1, Type::Q8_0, Type::Q4K, Type::Q5K, Type::Q6K] {
            let blocks = BlockType::of(kind).unwrap();
            let (size, count) = (kind.type_size(), kind.block_size());
            let bytes: Vec<u8> = (0..999 * size).map(|_| random()).collect();
            let mut found = vec![0.0; 999 * count];
            blocks.widen(&bytes, &mut found);
            let Ok(CpuStorage::F32(expected)) = kind.from_data(Cow::Borrowed(&bytes)).dequantize(found.len()) else {
                panic!("candle gives f32")
            };
            let mut finite = 0;
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                // Infinite scales are refused, as whatever is not finite.
                finite += usize::from(found.is_finite());
                assert!(
                    found == expected || !found.is_finite() && !expected.is_finite(),
                    "{kind:?} {at}: {found} {expected}"
                );
            }
            assert!(finite > 900 * count, "{kind:?}");
        }
    }
}
