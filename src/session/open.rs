//! Opening a session: its settings are checked and, in a directory, its journal is read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use faer::{Mat, Par};

use super::Session;
use super::builder::SessionBuilder;
use super::conflict::EditIndex;
use super::guard::Guards;
use super::identity::{self, Identity};
use super::journal::Journal;
use super::layer::Layer;
use super::method::{LayerStatistics, SessionMethod};
use super::open_error::OpenError;
use super::record::Record;
use super::report::Report;
use super::rest::{Lasting, Rest};
use super::store::{Recovery, Store};
use super::transaction::{self, guarded, guarded_editor};
use crate::adapter::Adapter;
use crate::editor::{Editor, Merging, Share};
use crate::error::{FileError, ModelError, NumericsError, Result, SessionError};
use crate::linalg::Need;
use crate::restraint::{Needs, Restraint};
use crate::scalar::Scalar;
use crate::util::atomic_file::io_error;
use crate::util::validate;

impl<M, R> SessionBuilder<M, R> {
    /// Opens the session. The model must be in its state before the first edit.
    ///
    /// If the directory holds a session, the model is brought to its state after the last confirmed batch: the last snapshot
    /// is loaded, and the batches since then are replayed from the journal. With an equal `par`, the result is equal bit for
    /// bit.
    ///
    /// # Errors
    /// [`OpenError`], which gives the adapter back. Its error is a [`SessionError::Setting`] for settings that contradict each
    /// other; a [`ModelError::UnknownLayer`] for a layer that the adapter does not have; a [`NumericsError`] for statistics of
    /// another size and hyperparameters outside their range; a [`FileError`] for a directory that cannot be written, that
    /// another process has open, whose session has another model, layers, statistics or hyperparameters (the error names the
    /// first difference), or whose journal is damaged (the error says where). The model is then unchanged, unless the adapter
    /// fails while edits are replayed.
    pub fn open<A: Adapter>(mut self, adapter: A, par: Par) -> Result<Session<A, M::Editor>, OpenError<A>>
    where
        M: SessionMethod<A::Scalar> + 'static,
        R: Restraint<A::Scalar> + 'static,
    {
        let Prepared { layers, share, stored } = match self.prepared(&adapter, par) {
            Ok(prepared) => prepared,
            Err(error) => return Err(OpenError::new(error, adapter)),
        };
        let StoredParts { journal, store, index, recovery } = stored;
        let mut session = Session {
            adapter,
            layers,
            share,
            merges: self.method.merging() != Merging::Never,
            method: Box::new(self.method),
            guards: self.guards,
            policy: self.policy,
            near: self.near,
            store,
            journal,
            processed_before: index.len(),
            index,
            observer: self.observer,
            report: Report::default(),
            snapshot_every: self.snapshot_every,
            since_snapshot: 0,
            snapshot_failure: None,
            recovery,
            rest_in: self.rest_in,
            broken: None,
            started: Instant::now(),
            par,
        };
        session.sweep();
        if session.recovery.resumed
            && let Err(error) = guarded_editor(|| session.recover())
        {
            return Err(OpenError::new(error, session.adapter));
        }
        Ok(session)
    }

    /// Everything of a session but the adapter.
    fn prepared<A: Adapter>(&mut self, adapter: &A, par: Par) -> Result<Prepared<A::Scalar, M::Editor>>
    where
        M: SessionMethod<A::Scalar>,
        R: Restraint<A::Scalar> + 'static,
    {
        let restraint = self.restraint.take().map(|restraint| Arc::new(restraint) as Arc<dyn Restraint<A::Scalar>>);
        self.check(restraint.as_deref())?;
        for (number, keys) in std::mem::take(&mut self.random_keys) {
            let known = self.layers.iter().map(|layer| layer.layer).collect();
            let layer = self.layers.iter_mut().find(|layer| layer.layer == number);
            layer.ok_or(ModelError::UnknownLayer { layer: number, known })?.random_keys = Some(keys);
        }
        for (number, gradients) in std::mem::take(&mut self.gradients) {
            let known = self.layers.iter().map(|layer| layer.layer).collect();
            let layer = self.layers.iter_mut().find(|layer| layer.layer == number);
            layer.ok_or(ModelError::UnknownLayer { layer: number, known })?.gradients = Some(gradients);
        }
        let share = self.share.unwrap_or(self.method.share());
        let identity = Identity {
            model: guarded(|| Ok(adapter.fingerprint()))?,
            method: &self.method,
            share,
            gauged: self.gauged,
            restraint: restraint.as_ref().map(|restraint| (restraint.description(), restraint.first_format())),
            statistics: identity::statistics(&self.layers)?,
        };
        let mut layers = self.first_layers(adapter, restraint.as_ref(), par)?;
        let stored = match &self.directory {
            None => StoredParts::in_memory(&layers, &identity)?,
            Some(path) => StoredParts::in_directory(path, &layers, &identity)?,
        };
        layers.iter_mut().for_each(Layer::forget_before);
        Ok(Prepared { layers, share, stored })
    }

    /// Checks the settings that do not depend on the model.
    fn check<T: Scalar>(&self, restraint: Option<&dyn Restraint<T>>) -> Result<()> {
        self.guards.check()?;
        if self.layers.is_empty() {
            return setting("layers", "names none: add the layers to edit with `layer`");
        }
        if let Some(pair) = self.layers.windows(2).find(|pair| pair[0].layer >= pair[1].layer) {
            let [first, second] = [pair[0].layer, pair[1].layer];
            return setting("layers", format!("has {second} after {first}: add each once, in ascending order"));
        }
        if !(0.9..=1.0).contains(&self.near) {
            let (parameter, value) = ("parallel_from", self.near);
            return Err(NumericsError::Parameter { parameter, value, allowed: "0.9 to 1" }.into());
        }
        if self.snapshot_every == 0 {
            return Err(NumericsError::Parameter {
                parameter: "snapshot_every",
                value: 0.0,
                allowed: "at least 1 edit",
            }
            .into());
        }
        let Guards { leakage, expected_loss, relative_drift, .. } = self.guards;
        if !self.gauged && [leakage, expected_loss, relative_drift].iter().any(Option::is_some) {
            let problem = "limits leakage, expected loss or drift, which are not measured: leave out `without_gauges`";
            return setting("guards", problem);
        }
        let has_gradients = |layer: &LayerStatistics| self.gradients.iter().any(|(number, _)| *number == layer.layer);
        if let (Some(_), Some(layer)) = (expected_loss, self.layers.iter().find(|layer| !has_gradients(layer))) {
            let problem = format!("limits the expected loss, but there are no gradients of layer {}", layer.layer);
            return setting("guards", format!("{problem}: add them with `gradients`"));
        }
        if let Some(restraint) = restraint {
            restraint.check()?;
            if restraint.needs() == Needs::Total && !self.gauged {
                return setting("restraint", "needs the total change: leave out `without_gauges`");
            }
        }
        Ok(())
    }

    /// The layers of the unedited model.
    fn first_layers<A: Adapter>(
        &self,
        adapter: &A,
        restraint: Option<&Arc<dyn Restraint<A::Scalar>>>,
        par: Par,
    ) -> Result<Vec<Layer<A::Scalar, M::Editor>>>
    where
        M: SessionMethod<A::Scalar>,
    {
        let known = guarded(|| Ok(adapter.layers().to_vec()))?;
        let layer = |statistics: &LayerStatistics| -> Result<_> {
            if !known.contains(&statistics.layer) {
                return Err(ModelError::UnknownLayer { layer: statistics.layer, known: known.clone() }.into());
            }
            let (d_out, d_in) = guarded(|| adapter.weight_shape(statistics.layer))?;
            let found = statistics.statistics.d_in();
            if found != d_in {
                let (expected, found) = ((d_in, d_in).into(), (found, found).into());
                return Err(NumericsError::Shape { argument: "statistics", expected, found }.into());
            }
            let need = Need::new("a weight of the adapter", d_out, d_in).matrix::<A::Scalar>(d_out, d_in);
            let mut weight: Mat<A::Scalar> = need.zeros(d_out, d_in)?;
            guarded(|| adapter.read_weight(statistics.layer, weight.as_mut()))?;
            validate::finite("the adapter's weight", weight.as_ref())?;
            let editor = self.method.layer_editor(statistics, par)?;
            let any_key = Mat::<A::Scalar>::identity(d_in, 1);
            if self.guards.stability.is_some() && editor.stability(any_key.as_ref())?.is_none() {
                return setting(
                    "guards",
                    format!(
                        "limits the stability of keys, which the editor `{}` does not measure: remove that limit",
                        editor.name()
                    ),
                );
            }
            let mut layer = Layer::new(statistics.clone(), editor, weight, self.gauged, restraint.cloned(), par)?;
            layer.rest = self.rest_in.as_deref().map(|directory| Rest::new(directory, Lasting::Always)).transpose()?;
            layer.lie_down();
            Ok(layer)
        };
        self.layers.iter().map(layer).collect()
    }
}

/// The error of a setting.
fn setting<T>(setting: &'static str, problem: impl Into<String>) -> Result<T> {
    Err(SessionError::Setting { setting, problem: problem.into() }.into())
}

/// Everything of a session but the adapter.
struct Prepared<T: Scalar, E> {
    layers: Vec<Layer<T, E>>,
    share: Share,
    stored: StoredParts<T>,
}

/// The stored parts of a session, found or created.
struct StoredParts<T: Scalar> {
    journal: Journal,
    store: Store<T>,
    index: EditIndex,
    recovery: Recovery,
}

impl<T: Scalar> StoredParts<T> {
    fn in_memory<M: SessionMethod<T>>(layers: &[Layer<T, M::Editor>], identity: &Identity<'_, M>) -> Result<Self> {
        let base = layers.iter().map(|layer| layer.before.clone()).collect();
        let store = Store::Memory { base, derived: BTreeMap::new() };
        Self::begun(Journal::in_memory(), store, &identity.written::<T>())
    }

    /// A new session. Its description is the first record.
    fn begun(mut journal: Journal, store: Store<T>, description: &str) -> Result<Self> {
        let record = Record::<T>::Description(description.to_owned());
        journal.append(record.kind(), &record.encode())?;
        Ok(Self { journal, store, index: EditIndex::default(), recovery: Recovery::default() })
    }

    fn in_directory<M: SessionMethod<T>>(
        path: &Path,
        layers: &[Layer<T, M::Editor>],
        identity: &Identity<'_, M>,
    ) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(io_error(path))?;
        let at = Store::<T>::journal_path(path);
        if at.exists() {
            return Self::resumed(path, at, layers, identity);
        }
        if let Some(other) = Store::<T>::leftover(path) {
            let problem = "there is no journal beside it: restore the journal, or use another directory".into();
            return Err(FileError::Format { path: other, problem }.into());
        }
        let description = identity.written::<T>();
        let store = Store::in_directory(path, &description);
        store.write_base(layers)?;
        Self::begun(Journal::create(&at)?, store, &description)
    }

    fn resumed<M: SessionMethod<T>>(
        path: &Path,
        at: PathBuf,
        layers: &[Layer<T, M::Editor>],
        identity: &Identity<'_, M>,
    ) -> Result<Self> {
        let shapes: Vec<_> = layers.iter().map(Layer::shape).collect();
        let (mut index, mut recovery) = (EditIndex::default(), Recovery::default());
        let mut description = None;
        let visit = |place, kind, payload: &[u8]| -> Result<()> {
            let record = Record::<T>::decode(kind, payload, &shapes).map_err(io_error(&at))?;
            match record {
                Record::Description(there) => {
                    identity.check::<T>(&at, &there)?;
                    description = Some(there);
                }
                record if record.first().is_some_and(|first| first != index.len()) => {
                    let problem = "its batches are out of order".into();
                    return Err(FileError::Format { path: at.clone(), problem }.into());
                }
                record => {
                    recovery.resumed = true;
                    transaction::enter(&mut index, place, &record);
                }
            }
            Ok(())
        };
        let (journal, dropped) = Journal::open(&at, visit)?;
        recovery.dropped_bytes = dropped;
        // Without records, the process was killed before the description was on the disk.
        let description = description.unwrap_or_else(|| identity.written::<T>());
        let store = Store::in_directory(path, &description);
        if journal.is_empty() {
            return Ok(Self { recovery, ..Self::begun(journal, store, &description)? });
        }
        Ok(Self { journal, store, index, recovery })
    }
}
