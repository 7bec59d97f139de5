//! A file without a name, for what need not be in memory. It is gone with the process, however that ends.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Bytes that are read and written together.
const BUFFER: usize = 1 << 20;

/// One reader at a time.
pub(crate) struct Scratch(Mutex<File>);

impl Scratch {
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(directory).map_err(|error| {
            io::Error::new(error.kind(), format!("no file can be made in `{}`: {error}", directory.display()))
        })?;
        Ok(Self(Mutex::new(file)))
    }

    /// Replaces what the file holds. After an error it holds nothing of use.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let file = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        file.rewind()?;
        let mut out = BufWriter::with_capacity(BUFFER, &mut *file);
        write(&mut out)?;
        out.flush()?;
        drop(out);
        let end = file.stream_position()?;
        file.set_len(end)
    }

    /// Reads from the start.
    pub(crate) fn read<V>(&self, read: impl FnOnce(&mut dyn Read) -> io::Result<V>) -> io::Result<V> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.rewind()?;
        read(&mut BufReader::with_capacity(BUFFER, &mut *file))
    }
}
