//! Round trips with Python: numpy and safetensors write, we read; we write, they read.
//!
//! `BETAEDIT_PYTHON` names an interpreter that has what `tests/python/requirements.txt` lists:
//!
//!     BETAEDIT_PYTHON=python3 cargo test --all-features -- --ignored python

use std::path::Path;
use std::process::Command;

use betaedit_core::faer::{Mat, Par};
use betaedit_core::format::{Checkpoint, Fingerprint, Precision, Statistics, Updates, delta, lora, npy, spectrum};
use betaedit_core::{Orientation, Spectrum, Update};
use tempfile::TempDir;

use crate::common::distance;

const SEQ: Par = Par::Seq;
const LINEAR: Orientation = Orientation::OutputsByInputs;
const D: usize = 12;
const TOKENS: usize = 500;
const OUT: usize = 8;

/// Runs the other side of a round trip.
pub fn python(verb: &str, folder: &Path) {
    let interpreter =
        std::env::var("BETAEDIT_PYTHON").expect("BETAEDIT_PYTHON names a Python with numpy and safetensors");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/round_trip.py");
    let output = Command::new(interpreter).arg(script).arg(verb).arg(folder).output().unwrap();
    assert!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stderr));
}

fn update(number: usize, n: usize) -> Update<f32> {
    let left = Mat::from_fn(OUT, n, |i, j| ((i + 2 * j + number) % 5) as f32 - 2.0) * betaedit_core::faer::Scale(0.25);
    let right = Mat::from_fn(n, D, |i, j| (((2 * i + j + number) % 7) as f32 - 3.0) / 1024.0 + 1.0 / 65536.0);
    Update::from_factors(left, right).unwrap()
}

#[test]
#[ignore = "needs a Python with numpy and safetensors, named by BETAEDIT_PYTHON"]
fn files_go_to_python_and_back() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    python("write", folder.path());

    // Their statistics, ours.
    let keys = Mat::from_fn(D, TOKENS, |i, t| ((3 * i + 5 * t + (i * t) % 11) % 17) as f64 - 6.0);
    let sum = &keys * keys.transpose();
    let fingerprint = Fingerprint { model: "a model".to_owned(), layer: 4, text: "a text".to_owned() };
    let parts = Statistics::read_parts([at("part-0.safetensors"), at("part-1.safetensors")]).unwrap();
    assert_eq!(parts.fingerprint(), Some(&fingerprint));
    for read in
        [Statistics::read_npz(at("f32.npz")).unwrap(), Statistics::read_npz(at("f64.npz")).unwrap(), parts.clone()]
    {
        assert_eq!((read.sum(), read.tokens()), (sum.as_ref(), TOKENS as u64));
    }
    parts.write_npz(at("f32.npz"), Precision::F32, Some(100)).unwrap();
    parts.write_npz(at("f64.npz"), Precision::F64, None).unwrap();
    parts.write(at("statistics.safetensors")).unwrap();

    // Their projector, our spectrum.
    let moment = parts.moment(keys.as_ref()).unwrap();
    let of_moment = Spectrum::new(&moment, SEQ).unwrap();
    spectrum::write(at("spectrum.safetensors"), &of_moment, &fingerprint).unwrap();
    let projector = spectrum::read_projector(at("projector.safetensors"), "projector.0", SEQ).unwrap();
    let V = of_moment.vectors().subcols(0, 5);
    let expected = V * V.transpose();
    assert_eq!(projector.kept(), 5);
    assert!(distance(projector.to_dense(SEQ).as_ref(), expected.as_ref()) < 1e-6);
    for (name, precision) in [("f32", Precision::F32), ("f64", Precision::F64)] {
        let path = at(&format!("projector-{name}.safetensors"));
        spectrum::write_projector(path, "projector.4", &projector, precision, SEQ).unwrap();
    }

    // Their matrices, ours.
    let array = npy::read::<f64>(at("array.npy")).unwrap();
    assert_eq!(array, keys.transpose());
    npy::write(at("f32.npy"), array.as_ref(), Precision::F32).unwrap();
    npy::write(at("f64.npy"), keys.as_ref(), Precision::F64).unwrap();
    npy::write_projector(at("projector.npy"), &projector, Precision::F64, SEQ).unwrap();

    // Their adapter, projected.
    let mut adapter = lora::LoraAdapter::read(at("trained")).unwrap();
    assert_eq!(adapter.modules().count(), 2);
    for module in adapter.modules().map(str::to_owned).collect::<Vec<_>>() {
        adapter.project(&module, &projector, SEQ).unwrap();
    }
    adapter.write(at("projected")).unwrap();

    // Their checkpoint, our edits.
    let names = [4, 5].map(|layer| format!("model.layers.{layer}.mlp.down_proj.weight"));
    let updates = Updates::from([(names[0].clone(), update(0, 3)), (names[1].clone(), update(1, 2))]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.precision(&names[0]).unwrap(), Precision::F16);
    let weight = checkpoint.weight::<f64>(&names[1], LINEAR).unwrap();
    assert_eq!(weight, Mat::from_fn(OUT, D, |i, j| (((i * 7 + j * 3 + 1) % 32) as f64 - 16.0) / 8.0));
    let roundings = checkpoint.apply(&updates, LINEAR, SEQ).unwrap();
    assert!(roundings[&names[0]].error > 0.0);
    delta::write(at("delta.safetensors"), &updates).unwrap();
    lora::write(at("adapter"), &updates, "a/model", LINEAR).unwrap();

    python("check", folder.path());
}
