//! Saving and loading the state of an editor, bit for bit.

use std::io::{self, Read, Write};

use super::ClosedFormEditor;
use crate::refresh::Refresh;
use crate::scalar::Scalar;
use crate::util::bytes;
use crate::util::large::Large;

impl<T: Scalar> ClosedFormEditor<T> {
    pub(super) fn write_state(&self, out: &mut dyn Write) -> io::Result<()> {
        let drawn = self.random.as_ref().map_or(0, |random| random.drawn);
        for count in [self.memory.kept(), self.edits, self.last_refresh, self.refreshes, drawn] {
            bytes::write_len(out, count)?;
        }
        self.Q.save(out)?;
        self.simulated.as_ref().map_or(Ok(()), |simulated| simulated.save(out))?;
        self.memory.save(out)
    }

    /// This editor in a state that [`write_state`](Self::write_state) wrote.
    pub(super) fn with_state(&self, from: &mut dyn Read) -> io::Result<Self> {
        let mut next = self.clone();
        let kept = bytes::read_len(from, next.Q.dim())?;
        for count in [&mut next.edits, &mut next.last_refresh, &mut next.refreshes] {
            *count = bytes::read_len(from, usize::MAX)?;
        }
        let drawn = bytes::read_len(from, usize::MAX)?;
        if let Some(random) = &mut next.random {
            random.drawn = drawn;
        }
        if next.last_refresh > next.edits {
            return Err(bytes::invalid("the last refresh comes after the last edit"));
        }
        next.Q.load(from)?;
        next.simulated.as_mut().map_or(Ok(()), |simulated| simulated.load(from))?;
        next.memory.load(from, kept)?;
        if next.memory.is_stopped() {
            next.recipe.refresh = Refresh::Never;
        }
        next.token.advance();
        Ok(next)
    }

    /// What makes up most of the state, always in this order.
    pub(super) fn large(&mut self) -> impl Iterator<Item = &mut dyn Large> {
        let of_simulated = self.simulated.as_mut().map(|simulated| simulated.Q.large());
        [Some(self.Q.large()), of_simulated, self.memory.large()].into_iter().flatten()
    }
}
