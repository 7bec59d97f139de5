//! The number types that weights are stored in, and the effect of rounding to them.

use std::fmt;

use half::{bf16, f16};

#[cfg(feature = "safetensors")]
use crate::scalar::Scalar;

/// The type of stored numbers. In files they are little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Precision {
    /// IEEE half precision: 11 significant bits, up to 65504.
    F16,
    /// The upper half of an `f32`: 8 significant bits.
    Bf16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
}

impl Precision {
    /// The type that holds a matrix of `T` exactly.
    #[cfg(feature = "safetensors")]
    pub(crate) fn of<T: Scalar>() -> Self {
        if size_of::<T>() == size_of::<f32>() { Self::F32 } else { Self::F64 }
    }

    /// Bytes of one number.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// The largest number.
    #[cfg(feature = "safetensors")]
    pub(crate) fn largest(self) -> f64 {
        match self {
            Self::F16 => f16::MAX.to_f64(),
            Self::Bf16 => bf16::MAX.to_f64(),
            Self::F32 => f64::from(f32::MAX),
            Self::F64 => f64::MAX,
        }
    }

    /// Name of the type in error messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// The numbers in `bytes`, exactly; as many as `numbers` has room for.
    #[cfg(feature = "files")]
    pub(crate) fn decode(self, bytes: &[u8], numbers: &mut [f64]) {
        fn each<const N: usize>(bytes: &[u8], numbers: &mut [f64], decode: impl Fn([u8; N]) -> f64) {
            let (words, _) = bytes.as_chunks();
            numbers.iter_mut().zip(words).for_each(|(number, word)| *number = decode(*word));
        }
        match self {
            Self::F16 => each(bytes, numbers, |word| f16::from_le_bytes(word).to_f64()),
            Self::Bf16 => each(bytes, numbers, |word| bf16::from_le_bytes(word).to_f64()),
            Self::F32 => each(bytes, numbers, |word| f64::from(f32::from_le_bytes(word))),
            Self::F64 => each(bytes, numbers, f64::from_le_bytes),
        }
    }

    /// Appends the nearest number of this type (ties to even) to `bytes`, and returns it.
    #[cfg(feature = "files")]
    pub(crate) fn encode(self, x: f64, bytes: &mut Vec<u8>) -> f64 {
        match self {
            Self::F16 => {
                let rounded = to_f16(x);
                bytes.extend(rounded.to_le_bytes());
                rounded.to_f64()
            }
            Self::Bf16 => {
                let rounded = to_bf16(x);
                bytes.extend(rounded.to_le_bytes());
                rounded.to_f64()
            }
            Self::F32 => {
                #[expect(clippy::cast_possible_truncation, reason = "rounding is what this is for")]
                let rounded = x as f32;
                bytes.extend(rounded.to_le_bytes());
                f64::from(rounded)
            }
            Self::F64 => {
                bytes.extend(x.to_le_bytes());
                x
            }
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The nearest number, of two the even one.
pub(super) fn to_f16(x: f64) -> f16 {
    f16::from_f32(to_odd(x))
}

/// The nearest number, of two the even one.
pub(super) fn to_bf16(x: f64) -> bf16 {
    bf16::from_f32(to_odd(x))
}

/// The `f32` from which a second rounding, to half precision, gives what one rounding of `x` would: a number that is not
/// exact is rounded to the neighbour with the odd last bit, which no tie of the second rounding has.
fn to_odd(x: f64) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "rounding is what this is for")]
    let nearest = x as f32;
    let exact = f64::from(nearest);
    if exact == x || nearest.to_bits() & 1 == 1 {
        nearest
    } else if exact.abs() < x.abs() {
        f32::from_bits(nearest.to_bits() + 1)
    } else {
        f32::from_bits(nearest.to_bits() - 1)
    }
}

/// The effect of rounding on the change of a stored weight.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Rounding {
    /// The number type of the stored weight.
    pub precision: Precision,
    /// `|Delta|_F`, the change that was asked for.
    pub asked: f64,
    /// `|W' - (W + Delta)|_F`: the distance of the stored weight `W'` from the exact result.
    pub error: f64,
    /// The largest entry of `|W' - (W + Delta)|`.
    pub largest: f64,
}

impl Rounding {
    /// `error / asked`: the share of the change that rounding distorted. If it is near 1, the change was lost.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.error > 0.0 { self.error / self.asked } else { 0.0 }
    }
}
