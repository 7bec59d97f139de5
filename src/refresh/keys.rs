//! Keys that wait for the next refresh.

use std::io::{Read, Write};

use faer::MatRef;

use crate::util::bytes;

/// Keys, column after column.
#[derive(Clone, Default)]
pub(super) struct Keys(Vec<f64>);

impl Keys {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn extend(&mut self, keys: MatRef<'_, f64>) {
        self.0.extend(keys.col_iter().flat_map(|column| column.iter().copied()));
    }

    pub(super) fn as_mat(&self, d_in: usize) -> MatRef<'_, f64> {
        MatRef::from_column_major_slice(&self.0, d_in, self.0.len() / d_in)
    }

    pub(super) fn save(&self, out: &mut dyn Write) -> bytes::Result<()> {
        bytes::write_slice(out, &self.0)
    }

    pub(super) fn load(from: &mut dyn Read, d_in: usize) -> bytes::Result<Self> {
        bytes::read_slice(from, d_in).map(Self)
    }
}
