//! The `.npz` layer statistics of the MEMIT family: a zip archive of arrays in numpy's format.
//!
//! The crate `zip` unpacks the archive.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use faer::{Mat, MatRef};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::Precision;
use super::npy::{Header, header};
use super::statistics::Statistics;
use super::{in_file, malformed};
use crate::error::{NumericsError, Result};
use crate::linalg::Need;
use crate::util::atomic_file::{self, io_error};

/// `sum k kᵀ`.
const SUM: &str = "mom2.mom2";
/// Number of tokens.
const COUNT: &str = "mom2.count";
/// The Python class that reads and writes the file, and its value.
const CONSTRUCTOR: (&str, &str) = ("mom2.constructor", "util.runningstats.SecondMoment()");
/// Number of texts, by which the Python programs recognise the file.
const SAMPLES: &str = "sample_size";

/// An array may be this many times as large as its compressed form, if it is larger than `SMALL`. Sums of `k kᵀ` are
/// nearly incompressible.
const MOST_PACKED: u64 = 32;
/// Bytes that any machine has.
const SMALL: u64 = 1 << 20;
/// What `None` is written as: a NaN with these bits.
const NONE: f64 = f64::from_bits(0xFFF8_0000_0000_0002);

/// Files of ROME, MEMIT, AlphaEdit, BetaEdit and EasyEdit: `mom2.mom2` is the sum, `mom2.count` the number of tokens.
impl Statistics {
    /// Reads the statistics in an `.npz` file, arrays stored or deflated, `f16`, `f32` or `f64`, of either byte order.
    ///
    /// # Errors
    /// A file that cannot be read, is not such a file, or whose numbers cannot be a sum of `k kᵀ`.
    pub fn read_npz(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(io_error(path))?;
        let length = file.metadata().map_err(io_error(path))?.len();
        let archive = ZipArchive::new(BufReader::new(file)).map_err(|error| {
            malformed(path, format!("not a readable npz archive, which is a zip file of numpy arrays: {error}"))
        })?;
        if archive.has_duplicate_names() {
            return Err(malformed(path, "two members of the archive have one name"));
        }
        let mut archive = Archive { members: archive, length };
        let tokens = read_count(path, &mut archive)?;
        let sum = read_sum(path, &mut archive)?;
        Self::new(sum, tokens).map_err(in_file(path))
    }

    /// Writes an `.npz` file as `numpy.savez` does, uncompressed, for the Python programs of the family.
    ///
    /// * `precision`: `F32` is what those programs write; all of them read `F64`
    /// * `samples`: number of texts, `sample_size` there. A program that is asked for another number collects the statistics again.
    ///
    /// # Errors
    /// A half precision, sums or counts out of its range (a count has 63 bits), or a path that cannot be written.
    pub fn write_npz(&self, path: impl AsRef<Path>, precision: Precision, samples: Option<u64>) -> Result<()> {
        let path = path.as_ref();
        let type_name = match precision {
            Precision::F32 => "<f4",
            Precision::F64 => "<f8",
            other => return Err(malformed(path, format!("statistics are written as f32 or f64, not {other}"))),
        };
        let constructor: Vec<u8> = CONSTRUCTOR.1.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
        let text = format!("<U{}", CONSTRUCTOR.1.len());
        let integer = |parameter, value: u64| match i64::try_from(value) {
            Ok(value) => Ok(value.to_le_bytes()),
            Err(_) => Err(NumericsError::Parameter { parameter, value: value as f64, allowed: "at most 2^63 - 1" }),
        };
        let count = integer("tokens", self.tokens())?;
        let (samples_type, samples) = match samples {
            Some(samples) => ("<i8", integer("samples", samples)?),
            None => ("<f8", NONE.to_le_bytes()),
        };
        if precision == Precision::F32 && !(self.sum().norm_max() <= f64::from(f32::MAX)) {
            return Err(NumericsError::Overflow { step: "the sum over all keys", scalar: "f32" }.into());
        }
        atomic_file::write_with(path, |file| {
            let io = io_error(path);
            let mut archive = ZipWriter::new(file);
            let mut member = |name: &str, type_name: &str, shape: &str, array: Array<'_>| -> Result<()> {
                // The time of a reproducible build: equal statistics are equal bytes.
                let options = SimpleFileOptions::default()
                    .compression_method(CompressionMethod::Stored)
                    .last_modified_time(zip::DateTime::default())
                    .large_file(true);
                archive.start_file(format!("{name}.npy"), options).map_err(|error| io(error.into()))?;
                archive.write_all(&header(type_name, shape)).map_err(io)?;
                match array {
                    Array::Bytes(bytes) => archive.write_all(bytes).map_err(io),
                    Array::Matrix(matrix) => {
                        let mut bytes = Vec::with_capacity(matrix.ncols() * precision.bytes());
                        // Symmetric, and its columns are contiguous.
                        for column in matrix.col_iter() {
                            bytes.clear();
                            for x in column.iter() {
                                precision.encode(*x, &mut bytes);
                            }
                            archive.write_all(&bytes).map_err(io)?;
                        }
                        Ok(())
                    }
                }
            };
            let d = self.d_in();
            member(CONSTRUCTOR.0, &text, "()", Array::Bytes(&constructor))?;
            member(COUNT, "<i8", "()", Array::Bytes(&count))?;
            member(SUM, type_name, &format!("({d}, {d})"), Array::Matrix(self.sum()))?;
            member(SAMPLES, samples_type, "()", Array::Bytes(&samples))?;
            archive.finish().map_err(|error| io(error.into()))?;
            Ok(())
        })
    }
}

enum Array<'a> {
    Bytes(&'a [u8]),
    Matrix(MatRef<'a, f64>),
}

struct Archive {
    members: ZipArchive<BufReader<File>>,
    /// Length of the whole file.
    length: u64,
}

/// A member of the archive, its header read; what follows is the array, of exactly the bytes that the header announces.
struct Member<R: Read> {
    name: &'static str,
    header: Header,
    array: R,
}

fn member<'a>(path: &Path, archive: &'a mut Archive, name: &'static str) -> Result<Member<impl Read + use<'a>>> {
    let wrong = |problem: String| malformed(path, format!("array `{name}`: {problem}"));
    let file_name = format!("{name}.npy");
    if archive.members.index_for_name(&file_name).is_none() {
        let mut names: Vec<_> = archive.members.file_names().flatten().take(20).map(|name| name.into_owned()).collect();
        names.sort_unstable();
        return Err(malformed(path, format!("array `{name}` is missing; there are: {}", names.join(", "))));
    }
    let mut array = archive.members.by_name(&file_name).map_err(|error| wrong(error.to_string()))?;
    let length_of_file = archive.length;
    let (packed, unpacked) = (array.compressed_size(), array.size());
    if packed > length_of_file || unpacked > SMALL && unpacked / MOST_PACKED > packed {
        let problem = format!("{packed} bytes, in a file of {length_of_file}, unpack to {unpacked}: no statistics do");
        return Err(wrong(problem));
    }
    let header = Header::read(&mut array).map_err(wrong)?;
    let there = unpacked.saturating_sub(header.length as u64);
    if header.bytes() != Some(there) {
        let Header { kind, shape, .. } = header;
        return Err(wrong(format!("the header announces {shape:?} numbers of type `{kind}`, there are {there} bytes")));
    }
    Ok(Member { name, header, array })
}

impl<R: Read> Member<R> {
    /// Reads exactly `bytes`.
    fn exactly(&mut self, path: &Path, bytes: &mut [u8]) -> Result<()> {
        self.array.read_exact(bytes).map_err(|error| malformed(path, format!("array `{}`: {error}", self.name)))
    }

    /// Reads to the end, where the checksum is compared.
    fn finish(mut self, path: &Path) -> Result<()> {
        match self.array.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(malformed(path, format!("array `{}` is longer than it says", self.name))),
            Err(error) => Err(malformed(path, format!("array `{}`: {error}", self.name))),
        }
    }
}

fn read_count(path: &Path, archive: &mut Archive) -> Result<u64> {
    let mut count = member(path, archive, COUNT)?;
    let Header { order, kind, shape, .. } = &count.header;
    let wrong = || malformed(path, format!("array `{COUNT}` is no count: type `{order}{kind}`, shape {shape:?}"));
    let (size, single) = (kind[1..].parse().unwrap_or(0), shape.iter().all(|&n| n == 1));
    if !(matches!(kind.as_bytes()[0], b'i' | b'u') && matches!(size, 4 | 8) && single) {
        return Err(wrong());
    }
    let (big, signed) = (*order == '>', kind.starts_with('i'));
    let mut bytes = [0; 8];
    count.exactly(path, &mut bytes[..size])?;
    if big {
        bytes[..size].reverse();
    }
    count.finish(path)?;
    let value = u64::from_le_bytes(bytes);
    if signed && value >> (8 * size - 1) == 1 {
        return Err(malformed(path, format!("array `{COUNT}` is negative")));
    }
    Ok(value)
}

fn read_sum(path: &Path, archive: &mut Archive) -> Result<Mat<f64>> {
    let mut sum = member(path, archive, SUM)?;
    let Header { order, kind, shape, .. } = &sum.header;
    let precision = match kind.as_str() {
        "f2" => Precision::F16,
        "f4" => Precision::F32,
        "f8" => Precision::F64,
        _ => return Err(malformed(path, format!("array `{SUM}` is of type `{order}{kind}`, expected f2, f4 or f8"))),
    };
    let [d, cols] = shape[..] else {
        return Err(malformed(path, format!("array `{SUM}` has the shape {shape:?}, expected two dimensions")));
    };
    if d != cols || d == 0 {
        return Err(malformed(path, format!("array `{SUM}` is {d} x {cols}, expected a square matrix")));
    }
    let big = *order == '>';
    let mut matrix =
        Need::new("the statistics of a file", d, d).matrix::<f64>(d, d).zeros::<f64>(d, d).map_err(in_file(path))?;
    let (mut bytes, mut numbers) = (vec![0; d * precision.bytes()], vec![0.0; d]);
    for i in 0..d {
        sum.exactly(path, &mut bytes)?;
        if big {
            bytes.chunks_exact_mut(precision.bytes()).for_each(<[u8]>::reverse);
        }
        precision.decode(&bytes, &mut numbers);
        matrix.col_mut(i).iter_mut().zip(&numbers).for_each(|(to, from)| *to = *from);
    }
    sum.finish(path)?;
    Ok(matrix)
}
