//! The token of a state: distinguishes one state of one engine or editor from all others.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Identifies a state of one engine or editor. Two tokens are equal only if nothing has changed between them.
///
/// A value keeps its token in a field and [advances](Self::advance) it at every change. A result that is computed
/// from a state keeps a clone of its token. Clones of the value share the token until one of them changes. From then on
/// their tokens differ, even after equally many changes. Only [`new`](Self::new) allocates.
///
/// # Examples
/// ```
/// use betaedit_core::engine::StateToken;
///
/// let mut state = StateToken::new();
/// let seen = state.clone();
/// assert_eq!(seen, state);
/// let mut other = state.clone(); // the token of a clone of the value
/// state.advance();
/// other.advance();
/// assert!(seen != state && other != state);
/// ```
#[derive(Clone)]
pub struct StateToken {
    /// The last number given to any clone.
    line: Arc<AtomicU64>,
    number: u64,
}

impl StateToken {
    /// The token of a new value.
    #[must_use]
    pub fn new() -> Self {
        Self { line: Arc::default(), number: 0 }
    }

    /// Records a change of the value.
    pub fn advance(&mut self) {
        self.number = 1 + self.line.fetch_add(1, Ordering::Relaxed);
    }
}

/// Hides the number, which means nothing to a reader.
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
