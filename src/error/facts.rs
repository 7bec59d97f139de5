//! What can go wrong with facts.

use std::path::PathBuf;

/// What can go wrong with facts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FactsError {
    /// A record of a file of facts cannot be used.
    #[error("{path}: record {record}{}: {problem}", in_field(field))]
    Record {
        /// Path of the file.
        path: PathBuf,
        /// The number of the record, from 1; in a file of JSON lines, the number of the line.
        record: usize,
        /// The field that is wrong; `None` if the whole record is.
        field: Option<Box<str>>,
        /// What is wrong with it, and what to do.
        problem: String,
    },
}

fn in_field(field: &Option<Box<str>>) -> String {
    field.as_ref().map(|field| format!(", field `{field}`")).unwrap_or_default()
}
