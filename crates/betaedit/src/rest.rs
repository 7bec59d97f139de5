//! What a run keeps on disk instead of in memory, and where.

use std::path::{Path, PathBuf};

use betaedit_core::Adapter;
use betaedit_core::llm::ModelAdapter;
use betaedit_core::session::Session;

use crate::scores::Measured;
use crate::terminal::Done;
use crate::timed::Timed;

/// What the layers of a session may take in memory; above that, one is in memory at a time.
const IN_MEMORY: usize = 2 << 30;

/// Whether the layers of a session take more than they may.
pub fn is_due(adapter: &ModelAdapter) -> Done<bool> {
    Ok(state_bytes(adapter)? > IN_MEMORY)
}

/// About what the layers of a session take: `Q` with its copy, the sum of the keys, the total change, two weights.
fn state_bytes(adapter: &ModelAdapter) -> Done<usize> {
    let of_layer = |&layer: &usize| -> Done<usize> {
        let (d_out, d_in) = adapter.weight_shape(layer)?;
        Ok(d_in.saturating_mul(10 * d_in + 16 * d_out))
    };
    adapter.layers().iter().map(of_layer).sum()
}

/// Makes room for a measurement of the model: what edits need is on disk meanwhile. Where it cannot be, it stays in memory.
pub fn make_room(session: &mut Session<Timed>, directory: Option<&Path>, measured: Measured<'_>) {
    if !measured.is_empty() {
        let _ = scratch(directory).map(|scratch| session.put_away(scratch));
    }
}

/// Where a run keeps what it does not need in memory: beside the state of its session.
pub fn scratch(directory: Option<&Path>) -> Done<PathBuf> {
    let Some(directory) = directory else { return Ok(std::env::temp_dir()) };
    let state = directory.join("state");
    std::fs::create_dir_all(&state).map_err(|error| format!("`{}`: {error}", state.display()))?;
    Ok(state)
}
