//! The index of a sharded checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use crate::error::Result;
use crate::format::tensors::TensorFile;
use crate::format::{lfs_pointer, malformed};
use crate::util::atomic_file;

/// The longest index that is read, several times that of a model with a million tensors.
const LONGEST_INDEX: u64 = 1 << 28;

/// The part of an index that is read.
#[derive(serde::Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// The files of the tensors: those that the index has, and whatever else is in the shards. A program that loads shards finds it there.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = listed(path)?;
    let shards: BTreeSet<PathBuf> = files.values().cloned().collect();
    // A shard that is not there is an error when a tensor of it is read.
    for shard in shards.into_iter().filter(|shard| shard.exists()) {
        for tensor in TensorFile::open(&shard)?.names() {
            let known = files.entry(tensor.clone()).or_insert_with(|| shard.clone());
            if *known != shard {
                let known = known.display();
                return Err(malformed(
                    &shard,
                    format!("tensor `{tensor}` is also in {known}, or the index has it there"),
                ));
            }
        }
    }
    Ok(files)
}

/// The files of the tensors, as the index has them. They must be in its folder.
pub(super) fn listed(path: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let length = std::fs::metadata(path).map_err(atomic_file::io_error(path))?.len();
    if length > LONGEST_INDEX {
        return Err(malformed(path, format!("an index of {length} bytes is too long")));
    }
    let text = atomic_file::read(path)?;
    lfs_pointer::check(path, &text)?;
    let index: ShardIndex = serde_json::from_slice(&text)
        .map_err(|error| malformed(path, format!("not a readable index of a checkpoint: {error}")))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let shard = |(tensor, file): (String, String)| {
        if is_plain(&file) {
            return Ok((tensor, folder.join(file)));
        }
        let problem = format!("the index has tensor `{tensor}` in `{file}`: expected the name of a file beside it");
        Err(malformed(path, problem))
    };
    index.weight_map.into_iter().map(shard).collect()
}

/// Whether a name is that of a file in the same folder on any system, not a path to somewhere else.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
        && name.ends_with(".safetensors")
        && !name.contains(['/', '\\', ':', '\0'])
}
