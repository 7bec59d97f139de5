//! The index of a sharded checkpoint.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::error::Result;
use crate::format::malformed;
use crate::util::atomic_file;

/// The longest index that is read, several times that of a model with a million tensors.
const LONGEST_INDEX: u64 = 1 << 28;

/// The part of an index that is read.
#[derive(serde::Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// The files of the tensors. They must be in the folder of the index.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let length = std::fs::metadata(path).map_err(atomic_file::io_error(path))?.len();
    if length > LONGEST_INDEX {
        return Err(malformed(path, format!("an index of {length} bytes is too long")));
    }
    let index: ShardIndex = serde_json::from_slice(&atomic_file::read(path)?)
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
