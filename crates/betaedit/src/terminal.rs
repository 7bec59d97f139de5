//! The output of the commands, for people and for programs.

use std::error::Error;
use std::io::Write;

use betaedit_core::faer::Par;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

pub type Failure = Box<dyn Error + Send + Sync>;
pub type Done<T = ()> = Result<T, Failure>;

/// Where output goes, and the threads to use.
#[derive(Clone, Copy)]
pub struct Terminal {
    reader: Reader,
    pub par: Par,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Person,
    Program,
    Nobody,
}

impl Terminal {
    pub fn new(json: bool, par: Par) -> Self {
        Self { reader: if json { Reader::Program } else { Reader::Person }, par }
    }

    /// For a part of a command, whose result is not printed.
    pub fn without_results(self) -> Self {
        let reader = if self.reader == Reader::Program { Reader::Nobody } else { self.reader };
        Self { reader, ..self }
    }

    /// Prints text for people to standard output. A closed pipe is not an error.
    pub fn say(self, text: impl AsRef<str>) {
        if self.reader == Reader::Person {
            let _ = writeln!(std::io::stdout(), "{}", text.as_ref());
        }
    }

    /// Prints the result for programs to standard output.
    pub fn result(self, value: &Value) {
        if self.reader == Reader::Program {
            let _ = writeln!(std::io::stdout(), "{value}");
        }
    }

    /// Prints an error with those causes that its message does not contain.
    pub fn fail(self, error: &(dyn Error + 'static)) {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.contains(&more) {
                text += &format!(": {more}");
            }
            cause = error.source();
        }
        let _ = writeln!(std::io::stderr(), "error: {text}");
        self.result(&json!({ "error": text }));
    }

    /// Prints a note for people to standard error.
    pub fn note(self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
    }

    /// A progress bar on standard error, if that is a terminal.
    pub fn bar(self, length: u64, what: &'static str) -> ProgressBar {
        let style = ProgressStyle::with_template("{prefix:11} {bar:28} {pos}/{len}  {eta} left  {msg}");
        ProgressBar::new(length).with_style(style.expect("the template is in order")).with_prefix(what)
    }
}

/// Aligned columns of text. Cells that start with a digit or a sign are right-aligned.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let numeric = |cell: &str| cell.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+');
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| if numeric(cell) { format!("{cell:>width$}") } else { format!("{cell:<width$}") });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A text in one line of at most `length` characters.
pub fn shortened(text: &str, length: usize) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= length {
        return text;
    }
    text.chars().take(length.saturating_sub(1)).chain(['…']).collect()
}
