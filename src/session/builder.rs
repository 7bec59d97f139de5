//! How a session is set up and opened.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use faer::Mat;

use super::conflict::ConflictPolicy;
use super::guard::Guards;
use super::method::LayerStatistics;
use super::observer::Observer;
use crate::editor::Share;
use crate::restraint::Restraint;
use crate::second_moment::SecondMoment;
use crate::spectrum::Spectrum;

/// What a [`Session`](super::Session) is made of, and how it is opened.
///
/// `M` is a [`SessionMethod`](super::SessionMethod): any [`Method`](crate::Method), or one of your own.
#[must_use]
pub struct SessionBuilder<M> {
    pub(super) method: M,
    pub(super) share: Option<Share>,
    pub(super) restraint: Option<Restraint>,
    pub(super) layers: Vec<LayerStatistics>,
    pub(super) random_keys: Vec<(usize, Arc<Mat<f64>>)>,
    pub(super) guards: Guards,
    pub(super) policy: ConflictPolicy,
    pub(super) near: f64,
    pub(super) gauged: bool,
    pub(super) directory: Option<PathBuf>,
    pub(super) snapshot_every: usize,
    pub(super) observer: Box<dyn Observer>,
}

impl<M> SessionBuilder<M> {
    /// A session without layers yet.
    ///
    /// * `method`: whose editors edit every layer, for example [`BetaEdit`](crate::BetaEdit)
    pub fn new(method: M) -> Self {
        Self {
            method,
            share: None,
            restraint: None,
            layers: Vec::new(),
            random_keys: Vec::new(),
            guards: Guards::default(),
            policy: ConflictPolicy::default(),
            near: 0.99,
            gauged: true,
            directory: None,
            snapshot_every: 1000,
            observer: Box::new(()),
        }
    }

    /// Edits a layer; layers are given in ascending order.
    ///
    /// * `moment`, `spectrum`: the statistics of the layer's keys, and their eigendecomposition
    pub fn layer(mut self, number: usize, moment: Arc<SecondMoment>, spectrum: Arc<Spectrum>) -> Self {
        self.layers.push(LayerStatistics::new(number, moment, spectrum));
        self
    }

    /// Keys to draw from at a layer, for methods with [`History::Random`](crate::editor::History::Random): those of other facts.
    ///
    /// * `keys`: `d_in x m`
    pub fn random_keys(mut self, layer: usize, keys: Arc<Mat<f64>>) -> Self {
        self.random_keys.push((layer, keys));
        self
    }

    /// Changes every update before it is applied, so that the layers above see what is left. `Prune` needs the gauges.
    ///
    /// What is proved of a method does not hold for what a restraint leaves of it, so an undo plays the other edits again from
    /// the start.
    pub fn restraint(mut self, restraint: impl Into<Restraint>) -> Self {
        self.restraint = Some(restraint.into());
        self
    }

    /// How residuals are divided among the layers, if not as the method does it.
    pub fn share(mut self, share: Share) -> Self {
        self.share = Some(share);
        self
    }

    /// Limits that every batch has to keep.
    pub fn guards(mut self, guards: Guards) -> Self {
        self.guards = guards;
        self
    }

    /// What is done about edits that contradict each other.
    pub fn conflicts(mut self, policy: ConflictPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The cosine from which two keys count as nearly parallel, at least 0.9; 0.99 if not said.
    pub fn parallel_from(mut self, cosine: f64) -> Self {
        self.near = cosine;
        self
    }

    /// Does not measure leakage and drift, which cost about as much as the edit, and a matrix in `f64` of the weight's size.
    pub fn without_gauges(mut self) -> Self {
        self.gauged = false;
        self
    }

    /// Keeps the session in a directory: journal, first weights, snapshots. If there is one, it goes on.
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// Edits between snapshots, 1000 if not said. A snapshot takes as long as writing all weights and states, and saves as
    /// many edits from being done again when the session is opened.
    pub fn snapshot_every(mut self, edits: usize) -> Self {
        self.snapshot_every = edits;
        self
    }

    /// Who is told of every outcome.
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.observer = Box::new(observer);
        self
    }
}

impl<M: fmt::Debug> fmt::Debug for SessionBuilder<M> {
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
