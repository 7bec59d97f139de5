#![no_main]

use betaedit_core::format::npy;

mod file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = file::holding(bytes, "npy");
    if let Ok(matrix) = npy::read::<f64>(path) {
        assert!(matrix.nrows() > 0 && matrix.ncols() > 0 && matrix.norm_max().is_finite());
    }
});
