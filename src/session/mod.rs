//! Sessions: edits of many layers, one transaction per batch, with undo and recovery after a crash.
//!
//! A [`Session`] edits a model through an [`Adapter`], layer by layer in ascending order, with one editor per layer. The keys of
//! a layer are computed on the model as edited so far. A batch of requests is applied as a whole or not at all: if a guard, the
//! adapter (also by a panic) or the disk fails, every weight and every editor stays as it was, bit for bit. In a directory, a
//! session writes every batch to a journal before it counts, and continues from there after a crash.
//!
//! ```text
//! request -> keys, residuals (adapter) -> conflicts -> propose, guard, apply, layer by layer -> journal -> commit
//! ```
//!
//! # Examples
//! ```no_run
//! use betaedit_core::{BetaEdit, KeyStatistics, adapter::RecordedStream, faer::Par, session::SessionBuilder};
//!
//! let stream = RecordedStream::<f64>::open("stream.safetensors", Par::Seq)?;
//! let statistics = KeyStatistics::new(stream.second_moment().clone(), Par::Seq)?;
//! let mut session = SessionBuilder::new(BetaEdit::default())
//!     .layer(0, statistics)
//!     .directory("run-1") // continues an earlier run, if there is one
//!     .snapshot_every(1000)
//!     .open(stream, Par::Seq)?;
//! for request in session.processed()..100 {
//!     let applied = session.edit(&[request as usize])?.applied()?; // a rejected batch is an error here
//!     println!("{:.0} % written", 100.0 * applied.layers[0].written_share);
//! }
//! session.undo(&[17.into()])?;
//! # Ok::<(), betaedit_core::Error>(())
//! ```

mod asked_columns;
mod awake;
mod builder;
mod conflict;
mod consolidate;
mod first_format;
mod guard;
mod id;
mod identity;
mod journal;
mod layer;
mod method;
mod observer;
mod open;
mod open_error;
mod outcome;
mod record;
mod replay;
mod report;
mod rest;
mod settle;
mod store;
mod transaction;
mod undo;

pub use builder::SessionBuilder;
pub use conflict::{Conflict, ConflictPolicy};
pub use consolidate::{Consolidated, Consolidation, Targets};
pub use guard::{Guard, Guards, Violation};
pub use id::EditId;
pub use layer::LayerOutcome;
pub use method::{LayerStatistics, SessionMethod};
pub use observer::{ConsolidationStep, JsonLines, LayerStep, Observer, Progress, ProgressLine};
pub use open_error::OpenError;
pub use outcome::{Applied, Outcome, Rejection, Undone};
pub use report::{Point, Report};
pub use store::Recovery;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use faer::Par;

use crate::adapter::Adapter;
use crate::editor::{ClosedFormEditor, Editor, EditorState, Share};
use crate::error::{Error, Result, SessionError};
use crate::metrics::Gauges;

use conflict::EditIndex;
use journal::Journal;
use layer::Layer;
use store::Store;

/// Edits the layers of one model through an adapter. See the [module](self).
///
/// # Memory
/// Per layer: an editor, a copy of the weight from before the current batch, and, with the gauges on, the total update in
/// `f64`; or one layer at a time, see [`SessionBuilder::layers_at_rest`]. Per request: one to two hundred bytes of index, and the request as the adapter encodes it. Everything else is in the journal. A session without a directory
/// keeps the journal and the first weights in memory.
pub struct Session<A: Adapter, E = ClosedFormEditor<<A as Adapter>::Scalar>> {
    adapter: A,
    layers: Vec<Layer<A::Scalar, E>>,
    method: Box<dyn SessionMethod<A::Scalar, Editor = E>>,
    share: Share,
    /// Whether the method merges requests of a batch.
    merges: bool,
    guards: Guards,
    policy: ConflictPolicy,
    near: f64,
    store: Store<A::Scalar>,
    journal: Journal,
    index: EditIndex,
    observer: Box<dyn Observer>,
    report: Report,
    /// Edits between snapshots, and edits since the last one.
    snapshot_every: usize,
    since_snapshot: usize,
    snapshot_failure: Option<Error>,
    recovery: Recovery,
    /// Where the matrices of layers at rest are, if layers rest.
    rest_in: Option<PathBuf>,
    /// Requests seen before the session was opened.
    processed_before: u64,
    /// Why the session cannot continue: a weight could not be restored.
    broken: Option<String>,
    started: Instant,
    par: Par,
}

impl<A: Adapter, E: Editor<A::Scalar> + Clone> Session<A, E> {
    /// The number of requests seen so far, applied or rejected. It is also the number of the next request.
    #[must_use]
    pub fn processed(&self) -> u64 {
        self.index.len()
    }

    /// The number of edits that are in the model.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.index.applied()
    }

    /// The adapter, with the model as edited so far.
    #[must_use]
    pub fn adapter(&self) -> &A {
        &self.adapter
    }

    /// The adapter, for example to ask the model something or to change its settings. Leave the edited weights alone: the session
    /// reads them before every batch and takes what it finds for its own, but gauges, undo and recovery do not know of such a
    /// change.
    pub fn adapter_mut(&mut self) -> &mut A {
        &mut self.adapter
    }

    /// Ends the session and returns the adapter. The files in the session's directory stay.
    #[must_use]
    pub fn into_adapter(self) -> A {
        self.adapter
    }

    /// What opening the directory found and did.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The states of the editors, layer by layer.
    pub fn states(&self) -> impl Iterator<Item = (usize, EditorState)> + '_ {
        self.layers.iter().map(|layer| (layer.number, layer.editor.state()))
    }

    /// The leakage, expected loss and drift of a layer's total update. `None` for a layer that the session does not edit, or with the gauges
    /// off.
    #[must_use]
    pub fn gauges(&self, layer: usize) -> Option<Gauges> {
        self.layers.iter().find(|one| one.number == layer)?.gauges()
    }

    /// The expected loss of all edits in the model, nats a token: the sum over the layers. `None` if it is not measured at each.
    #[must_use]
    pub fn expected_loss(&self) -> Option<f64> {
        self.layers.iter().map(|layer| layer.gauges()?.expected_loss).sum()
    }

    /// The editor of a layer; `None` for a layer that the session does not edit. Where [layers rest](SessionBuilder::layers_at_rest), most
    /// of what it could do is an error.
    #[must_use]
    pub fn editor(&self, layer: usize) -> Option<&E> {
        self.layers.iter().find(|one| one.number == layer).map(|layer| &layer.editor)
    }

    /// Counts and curves of the run so far.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// A copy of the sum of all updates of a layer, `d_out x d_in`. `None` for a layer that the session does not edit, or with the gauges
    /// off.
    ///
    /// # Errors
    /// A layer [at rest](SessionBuilder::layers_at_rest) that cannot be read.
    pub fn total(&self, layer: usize) -> Result<Option<faer::Mat<f64>>> {
        self.layers.iter().find(|one| one.number == layer).map_or(Ok(None), Layer::total)
    }

    /// Puts the editors' matrices and the total changes on disk until they are needed again, in files without names that are gone with the
    /// process: for work between edits that needs memory, such as a measurement of the model. Everything is the same to the last bit
    /// afterwards. What cannot be written stays in memory, as does everything of layers that [rest](SessionBuilder::layers_at_rest) anyway.
    ///
    /// Cost: all of it is written once, and each layer is read once at its next turn.
    ///
    /// * `directory`: of the files, for example the session's own
    ///
    /// # Errors
    /// A directory in which no file can be made.
    pub fn put_away(&mut self, directory: impl AsRef<Path>) -> Result<()> {
        self.layers.iter_mut().try_for_each(|layer| layer.lie_down_once(directory.as_ref()))
    }

    /// Why the last snapshot could not be written, if it failed. No edit is lost: the journal has every batch. The session tries
    /// again when the next snapshot is due.
    #[must_use]
    pub fn snapshot_failure(&self) -> Option<&Error> {
        self.snapshot_failure.as_ref()
    }

    /// Whether an edit is in the model: applied, and not undone or replaced since.
    #[must_use]
    pub fn holds(&self, id: EditId) -> bool {
        self.index.is_applied(id)
    }

    fn usable(&self) -> Result<()> {
        match &self.broken {
            None => Ok(()),
            Some(problem) => Err(SessionError::Broken { problem: problem.clone() }.into()),
        }
    }

    /// Runs `restore`, which brings model and editors to a known state. If it fails, the session is broken.
    fn restored<R>(&mut self, restore: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        restore(self).map_err(|error| {
            let problem = self.broken.insert(error.to_string()).clone();
            SessionError::Broken { problem }.into()
        })
    }
}

impl<A: Adapter, E: Editor<A::Scalar> + Clone> fmt::Debug for Session<A, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers: Vec<usize> = self.layers.iter().map(|layer| layer.number).collect();
        f.debug_struct("Session")
            .field("layers", &layers)
            .field("processed", &self.processed())
            .field("applied", &self.index.applied())
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}
