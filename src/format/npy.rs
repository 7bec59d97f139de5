//! The header of an array in numpy's format.
//!
//! This crate reads it itself, because the parsers that exist trust the length and the shape that a header announces.

use std::io::Read;

/// The first bytes of every array.
const MAGIC: [u8; 6] = *b"\x93NUMPY";
/// The longest header that is read, numpy's own limit.
const LONGEST: usize = 10_000;

/// The description of an array.
pub(super) struct Header {
    /// The byte order: `<`, `>` or `|`.
    pub(super) order: char,
    /// For example `f4`.
    pub(super) kind: String,
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
        let Some([major, _]) = start.strip_prefix(&MAGIC) else { return Err("not an array of numpy".to_owned()) };
        let width = match major {
            1 => 2,
            2 | 3 => 4,
            version => return Err(format!("version {version} of the array format is unknown")),
        };
        let mut length = [0; 4];
        fill(&mut length[..width])?;
        let length = u32::from_le_bytes(length) as usize;
        if length > LONGEST {
            return Err(format!("a header of {length} bytes is announced"));
        }
        let mut line = vec![0; length];
        fill(&mut line)?;
        let line = std::str::from_utf8(&line).map_err(|error| format!("the header is no text: {error}"))?;
        let length = start.len() + width + length;
        Self::parse(line, length).ok_or_else(|| format!("the header `{}` is not understood", line.trim()))
    }

    /// A line such as `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 3), }`, its keys in any order.
    ///
    /// Whether the order is Fortran's is not kept: the matrices of this crate's files are symmetric.
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
                    fortran = Some(after.starts_with("True"));
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
        fortran?;
        let (descr, shape) = (descr?, shape?);
        let order = descr.chars().next().filter(|order| "<>|".contains(*order))?;
        let kind = descr[1..].to_owned();
        (kind.len() >= 2 && kind.is_ascii()).then_some(Self { order, kind, shape, length })
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
