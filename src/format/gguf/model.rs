//! Models in GGUF files, copied with some of their weights edited.

use std::collections::{BTreeMap, HashSet};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use faer::Par;

use super::header::{GgufEntry, GgufHeader};
use super::kind::GgufType;
use super::parts;
use super::weight::{self, EditedWeight, Survival};
use crate::error::{NumericsError, Result};
use crate::format::malformed;
use crate::util::atomic_file::{Staged, Writer, io_error};
use crate::util::named::named;
use crate::util::shown::shown;

/// A model in a GGUF file, or in the parts of one. Weights are copied with edits, and every other tensor and all metadata stay as they are.
///
/// # Examples
/// ```no_run
/// use std::collections::BTreeMap;
/// use betaedit_core::faer::{Mat, Par};
/// use betaedit_core::format::gguf::{EditedWeight, GgufModel, GgufStorage};
///
/// let model = GgufModel::open("model.Q4_K_M.gguf")?;
/// let layers = BTreeMap::from([("blk.7.ffn_down.weight".to_owned(), 7)]);
/// let edited = |layer: &usize| -> betaedit_core::Result<EditedWeight> {
///     # let weight = Mat::zeros(576, 1536);
///     Ok(EditedWeight { weight, importance: None }) // the weight of the layer with its edits, `d_out x d_in`
/// };
/// let survived = model.write_edited("edited.gguf", &layers, GgufStorage::Own, edited, Par::rayon(0))?;
/// println!("{:.0} % of the edits is left", 100.0 * survived["blk.7.ffn_down.weight"].share());
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone)]
pub struct GgufModel {
    parts: Vec<PathBuf>,
    /// The part of each tensor, and its place in the list there.
    places: BTreeMap<String, (usize, GgufEntry)>,
}

shown!([] GgufModel, "GgufModel", self => { "parts": self.parts, "tensors": self.places.len() });

/// In which number type an edited weight is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum GgufStorage {
    /// In its own: the file has the same size, and only the edited weights differ.
    #[default]
    Own,
    /// In half precision: no edit is lost, and the file is larger.
    F16,
    /// In single precision.
    F32,
}

named!(GgufStorage, "number type of edited weights", { Own => "own", F16 => "f16", F32 => "f32" });

impl GgufModel {
    /// Reads the lists of tensors.
    ///
    /// * `path`: the file, or any of its parts
    ///
    /// # Errors
    /// A file that cannot be read, is no GGUF file or is cut off; a missing part.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let parts = parts::of(path.as_ref())?;
        let mut places = BTreeMap::new();
        for (part, path) in parts.iter().enumerate() {
            for tensor in GgufHeader::open(path)?.tensors {
                if let Some((_, twice)) = places.insert(tensor.name.clone(), (part, tensor)) {
                    return Err(malformed(path, format!("tensor `{}` is in the model twice", twice.name)));
                }
            }
        }
        Ok(Self { parts, places })
    }

    /// The file, or its parts.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(PathBuf::as_path)
    }

    /// Names of the tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Where [`write_edited`](Self::write_edited) puts the file, or its parts: `edited.gguf`, or `edited-00001-of-00003.gguf` and so on.
    #[must_use]
    pub fn places(&self, to: impl AsRef<Path>) -> Vec<PathBuf> {
        parts::named(to.as_ref(), self.parts.len())
    }

    /// The number type of a weight.
    ///
    /// # Errors
    /// An unknown tensor, or one of a type that cannot be written.
    pub fn kind(&self, name: &str) -> Result<GgufType> {
        let (part, tensor) = self.place(name)?;
        GgufType::from_id(tensor.id).ok_or_else(|| {
            let problem = format!(
                "tensor `{name}` is of type {}, which is not written; an adapter changes it, or a copy of the model in one of: {}",
                tensor.id,
                GgufType::names()
            );
            malformed(&self.parts[part], problem)
        })
    }

    /// Copies the model with edited weights, in one pass over each part. One weight at a time is in memory, with its importance.
    ///
    /// In its own quantized type, a weight keeps the steps and offsets of its blocks, and only codes change: see
    /// [`Importance`](super::Importance).
    ///
    /// * `to`: the new file; for a model in parts, the name without their numbers. It may not be the model itself
    /// * `tensors`: the names of the tensors, each with the argument for `edited`
    /// * `edited`: gives the new weight; called once for each tensor
    ///
    /// # Errors
    /// No tensor, one that the model does not have or of another shape, one of a type that cannot be written, a weight that holds NaN or
    /// infinity or leaves the range of its type, the errors of `edited`, or a file that cannot be read or written. Nothing is written then.
    pub fn write_edited<K>(
        &self,
        to: impl AsRef<Path>,
        tensors: &BTreeMap<String, K>,
        storage: GgufStorage,
        mut edited: impl FnMut(&K) -> Result<EditedWeight>,
        par: Par,
    ) -> Result<BTreeMap<String, Survival>> {
        if tensors.is_empty() {
            return Err(NumericsError::Empty { argument: "tensors", item: "tensor" }.into());
        }
        let mut kinds = BTreeMap::new();
        for name in tensors.keys() {
            let kind = match storage {
                GgufStorage::Own => self.kind(name)?,
                GgufStorage::F16 => self.kind(name).map(|_| GgufType::F16)?,
                GgufStorage::F32 => self.kind(name).map(|_| GgufType::F32)?,
            };
            kinds.insert(name.as_str(), kind);
        }
        let to = self.places(to);
        self.check_apart(&to)?;
        let mut survived = BTreeMap::new();
        let mut staged = vec![];
        for (part, to) in self.parts.iter().zip(&to) {
            let mut header = GgufHeader::open(part)?;
            staged.push(Staged::new(to, |file| {
                copy(&mut header, file, &kinds, |header, tensor, kind| {
                    let new = edited(&tensors[&tensor.name])?;
                    let (bytes, survival) = weight::encoded(header, tensor, kind, &new, par)?;
                    survived.insert(tensor.name.clone(), survival);
                    Ok(bytes)
                })
            })?);
        }
        staged.into_iter().try_for_each(Staged::commit)?;
        Ok(survived)
    }

    fn place(&self, name: &str) -> Result<(usize, &GgufEntry)> {
        let (part, tensor) = self.places.get(name).ok_or_else(|| {
            let problem = format!("there is no tensor `{name}` among the {} of the model", self.places.len());
            malformed(&self.parts[0], problem)
        })?;
        Ok((*part, tensor))
    }

    fn check_apart(&self, to: &[PathBuf]) -> Result<()> {
        let real = |path: &PathBuf| path.canonicalize().ok();
        let own: HashSet<PathBuf> = self.parts.iter().filter_map(real).collect();
        match to.iter().find(|to| real(to).is_some_and(|to| own.contains(&to))) {
            Some(to) => Err(malformed(to, "this is the model itself: give another path")),
            None => Ok(()),
        }
    }
}

/// Copies a file, with some of its tensors in other types or with other numbers. The header keeps its length.
fn copy(
    header: &mut GgufHeader,
    to: &mut Writer<'_>,
    kinds: &BTreeMap<&str, GgufType>,
    mut new: impl FnMut(&mut GgufHeader, &GgufEntry, GgufType) -> Result<Vec<u8>>,
) -> Result<()> {
    let mut order: Vec<GgufEntry> = header.tensors.clone();
    order.sort_by_key(|tensor| tensor.offset);
    let (mut list, mut shift) = (BTreeMap::new(), 0);
    for tensor in &order {
        let mut moved = tensor.clone();
        moved.offset = tensor.offset.wrapping_add_signed(shift);
        if let Some(&kind) = kinds.get(&*tensor.name) {
            // Beyond all numbers, the weight does not fit, which is found before it is written.
            let numbers =
                tensor.dimensions.iter().fold(1u64, |product, n| product.saturating_mul(*n)).min(header.length << 8);
            let bytes = numbers / kind.block() as u64 * kind.bytes() as u64;
            let room = header.limit(tensor) - header.start - tensor.offset;
            let needed = if moved.id == kind.id() { room } else { bytes.next_multiple_of(header.alignment) };
            shift += needed.cast_signed() - room.cast_signed();
            moved.id = kind.id();
        }
        list.insert(tensor.name.clone(), moved);
    }
    through(header, to, 0, header.list)?;
    let path = header.path.clone();
    let io = io_error(&path);
    let mut bytes = vec![];
    header.tensors.iter().for_each(|tensor| list[&tensor.name].encode(&mut bytes));
    to.write_all(&bytes).map_err(io)?;
    let first = order.first().map_or(header.length, |tensor| header.start + tensor.offset);
    through(header, to, header.list + bytes.len() as u64, first)?;
    for tensor in &order {
        let (at, limit) = (header.start + tensor.offset, header.limit(tensor));
        let Some(&kind) = kinds.get(&*tensor.name) else {
            through(header, to, at, limit)?;
            continue;
        };
        let mut bytes = new(header, tensor, kind)?;
        to.write_all(&bytes).map_err(io)?;
        if tensor.id == kind.id() {
            through(header, to, at + bytes.len() as u64, limit)?;
        } else {
            let padding = bytes.len().next_multiple_of(header.alignment as usize) - bytes.len();
            bytes.clear();
            bytes.resize(padding, 0);
            to.write_all(&bytes).map_err(io)?;
        }
    }
    Ok(())
}

/// Copies the bytes of a file from one place to another.
fn through(header: &mut GgufHeader, to: &mut Writer<'_>, from: u64, until: u64) -> Result<()> {
    let io = io_error(&header.path);
    header.reader.seek(SeekFrom::Start(from)).map_err(io)?;
    let bytes = until.saturating_sub(from);
    match std::io::copy(&mut Read::by_ref(&mut header.reader).take(bytes), to) {
        Ok(copied) if copied == bytes => Ok(()),
        Ok(_) => Err(io(ErrorKind::UnexpectedEof.into())),
        Err(error) => Err(io(error)),
    }
}
