//! `betaedit merge`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use betaedit_core::faer::Mat;
use betaedit_core::format::{Checkpoint, Statistics};
use betaedit_core::regmean::{ModelWeighting, RegMean};
use betaedit_core::{Orientation, SecondMoment};
use serde_json::{Value, json};

use super::short;
use crate::directory::{Kind, Place};
use crate::outputs::copy_directory;
use crate::stored;
use crate::terminal::{Done, Failure, Terminal, shortened, table};

#[derive(clap::Args)]
#[command(
    after_help = "Layers with statistics of every model are merged by RegMean (Jin et al., ICLR 2023): the weight whose outputs \
are closest to those of each model on that model's own text, W = (sum W_i G_i)(sum G_i)^-1. All other tensors are averaged. The \
configuration and the tokenizer are those of the first model.

Give each --model its --stats, in the same order. Collect the statistics of each model on its own text, for the same layers.

Example:
  betaedit stats --model A --text A.txt --layers 0-29 --out stats-A
  betaedit stats --model B --text B.txt --layers 0-29 --out stats-B
  betaedit merge --model A --stats stats-A --model B --stats stats-B --out merged"
)]
pub struct Arguments {
    /// Model, a Hugging Face directory with safetensors files; repeat the flag for each model
    #[arg(long, value_name = "M", required = true)]
    model: Vec<PathBuf>,
    /// Directory with the statistics of that model; repeat the flag for each model
    #[arg(long, value_name = "STATS_DIR", required = true)]
    stats: Vec<PathBuf>,
    /// Factor of the off-diagonal entries of the statistics, from 0 to 1; a smaller one is safer with few tokens
    #[arg(long, value_name = "X", default_value_t = RegMean::default().off_diagonal)]
    off_diagonal: f64,
    /// What has equal weight: each model (equal), or each token of the statistics (tokens)
    #[arg(long, value_parser = ["equal", "tokens"], default_value = "equal")]
    weighting: String,
    /// Added to the diagonal of the statistics, as a share of its mean; for statistics that do not cover every input
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    ridge: f64,
    /// How the models store weights: as torch.nn.Linear does, or as d_in x d_out [default: by config.json]
    #[arg(long, value_parser = ["outputs-by-inputs", "inputs-by-outputs"])]
    orientation: Option<String>,
    /// Directory for the merged model
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// A layer that is merged by its statistics.
struct Layer {
    tensor: String,
    shape: (usize, usize),
    /// The error of the average, and of the merged weight, relative to the outputs of the models.
    error: [f64; 2],
}

pub fn run(arguments: &Arguments, terminal: Terminal) -> Done {
    let (models, folders) = (&arguments.model, &arguments.stats);
    if models.len() != folders.len() || models.len() < 2 {
        let (models, folders) = (models.len(), folders.len());
        return Err(
            format!("there are {models} --model and {folders} --stats: give two or more of each, in pairs").into()
        );
    }
    let inputs: Vec<&Path> = models.iter().chain(folders).map(PathBuf::as_path).collect();
    let place = Place::check(&arguments.out, Kind::Model, &inputs)?;
    if let Some(other) = models.iter().find(|model| !model.is_dir()) {
        return Err(format!("`{}` is not a model directory with safetensors files", other.display()).into());
    }
    let checkpoints = models.iter().map(Checkpoint::open).collect::<Result<Vec<_>, _>>()?;
    let orientation = match &arguments.orientation {
        Some(name) => name.parse()?,
        None => checkpoints[0].orientation()?,
    };
    let tensors = tensors_with_statistics(&checkpoints[0], folders, terminal)?;
    let merging = Merging {
        regmean: RegMean::default()
            .with_off_diagonal(arguments.off_diagonal)
            .with_weighting(arguments.weighting.parse::<ModelWeighting>()?)
            .with_ridge(arguments.ridge),
        checkpoints: &checkpoints,
        folders,
        orientation,
        terminal,
    };
    let mut layers = vec![];
    let mut averaged = 0;
    place.fill(|folder| {
        copy_directory(&models[0], folder)?;
        let bar = terminal.bar(tensors.len() as u64, "layers");
        let mut failure: Option<Failure> = None;
        let merged = Checkpoint::open(folder)?.average(&checkpoints[1..], &tensors, orientation, |tensor: &String| {
            let (weight, layer) = merging.layer(tensor).map_err(|error| remembered(&mut failure, error))?;
            layers.push(layer);
            bar.inc(1);
            Ok(weight)
        });
        bar.finish_and_clear();
        match (merged, failure) {
            (_, Some(failure)) => Err(failure),
            (merged, None) => {
                averaged = merged?.len() - tensors.len();
                Ok(())
            }
        }
    })?;
    report(arguments, &layers, averaged, terminal);
    Ok(())
}

/// Keeps an error of the command while the library stops for it.
fn remembered(failure: &mut Option<Failure>, error: Failure) -> betaedit_core::Error {
    let text = error.to_string();
    *failure = Some(error);
    betaedit_core::error::ModelError::Failed(text.into()).into()
}

/// The weights that have statistics of every model.
fn tensors_with_statistics(
    checkpoint: &Checkpoint,
    folders: &[PathBuf],
    terminal: Terminal,
) -> Done<BTreeMap<String, String>> {
    if let Some(folder) = folders.iter().find(|folder| !folder.is_dir()) {
        return Err(format!("`{}` is not a folder of statistics", folder.display()).into());
    }
    let mut tensors = BTreeMap::new();
    for name in checkpoint.names() {
        let Some(module) = name.strip_suffix(".weight") else { continue };
        let has = |folder: &PathBuf| Ok(stored::path_of_module(folder, module)?.is_some());
        let found = folders.iter().map(has).collect::<Done<Vec<bool>>>()?;
        if found.iter().all(|&found| found) {
            tensors.insert(name.to_owned(), name.to_owned());
        } else if let Some(missing) = found.iter().position(|&found| !found).filter(|_| found.contains(&true)) {
            let folder = folders[missing].display();
            terminal.note(format!("`{name}` is averaged: `{folder}` has no statistics for it, although others do"));
        }
    }
    if tensors.is_empty() {
        let list = folders.iter().map(|folder| format!("`{}`", folder.display())).collect::<Vec<_>>().join(", ");
        return Err(format!(
            "no layer of the models has statistics in all of {list}: collect them with `betaedit stats`"
        )
        .into());
    }
    Ok(tensors)
}

struct Merging<'a> {
    regmean: RegMean,
    checkpoints: &'a [Checkpoint],
    folders: &'a [PathBuf],
    orientation: Orientation,
    terminal: Terminal,
}

impl Merging<'_> {
    fn layer(&self, tensor: &str) -> Done<(Mat<f64>, Layer)> {
        let par = self.terminal.par;
        let read = |checkpoint: &Checkpoint| checkpoint.weight::<f64>(tensor, self.orientation);
        let weights = self.checkpoints.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let read = |folder: &PathBuf| self.statistics(folder, tensor, weights[0].ncols());
        let statistics = self.folders.iter().map(read).collect::<Done<Vec<_>>>()?;
        let moments =
            statistics.iter().map(Statistics::moment_without_witness).collect::<Result<Vec<SecondMoment>, _>>()?;
        self.compare(tensor, &statistics, &moments)?;
        let models: Vec<_> = weights.iter().map(Mat::as_ref).zip(&moments).collect();
        let merged = self.regmean.merge(&models, par).map_err(|error| format!("`{tensor}`: {error}"))?;

        let mut average = Mat::<f64>::zeros(merged.nrows(), merged.ncols());
        weights.iter().for_each(|weight| average += weight);
        average /= betaedit_core::faer::Scale(weights.len() as f64);
        let (mut error, mut outputs) = ([0.0; 2], 0.0);
        for (weight, moment) in weights.iter().zip(&moments) {
            outputs += stored::energy(weight.as_ref(), moment, par)?;
            for (error, candidate) in error.iter_mut().zip([&average, &merged]) {
                *error += stored::energy((candidate - weight).as_ref(), moment, par)?;
            }
        }
        let error = error.map(|error| (error / f64::max(outputs, f64::MIN_POSITIVE)).sqrt());
        Ok((merged, Layer { tensor: tensor.to_owned(), shape: weights[0].shape(), error }))
    }

    fn statistics(&self, folder: &Path, tensor: &str, d_in: usize) -> Done<Statistics> {
        let statistics = stored::of_module(folder, tensor.trim_end_matches(".weight"))?;
        let statistics = statistics.ok_or_else(|| format!("the statistics of `{tensor}` are gone"))?;
        if statistics.d_in() != d_in {
            let (folder, found) = (folder.display(), statistics.d_in());
            return Err(
                format!("`{folder}`: the statistics of `{tensor}` are for {found} inputs, but it has {d_in}").into()
            );
        }
        Ok(statistics)
    }

    /// Notes what looks like a mistake (statistics of one model for two), and refuses a mean in a file that should hold a sum:
    /// the model of such a file would hardly count.
    fn compare(&self, tensor: &str, statistics: &[Statistics], moments: &[SecondMoment]) -> Done {
        for (i, ours) in statistics.iter().enumerate() {
            let model = |statistics: &Statistics| statistics.fingerprint().map(|fingerprint| fingerprint.model.clone());
            let same = |j: &usize| model(ours).is_some() && model(&statistics[*j]) == model(ours);
            if let Some(j) = (0..i).find(same) {
                let [ours, theirs] = [i, j].map(|which| self.folders[which].display());
                self.terminal.note(format!("`{tensor}`: `{ours}` and `{theirs}` have statistics of the same model"));
            }
        }
        let traces: Vec<f64> = moments.iter().map(SecondMoment::trace).collect();
        let [least, most] = [f64::min, f64::max].map(|pick| traces.iter().copied().reduce(pick).unwrap_or(0.0));
        let found =
            format!("`{tensor}`: the mean squared norms of the inputs differ by a factor of {:.0}", most / least);
        if most > 1000.0 * least {
            let advice =
                "one of them is a mean where a file holds the sum over its tokens, or they are not of the same layer";
            return Err(format!("{found}: {advice}").into());
        }
        if most > 100.0 * least {
            self.terminal.note(format!("{found}: are they statistics of the same layer?"));
        }
        Ok(())
    }
}

fn report(arguments: &Arguments, layers: &[Layer], averaged: usize, terminal: Terminal) {
    let mut rows = vec![["layer", "shape", "error of the average", "of the merged weight"].map(str::to_owned).to_vec()];
    let mut values: Vec<Value> = vec![];
    for Layer { tensor, shape: (d_out, d_in), error } in layers {
        rows.push(vec![shortened(tensor, 56), format!("{d_out} x {d_in}"), short(error[0]), short(error[1])]);
        values.push(json!({
            "tensor": tensor, "d_out": d_out, "d_in": d_in, "average_error": error[0], "merged_error": error[1],
        }));
    }
    terminal.say(format!(
        "{}\n\nerror: how far the outputs are from those of each model on its own text, as a share of them\n\n{} layers were \
         merged by their statistics, {averaged} other tensors averaged; the merged model is in {}",
        table(&rows),
        layers.len(),
        arguments.out.display()
    ));
    terminal.result(&json!({ "layers": values, "averaged": averaged, "out": arguments.out }));
}
