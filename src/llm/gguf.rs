//! Models as llama.cpp has them: one file with weights, shape and tokenizer.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};

use super::config::{Activation, Config, Family, NormKind, Pairing, Positions, Rotary, RotaryScaling, malformed};
use super::load::{GGUF, Names, Source};
use super::tokenizer::Tokenizer;
use crate::error::Result;
use crate::util::atomic_file::io_error;

pub(super) struct Gguf {
    path: PathBuf,
    file: BufReader<File>,
    content: Content,
    /// Queries' and keys' heads, where the file has their rows in the order of interleaved pairs.
    interleaved: Option<[usize; 2]>,
}

impl Gguf {
    pub(super) fn open(path: &Path) -> Result<(Config, Self)> {
        let mut file = BufReader::new(File::open(path).map_err(io_error(path))?);
        let content =
            Content::read(&mut file).map_err(|error| malformed(path, format!("not a readable GGUF file: {error}")))?;
        let mut gguf = Self { path: path.to_owned(), file, content, interleaved: None };
        let config = gguf.config()?.checked(path)?;
        // Llama's are converted to interleaved pairs, the others' are left as they are.
        if matches!(config.family, Family::Llama) {
            gguf.interleaved = Some([config.heads, config.kv_heads]);
        }
        Ok((config, gguf))
    }

    /// The tokenizer beside the file, or else the one inside it.
    pub(super) fn tokenizer(&mut self) -> Result<Tokenizer> {
        let beside = self.path.with_file_name("tokenizer.json");
        if beside.exists() { Tokenizer::open(beside) } else { Tokenizer::from_gguf(&self.content, &self.path) }
    }

    fn config(&self) -> Result<Config> {
        let architecture = self.value("general.architecture")?.to_string().map_or("", String::as_str);
        let family = match architecture {
            "llama" => Family::Llama,
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            other => {
                let problem = format!("the architecture is `{other}`, known in GGUF files are llama, qwen2, qwen3");
                return Err(malformed(&self.path, problem));
            }
        };
        let name = |entry: &str| format!("{architecture}.{entry}");
        let (hidden, heads) = (self.size(&name("embedding_length"))?, self.size(&name("attention.head_count"))?);
        let head_dim = match self.size(&name("attention.key_length")) {
            Ok(head_dim) => head_dim,
            Err(_) => hidden.checked_div(heads).ok_or_else(|| malformed(&self.path, "no attention heads".into()))?,
        };
        let stretched = self.content.metadata.contains_key(&name("rope.scaling.type"));
        if stretched || self.content.tensor_infos.contains_key("rope_freqs.weight") {
            let problem = "scaled rotary positions are not supported in GGUF files; use the model's safetensors";
            return Err(malformed(&self.path, problem.into()));
        }
        Ok(Config {
            family,
            layers: self.size(&name("block_count"))?,
            hidden,
            intermediate: self.size(&name("feed_forward_length"))?,
            heads,
            kv_heads: self.size(&name("attention.head_count_kv")).unwrap_or(heads),
            head_dim,
            vocabulary: self.embedding_rows()?,
            context: self.size(&name("context_length"))?,
            norm: NormKind::Rms,
            norm_epsilon: self.number(&name("attention.layer_norm_rms_epsilon")).unwrap_or(1e-6),
            positions: Positions::Rotary(Rotary {
                theta: self.number(&name("rope.freq_base")).unwrap_or(10_000.0),
                dims: self.size(&name("rope.dimension_count")).unwrap_or(head_dim),
                pairing: Pairing::Halves,
                scaling: RotaryScaling::None,
            }),
            activation: Activation::Silu,
            window: None,
            tied: !self.content.tensor_infos.contains_key("output.weight"),
        })
    }

    fn embedding_rows(&self) -> Result<usize> {
        let missing = || malformed(&self.path, "tensor `token_embd.weight` is missing".into());
        let info = self.content.tensor_infos.get("token_embd.weight").ok_or_else(missing)?;
        info.shape.dims().first().copied().ok_or_else(missing)
    }

    fn value(&self, name: &str) -> Result<&Value> {
        self.content.metadata.get(name).ok_or_else(|| malformed(&self.path, format!("the metadata lacks `{name}`")))
    }

    fn size(&self, name: &str) -> Result<usize> {
        let no_number = || malformed(&self.path, format!("the metadata's `{name}` is no whole number"));
        whole(self.value(name)?).ok_or_else(no_number)
    }

    fn number(&self, name: &str) -> Option<f64> {
        let value = self.content.metadata.get(name)?;
        value.to_f32().map(f64::from).or_else(|_| value.to_f64()).ok()
    }
}

/// A whole number, of whatever type.
pub(super) fn whole(value: &Value) -> Option<usize> {
    let number = match value {
        Value::U8(x) => u64::from(*x),
        Value::U16(x) => u64::from(*x),
        Value::U32(x) => u64::from(*x),
        Value::U64(x) => *x,
        Value::I32(x) => u64::try_from(*x).ok()?,
        Value::I64(x) => u64::try_from(*x).ok()?,
        _ => return None,
    };
    usize::try_from(number).ok()
}

impl Source for Gguf {
    fn tensor(&mut self, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>> {
        let Some(info) = self.content.tensor_infos.get(name) else { return Ok(None) };
        let shape = info.shape.dims().to_vec();
        let numbers: Vec<f32> = (self.content.tensor(&mut self.file, name, &Device::Cpu))
            .and_then(|tensor| tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1())
            .map_err(|error| malformed(&self.path, format!("tensor `{name}`: {error}")))?;
        let heads = self.interleaved.and_then(|[heads, kv_heads]| match name {
            name if name.ends_with("attn_q.weight") || name.ends_with("attn_q.bias") => Some(heads),
            name if name.ends_with("attn_k.weight") || name.ends_with("attn_k.bias") => Some(kv_heads),
            _ => None,
        });
        Ok(Some(match heads {
            Some(heads) if shape[0].is_multiple_of(2 * heads) => {
                let numbers = halves(&numbers, heads, shape[0] / heads);
                (shape, numbers)
            }
            _ => (shape, numbers),
        }))
    }

    fn names(&self, _: Family) -> &'static Names {
        &GGUF
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// Rows `2i, 2i + 1` of every head to rows `i, i + head_dim / 2`.
fn halves(numbers: &[f32], heads: usize, head_dim: usize) -> Vec<f32> {
    let cols = numbers.len() / (heads * head_dim);
    let order = (0..heads).flat_map(|head| {
        let of = move |parity| (0..head_dim / 2).map(move |i| head * head_dim + 2 * i + parity);
        of(0).chain(of(1))
    });
    order.flat_map(|row| numbers[row * cols..(row + 1) * cols].iter().copied()).collect()
}
