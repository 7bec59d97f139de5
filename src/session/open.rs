//! Opening a session: its settings are checked and, in a directory, its journal is read.

use std::path::{Path, PathBuf};
use std::time::Instant;

use faer::{Mat, Par};

use super::Session;
use super::builder::SessionBuilder;
use super::conflict::EditIndex;
use super::identity::{self, Identity};
use super::journal::Journal;
use super::layer::Layer;
use super::method::{LayerStatistics, SessionMethod};
use super::record::Record;
use super::report::Report;
use super::store::{Recovery, Store};
use super::transaction::{self, guarded, guarded_editor};
use crate::adapter::Adapter;
use crate::editor::{Editor, Merging};
use crate::error::{FileError, ModelError, NumericsError, Result};
use crate::linalg::{self, Need, tolerance};
use crate::restraint::Restraint;
use crate::scalar::Scalar;
use crate::second_moment::SecondMoment;
use crate::spectrum::Spectrum;
use crate::util::atomic_file::io_error;
use crate::util::validate;

impl<M> SessionBuilder<M> {
    /// Opens the session. The model must be in its state before the first edit.
    ///
    /// If the directory holds a session, the model is brought to its state after the last confirmed batch: the last snapshot
    /// is loaded, and the batches since then are replayed from the journal. With an equal `par`, the result is equal bit for
    /// bit.
    ///
    /// # Errors
    /// Layers that the adapter does not have, statistics of another size, or hyperparameters outside their range. A directory
    /// that cannot be written, that another process has open, whose session has another model, layers, statistics or
    /// hyperparameters (the error names the first difference), or whose journal is damaged (the error says where). The model
    /// is unchanged then, unless the adapter fails while edits are replayed.
    pub fn open<A: Adapter>(mut self, adapter: A, par: Par) -> Result<Session<A, M::Editor>>
    where
        M: SessionMethod<A::Scalar> + 'static,
    {
        self.check()?;
        for (number, keys) in std::mem::take(&mut self.random_keys) {
            let known = self.layers.iter().map(|layer| layer.layer).collect();
            let layer = self.layers.iter_mut().find(|layer| layer.layer == number);
            layer.ok_or(ModelError::UnknownLayer { layer: number, known })?.random_keys = Some(keys);
        }
        let identity = Identity {
            model: guarded(|| Ok(adapter.fingerprint()))?,
            method: &self.method,
            share: self.share.unwrap_or(self.method.share()),
            gauged: self.gauged,
            restraint: self.restraint,
            statistics: identity::statistics(&self.layers),
        };
        let layers = self.first_layers(&adapter, par)?;
        let StoredParts { journal, store, index, recovery } = match &self.directory {
            None => StoredParts::in_memory(&layers, &identity)?,
            Some(path) => StoredParts::in_directory(path, &layers, &identity)?,
        };
        let mut session = Session {
            adapter,
            layers,
            share: identity.share,
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
            broken: None,
            started: Instant::now(),
            par,
        };
        session.store.sweep();
        if session.recovery.resumed {
            guarded_editor(|| session.recover())?;
        }
        Ok(session)
    }

    /// Checks the settings that do not depend on the model.
    fn check(&self) -> Result<()> {
        self.guards.check()?;
        if self.layers.is_empty() {
            return Err(NumericsError::Empty { argument: "layers", item: "layer" }.into());
        }
        if !(0.9..=1.0).contains(&self.near) {
            let (parameter, value) = ("the cosine of parallel keys", self.near);
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
        if let Some(pair) = self.layers.windows(2).find(|pair| pair[0].layer >= pair[1].layer) {
            let (parameter, value) = ("layers", pair[1].layer as f64);
            return Err(
                NumericsError::Parameter { parameter, value, allowed: "layers in ascending order, each once" }.into()
            );
        }
        let without_gauges = |what: &str| NumericsError::Unsupported {
            what: format!("{what} without the gauges; leave out `without_gauges`"),
        };
        if !self.gauged && (self.guards.leakage.is_some() || self.guards.relative_drift.is_some()) {
            return Err(without_gauges("a guard on leakage or drift").into());
        }
        if let Some(restraint) = &self.restraint {
            restraint.check()?;
            if matches!(restraint, Restraint::Prune(_)) && !self.gauged {
                return Err(without_gauges("a restraint of the total change").into());
            }
        }
        Ok(())
    }

    /// The layers of the unedited model.
    fn first_layers<A: Adapter>(&self, adapter: &A, par: Par) -> Result<Vec<Layer<A::Scalar, M::Editor>>>
    where
        M: SessionMethod<A::Scalar>,
    {
        let layer = |statistics: &LayerStatistics| -> Result<_> {
            let (d_out, d_in) = guarded(|| adapter.weight_shape(statistics.layer))?;
            validate::shape("spectrum", statistics.spectrum.vectors(), d_in, d_in)?;
            let moment = statistics.moment.d_in();
            if moment != d_in {
                let (expected, found) = ((d_in, d_in).into(), (moment, moment).into());
                return Err(NumericsError::Shape { argument: "moment", expected, found }.into());
            }
            agree(&statistics.moment, &statistics.spectrum, par)?;
            let need = Need::new("a weight of the adapter", d_out, d_in).matrix::<A::Scalar>(d_out, d_in);
            let mut weight: Mat<A::Scalar> = need.zeros(d_out, d_in)?;
            guarded(|| adapter.read_weight(statistics.layer, weight.as_mut()))?;
            validate::finite("the adapter's weight", weight.as_ref())?;
            let editor = self.method.layer_editor(statistics, par)?;
            let any_key = Mat::<A::Scalar>::identity(d_in, 1);
            if self.guards.stability.is_some() && editor.stability(any_key.as_ref())?.is_none() {
                let what =
                    format!("a guard on the stability of keys: the editor `{}` does not measure it", editor.name());
                return Err(NumericsError::Unsupported { what }.into());
            }
            Layer::new(statistics.clone(), editor, weight, self.gauged, self.restraint, par)
        };
        self.layers.iter().map(layer).collect()
    }
}

/// Refuses a spectrum of other statistics, by what both do to one vector.
fn agree(moment: &SecondMoment, spectrum: &Spectrum, par: Par) -> Result<()> {
    // Any vector will do that is not special.
    let x = Mat::from_fn(moment.d_in(), 1, |i, _| (1.0 + i as f64 * 1.618_033_988_749_895).cos());
    let U = spectrum.vectors();
    let coordinates = linalg::product(U.transpose(), x.as_ref(), par);
    let scaled = Mat::from_fn(spectrum.dim(), 1, |i, _| spectrum.values()[i] * coordinates[(i, 0)]);
    let by_spectrum = linalg::product(U, scaled.as_ref(), par);
    let by_moment = moment.product(x.as_ref(), par)?;
    let measured = (by_moment - by_spectrum).norm_l2() / (spectrum.largest() * x.norm_l2()).max(f64::MIN_POSITIVE);
    // Some files hold statistics in `f32`.
    if measured <= tolerance::SYMMETRY {
        return Ok(());
    }
    let what = format!(
        "a spectrum of other statistics than the moment of its layer (they differ by {measured:.1e} of the largest \
         eigenvalue); give `Spectrum::new` of that moment"
    );
    Err(NumericsError::Unsupported { what }.into())
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
        let store = Store::Memory { base: layers.iter().map(|layer| layer.before.clone()).collect() };
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
