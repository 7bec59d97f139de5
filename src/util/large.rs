//! Large matrices that can be put away on disk for a while.

use std::io::{Read, Write};

use crate::util::bytes;

/// What makes up most of a state. Between [`let_go`](Self::let_go) and [`read`](Self::read) it must not be used.
pub(crate) trait Large {
    /// Writes the entries, bit for bit.
    fn write(&self, out: &mut dyn Write) -> bytes::Result<()>;

    /// Gives the memory back.
    fn let_go(&mut self);

    /// Reads the entries that [`write`](Self::write) wrote. After an error they are unspecified.
    fn read(&mut self, from: &mut dyn Read) -> bytes::Result<()>;
}
