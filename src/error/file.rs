//! What can go wrong with files.

use std::io;
use std::path::PathBuf;

use super::numerics::NumericsError;

/// What can go wrong with files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// A file could not be read or written.
    #[error("{path}: {error}")]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },

    /// A file was read, but its contents cannot be used.
    #[error("{path}: {problem}")]
    Format {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    /// A file was read, but its numbers were refused.
    #[error("{path}: {error}")]
    Numbers {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with them; arguments are named as the file names them.
        error: Box<NumericsError>,
    },

    /// Statistics of something else were to be added.
    #[error("these are statistics of {found}, those of {expected}: they cannot be added")]
    OtherStatistics {
        /// What there is already.
        expected: String,
        /// What was to be added.
        found: String,
    },

    /// A part of the statistics was to be added twice.
    #[error("part `{part}` of the statistics is counted already")]
    CountedAlready {
        /// Name of the part.
        part: String,
    },
}
