//! GGUF files: weights, shape and tokenizer in one file, or in the parts of one.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Result as Computed};
use half::{bf16, f16};

use super::gguf_tokenizer;
use super::source::{Source, StoredTensor};
use crate::error::Result;
use crate::format::gguf::{header, parts};
use crate::format::malformed;
use crate::llm::config::{Config, Pairing};
use crate::llm::families::{
    AttentionNames, DIVISORS, Families, Family, Gains, GgufLayout, GgufMetadata, Name, TensorLayout, experts, whole,
};
use crate::llm::numbers::StoredNumbers;
use crate::llm::tokenizer::Tokenizer;
use crate::util::atomic_file::io_error;

/// A GGUF file of a known family.
pub(super) struct Gguf {
    /// The file, or the first of its parts.
    path: PathBuf,
    parts: Vec<GgufPart>,
    /// In which part a tensor is.
    places: BTreeMap<String, usize>,
    family: Arc<dyn Family>,
    layout: GgufLayout,
    config: Config,
}

/// A file.
struct GgufPart {
    path: PathBuf,
    file: BufReader<File>,
    content: Content,
}

impl GgufPart {
    fn open(path: &Path) -> Result<Self> {
        header::check(path)?;
        let mut file = BufReader::new(File::open(path).map_err(io_error(path))?);
        let content = Content::read(&mut file)
            .map_err(|error| malformed(path, format!("not a readable GGUF file: {}", brief(&error))))?;
        Ok(Self { path: path.to_owned(), file, content })
    }

    fn size(&self, name: &str) -> Option<usize> {
        whole(self.content.metadata.get(name)?)
    }

    /// The numbers of a tensor of this part.
    ///
    /// * `heads`: the number of heads whose rows are in the order of interleaved pairs, if they are
    fn numbers(&mut self, name: &str, heads: Option<usize>) -> Result<StoredNumbers> {
        let Self { path, file, content } = self;
        (content.tensor(file, name, &Device::Cpu))
            .and_then(|tensor| numbers(&tensor, heads))
            .map_err(|error| malformed(path, format!("tensor `{name}`: {}", brief(&error))))
    }
}

impl Gguf {
    pub(super) fn open(path: &Path, families: &Families) -> Result<Self> {
        let mut parts = open_parts(path)?;
        let path = parts[0].path.clone();
        let (mut places, mut shapes) = (BTreeMap::new(), BTreeMap::new());
        for (i, part) in parts.iter().enumerate() {
            for (name, info) in &part.content.tensor_infos {
                if places.insert(name.clone(), i).is_some() {
                    return Err(malformed(&part.path, format!("tensor `{name}` is in another part of the model too")));
                }
                shapes.insert(name.clone(), info.shape.dims().to_vec());
            }
        }
        if let Some(expected) = parts[0].size("split.tensors.count").filter(|&expected| expected != places.len()) {
            let found = places.len();
            return Err(malformed(&path, format!("the parts hold {found} tensors, {expected} are announced")));
        }
        let mut divisors = BTreeMap::new();
        for name in DIVISORS {
            if let Some(&place) = places.get(name) {
                divisors.insert(name, parts[place].numbers(name, None)?.to_vec().into_iter().map(f64::from).collect());
            }
        }
        let entries = &parts[0].content.metadata;
        let (family, layout) = recognise(entries, &path, families)?;
        let read = Mutex::new(BTreeSet::new());
        let metadata = GgufMetadata::new(entries, &shapes, &divisors, &layout, &path, &read);
        let config = family.config_from_gguf(&metadata)?;
        metadata.check_all_read()?;
        config.check(&path)?;
        Ok(Self { path, parts, places, family, layout, config })
    }

    /// Family, shape and names.
    pub(super) fn describe(&self) -> (Arc<dyn Family>, Config, TensorLayout) {
        (self.family.clone(), self.config.clone(), self.layout.tensors.clone())
    }

    /// The tokenizer beside the file, or else the one inside it.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer> {
        gguf_tokenizer::read(&self.parts[0].content.metadata, &self.path)
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

/// An error without the stack that follows it.
fn brief(error: &candle_core::Error) -> String {
    let text = error.to_string().lines().next().unwrap_or_default().to_owned();
    let number = text.strip_prefix("unknown dtype for tensor ").and_then(|number| number.trim().parse::<u32>().ok());
    match number {
        None => text,
        Some(number) => {
            let name = UNREAD_TYPES.iter().find(|(id, _)| *id == number).map_or("unknown", |(_, name)| name);
            format!(
                "a tensor is of type {number} ({name}), which is not read; use F32, F16, BF16, Q4_0 to Q8_1, or Q2_K to Q8_K"
            )
        }
    }
}

/// Types of tensors that are known and not read, by their numbers in files.
const UNREAD_TYPES: [(u32, &str); 13] = [
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

/// The file, or all parts of a split one, whichever of them is given.
fn open_parts(path: &Path) -> Result<Vec<GgufPart>> {
    let given = GgufPart::open(path)?;
    let count = given.size("split.count").unwrap_or(1);
    if count <= 1 {
        return Ok(vec![given]);
    }
    let paths = parts::of(path)?;
    if paths.len() != count {
        let problem = format!(
            "this is a part of a model in {count} files: their names must end in -00001-of-{count:05}.gguf and so on"
        );
        return Err(malformed(path, problem));
    }
    let open = |(i, path): (usize, &PathBuf)| {
        let part = GgufPart::open(path)?;
        if part.size("split.count") != Some(count) || part.size("split.no") != Some(i) {
            return Err(malformed(path, format!("this is not part {} of {count}", i + 1)));
        }
        Ok(part)
    };
    paths.iter().enumerate().map(open).collect()
}

fn recognise(
    entries: &HashMap<String, Value>,
    path: &Path,
    families: &Families,
) -> Result<(Arc<dyn Family>, GgufLayout)> {
    let name = "general.architecture";
    let value = entries.get(name).ok_or_else(|| malformed(path, format!("the metadata lacks `{name}`")))?;
    let architecture = value.to_string().map_or("", String::as_str);
    let found = families.by_architecture(architecture).and_then(|family| Some((family.clone(), family.gguf()?)));
    found.ok_or_else(|| {
        let known = families.architectures();
        let experts = experts(entries.keys().map(String::as_str));
        malformed(path, format!("the architecture is `{architecture}`, known in GGUF files are {known}{experts}"))
    })
}

impl Source for Gguf {
    fn tensor(&mut self, name: &str) -> Result<Option<StoredTensor>> {
        let Some(&place) = self.places.get(name) else { return Ok(None) };
        let heads = self.interleaved_heads(name);
        let shape = self.parts[place].content.tensor_infos[name].shape.dims().to_vec();
        let mut numbers = self.parts[place].numbers(name, heads)?;
        if self.layout.gains == Gains::PlusOne && name.ends_with("norm.weight") {
            numbers.make_f32().iter_mut().for_each(|gain| *gain -= 1.0);
        }
        Ok(Some(StoredTensor { shape, numbers }))
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Vec<String> {
        // The divisors of rotary frequencies were read with the metadata.
        self.places.keys().filter(|name| !DIVISORS.contains(&name.as_str())).cloned().collect()
    }
}

fn numbers(tensor: &QTensor, heads: Option<usize>) -> Computed<StoredNumbers> {
    let (rows, cols) = match tensor.shape().dims() {
        [length] => (*length, 1),
        [rows, others @ ..] => (*rows, others.iter().product()),
        [] => (1, 1),
    };
    let bytes = match (tensor.data()?, heads) {
        (bytes, Some(heads)) if rows.is_multiple_of(2 * heads) => Cow::Owned(halves(&bytes, heads, rows / heads)),
        (bytes, _) => bytes,
    };
    Ok(match tensor.dtype() {
        GgmlDType::F32 => decoded(&bytes, f32::from_le_bytes).into(),
        GgmlDType::F16 => decoded(&bytes, f16::from_le_bytes).into(),
        GgmlDType::BF16 => decoded(&bytes, bf16::from_le_bytes).into(),
        kind => StoredNumbers::quantized(kind, bytes, rows, cols)?,
    })
}

fn decoded<const N: usize, T>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|&bytes| number(bytes)).collect()
}

/// Rows `2i, 2i + 1` of every head to rows `i, i + head_dim / 2`. Every row has as many bytes.
fn halves(bytes: &[u8], heads: usize, head_dim: usize) -> Vec<u8> {
    let row_bytes = bytes.len() / (heads * head_dim);
    let order = (0..heads).flat_map(|head| {
        let of = move |parity| (0..head_dim / 2).map(move |i| head * head_dim + 2 * i + parity);
        of(0).chain(of(1))
    });
    order.flat_map(|row| bytes[row * row_bytes..(row + 1) * row_bytes].iter().copied()).collect()
}
