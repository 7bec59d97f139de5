#![no_main]

use betaedit_core::format::lora::LoraAdapter;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = std::env::temp_dir().join(format!("betaedit-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("adapter_config.json"), r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4}"#).unwrap();
    std::fs::write(folder.join("adapter_model.safetensors"), bytes).unwrap();
    if let Ok(adapter) = LoraAdapter::read(&folder) {
        for module in adapter.modules() {
            assert!(adapter.update(module).is_ok_and(|update| update.frobenius_norm().is_finite()));
        }
    }
});
