//! The numbers of a tensor, in the type of its file.

mod blocks;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QuantizedType};
use candle_core::{CpuStorage, Error, Result as Computed};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use blocks::BlockType;

/// The numbers of a tensor, in the type in which they are stored. They are widened to `f32` when they are used, some rows at a
/// time.
///
/// ```
/// use betaedit_core::update::half::f16;
/// use betaedit_core::llm::StoredNumbers;
///
/// let numbers = StoredNumbers::from(vec![f16::from_f32(0.5), f16::ONE]);
/// assert_eq!(numbers.len(), 2);
/// assert_eq!(numbers.to_vec(), [0.5_f32, 1.0]);
/// ```
#[derive(Clone)]
pub struct StoredNumbers(Held);

#[derive(Clone)]
enum Held {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    Quantized(QuantizedRows),
}

/// Rows of a quantized matrix.
#[derive(Clone)]
struct QuantizedRows {
    kind: GgmlDType,
    rows: usize,
    cols: usize,
    blocks: Blocks,
}

/// Blocks of quantized numbers.
#[derive(Clone)]
enum Blocks {
    /// Of a type that is widened here.
    Own(BlockType, Arc<[u8]>),
    /// Of another, which candle widens: a matrix of so many rows, and which of them these are.
    Other(Arc<dyn QuantizedType>, usize, Arc<[u32]>),
}

impl QuantizedRows {
    fn row_bytes(&self) -> usize {
        self.cols / self.kind.block_size() * self.kind.type_size()
    }

    fn widened(&self, rows: Range<usize>) -> Vec<f32> {
        let length = rows.len() * self.cols;
        match &self.blocks {
            Blocks::Own(kind, bytes) => {
                let mut numbers = vec![0.0; length];
                kind.widen(&bytes[rows.start * self.row_bytes()..rows.end * self.row_bytes()], &mut numbers);
                numbers
            }
            Blocks::Other(blocks, all, which) => match blocks.embedding(&which[rows], *all, self.cols) {
                Ok(CpuStorage::F32(numbers)) => numbers,
                // The shape was checked, so this cannot be. Whatever is computed with these numbers is refused.
                _ => vec![f32::NAN; length],
            },
        }
    }

    fn rows_of(&self, parts: impl Iterator<Item = Range<usize>> + Clone) -> Self {
        let row = self.row_bytes();
        let blocks = match &self.blocks {
            Blocks::Own(kind, bytes) => {
                let parts = parts.clone().flat_map(|part| &bytes[part.start * row..part.end * row]);
                Blocks::Own(*kind, parts.copied().collect())
            }
            Blocks::Other(blocks, all, which) => {
                let which = parts.clone().flat_map(|part| which[part].iter().copied()).collect();
                Blocks::Other(blocks.clone(), *all, which)
            }
        };
        Self { rows: parts.map(|part| part.len()).sum(), blocks, ..*self }
    }
}

impl From<Vec<f32>> for StoredNumbers {
    fn from(numbers: Vec<f32>) -> Self {
        Self(Held::F32(numbers))
    }
}

impl From<Vec<f16>> for StoredNumbers {
    fn from(numbers: Vec<f16>) -> Self {
        Self(Held::F16(numbers))
    }
}

impl From<Vec<bf16>> for StoredNumbers {
    fn from(numbers: Vec<bf16>) -> Self {
        Self(Held::Bf16(numbers))
    }
}

impl fmt::Debug for StoredNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredNumbers").field("len", &self.len()).field("type", &self.type_name()).finish()
    }
}

impl PartialEq for StoredNumbers {
    /// Whether the numbers are the same, of whatever types they are.
    fn eq(&self, other: &Self) -> bool {
        let cols = match (self.cols(), other.cols()) {
            (Some(one), Some(another)) if one != another => return self.to_vec() == other.to_vec(),
            (one, another) => one.or(another).unwrap_or(1),
        };
        self.len() == other.len() && self.parts(cols).eq(other.parts(cols))
    }
}

/// How many numbers are widened at once where all of them are.
const PART: usize = 1 << 16;

impl StoredNumbers {
    /// The blocks of a quantized matrix, row by row.
    ///
    /// # Errors
    /// Rows that are not whole blocks, or another number of them.
    pub(super) fn quantized(kind: GgmlDType, blocks: Cow<'_, [u8]>, rows: usize, cols: usize) -> Computed<Self> {
        let (size, count) = (kind.type_size(), kind.block_size());
        if !cols.is_multiple_of(count) || blocks.len() != rows * (cols / count) * size {
            let found = blocks.len();
            return Err(Error::Msg(format!(
                "{rows} rows of {cols} numbers of type {kind:?} do not take {found} bytes"
            )));
        }
        let blocks = match BlockType::of(kind) {
            Some(own) => Blocks::Own(own, blocks.into()),
            None => Blocks::Other(kind.from_data(blocks).into(), rows, (0..rows as u32).collect()),
        };
        Ok(Self(Held::Quantized(QuantizedRows { kind, rows, cols, blocks })))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Held::F32(numbers) => numbers.len(),
            Held::F16(numbers) => numbers.len(),
            Held::Bf16(numbers) => numbers.len(),
            Held::Quantized(part) => part.rows * part.cols,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of their type.
    fn type_name(&self) -> String {
        match &self.0 {
            Held::F32(_) => "F32".into(),
            Held::F16(_) => "F16".into(),
            Held::Bf16(_) => "BF16".into(),
            // As the format of the files has it: Q4_0, Q4_K.
            Held::Quantized(part) => {
                let name = format!("{:?}", part.kind);
                if name.contains('_') { name } else { name.replace('K', "_K") }
            }
        }
    }

    /// All of them, widened.
    #[must_use]
    pub fn to_vec(&self) -> Vec<f32> {
        let cols = self.cols().unwrap_or(1);
        self.rows(0..self.len() / cols, cols).into_owned()
    }

    /// All numbers of a matrix of so many columns, widened, in parts of whole rows, each with the place of its first.
    pub(super) fn parts(&self, cols: usize) -> impl Iterator<Item = (usize, Cow<'_, [f32]>)> {
        let cols = cols.max(1);
        let (rows, height) = (self.len() / cols, PART.div_ceil(cols));
        (0..rows).step_by(height).map(move |row| (row * cols, self.rows(row..(row + height).min(rows), cols)))
    }

    /// Some rows of a matrix of so many columns, widened.
    pub(super) fn rows(&self, rows: Range<usize>, cols: usize) -> Cow<'_, [f32]> {
        let part = rows.start * cols..rows.end * cols;
        match &self.0 {
            Held::F32(numbers) => Cow::Borrowed(&numbers[part]),
            Held::F16(numbers) => Cow::Owned(numbers[part].to_f32_vec()),
            Held::Bf16(numbers) => Cow::Owned(blocks::widen_bf16(&numbers[part])),
            Held::Quantized(quantized) => Cow::Owned(quantized.widened(rows)),
        }
    }

    /// Some rows of a matrix of so many columns, in the same type.
    pub(super) fn rows_of(&self, parts: impl Iterator<Item = Range<usize>> + Clone, cols: usize) -> Self {
        fn select<T: Copy>(numbers: &[T], parts: impl Iterator<Item = Range<usize>>, cols: usize) -> Vec<T> {
            parts.flat_map(|part| &numbers[part.start * cols..part.end * cols]).copied().collect()
        }
        match &self.0 {
            Held::F32(numbers) => select(numbers, parts, cols).into(),
            Held::F16(numbers) => select(numbers, parts, cols).into(),
            Held::Bf16(numbers) => select(numbers, parts, cols).into(),
            Held::Quantized(quantized) => Self(Held::Quantized(quantized.rows_of(parts))),
        }
    }

    /// Some columns of a matrix of so many columns, in the same type; of a quantized one in `f32`.
    pub(super) fn columns_of(&self, parts: impl Iterator<Item = Range<usize>> + Clone, cols: usize) -> Self {
        fn select<T: Copy>(numbers: &[T], parts: impl Iterator<Item = Range<usize>> + Clone, cols: usize) -> Vec<T> {
            numbers.chunks_exact(cols).flat_map(|row| parts.clone().flat_map(|part| &row[part])).copied().collect()
        }
        match &self.0 {
            Held::F32(numbers) => select(numbers, parts, cols).into(),
            Held::F16(numbers) => select(numbers, parts, cols).into(),
            Held::Bf16(numbers) => select(numbers, parts, cols).into(),
            Held::Quantized(_) => select(&self.to_vec(), parts, cols).into(),
        }
    }

    /// The numbers, if they are stored in `f32`.
    pub(super) fn as_f32(&self) -> Option<&[f32]> {
        match &self.0 {
            Held::F32(numbers) => Some(numbers),
            _ => None,
        }
    }

    /// The numbers in `f32`, in which they are stored from now on.
    pub(super) fn make_f32(&mut self) -> &mut [f32] {
        if self.as_f32().is_none() {
            self.0 = Held::F32(self.to_vec());
        }
        match &mut self.0 {
            Held::F32(numbers) => numbers,
            _ => &mut [],
        }
    }

    /// The length of a row, where the type depends on it.
    pub(super) fn cols(&self) -> Option<usize> {
        match &self.0 {
            Held::Quantized(part) => Some(part.cols),
            _ => None,
        }
    }
}
