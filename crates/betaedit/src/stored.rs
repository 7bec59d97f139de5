//! Statistics in a directory: those of `betaedit stats`, and those of other programs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use betaedit_core::editor::Recipe;
use betaedit_core::facts::shipped;
use betaedit_core::faer::{MatRef, Par};
use betaedit_core::format::{Statistics, spectrum};
use betaedit_core::llm::{Model, Tokenizer};
use betaedit_core::{KeyStatistics, SecondMoment, Spectrum};
use serde::{Deserialize, Serialize};

use crate::layers::Layers;
use crate::source::setting;
use crate::stats::SETTING;
use crate::terminal::{Done, Terminal};

pub fn statistics_path(folder: &Path, layer: usize) -> PathBuf {
    folder.join(format!("layer-{layer:02}.statistics.safetensors"))
}

/// The spectrum of a layer: from its file, if it belongs to these statistics, else computed and written.
pub fn layer_spectrum(
    statistics: &Statistics,
    layer: usize,
    folder: &Path,
    moment: &SecondMoment,
    terminal: Terminal,
) -> Done<Spectrum> {
    let path = folder.join(format!("layer-{layer:02}.spectrum.safetensors"));
    let mut fingerprint = statistics.fingerprint().cloned().unwrap_or_default();
    fingerprint.layer = layer;
    // By content: the file may have been replaced by another one for the same layer and text.
    fingerprint.text = format!("statistics {}, {} tokens", statistics.hash(), statistics.tokens());
    if let Ok((spectrum, there)) = spectrum::read(&path, terminal.par)
        && there == fingerprint
    {
        return Ok(spectrum);
    }
    let bar = terminal.bar(0, "eigenvectors");
    bar.enable_steady_tick(Duration::from_millis(200));
    let computed = Spectrum::new(moment, terminal.par)?;
    bar.finish_and_clear();
    // If the directory cannot be written, the spectrum is computed again next time.
    if let Err(error) = spectrum::write(&path, &computed, &fingerprint) {
        terminal.note(format!("the spectrum could not be written: {error}"));
    }
    Ok(computed)
}

/// A layer to edit: its number, and the statistics of its keys.
pub type Known = (usize, KeyStatistics);

/// What the editors of a session start from. The two differ by rounding, so a session keeps to one.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    #[default]
    Spectrum,
    /// The second moment alone: no decomposition.
    Moment,
}

impl Start {
    pub fn of(recipe: &Recipe) -> Self {
        if recipe.needs_spectrum() { Self::Spectrum } else { Self::Moment }
    }
}

/// Reads the statistics of some layers: files of `betaedit stats`, or `.npz` files with the names that programs of the MEMIT family
/// give them. They are checked against the model: by its fingerprint, if they have one, and always by the keys of a text.
///
/// * `scratch`: the directory in which they lie at rest, so that those of one layer are in memory at a time
pub fn load(
    folder: &Path,
    (model, tokenizer): (&Model, &Tokenizer),
    layers: &Layers,
    start: Start,
    scratch: &Path,
    terminal: Terminal,
) -> Done<Vec<Known>> {
    let window = tokenizer.windows(shipped::HELD_OUT_TEXT, 256.min(model.config().context))?.swap_remove(0);
    let witness = model.trace(&window)?;
    let mut known = vec![];
    for &layer in &layers.0 {
        let (tensor, _) = model.edited_tensor(layer)?;
        let module = tensor.trim_end_matches(".weight");
        let Some(path) = path_of(folder, Some(layer), module)? else {
            let folder = folder.display();
            let problem = format!("there are no statistics of layer {layer} in `{folder}`");
            let names =
                format!("looked for: layer-{layer:02}.statistics.safetensors, {module}_*.npz, layer-{layer}.npz");
            let advice = format!("collect them with `betaedit stats --layers {layers} --out {folder}`");
            return Err(format!("{problem} ({names}): {advice}").into());
        };
        let statistics = read_either(&path)?;
        if let Some(fingerprint) = statistics.fingerprint()
            && (fingerprint.model != model.fingerprint() || fingerprint.layer != layer)
        {
            let problem = "the statistics are of another model or layer: collect new ones with `betaedit stats`";
            return Err(format!("`{}`: {problem}", path.display()).into());
        }
        let collected_with = statistics.fingerprint().and_then(|fingerprint| fingerprint.text.split_once(SETTING));
        if let Some((_, other)) = collected_with
            && other != setting(model, tokenizer)?
        {
            let problem = "the statistics were collected with another configuration or tokenizer of the model: collect new ones with `betaedit stats`";
            return Err(format!("`{}`: {problem}", path.display()).into());
        }
        let moment = statistics.moment(witness.keys[layer].as_ref())?;
        let statistics = match start {
            Start::Moment => KeyStatistics::from_moment(moment),
            Start::Spectrum => {
                let spectrum = layer_spectrum(&statistics, layer, folder, &moment, terminal)?;
                drop(statistics);
                KeyStatistics::from_parts(moment, spectrum, terminal.par)?
            }
        };
        let rested = statistics.clone().at_rest(scratch).unwrap_or_else(|error| {
            terminal.note(format!("the statistics of layer {layer} stay in memory: {error}"));
            statistics
        });
        known.push((layer, rested));
    }
    Ok(known)
}

/// The layers with statistics in a directory.
pub fn layers_in(folder: &Path) -> Done<Vec<usize>> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("`{}`: {error}", folder.display()))?;
    let number = |name: &str| name.strip_prefix("layer-")?.strip_suffix(".statistics.safetensors")?.parse().ok();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut layers: Vec<usize> = names.filter_map(|name| number(&name)).collect();
    layers.sort_unstable();
    Ok(layers)
}

/// Statistics and spectrum of a layer, of any model.
pub fn read(folder: &Path, layer: usize, terminal: Terminal) -> Done<(Statistics, Spectrum)> {
    let statistics = Statistics::read(statistics_path(folder, layer))?;
    let spectrum = layer_spectrum(&statistics, layer, folder, &statistics.moment_without_witness()?, terminal)?;
    Ok((statistics, spectrum))
}

/// Statistics of the inputs of a module, if a directory has any: the file of its layer, if it is the module that is edited there, or
/// an `.npz` file of the MEMIT family whose name starts with the module's.
pub fn of_module(folder: &Path, module: &str) -> Done<Option<Statistics>> {
    let Some(path) = path_of_module(folder, module)? else { return Ok(None) };
    let statistics = read_either(&path)?;
    if !is_npz(&path) && statistics.fingerprint().map(|fingerprint| fingerprint.layer) != edited_layer(module) {
        let path = path.display();
        return Err(format!("`{path}` has statistics of another layer than its name says").into());
    }
    Ok(Some(statistics))
}

/// The file of these statistics.
pub fn path_of_module(folder: &Path, module: &str) -> Done<Option<PathBuf>> {
    path_of(folder, edited_layer(module), module)
}

/// The file of a layer or module. There must not be several, such as a quick collection beside the real one.
fn path_of(folder: &Path, layer: Option<usize>, module: &str) -> Done<Option<PathBuf>> {
    let ours = layer.map(|layer| statistics_path(folder, layer)).filter(|path| path.exists());
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| is_npz(path) && is_named(path, layer, module)).chain(ours).collect();
    found.sort();
    match &found[..] {
        [] | [_] => Ok(found.pop()),
        several => {
            let names = several.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(", ");
            let what = layer.map_or_else(|| format!("`{module}`"), |layer| format!("layer {layer}"));
            Err(format!(
                "there are several files with statistics of {what}: {names}; keep one of them in the directory"
            )
            .into())
        }
    }
}

/// Whether an `.npz` file has a usual name: that of the module, or the number of the layer (`layer-7.npz`, as the published program of
/// BetaEdit writes).
fn is_named(path: &Path, layer: Option<usize>, module: &str) -> bool {
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let ends = |rest: &str| rest.is_empty() || rest.starts_with(['_', '.']);
    // A module's name is followed by the name of the statistics, not by more digits.
    let of_module = name.strip_prefix(module).is_some_and(ends);
    let number = name.strip_prefix("layer").map(|rest| rest.trim_start_matches(['-', '_']));
    let of_layer = number.is_some_and(|rest| {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        ends(&rest[digits..]) && rest[..digits].parse() == Ok(layer.unwrap_or(usize::MAX))
    });
    of_module || of_layer
}

fn read_either(path: &Path) -> Done<Statistics> {
    Ok(if is_npz(path) { Statistics::read_npz(path)? } else { Statistics::read(path)? })
}

fn is_npz(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "npz")
}

/// The layer of a module that `edit` edits: the output projection of an MLP.
fn edited_layer(module: &str) -> Option<usize> {
    const EDITED: [&str; 3] = ["mlp.down_proj", "mlp.c_proj", "mlp.fc_out"];
    let block = EDITED.iter().find_map(|name| module.strip_suffix(name))?.strip_suffix('.')?;
    block.rsplit('.').next()?.parse().ok()
}

/// `tr(D C Dᵀ)`, the mean squared norm of `D x`.
pub fn energy(D: MatRef<'_, f64>, moment: &SecondMoment, par: Par) -> Done<f64> {
    let CD = moment.product(D.transpose(), par)?;
    Ok((0..D.nrows()).map(|i| (D.row(i) * CD.col(i)).max(0.0)).sum())
}
