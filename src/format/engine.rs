//! Files of the engine's state.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use faer::Par;

use super::{in_file, malformed};
use crate::engine::InverseGram;
use crate::error::Result;
use crate::util::atomic_file::io_error;
use crate::util::bytes;
use crate::util::sealed;

const MAGIC: [u8; 16] = *b"betaedit.inverse";
const VERSION: u64 = 1;
const HEAD: usize = MAGIC.len() + size_of::<u64>();

/// Writes an engine, bit for bit: the engine that [`read`] returns continues as this one would.
///
/// The file has a magic number, a version, the state, and a BLAKE3 hash of all three: about `4 d_in²` bytes. It does not
/// contain a model, or the projector that the engine was started from.
///
/// # Errors
/// A path that cannot be written. What was at the path before is then unchanged.
///
/// # Examples
/// A stream that continues after a restart.
/// ```
/// use betaedit_core::{InverseGram, faer::{mat, Par}, format::engine};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("stream.inverse");
/// let mut Q = InverseGram::isotropic(2, 5.0, Par::Seq)?;
/// Q.absorb(mat![[1.0], [2.0]].as_ref())?;
/// engine::write(&path, &Q)?;
///
/// let mut again = engine::read(&path, Par::Seq)?;
/// let next = mat![[0.5], [-1.0]];
/// Q.absorb(next.as_ref())?;
/// again.absorb(next.as_ref())?;
/// assert_eq!(again.to_dense(), Q.to_dense());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write(path: impl AsRef<Path>, engine: &InverseGram) -> Result<()> {
    sealed::write(path.as_ref(), &[&MAGIC, &VERSION.to_le_bytes()], |out| {
        bytes::write_len(out, engine.dim())?;
        bytes::write_u64(out, u64::from(engine.keeps_rounded_copy()))?;
        engine.save_whole(out)
    })
}

/// Reads an engine. With an equal number of threads, it continues with the same bits as the engine that was written.
///
/// * `par`: the threads of the engine from now on
///
/// # Errors
/// A file that cannot be read, that is damaged or of another version, or not enough memory. Solutions of the engine that was
/// written do not belong to the one that is read.
pub fn read(path: impl AsRef<Path>, par: Par) -> Result<InverseGram> {
    let path = path.as_ref();
    check_head(path)?;
    let (_, mut contents) = sealed::open::<HEAD>(path)?;
    let length = contents.limit();
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::InvalidData => malformed(path, error.to_string()),
        std::io::ErrorKind::UnexpectedEof => malformed(path, "the file ends before the state is complete"),
        _ => io_error(path)(error),
    };
    let dim = bytes::read_u64(&mut contents).map_err(unreadable)?;
    // Half of `Q` and the pending columns are in the file, so the memory for them is no more than a few times its length.
    let least = u128::from(dim).saturating_mul(4 * u128::from(dim));
    if dim == 0 || least > u128::from(length) {
        return Err(malformed(
            path,
            format!("it announces keys of length {dim}, but has only {length} bytes of state"),
        ));
    }
    let mut engine = InverseGram::isotropic(dim as usize, 1.0, par).map_err(in_file(path))?;
    if bytes::read_u64(&mut contents).map_err(unreadable)? != 0 {
        engine = engine.with_rounded_copy().map_err(in_file(path))?;
    }
    engine.load_whole(&mut contents).map_err(unreadable)?;
    match contents.read(&mut [0]).map_err(io_error(path))? {
        0 => Ok(engine),
        _ => Err(malformed(path, "extra bytes follow the state")),
    }
}

/// Refuses other files, and other versions, whatever their contents are.
fn check_head(path: &Path) -> Result<()> {
    let io = io_error(path);
    let mut head = Vec::with_capacity(HEAD);
    File::open(path).and_then(|file| file.take(HEAD as u64).read_to_end(&mut head)).map_err(io)?;
    if head.len() < HEAD || !head.starts_with(&MAGIC) {
        return Err(malformed(path, "not a file of an inverse Gram matrix, or truncated"));
    }
    let version = bytes::read_u64(&mut &head[MAGIC.len()..]).map_err(io)?;
    if version != VERSION {
        return Err(malformed(path, format!("version {version} of the layout, expected {VERSION}")));
    }
    Ok(())
}
