//! The numbers of requests.

use std::fmt;

/// The number of a request in its session, from 0. It does not change when other edits are undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct EditId(pub u64);

impl From<u64> for EditId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

impl fmt::Display for EditId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
