//! GGUF files: weights, shape and tokenizer in one file.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use super::source::{Source, StoredTensor};
use crate::error::Result;
use crate::format::malformed;
use crate::llm::config::{Config, Pairing};
use crate::llm::families::{AttentionNames, Families, Family, GgufLayout, GgufMetadata, Name, TensorLayout};
use crate::llm::tokenizer::Tokenizer;
use crate::util::atomic_file::io_error;

/// A GGUF file of a known family.
pub(super) struct Gguf {
    path: PathBuf,
    file: BufReader<File>,
    content: Content,
    family: Arc<dyn Family>,
    layout: GgufLayout,
    config: Config,
}

impl Gguf {
    pub(super) fn open(path: &Path, families: &Families) -> Result<Self> {
        let mut file = BufReader::new(File::open(path).map_err(io_error(path))?);
        let content =
            Content::read(&mut file).map_err(|error| malformed(path, format!("not a readable GGUF file: {error}")))?;
        let (family, layout) = recognise(&content, path, families)?;
        let config = family.config_from_gguf(&GgufMetadata::new(&content, &layout, path))?;
        config.check(path)?;
        Ok(Self { path: path.to_owned(), file, content, family, layout, config })
    }

    /// Family, shape and names.
    pub(super) fn describe(&self) -> (Arc<dyn Family>, Config, TensorLayout) {
        (self.family.clone(), self.config.clone(), self.layout.tensors.clone())
    }

    /// The tokenizer beside the file, or else the one inside it.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer> {
        let beside = self.path.with_file_name("tokenizer.json");
        if beside.exists() { Tokenizer::open(beside) } else { tokenizer(&self.content, &self.path) }
    }

    /// The number of heads of a tensor whose rows are in the order of interleaved pairs.
    fn interleaved_heads(&self, name: &str) -> Option<usize> {
        let AttentionNames::Separate { query, key, .. } = &self.layout.tensors.attention else { return None };
        let Config { heads, kv_heads, .. } = self.config;
        let is = |of: &Name| {
            let end = of.rsplit("{}").next().unwrap_or(of);
            [".weight", ".bias"].into_iter().any(|kind| name.strip_suffix(kind).is_some_and(|name| name.ends_with(end)))
        };
        match self.layout.pairing {
            Pairing::Halves => None,
            Pairing::Interleaved if is(query) => Some(heads),
            Pairing::Interleaved => is(key).then_some(kv_heads),
        }
    }
}

fn recognise(content: &Content, path: &Path, families: &Families) -> Result<(Arc<dyn Family>, GgufLayout)> {
    let name = "general.architecture";
    let value = content.metadata.get(name).ok_or_else(|| malformed(path, format!("the metadata lacks `{name}`")))?;
    let architecture = value.to_string().map_or("", String::as_str);
    let found = families.by_architecture(architecture).and_then(|family| Some((family.clone(), family.gguf()?)));
    found.ok_or_else(|| {
        let known = families.architectures();
        malformed(path, format!("the architecture is `{architecture}`, known in GGUF files are {known}"))
    })
}

impl Source for Gguf {
    fn tensor(&mut self, name: &str) -> Result<Option<StoredTensor>> {
        let Some(info) = self.content.tensor_infos.get(name) else { return Ok(None) };
        let shape = info.shape.dims().to_vec();
        let numbers: Vec<f32> = (self.content.tensor(&mut self.file, name, &Device::Cpu))
            .and_then(|tensor| tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1())
            .map_err(|error| malformed(&self.path, format!("tensor `{name}`: {error}")))?;
        let numbers = match self.interleaved_heads(name) {
            Some(heads) if shape[0].is_multiple_of(2 * heads) => halves(&numbers, heads, shape[0] / heads),
            _ => numbers,
        };
        Ok(Some(StoredTensor { shape, numbers }))
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

/// The tokenizer in a file's metadata.
fn tokenizer(content: &Content, path: &Path) -> Result<Tokenizer> {
    let refuse = |problem: String| malformed(path, format!("{problem}; put the model's tokenizer.json beside it"));
    let mut inner = tokenizers::Tokenizer::from_gguf(content)
        .map_err(|error| refuse(format!("the file's tokenizer cannot be used ({error})")))?;
    let kind = content.metadata.get("tokenizer.ggml.pre").and_then(|kind| kind.to_string().ok());
    let kind = kind.map_or("gpt-2", String::as_str);
    let words = words(kind).ok_or_else(|| refuse(format!("the file's tokenizer is of the unknown kind `{kind}`")))?;
    inner.with_pre_tokenizer(Some(words));
    Ok(Tokenizer::new(inner))
}

/// How a kind of byte-level tokenizer cuts a text into words.
fn words(kind: &str) -> Option<PreTokenizerWrapper> {
    let by_regex = ByteLevel::new(false, true, true);
    let bytes = ByteLevel::new(false, true, false);
    let split = |digits: &str| {
        let regex = format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        );
        let split = Split::new(SplitPattern::Regex(regex), SplitDelimiterBehavior::Isolated, false).ok()?;
        Some(Sequence::new(vec![split.into(), bytes.into()]).into())
    };
    match kind {
        "default" | "gpt2" | "gpt-2" => Some(by_regex.into()),
        "smollm" => Some(Sequence::new(vec![Digits::new(true).into(), by_regex.into()]).into()),
        "llama3" | "llama-v3" | "llama-bpe" => split(r"\p{N}{1,3}"),
        "qwen2" => split(r"\p{N}"),
        _ => None,
    }
}
