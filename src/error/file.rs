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

    /// A file is in use, by this process or another.
    #[error("{path}: the session is open already, in this process or another: close it there first")]
    Locked {
        /// Path of the file.
        path: PathBuf,
    },

    /// A file was read, but its numbers were refused.
    #[error("{path}: {error}")]
    Numbers {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with them. Arguments have the names that the file gives them.
        error: Box<NumericsError>,
    },

    /// The statistics to add are not of the same kind.
    #[error(
        "the statistics are of {found}, expected {expected}: add only statistics of the same model, layer and text"
    )]
    OtherStatistics {
        /// What the existing statistics are of.
        expected: String,
        /// What the statistics to add are of.
        found: String,
    },

    /// A part of the statistics was added a second time.
    #[error("part `{part}` of the statistics is already counted: add each part once")]
    CountedAlready {
        /// Name of the part.
        part: String,
    },
}
