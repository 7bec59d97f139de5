//! Checkpoints: one tensor changes, everything else stays as it was, byte for byte.

use std::collections::BTreeMap;
use std::path::PathBuf;

use betaedit_core::error::{FileError, NumericsError};
use betaedit_core::faer::{Mat, Par};
use betaedit_core::format::{Checkpoint, Precision, Updates};
use betaedit_core::{Error, Orientation, Update};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

use crate::common::{distance, safetensors_file};

const SEQ: Par = Par::Seq;
const LINEAR: Orientation = Orientation::OutputsByInputs;
const CONV1D: Orientation = Orientation::InputsByOutputs;

type Tensor = (&'static str, Dtype, Vec<usize>, Vec<u8>);

fn number(i: usize) -> f64 {
    (i as f64 * 0.37).sin() * 2.0
}

fn tensor(name: &'static str, dtype: Dtype, rows: usize, cols: usize) -> Tensor {
    let bytes = (0..rows * cols).flat_map(|i| match dtype {
        Dtype::F16 => f16::from_f64(number(i)).to_le_bytes().to_vec(),
        Dtype::BF16 => bf16::from_f64(number(i)).to_le_bytes().to_vec(),
        Dtype::F32 => (number(i) as f32).to_le_bytes().to_vec(),
        Dtype::F64 => number(i).to_le_bytes().to_vec(),
        Dtype::I64 => (i as i64).to_le_bytes().to_vec(),
        other => panic!("{other}"),
    });
    (name, dtype, vec![rows, cols], bytes.collect())
}

/// Two shards: weights of every type, the square one among them, a table of integers.
struct Sharded(TempDir);

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

impl Sharded {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let shards = [
            vec![
                tensor("h.0.weight", Dtype::F32, 6, 10),
                tensor("h.1.weight", Dtype::BF16, 6, 10),
                tensor("ids", Dtype::I64, 3, 3),
            ],
            vec![
                tensor("h.2.weight", Dtype::F16, 10, 6),
                tensor("h.3.weight", Dtype::F64, 8, 8),
                tensor("h.4.weight", Dtype::BF16, 300, 700),
            ],
        ];
        let mut map = serde_json::Map::new();
        for (name, shard) in SHARDS.iter().zip(&shards) {
            std::fs::write(folder.path().join(name), safetensors_file(shard)).unwrap();
            map.extend(shard.iter().map(|(tensor, ..)| ((*tensor).to_owned(), (*name).into())));
        }
        let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map });
        std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
        Self(folder)
    }

    fn bytes(&self) -> Vec<Vec<u8>> {
        SHARDS.iter().map(|name| std::fs::read(self.0.path().join(name)).unwrap()).collect()
    }

    fn names(&self) -> Vec<PathBuf> {
        let mut names: Vec<_> = std::fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names
    }
}

/// Where a tensor is in its file, by the format's own library.
fn place(bytes: &[u8], name: &str) -> std::ops::Range<usize> {
    let start = 8 + SafeTensors::read_metadata(bytes).unwrap().0;
    let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
    let (from, to) = metadata.info(name).unwrap().data_offsets;
    start + from..start + to
}

fn update(d_out: usize, d_in: usize) -> Update<f32> {
    let left = Mat::from_fn(d_out, 2, |i, j| (number(i + 50 * j) * 0.1) as f32);
    Update::from_factors(left, Mat::from_fn(2, d_in, |i, j| number(7 * i + j) as f32)).unwrap()
}

#[test]
fn weights_of_every_type_and_orientation_are_read() {
    let sharded = Sharded::new();
    let checkpoint = Checkpoint::open(sharded.0.path()).unwrap();
    let index = Checkpoint::open(sharded.0.path().join("model.safetensors.index.json")).unwrap();
    assert!(index.names().eq(checkpoint.names()));
    let names: Vec<_> = checkpoint.names().collect();
    assert_eq!(names, ["h.0.weight", "h.1.weight", "h.2.weight", "h.3.weight", "h.4.weight", "ids"]);
    let precisions = [Precision::F32, Precision::Bf16, Precision::F16, Precision::F64, Precision::Bf16];
    for (name, precision) in names.iter().zip(precisions) {
        assert_eq!(checkpoint.precision(name).unwrap(), precision);
        let error = [0.0, 2e-7, 2e-3, 2e-2].into_iter().find(|error| {
            let weight: Mat<f64> = checkpoint.weight(name, LINEAR).unwrap();
            let cols = weight.ncols();
            let expected = Mat::from_fn(weight.nrows(), cols, |i, j| number(i * cols + j));
            (weight - expected).norm_max() <= *error
        });
        let allowed = match precision {
            Precision::F64 => 0.0,
            Precision::F32 => 2e-7,
            Precision::F16 => 2e-3,
            Precision::Bf16 => 2e-2,
        };
        assert_eq!(error, Some(allowed), "{name}");
        // The same numbers the other way round.
        let [linear, conv1d] = [LINEAR, CONV1D].map(|way| checkpoint.weight::<f32>(name, way).unwrap());
        assert_eq!(linear, conv1d.transpose());
        assert_eq!(checkpoint.shape(name, CONV1D).unwrap(), conv1d.shape());
    }
    assert!(checkpoint.weight::<f32>("ids", LINEAR).unwrap_err().to_string().contains("I64"));
    assert!(checkpoint.weight::<f32>("h.9.weight", LINEAR).unwrap_err().to_string().contains("`h.9.weight`"));
}

#[test]
fn a_patch_changes_its_tensors_and_no_other_byte() {
    for way in [LINEAR, CONV1D] {
        let sharded = Sharded::new();
        let (before, names) = (sharded.bytes(), sharded.names());
        let checkpoint = Checkpoint::open(sharded.0.path()).unwrap();
        let patched = ["h.0.weight", "h.1.weight", "h.2.weight", "h.3.weight", "h.4.weight"];
        let updates: Updates<f32> = patched
            .iter()
            .map(|name| {
                let (d_out, d_in) = checkpoint.shape(name, way).unwrap();
                ((*name).to_owned(), update(d_out, d_in))
            })
            .collect();
        for some in [&patched[1..2], &patched[..]] {
            let some: Updates<f32> = some.iter().map(|name| ((*name).to_owned(), updates[*name].clone())).collect();
            let old: Vec<Mat<f64>> = some.keys().map(|name| checkpoint.weight(name, way).unwrap()).collect();
            let roundings = checkpoint.apply(&some, way, SEQ).unwrap();
            for ((name, update), old) in some.iter().zip(&old) {
                // The oracle: dense, in f64, rounded by nobody.
                let exact = old + update.cast::<f64>().unwrap().to_dense(SEQ);
                let new: Mat<f64> = checkpoint.weight(name, way).unwrap();
                let (rounding, error) = (roundings[name], &new - &exact);
                assert!((rounding.error - error.norm_l2()).abs() < 1e-12, "{rounding:?}");
                assert!((rounding.largest - error.norm_max()).abs() < 1e-12);
                assert!((rounding.asked - (exact - old).norm_l2()).abs() < 1e-12);
                let unit = match checkpoint.precision(name).unwrap() {
                    Precision::Bf16 => 2e-3,
                    Precision::F16 => 3e-4,
                    Precision::F32 => 4e-8,
                    Precision::F64 => 1e-16,
                };
                assert!(error.norm_l2() <= unit * new.norm_l2(), "{name}: {rounding:?}");
                assert_eq!(rounding.share() > 0.0, rounding.precision != Precision::F64);
            }
        }
        assert_eq!(sharded.names(), names);
        for ((before, after), shard) in before.iter().zip(sharded.bytes()).zip(SHARDS) {
            assert_eq!(before.len(), after.len());
            let mut expected = before.clone();
            for name in SafeTensors::deserialize(before).unwrap().names() {
                if name != "ids" {
                    expected[place(before, name)].copy_from_slice(&after[place(before, name)]);
                }
            }
            assert!(after == expected, "{shard}");
        }
        // Taken back, to the last bits.
        checkpoint.revert(&updates, way, SEQ).unwrap();
        let again = checkpoint.weight::<f64>("h.3.weight", way).unwrap();
        let start = Mat::from_fn(8, 8, |i, j| number(if way == LINEAR { 8 * i + j } else { 8 * j + i }));
        assert!(distance(again.as_ref(), start.as_ref()) < 1e-15);
    }
}

/// A square weight is changed as the caller says, whatever its shape would suggest.
#[test]
fn a_square_weight_is_patched_the_way_that_is_said() {
    let delta = update(8, 8).cast::<f64>().unwrap().to_dense(SEQ);
    for way in [LINEAR, CONV1D] {
        let sharded = Sharded::new();
        let checkpoint = Checkpoint::open(sharded.0.path()).unwrap();
        let old = checkpoint.weight::<f64>("h.3.weight", LINEAR).unwrap();
        checkpoint.apply(&Updates::from([("h.3.weight".to_owned(), update(8, 8))]), way, SEQ).unwrap();
        let change = checkpoint.weight::<f64>("h.3.weight", LINEAR).unwrap() - old;
        let expected = if way == LINEAR { delta.as_ref() } else { delta.transpose() };
        assert!(distance(change.as_ref(), expected) < 1e-15);
    }
}

#[test]
fn a_refused_patch_leaves_everything_as_it_was() {
    let sharded = Sharded::new();
    let (before, names) = (sharded.bytes(), sharded.names());
    let checkpoint = Checkpoint::open(sharded.0.path()).unwrap();
    let good = ("h.0.weight".to_owned(), update(6, 10));
    let huge = Update::from_factors(Mat::full(10, 1, 1e5_f32), Mat::full(1, 6, 1.0)).unwrap();
    for (name, bad, text) in [
        ("h.2.weight", huge, "left the range of f16"),
        ("h.2.weight", update(6, 10), "`update` is 6 x 10, expected 10 x 6"),
        ("h.7.weight", update(6, 10), "no tensor `h.7.weight`"),
        ("ids", update(3, 3), "I64"),
    ] {
        let updates = Updates::from([good.clone(), (name.to_owned(), bad)]);
        let error = checkpoint.apply(&updates, LINEAR, SEQ).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
        assert!(sharded.bytes() == before && sharded.names() == names);
    }
    let nothing = checkpoint.apply::<f32>(&Updates::new(), LINEAR, SEQ);
    assert!(matches!(nothing, Err(Error::Numerics(NumericsError::Empty { argument: "updates", .. }))));
    // A weight that is damaged is not made worse.
    let path = sharded.0.path().join(SHARDS[1]);
    let mut damaged = before[1].clone();
    let at = place(&damaged, "h.4.weight").start + 2 * (250 * 700 + 3);
    damaged[at..at + 2].copy_from_slice(&bf16::NAN.to_le_bytes());
    std::fs::write(&path, &damaged).unwrap();
    let updates = Updates::from([good, ("h.4.weight".to_owned(), update(300, 700))]);
    let error = checkpoint.apply(&updates, LINEAR, SEQ).unwrap_err().to_string();
    assert!(error.contains("`h.4.weight`") && error.contains("NaN at row 250, column 3"), "{error}");
    assert!(sharded.bytes() == [before[0].clone(), damaged] && sharded.names() == names);
    assert!(checkpoint.weight::<f32>("h.4.weight", LINEAR).unwrap_err().to_string().contains("row 250, column 3"));
}

/// All at once or one after the other: the same bytes. Each weight is asked for once, in the order of the file.
#[test]
fn weights_replaced_together_are_those_replaced_one_by_one() {
    for way in [LINEAR, CONV1D] {
        let (together, one_by_one) = (Sharded::new(), Sharded::new());
        let [all, single] = [&together, &one_by_one].map(|sharded| Checkpoint::open(sharded.0.path()).unwrap());
        let names = ["h.4.weight", "h.0.weight", "h.1.weight", "h.2.weight", "h.3.weight"];
        let weights = names.map(|name| {
            let (d_out, d_in) = all.shape(name, way).unwrap();
            update(d_out, d_in).to_dense(SEQ)
        });
        let tensors: BTreeMap<String, usize> = (0..names.len()).map(|at| (names[at].to_owned(), at)).collect();
        let mut asked = vec![];
        let roundings = all.replace_all(&tensors, way, |&at| {
            asked.push(names[at]);
            Ok(weights[at].clone())
        });
        let roundings = roundings.unwrap();
        asked.sort_unstable();
        assert_eq!(asked, ["h.0.weight", "h.1.weight", "h.2.weight", "h.3.weight", "h.4.weight"]);
        for (name, weight) in names.iter().zip(&weights) {
            assert_eq!(single.replace(name, weight.as_ref(), way).unwrap(), roundings[*name], "{name}");
        }
        assert!(together.bytes() == one_by_one.bytes());
    }
}

#[test]
fn weights_that_cannot_be_replaced_together_leave_everything_as_it_was() {
    let sharded = Sharded::new();
    let (before, names) = (sharded.bytes(), sharded.names());
    let checkpoint = Checkpoint::open(sharded.0.path()).unwrap();
    let both = |second: &str| BTreeMap::from([("h.0.weight".to_owned(), 0), (second.to_owned(), 1)]);
    let good = update(6, 10).to_dense(SEQ);
    let mut poisoned = Mat::<f32>::zeros(10, 6);
    poisoned[(3, 1)] = f32::INFINITY;
    for (second, weight, text) in [
        ("h.2.weight", Ok(Mat::full(10, 6, 1e5_f32)), "left the range of f16"),
        ("h.2.weight", Ok(poisoned), "row 3, column 1"),
        ("h.2.weight", Ok(Mat::zeros(6, 10)), "`weight` is 6 x 10, expected 10 x 6"),
        ("h.2.weight", Err(NumericsError::Empty { argument: "the model", item: "layer" }), "the model"),
        ("h.7.weight", Ok(Mat::zeros(6, 10)), "no tensor `h.7.weight`"),
        ("ids", Ok(Mat::zeros(3, 3)), "I64"),
    ] {
        let mut weights = [Some(Ok(good.clone())), Some(weight)];
        let replaced = checkpoint.replace_all(&both(second), LINEAR, |&at| Ok(weights[at].take().unwrap()?));
        let error = replaced.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
        assert!(sharded.bytes() == before && sharded.names() == names);
    }
    let nothing = checkpoint.replace_all(&BTreeMap::<String, ()>::new(), LINEAR, |()| Ok(good.clone()));
    assert!(matches!(nothing, Err(Error::Numerics(NumericsError::Empty { argument: "tensors", .. }))));
}

/// In the cache of `huggingface_hub` the files of a model are links to blobs that other revisions share.
#[cfg(unix)]
#[test]
fn a_link_is_replaced_and_its_target_is_left_alone() {
    let sharded = Sharded::new();
    let snapshot = TempDir::new().unwrap();
    for path in sharded.names() {
        std::os::unix::fs::symlink(&path, snapshot.path().join(path.file_name().unwrap())).unwrap();
    }
    let before = sharded.bytes();
    let checkpoint = Checkpoint::open(snapshot.path()).unwrap();
    checkpoint.apply(&Updates::from([("h.1.weight".to_owned(), update(6, 10))]), LINEAR, SEQ).unwrap();
    assert!(sharded.bytes() == before);
    assert!(!snapshot.path().join(SHARDS[0]).is_symlink() && snapshot.path().join(SHARDS[1]).is_symlink());
    let after = checkpoint.weight::<f32>("h.1.weight", LINEAR).unwrap();
    assert!(after != Checkpoint::open(sharded.0.path()).unwrap().weight::<f32>("h.1.weight", LINEAR).unwrap());
}

/// Every number that half precision has, and what lies at, just below and just above the middle of two: the nearest is
/// stored, of two the even one. The oracle compares distances.
#[test]
fn half_precision_is_rounded_once_and_to_nearest_even() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    for dtype in [Dtype::F16, Dtype::BF16] {
        let value = |bits: u16| match dtype {
            Dtype::F16 => f16::from_bits(bits).to_f64(),
            _ => bf16::from_bits(bits).to_f64(),
        };
        let finite: Vec<u16> = (0..0x7FFF_u16).take_while(|bits| value(*bits).is_finite()).collect();
        let (mut numbers, mut expected) = (vec![], vec![]);
        for pair in finite.windows(2) {
            let (low, high) = (value(pair[0]), value(pair[1]));
            let middle = low + (high - low) / 2.0;
            let even = if pair[0] & 1 == 0 { low } else { high };
            let (below, above) = (middle.next_down(), middle.next_up());
            for (x, nearest) in [(low, low), (middle, even), (below, low), (above, high)] {
                assert!((x - nearest).abs() <= (x - low).abs().min((high - x).abs()));
                numbers.extend([x, -x]);
                expected.extend([nearest, -nearest]);
            }
        }
        let n = numbers.len();
        let zeros = safetensors_file(&[("w.weight", dtype, vec![n / 2, 2], vec![0; 2 * n])]);
        std::fs::write(&path, zeros).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let weight = Mat::from_fn(n / 2, 2, |i, j| numbers[2 * i + j]);
        let rounding = checkpoint.replace("w.weight", weight.as_ref(), LINEAR).unwrap();
        let stored = checkpoint.weight::<f64>("w.weight", LINEAR).unwrap();
        for i in 0..n {
            assert_eq!(stored[(i / 2, i % 2)], expected[i], "{dtype}: {:e}", numbers[i]);
        }
        assert!((rounding.largest - (stored - &weight).norm_max()).abs() <= 1e-12 * rounding.largest);
        // Beyond the middle of the largest number and the next, there is none.
        let largest = value(*finite.last().unwrap());
        let beyond = Mat::full(n / 2, 2, largest * 1.01);
        let error = checkpoint.replace("w.weight", beyond.as_ref(), LINEAR).unwrap_err();
        assert!(error.to_string().contains("range of"), "{error}");
    }
}

#[test]
fn an_index_points_nowhere_but_beside_itself() {
    let folder = TempDir::new().unwrap();
    let inner = folder.path().join("model");
    std::fs::create_dir(&inner).unwrap();
    let outside = folder.path().join("outside.safetensors");
    std::fs::write(&outside, safetensors_file(&[tensor("w.weight", Dtype::F32, 2, 2)])).unwrap();
    std::fs::copy(&outside, inner.join("inside.safetensors")).unwrap();
    let index = inner.join("model.safetensors.index.json");
    let open = |file: &str| {
        std::fs::write(&index, serde_json::json!({ "weight_map": { "w.weight": file } }).to_string()).unwrap();
        Checkpoint::open(&inner)
    };
    assert!(open("inside.safetensors").unwrap().weight::<f32>("w.weight", LINEAR).is_ok());
    let absolute = outside.to_str().unwrap();
    for file in [
        "../outside.safetensors",
        absolute,
        "./../outside.safetensors",
        "sub/../../outside.safetensors",
        "..\\outside.safetensors",
        "C:outside.safetensors",
        "C:\\outside.safetensors",
        "inside.safetensors/../../outside.safetensors",
        "sub/inside.safetensors",
        "./inside.safetensors",
        "inside.safetensors/",
        "inside.safetensors\0",
        "..",
        ".",
        "",
        "config.json",
    ] {
        let error = open(file).unwrap_err();
        let Error::File(FileError::Format { path, problem }) = &error else { panic!("{error:?}") };
        assert!(path == &index && problem.contains("`w.weight`"), "{error}");
    }
    // A tensor that is not where the index has it.
    let index_text = serde_json::json!({ "weight_map": { "v.weight": "inside.safetensors" } }).to_string();
    std::fs::write(&index, index_text).unwrap();
    let error = Checkpoint::open(&inner).unwrap().weight::<f32>("v.weight", LINEAR).unwrap_err();
    assert!(error.to_string().contains("inside.safetensors: tensor `v.weight` is missing"), "{error}");
}

#[test]
fn a_checkpoint_that_is_not_there_is_named() {
    let folder = TempDir::new().unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("there is neither `model.safetensors` nor `model.safetensors.index.json`"), "{error}");
    let file = folder.path().join("other.safetensors");
    match Checkpoint::open(&file).unwrap_err() {
        Error::File(FileError::Io { path, error }) => {
            assert_eq!((path, error.kind()), (file, std::io::ErrorKind::NotFound));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_configuration_says_which_way_round_weights_are() {
    let sharded = Sharded::new();
    let checkpoint = Checkpoint::open(sharded.0.path()).unwrap();
    let says = |config: &str| {
        std::fs::write(sharded.0.path().join("config.json"), config).unwrap();
        checkpoint.orientation()
    };
    assert!(matches!(checkpoint.orientation(), Err(Error::File(FileError::Io { .. }))));
    assert_eq!(says(r#"{"model_type":"gpt2","n_embd":768}"#).unwrap(), CONV1D);
    assert_eq!(says(r#"{"model_type":"gptj"}"#).unwrap(), LINEAR);
    assert_eq!(says(r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama"}"#).unwrap(), LINEAR);
    for (config, text) in [(r#"{"model_type":"my_own"}"#, "`my_own`"), ("{}", "model_type"), ("[", "not a readable")] {
        let error = says(config).unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains(text), "{error}");
    }
}
