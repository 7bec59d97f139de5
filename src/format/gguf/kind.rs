//! The number types of tensors in GGUF files.

use half::f16;

/// The number type of a tensor in a GGUF file.
///
/// The quantized types hold numbers in blocks. A block has a step and perhaps an offset for each of its numbers, and a small whole number,
/// the code, for each: the number is `offset + step * code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum GgufType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an `f32`.
    Bf16,
    /// 4 bits, a step for 32 numbers.
    Q4_0,
    /// 4 bits, a step and an offset for 32 numbers.
    Q4_1,
    /// 5 bits, a step for 32 numbers.
    Q5_0,
    /// 5 bits, a step and an offset for 32 numbers.
    Q5_1,
    /// 8 bits, a step for 32 numbers.
    Q8_0,
    /// 2 bits, a step and an offset for 16 numbers.
    Q2K,
    /// 3 bits, a step for 16 numbers.
    Q3K,
    /// 4 bits, a step and an offset for 32 numbers.
    Q4K,
    /// 5 bits, a step and an offset for 32 numbers.
    Q5K,
    /// 6 bits, a step for 16 numbers.
    Q6K,
}

/// Types with their numbers in files, their names, numbers in a block, and bytes of a block.
const TYPES: [(GgufType, u32, &str, usize, usize); 13] = [
    (GgufType::F32, 0, "F32", 1, 4),
    (GgufType::F16, 1, "F16", 1, 2),
    (GgufType::Q4_0, 2, "Q4_0", 32, 18),
    (GgufType::Q4_1, 3, "Q4_1", 32, 20),
    (GgufType::Q5_0, 6, "Q5_0", 32, 22),
    (GgufType::Q5_1, 7, "Q5_1", 32, 24),
    (GgufType::Q8_0, 8, "Q8_0", 32, 34),
    (GgufType::Q2K, 10, "Q2_K", 256, 84),
    (GgufType::Q3K, 11, "Q3_K", 256, 110),
    (GgufType::Q4K, 12, "Q4_K", 256, 144),
    (GgufType::Q5K, 13, "Q5_K", 256, 176),
    (GgufType::Q6K, 14, "Q6_K", 256, 210),
    (GgufType::Bf16, 30, "BF16", 1, 2),
];

impl std::fmt::Display for GgufType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.row().2)
    }
}

impl GgufType {
    fn row(self) -> (Self, u32, &'static str, usize, usize) {
        TYPES.into_iter().find(|row| row.0 == self).unwrap_or(TYPES[0])
    }

    pub(super) fn from_id(id: u32) -> Option<Self> {
        TYPES.into_iter().find(|row| row.1 == id).map(|row| row.0)
    }

    pub(in crate::format) fn id(self) -> u32 {
        self.row().1
    }

    /// Numbers in a block.
    #[must_use]
    pub fn block(self) -> usize {
        self.row().3
    }

    /// Bytes of a block.
    #[must_use]
    pub fn bytes(self) -> usize {
        self.row().4
    }

    /// The names of all, for messages.
    pub(super) fn names() -> String {
        TYPES.map(|row| row.2).join(", ")
    }
}

/// The codes that a number of a block may have, and the numbers that they stand for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) offset: f64,
    pub(super) step: f64,
    pub(super) code: i32,
}

impl Line {
    pub(super) fn number(self) -> f64 {
        self.offset + self.step * f64::from(self.code)
    }
}

/// Some bits of a byte.
#[derive(Clone, Copy)]
struct Bits {
    byte: usize,
    shift: usize,
    width: u32,
}

impl Bits {
    fn mask(self) -> u8 {
        // The width is at most 8.
        (u8::MAX >> (8 - self.width)) << self.shift
    }

    fn get(self, block: &[u8]) -> u8 {
        (block[self.byte] & self.mask()) >> self.shift
    }

    fn set(self, block: &mut [u8], value: u8) {
        let byte = &mut block[self.byte];
        *byte = (*byte & !self.mask()) | ((value << self.shift) & self.mask());
    }
}

/// The bits of a code: those of low value first.
struct Code {
    low: Bits,
    high: Option<Bits>,
}

impl GgufType {
    /// The smallest and the largest code. `None` for numbers that are stored as they are.
    pub(super) fn codes(self) -> Option<(i32, i32)> {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => None,
            Self::Q2K => Some((0, 3)),
            Self::Q3K => Some((0, 7)),
            Self::Q4_0 | Self::Q4_1 | Self::Q4K => Some((0, 15)),
            Self::Q5_0 | Self::Q5_1 | Self::Q5K => Some((0, 31)),
            Self::Q6K => Some((0, 63)),
            // Quantizers leave out -128.
            Self::Q8_0 => Some((1, 255)),
        }
    }

    /// Where the code of a block's `j`th number is.
    fn code(self, j: usize) -> Code {
        let bits = |byte, shift, width| Bits { byte, shift, width };
        let nibble = |start| bits(start + j % 16, 4 * (j / 16), 4);
        // Of the types with 256 numbers: the half, the quarter of it, and the place in that.
        let (c, s, i) = (j / 128, j / 32 % 4, j % 32);
        let (low, high) = match self {
            Self::F32 | Self::F16 | Self::Bf16 => (bits(0, 0, 8), None),
            Self::Q4_0 => (nibble(2), None),
            Self::Q4_1 => (nibble(4), None),
            Self::Q5_0 => (nibble(6), Some(bits(2 + j / 8, j % 8, 1))),
            Self::Q5_1 => (nibble(8), Some(bits(4 + j / 8, j % 8, 1))),
            Self::Q8_0 => (bits(2 + j, 0, 8), None),
            Self::Q2K => (bits(16 + 32 * c + i, 2 * s, 2), None),
            Self::Q3K => (bits(32 + 32 * c + i, 2 * s, 2), Some(bits(i, 4 * c + s, 1))),
            Self::Q4K => (bits(16 + 32 * (j / 64) + i, 4 * (s % 2), 4), None),
            Self::Q5K => (bits(48 + 32 * (j / 64) + i, 4 * (s % 2), 4), Some(bits(16 + i, 4 * c + s, 1))),
            Self::Q6K => (bits(64 * c + 32 * (s % 2) + i, 4 * (s / 2), 4), Some(bits(128 + 32 * c + i, 2 * s, 2))),
        };
        Code { low, high }
    }

    /// What is added to the bits of a code, modulo 256: signed bytes become codes from 0 on.
    fn shifted(self) -> u8 {
        if self == Self::Q8_0 { 128 } else { 0 }
    }

    /// The numbers of a quantized block.
    pub(super) fn lines(self, block: &[u8]) -> Vec<Line> {
        let line = |j| {
            let Code { low, high } = self.code(j);
            let high = high.map_or(0, |high| high.get(block) << low.width);
            let (offset, step) = self.scale(block, j);
            Line { offset, step, code: i32::from((low.get(block) | high).wrapping_add(self.shifted())) }
        };
        (0..self.block()).map(line).collect()
    }

    /// Changes the codes of a block.
    pub(super) fn set_codes(self, block: &mut [u8], codes: impl Iterator<Item = i32>) {
        for (j, code) in codes.take(self.block()).enumerate() {
            let Code { low, high } = self.code(j);
            let byte = code.to_le_bytes()[0].wrapping_sub(self.shifted());
            low.set(block, byte);
            if let Some(high) = high {
                high.set(block, byte >> low.width);
            }
        }
    }

    /// Offset and step of a block's `j`th number.
    fn scale(self, block: &[u8], j: usize) -> (f64, f64) {
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f64();
        let centred = |step: f64, centre: f64| (-centre * step, step);
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => (0.0, 1.0),
            Self::Q4_0 => centred(half(0), 8.0),
            Self::Q5_0 => centred(half(0), 16.0),
            Self::Q8_0 => centred(half(0), 128.0),
            Self::Q4_1 | Self::Q5_1 => (half(2), half(0)),
            Self::Q2K => {
                let scale = block[j / 16];
                (-half(82) * f64::from(scale >> 4), half(80) * f64::from(scale & 15))
            }
            Self::Q3K => {
                let k = j / 16;
                let low = block[96 + k % 8] >> (4 * (k / 8)) & 15;
                let high = block[104 + k % 4] >> (2 * (k / 4)) & 3;
                centred(half(108) * (f64::from(low | high << 4) - 32.0), 4.0)
            }
            Self::Q4K | Self::Q5K => {
                let (step, offset) = sixes(&block[4..16], j / 32);
                (-half(2) * f64::from(offset), half(0) * f64::from(step))
            }
            Self::Q6K => centred(half(208) * f64::from(block[192 + j / 16].cast_signed()), 32.0),
        }
    }
}

/// Step and offset of the `k`th 32 numbers of a block, which are packed as numbers of six bits.
fn sixes(scales: &[u8], k: usize) -> (u8, u8) {
    match k.checked_sub(4) {
        None => (scales[k] & 63, scales[k + 4] & 63),
        Some(l) => ((scales[k + 4] & 15) | (scales[l] >> 6) << 4, (scales[k + 4] >> 4) | (scales[k] >> 6) << 4),
    }
}
