//! Saving and loading the matrix, bit for bit.

use std::io::{Read, Write};

use super::{BLOCK, Symmetric};
use crate::linalg::Need;
use crate::linalg::triangle::Triangle;
use crate::util::bytes;
use crate::util::large::Large;

impl Symmetric {
    /// Writes the state, bit for bit, without the rounded copy; the parts are written as scaled.
    pub(crate) fn save(&self, out: &mut dyn Write) -> bytes::Result<()> {
        self.save_parts(out, self.scale)
    }

    /// As [`save`](Self::save), with what else decides the bits of later products: see
    /// [`load_whole`](Self::load_whole).
    #[cfg(feature = "files")]
    pub(crate) fn save_whole(&self, out: &mut dyn Write) -> bytes::Result<()> {
        bytes::write_f64(out, self.scale)?;
        bytes::write_f64(out, self.rounded.as_ref().map_or(1.0, |rounded| rounded.scale))?;
        self.save_parts(out, 1.0)
    }

    fn save_parts(&self, out: &mut dyn Write, scale: f64) -> bytes::Result<()> {
        self.base.save(out, scale)?;
        bytes::write_len(out, self.added)?;
        bytes::write_len(out, self.subtracted)?;
        let root = scale.sqrt();
        bytes::write_numbers(out, self.pending.col_iter().flat_map(|column| column.iter().map(move |x| root * x)))
    }

    /// Loads a state of the same dimension that [`save`](Self::save) wrote. After an error the state is unspecified.
    pub(crate) fn load(&mut self, from: &mut dyn Read) -> bytes::Result<()> {
        self.scale = 1.0;
        self.base.load(from)?;
        self.added = bytes::read_len(from, BLOCK)?;
        self.subtracted = bytes::read_len(from, BLOCK - self.added)?;
        bytes::read_columns(from, &mut self.pending)?;
        self.round();
        Ok(())
    }

    /// Loads a state of the same dimension that [`save_whole`](Self::save_whole) wrote, into a matrix that keeps a rounded
    /// copy if that one did. It goes on with the same bits. After an error the state is unspecified.
    #[cfg(feature = "files")]
    pub(crate) fn load_whole(&mut self, from: &mut dyn Read) -> bytes::Result<()> {
        let scales = [bytes::read_f64(from)?, bytes::read_f64(from)?];
        if !scales.iter().all(|scale| scale.is_finite() && *scale > 0.0) {
            return Err(bytes::invalid("a scale is out of range"));
        }
        if let Some(rounded) = &mut self.rounded {
            rounded.scale = scales[1];
        }
        self.load(from)?;
        self.scale = scales[0];
        let finite = self.is_finite() && self.pending.as_ref().is_all_finite();
        if finite { Ok(()) } else { Err(bytes::invalid("an entry is not finite")) }
    }

    #[cfg(feature = "files")]
    pub(crate) fn keeps_rounded(&self) -> bool {
        self.rounded.is_some()
    }
}

/// The base and its copy. Pending columns stay.
impl Large for Symmetric {
    fn write(&self, out: &mut dyn Write) -> bytes::Result<()> {
        self.base.write(out)
    }

    fn let_go(&mut self) {
        self.base.let_go();
        if let Some(rounded) = &mut self.rounded {
            rounded.triangle.panels = Vec::new();
        }
    }

    fn read(&mut self, from: &mut dyn Read) -> bytes::Result<()> {
        self.base.read(from)?;
        let dim = self.dim();
        if let Some(rounded) = &mut self.rounded {
            let need = Need::new("a rounded copy of Q", dim, dim).bytes(Self::rounded_bytes(dim));
            rounded.triangle = Triangle::zeros(dim, need).map_err(bytes::out_of_memory)?;
        }
        self.round();
        Ok(())
    }
}
