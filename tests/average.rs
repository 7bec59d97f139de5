//! Averages of checkpoints: tensors of any shape, in any number types and shards.

use std::collections::BTreeMap;
use std::path::Path;

use betaedit_core::faer::{Mat, mat};
use betaedit_core::format::Checkpoint;
use betaedit_core::{Error, Orientation, Result};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

use crate::common::safetensors_file;

const LINEAR: Orientation = Orientation::OutputsByInputs;

type Tensor = (&'static str, Dtype, Vec<usize>, Vec<u8>);

fn number(i: usize, seed: f64) -> f64 {
    // Multiples of 1/64: exact in every type.
    ((i as f64 * 0.37 + seed).sin() * 64.0).round() / 64.0
}

fn tensor(name: &'static str, dtype: Dtype, shape: &[usize], seed: f64) -> Tensor {
    let bytes = (0..shape.iter().product()).flat_map(|i| match dtype {
        Dtype::F16 => f16::from_f64(number(i, seed)).to_le_bytes().to_vec(),
        Dtype::BF16 => bf16::from_f64(number(i, seed)).to_le_bytes().to_vec(),
        Dtype::F32 => (number(i, seed) as f32).to_le_bytes().to_vec(),
        Dtype::F64 => number(i, seed).to_le_bytes().to_vec(),
        Dtype::I64 => (i as i64).to_le_bytes().to_vec(),
        other => panic!("{other}"),
    });
    (name, dtype, shape.to_vec(), bytes.collect())
}

/// A weight, a vector, a convolution, a number, an empty tensor, and whole numbers.
fn model(seed: f64, dtype: Dtype) -> Vec<Tensor> {
    vec![
        tensor("a.weight", dtype, &[2, 3], seed),
        tensor("a.bias", dtype, &[2], seed + 1.0),
        tensor("conv", Dtype::F64, &[3, 2, 2, 2], seed + 2.0),
        tensor("scale", dtype, &[], seed + 3.0),
        tensor("none", dtype, &[0, 4], seed),
        tensor("ids", Dtype::I64, &[5], seed),
        tensor("large", Dtype::F32, &[700, 400], seed + 4.0),
    ]
}

fn write(folder: &TempDir, tensors: &[Tensor]) -> Checkpoint {
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, safetensors_file(tensors)).unwrap();
    Checkpoint::open(folder).unwrap()
}

fn numbers(folder: &Path, name: &str) -> Vec<f64> {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(name).unwrap();
    match view.dtype() {
        Dtype::F32 => view.data().as_chunks().0.iter().map(|&word| f64::from(f32::from_le_bytes(word))).collect(),
        Dtype::F64 => view.data().as_chunks().0.iter().map(|&word| f64::from_le_bytes(word)).collect(),
        Dtype::I64 => view.data().as_chunks().0.iter().map(|&word| i64::from_le_bytes(word) as f64).collect(),
        other => panic!("{other}"),
    }
}

fn nothing(_: &()) -> Result<Mat<f64>> {
    unreachable!("no tensor is given")
}

#[test]
fn every_tensor_is_the_average_and_given_ones_are_as_given() {
    let folders = [(); 3].map(|()| TempDir::new().unwrap());
    let models = [model(0.0, Dtype::F32), model(5.0, Dtype::BF16), model(9.0, Dtype::F16)];
    let [first, second, third] = [0, 1, 2].map(|i| write(&folders[i], &models[i]));
    let given = mat![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]];
    let tensors = BTreeMap::from([("a.weight".to_owned(), 7)]);
    let mut asked = vec![];
    let roundings = first.average(&[second, third], &tensors, LINEAR, |&which| {
        asked.push(which);
        Ok(given.clone())
    });
    assert_eq!(roundings.unwrap().len(), 5);
    assert_eq!(asked, [7]);
    let at = folders[0].path();
    assert_eq!(numbers(at, "a.weight"), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(numbers(at, "ids"), [0.0, 1.0, 2.0, 3.0, 4.0]);
    for (name, offset, count) in [("a.bias", 1.0, 2), ("conv", 2.0, 24), ("scale", 3.0, 1), ("large", 4.0, 280_000)] {
        let found = numbers(at, name);
        assert_eq!(found.len(), count);
        for (i, found) in found.into_iter().enumerate() {
            let mean = [0.0, 5.0, 9.0].map(|seed| number(i, seed + offset)).iter().sum::<f64>() / 3.0;
            assert!((found - mean).abs() <= 1e-7, "{name} {i}: {found} {mean}");
        }
    }
}

#[test]
fn the_average_of_equal_models_is_that_model_bit_for_bit() {
    let folders = [(); 3].map(|()| TempDir::new().unwrap());
    for dtype in [Dtype::F16, Dtype::F64] {
        let mut tensors = model(1.0, dtype);
        tensors.push(tensor("odd", Dtype::F64, &[9, 9], 2.0));
        // Numbers of which three times a third is not always the number.
        tensors[7].3 = (0..81).flat_map(|i| (i as f64 * 0.1).exp().to_le_bytes()).collect();
        let [first, second, third] = [0, 1, 2].map(|i| write(&folders[i], &tensors));
        let before = std::fs::read(folders[0].path().join("model.safetensors")).unwrap();
        first.average(&[second, third], &BTreeMap::new(), LINEAR, nothing).unwrap();
        assert!(std::fs::read(folders[0].path().join("model.safetensors")).unwrap() == before);
    }
}

#[test]
fn models_that_do_not_match_are_named_and_left_alone() {
    let folders = [(); 2].map(|()| TempDir::new().unwrap());
    let good = model(0.0, Dtype::F32);
    let first = write(&folders[0], &good);
    let before = std::fs::read(folders[0].path().join("model.safetensors")).unwrap();
    let without = || good[1..].to_vec();
    let with = |tensor: Tensor| [&without()[..], &[tensor]].concat();
    let mut nan = tensor("a.weight", Dtype::F32, &[2, 3], 0.0);
    nan.3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    for (tensors, says) in [
        (without(), "there is no tensor `a.weight`"),
        ([&good[..], &[tensor("more", Dtype::F32, &[1], 0.0)]].concat(), "there is no tensor `more`"),
        (with(tensor("a.weight", Dtype::F32, &[3, 2], 0.0)), "`a.weight` has the shape [3, 2], and [2, 3]"),
        (with(tensor("a.weight", Dtype::I64, &[2, 3], 0.0)), "another kind of number"),
        (with(nan), "`a.weight` holds NaN"),
    ] {
        let other = write(&folders[1], &tensors);
        let error = first.average(&[other], &BTreeMap::new(), LINEAR, nothing).unwrap_err().to_string();
        assert!(error.contains(says), "`{error}` does not say `{says}`");
        assert!(std::fs::read(folders[0].path().join("model.safetensors")).unwrap() == before);
    }
    let same = || [write(&folders[1], &good)];
    assert!(first.average(&[], &BTreeMap::new(), LINEAR, nothing).is_err());
    let wrong = BTreeMap::from([("a.weight".to_owned(), ())]);
    let shape = first.average(&same(), &wrong, LINEAR, |()| Ok(Mat::<f64>::zeros(3, 2)));
    assert!(matches!(shape, Err(Error::Numerics(_))), "{shape:?}");
    let unknown = BTreeMap::from([("b.weight".to_owned(), ())]);
    assert!(first.average(&same(), &unknown, LINEAR, nothing).unwrap_err().to_string().contains("b.weight"));
    assert!(std::fs::read(folders[0].path().join("model.safetensors")).unwrap() == before);
}
