#![no_main]

use std::sync::LazyLock;

#[path = "../../tests/session/small.rs"]
mod small;

/// A folder of this process, in memory where the system has one for that.
static JOURNALS: LazyLock<small::Journals> = LazyLock::new(|| {
    let memory = std::path::PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let folder = folder.join(format!("betaedit-fuzz-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    small::Journals::new(&folder)
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    JOURNALS.check(bytes);
});
