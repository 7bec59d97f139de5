//! How a session is set up and opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use faer::{Mat, Par};

use super::conflict::{ConflictPolicy, Index};
use super::guard::Guards;
use super::journal::Journal;
use super::layer::{Layer, Origin};
use super::observer::Observer;
use super::record::Record;
use super::report::Report;
use super::store::{Recovery, Store};
use super::{Session, transaction};
use crate::adapter::Adapter;
use crate::editor::{Merging, Recipe, Share};
use crate::error::{EditError, Result};
use crate::restraint::Restraint;
use crate::scalar::Scalar;
use crate::second_moment::SecondMoment;
use crate::spectrum::Spectrum;
use crate::util::atomic_file::io_error;
use crate::util::{bytes, validate};

/// What a [`Session`] is made of, and how it is opened.
pub struct SessionBuilder {
    name: &'static str,
    recipe: Recipe,
    restraint: Option<Restraint>,
    layers: Vec<(usize, Arc<SecondMoment>, Arc<Spectrum>)>,
    random_keys: Vec<(usize, Arc<Mat<f64>>)>,
    guards: Guards,
    policy: ConflictPolicy,
    near: f64,
    gauged: bool,
    directory: Option<PathBuf>,
    snapshot_every: usize,
    observer: Box<dyn Observer>,
}

impl SessionBuilder {
    /// A session without layers yet.
    ///
    /// * `name`: of the method, for reports
    /// * `recipe`: what every layer's editor runs, for example [`Method::recipe`](crate::Method::recipe)
    #[must_use]
    pub fn new(name: &'static str, recipe: Recipe) -> Self {
        Self {
            name,
            recipe,
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
    #[must_use]
    pub fn layer(mut self, number: usize, moment: Arc<SecondMoment>, spectrum: Arc<Spectrum>) -> Self {
        self.layers.push((number, moment, spectrum));
        self
    }

    /// Keys to draw from at a layer, for methods with [`History::Random`](crate::History::Random): those of other facts.
    ///
    /// * `keys`: `d_in x m`
    #[must_use]
    pub fn random_keys(mut self, layer: usize, keys: Arc<Mat<f64>>) -> Self {
        self.random_keys.push((layer, keys));
        self
    }

    /// Changes every update before it is applied, so that the layers above see what is left. `Prune` needs the gauges.
    ///
    /// What is proved of a method does not hold for what a restraint leaves of it, so an undo plays the other edits again from
    /// the start.
    #[must_use]
    pub fn restraint(mut self, restraint: impl Into<Restraint>) -> Self {
        self.restraint = Some(restraint.into());
        self
    }

    /// How residuals are divided among the layers, if not as the method does it.
    #[must_use]
    pub fn share(mut self, share: Share) -> Self {
        self.recipe.share = share;
        self
    }

    /// Limits that every batch has to keep.
    #[must_use]
    pub fn guards(mut self, guards: Guards) -> Self {
        self.guards = guards;
        self
    }

    /// What is done about edits that contradict each other.
    #[must_use]
    pub fn conflicts(mut self, policy: ConflictPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The cosine from which two keys count as nearly parallel, at least 0.9; 0.99 if not said.
    #[must_use]
    pub fn parallel_from(mut self, cosine: f64) -> Self {
        self.near = cosine;
        self
    }

    /// Does not measure leakage and drift, which cost about as much as the edit, and a matrix in `f64` of the weight's size.
    #[must_use]
    pub fn without_gauges(mut self) -> Self {
        self.gauged = false;
        self
    }

    /// Keeps the session in a directory: journal, first weights, snapshots. If there is one, it goes on.
    #[must_use]
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// Edits between snapshots, 1000 if not said. A snapshot takes as long as writing all weights and states, and saves as
    /// many edits from being done again when the session is opened.
    #[must_use]
    pub fn snapshot_every(mut self, edits: usize) -> Self {
        self.snapshot_every = edits;
        self
    }

    /// Who is told of every outcome.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.observer = Box::new(observer);
        self
    }

    /// Opens the session on a model that is as it was before the first edit.
    ///
    /// In a directory that holds a session, the model is brought to where it was after the last confirmed batch: from the
    /// last snapshot, with the batches since then done again from the journal. With an equal `par`, that is so bit for bit.
    ///
    /// # Errors
    /// Layers that the adapter does not have, statistics of another size, hyperparameters outside their range; a directory
    /// that cannot be written, whose session is of another model, layers, statistics or hyperparameters (the error names the
    /// difference), that another process has open, or whose journal is damaged (the error says where). The model is
    /// unchanged then, but for a failure of the adapter while it is brought forward.
    pub fn open<A: Adapter>(self, adapter: A, par: Par) -> Result<Session<A>> {
        self.guards.check()?;
        if self.layers.is_empty() {
            return Err(EditError::Empty { argument: "layers" });
        }
        if !(0.9..=1.0).contains(&self.near) {
            let (parameter, value) = ("the cosine of parallel keys", self.near);
            return Err(EditError::Parameter { parameter, value, allowed: "0.9 to 1" });
        }
        if self.snapshot_every == 0 {
            return Err(EditError::Parameter { parameter: "snapshot_every", value: 0.0, allowed: "at least 1 edit" });
        }
        if let Some(pair) = self.layers.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            let (parameter, value) = ("layers", pair[1].0 as f64);
            return Err(EditError::Parameter { parameter, value, allowed: "layers in ascending order, each once" });
        }
        if !self.gauged && (self.guards.leakage.is_some() || self.guards.relative_drift.is_some()) {
            let (parameter, value) = ("guards of leakage and drift", f64::NAN);
            return Err(EditError::Parameter { parameter, value, allowed: "with the gauges on" });
        }
        if let Some(restraint) = &self.restraint {
            restraint.check()?;
            if matches!(restraint, Restraint::Prune(_)) && !self.gauged {
                let (parameter, value) = ("restraint of the total change", f64::NAN);
                return Err(EditError::Parameter { parameter, value, allowed: "with the gauges on" });
            }
        }
        let known = |number: usize| self.layers.iter().any(|layer| layer.0 == number);
        if let Some(&(layer, _)) = self.random_keys.iter().find(|(number, _)| !known(*number)) {
            return Err(EditError::UnknownLayer { layer, known: self.layers.iter().map(|layer| layer.0).collect() });
        }
        let description = transaction::guarded(|| Ok(self.description(&adapter)))?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for (number, moment, spectrum) in self.layers {
            let (d_out, d_in) = transaction::guarded(|| adapter.weight_shape(number))?;
            validate::shape("spectrum", spectrum.vectors(), d_in, d_in)?;
            if moment.d_in() != d_in {
                let (expected, found) = ((d_in, d_in).into(), (moment.d_in(), moment.d_in()).into());
                return Err(EditError::Shape { argument: "moment", expected, found });
            }
            let mut weight = Mat::<A::Scalar>::zeros(d_out, d_in);
            transaction::guarded(|| adapter.read_weight(number, weight.as_mut()))?;
            validate::finite("the adapter's weight", weight.as_ref())?;
            // Merged are requests, once for all layers.
            let (name, recipe) = (self.name, Recipe { merging: Merging::Never, ..self.recipe });
            let random_keys = self.random_keys.iter().find(|(layer, _)| *layer == number).map(|(_, keys)| keys);
            let origin = Origin { name, recipe, moment, spectrum, random_keys: random_keys.cloned(), par };
            layers.push(Layer::new(number, origin, weight, self.gauged, self.restraint)?);
        }
        let shapes: Vec<_> = layers.iter().map(Layer::shape).collect();
        let fingerprint = *blake3::hash(description.as_bytes()).as_bytes();
        let store = match self.directory {
            None => Store::Memory { base: layers.iter().map(|layer| layer.before.clone()).collect() },
            Some(path) => Store::Directory { path, fingerprint },
        };
        let (mut index, mut recovery) = (Index::default(), Recovery::default());
        let described = Record::<A::Scalar>::Description(description.clone());
        let journal = match &store {
            Store::Memory { .. } => Journal::in_memory(),
            Store::Directory { path, .. } => {
                std::fs::create_dir_all(path).map_err(io_error(path))?;
                let at = Store::<A::Scalar>::journal_path(path);
                if at.exists() {
                    let visit = |place, kind, payload: &[u8]| {
                        let record = Record::<A::Scalar>::decode(kind, payload, &shapes).map_err(io_error(&at))?;
                        match record {
                            Record::Description(there) => same_session(&at, &there, &description),
                            record if record.first().is_some_and(|first| first != index.len()) => {
                                let problem = "its batches are out of order".into();
                                Err(EditError::Format { path: at.clone(), problem })
                            }
                            record => {
                                recovery.resumed = true;
                                transaction::enter(&mut index, place, &record);
                                Ok(())
                            }
                        }
                    };
                    let (journal, dropped) = Journal::open(&at, visit)?;
                    recovery.dropped_bytes = dropped;
                    journal
                } else if let Some(other) = store.leftover() {
                    let problem = "there is no journal beside it: restore the journal, or use another directory".into();
                    return Err(EditError::Format { path: other, problem });
                } else {
                    store.write_base(&layers)?;
                    Journal::create(&at)?
                }
            }
        };
        let mut session = Session {
            adapter,
            layers,
            share: self.recipe.share,
            merges: self.recipe.merging != Merging::Never,
            guards: self.guards,
            policy: self.policy,
            near: self.near,
            store,
            journal,
            index,
            observer: self.observer,
            report: Report::default(),
            snapshot_every: self.snapshot_every,
            since_snapshot: 0,
            snapshot_failure: None,
            recovery,
            processed_before: 0,
            broken: None,
            started: Instant::now(),
            par,
        };
        if session.journal.is_empty() {
            session.journal.append(described.kind(), &described.encode())?;
        }
        session.store.sweep();
        session.processed_before = session.processed();
        if session.recovery.resumed {
            session.recover()?;
        }
        Ok(session)
    }

    /// All that the numbers depend on, as lines of text.
    fn description<A: Adapter>(&self, adapter: &A) -> String {
        let mut lines = vec![
            "session format 1".to_owned(),
            format!("model: {}", adapter.fingerprint()),
            format!("numbers: {}", A::Scalar::NAME),
            format!("method: {} {:?}", self.name, self.recipe),
            format!("gauges: {}", self.gauged),
        ];
        lines.extend(self.restraint.map(|restraint| format!("restraint: {restraint:?}")));
        for (number, keys) in &self.random_keys {
            let mut hasher = blake3::Hasher::new();
            bytes::write_matrix(&mut hasher, keys.as_ref().as_ref()).expect("hashing does not fail");
            lines.push(format!("random keys of layer {number}: {}", &hasher.finalize().to_hex()[..16]));
        }
        for (number, moment, _) in &self.layers {
            let mut hasher = blake3::Hasher::new();
            moment.save(&mut hasher).expect("hashing does not fail");
            let hash = hasher.finalize().to_hex();
            lines.push(format!("layer {number}: {} inputs, statistics {}", moment.d_in(), &hash[..16]));
        }
        lines.join("\n")
    }
}

/// Refuses a session with another description; the first difference is in the error.
fn same_session(path: &std::path::Path, there: &str, here: &str) -> Result<()> {
    if there == here {
        return Ok(());
    }
    let (mut a, mut b) = (there.lines(), here.lines());
    let problem = loop {
        match (a.next(), b.next()) {
            (Some(a), Some(b)) if a == b => {}
            (a, b) => {
                let (a, b) = (a.unwrap_or("nothing"), b.unwrap_or("nothing"));
                break format!("the session there is another one: it has `{a}`, this one `{b}`; use another directory");
            }
        }
    };
    Err(EditError::Format { path: path.to_owned(), problem })
}
