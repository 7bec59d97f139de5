//! Recorded streams against golden results that were computed by another program, in another language.

#![cfg(feature = "safetensors")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use betaedit_core::adapter::RecordedStream;
use betaedit_core::editor::Hyperparameters;
use betaedit_core::editor::{Penalty, method};
use betaedit_core::faer::{Mat, MatRef, Par};
use betaedit_core::metrics::{RunningTotal, write_errors};
use betaedit_core::projector::HistoryWeighting;
use betaedit_core::{Adapter, EditBatch, Editor, Refresh, RefreshRule, Scalar, Spectrum, Threshold};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::common::{data, distance};

/// All tensors of a golden file as `f64` (row-major, with their shapes), and its hyperparameters.
struct Goldens {
    tensors: HashMap<String, (Vec<usize>, Vec<f64>)>,
    hyperparameters: Value,
}

impl Goldens {
    fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let hyperparameters = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["hyperparameters"]).unwrap();
        let numbers = |data: &[u8], dtype| -> Vec<f64> {
            let words = data.chunks_exact(8).map(|bytes| <[u8; 8]>::try_from(bytes).unwrap());
            match dtype {
                Dtype::F64 => words.map(f64::from_le_bytes).collect(),
                Dtype::I64 => words.map(|word| i64::from_le_bytes(word) as f64).collect(),
                other => panic!("unexpected type {other:?}"),
            }
        };
        let tensors = file
            .iter()
            .map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), numbers(view.data(), view.dtype()))))
            .collect();
        Self { tensors, hyperparameters }
    }

    fn get(&self, name: &str) -> Option<&[f64]> {
        self.tensors.get(name).map(|(_, numbers)| numbers.as_slice())
    }

    fn matrix(&self, name: &str) -> Option<MatRef<'_, f64>> {
        let (shape, numbers) = self.tensors.get(name)?;
        Some(MatRef::from_row_major_slice(numbers, shape[0], shape[1]))
    }

    /// Names `(setting, variant)` of all runs in the file.
    fn runs(&self) -> Vec<(String, String)> {
        let mut runs: Vec<_> = self
            .tensors
            .keys()
            .filter_map(|name| name.strip_suffix(".leakage"))
            .map(|run| run.split_once('.').unwrap())
            .map(|(setting, variant)| (setting.to_owned(), variant.to_owned()))
            .collect();
        runs.sort();
        runs
    }
}

/// A variant's name, such as `betaedit-no-penalty-sum` or `memit-h.batch7`, as a method, its options and a batch size.
fn variant(name: &str, numbers: &Value) -> (String, Hyperparameters, usize) {
    let number = |key: &str| numbers[key].as_f64().unwrap();
    let (name, batch) = match name.split_once(".batch") {
        Some((name, batch)) => (name, batch.parse().unwrap()),
        None if name.ends_with("-batch10") => (name, 10),
        None => (name, 1),
    };
    let weighting = if name.ends_with("-sum") {
        HistoryWeighting::Sum { weight: 1.0 }
    } else {
        HistoryWeighting::Mean { lambda1: number("lambda1") }
    };
    let mut h = Hyperparameters::default();
    h.lambda = number("lambda");
    h.lambda1 = number("lambda1");
    h.lambda2 = number("lambda2");
    h.threshold = Threshold::Absolute(number("threshold"));
    h.refresh = Some(if name.contains("no-refresh") {
        Refresh::Never
    } else {
        Refresh::Every { edits: number("refresh_every") as usize, rule: RefreshRule::Full(weighting) }
    });
    h.penalty = if name.contains("no-penalty") { Penalty::Dropped } else { Penalty::Kept };
    let method = if name.starts_with("betaedit") { "betaedit" } else { name };
    (betaedit_core::editor::method(method).unwrap().name().to_owned(), h, batch)
}

/// What a run comes to, step by step.
struct Run<T: Scalar> {
    /// The sum of all updates, as the editor's number type gives it.
    total: Mat<f64>,
    weight_change: Mat<T>,
    leakage: Vec<f64>,
    drift: Vec<f64>,
    s: Vec<f64>,
    write_error: Vec<f64>,
    /// `(edits done, kept directions)`, at the start and at each refresh.
    kept: Vec<(usize, usize)>,
}

fn run<T: Scalar>(path: &Path, name: &str, h: &Hyperparameters, batch: usize) -> Run<T> {
    let par = Par::rayon(0);
    let mut stream = RecordedStream::<T>::open(path, par).unwrap();
    let before = stream.weight().to_owned();
    let layer = stream.layers()[0];
    let moment = Arc::new(stream.second_moment().clone());
    let spectrum = Arc::new(Spectrum::new(&moment, par).unwrap());
    let mut editor = method(name).unwrap().editor::<T>(h, &spectrum, par).unwrap();
    let (d_out, _) = stream.weight_shape(layer).unwrap();
    let mut total = RunningTotal::new(&moment, d_out, 1, par).unwrap();
    let mut kept = vec![(0, editor.state().kept_directions)];
    let (mut leakage, mut drift, mut s, mut write_error) = (vec![], vec![], vec![], vec![]);
    let edits: Vec<usize> = (0..stream.len()).collect();
    for requests in edits.chunks(batch) {
        let (K, R) = (stream.keys(layer, requests).unwrap(), stream.residuals(layer, requests).unwrap());
        let batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap();
        if let Some(report) = editor.refresh_if_due().unwrap() {
            kept.push((report.edits, report.kept_after));
        }
        let proposal = editor.propose(&batch).unwrap();
        stream.apply(layer, proposal.update()).unwrap();
        let update = proposal.update().clone();
        editor.commit(proposal).unwrap();
        let measured = total.record(&update).unwrap().unwrap();
        leakage.push(measured.leakage);
        drift.push(measured.drift);
        s.push(editor.stability(K.as_ref()).unwrap().unwrap().into_iter().fold(0.0, f64::max));
        let errors = write_errors(&update, &batch, par).unwrap();
        write_error.push(errors.iter().map(|e| e * e).sum::<f64>().sqrt());
    }
    Run {
        total: total.total().unwrap().to_owned(),
        weight_change: stream.weight() - before,
        leakage,
        drift,
        s,
        write_error,
        kept,
    }
}

/// The largest relative deviation of a curve.
#[track_caller]
fn deviation(ours: &[f64], golden: &[f64]) -> f64 {
    assert_eq!(ours.len(), golden.len());
    ours.iter().zip(golden).map(|(a, b)| (a - b).abs() / b.abs()).fold(0.0, f64::max)
}

/// Every run of a golden file, in f64.
fn every_run(stream: &Path, golden: &Path, allowed: f64) -> usize {
    let goldens = Goldens::open(golden);
    let runs = goldens.runs();
    for (setting, name) in &runs {
        let (method, h, batch) = variant(name, &goldens.hyperparameters[setting]);
        let run = run::<f64>(stream, &method, &h, batch);
        let golden = |what: &str| goldens.get(&format!("{setting}.{name}.{what}"));
        let check = |what: &str, ours: &[f64]| {
            if let Some(expected) = golden(what) {
                let found = deviation(ours, expected);
                assert!(found <= allowed, "{setting}.{name}: {what} deviates by {found:e}");
            }
        };
        check("leakage", &run.leakage);
        check("drift", &run.drift);
        check("s", &run.s);
        check("write_error", &run.write_error);

        let matrix = |what: &str| goldens.matrix(&format!("{setting}.{name}.{what}"));
        let totals = [run.total.as_ref(), run.weight_change.as_ref()];
        let mut compared = 0;
        for total in totals {
            // The weight is rounded at every addition, so its change is coarser than the sum of the updates.
            if let Some(expected) = matrix("delta") {
                let found = distance(total, expected);
                assert!(found <= allowed, "{setting}.{name}: the update is {found:e} off");
                compared += 1;
            }
            if let Some(expected) = matrix("delta_times_probe") {
                let found = distance((total * goldens.matrix("probe").unwrap()).as_ref(), expected);
                assert!(found <= allowed, "{setting}.{name}: the update is {found:e} off");
                compared += 1;
            }
        }
        assert_eq!(compared, 2, "{setting}.{name} has no golden update");

        let kept = golden("kept_directions").unwrap();
        if method.starts_with("memit") {
            assert_eq!(run.kept.len(), 1);
        } else {
            let expected: Vec<_> = kept.chunks(2).map(|row| (row[0] as usize, row[1] as usize)).collect();
            assert_eq!(run.kept, expected, "{setting}.{name}: kept directions");
        }
    }
    runs.len()
}

#[test]
fn every_method_matches_the_goldens_of_a_synthetic_stream_in_every_batch_size() {
    assert_eq!(every_run(&data("small.safetensors"), &data("small.golden.safetensors"), 1e-10), 28);
}

#[test]
fn every_method_matches_the_goldens_of_a_real_recording() {
    let (stream, golden) = ("smollm2-layer10-slice.safetensors", "smollm2-layer10-slice.golden.safetensors");
    assert_eq!(every_run(&data(stream), &data(golden), 1e-8), 9);
}

/// Full recordings are not in the repository.
#[test]
#[ignore = "needs full recordings, in the folder that BETAEDIT_RECORDINGS names"]
fn every_method_matches_the_goldens_of_full_recordings() {
    let folder = std::env::var_os("BETAEDIT_RECORDINGS").map(PathBuf::from);
    let folder = folder.expect("BETAEDIT_RECORDINGS names a folder of recordings with their goldens");
    let mut runs = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let golden = entry.unwrap().path();
        let Some(stem) = golden.to_str().and_then(|path| path.strip_suffix(".golden.safetensors")) else { continue };
        runs += every_run(Path::new(&format!("{stem}.safetensors")), &golden, 1e-8);
    }
    assert!(runs > 0, "{} holds no golden file", folder.display());
}

#[test]
fn the_spectrum_matches_the_golden_eigenvalues() {
    for name in ["small", "smollm2-layer10-slice"] {
        let stream = RecordedStream::<f64>::open(data(&format!("{name}.safetensors")), Par::Seq).unwrap();
        let spectrum = Spectrum::new(stream.second_moment(), Par::Seq).unwrap();
        let goldens = Goldens::open(&data(&format!("{name}.golden.safetensors")));
        let expected = goldens.get("eigenvalues").unwrap();
        let largest = spectrum.largest();
        for (ours, theirs) in spectrum.values().iter().zip(expected) {
            assert!((ours - theirs).abs() <= 1e-13 * largest, "{ours} {theirs}");
        }
    }
}
