//! Saving and loading a spectrum, bit for bit.

use std::io::{Read, Write};

use super::Spectrum;
use crate::util::bytes;

impl Spectrum {
    pub(crate) fn save(&self, out: &mut dyn Write) -> bytes::Result<()> {
        bytes::write_slice(out, &self.values)?;
        bytes::write_f64(out, self.residual)?;
        bytes::write_f64(out, self.orthogonality)?;
        bytes::write_matrix(out, self.vectors.as_ref())
    }

    /// A spectrum that [`save`](Self::save) wrote. It is not verified again.
    pub(crate) fn load(from: &mut dyn Read, dim: usize) -> bytes::Result<Self> {
        let values = bytes::read_slice(from, dim)?;
        let (residual, orthogonality) = (bytes::read_f64(from)?, bytes::read_f64(from)?);
        let vectors = bytes::read_matrix(from, dim, dim)?;
        Ok(Self { values, vectors, residual, orthogonality })
    }
}
