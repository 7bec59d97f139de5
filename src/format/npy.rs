//! Matrices in numpy's format, `.npy`: keys, values and projectors to and from Python.
//!
//! A matrix has the shape that it has in numpy. Programs in Python hold one sample or key in each **row**; this crate holds it in
//! each **column**. Take the transpose, which costs nothing: `matrix.transpose()`.
//!
//! ```
//! use betaedit_core::faer::{Mat, mat};
//! use betaedit_core::format::{Precision, npy};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("keys.npy");
//! let rows = mat![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]; // two keys of length 3
//! npy::write(&path, rows.as_ref(), Precision::F64)?;
//!
//! let read: Mat<f64> = npy::read(&path)?;
//! let keys = read.transpose(); // `d_in x n`, as `EditBatch` takes them
//! assert_eq!(keys.shape(), (3, 2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

// This crate reads the header itself, because existing parsers trust the length and the shape that a header announces.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use faer::{Mat, MatMut, MatRef, Par};

use super::{Precision, in_file, malformed};
use crate::error::{NumericsError, Result};
use crate::linalg::{self, Need};
use crate::projector::Projector;
use crate::scalar::Scalar;
use crate::util::atomic_file::{self, BUFFER, io_error};
use crate::util::validate;

/// The first bytes of every array.
const MAGIC: [u8; 6] = *b"\x93NUMPY";
/// The longest header that is read, numpy's own limit.
const LONGEST: usize = 10_000;

/// Reads a matrix, in the shape that it has in numpy; an array of one dimension becomes one column.
///
/// The array may be `float16`, `float32` or `float64`, of either byte order, in C or Fortran order. Numbers are exact, unless
/// `float64` is read as `f32`. Memory: the matrix and one row of the file.
///
/// # Errors
/// A file that cannot be read or is not an array, an array of another type or of more than two dimensions, one without numbers,
/// one whose shape does not match the length of the file, NaN and infinity.
pub fn read<T: Scalar>(path: impl AsRef<Path>) -> Result<Mat<T>> {
    let path = path.as_ref();
    let file = File::open(path).map_err(io_error(path))?;
    let length = file.metadata().map_err(io_error(path))?.len();
    let mut array = BufReader::with_capacity(BUFFER.min(length as usize), file);
    let header = Header::read(&mut array).map_err(|problem| malformed(path, problem))?;
    let there = length.saturating_sub(header.length as u64);
    if header.bytes() != Some(there) {
        let Header { kind, shape, .. } = header;
        let problem = format!("the header announces {shape:?} numbers of type `{kind}`, but there are {there} bytes");
        return Err(malformed(path, problem));
    }
    let (precision, (rows, cols)) = (header.precision(path)?, header.matrix_shape(path)?);
    let need = Need::new("an array of a file", rows, cols).matrix::<T>(rows, cols);
    let mut matrix: Mat<T> = need.zeros(rows, cols).map_err(in_file(path))?;
    let lines = match header.array_order {
        ArrayOrder::C => matrix.as_mut().transpose_mut(),
        ArrayOrder::Fortran => matrix.as_mut(),
    };
    read_lines(&mut array, &header, precision, lines).map_err(io_error(path))?;
    validate::finite("the array", matrix.as_ref())
        .map_err(|error| malformed(path, format!("read as {}: {error}", T::NAME)))?;
    Ok(matrix)
}

/// Fills the columns of `lines`, which follow each other in the file.
fn read_lines<T: Scalar>(
    array: &mut impl Read,
    header: &Header,
    precision: Precision,
    lines: MatMut<'_, T>,
) -> std::io::Result<()> {
    let (mut bytes, mut numbers) = (vec![0; lines.nrows() * precision.bytes()], vec![0.0; lines.nrows()]);
    for line in lines.col_iter_mut() {
        array.read_exact(&mut bytes)?;
        if header.order == '>' {
            bytes.chunks_exact_mut(precision.bytes()).for_each(<[u8]>::reverse);
        }
        precision.decode(&bytes, &mut numbers);
        line.iter_mut().zip(&numbers).for_each(|(to, from)| *to = T::from_f64(*from));
    }
    Ok(())
}

/// Writes a matrix as `numpy.save` does, in C order, little endian.
///
/// * `precision`: `F32` or `F64`; numbers are rounded once
///
/// # Errors
/// An empty matrix, NaN, infinity, numbers beyond the range of `precision`, a half precision, or a path that cannot be written.
pub fn write<T: Scalar>(path: impl AsRef<Path>, matrix: MatRef<'_, T>, precision: Precision) -> Result<()> {
    let path = path.as_ref();
    let kind = match precision {
        Precision::F32 => "<f4",
        Precision::F64 => "<f8",
        other => return Err(malformed(path, format!("an array is written as f32 or f64, not {other}"))),
    };
    validate::not_empty("matrix", matrix).map_err(in_file(path))?;
    validate::finite("matrix", matrix).map_err(in_file(path))?;
    if precision == Precision::F32 && !(linalg::largest(matrix) <= f64::from(f32::MAX)) {
        return Err(in_file(path)(NumericsError::Overflow { step: "the matrix", scalar: "f32" }));
    }
    let (rows, cols) = matrix.shape();
    atomic_file::write_with(path, |file| {
        file.write_all(&header(kind, &format!("({rows}, {cols})"))).map_err(io_error(path))?;
        let mut bytes = Vec::with_capacity(cols * precision.bytes());
        for row in matrix.row_iter() {
            bytes.clear();
            for x in row.iter() {
                precision.encode(x.to_f64(), &mut bytes);
            }
            file.write_all(&bytes).map_err(io_error(path))?;
        }
        Ok(())
    })
}

/// Writes a projector as a dense matrix `P` (`d x d`), for programs that multiply with it. Cost: `2 d² r` flops.
///
/// # Errors
/// As [`write()`].
pub fn write_projector(path: impl AsRef<Path>, projector: &Projector, precision: Precision, par: Par) -> Result<()> {
    write(path, projector.to_dense(par).as_ref(), precision)
}

/// The order of an array's numbers in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ArrayOrder {
    /// Row by row.
    C,
    /// Column by column.
    Fortran,
}

/// The description of an array.
pub(super) struct Header {
    /// The byte order: `<`, `>` or `|`.
    pub(super) order: char,
    /// For example `f4`.
    pub(super) kind: String,
    array_order: ArrayOrder,
    pub(super) shape: Vec<usize>,
    /// Bytes of the header itself.
    pub(super) length: usize,
}

/// The header of an array in C order, in version 1.0 of the format, padded to a multiple of 64 bytes.
///
/// * `kind`: for example `<f4`
/// * `shape`: as Python writes it
pub(super) fn header(kind: &str, shape: &str) -> Vec<u8> {
    let mut line = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
    let before = MAGIC.len() + 4;
    let padded = (before + line.len() + 1).next_multiple_of(64) - before;
    line.extend(std::iter::repeat_n(' ', padded - line.len() - 1));
    line.push('\n');
    let length = u16::try_from(line.len()).expect("two short names and two numbers");
    [&MAGIC[..], &[1, 0], &length.to_le_bytes(), line.as_bytes()].concat()
}

impl Header {
    /// Reads a header, or says what is wrong with it.
    pub(super) fn read(array: &mut impl Read) -> Result<Self, String> {
        let mut fill = |bytes: &mut [u8]| array.read_exact(bytes).map_err(|error| error.to_string());
        let mut start = [0; 8];
        fill(&mut start)?;
        let Some([major, _]) = start.strip_prefix(&MAGIC) else { return Err("not a numpy array".to_owned()) };
        let width = match major {
            1 => 2,
            2 | 3 => 4,
            version => return Err(format!("version {version} of the array format is unknown, expected 1 to 3")),
        };
        let mut length = [0; 4];
        fill(&mut length[..width])?;
        let length = u32::from_le_bytes(length) as usize;
        if length > LONGEST {
            return Err(format!("it announces a header of {length} bytes; at most {LONGEST} are allowed"));
        }
        let mut line = vec![0; length];
        fill(&mut line)?;
        let line = std::str::from_utf8(&line).map_err(|error| format!("the header is not text: {error}"))?;
        let length = start.len() + width + length;
        Self::parse(line, length).ok_or_else(|| format!("the header `{}` is not understood", line.trim()))
    }

    /// A line such as `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 3), }`, its keys in any order.
    fn parse(line: &str, length: usize) -> Option<Self> {
        let mut rest = line.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        while !rest.is_empty() {
            let (key, after) = quoted(rest)?;
            let after = after.trim_start().strip_prefix(':')?.trim_start();
            rest = match key {
                "descr" if descr.is_none() => {
                    let (value, after) = quoted(after)?;
                    descr = Some(value);
                    after
                }
                "fortran_order" if fortran.is_none() => {
                    fortran = Some(if after.starts_with("True") { ArrayOrder::Fortran } else { ArrayOrder::C });
                    after.strip_prefix("True").or_else(|| after.strip_prefix("False"))?
                }
                "shape" if shape.is_none() => {
                    let (value, after) = after.strip_prefix('(')?.split_once(')')?;
                    let numbers = value.split(',').map(str::trim).filter(|number| !number.is_empty());
                    shape = Some(numbers.map(|number| number.parse().ok()).collect::<Option<Vec<usize>>>()?);
                    after
                }
                _ => return None,
            }
            .trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        let (descr, array_order, shape) = (descr?, fortran?, shape?);
        let order = descr.chars().next().filter(|order| "<>|".contains(*order))?;
        let kind = descr[1..].to_owned();
        (kind.len() >= 2 && kind.is_ascii()).then_some(Self { order, kind, array_order, shape, length })
    }

    /// The number type of an array of floating-point numbers.
    fn precision(&self, path: &Path) -> Result<Precision> {
        match (self.order, self.kind.as_str()) {
            ('<' | '>', "f2") => Ok(Precision::F16),
            ('<' | '>', "f4") => Ok(Precision::F32),
            ('<' | '>', "f8") => Ok(Precision::F64),
            (order, kind) => {
                let problem = format!("the array is of type `{order}{kind}`, expected f2, f4 or f8");
                Err(malformed(path, format!("{problem}: convert it with `.astype(\"float32\")`")))
            }
        }
    }

    /// Rows and columns of an array of one or two dimensions, at least one of each.
    fn matrix_shape(&self, path: &Path) -> Result<(usize, usize)> {
        let shape = match self.shape[..] {
            [rows] => (rows, 1),
            [rows, cols] => (rows, cols),
            _ => {
                let problem = format!("the array has the shape {:?}, expected one or two dimensions", self.shape);
                return Err(malformed(path, problem));
            }
        };
        if shape.0 == 0 || shape.1 == 0 {
            return Err(malformed(path, format!("the array is empty: its shape is {:?}", self.shape)));
        }
        Ok(shape)
    }

    /// Bytes of the array after the header, if that is a number.
    pub(super) fn bytes(&self) -> Option<u64> {
        let item = self.kind[1..].parse().ok()?;
        self.shape.iter().try_fold(item, |bytes: u64, &n| bytes.checked_mul(n as u64))
    }
}

/// The text between quotation marks at the start, and the rest.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let mark = text.chars().next().filter(|mark| "'\"".contains(*mark))?;
    text[1..].split_once(mark)
}
