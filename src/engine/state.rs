//! Saving and loading the state, bit for bit.

use std::io::{Read, Write};

use super::InverseGram;
use super::unsettled::{Fate, Unsettled};
use crate::util::bytes;
use crate::util::large::Large;

impl InverseGram {
    /// What makes up most of the state.
    pub(crate) fn large(&mut self) -> &mut dyn Large {
        &mut self.Q
    }

    /// Writes the state, bit for bit unless the history was discounted.
    pub(crate) fn save(&self, out: &mut dyn Write) -> bytes::Result<()> {
        self.Q.save(out)?;
        self.save_history(out)
    }

    /// Loads a state of the same size that [`save`](Self::save) wrote. After an error the state is unspecified.
    pub(crate) fn load(&mut self, from: &mut dyn Read) -> bytes::Result<()> {
        self.Q.load(from)?;
        self.load_history(from)?;
        self.limit = self.largest;
        Ok(())
    }

    /// Writes the state, bit for bit after any history.
    #[cfg(feature = "files")]
    pub(crate) fn save_whole(&self, out: &mut dyn Write) -> bytes::Result<()> {
        self.Q.save_whole(out)?;
        bytes::write_f64(out, self.limit)?;
        self.save_history(out)
    }

    /// Loads what [`save_whole`](Self::save_whole) wrote, into a state of the same size that keeps a rounded copy if that
    /// one did. After an error the state is unspecified.
    #[cfg(feature = "files")]
    pub(crate) fn load_whole(&mut self, from: &mut dyn Read) -> bytes::Result<()> {
        self.Q.load_whole(from)?;
        self.limit = bytes::read_f64(from)?;
        self.load_history(from)?;
        let bounds = self.largest.is_finite() && self.largest > 0.0 && self.limit >= self.largest;
        let probe = [&self.probe.a, &self.probe.x].iter().all(|probe| probe.as_ref().is_all_finite());
        let keys = self.unsettled.keys.iter().all(|x| x.is_finite());
        if bounds && probe && keys { Ok(()) } else { Err(bytes::invalid("a number is out of range")) }
    }

    /// Whether a rounded copy is kept.
    #[cfg(feature = "files")]
    pub(crate) fn keeps_rounded_copy(&self) -> bool {
        self.Q.keeps_rounded()
    }

    fn save_history(&self, out: &mut dyn Write) -> bytes::Result<()> {
        bytes::write_f64(out, self.largest)?;
        bytes::write_slice(out, &self.unsettled.keys)?;
        for fate in &self.unsettled.fates {
            bytes::write_u64(out, u64::from(*fate == Fate::Removed))?;
        }
        bytes::write_u64(out, u64::from(self.unsettled.strong))?;
        bytes::write_matrix(out, self.probe.a.as_ref())?;
        bytes::write_matrix(out, self.probe.x.as_ref())
    }

    fn load_history(&mut self, from: &mut dyn Read) -> bytes::Result<()> {
        let d = self.dim();
        self.largest = bytes::read_f64(from)?;
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
