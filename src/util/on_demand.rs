//! A value that is held in memory, or read again from disk each time it is needed.

use std::fmt;
#[cfg(feature = "files")]
use std::io::{self, Read, Write};
use std::sync::Arc;

use crate::error::numerics::Result;
#[cfg(feature = "files")]
use crate::util::scratch::Scratch;

/// A shared value. A clone shares it too.
pub(crate) enum OnDemand<V> {
    Held(Arc<V>),
    #[cfg(feature = "files")]
    OnDisk(Arc<ValueOnDisk<V>>),
}

/// A value in a file, and how it is read.
#[cfg(feature = "files")]
pub(crate) struct ValueOnDisk<V> {
    file: Scratch,
    read: Box<Reader<V>>,
}

#[cfg(feature = "files")]
type Reader<V> = dyn Fn(&mut dyn Read) -> io::Result<V> + Send + Sync;

impl<V> Clone for OnDemand<V> {
    fn clone(&self) -> Self {
        match self {
            Self::Held(value) => Self::Held(Arc::clone(value)),
            #[cfg(feature = "files")]
            Self::OnDisk(value) => Self::OnDisk(Arc::clone(value)),
        }
    }
}

impl<V: fmt::Debug> fmt::Debug for OnDemand<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(value) => value.fmt(f),
            #[cfg(feature = "files")]
            Self::OnDisk(_) => f.write_str("at rest"),
        }
    }
}

impl<V> From<Arc<V>> for OnDemand<V> {
    fn from(value: Arc<V>) -> Self {
        Self::Held(value)
    }
}

impl<V> OnDemand<V> {
    /// The value: held already, or read now, for as long as the caller keeps it.
    pub(crate) fn get(&self) -> Result<Arc<V>> {
        match self {
            Self::Held(value) => Ok(Arc::clone(value)),
            #[cfg(feature = "files")]
            Self::OnDisk(rest) => {
                rest.file.read(&*rest.read).map(Arc::new).map_err(crate::error::numerics::NumericsError::AtRest)
            }
        }
    }

    /// Writes a value to a file without a name in a directory.
    #[cfg(feature = "files")]
    pub(crate) fn at_rest(
        directory: &std::path::Path,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
        read: impl Fn(&mut dyn Read) -> io::Result<V> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let mut file = Scratch::new(directory)?;
        file.write(write)?;
        Ok(Self::OnDisk(Arc::new(ValueOnDisk { file, read: Box::new(read) })))
    }
}
