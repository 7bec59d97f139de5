//! All readers of files, with good files for each.

use std::path::Path;

use betaedit_core::adapter::RecordedStream;
use betaedit_core::faer::{Mat, MatRef};
use betaedit_core::format::gguf::GgufModel;
use betaedit_core::format::{
    Checkpoint, Fingerprint, Precision, Statistics, Updates, delta, engine, lora, npy, spectrum,
};
use betaedit_core::{Adapter, InverseGram, Orientation, Result, SecondMoment, Spectrum, Update};
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

use crate::SEQ;

/// A reader, by the name of its target in `fuzz/`, the name of a file for it, and files that it reads.
pub struct Reader {
    pub name: &'static str,
    pub file: &'static str,
    pub read: fn(&Path) -> Result<()>,
    pub good: Vec<Vec<u8>>,
}

/// A folder in memory where there is one: thousands of small files are written over each other.
pub fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn finite(matrix: MatRef<'_, f64>) {
    assert!(matrix.col_iter().all(|column| column.iter().all(|x| x.is_finite())));
}

pub fn readers() -> Vec<Reader> {
    let mut readers = of_own_files();
    readers.extend(of_weights());
    readers.push(of_the_engine());
    readers.push(of_gguf());
    readers
}

/// What a function writes to a file.
fn written(write: impl Fn(&Path)) -> Vec<u8> {
    let folder = scratch();
    let path = folder.path().join("file");
    write(&path);
    std::fs::read(&path).unwrap()
}

/// A file of tensors: their names, types and shapes.
fn tensors(tensors: &[(&str, Dtype, usize, usize)]) -> Vec<u8> {
    let number = |dtype, i: usize| match dtype {
        Dtype::F32 => (((i * 5) as f32).sin()).to_le_bytes().to_vec(),
        Dtype::F64 => (if i.is_multiple_of(5) { 1.0_f64 } else { 0.0 }).to_le_bytes().to_vec(),
        _ => vec![i as u8, 0x3c],
    };
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|&(_, dtype, rows, cols)| (0..rows * cols).flat_map(|i| number(dtype, i)).collect())
        .collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|(&(name, dtype, rows, cols), bytes)| (name, TensorView::new(dtype, vec![rows, cols], bytes).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

/// Files that this crate writes, and `.npz` files.
fn of_own_files() -> Vec<Reader> {
    let d = 6;
    let mut moment = SecondMoment::new(d);
    let keys = Mat::from_fn(d, 90, |i, j| ((i * 7 + j * 3) as f64).sin());
    moment.observe(keys.as_ref(), SEQ).unwrap();
    let fingerprint = Fingerprint { model: "m".to_owned(), layer: 3, text: "t".to_owned() };
    let statistics = Statistics::from_moment(&moment, fingerprint.clone(), "1 of 1", SEQ).unwrap();
    let of_moment = Spectrum::new(&moment, SEQ).unwrap();
    let update = Update::from_factors(Mat::full(4, 2, 0.5_f32), Mat::full(2, 5, 0.25)).unwrap();
    let updates = Updates::from([("a.weight".to_owned(), update)]);
    let fixture =
        |name: &str| std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)).unwrap();
    vec![
        Reader {
            name: "npz",
            file: "f.npz",
            read: |path| {
                let read = Statistics::read_npz(path)?;
                finite(read.sum());
                assert!(read.tokens() > 0);
                Ok(())
            },
            good: vec![
                fixture("stored-f32.npz"),
                fixture("deflated-f64.npz"),
                fixture("big-endian-fortran.npz"),
                written(|path| statistics.write_npz(path, Precision::F32, None).unwrap()),
            ],
        },
        Reader {
            name: "npy",
            file: "f.npy",
            read: |path| {
                finite(npy::read(path)?.as_ref());
                Ok(())
            },
            good: vec![
                fixture("npy/f64.npy"),
                fixture("npy/f32-fortran.npy"),
                fixture("npy/f16.npy"),
                fixture("npy/f64-big-endian-fortran.npy"),
                fixture("npy/vector-v3.npy"),
                written(|path| npy::write(path, keys.as_ref(), Precision::F32).unwrap()),
            ],
        },
        Reader {
            name: "statistics",
            file: "f.safetensors",
            read: |path| {
                let read = Statistics::read(path)?;
                finite(read.sum());
                assert!(read.tokens() > 0);
                Ok(())
            },
            good: vec![written(|path| statistics.write(path).unwrap())],
        },
        Reader {
            name: "spectrum",
            file: "f.safetensors",
            read: |path| {
                let (read, _) = spectrum::read(path, SEQ)?;
                assert!(read.values().is_sorted() && read.values()[0] >= 0.0);
                finite(read.vectors());
                Ok(())
            },
            good: vec![written(|path| spectrum::write(path, &of_moment, &fingerprint).unwrap())],
        },
        Reader {
            name: "projector",
            file: "f.safetensors",
            read: |path| {
                let P = spectrum::read_projector(path, "P", SEQ)?;
                finite(P.basis());
                assert!(P.kept() > 0);
                Ok(())
            },
            good: vec![tensors(&[("P", Dtype::F64, 4, 4)])],
        },
        Reader {
            name: "delta",
            file: "f.safetensors",
            read: |path| {
                for update in delta::read::<f32>(path)?.values() {
                    assert!(update.frobenius_norm().is_finite());
                }
                Ok(())
            },
            good: vec![written(|path| delta::write(path, &updates).unwrap())],
        },
    ]
}

/// Weights and recordings.
fn of_weights() -> Vec<Reader> {
    let weights = tensors(&[
        ("a.weight", Dtype::F32, 4, 5),
        ("b.weight", Dtype::BF16, 5, 4),
        ("c.weight", Dtype::F16, 4, 4),
        ("d", Dtype::F64, 1, 3),
    ]);
    let stream = tensors(&[
        ("second_moment", Dtype::F64, 4, 4),
        ("weight", Dtype::F32, 3, 4),
        ("keys", Dtype::F32, 2, 4),
        ("residuals", Dtype::F32, 2, 3),
    ]);
    let index =
        |file: &str| format!(r#"{{"metadata":{{"total_size":12}},"weight_map":{{"a":"{file}","b":"x.safetensors"}}}}"#);
    vec![
        Reader {
            name: "checkpoint",
            file: "f.safetensors",
            read: |path| {
                let checkpoint = Checkpoint::open(path)?;
                for name in checkpoint.names().take(4) {
                    let weight: Mat<f64> = checkpoint.weight(name, Orientation::InputsByOutputs)?;
                    finite(weight.as_ref());
                }
                Ok(())
            },
            good: vec![weights],
        },
        Reader {
            name: "lora",
            file: "adapter_model.safetensors",
            read: |path| {
                let config = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4}"#;
                std::fs::write(path.with_file_name("adapter_config.json"), config).unwrap();
                let adapter = lora::LoraAdapter::read(path.parent().unwrap())?;
                for module in adapter.modules() {
                    assert!(adapter.update(module)?.frobenius_norm().is_finite());
                }
                Ok(())
            },
            good: vec![tensors(&[
                ("base_model.model.a.lora_A.weight", Dtype::F32, 2, 5),
                ("base_model.model.a.lora_B.weight", Dtype::F16, 4, 2),
            ])],
        },
        Reader {
            name: "lora config",
            file: "adapter_config.json",
            read: |path| {
                let pair = tensors(&[("m.a.lora_A.weight", Dtype::F32, 2, 5), ("m.a.lora_B.weight", Dtype::F32, 4, 2)]);
                std::fs::write(path.with_file_name("adapter_model.safetensors"), pair).unwrap();
                let adapter = lora::LoraAdapter::read(path.parent().unwrap())?;
                assert!(adapter.update("m.a")?.frobenius_norm().is_finite());
                Ok(())
            },
            good: vec![
                br#"{"peft_type":"LORA","r":8,"lora_alpha":16.5,"rank_pattern":{"a":2},"alpha_pattern":{"m.a":3}}"#
                    .to_vec(),
            ],
        },
        Reader {
            name: "index",
            file: "f.json",
            read: |path| {
                let checkpoint = Checkpoint::open(path)?;
                for name in checkpoint.names().take(4) {
                    let _ = checkpoint.precision(name);
                }
                Ok(())
            },
            good: vec![index("y.safetensors").into_bytes(), index("model-00001-of-00002.safetensors").into_bytes()],
        },
        Reader {
            name: "stream",
            file: "f.safetensors",
            read: |path| {
                let mut stream = RecordedStream::<f32>::open(path, SEQ)?;
                let layer = stream.layers()[0];
                stream.keys(layer, &[0])?;
                Ok(())
            },
            good: vec![stream],
        },
    ]
}

/// The engine's state. The hash at the end is made anew, because mutations would not get past it.
fn of_the_engine() -> Reader {
    let keys = Mat::from_fn(4, 20, |i, j| ((i * 7 + j * 3) as f32).sin());
    let mut Q = InverseGram::isotropic(4, 2.0, SEQ).unwrap();
    Q.absorb(keys.as_ref()).unwrap();
    let exact = Q.clone();
    let mut rounded = Q.with_rounded_copy().unwrap();
    rounded.absorb(keys.as_ref().subcols(0, 8)).unwrap();
    rounded.discount(0.9).unwrap();
    Reader {
        name: "engine",
        file: "f.inverse",
        read: |path| {
            let mut bytes = std::fs::read(path).unwrap();
            if let Some(end) = bytes.len().checked_sub(blake3::OUT_LEN) {
                let hash = blake3::hash(&bytes[..end]);
                bytes[end..].copy_from_slice(hash.as_bytes());
                std::fs::write(path, &bytes).unwrap();
            }
            let mut Q = engine::read(path, SEQ)?;
            let key = Mat::from_fn(Q.dim(), 1, |i, _| (i as f32).cos());
            // Any answer will do, and any error.
            let _ = Q.absorb(key.as_ref());
            assert!(Q.dim() > 0);
            Ok(())
        },
        good: [exact, rounded].iter().map(|Q| written(|path| engine::write(path, Q).unwrap())).collect(),
    }
}

/// GGUF files: a model of one block.
fn of_gguf() -> Reader {
    let strings = |words: &[&str]| Value::Array(words.iter().map(|&word| Value::String(word.into())).collect());
    let entries = [
        ("general.architecture", Value::String("llama".into())),
        ("general.alignment", Value::U32(32)),
        ("llama.block_count", Value::U32(1)),
        ("llama.context_length", Value::U32(64)),
        ("llama.embedding_length", Value::U32(32)),
        ("llama.feed_forward_length", Value::U32(64)),
        ("llama.attention.head_count", Value::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("smollm".into())),
        ("tokenizer.ggml.tokens", strings(&["a", "b", "ab"])),
        ("tokenizer.ggml.merges", strings(&["a b"])),
        ("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1); 3])),
    ];
    let tensor = |kind, rows: usize, cols: usize| {
        let numbers = (0..rows * cols).map(|i| (i as f32).sin()).collect();
        QTensor::quantize(&Tensor::from_vec(numbers, (rows, cols), &Device::Cpu).unwrap(), kind).unwrap()
    };
    let norm = QTensor::quantize(&Tensor::ones(32, DType::F32, &Device::Cpu).unwrap(), GgmlDType::F32).unwrap();
    let embedding = tensor(GgmlDType::F32, 3, 32);
    let square = tensor(GgmlDType::Q4_0, 32, 32);
    let (wide, tall) = (tensor(GgmlDType::Q8_0, 32, 64), tensor(GgmlDType::F16, 64, 32));
    let tensors = [
        ("token_embd.weight", &embedding),
        ("output_norm.weight", &norm),
        ("blk.0.attn_norm.weight", &norm),
        ("blk.0.ffn_norm.weight", &norm),
        ("blk.0.attn_q.weight", &square),
        ("blk.0.attn_k.weight", &square),
        ("blk.0.attn_v.weight", &square),
        ("blk.0.attn_output.weight", &square),
        ("blk.0.ffn_gate.weight", &tall),
        ("blk.0.ffn_up.weight", &tall),
        ("blk.0.ffn_down.weight", &wide),
    ];
    let entries = entries.each_ref().map(|(name, value)| (*name, value));
    let good = written(|path| gguf_file::write(&mut std::fs::File::create(path).unwrap(), &entries, &tensors).unwrap());
    Reader {
        name: "gguf",
        file: "f.gguf",
        read: |path| {
            let model = GgufModel::open(path)?;
            for name in model.names() {
                let _ = model.kind(name);
            }
            Ok(())
        },
        good: vec![good],
    }
}
