#![no_main]

use betaedit_core::faer::Par;
use betaedit_core::format::gguf::GgufModel;
use betaedit_core::llm::Model;

mod file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = file::holding(bytes, "gguf");
    let _ = Model::open(&path, Par::Seq);
    if let Ok(model) = GgufModel::open(&path) {
        for name in model.names() {
            let _ = model.kind(name);
        }
    }
});
