//! Saving and loading the state, bit for bit.

use std::io::{Read, Write};

use super::InverseGram;
use super::unsettled::{Fate, Unsettled};
use crate::util::bytes;

impl InverseGram {
    /// Writes the state, bit for bit.
    pub(crate) fn save(&self, out: &mut dyn Write) -> bytes::Result<()> {
        self.Q.save(out)?;
        bytes::write_f64(out, self.largest)?;
        bytes::write_slice(out, &self.unsettled.keys)?;
        for fate in &self.unsettled.fates {
            bytes::write_u64(out, u64::from(*fate == Fate::Removed))?;
        }
        bytes::write_u64(out, u64::from(self.unsettled.strong))?;
        bytes::write_matrix(out, self.probe.a.as_ref())?;
        bytes::write_matrix(out, self.probe.x.as_ref())
    }

    /// Loads a state of the same size that [`save`](Self::save) wrote. After an error the state is unspecified.
    pub(crate) fn load(&mut self, from: &mut dyn Read) -> bytes::Result<()> {
        let d = self.dim();
        self.Q.load(from)?;
        self.largest = bytes::read_f64(from)?;
        self.limit = self.largest;
        let keys = bytes::read_slice(from, d)?;
        let n = keys.len() / d;
        if n > self.Q.subtracted() {
            return Err(bytes::invalid("more unsettled keys than pending columns"));
        }
        let fate = |_| Ok(if bytes::read_u64(from)? == 0 { Fate::Absorbed } else { Fate::Removed });
        let fates = (0..n).map(fate).collect::<bytes::Result<_>>()?;
        self.unsettled = Unsettled { keys, fates, strong: bytes::read_u64(from)? != 0 };
        self.probe.a = bytes::read_matrix(from, d, 1)?;
        self.probe.x = bytes::read_matrix(from, d, 1)?;
        self.token.advance();
        Ok(())
    }
}
