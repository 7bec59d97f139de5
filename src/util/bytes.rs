//! Numbers and matrices as bytes: little endian, in the order in which they are written.
//!
//! The reader knows the shapes. A stream with other shapes is refused before anything is allocated for it.

use std::io::{self, Read, Write};

use faer::{Mat, MatRef};

use crate::scalar::Scalar;

/// Result of reading or writing state. It fails with the operating system's error, or with
/// [`InvalidData`](io::ErrorKind::InvalidData).
pub(crate) type Result<T> = io::Result<T>;

pub(crate) fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

pub(crate) fn out_of_memory(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, error.to_string())
}

/// Numbers converted at a time, on the stack.
const CHUNK: usize = 512;

pub(crate) fn write_u64(out: &mut dyn Write, x: u64) -> Result<()> {
    out.write_all(&x.to_le_bytes())
}

pub(crate) fn write_len(out: &mut dyn Write, n: usize) -> Result<()> {
    write_u64(out, n as u64)
}

pub(crate) fn write_f64(out: &mut dyn Write, x: f64) -> Result<()> {
    out.write_all(&x.to_le_bytes())
}

/// The numbers alone; every `T` takes `size_of::<T>()` bytes.
pub(crate) fn write_numbers<T: Scalar>(out: &mut dyn Write, numbers: impl Iterator<Item = T>) -> Result<()> {
    let mut bytes = [0_u8; 8 * CHUNK];
    let mut filled = 0;
    for x in numbers {
        filled += x.put(&mut bytes[filled..]);
        if filled + 8 > bytes.len() {
            out.write_all(&bytes[..filled])?;
            filled = 0;
        }
    }
    out.write_all(&bytes[..filled])
}

/// A length and that many numbers.
pub(crate) fn write_slice(out: &mut dyn Write, numbers: &[f64]) -> Result<()> {
    write_len(out, numbers.len())?;
    write_numbers(out, numbers.iter().copied())
}

/// Rows, columns, and the entries, column by column.
pub(crate) fn write_matrix<T: Scalar>(out: &mut dyn Write, matrix: MatRef<'_, T>) -> Result<()> {
    write_len(out, matrix.nrows())?;
    write_len(out, matrix.ncols())?;
    write_numbers(out, matrix.col_iter().flat_map(|column| column.iter().copied()))
}

pub(crate) fn read_u64(from: &mut dyn Read) -> Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// A length of at most `most`.
pub(crate) fn read_len(from: &mut dyn Read, most: usize) -> Result<usize> {
    match usize::try_from(read_u64(from)?) {
        Ok(n) if n <= most => Ok(n),
        _ => Err(invalid("a length is out of range")),
    }
}

pub(crate) fn read_f64(from: &mut dyn Read) -> Result<f64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(f64::from_le_bytes(bytes))
}

/// Fills a slice.
pub(crate) fn read_numbers<T: Scalar>(from: &mut dyn Read, numbers: &mut [T]) -> Result<()> {
    let mut bytes = [0_u8; 8 * CHUNK];
    for chunk in numbers.chunks_mut(CHUNK) {
        let bytes = &mut bytes[..size_of_val(chunk)];
        from.read_exact(bytes)?;
        for (x, bytes) in chunk.iter_mut().zip(bytes.chunks_exact(size_of::<T>())) {
            *x = T::get(bytes);
        }
    }
    Ok(())
}

/// Reads what [`write_slice`] wrote: whole columns of `rows` numbers. Memory grows as the numbers arrive.
pub(crate) fn read_slice(from: &mut dyn Read, rows: usize) -> Result<Vec<f64>> {
    let mut left = read_len(from, usize::MAX)?;
    if !left.is_multiple_of(rows) {
        return Err(invalid("numbers that are not whole columns"));
    }
    let mut numbers = Vec::new();
    while left > 0 {
        let (start, n) = (numbers.len(), left.min(1 << 16));
        numbers.resize(start + n, 0.0);
        read_numbers(from, &mut numbers[start..])?;
        left -= n;
    }
    Ok(numbers)
}

/// Reads what [`write_matrix`] wrote, of this shape.
pub(crate) fn read_matrix<T: Scalar>(from: &mut dyn Read, rows: usize, cols: usize) -> Result<Mat<T>> {
    if (read_u64(from)?, read_u64(from)?) != (rows as u64, cols as u64) {
        return Err(invalid("a matrix is of another shape"));
    }
    let mut matrix = Mat::zeros(rows, cols);
    read_columns(from, &mut matrix)?;
    Ok(matrix)
}

/// Fills a matrix of known shape with numbers that [`write_numbers`] wrote.
pub(crate) fn read_columns<T: Scalar>(from: &mut dyn Read, matrix: &mut Mat<T>) -> Result<()> {
    (0..matrix.ncols()).try_for_each(|j| read_numbers(from, matrix.col_as_slice_mut(j)))
}
