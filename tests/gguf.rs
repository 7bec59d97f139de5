//! Models in GGUF files, copied with edited weights, and adapters for llama.cpp. `candle` reads what is written.

use std::collections::BTreeMap;
use std::path::Path;

use betaedit_core::SecondMoment;
use betaedit_core::Update;
use betaedit_core::faer::{Mat, Par};
use betaedit_core::format::gguf::{EditedWeight, GgufModel, GgufStorage, GgufType, Importance};
use betaedit_core::format::{Updates, lora};
use candle_core::quantized::gguf_file::{self, Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use tempfile::TempDir;

use crate::common::{Random, distance};

const SEQ: Par = Par::Seq;
const D_OUT: usize = 6;
const D_IN: usize = 512;

const TYPES: [(GgmlDType, GgufType); 13] = [
    (GgmlDType::F32, GgufType::F32),
    (GgmlDType::F16, GgufType::F16),
    (GgmlDType::BF16, GgufType::Bf16),
    (GgmlDType::Q4_0, GgufType::Q4_0),
    (GgmlDType::Q4_1, GgufType::Q4_1),
    (GgmlDType::Q5_0, GgufType::Q5_0),
    (GgmlDType::Q5_1, GgufType::Q5_1),
    (GgmlDType::Q8_0, GgufType::Q8_0),
    (GgmlDType::Q2K, GgufType::Q2K),
    (GgmlDType::Q3K, GgufType::Q3K),
    (GgmlDType::Q4K, GgufType::Q4K),
    (GgmlDType::Q5K, GgufType::Q5K),
    (GgmlDType::Q6K, GgufType::Q6K),
];

fn matrix(seed: u64) -> Mat<f32> {
    let mut random = Random::new(seed);
    let numbers: Mat<f64> = random.matrix(D_OUT, D_IN);
    Mat::from_fn(D_OUT, D_IN, |i, j| (0.1 * numbers[(i, j)]) as f32)
}

fn tensor(weight: &Mat<f32>, kind: GgmlDType) -> QTensor {
    let rows: Vec<f32> = weight.row_iter().flat_map(|row| row.iter().copied().collect::<Vec<_>>()).collect();
    QTensor::quantize(&Tensor::from_vec(rows, weight.shape(), &Device::Cpu).unwrap(), kind).unwrap()
}

/// A file with the weights `a`, `b` and `c` in a type, a norm between them, and some metadata.
fn model(path: &Path, kind: GgmlDType, entries: &[(&str, &Value)]) {
    let weights = [1, 2, 3].map(|seed| tensor(&matrix(seed), kind));
    let norm =
        QTensor::quantize(&Tensor::ones(7, candle_core::DType::F32, &Device::Cpu).unwrap(), GgmlDType::F32).unwrap();
    let names = Value::Array(["one", "two"].map(|name| Value::String(name.into())).into());
    let (text, flag) = (Value::String("llama".into()), Value::Bool(true));
    let mut metadata = vec![("general.architecture", &text), ("a.list", &names), ("a.flag", &flag)];
    metadata.extend(entries);
    let tensors = [("a", &weights[0]), ("norm", &norm), ("b", &weights[1]), ("c", &weights[2])];
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

/// Writes a file again, with its tensors at multiples of a number, which candle's writer does not do.
fn align(path: &Path, alignment: u32) {
    let mut file = std::fs::File::open(path).unwrap();
    let content = Content::read(&mut file).unwrap();
    let mut tensors: Vec<_> = content.tensor_infos.iter().collect();
    tensors.sort_by_key(|(_, info)| info.offset);
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let multiple = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(alignment as usize), 0);
    let (mut list, mut data) = (vec![], vec![]);
    for (name, info) in &tensors {
        let tensor = content.tensor(&mut file, name, &Device::Cpu).unwrap();
        list.extend([text(name), (info.shape.rank() as u32).to_le_bytes().into()].concat());
        info.shape.dims().iter().rev().for_each(|n| list.extend((*n as u64).to_le_bytes()));
        let id: u32 = if tensor.dtype() == GgmlDType::F32 { 0 } else { 12 };
        list.extend(id.to_le_bytes());
        list.extend((data.len() as u64).to_le_bytes());
        data.extend(&*tensor.data().unwrap());
        multiple(&mut data);
    }
    let mut bytes =
        [b"GGUF", &3_u32.to_le_bytes(), &(tensors.len() as u64).to_le_bytes()[..], &3_u64.to_le_bytes()].concat();
    for (name, value) in [("general.architecture", "llama"), ("a.list", "a list")] {
        bytes.extend([text(name), 8_u32.to_le_bytes().into(), text(value)].concat());
    }
    bytes.extend([text("general.alignment"), 4_u32.to_le_bytes().into(), alignment.to_le_bytes().into()].concat());
    bytes.extend(list);
    multiple(&mut bytes);
    bytes.extend(data);
    std::fs::write(path, bytes).unwrap();
}

/// A weight as `candle` reads it, and its type.
fn read(path: &Path, name: &str) -> (Mat<f32>, GgmlDType) {
    let mut file = std::fs::File::open(path).unwrap();
    let content = Content::read(&mut file).unwrap();
    let tensor = content.tensor(&mut file, name, &Device::Cpu).unwrap();
    let (rows, cols) = tensor.shape().dims2().unwrap();
    let numbers: Vec<f32> = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    (Mat::from_fn(rows, cols, |i, j| numbers[i * cols + j]), tensor.dtype())
}

fn plain(weight: Mat<f32>) -> EditedWeight {
    EditedWeight { weight, importance: None }
}

fn of(names: &[&str]) -> BTreeMap<String, String> {
    names.iter().map(|name| ((*name).to_owned(), (*name).to_owned())).collect()
}

fn at(folder: &TempDir, name: &str) -> std::path::PathBuf {
    folder.path().join(name)
}

/// In its own type, a weight that is on the grid keeps its bytes, and one that is not gets the nearest points of the grid.
#[test]
fn every_type_is_written_as_candle_reads_it() {
    let folder = TempDir::new().unwrap();
    let (path, out) = (at(&folder, "model.gguf"), at(&folder, "out.gguf"));
    for (candle, kind) in TYPES {
        model(&path, candle, &[]);
        let before = GgufModel::open(&path).unwrap();
        assert_eq!((before.kind("b").unwrap(), before.names().count()), (kind, 4));
        let same = |name: &String| Ok(plain(read(&path, name).0));
        let survived = before.write_edited(&out, &of(&["a", "b"]), GgufStorage::Own, same, SEQ).unwrap();
        assert!(std::fs::read(&path).unwrap() == std::fs::read(&out).unwrap(), "{kind}");
        assert!(survived["a"].asked < 1e-6 && survived["a"].share() > 0.99 || survived["a"].asked > 0.0, "{kind}");

        let (old, change) = (read(&path, "b").0, matrix(9));
        let wanted = Mat::from_fn(D_OUT, D_IN, |i, j| old[(i, j)] + 0.2 * change[(i, j)]);
        let edited = |_: &String| Ok(plain(wanted.clone()));
        let survival = before.write_edited(&out, &of(&["b"]), GgufStorage::Own, edited, SEQ).unwrap()["b"];
        let (new, stored) = read(&out, "b");
        assert_eq!((stored, survival.kind), (candle, kind));
        for (i, j) in (0..D_OUT).flat_map(|i| (0..D_IN).map(move |j| (i, j))) {
            let [after, before] = [&new, &old].map(|weight| (weight[(i, j)] - wanted[(i, j)]).abs());
            assert!(after <= before + 1e-6, "{kind} ({i}, {j}): {after} {before}");
        }
        let error = (&new - &wanted).norm_l2();
        assert!(
            (f64::from(error) - survival.error).abs() <= 1e-5 * survival.error.max(1e-2),
            "{kind} {error} {survival:?}"
        );
        // Every other byte is as it was.
        for name in ["a", "c"] {
            assert_eq!(read(&out, name).0, read(&path, name).0);
        }
        let [bytes, copy] = [&path, &out].map(|path| std::fs::read(path).unwrap());
        let first = bytes.iter().zip(&copy).position(|(one, other)| one != other).unwrap();
        assert!(bytes.len() == copy.len() && first > 200, "{kind}");
    }
}

/// Where keys are given, the edit is kept at the keys, and the text's outputs move no more than the edit itself.
#[test]
fn rounding_keeps_an_edit_at_its_keys() {
    let folder = TempDir::new().unwrap();
    let (path, out) = (at(&folder, "model.gguf"), at(&folder, "out.gguf"));
    let mut random = Random::new(5);
    let keys: Mat<f64> = random.matrix(D_IN, 3);
    let text: Mat<f64> = random.matrix(D_IN, 2 * D_IN);
    let mut moment = SecondMoment::new(D_IN);
    moment.observe(text.as_ref(), SEQ).unwrap();
    for (candle, kind) in TYPES.into_iter().filter(|(_, kind)| kind.block() > 1) {
        model(&path, candle, &[]);
        let old = read(&path, "b").0;
        // A small change, of rank 3, in the direction of the keys.
        let left: Mat<f64> = random.matrix(D_OUT, 3);
        let wanted = Mat::from_fn(D_OUT, D_IN, |i, j| {
            old[(i, j)] + (0..3).map(|k| 0.004 * left[(i, k)] * keys[(j, k)]).sum::<f64>() as f32
        });
        let mut lost = vec![];
        for par in [SEQ, Par::rayon(2)] {
            let model = GgufModel::open(&path).unwrap();
            let edited = |_: &String| {
                let importance = Importance::new(keys.as_ref(), &moment, 1.0, par)?;
                Ok(EditedWeight { weight: wanted.clone(), importance: Some(importance) })
            };
            let survival = model.write_edited(&out, &of(&["b"]), GgufStorage::Own, edited, par).unwrap()["b"];
            lost.push(survival.lost_at_keys.unwrap());
            assert_eq!(survival.share(), 1.0 - survival.lost_at_keys.unwrap());
        }
        let new = read(&out, "b").0;
        let exact = |weight: &Mat<f32>| {
            Mat::from_fn(D_OUT, D_IN, |i, j| f64::from(weight[(i, j)]) - f64::from(wanted[(i, j)])) * &keys
        };
        let (found, all) = (exact(&new).norm_l2(), exact(&old).norm_l2());
        assert!((found / all - lost[1]).abs() < 1e-3, "{kind}: {found} {all} {lost:?}");
        assert!((lost[0] - lost[1]).abs() < 0.02, "{kind} {lost:?}");
        assert!(lost[1] < 0.1, "{kind} {lost:?}");
    }
}

/// In f16 or f32 the tensors move, and nothing else changes.
#[test]
fn edited_weights_are_stored_in_larger_types() {
    let folder = TempDir::new().unwrap();
    let (path, out) = (at(&folder, "model.gguf"), at(&folder, "out.gguf"));
    for alignment in [None, Some(128)] {
        model(&path, GgmlDType::Q4K, &[]);
        if let Some(alignment) = alignment {
            align(&path, alignment);
        }
        let model = GgufModel::open(&path).unwrap();
        for (storage, kind, most) in [(GgufStorage::F16, GgmlDType::F16, 1e-3), (GgufStorage::F32, GgmlDType::F32, 0.0)]
        {
            let edited = |name: &String| Ok(plain(matrix(name.len() as u64 + 40)));
            let survived = model.write_edited(&out, &of(&["a", "c"]), storage, edited, SEQ).unwrap();
            for name in ["a", "c"] {
                let (weight, stored) = read(&out, name);
                assert_eq!(stored, kind);
                let apart = distance(weight.as_ref(), matrix(41).as_ref());
                assert!(apart <= most && survived[name].error <= 10.0 * most, "{apart} {survived:?}");
            }
            assert_eq!(read(&out, "b"), read(&path, "b"));
            let header = |path| Content::read(&mut std::fs::File::open(path).unwrap()).unwrap();
            let (there, here) = (header(&path), header(&out));
            assert_eq!(format!("{:?}", there.metadata.get("a.list")), format!("{:?}", here.metadata.get("a.list")));
            assert_eq!(there.metadata.len(), here.metadata.len());
        }
    }
    assert_eq!(GgufStorage::ALL.iter().map(ToString::to_string).collect::<Vec<_>>(), ["own", "f16", "f32"]);
}

/// A model in two parts is written in two parts.
#[test]
fn a_model_in_parts_is_written_in_parts() {
    let folder = TempDir::new().unwrap();
    let part = |name: &str, number: usize| at(&folder, &format!("{name}-{number:05}-of-00002.gguf"));
    model(&part("model", 1), GgmlDType::Q8_0, &[]);
    let weight = tensor(&matrix(8), GgmlDType::Q8_0);
    let text = Value::String("a part".into());
    let mut file = std::fs::File::create(part("model", 2)).unwrap();
    gguf_file::write(&mut file, &[("general.name", &text)], &[("d", &weight)]).unwrap();
    let model = GgufModel::open(part("model", 2)).unwrap();
    assert_eq!((model.files().count(), model.names().count()), (2, 5));
    let edited = |_: &String| Ok(plain(matrix(60)));
    model.write_edited(at(&folder, "new.gguf"), &of(&["b", "d"]), GgufStorage::F32, edited, SEQ).unwrap();
    assert_eq!(model.places(at(&folder, "new.gguf")), [part("new", 1), part("new", 2)]);
    assert_eq!(read(&part("new", 1), "b"), (matrix(60), GgmlDType::F32));
    assert_eq!(read(&part("new", 2), "d"), (matrix(60), GgmlDType::F32));
    assert_eq!(read(&part("new", 1), "a"), read(&part("model", 1), "a"));

    let own = model.write_edited(part("model", 1), &of(&["b"]), GgufStorage::F32, edited, SEQ).unwrap_err();
    assert!(own.to_string().contains("the model itself"), "{own}");
    std::fs::remove_file(part("model", 1)).unwrap();
    let missing = GgufModel::open(part("model", 2)).unwrap_err().to_string();
    assert!(missing.contains("model-00001-of-00002.gguf") && missing.contains("missing"), "{missing}");
}

#[test]
fn what_cannot_be_written_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let (path, out) = (at(&folder, "model.gguf"), at(&folder, "out.gguf"));
    model(&path, GgmlDType::Q8_1, &[]);
    let open = || GgufModel::open(&path).unwrap();
    let write = |name: &str, weight: Mat<f32>| {
        let edited = |_: &String| Ok(plain(weight.clone()));
        let written = open().write_edited(&out, &of(&[name]), GgufStorage::Own, edited, SEQ);
        written.unwrap_err().to_string()
    };
    assert!(write("b", matrix(1)).contains("`b` is of type 9, which is not written"));
    assert!(write("x", matrix(1)).contains("there is no tensor `x`"));
    model(&path, GgmlDType::F16, &[]);
    assert!(write("b", Mat::zeros(2, 3)).contains("`b`"));
    assert!(write("norm", Mat::zeros(1, 7)).contains("1 dimensions"));
    assert!(write("b", Mat::full(D_OUT, D_IN, 1e6)).contains("f16"));
    assert!(write("b", Mat::full(D_OUT, D_IN, f32::NAN)).contains("NaN"));
    assert!(open().write_edited(&out, &of(&[]), GgufStorage::Own, |_| Ok(plain(matrix(1))), SEQ).is_err());
    assert!(!out.exists());

    let bytes = std::fs::read(&path).unwrap();
    for (cut, says) in [(3, "ends in its header"), (60, "ends in its header"), (bytes.len() - 40, "cut off")] {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let error = GgufModel::open(&path).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("model.gguf"), "{cut}: {error}");
    }
    for (place, byte, says) in [(0, b'X', "does not begin"), (4, 9, "does not begin"), (15, 200, "are announced")] {
        let mut bytes = bytes.clone();
        bytes[place] = byte;
        std::fs::write(&path, &bytes).unwrap();
        let error = GgufModel::open(&path).unwrap_err().to_string();
        assert!(error.contains(says), "{place}: {error}");
    }
    let moment = SecondMoment::new(3);
    assert!(Importance::new(Mat::<f64>::zeros(2, 1).as_ref(), &moment, 1.0, SEQ).is_err());
    assert!(Importance::new(Mat::<f64>::zeros(3, 1).as_ref(), &moment, -1.0, SEQ).is_err());
}

/// No byte of a header makes the reader panic, or allocate what is not there.
#[test]
fn damaged_headers_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = at(&folder, "model.gguf");
    model(&path, GgmlDType::Q4_0, &[]);
    let bytes = std::fs::read(&path).unwrap();
    for place in 0..300 {
        for byte in [0, 1, 127, 255] {
            let mut bytes = bytes.clone();
            bytes[place] = byte;
            std::fs::write(&path, &bytes).unwrap();
            let _ = GgufModel::open(&path);
        }
    }
}

/// llama.cpp adds `lora_b lora_a` times alpha / rank.
#[test]
fn an_adapter_for_llama_cpp_is_the_updates() {
    let folder = TempDir::new().unwrap();
    let path = at(&folder, "edits.gguf");
    let update = |rank, seed| {
        let mut random = Random::new(seed);
        let (left, right): (Mat<f64>, Mat<f64>) = (random.matrix(D_OUT, rank), random.matrix(rank, 32));
        let narrow = |matrix: Mat<f64>| Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)] as f32);
        Update::from_factors(narrow(left), narrow(right)).unwrap()
    };
    let names = [7, 10].map(|layer| format!("blk.{layer}.ffn_down.weight"));
    let updates = Updates::from([(names[0].clone(), update(3, 1)), (names[1].clone(), update(1, 2))]);
    lora::write_gguf(&path, &updates, "qwen3").unwrap();
    let content = Content::read(&mut std::fs::File::open(&path).unwrap()).unwrap();
    let text = |name: &str| content.metadata[name].to_string().unwrap().clone();
    assert_eq!(
        [text("general.type"), text("general.architecture"), text("adapter.type")],
        ["adapter", "qwen3", "lora"]
    );
    let alpha = content.metadata["adapter.lora.alpha"].to_f32().unwrap();
    assert_eq!(content.tensor_infos.len(), 4);
    for (name, update) in &updates {
        let [a, b] = ["a", "b"].map(|side| read(&path, &format!("{name}.lora_{side}")).0);
        assert_eq!((a.shape(), b.shape()), ((3, 32), (D_OUT, 3)));
        assert!(
            distance((b * a * betaedit_core::faer::Scale(alpha / 3.0)).as_ref(), update.to_dense(SEQ).as_ref()) < 1e-6
        );
    }
    assert!(lora::write_gguf(&path, &Updates::<f32>::new(), "llama").is_err());
    let unnamed = Updates::from([("blk.7.ffn_down".to_owned(), update(1, 1))]);
    let error = lora::write_gguf(&path, &unnamed, "llama").unwrap_err().to_string();
    assert!(error.contains("edits.gguf") && error.contains("must end in `.weight`"), "{error}");
}

/// mlx_lm adds `scale (lora_a lora_b)ᵀ`, with one scale and one rank.
#[test]
fn an_adapter_for_mlx_is_the_updates() {
    let folder = TempDir::new().unwrap();
    let update = |rank: usize| {
        let number = |i: usize, j: usize| (i + 2 * j) as f32;
        Update::from_factors(Mat::from_fn(4, rank, number), Mat::from_fn(rank, 5, number)).unwrap()
    };
    let updates = Updates::from([("m.1.down.weight".to_owned(), update(2)), ("m.2.down.weight".to_owned(), update(1))]);
    lora::write_mlx(folder.path(), &updates, "org/model").unwrap();
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(at(&folder, "adapter_config.json")).unwrap()).unwrap();
    let parameters = &config["lora_parameters"];
    assert_eq!((config["fine_tune_type"].as_str(), config["num_layers"].as_u64()), (Some("lora"), Some(0)));
    assert_eq!((parameters["rank"].as_u64(), parameters["scale"].as_f64()), (Some(2), Some(1.0)));
    assert_eq!(parameters["keys"], serde_json::json!(["m.1.down", "m.2.down"]));
    let bytes = std::fs::read(at(&folder, "adapters.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let matrix = |name: &str| {
        let view = file.tensor(name).unwrap();
        let numbers: Vec<f32> = view.data().chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
        let cols = view.shape()[1];
        Mat::from_fn(view.shape()[0], cols, |i, j| numbers[i * cols + j])
    };
    for (name, update) in &updates {
        let module = name.trim_end_matches(".weight");
        let [a, b] = ["a", "b"].map(|side| matrix(&format!("{module}.lora_{side}")));
        assert_eq!((a.shape(), b.shape()), ((5, 2), (2, 4)));
        assert_eq!((a * b).transpose().to_owned(), update.to_dense(SEQ));
    }
}
