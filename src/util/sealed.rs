//! Files with a head, contents, and a hash of both at the end.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use super::atomic_file::{self, BUFFER, io_error};
use crate::error::{FileError, Result};

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

/// Opens such a file and checks its hash. Returns the head and a reader of the contents.
pub(crate) fn open<const HEAD: usize>(path: &Path) -> Result<([u8; HEAD], io::Take<BufReader<File>>)> {
    let io = io_error(path);
    let malformed = |problem: &str| FileError::Format { path: path.to_owned(), problem: problem.into() };
    let open = || File::open(path).map(|file| BufReader::with_capacity(BUFFER, file)).map_err(io);
    let length = std::fs::metadata(path).map_err(io)?.len();
    let contents = length
        .checked_sub((HEAD + HASH) as u64)
        .ok_or_else(|| malformed("too short: it was truncated, or is another kind of file"))?;
    let (mut hasher, mut file) = (blake3::Hasher::new(), open()?);
    io::copy(&mut (&mut file).take(length - HASH as u64), &mut hasher).map_err(io)?;
    let mut hash = [0; HASH];
    file.read_exact(&mut hash).map_err(io)?;
    if hasher.finalize() != hash {
        return Err(malformed("damaged: its hash does not match its contents").into());
    }
    let (mut file, mut head) = (open()?, [0; HEAD]);
    file.read_exact(&mut head).map_err(io)?;
    Ok((head, file.take(contents)))
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
