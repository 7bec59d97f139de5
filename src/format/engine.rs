//! Files of the engine's state.

use std::path::Path;

use faer::Par;

use super::{in_file, malformed};
use crate::engine::InverseGram;
use crate::error::Result;
use crate::util::{bytes, sealed};

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
    let (_, mut contents) = sealed::open::<HEAD>(path, check_head)?;
    let (length, unreadable) = (contents.limit(), sealed::unreadable(path));
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
    sealed::check_end(path, &contents)?;
    Ok(engine)
}

/// Refuses other files, and other versions, whatever their contents are.
fn check_head(head: &[u8]) -> Result<(), String> {
    match head.strip_prefix(&MAGIC).map(|version| <[u8; 8]>::try_from(version).map(u64::from_le_bytes)) {
        Some(Ok(VERSION)) => Ok(()),
        Some(Ok(version)) => Err(format!("version {version} of the layout, expected {VERSION}")),
        Some(Err(_)) | None => Err("not a file of an inverse Gram matrix, or truncated".to_owned()),
    }
}
