//! LoRA adapters of other programs: scales and patterns, projection, and what is refused.

use std::path::Path;
use std::sync::Arc;

use betaedit_core::faer::{Mat, MatRef, Par, Scale};
use betaedit_core::format::Updates;
use betaedit_core::format::lora::{self, LoraAdapter};
use betaedit_core::projector::ProjectorBuilder;
use betaedit_core::update::Compression;
use betaedit_core::{Orientation, Projector, Spectrum, Threshold, Update, metrics};
use half::f16;
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Random, distance, safetensors_file};

const SEQ: Par = Par::Seq;
const D_IN: usize = 9;
const D_OUT: usize = 4;

type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);

fn rows(rows: usize, cols: usize, seed: usize) -> Mat<f64> {
    // Multiples of 1/16: exact in half precision.
    Mat::from_fn(rows, cols, |i, j| (((7 * i + 3 * j + 5 * seed) % 33) as f64 - 16.0) / 16.0)
}

fn tensor(name: &str, dtype: Dtype, matrix: &Mat<f64>) -> Tensor {
    let bytes = matrix.row_iter().flat_map(|row| row.iter().copied().collect::<Vec<_>>()).flat_map(|x| match dtype {
        Dtype::F16 => f16::from_f64(x).to_le_bytes().to_vec(),
        Dtype::F32 => (x as f32).to_le_bytes().to_vec(),
        other => panic!("{other}"),
    });
    (name.to_owned(), dtype, vec![matrix.nrows(), matrix.ncols()], bytes.collect())
}

/// The pair of a module: `A` is `rank x D_IN`.
fn pair(module: &str, rank: usize, seed: usize, dtype: Dtype) -> Vec<Tensor> {
    let name = |side: &str| format!("base_model.model.{module}.lora_{side}.weight");
    vec![tensor(&name("A"), dtype, &rows(rank, D_IN, seed)), tensor(&name("B"), dtype, &rows(D_OUT, rank, seed + 1))]
}

fn write(folder: &Path, config: &Value, tensors: &[Tensor]) {
    let named: Vec<_> =
        tensors.iter().map(|(name, dtype, shape, bytes)| (&**name, *dtype, shape.clone(), bytes.clone())).collect();
    std::fs::write(folder.join("adapter_model.safetensors"), safetensors_file(&named)).unwrap();
    std::fs::write(folder.join("adapter_config.json"), serde_json::to_vec_pretty(config).unwrap()).unwrap();
}

fn config() -> Value {
    json!({ "peft_type": "LORA", "base_model_name_or_path": "org/model", "r": 2, "lora_alpha": 6, "fan_in_fan_out": false })
}

fn product(rank: usize, seed: usize) -> Mat<f64> {
    rows(D_OUT, rank, seed + 1) * rows(rank, D_IN, seed)
}

#[test]
fn scales_follow_alpha_rank_and_patterns() {
    let folder = TempDir::new().unwrap();
    let tensors = [
        pair("layers.0.q_proj", 2, 1, Dtype::F32),
        pair("layers.0.down_proj", 3, 2, Dtype::F16),
        pair("layers.11.down_proj", 3, 3, Dtype::F32),
        pair("layers.1.down_proj", 3, 4, Dtype::F32),
    ]
    .concat();
    let mut with_patterns = config();
    with_patterns["rank_pattern"] = json!({ "down_proj": 3 });
    with_patterns["alpha_pattern"] = json!({ "layers.0.down_proj": 12.0, "1.down_proj": 5 });
    write(folder.path(), &with_patterns, &tensors);
    let adapter = LoraAdapter::read(folder.path()).unwrap();
    assert_eq!((adapter.base_model(), adapter.orientation()), (Some("org/model"), Orientation::OutputsByInputs));
    assert_eq!(adapter.modules().count(), 4);
    assert!(format!("{adapter:?}").contains("modules: 4"), "{adapter:?}");
    // `1.down_proj` is the end of `layers.1.down_proj`, not of `layers.11.down_proj`.
    for (module, rank, seed, scale) in [
        ("layers.0.q_proj", 2, 1, 6.0 / 2.0),
        ("layers.0.down_proj", 3, 2, 12.0 / 3.0),
        ("layers.11.down_proj", 3, 3, 6.0 / 3.0),
        ("layers.1.down_proj", 3, 4, 5.0 / 3.0),
    ] {
        let found = adapter.update(module).unwrap().to_dense(SEQ);
        assert!(distance(found.as_ref(), (product(rank, seed) * Scale(scale)).as_ref()) < 1e-14, "{module}");
    }
    assert!(adapter.update("layers.2.down_proj").unwrap_err().to_string().contains("layers.11.down_proj"));

    with_patterns["use_rslora"] = json!(true);
    with_patterns["fan_in_fan_out"] = json!(true);
    write(folder.path(), &with_patterns, &tensors);
    let adapter = LoraAdapter::read(folder.path()).unwrap();
    let found = adapter.update("layers.0.q_proj").unwrap().to_dense(SEQ);
    assert!(distance(found.as_ref(), (product(2, 1) * Scale(6.0 / 2.0_f64.sqrt())).as_ref()) < 1e-14);
    assert_eq!(adapter.orientation(), Orientation::InputsByOutputs);
}

/// `Delta <- Delta P`, and leakage is `tr(Delta C Deltaᵀ)`, densely; everything else is kept byte for byte.
#[test]
fn a_projected_adapter_leaves_what_the_statistics_hold() {
    let [folder, out] = [(); 2].map(|()| TempDir::new().unwrap());
    let tensors = [pair("a", 2, 1, Dtype::F32), pair("b", 2, 5, Dtype::F16)].concat();
    write(folder.path(), &config(), &tensors);
    let mut random = Random::new(8);
    let moment = random.moment(D_IN, D_IN, 1e-6);
    let spectrum = Arc::new(Spectrum::new(&moment, SEQ).unwrap());
    let P = ProjectorBuilder::new(&spectrum).threshold(Threshold::Directions(4)).build(SEQ).unwrap();
    let mut adapter = LoraAdapter::read(folder.path()).unwrap();
    let before = adapter.update("a").unwrap();
    adapter.project("a", &P, SEQ).unwrap();
    let after = adapter.update("a").unwrap();

    let (C, dense) = (moment.to_mean(SEQ).unwrap(), P.to_dense(SEQ));
    let trace = |D: MatRef<'_, f64>| (0..D_OUT).map(|i| D.row(i) * &C * D.row(i).transpose()).sum::<f64>();
    let [D, DP] = [&before, &after].map(|update| update.to_dense(SEQ));
    assert!(distance(DP.as_ref(), (product(2, 1) * Scale(3.0) * &dense).as_ref()) < 1e-13);
    for (update, D) in [(&before, &D), (&after, &DP)] {
        let leakage = metrics::leakage(update, &moment, SEQ).unwrap();
        assert!((leakage - trace(D.as_ref())).abs() < 1e-12 * trace(before.to_dense(SEQ).as_ref()));
    }
    assert!(trace(DP.as_ref()) < 0.01 * trace(D.as_ref()));
    assert_eq!((after.rank(), after.d_in()), (2, D_IN));

    adapter.write(out.path()).unwrap();
    let config = |folder: &TempDir| std::fs::read(folder.path().join("adapter_config.json")).unwrap();
    assert_eq!(config(&folder), config(&out));
    let read = LoraAdapter::read(out.path()).unwrap();
    // The module that was not projected has the same bits, and the other one is rounded to its type.
    let update = |adapter: &LoraAdapter, module: &str| adapter.update(module).unwrap().to_dense(SEQ);
    assert_eq!(update(&read, "b"), product(2, 5) * Scale(3.0));
    assert!(distance(update(&read, "a").as_ref(), DP.as_ref()) < 1e-6);
    let bytes = std::fs::read(out.path().join("adapter_model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut kinds: Vec<_> = file.tensors().into_iter().map(|(name, view)| (name, view.dtype())).collect();
    kinds.sort_by(|one, two| one.0.cmp(&two.0));
    let expected = tensors.iter().map(|tensor| (tensor.0.clone(), tensor.1)).collect::<Vec<_>>();
    assert_eq!(kinds, expected);

    let two = Arc::new(Spectrum::from_matrix(Mat::<f64>::identity(2, 2).as_ref(), SEQ).unwrap());
    let other = Projector::identity(&two);
    assert!(adapter.project("a", &other, SEQ).unwrap_err().to_string().contains("projector"));
}

/// What this crate writes is read: the updates themselves.
#[test]
fn edits_written_as_an_adapter_are_read() {
    let folder = TempDir::new().unwrap();
    let update = |rank| Update::from_factors(rows(D_OUT, rank, 1), rows(rank, D_IN, 2)).unwrap();
    let updates = Updates::from([("a.weight".to_owned(), update(3)), ("b.weight".to_owned(), update(1))]);
    lora::write(folder.path(), &updates, "org/model", Orientation::OutputsByInputs).unwrap();
    let adapter = LoraAdapter::read(folder.path()).unwrap();
    for (module, rank) in [("a", 3), ("b", 1)] {
        assert_eq!(adapter.update(module).unwrap().to_dense(SEQ), update(rank).to_dense(SEQ));
    }
}

#[test]
fn adapters_that_are_something_else_are_refused() {
    let folder = TempDir::new().unwrap();
    let good = pair("a", 2, 1, Dtype::F32);
    let refuse = |config: &Value, tensors: &[Tensor], file: &str, says: &str| {
        write(folder.path(), config, tensors);
        let error = LoraAdapter::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains(file), "`{error}` does not say `{says}` of {file}");
    };
    let with = |field: &str, value: Value| {
        let mut config = config();
        config[field] = value;
        config
    };
    for (field, value, says) in [
        ("peft_type", json!("IA3"), "`peft_type` is `IA3`"),
        ("use_dora", json!(true), "`use_dora`"),
        ("lora_bias", json!(true), "`lora_bias`"),
        ("r", json!(0), "`r`"),
        ("r", json!(3), "rank 2"),
        ("lora_alpha", json!("much"), "`lora_alpha`"),
        ("rank_pattern", json!({ ".*a": 2 }), "regular expression"),
        ("rank_pattern", json!([2]), "not a table"),
        ("rank_pattern", json!({ "a": "two" }), "no number"),
        ("alpha_pattern", json!({ "a": null }), "no number"),
    ] {
        refuse(&with(field, value), &good, "adapter_config.json", says);
    }
    let name = |end: &str| format!("base_model.model.a.{end}");
    let more = |tensor: Tensor| [&good[..], &[tensor]].concat();
    let matrix = rows(2, D_IN, 1);
    let mut nan = good.clone();
    nan[0].3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    for (tensors, says) in [
        (good[..1].to_vec(), "lora_B.weight` is missing"),
        (good[1..].to_vec(), "no `lora_A.weight`"),
        (vec![], "no module"),
        (more(tensor(&name("lora_magnitude_vector"), Dtype::F32, &matrix)), "is not a `lora_A.weight`"),
        (vec![good[0].clone(), tensor(&good[1].0, Dtype::F32, &rows(D_OUT, 3, 1))], "expected 4 x 2"),
        (nan, "NaN"),
    ] {
        refuse(&config(), &tensors, "adapter_model.safetensors", says);
    }
    std::fs::write(folder.path().join("adapter_config.json"), "[").unwrap();
    assert!(LoraAdapter::read(folder.path()).unwrap_err().to_string().contains("not a valid adapter configuration"));
    let mut two = with("alpha_pattern", json!({ "a": 1, "m.a": 2 }));
    two["rank_pattern"] = json!({});
    refuse(&two, &pair("m.a", 2, 1, Dtype::F32), "adapter_config.json", "two entries");
}

/// `U Uᵀ Delta` with the first left singular vectors of `Delta K`: no update of that rank is nearer at the keys.
#[test]
fn a_cut_at_keys_is_the_best_of_its_rank() {
    let mut random = Random::new(11);
    let (left, right): (Mat<f64>, Mat<f64>) = (random.matrix(7, 6), random.matrix(6, 12));
    let keys: Mat<f64> = random.matrix(12, 5);
    let update = Update::from_factors(left, right).unwrap();
    let asked = update.product(keys.as_ref(), SEQ).unwrap();
    let singular = asked.singular_values().unwrap();
    for rank in 1..=6 {
        let cut = update.compressed_at(rank, keys.as_ref(), SEQ).unwrap();
        let found = (cut.update.product(keys.as_ref(), SEQ).unwrap() - &asked).norm_l2();
        let best = singular.iter().skip(rank).map(|s| s * s).sum::<f64>().sqrt();
        assert!(cut.update.rank() <= rank, "{rank}");
        assert!(
            (found - best).abs() < 1e-12 * singular[0] && (found - cut.error).abs() < 1e-12 * singular[0],
            "{rank}"
        );
        let plain = update.compressed(Compression::Rank(rank), SEQ).unwrap().update;
        let lost = (plain.product(keys.as_ref(), SEQ).unwrap() - &asked).norm_l2();
        assert!(found <= lost + 1e-12 * singular[0], "{rank}: {found} {lost}");
    }
    assert!(update.compressed_at(0, keys.as_ref(), SEQ).is_err());
    assert!(update.compressed_at(2, random.matrix::<f64>(3, 1).as_ref(), SEQ).is_err());
}
