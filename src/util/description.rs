//! Written descriptions: they identify settings on disk.

use std::fmt;

/// Settings as lines of text, `name: value`, in a fixed order. A session recognises its directory by them.
///
/// Every field is written by hand, so that a type can grow and older directories still open. Add a new field with
/// [`with_unless`](Self::with_unless), which writes nothing for its default.
///
/// # Examples
/// ```
/// use betaedit_core::editor::Description;
///
/// let description = Description::new("budgeted").with("budget", 0.5).with_unless("passes", 1, 1);
/// assert_eq!(description.to_string(), "budgeted\n  budget: 0.5");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Description {
    text: String,
}

impl Description {
    /// A description of a kind of thing.
    #[must_use]
    pub fn new(kind: &str) -> Self {
        Self { text: kind.to_owned() }
    }

    /// Adds a field. A number of type `f64` is written so that it reads back equal.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        // Indents the lines of a value that is itself a description.
        let value = value.to_string().replace('\n', "\n  ");
        self.text += &format!("\n  {name}: {value}");
        self
    }

    /// Adds a field, unless it has its default value.
    #[must_use]
    pub fn with_unless<V: fmt::Display + PartialEq>(self, name: &str, value: V, default: V) -> Self {
        if value == default { self } else { self.with(name, value) }
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
