//! What a directory holds in place of a model.

use std::path::Path;

/// The file of a checkpoint that is not sharded, and the index of one that is, as `save_pretrained` names them.
pub(super) const WHOLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// How to convert a pickle.
pub(crate) const CONVERT: &str = "load the model in transformers and `save_pretrained` it, which writes safetensors";

/// What is wrong with a directory that has no weights or no configuration of a model, and what to do.
pub(crate) fn without_model(folder: &Path) -> String {
    let names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let find = |wanted: &dyn Fn(&str) -> bool| names.iter().find(|name| wanted(name)).map(String::as_str);
    let has = |name: &str| names.iter().any(|one| one == name);
    let lost = |name: &&str| has(name) && !folder.join(name).exists();
    if let Some(name) = [WHOLE, INDEX, "config.json"].iter().find(|name| lost(name)) {
        return format!("`{name}` is a link to a file that is not there: download the model again");
    }
    if has("snapshots") {
        return "this is the cache of a repository: give the directory of a revision in it, `snapshots/REVISION`"
            .to_owned();
    }
    if let Some(name) = find(&|name| name.starts_with("models--")) {
        return format!(
            "this is the cache of many repositories: give a model in it, such as `{name}/snapshots/REVISION`"
        );
    }
    if has("adapter_config.json") && !has(WHOLE) && !has(INDEX) {
        return "this is an adapter, not a model: give the model, or merge the adapter into it (in PEFT: `merge_and_unload`) and save \
                the result"
            .to_owned();
    }
    if !has(WHOLE) && !has(INDEX) {
        if let Some(name) = find(&|name| name.ends_with(".gguf")) {
            return format!("there is no `{WHOLE}`: give the file `{name}` itself");
        }
        if let Some(name) =
            find(&|name| name.starts_with("pytorch_model") && (name.ends_with(".bin") || name.ends_with(".json")))
        {
            return format!("the weights are in `{name}`, a pickle of PyTorch, which is not read; {CONVERT}");
        }
        let foreign = [".h5", ".msgpack", ".onnx", ".pt", ".pth", ".bin", ".ot"];
        if let Some(name) =
            find(&|name| foreign.iter().any(|end| name.ends_with(end)) && !name.starts_with("consolidated."))
        {
            return format!("there is `{name}`, in a format that is not read, and no `{WHOLE}`; {CONVERT}");
        }
        if let Some(name) = find(&|name| name.starts_with("consolidated.")) {
            return format!(
                "the weights are in `{name}`, in the original layout of the model; download it in the layout of transformers"
            );
        }
        if let Some(name) = find(&|name| name.ends_with(".safetensors")) {
            return format!("there is `{name}`, but neither `{WHOLE}` nor `{INDEX}`, which names the shards");
        }
        return format!("there is neither `{WHOLE}` nor `{INDEX}`");
    }
    "there is no `config.json`, which says what kind of model this is".to_owned()
}
