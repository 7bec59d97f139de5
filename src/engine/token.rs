//! The token of a state: what tells one state of one engine or editor from every other.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A state of one engine or editor. Two tokens are equal only if nothing has changed between them.
///
/// A value keeps its token as a field and [advances](Self::advance) it at every change; what was computed from a state keeps a
/// clone. Clones of the value share the token until one of them changes; from then on their tokens differ, also after equally
/// many changes. Cost: no allocation but in [`new`](Self::new).
///
/// # Examples
/// ```
/// use betaedit_core::engine::StateToken;
///
/// let mut state = StateToken::new();
/// let seen = state.clone();
/// assert_eq!(seen, state);
/// let mut other = state.clone(); // of a clone of the value
/// state.advance();
/// other.advance();
/// assert!(seen != state && other != state);
/// ```
#[derive(Clone)]
pub struct StateToken {
    /// The number of the last state that any clone has had.
    line: Arc<AtomicU64>,
    number: u64,
}

impl StateToken {
    /// The token of a new value.
    #[must_use]
    pub fn new() -> Self {
        Self { line: Arc::default(), number: 0 }
    }

    /// The value has changed.
    pub fn advance(&mut self) {
        self.number = 1 + self.line.fetch_add(1, Ordering::Relaxed);
    }
}

/// Which state it is of says nothing to a reader.
impl fmt::Debug for StateToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateToken")
    }
}

impl Default for StateToken {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for StateToken {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number && Arc::ptr_eq(&self.line, &other.line)
    }
}

impl Eq for StateToken {}
