//! Safetensors files, read and written a row at a time. The `safetensors` crate parses and checks the header.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use faer::{Mat, MatRef};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::{Precision, in_file, lfs_pointer, malformed};
use crate::error::Result;
use crate::linalg::Need;
use crate::scalar::Scalar;
use crate::util::atomic_file::{BUFFER, Writer, io_error, write_with};
use crate::util::validate;

/// Bytes before the header: its length.
const LENGTH: u64 = 8;

/// The longest header that is read: the limit of the format's own library.
const LONGEST_HEADER: u64 = 100_000_000;

/// The key of the metadata that says what a file of this crate holds.
const KIND: &str = "format";

/// A safetensors file with its header read and checked against the file's length. Tensors are read when they are asked for.
pub(crate) struct TensorFile<R> {
    path: PathBuf,
    reader: BufReader<R>,
    header: Metadata,
    /// Where the tensors begin.
    start: u64,
    length: u64,
}

/// A two-dimensional tensor of a file.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) precision: Precision,
    /// Where its first byte is in the file.
    pub(crate) start: u64,
}

impl Matrix {
    pub(crate) fn row_bytes(&self) -> usize {
        self.cols * self.precision.bytes()
    }

    pub(crate) fn end(&self) -> u64 {
        self.start + (self.rows * self.row_bytes()) as u64
    }
}

impl TensorFile<File> {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(io_error(path))?;
        let length = file.metadata().map_err(io_error(path))?.len();
        Self::new(path, file, length)
    }

    /// Opens a file of this crate whose metadata says that it is of the expected kind.
    pub(crate) fn open_kind(path: &Path, kind: &str) -> Result<Self> {
        let file = Self::open(path)?;
        match file.metadata(KIND) {
            Some(found) if found == kind => Ok(file),
            found => {
                let found = found.unwrap_or("nothing");
                Err(malformed(path, format!("the metadata has `{found}` as its `{KIND}`, expected `{kind}`")))
            }
        }
    }
}

impl<R: Read + Seek> TensorFile<R> {
    /// Reads the header. `length` is that of the whole file.
    pub(crate) fn new(path: &Path, reader: R, length: u64) -> Result<Self> {
        let io = io_error(path);
        let unreadable = |reason: String| malformed(path, format!("not a readable safetensors file: {reason}"));
        let mut reader = BufReader::with_capacity(BUFFER.min(length as usize), reader);
        let mut word = [0; LENGTH as usize];
        let Some(rest) = length.checked_sub(LENGTH) else {
            // Reading says what is wrong with a folder, which has no length either.
            reader.read(&mut word).map_err(io)?;
            return Err(unreadable("it is too short to have a header".to_owned()));
        };
        reader.read_exact(&mut word).map_err(io)?;
        let announced = u64::from_le_bytes(word);
        if word == *b"version " {
            let mut beginning = word.to_vec();
            (&mut reader).take(64).read_to_end(&mut beginning).map_err(io)?;
            lfs_pointer::check(path, &beginning)?;
        }
        if announced > rest.min(LONGEST_HEADER) {
            return Err(unreadable(format!("a header of {announced} bytes is announced, in a file of {length}")));
        }
        let mut text = vec![0; announced as usize];
        reader.read_exact(&mut text).map_err(io)?;
        let header: Metadata = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        let start = LENGTH + announced;
        if header.data_len() as u64 != length - start {
            let (described, there) = (header.data_len(), length - start);
            return Err(unreadable(format!("the header describes {described} bytes of tensors, there are {there}")));
        }
        Ok(Self { path: path.to_owned(), reader, header, start, length })
    }

    /// Names of the tensors, in alphabetical order.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = self.header.offset_keys();
        names.sort_unstable();
        names
    }

    pub(crate) fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// A required entry of the metadata.
    pub(crate) fn required(&self, key: &str) -> Result<&str> {
        self.metadata(key).ok_or_else(|| malformed(&self.path, format!("the metadata has no `{key}`")))
    }

    /// A required entry of the metadata, as a number.
    pub(crate) fn number<N: std::str::FromStr>(&self, key: &str) -> Result<N> {
        let text = self.required(key)?;
        text.parse().map_err(|_| malformed(&self.path, format!("the metadata has `{text}` as its `{key}`: no number")))
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.header.info(name).ok_or_else(|| {
            const SHOWN: usize = 20;
            let names = self.names();
            let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
            let some = names[..names.len().min(SHOWN)].join(", ");
            malformed(&self.path, format!("tensor `{name}` is missing; there are: {some}{more}"))
        })
    }

    /// A tensor with two dimensions and at least one entry.
    pub(crate) fn matrix(&self, name: &str) -> Result<Matrix> {
        let info = self.info(name)?;
        let [rows, cols] = info.shape[..] else {
            let dimensions = info.shape.len();
            return Err(malformed(&self.path, format!("tensor `{name}` has {dimensions} dimensions, expected 2")));
        };
        if rows == 0 || cols == 0 {
            return Err(malformed(&self.path, format!("tensor `{name}` is empty: {rows} x {cols}")));
        }
        let precision = self.precision(name, info.dtype)?;
        Ok(Matrix { rows, cols, precision, start: self.start + info.data_offsets.0 as u64 })
    }

    /// Any tensor of floating-point numbers as a matrix: its first dimension is the rows, and all others are the columns. One
    /// dimension is one row. `None` for a tensor of whole numbers or truth values, and for one without entries.
    pub(crate) fn flattened(&self, name: &str) -> Result<Option<Matrix>> {
        let info = self.info(name)?;
        let whole =
            [Dtype::BOOL, Dtype::U8, Dtype::I8, Dtype::U16, Dtype::I16, Dtype::U32, Dtype::I32, Dtype::U64, Dtype::I64];
        if whole.contains(&info.dtype) || info.shape.contains(&0) {
            return Ok(None);
        }
        let (rows, others) = match &info.shape[..] {
            [] => (1, &[][..]),
            all @ [_] => (1, all),
            [rows, others @ ..] => (*rows, others),
        };
        let precision = self.precision(name, info.dtype)?;
        let start = self.start + info.data_offsets.0 as u64;
        Ok(Some(Matrix { rows, cols: others.iter().product(), precision, start }))
    }

    /// The shape of a tensor.
    pub(crate) fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.info(name)?.shape)
    }

    fn precision(&self, name: &str, dtype: Dtype) -> Result<Precision> {
        match dtype {
            Dtype::F16 => Ok(Precision::F16),
            Dtype::BF16 => Ok(Precision::Bf16),
            Dtype::F32 => Ok(Precision::F32),
            Dtype::F64 => Ok(Precision::F64),
            other => {
                let problem = format!("tensor `{name}` is of type {other}, expected F16, BF16, F32 or F64");
                Err(malformed(&self.path, problem))
            }
        }
    }

    /// Shape and number type of a tensor of any number of dimensions.
    #[cfg(feature = "llm")]
    pub(crate) fn described(&self, name: &str) -> Result<(Vec<usize>, Precision)> {
        let info = self.info(name)?;
        Ok((info.shape.clone(), self.precision(name, info.dtype)?))
    }

    /// Reads the bytes of a tensor in the order of the file, in pieces of whole numbers.
    #[cfg(feature = "llm")]
    pub(crate) fn read_pieces(&mut self, name: &str, mut piece: impl FnMut(&[u8])) -> Result<()> {
        let (start, end) = self.info(name)?.data_offsets;
        let io = io_error(&self.path);
        self.reader.seek(SeekFrom::Start(self.start + start as u64)).map_err(io)?;
        let mut bytes = vec![0; BUFFER];
        let mut left = end - start;
        while left > 0 {
            let bytes = &mut bytes[..left.min(BUFFER)];
            self.reader.read_exact(bytes).map_err(io)?;
            piece(bytes);
            left -= bytes.len();
        }
        Ok(())
    }

    /// As [`matrix`](Self::matrix), of a given shape.
    pub(crate) fn matrix_of_shape(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let matrix = self.matrix(name)?;
        if (matrix.rows, matrix.cols) == (rows, cols) {
            return Ok(matrix);
        }
        let (r, c) = (matrix.rows, matrix.cols);
        Err(malformed(&self.path, format!("tensor `{name}` is {r} x {c}, expected {rows} x {cols} from the others")))
    }

    /// The numbers of a tensor, its **rows as columns**, each rounded once. They may be infinite or NaN.
    pub(crate) fn columns<T: Scalar>(&mut self, matrix: &Matrix) -> Result<Mat<T>> {
        let (rows, cols) = (matrix.rows, matrix.cols);
        let need = Need::new("a tensor of a file", rows, cols).matrix::<T>(rows, cols);
        let mut columns = need.zeros(cols, rows).map_err(in_file(&self.path))?;
        let (mut bytes, mut numbers) = (vec![0; matrix.row_bytes()], vec![0.0; matrix.cols]);
        let Self { path, reader, .. } = self;
        let io = io_error(path);
        reader.seek(SeekFrom::Start(matrix.start)).map_err(io)?;
        for i in 0..matrix.rows {
            reader.read_exact(&mut bytes).map_err(io)?;
            matrix.precision.decode(&bytes, &mut numbers);
            columns.col_mut(i).iter_mut().zip(&numbers).for_each(|(to, from)| *to = T::from_f64(*from));
        }
        Ok(columns)
    }

    /// Some rows of a tensor, one after the other. They may be infinite or NaN.
    pub(crate) fn rows(&mut self, matrix: &Matrix, first: usize, count: usize) -> Result<Vec<f64>> {
        let Self { path, reader, .. } = self;
        let io = io_error(path);
        let (mut bytes, mut numbers) = (vec![0; count * matrix.row_bytes()], vec![0.0; count * matrix.cols]);
        reader.seek(SeekFrom::Start(matrix.start + (first * matrix.row_bytes()) as u64)).map_err(io)?;
        reader.read_exact(&mut bytes).map_err(io)?;
        matrix.precision.decode(&bytes, &mut numbers);
        Ok(numbers)
    }

    /// As [`columns`](Self::columns), with an error for numbers that are not finite.
    pub(crate) fn finite_columns<T: Scalar>(&mut self, name: &str, matrix: &Matrix) -> Result<Mat<T>> {
        let columns = self.columns::<T>(matrix)?;
        validate::finite("the tensor", columns.transpose())
            .map_err(|error| malformed(&self.path, format!("tensor `{name}`, read as {}: {error}", T::NAME)))?;
        Ok(columns)
    }

    /// Copies everything to `to`, except the tensors `replaced`: their bytes come from `replace`, a block of rows at a time,
    /// in the order of the file.
    pub(crate) fn copy_replacing(
        &mut self,
        to: &mut Writer<'_>,
        replaced: &[Matrix],
        mut replace: impl FnMut(usize, usize, &[f64], &mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let Self { path, reader, length, .. } = self;
        let io = io_error(path);
        let mut order: Vec<usize> = (0..replaced.len()).collect();
        order.sort_unstable_by_key(|&which| replaced[which].start);
        let copy = |reader: &mut BufReader<R>, to: &mut Writer<'_>, bytes: u64| match std::io::copy(
            &mut reader.take(bytes),
            to,
        ) {
            Ok(copied) if copied == bytes => Ok(()),
            Ok(_) => Err(io(ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(io(error)),
        };
        reader.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut at = 0;
        for which in order {
            let matrix = &replaced[which];
            copy(reader, to, matrix.start - at)?;
            at = matrix.end();
            let block = (BUFFER / (8 * matrix.cols)).clamp(1, matrix.rows);
            let mut old = vec![0; block * matrix.row_bytes()];
            let (mut numbers, mut new) = (vec![0.0; block * matrix.cols], Vec::with_capacity(old.len()));
            for row in (0..matrix.rows).step_by(block) {
                let rows = block.min(matrix.rows - row);
                let (old, numbers) = (&mut old[..rows * matrix.row_bytes()], &mut numbers[..rows * matrix.cols]);
                reader.read_exact(old).map_err(io)?;
                matrix.precision.decode(old, numbers);
                new.clear();
                replace(which, row, numbers, &mut new)?;
                to.write_all(&new).map_err(io)?;
            }
        }
        copy(reader, to, *length - at)
    }
}

/// A tensor to be written.
pub(crate) struct NewTensor<'a, T: Scalar> {
    name: String,
    shape: Vec<usize>,
    rows: NewRows<'a, T>,
    precision: Precision,
}

/// The rows of a tensor, in the layout of the file.
enum NewRows<'a, T: Scalar> {
    There(MatRef<'a, T>),
    /// Made when they are written, so that only a panel of them is in memory.
    #[cfg(feature = "llm")]
    Later(Box<MakeRows<'a, T>>),
}

/// Gives rows to the function that writes them, a panel after the other.
#[cfg(feature = "llm")]
type MakeRows<'a, T> = dyn Fn(&mut WriteRows<'_, T>) -> Result<()> + 'a;

/// Writes the next rows.
#[cfg(feature = "llm")]
pub(crate) type WriteRows<'a, T> = dyn FnMut(MatRef<'_, T>) -> Result<()> + 'a;

impl<'a, T: Scalar> NewTensor<'a, T> {
    pub(crate) fn matrix(name: impl Into<String>, rows: MatRef<'a, T>, precision: Precision) -> Self {
        Self { name: name.into(), shape: vec![rows.nrows(), rows.ncols()], rows: NewRows::There(rows), precision }
    }

    /// A tensor of this shape that is made when it is written.
    ///
    /// * `make`: gives the rows of the file, a panel after the other
    #[cfg(feature = "llm")]
    pub(crate) fn later(
        name: impl Into<String>,
        shape: Vec<usize>,
        precision: Precision,
        make: impl Fn(&mut WriteRows<'_, T>) -> Result<()> + 'a,
    ) -> Self {
        Self { name: name.into(), shape, rows: NewRows::Later(Box::new(make)), precision }
    }
}

/// The metadata of a file that [`TensorFile::open_kind`] opens.
pub(crate) fn kind(kind: &str) -> HashMap<String, String> {
    HashMap::from([(KIND.to_owned(), kind.to_owned())])
}

/// Writes a safetensors file, completely or not at all. The numbers are not checked.
pub(crate) fn write<T: Scalar>(
    path: &Path,
    metadata: HashMap<String, String>,
    tensors: &[NewTensor<'_, T>],
) -> Result<()> {
    let mut offset = 0;
    let described = tensors.iter().map(|tensor| {
        let dtype = match tensor.precision {
            Precision::F16 => Dtype::F16,
            Precision::Bf16 => Dtype::BF16,
            Precision::F32 => Dtype::F32,
            Precision::F64 => Dtype::F64,
        };
        let start = offset;
        offset += tensor.shape.iter().product::<usize>() * tensor.precision.bytes();
        (tensor.name.clone(), TensorInfo { dtype, shape: tensor.shape.clone(), data_offsets: (start, offset) })
    });
    let header =
        Metadata::new(Some(metadata), described.collect()).map_err(|error| malformed(path, error.to_string()))?;
    // By way of a value, whose maps are sorted: equal contents are equal bytes.
    let mut text = serde_json::to_value(&header)
        .and_then(|header| serde_json::to_vec(&header))
        .map_err(|error| malformed(path, error.to_string()))?;
    text.resize(text.len().next_multiple_of(LENGTH as usize), b' ');
    write_with(path, |file| {
        let io = io_error(path);
        file.write_all(&(text.len() as u64).to_le_bytes()).map_err(io)?;
        file.write_all(&text).map_err(io)?;
        let mut bytes = Vec::new();
        let mut write_rows = |rows: MatRef<'_, T>, precision: Precision| {
            rows.row_iter().try_for_each(|row| {
                bytes.clear();
                for x in row.iter() {
                    precision.encode(x.to_f64(), &mut bytes);
                }
                file.write_all(&bytes).map_err(io)
            })
        };
        tensors.iter().try_for_each(|tensor| match &tensor.rows {
            NewRows::There(rows) => write_rows(*rows, tensor.precision),
            #[cfg(feature = "llm")]
            NewRows::Later(make) => make(&mut |rows| write_rows(rows, tensor.precision)),
        })
    })
}
