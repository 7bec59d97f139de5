//! Files that version 0.1 wrote are read by this version: sessions go on where they were, to the last bit.

mod ring;

use std::fs;
use std::path::Path;

use betaedit_core::faer::{Mat, Par};
use betaedit_core::format::{Checkpoint, Precision, Statistics, Updates, delta, spectrum};
use betaedit_core::session::EditId;
use betaedit_core::{Orientation, Scalar, Spectrum};
use tempfile::TempDir;

use self::ring::{D_IN, D_OUT, HUGE, LAYERS, Setting, settings};
use crate::common::{data, distance};

/// Where the files were written, sums have this order. Elsewhere they agree to ten digits.
const SAME_BITS: bool = cfg!(target_arch = "x86_64");

fn copy(from: &Path) -> TempDir {
    let folder = TempDir::new().unwrap();
    for name in ["journal", "base", "snapshot"] {
        fs::copy(from.join(name), folder.path().join(name)).unwrap();
    }
    folder
}

#[track_caller]
fn assert_weights<T: Scalar>(found: &[Mat<T>; 2], expected: &Path, name: &str) {
    let checkpoint = Checkpoint::open(expected).unwrap();
    for (layer, found) in LAYERS.into_iter().zip(found) {
        let tensor = format!("layer.{layer}");
        let precision = if T::NAME == "f32" { Precision::F32 } else { Precision::F64 };
        assert_eq!(checkpoint.precision(&tensor).unwrap(), precision);
        let expected: Mat<T> = checkpoint.weight(&tensor, Orientation::OutputsByInputs).unwrap();
        let error = distance(found.as_ref(), expected.as_ref());
        if SAME_BITS {
            assert_eq!(found, &expected, "{name}, layer {layer}: {error:e} off");
        } else {
            let digits = if T::NAME == "f32" { 1e-5 } else { 1e-10 };
            assert!(error < digits, "{name}, layer {layer}: {error:e} off");
        }
    }
}

/// Opened, the weights are those of the end; then the session goes on as the version that wrote it would have.
fn goes_on<T: Scalar>(setting: &Setting) {
    let (data, name) = (data("sessions"), setting.name);
    let old = data.join(name);
    let folder = copy(&old);
    let mut session = setting.open::<T>(&data, folder.path()).unwrap();
    let recovery = session.recovery();
    assert!(recovery.resumed && recovery.snapshot_ignored.is_none(), "{name}: {recovery:?}");
    assert_eq!((recovery.replayed, recovery.dropped_bytes), (2, 0), "{name}");
    assert_eq!(session.processed(), 14, "{name}");
    let pruned = name == "memit-h-prune";
    let held: Vec<u64> = (0..14).filter(|&id| session.holds(EditId(id))).collect();
    let expected: Vec<u64> = (0..14).filter(|id| ![2, 4].contains(id) && (pruned || *id != 5)).collect();
    assert_eq!(held, expected, "{name}");
    assert_weights(&session.adapter().weights, &old.join("expected.safetensors"), name);

    // From the start, without the snapshot.
    let from_start = copy(&old);
    fs::remove_file(from_start.path().join("snapshot")).unwrap();
    let replayed = setting.open::<T>(&data, from_start.path()).unwrap();
    assert!(replayed.recovery().replayed > 2);
    let weights = replayed.into_adapter().weights;
    assert_weights(&weights, &old.join("expected.safetensors"), name);

    assert!(session.edit(&[14]).unwrap().is_applied(), "{name}");
    session.undo(&[EditId(9)]).unwrap();
    assert!(session.edit(&[15, 16]).unwrap().is_applied(), "{name}");
    assert_eq!(session.edit(&[HUGE]).unwrap().is_applied(), pruned, "{name}");
    if pruned {
        session.undo(&[EditId(17)]).unwrap();
    }
    let weights = session.into_adapter().weights;
    if !pruned {
        assert_weights(&weights, &old.join("expected-after.safetensors"), name);
    }
    // What it wrote into the old folder is a session again.
    let again = setting.open::<T>(&data, folder.path()).unwrap();
    assert_eq!((again.processed(), &again.into_adapter().weights), (18, &weights), "{name}");
}

#[test]
fn old_sessions_go_on_where_they_were() {
    let settings = settings();
    assert!(settings.len() >= 15);
    settings.iter().for_each(goes_on::<f64>);
}

#[test]
fn an_old_session_in_f32_goes_on_where_it_was() {
    goes_on::<f32>(&Setting::f32());
}

#[test]
fn old_statistics_spectra_and_deltas_are_read() {
    let folder = data("sessions");
    for layer in LAYERS {
        let keys = ring::text(layer);
        let statistics = Statistics::read(ring::statistics_file(&folder, layer)).unwrap();
        let (old, fingerprint) = spectrum::read(ring::spectrum_file(&folder, layer), Par::Seq).unwrap();
        assert_eq!((statistics.tokens(), statistics.d_in()), (64, D_IN));
        assert_eq!(statistics.fingerprint(), Some(&fingerprint));
        assert_eq!((fingerprint.model.as_str(), fingerprint.layer, fingerprint.text.as_str()), ("ring", layer, "ring"));
        assert_eq!(statistics.parts().collect::<Vec<_>>(), ["1 of 1"]);
        let expected = &keys * keys.transpose();
        assert!(distance(statistics.sum(), expected.as_ref()) < 1e-14);
        let moment = statistics.moment(keys.as_ref()).unwrap();
        let new = Spectrum::new(&moment, Par::Seq).unwrap();
        for (new, old) in new.values().iter().zip(old.values()) {
            assert!((new - old).abs() < 1e-13 * moment.to_mean(Par::Seq).unwrap().norm_l2());
        }
    }
    let updates: Updates<f64> = delta::read(folder.join("delta.safetensors")).unwrap();
    let factor = |i: usize, j: usize| (i * 5 + j * 3) as f64 / 8.0 - 2.0;
    assert_eq!(updates.keys().collect::<Vec<_>>(), ["layer.2"]);
    assert_eq!(updates["layer.2"].left(), Mat::from_fn(D_OUT, 2, factor));
    assert_eq!(updates["layer.2"].right(), Mat::from_fn(2, D_IN, factor));
}
