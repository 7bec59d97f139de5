#![no_main]

use betaedit_core::faer::{Mat, Par};
use betaedit_core::format::engine;

mod file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // With its hash made anew: the fuzzer cannot guess it.
    let mut bytes = bytes.to_vec();
    if let Some(end) = bytes.len().checked_sub(blake3::OUT_LEN) {
        let hash = blake3::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(hash.as_bytes());
    }
    if let Ok(mut engine) = engine::read(file::holding(&bytes, "inverse"), Par::Seq) {
        let _ = engine.absorb(Mat::<f32>::full(engine.dim(), 1, 0.5).as_ref());
    }
});
