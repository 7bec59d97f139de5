//! The beginning of a GGUF file: its metadata, which is passed over, and the list of its tensors.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::kind::GgufType;
use crate::error::Result;
use crate::format::{lfs_pointer, malformed};
use crate::util::atomic_file::{BUFFER, io_error};

/// The first bytes of a file.
pub(in crate::format) const MAGIC: [u8; 4] = *b"GGUF";

/// The version that is written. Version 2 has the same layout.
pub(in crate::format) const VERSION: u32 = 3;

/// The entry that gives the multiple at which tensors begin.
const ALIGNMENT: &str = "general.alignment";

/// The multiple at which tensors begin, if the file does not say otherwise.
pub(in crate::format) const USUAL_ALIGNMENT: u64 = 32;

/// The most dimensions of a tensor.
const DIMENSIONS: u32 = 4;

/// How deep arrays of arrays may be.
const DEPTH: usize = 8;

/// A file, with its header read and checked against its length.
pub(super) struct GgufHeader {
    pub(super) path: PathBuf,
    pub(super) reader: BufReader<File>,
    /// Where the list of tensors begins. Everything before it is the metadata.
    pub(super) list: u64,
    /// In the order of the list.
    pub(super) tensors: Vec<GgufEntry>,
    /// Where the tensors begin.
    pub(super) start: u64,
    pub(super) alignment: u64,
    pub(super) length: u64,
    offsets: BTreeSet<u64>,
}

/// A tensor in the list of a file.
#[derive(Clone, Debug)]
pub(in crate::format) struct GgufEntry {
    pub(in crate::format) name: String,
    /// The fastest dimension first.
    pub(in crate::format) dimensions: Vec<u64>,
    /// The number of its type.
    pub(in crate::format) id: u32,
    /// From where tensors begin.
    pub(in crate::format) offset: u64,
}

/// Checks the header of a file against its length, for readers that trust it.
#[cfg(feature = "llm")]
pub(crate) fn check(path: &Path) -> Result<()> {
    GgufHeader::open(path).map(drop)
}

impl GgufHeader {
    pub(super) fn open(path: &Path) -> Result<Self> {
        lfs_pointer::check_file(path)?;
        let io = io_error(path);
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let reader = BufReader::with_capacity(BUFFER, file);
        let mut cursor = Cursor { path, reader, at: 0, length, alignment: USUAL_ALIGNMENT };
        let magic: [u8; 4] = cursor.bytes()?;
        let version = u32::from_le_bytes(cursor.bytes()?);
        if magic != MAGIC || !(2..=VERSION).contains(&version) {
            return Err(cursor.malformed("it does not begin as a GGUF file of version 2 or 3"));
        }
        let (count, entries) = (cursor.count()?, cursor.count()?);
        for _ in 0..entries {
            cursor.entry()?;
        }
        let list = cursor.at;
        let tensors = (0..count).map(|_| cursor.tensor()).collect::<Result<Vec<_>>>()?;
        let Cursor { reader, at, alignment, .. } = cursor;
        let start = at.next_multiple_of(alignment);
        let offsets = tensors.iter().map(|tensor| tensor.offset).collect();
        let header = Self { path: path.to_owned(), reader, list, tensors, start, alignment, length, offsets };
        header.check()?;
        Ok(header)
    }

    /// The type of a tensor, and how many bytes it has.
    pub(super) fn kind(&self, tensor: &GgufEntry) -> Option<(GgufType, u64)> {
        let kind = GgufType::from_id(tensor.id)?;
        let row = tensor.dimensions.first().copied().unwrap_or(1);
        let numbers = tensor.dimensions.iter().try_fold(1u64, |product, n| product.checked_mul(*n))?;
        let bytes = (numbers / kind.block() as u64).checked_mul(kind.bytes() as u64)?;
        row.is_multiple_of(kind.block() as u64).then_some((kind, bytes))
    }

    /// Where a tensor ends at the latest, in the file.
    pub(super) fn limit(&self, tensor: &GgufEntry) -> u64 {
        let next = self.offsets.range(tensor.offset.saturating_add(1)..).next();
        next.map_or(self.length, |next| self.start.saturating_add(*next).min(self.length))
    }

    fn check(&self) -> Result<()> {
        for tensor in &self.tensors {
            let numbers = tensor.dimensions.iter().try_fold(8u64, |product, n| product.checked_mul(*n));
            if numbers.is_none_or(|numbers| numbers == 0) {
                let problem = format!("tensor `{}` has the dimensions {:?}", tensor.name, tensor.dimensions);
                return Err(malformed(&self.path, problem));
            }
            let inside = tensor.offset <= self.length.saturating_sub(self.start);
            let fits = self.kind(tensor).is_none_or(|(_, bytes)| {
                inside && bytes <= self.limit(tensor).saturating_sub(self.start + tensor.offset)
            });
            if !inside || !fits || !tensor.offset.is_multiple_of(self.alignment) {
                let problem = format!("tensor `{}` is not where the list says: the file may be cut off", tensor.name);
                return Err(malformed(&self.path, problem));
            }
        }
        Ok(())
    }
}

/// Reads from the beginning on.
struct Cursor<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    at: u64,
    length: u64,
    alignment: u64,
}

impl Cursor<'_> {
    fn malformed(&self, problem: impl Into<String>) -> crate::error::Error {
        malformed(self.path, format!("not a readable GGUF file: {}", problem.into()))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        match self.reader.read_exact(bytes) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(self.malformed("it ends in its header")),
            read => read.map_err(io_error(self.path)),
        }
    }

    fn pass(&mut self, bytes: u64) -> Result<()> {
        if bytes > self.length.saturating_sub(self.at) {
            return Err(self.malformed("it ends in its header"));
        }
        self.at += bytes;
        self.reader.seek_relative(bytes.cast_signed()).map_err(io_error(self.path))
    }

    /// The number of things that follow, of at least a byte each.
    fn count(&mut self) -> Result<u64> {
        let count = u64::from_le_bytes(self.bytes()?);
        match count <= self.length - self.at.min(self.length) {
            true => Ok(count),
            false => Err(self.malformed(format!("{count} entries are announced, in a file of {} bytes", self.length))),
        }
    }

    fn text(&mut self) -> Result<String> {
        let mut bytes = vec![0; self.count()? as usize];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| self.malformed("a name is not UTF-8"))
    }

    fn entry(&mut self) -> Result<()> {
        let (name, kind) = (self.text()?, u32::from_le_bytes(self.bytes()?));
        if name == ALIGNMENT {
            if kind != UINT32 {
                return Err(self.malformed(format!("`{ALIGNMENT}` is of type {kind}, expected {UINT32}")));
            }
            let alignment = u32::from_le_bytes(self.bytes()?);
            if !alignment.is_power_of_two() {
                return Err(self.malformed(format!("`{ALIGNMENT}` is {alignment}, expected a power of two")));
            }
            self.alignment = alignment.into();
            return Ok(());
        }
        self.value(kind, DEPTH)
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<()> {
        match (kind, depth.checked_sub(1)) {
            (STRING, _) => {
                let bytes = self.count()?;
                self.pass(bytes)
            }
            (ARRAY, Some(depth)) => {
                let (kind, count) = (u32::from_le_bytes(self.bytes()?), self.count()?);
                match SIZES.get(kind as usize).copied().flatten() {
                    Some(size) => self.pass(count.saturating_mul(size)),
                    None => (0..count).try_for_each(|_| self.value(kind, depth)),
                }
            }
            _ => match SIZES.get(kind as usize).copied().flatten() {
                Some(size) => self.pass(size),
                None => Err(self.malformed(format!("an entry is of type {kind}, which is not known"))),
            },
        }
    }

    fn tensor(&mut self) -> Result<GgufEntry> {
        let name = self.text()?;
        let dimensions = u32::from_le_bytes(self.bytes()?);
        if dimensions > DIMENSIONS {
            return Err(self.malformed(format!("tensor `{name}` has {dimensions} dimensions")));
        }
        let dimensions = (0..dimensions).map(|_| Ok(u64::from_le_bytes(self.bytes()?))).collect::<Result<Vec<_>>>()?;
        let id = u32::from_le_bytes(self.bytes()?);
        Ok(GgufEntry { name, dimensions, id, offset: u64::from_le_bytes(self.bytes()?) })
    }
}

/// Numbers of types of entries.
pub(super) const UINT32: u32 = 4;
pub(in crate::format) const FLOAT32: u32 = 6;
pub(in crate::format) const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Bytes of the types of entries, by their numbers; none for those of any length.
const SIZES: [Option<u64>; 13] =
    [Some(1), Some(1), Some(2), Some(2), Some(4), Some(4), Some(4), Some(1), None, None, Some(8), Some(8), Some(8)];

impl GgufEntry {
    /// The entry as it is in the list.
    pub(in crate::format) fn encode(&self, bytes: &mut Vec<u8>) {
        text(&self.name, bytes);
        bytes.extend((self.dimensions.len() as u32).to_le_bytes());
        self.dimensions.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        bytes.extend(self.id.to_le_bytes());
        bytes.extend(self.offset.to_le_bytes());
    }
}

/// A text as it is in a header.
pub(in crate::format) fn text(text: &str, bytes: &mut Vec<u8>) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

impl GgufHeader {
    /// Some bytes of the file.
    pub(super) fn read(&mut self, at: u64, bytes: u64) -> Result<Vec<u8>> {
        let io = io_error(&self.path);
        let mut read = vec![0; bytes as usize];
        self.reader.seek(SeekFrom::Start(at)).map_err(io)?;
        self.reader.read_exact(&mut read).map_err(io)?;
        Ok(read)
    }
}
