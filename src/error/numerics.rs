//! What can go wrong with numbers: matrices, settings, the engine, editors.

use std::fmt;

use super::shown::{Bytes, Causes, Short};

/// `Result` of the functions that only compute.
pub type Result<T, E = NumericsError> = std::result::Result<T, E>;

/// Rows and columns of a matrix, for error messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.rows, self.cols)
    }
}

impl From<(usize, usize)> for Shape {
    fn from((rows, cols): (usize, usize)) -> Self {
        Self { rows, cols }
    }
}

/// What can go wrong with matrices, settings, the engine and editors.
///
/// A function that returns an error has changed nothing: neither its arguments nor the state behind `&mut self`. The
/// one exception is [`Editor::edit`](crate::Editor::edit): it keeps a refresh that was due, even if the edit itself
/// fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NumericsError {
    /// A matrix has the wrong shape.
    #[error("`{argument}` is {found}, expected {}", expectation(*expected, *found))]
    Shape {
        /// Name of the argument.
        argument: &'static str,
        /// The shape that the other arguments require.
        expected: Shape,
        /// The shape that was given.
        found: Shape,
    },

    /// A list, a matrix or statistics that must not be empty are empty.
    #[error("`{argument}` is empty: give at least one {item}")]
    Empty {
        /// Name of the argument.
        argument: &'static str,
        /// The kind of item that is missing, such as `key`.
        item: &'static str,
    },

    /// An input holds a NaN or an infinity.
    #[error("`{argument}` holds {value} at row {row}, column {col} (from 0): every entry must be finite")]
    NonFinite {
        /// Name of the argument.
        argument: &'static str,
        /// Row of the first such entry, from 0.
        row: usize,
        /// Column of the first such entry, from 0.
        col: usize,
        /// The entry.
        value: f64,
    },

    /// Finite inputs led to a result beyond the range of the number type.
    #[error("{step} left the range of {scalar}: {}", overflow_advice(scalar))]
    Overflow {
        /// The computation that overflowed.
        step: &'static str,
        /// The number type: `f32`, `f64`, or the type of a stored weight.
        scalar: &'static str,
    },

    /// A number is outside its allowed range.
    #[error("`{parameter}` is {}; allowed: {allowed}", Short(*value))]
    Parameter {
        /// Name of the parameter.
        parameter: &'static str,
        /// The value that was given.
        value: f64,
        /// The values that are allowed, in words.
        allowed: &'static str,
    },

    /// An unknown name, for example of a method or a setting.
    #[error("unknown {kind} `{name}`; choose one of: {known}")]
    UnknownName {
        /// The kind of thing that the name stands for.
        kind: &'static str,
        /// The name that was given.
        name: String,
        /// The known names, separated by commas.
        known: String,
    },

    /// A matrix that must be symmetric is not.
    #[error(
        "`{argument}` is not symmetric: entries ({row}, {col}) and ({col}, {row}), counted from 0, differ by {}, which is \
         more than rounding; pass the symmetric matrix itself, not a triangle or a factor of it",
        Short(*difference)
    )]
    NotSymmetric {
        /// Name of the argument.
        argument: &'static str,
        /// Row of the worst pair.
        row: usize,
        /// Column of the worst pair.
        col: usize,
        /// Absolute difference of the pair.
        difference: f64,
    },

    /// Statistics have a clearly negative eigenvalue.
    #[error(
        "`{argument}` is not positive semidefinite: its smallest eigenvalue is {}, its largest {}; a second moment has no \
         negative eigenvalues, so the statistics are damaged or are not a second moment",
        Short(*smallest),
        Short(*largest)
    )]
    NotPositiveSemidefinite {
        /// Name of the argument.
        argument: &'static str,
        /// The smallest eigenvalue.
        smallest: f64,
        /// The largest eigenvalue.
        largest: f64,
    },

    /// A matrix passed as a mean looks like a sum, or the reverse.
    #[error(
        "`{argument}` does not look like {claimed}: it implies keys of mean squared norm {}, but the witness keys have {}; \
         {advice}",
        Short(*implied),
        Short(*witnessed)
    )]
    Scale {
        /// Name of the argument.
        argument: &'static str,
        /// What the caller claims the matrix is.
        claimed: &'static str,
        /// Mean squared key norm if the claim were true (the trace).
        implied: f64,
        /// Mean squared norm of the witness keys.
        witnessed: f64,
        /// What to do.
        advice: &'static str,
    },

    /// The spectrum belongs to other statistics than the moment beside it.
    #[error(
        "the spectrum is not that of the second moment: they differ by {difference:.1e} of the largest eigenvalue; \
         give the spectrum of this moment, or decompose it again"
    )]
    ForeignSpectrum {
        /// `|C x - U diag(s) Uᵀ x| / (s_max |x|)` for one vector `x`.
        difference: f64,
    },

    /// Statistics without a token count cannot be merged or extended.
    #[error(
        "the token count of `{argument}` is unknown, so nothing can be added to it, removed from it or merged with it: \
         use statistics with a count"
    )]
    UnknownTokenCount {
        /// Name of the statistics without a count.
        argument: &'static str,
    },

    /// The threshold leaves no direction to edit in.
    #[error(
        "the projector keeps no direction: the threshold is {}, the smallest eigenvalue {}; use a larger threshold, or, \
         if past edits have filled the space, a smaller refresh weight, or `stop_refreshing` (outside of a session)",
        Short(*threshold),
        Short(*smallest)
    )]
    NothingKept {
        /// The threshold, as an absolute eigenvalue.
        threshold: f64,
        /// The smallest eigenvalue of the protected matrix.
        smallest: f64,
    },

    /// The edits have used up every direction that may be edited.
    #[error(
        "no direction is left to edit after {edits} edits: all {first} initial directions are protected; start over with \
         a larger threshold or a smaller refresh weight, or, outside of a session, call `stop_refreshing` while there is room"
    )]
    CapacityExhausted {
        /// Edits committed.
        edits: usize,
        /// Directions that could be edited at the start.
        first: usize,
    },

    /// A matrix that must be inverted is singular to working precision.
    #[error("{step}: the matrix is singular to working precision{}; {advice}", at_pivot(*pivot))]
    Singular {
        /// The computation that needed the inverse.
        step: &'static str,
        /// The row and column at which the factorisation failed, from 0; in the small system of a batch, the index of
        /// the key. `None` if the matrix was refused for another reason.
        pivot: Option<usize>,
        /// What to change.
        advice: &'static str,
    },

    /// An eigendecomposition failed its verification.
    #[error(
        "the decomposition of `{argument}` failed the check of the {check}: found {}, allowed {}; the matrix may span too \
         many orders of magnitude",
        Short(*measured),
        Short(*allowed)
    )]
    Decomposition {
        /// Name of the matrix.
        argument: &'static str,
        /// The property that was checked.
        check: &'static str,
        /// The measured error.
        measured: f64,
        /// The largest error that passes.
        allowed: f64,
    },

    /// A list that must ascend does not.
    #[error("`{argument}` must ascend: entry {index} (from 0) is {value}, the next is {next}; sort the pairs first")]
    Unsorted {
        /// Name of the argument.
        argument: &'static str,
        /// Index of the first entry above its successor, from 0.
        index: usize,
        /// That entry.
        value: f64,
        /// Its successor.
        next: f64,
    },

    /// The columns of a matrix that must be orthonormal are not.
    #[error(
        "the columns of `{argument}` are not orthonormal: the error is {}, allowed {}; give eigenvectors of length one, \
         one in each column",
        Short(*error),
        Short(*allowed)
    )]
    NotOrthonormal {
        /// Name of the argument.
        argument: &'static str,
        /// The measured error, relative.
        error: f64,
        /// The largest error that passes.
        allowed: f64,
    },

    /// A proposal was committed to an editor whose state has changed since, or to another editor.
    #[error("the proposal or solution is not from this editor or engine in its present state: compute it again")]
    StaleProposal,

    /// A projector refresh is due before the next proposal.
    #[error(
        "a projector refresh is due after {edits} edits: call `refresh_if_due` first, or use `edit`, which calls it"
    )]
    RefreshDue {
        /// Edits committed so far.
        edits: usize,
    },

    /// The operation is not supported by this editor, or by this combination of settings.
    #[error("not supported: {what}")]
    Unsupported {
        /// The operation, and what to do instead.
        what: String,
    },

    /// An edit cannot be removed from a history that has shaped the projector.
    #[error(
        "the edit's key has shaped the projector, so the edit cannot be removed from the history: replay the other edits \
         from the start (a session's `undo` does this)"
    )]
    HistoryInProjector,

    /// An edit cannot be removed from an editor in which later edits depend on it.
    #[error(
        "later edits of this method depend on earlier ones, so an edit cannot be removed on its own: replay the other \
         edits from the start (a session's `undo` does this)"
    )]
    NotReversible,

    /// A sample to forget is not among those that were fitted.
    #[error(
        "sample {sample} is not in the regression: it was never fitted, was already forgotten, or is named twice; forget each \
         fitted sample once"
    )]
    NotFitted {
        /// The number of the sample, or its column among the samples that were given.
        sample: u64,
    },

    /// Not enough memory.
    #[error("not enough memory: {purpose} of size {size} needs {}", Bytes(*bytes))]
    OutOfMemory {
        /// The operation, or the value that it makes.
        purpose: &'static str,
        /// The size of that.
        size: Shape,
        /// Bytes that it needs in all; `usize::MAX` if that is more than can be addressed.
        bytes: usize,
    },

    /// A watched computation was stopped.
    #[error("cancelled: the function that watches the computation stopped it")]
    Cancelled,

    /// An editor outside this crate failed for reasons of its own.
    #[error("the editor failed: {}", Causes(&**_0))]
    Editor(Box<dyn std::error::Error + Send + Sync>),

    /// What was put away on disk, to save memory, cannot be read or written.
    #[error("what was put away on disk cannot be had: {_0}")]
    AtRest(std::io::Error),
}

/// What was expected, without a dimension that is right anyway.
fn expectation(expected: Shape, found: Shape) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let turned = if found.cols == expected.rows && found.rows != found.cols { ": is it transposed?" } else { "" };
    match (expected.rows == found.rows, expected.cols == found.cols) {
        (false, true) => format!("{}{turned}", count(expected.rows, "row")),
        (true, false) => format!("{}{turned}", count(expected.cols, "column")),
        _ => format!("{expected}{turned}"),
    }
}

fn overflow_advice(scalar: &str) -> &'static str {
    match scalar {
        "f32" => "rescale the keys and residuals, or use f64",
        "f16" => "rescale the keys and residuals, or store the weight as bf16 or f32",
        _ => "rescale the keys and residuals",
    }
}

fn at_pivot(pivot: Option<usize>) -> String {
    pivot.map(|pivot| format!(" (at pivot {pivot})")).unwrap_or_default()
}
