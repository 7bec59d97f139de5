//! Files with a head, contents, and a hash of both at the end.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::atomic_file::{self, BUFFER, io_error};
use crate::error::{Error, FileError, Result};

pub(crate) const HASH: usize = blake3::OUT_LEN;

/// Writes such a file. It is never incomplete.
pub(crate) fn write(
    path: &Path,
    head: &[&[u8]],
    contents: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    atomic_file::write_with(path, |out| {
        let mut out = Hashing { out, hasher: blake3::Hasher::new() };
        let write = || {
            head.iter().try_for_each(|part| out.write_all(part))?;
            contents(&mut out)?;
            let hash = out.hasher.finalize();
            out.out.write_all(hash.as_bytes())
        };
        write().map_err(io_error(path))
    })
}

/// The contents of such a file, as a stream that ends before the hash.
pub(crate) type Contents = io::Take<BufReader<File>>;

/// Opens such a file and checks its hash. Returns the head and the contents.
///
/// * `check`: tells other kinds of files by their first bytes, `HEAD` of them if there are so many. It comes before the hash,
///   which would call such a file damaged.
pub(crate) fn open<const HEAD: usize>(
    path: &Path,
    check: impl FnOnce(&[u8]) -> Result<(), String>,
) -> Result<([u8; HEAD], Contents)> {
    let io = io_error(path);
    let mut file = BufReader::with_capacity(BUFFER, File::open(path).map_err(io)?);
    let mut head = Vec::with_capacity(HEAD);
    (&mut file).take(HEAD as u64).read_to_end(&mut head).map_err(io)?;
    check(&head).map_err(|problem| malformed(path, problem))?;
    let too_short = || malformed(path, "too short: it was truncated");
    let head = <[u8; HEAD]>::try_from(head).map_err(|_| too_short())?;
    let length = file.get_ref().metadata().map_err(io)?.len();
    let contents = length.checked_sub((HEAD + HASH) as u64).ok_or_else(too_short)?;
    let (mut hasher, mut hash) = (blake3::Hasher::new(), [0; HASH]);
    hasher.update(&head);
    io::copy(&mut (&mut file).take(contents), &mut hasher).map_err(io)?;
    file.read_exact(&mut hash).map_err(io)?;
    if hasher.finalize() != hash {
        return Err(malformed(path, "damaged: its hash does not match the checksum at its end"));
    }
    file.seek(SeekFrom::Start(HEAD as u64)).map_err(io)?;
    Ok((head, file.take(contents)))
}

/// The error for contents that cannot be read, or are not what their reader expects.
pub(crate) fn unreadable(path: &Path) -> impl Fn(io::Error) -> Error + Copy + '_ {
    |error| match error.kind() {
        io::ErrorKind::InvalidData => malformed(path, error.to_string()),
        io::ErrorKind::UnexpectedEof => malformed(path, "the file ends before the state is complete"),
        _ => io_error(path)(error),
    }
}

/// Refuses contents that go on where their reader is done.
pub(crate) fn check_end(path: &Path, contents: &Contents) -> Result<()> {
    if contents.limit() == 0 { Ok(()) } else { Err(malformed(path, "extra bytes follow the state")) }
}

fn malformed(path: &Path, problem: impl Into<String>) -> Error {
    FileError::Format { path: path.to_owned(), problem: problem.into() }.into()
}

struct Hashing<'a> {
    out: &'a mut dyn Write,
    hasher: blake3::Hasher,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
