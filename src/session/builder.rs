//! The settings of a session.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use faer::Mat;

use super::conflict::ConflictPolicy;
use super::guard::Guards;
use super::method::LayerStatistics;
use super::observer::Observer;
use crate::editor::Share;
use crate::key_statistics::KeyStatistics;
use crate::restraint::KnownRestraint;
use crate::second_moment::SecondMoment;

/// Sets up and opens a [`Session`](super::Session).
///
/// `M` is a [`SessionMethod`](super::SessionMethod): any [`Method`](crate::Method), or one of your own. `R` is a
/// [`Restraint`](crate::restraint::Restraint), if there is one.
#[must_use]
pub struct SessionBuilder<M, R = KnownRestraint> {
    pub(super) method: M,
    pub(super) share: Option<Share>,
    pub(super) restraint: Option<R>,
    pub(super) layers: Vec<LayerStatistics>,
    pub(super) random_keys: Vec<(usize, Arc<Mat<f64>>)>,
    pub(super) gradients: Vec<(usize, Arc<SecondMoment>)>,
    pub(super) guards: Guards,
    pub(super) policy: ConflictPolicy,
    pub(super) near: f64,
    pub(super) gauged: bool,
    pub(super) directory: Option<PathBuf>,
    pub(super) rest_in: Option<PathBuf>,
    pub(super) snapshot_every: usize,
    pub(super) observer: Box<dyn Observer>,
}

impl<M> SessionBuilder<M> {
    /// A session without layers.
    ///
    /// * `method`: supplies the editor of each layer, for example [`BetaEdit`](crate::BetaEdit)
    pub fn new(method: M) -> Self {
        Self {
            method,
            share: None,
            restraint: None,
            layers: Vec::new(),
            random_keys: Vec::new(),
            gradients: Vec::new(),
            guards: Guards::default(),
            policy: ConflictPolicy::default(),
            near: 0.99,
            gauged: true,
            directory: None,
            rest_in: None,
            snapshot_every: 1000,
            observer: Box::new(()),
        }
    }
}

impl<M, R> SessionBuilder<M, R> {
    /// Adds a layer to edit, with the statistics of its keys. Layers are added in ascending order.
    pub fn layer(mut self, number: usize, statistics: KeyStatistics) -> Self {
        self.layers.push(LayerStatistics::new(number, statistics));
        self
    }

    /// Keys of other facts, from which methods with [`History::Random`](crate::editor::History::Random) draw at a layer.
    ///
    /// * `keys`: `d_in x m`
    pub fn random_keys(mut self, layer: usize, keys: Arc<Mat<f64>>) -> Self {
        self.random_keys.push((layer, keys));
        self
    }

    /// The second moment of the gradients of the loss by a layer's output, for the gauge of the
    /// [expected loss](crate::metrics::expected_loss).
    ///
    /// * `gradients`: `d_out x d_out`
    pub fn gradients(mut self, layer: usize, gradients: Arc<SecondMoment>) -> Self {
        self.gradients.push((layer, gradients));
        self
    }

    /// Restrains every update before it is applied; the layers above see the restrained update. `Prune` needs the gauges.
    ///
    /// The exact undo of a method does not hold for restrained updates, so an undo replays the other edits from the start.
    ///
    /// * `restraint`: a [`Restraint`](crate::restraint::Restraint) of this crate or of your own
    pub fn restraint<Q>(self, restraint: Q) -> SessionBuilder<M, Q> {
        SessionBuilder {
            restraint: Some(restraint),
            method: self.method,
            share: self.share,
            layers: self.layers,
            random_keys: self.random_keys,
            gradients: self.gradients,
            guards: self.guards,
            policy: self.policy,
            near: self.near,
            gauged: self.gauged,
            directory: self.directory,
            rest_in: self.rest_in,
            snapshot_every: self.snapshot_every,
            observer: self.observer,
        }
    }

    /// Sets how residuals are divided among the layers. The default is the method's own rule.
    pub fn share(mut self, share: Share) -> Self {
        self.share = Some(share);
        self
    }

    /// Sets limits on what a batch may do.
    pub fn guards(mut self, guards: Guards) -> Self {
        self.guards = guards;
        self
    }

    /// Sets what to do about edits that contradict each other.
    pub fn conflicts(mut self, policy: ConflictPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the cosine from which two keys count as nearly parallel, 0.9 to 1. Default: 0.99.
    pub fn parallel_from(mut self, cosine: f64) -> Self {
        self.near = cosine;
        self
    }

    /// Turns the gauges off: leakage, expected loss and drift are not measured. Measuring them takes about as long as the edit, and needs
    /// an `f64` matrix of the weight's size for each layer.
    pub fn without_gauges(mut self) -> Self {
        self.gauged = false;
        self
    }

    /// Keeps the session in a directory: journal, first weights, snapshots. If the directory holds a session, it is continued.
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// Keeps one layer in memory at a time. Between its turns, what is large of a layer lies in a file without a name, which is gone with
    /// the process: the editor's matrices and the total change, `4 d_in² + 8 d_out d_in` bytes and more. The numbers are the same to the
    /// last bit. An edit reads each layer twice and writes it once.
    ///
    /// Statistics are put away by [`KeyStatistics::at_rest`].
    ///
    /// * `directory`: of the files, for example the session's own
    pub fn layers_at_rest(mut self, directory: impl Into<PathBuf>) -> Self {
        self.rest_in = Some(directory.into());
        self
    }

    /// Sets the number of edits between snapshots. Default: 1000. Opening a session replays only the edits since the last
    /// snapshot. Writing a snapshot takes as long as writing all weights and states. An editor that cannot be saved has no
    /// snapshots, and all edits are replayed.
    pub fn snapshot_every(mut self, edits: usize) -> Self {
        self.snapshot_every = edits;
        self
    }

    /// Sets what is called with the outcome of every batch: an [`Observer`], or a closure that takes the outcome and the
    /// progress.
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.observer = Box::new(observer);
        self
    }
}

impl<M: fmt::Debug, R: fmt::Debug> fmt::Debug for SessionBuilder<M, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder")
            .field("method", &self.method)
            .field("layers", &self.layers)
            .field("restraint", &self.restraint)
            .field("guards", &self.guards)
            .field("conflicts", &self.policy)
            .field("directory", &self.directory)
            .field("snapshot_every", &self.snapshot_every)
            .finish_non_exhaustive()
    }
}
