//! Adapters for llama.cpp, in one GGUF file.

use std::io::Write;
use std::path::Path;

use super::{modules, padded};
use crate::error::Result;
use crate::format::gguf::GgufType;
use crate::format::gguf::header::{FLOAT32, GgufEntry, MAGIC, STRING, USUAL_ALIGNMENT, VERSION, text};
use crate::format::{Precision, Updates};
use crate::scalar::Scalar;
use crate::util::atomic_file::{io_error, write_with};

/// Writes an adapter for llama.cpp, and for the programs on top of it such as Ollama, as one GGUF file in `f32`. It changes the model exactly
/// as the edits did, also a quantized one.
///
/// * `updates`: by the names of the weights in the model's GGUF file, such as `blk.7.ffn_down.weight`. A language
///   model gives it by `Model::edited_tensor_in_gguf`
/// * `architecture`: the model's `general.architecture`, such as `llama`
///
/// # Errors
/// No update at all, a name that does not end in `.weight`, or a path that cannot be written.
///
/// # Examples
/// ```
/// use betaedit_core::format::{Updates, lora};
/// use betaedit_core::{Update, faer::mat};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("edits.gguf");
/// let update = Update::from_factors(mat![[1.0_f32], [2.0]], mat![[0.5, 0.0, -1.0]])?;
/// let updates = Updates::from([("blk.7.ffn_down.weight".to_owned(), update)]);
/// lora::write_gguf(&path, &updates, "llama")?; // llama-server --model M.gguf --lora edits.gguf
/// # assert!(std::fs::read(&path)?.starts_with(b"GGUF"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_gguf<T: Scalar>(path: impl AsRef<Path>, updates: &Updates<T>, architecture: &str) -> Result<()> {
    let path = path.as_ref();
    let (modules, rank) = modules(path, updates)?;
    let padded = padded(modules.values().copied(), rank);
    let (mut list, mut offset) = (vec![], 0);
    let mut factors = vec![];
    for (module, pair) in modules.keys().zip(&padded) {
        for (side, factor) in ["b", "a"].into_iter().zip(pair) {
            let (rows, cols) = (factor.nrows() as u64, factor.ncols() as u64);
            let name = format!("{module}.weight.lora_{side}");
            list.push(GgufEntry { name, dimensions: vec![cols, rows], id: GgufType::F32.id(), offset });
            offset += (rows * cols * GgufType::F32.bytes() as u64).next_multiple_of(USUAL_ALIGNMENT);
            factors.push(factor);
        }
    }
    write_with(path, |file| {
        let io = io_error(path);
        let mut bytes = header(&list, architecture, rank);
        pad(&mut bytes);
        file.write_all(&bytes).map_err(io)?;
        for factor in factors {
            bytes.clear();
            for row in factor.row_iter() {
                for x in row.iter() {
                    Precision::F32.encode(x.to_f64(), &mut bytes);
                }
            }
            pad(&mut bytes);
            file.write_all(&bytes).map_err(io)?;
        }
        Ok(())
    })
}

/// The metadata and the list of tensors.
fn header(list: &[GgufEntry], architecture: &str, rank: usize) -> Vec<u8> {
    let named = [("general.type", "adapter"), ("general.architecture", architecture), ("adapter.type", "lora")];
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((list.len() as u64).to_le_bytes());
    bytes.extend((named.len() as u64 + 1).to_le_bytes());
    for (name, value) in named {
        text(name, &mut bytes);
        bytes.extend(STRING.to_le_bytes());
        text(value, &mut bytes);
    }
    // Pairs are scaled by alpha / rank, which is 1.
    text("adapter.lora.alpha", &mut bytes);
    bytes.extend(FLOAT32.to_le_bytes());
    bytes.extend((rank as f32).to_le_bytes());
    list.iter().for_each(|tensor| tensor.encode(&mut bytes));
    bytes
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(USUAL_ALIGNMENT as usize), 0);
}
