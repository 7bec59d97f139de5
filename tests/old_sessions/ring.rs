//! The model behind the sessions of `tests/data/sessions`: see the README there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use betaedit_core::editor::Hyperparameters;
use betaedit_core::editor::method;
use betaedit_core::editor::{Anchors, AnyMethod};
use betaedit_core::faer::{Mat, MatMut, MatRef, Par};
use betaedit_core::format::{Statistics, spectrum};
use betaedit_core::projector::HistoryWeighting;
use betaedit_core::restraint::{KnownRestraint, Prune, Rect};
use betaedit_core::session::{Guards, Session, SessionBuilder};
use betaedit_core::{
    Adapter, KeyStatistics, Orientation, Refresh, RefreshRule, Result, Scalar, SecondMoment, Spectrum, Threshold,
    Update,
};

pub const D_IN: usize = 8;
pub const D_OUT: usize = 6;
pub const LAYERS: [usize; 2] = [2, 5];

/// The request that the guard rejects: its target is a million times as long.
pub const HUGE: u64 = 100;

/// Every number of the model is made from a whole number, so that it is exact on every machine.
fn number(n: usize) -> f64 {
    (n % 31) as f64 / 16.0 - 0.9375
}

/// Two layers whose keys and targets are made from the number of a request.
pub struct Ring<T: Scalar> {
    pub weights: [Mat<T>; 2],
}

impl<T: Scalar> Ring<T> {
    pub fn new() -> Self {
        let weight = |layer| Mat::from_fn(D_OUT, D_IN, |i, j| T::from_f64(number(7 * i + 3 * j + 5 * layer) / 4.0));
        Self { weights: LAYERS.map(weight) }
    }

    fn at(layer: usize) -> usize {
        LAYERS.iter().position(|&one| one == layer).expect("one of the two layers")
    }

    fn key(layer: usize, request: u64, i: usize) -> f64 {
        let request = request as usize;
        number(13 * i + 29 * request + 7 * i * request + 11 * layer)
    }

    fn target(request: u64, i: usize) -> f64 {
        let far = if request == HUGE { 1e6 } else { 1.0 };
        let request = request as usize;
        number(17 * i + 23 * request + 5 * i * request) * far
    }
}

impl<T: Scalar> Adapter for Ring<T> {
    type Scalar = T;
    type Request = u64;

    fn layers(&self) -> &[usize] {
        &LAYERS
    }

    fn weight_shape(&self, _: usize) -> Result<(usize, usize)> {
        Ok((D_OUT, D_IN))
    }

    fn keys(&mut self, layer: usize, requests: &[u64]) -> Result<Mat<T>> {
        Ok(Mat::from_fn(D_IN, requests.len(), |i, j| T::from_f64(Self::key(layer, requests[j], i))))
    }

    /// Summed one by one, in `f64`.
    fn residuals(&mut self, layer: usize, requests: &[u64]) -> Result<Mat<T>> {
        let weight = &self.weights[Self::at(layer)];
        Ok(Mat::from_fn(D_OUT, requests.len(), |i, j| {
            let answer: f64 = (0..D_IN).map(|k| weight[(i, k)].to_f64() * Self::key(layer, requests[j], k)).sum();
            T::from_f64(Self::target(requests[j], i) - answer)
        }))
    }

    fn read_weight(&self, layer: usize, mut weight: MatMut<'_, T>) -> Result<()> {
        weight.copy_from(&self.weights[Self::at(layer)]);
        Ok(())
    }

    fn write_weight(&mut self, layer: usize, weight: MatRef<'_, T>) -> Result<()> {
        self.weights[Self::at(layer)].copy_from(weight);
        Ok(())
    }

    fn fingerprint(&self) -> String {
        "ring".into()
    }

    fn subject(&self, request: &u64) -> Option<String> {
        Some(format!("subject {request}"))
    }

    fn apply(&mut self, layer: usize, update: &Update<T>) -> Result<()> {
        Ok(update.apply_to(self.weights[Self::at(layer)].as_mut(), Orientation::OutputsByInputs, Par::Seq)?)
    }
}

/// What one of the sessions runs.
pub struct Setting {
    /// Its folder.
    pub name: &'static str,
    method: &'static str,
    refresh: Refresh,
    restraint: Option<KnownRestraint>,
}

/// All but the one in `f32`, which is `memit-h` again.
pub fn settings() -> Vec<Setting> {
    let every = |rule| Refresh::Every { edits: 4, rule };
    let of = |name, method, refresh| Setting { name, method, refresh, restraint: None };
    let plain = |name| of(name, name, Refresh::Never);
    let restrained = |name, restraint| Setting { name, method: "memit-h", refresh: Refresh::Never, restraint };
    vec![
        of("betaedit", "betaedit", Refresh::Never),
        of("betaedit-full-mean", "betaedit", every(RefreshRule::Full(HistoryWeighting::Mean { lambda1: 3.0 }))),
        of("betaedit-full-sum", "betaedit", every(RefreshRule::Full(HistoryWeighting::Sum { weight: 0.02 }))),
        of("betaedit-maximal", "betaedit", every(RefreshRule::Maximal { weight: 0.02 })),
        of("betaedit-nested", "betaedit", every(RefreshRule::Nested { weight: 0.02 })),
        of("betaedit-continuous", "betaedit", Refresh::Continuous { weight: 0.02 }),
        plain("memit-h"),
        plain("memit-r"),
        plain("memit-merge"),
        plain("alphaedit"),
        plain("emmet-h"),
        plain("rlsedit"),
        plain("simie"),
        restrained("memit-h-rect", Some(Rect::default().with_kept(0.5).into())),
        restrained("memit-h-prune", Some(Prune::default().into())),
    ]
}

impl Setting {
    pub fn f32() -> Self {
        Self { name: "memit-h-f32", method: "memit-h", refresh: Refresh::Never, restraint: None }
    }

    fn method(&self) -> AnyMethod {
        let mut hyperparameters = Hyperparameters::default();
        hyperparameters.lambda = 0.5;
        hyperparameters.lambda1 = 0.05;
        hyperparameters.lambda2 = 0.125;
        hyperparameters.threshold = Threshold::Directions(6);
        hyperparameters.refresh = Some(self.refresh);
        hyperparameters.seed = 3;
        hyperparameters.anchors = Anchors { mu: 0.5, nu: 0.25 };
        method(self.method).unwrap().method(&hyperparameters)
    }

    /// Opens the session in a folder, with the statistics beside it: the one place that knows how a session is built.
    pub fn open<T: Scalar>(&self, data: &Path, folder: &Path) -> Result<Session<Ring<T>>> {
        let mut builder = SessionBuilder::new(self.method())
            // As when the sessions were made; SimIE hardly writes anything here.
            .guards(Guards::default().with_update_norm(30.0).with_written_share(None))
            .snapshot_every(8)
            .directory(folder);
        for layer in LAYERS {
            let (moment, spectrum) = statistics(data, layer)?;
            builder = builder.layer(layer, KeyStatistics::from_parts(moment, spectrum, Par::Seq)?);
            if self.method == "memit-r" {
                let keys = Mat::from_fn(D_IN, 20, |i, j| Ring::<f64>::key(layer, 200 + j as u64, i));
                builder = builder.random_keys(layer, Arc::new(keys));
            }
        }
        if let Some(restraint) = self.restraint {
            builder = builder.restraint(restraint);
        }
        Ok(builder.open(Ring::new(), Par::Seq)?)
    }
}

/// The keys that the statistics of a layer were made from, `d_in x 64`: fewer and fewer of every further input.
pub fn text(layer: usize) -> Mat<f64> {
    Mat::from_fn(D_IN, 64, |i, t| number(19 * i + 37 * t + 3 * i * t + layer) / (1 << i) as f64)
}

pub fn statistics_file(data: &Path, layer: usize) -> PathBuf {
    data.join(format!("statistics-{layer}.safetensors"))
}

pub fn spectrum_file(data: &Path, layer: usize) -> PathBuf {
    data.join(format!("spectrum-{layer}.safetensors"))
}

fn statistics(data: &Path, layer: usize) -> Result<(Arc<SecondMoment>, Arc<Spectrum>)> {
    let moment = Statistics::read(statistics_file(data, layer))?.moment(text(layer).as_ref())?;
    let (spectrum, _) = spectrum::read(spectrum_file(data, layer), Par::Seq)?;
    Ok((Arc::new(moment), Arc::new(spectrum)))
}
