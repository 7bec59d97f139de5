//! f32: closer to the f64 truth than the published dense f32 solve, at every step.

#![cfg(feature = "safetensors")]

use std::sync::Arc;

use betaedit_core::adapter::RecordedStream;
use betaedit_core::editor::Hyperparameters;
use betaedit_core::editor::{ClosedFormEditor, method};
use betaedit_core::faer::{Mat, Par, Scale};
use betaedit_core::projector::{HistoryWeighting, ProjectorBuilder};
use betaedit_core::scalar::cast;
use betaedit_core::{Adapter, EditBatch, Editor, InverseGram, Refresh, RefreshRule, Scalar, Spectrum, Threshold};

use crate::common::{Random, data, distance, spectrum, textbook_update};

const EDITS: usize = 60;

/// The cumulative update after every tenth edit, summed in f64 so that only the solves differ.
fn engine<T: Scalar>(stream: &mut RecordedStream<T>, name: &str, h: &Hyperparameters) -> Vec<Mat<f64>> {
    let par = Par::rayon(0);
    let layer = stream.layers()[0];
    let spectrum = Arc::new(Spectrum::new(stream.second_moment(), par).unwrap());
    let mut editor = method(name).unwrap().editor::<T>(h, &spectrum, par).unwrap();
    let (d_out, d_in) = stream.weight_shape(layer).unwrap();
    let (mut total, mut totals) = (Mat::<f64>::zeros(d_out, d_in), vec![]);
    for t in 0..EDITS {
        let (k, r) = (stream.keys(layer, &[t]).unwrap(), stream.residuals(layer, &[t]).unwrap());
        let update = editor.edit(&EditBatch::new(k.as_ref(), r.as_ref()).unwrap()).unwrap();
        total += update.cast::<f64>().unwrap().to_dense(par);
        if (t + 1) % 10 == 0 {
            totals.push(total.clone());
        }
    }
    totals
}

/// The published program's arithmetic: everything in f32, `P (K Kᵀ + A)` formed, one LU an edit.
fn dense_f32(stream: &mut RecordedStream<f32>, name: &str, h: &Hyperparameters) -> Vec<Mat<f64>> {
    let layer = stream.layers()[0];
    let par = Par::rayon(0);
    let spectrum = Arc::new(Spectrum::new(stream.second_moment(), par).unwrap());
    let recipe = method(name).unwrap().recipe(h);
    let editor = ClosedFormEditor::<f64>::new("projector", recipe, &spectrum, par).unwrap();
    let P = cast::<f64, f32>(editor.projector().unwrap().to_dense(par).as_ref());
    let C = cast::<f64, f32>(stream.second_moment().to_mean(par).unwrap().as_ref());
    let mut A = C * betaedit_core::faer::Scale(recipe.weight as f32);
    let (d_out, d_in) = stream.weight_shape(layer).unwrap();
    let (mut total, mut totals) = (Mat::<f64>::zeros(d_out, d_in), vec![]);
    for t in 0..EDITS {
        let (k, r) = (stream.keys(layer, &[t]).unwrap(), stream.residuals(layer, &[t]).unwrap());
        let update = textbook_update(P.as_ref(), A.as_ref(), recipe.ridge, k.as_ref(), r.as_ref());
        total += cast::<f32, f64>(update.as_ref());
        if name.ends_with("-h") || name == "betaedit" {
            A += &k * k.transpose();
        }
        if (t + 1) % 10 == 0 {
            totals.push(total.clone());
        }
    }
    totals
}

#[test]
fn f32_is_no_worse_than_a_dense_f32_solve_at_any_step_of_a_real_recording() {
    let path = data("smollm2-layer10-slice.safetensors");
    let mut truth = RecordedStream::<f64>::open(&path, Par::Seq).unwrap();
    let mut stream = RecordedStream::<f32>::open(&path, Par::Seq).unwrap();
    let mut h = Hyperparameters::default();
    (h.lambda, h.lambda1) = (1500.0, 300.0);
    h.refresh = Some(Refresh::Never);
    for name in ["memit", "memit-h", "alphaedit", "alphaedit-h", "betaedit"] {
        let exact = engine(&mut truth, name, &h);
        let ours = engine(&mut stream, name, &h);
        let dense = dense_f32(&mut stream, name, &h);
        for (step, exact) in exact.iter().enumerate() {
            let error = |totals: &[Mat<f64>]| distance(totals[step].as_ref(), exact.as_ref());
            let (ours, dense) = (error(&ours), error(&dense));
            assert!(ours <= dense, "{name}, edit {}: {ours:e}, dense solve {dense:e}", 10 * (step + 1));
        }
    }
}

#[test]
fn f32_and_f64_agree_through_refreshes() {
    let path = data("small.safetensors");
    let mut h = Hyperparameters::default();
    (h.lambda1, h.lambda2) = (20.0, 0.5);
    for weighting in [HistoryWeighting::Mean { lambda1: 20.0 }, HistoryWeighting::Sum { weight: 1.0 }] {
        h.refresh = Some(Refresh::Every { edits: 25, rule: RefreshRule::Full(weighting) });
        let exact = engine(&mut RecordedStream::<f64>::open(&path, Par::Seq).unwrap(), "betaedit", &h);
        let ours = engine(&mut RecordedStream::<f32>::open(&path, Par::Seq).unwrap(), "betaedit", &h);
        for (ours, exact) in ours.iter().zip(&exact) {
            assert!(distance(ours.as_ref(), exact.as_ref()) < 1e-5);
        }
    }
}

/// The `f32` copy of `Q` serves keys for which it is good enough; keys that leave little of themselves behind, or are hardly
/// in the space, get the exact product. `Q` follows the dense inverse either way.
#[test]
fn the_rounded_copy_is_used_only_where_it_is_precise() {
    let d = 300;
    let mut random = Random::new(7);
    let spectrum = spectrum(&random.moment(d, d, 1e-6));
    let P = ProjectorBuilder::new(&spectrum).threshold(Threshold::Directions(d / 2)).build(Par::Seq).unwrap();
    let exact = InverseGram::diagonal(&P, 1e3, 1.0, Par::Seq).unwrap();
    let rounded = exact.clone().with_rounded_copy().unwrap();
    let ordinary = random.matrix::<f32>(d, 1) * Scale(0.1_f32);
    let outside = spectrum.vectors().subcols(d - 1, 1) + random.matrix::<f64>(d, 1) * Scale(1e-5);
    let cases =
        [(ordinary.clone(), false), (ordinary * Scale(1e4_f32), true), (cast::<f64, f32>(outside.as_ref()), true)];
    for (k, same) in cases {
        let [a, b] = [&exact, &rounded].map(|Q| Q.solve(k.as_ref()).unwrap());
        assert_eq!(a.directions() == b.directions(), same);
        assert!(distance(b.directions(), a.directions()) < 1e-6);
        // Keys of f64 are multiplied with Q itself.
        let k64 = cast::<f32, f64>(k.as_ref());
        assert_eq!(exact.solve(k64.as_ref()).unwrap().directions(), rounded.solve(k64.as_ref()).unwrap().directions());
    }
    let mut editors = [exact, rounded];
    for t in 0..200 {
        let k = random.matrix::<f32>(d, 1) * Scale(if t % 5 == 0 { 10.0 } else { 0.3_f32 });
        editors.iter_mut().for_each(|Q| Q.absorb(k.as_ref()).unwrap());
    }
    let [exact, rounded] = editors;
    // Only the keys since the last folding are rounded.
    assert!(
        exact.measure_drift() < 1e-9 && (1e-12..1e-4).contains(&rounded.measure_drift()),
        "{:e}",
        rounded.measure_drift()
    );
    let settled = distance(rounded.to_dense().as_ref(), exact.to_dense().as_ref());
    assert!(settled < 1e-9, "{settled:e}");
}
