//! Where the matrices of a layer at rest are.

use std::path::Path;

use crate::error::{NumericsError, Result};
use crate::util::scratch::Scratch;

/// The file of a layer's matrices.
pub(super) struct Rest {
    pub(super) file: Scratch,
    pub(super) place: Whereabouts,
    pub(super) lasting: Lasting,
}

/// How often a layer lies down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasting {
    /// After each of its turns.
    Always,
    /// Until its next turn.
    Once,
}

/// Where the matrices are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// In memory, and different from what the file holds.
    Memory,
    /// In memory and in the file.
    Both,
    File,
}

impl Rest {
    pub(super) fn new(directory: &Path, lasting: Lasting) -> Result<Self> {
        let file = Scratch::new(directory).map_err(NumericsError::AtRest)?;
        Ok(Self { file, place: Whereabouts::Memory, lasting })
    }
}
