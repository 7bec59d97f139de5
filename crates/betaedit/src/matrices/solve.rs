//! `betaedit solve`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use betaedit_core::concept::{ConceptEdit, Speed, Uce};
use betaedit_core::faer::Mat;
use betaedit_core::format::{Checkpoint, Rounding, Updates};
use betaedit_core::{AlphaEdit, BetaEdit, Memit, Orientation, Threshold, Update};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::arrays::Rows;
use super::{beside, copy, display, given, matching, rename, short};
use crate::files;
use crate::terminal::{Done, Terminal, shortened, table};

#[derive(clap::Args)]
#[command(
    after_help = "Arrays are numpy .npy files (float16, float32, float64) with one sample in each ROW. All layers that read the \
same keys, such as the cross-attention of a diffusion model, can be edited at once: select their tensors by a pattern, and give \
anchors instead of values.

Examples:
  Erase a concept from a diffusion model: its embeddings get the outputs of another text's
    betaedit solve --weights unet/diffusion_pytorch_model.safetensors --tensor '*attn2.to_k.weight' --tensor '*attn2.to_v.weight' \\
                   --keys van_gogh.npy --anchors art.npy --preserve others.npy --out erased.safetensors

  The same in the null space of the preserved embeddings, with the start token left exactly as it is
    betaedit solve ... --method speed --threshold 0.1 --invariant start.npy --out erased.safetensors

  Give any linear layer new outputs for some inputs
    betaedit solve --weights model.safetensors --tensor fc.weight --keys K.npy --values V.npy --preserve P.npy --out new.safetensors

The formulas are in docs/matrices.md."
)]
pub struct Arguments {
    /// File of weights (.safetensors)
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// Tensor to edit, a matrix; repeat the flag for several, or write * for any text
    #[arg(long, value_name = "NAME", required = true)]
    tensor: Vec<String>,
    /// Keys to edit: inputs of the layer, n x d_in
    #[arg(long, value_name = "K.npy")]
    keys: PathBuf,
    /// New outputs for the keys, n x d_out
    #[arg(long, value_name = "V.npy", required_unless_present = "anchors", conflicts_with = "anchors")]
    values: Option<PathBuf>,
    /// Instead of --values: inputs whose present outputs the keys get, n x d_in, or one row for all keys
    #[arg(long, value_name = "A.npy")]
    anchors: Option<PathBuf>,
    /// Keys whose outputs should not change, m x d_in; all methods but uce need them
    #[arg(long, value_name = "P.npy")]
    preserve: Option<PathBuf>,
    /// speed: keys whose outputs must not change at all, such as that of the start token, k x d_in
    #[arg(long, value_name = "P.npy")]
    invariant: Option<PathBuf>,
    /// Editing method
    #[arg(long, value_enum, default_value_t = Method::Uce)]
    method: Method,
    /// Weight of the penalty on the size of the change [default: uce 0.5, speed 1, memit 0, alphaedit and betaedit 10]
    #[arg(long, value_name = "X")]
    ridge: Option<f64>,
    /// uce: weight of each edited key [default: 1]
    #[arg(long, value_name = "X")]
    edit_weight: Option<f64>,
    /// Weight of the preserved keys [default: uce 1 for each; memit 15000, betaedit 3000 for their mean]
    #[arg(long, value_name = "X")]
    preserve_weight: Option<f64>,
    /// speed, alphaedit, betaedit: change only directions in which the preserved keys have a mean square below this [default:
    /// speed 0.1, else 0.02]
    #[arg(long, value_name = "X")]
    threshold: Option<f64>,
    /// speed: slack of the invariant keys [default: 0]
    #[arg(long, value_name = "X", requires = "invariant")]
    slack: Option<f64>,
    /// How the file stores the tensors: as torch.nn.Linear does, or as d_in x d_out
    #[arg(long, value_parser = ["outputs-by-inputs", "inputs-by-outputs"], default_value = "outputs-by-inputs")]
    orientation: String,
    /// File for the edited weights; everything else is copied from the input
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Unified Concept Editing: least squares over edited keys, preserved keys and the present weight
    Uce,
    /// An edit in the null space of the preserved keys
    Speed,
    /// MEMIT, with the mean over the preserved keys as statistics
    Memit,
    /// AlphaEdit: the null space of the preserved keys
    Alphaedit,
    /// BetaEdit: the null space, with a penalty on the leakage that is left in it
    Betaedit,
}

/// The arrays of the edit.
struct Arrays {
    keys: Rows,
    target: Target,
    preserve: Option<Rows>,
    invariant: Option<Rows>,
}

enum Target {
    Values(Rows),
    Anchors(Rows),
}

pub fn run(arguments: &Arguments, terminal: Terminal) -> Done {
    arguments.check_flags()?;
    let optional = given(&[&arguments.values, &arguments.anchors, &arguments.preserve, &arguments.invariant]);
    let inputs = [&[arguments.weights.as_path(), &arguments.keys][..], &optional].concat();
    files::check(&[&Some(arguments.out.clone())], &inputs)?;
    if arguments.weights.is_dir() || arguments.weights.extension().is_none_or(|extension| extension != "safetensors") {
        let path = display(&arguments.weights);
        return Err(format!("{path} is not a .safetensors file: give the file that holds the tensor").into());
    }
    let checkpoint = Checkpoint::open(&arguments.weights)?;
    let names = matching(&checkpoint.names().collect::<Vec<_>>(), &arguments.tensor, &arguments.weights)?;
    let orientation: Orientation = arguments.orientation.parse()?;
    let shapes = names.iter().map(|name| checkpoint.shape(name, orientation)).collect::<Result<Vec<_>, _>>()?;
    let arrays = arguments.arrays(&names, &shapes)?;

    let edit = arguments.solved(&arrays, terminal)?;
    let bar = terminal.bar(names.len() as u64, "tensors");
    let (mut updates, mut written) = (Updates::new(), vec![]);
    for name in &names {
        let weight: Mat<f64> = checkpoint.weight(name, orientation)?;
        let update = match &arrays.target {
            Target::Values(values) => edit.update(weight.as_ref(), values.columns())?,
            Target::Anchors(anchors) => edit.update_to_anchors(weight.as_ref(), anchors.columns())?,
        };
        written.push(Written::measured(name, &weight, &update, &arrays, terminal)?);
        updates.insert(name.clone(), update);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let roundings = write(&arguments.weights, &arguments.out, |copy| copy.apply(&updates, orientation, terminal.par))?;
    report(arguments, &written, &roundings, terminal);
    Ok(())
}

impl Arguments {
    /// Refuses settings that the method does not have.
    fn check_flags(&self) -> Done {
        use Method::{Alphaedit, Betaedit, Memit, Speed, Uce};
        let flags: [(&str, bool, &[Method]); 5] = [
            ("--edit-weight", self.edit_weight.is_some(), &[Uce]),
            ("--preserve-weight", self.preserve_weight.is_some(), &[Uce, Memit, Betaedit]),
            ("--threshold", self.threshold.is_some(), &[Speed, Alphaedit, Betaedit]),
            ("--slack", self.slack.is_some(), &[Speed]),
            ("--invariant", self.invariant.is_some(), &[Speed]),
        ];
        for (flag, set, methods) in flags {
            if set && !methods.contains(&self.method) {
                let names = methods.iter().map(|method| method.name()).collect::<Vec<_>>().join(", ");
                return Err(format!("{flag} is for --method {names}, not for {}", self.method.name()).into());
            }
        }
        if self.preserve.is_none() && self.method != Uce {
            return Err(format!("--method {} needs keys to preserve: give --preserve", self.method.name()).into());
        }
        Ok(())
    }

    /// The arrays, which must fit the tensors and each other.
    fn arrays(&self, names: &[String], shapes: &[(usize, usize)]) -> Done<Arrays> {
        let keys = Rows::read(&self.keys)?;
        for (name, (_, d_in)) in names.iter().zip(shapes) {
            keys.check_length(*d_in, &format!("the inputs of tensor `{name}`"))?;
        }
        let (length, of) = (keys.length(), format!("as in {}", display(&self.keys)));
        let target = match (Rows::read_if_given(self.values.as_ref())?, Rows::read_if_given(self.anchors.as_ref())?) {
            (_, Some(anchors)) => {
                let anchors = anchors.repeated(keys.count());
                anchors.check_length(length, &of)?;
                anchors.check_count(&keys)?;
                Target::Anchors(anchors)
            }
            (Some(values), None) => {
                for (name, (d_out, _)) in names.iter().zip(shapes) {
                    values.check_length(*d_out, &format!("the outputs of tensor `{name}`"))?;
                }
                values.check_count(&keys)?;
                Target::Values(values)
            }
            (None, None) => return Err("give --values or --anchors".into()),
        };
        let preserve = Rows::read_if_given(self.preserve.as_ref())?;
        let invariant = Rows::read_if_given(self.invariant.as_ref())?;
        for rows in [&preserve, &invariant].into_iter().flatten() {
            rows.check_length(length, &of)?;
        }
        Ok(Arrays { keys, target, preserve, invariant })
    }

    /// Solves by the method, whose own defaults hold where no flag is given.
    fn solved(&self, arrays: &Arrays, terminal: Terminal) -> Done<ConceptEdit> {
        let (keys, par) = (arrays.keys.columns(), terminal.par);
        let given = arrays.preserve.as_ref().map(Rows::columns);
        let preserved = || given.ok_or("give --preserve");
        let threshold = self.threshold.map(Threshold::Absolute);
        Ok(match self.method {
            Method::Uce => {
                let mut uce = Uce::default();
                set(&mut uce.ridge, self.ridge);
                set(&mut uce.edit_weight, self.edit_weight);
                set(&mut uce.preserve_weight, self.preserve_weight);
                uce.edit(keys, given, par)?
            }
            Method::Speed => {
                let mut speed = Speed::default();
                set(&mut speed.threshold, threshold);
                set(&mut speed.ridge, self.ridge);
                set(&mut speed.slack, self.slack);
                speed.edit(keys, preserved()?, arrays.invariant.as_ref().map(Rows::columns), par)?
            }
            Method::Memit => {
                let mut memit = Memit::default();
                set(&mut memit.lambda, self.preserve_weight);
                set(&mut memit.ridge, self.ridge);
                ConceptEdit::with_method(&memit, keys, preserved()?, par)?
            }
            Method::Alphaedit => {
                let mut alphaedit = AlphaEdit::default();
                set(&mut alphaedit.lambda2, self.ridge);
                set(&mut alphaedit.threshold, threshold);
                ConceptEdit::with_method(&alphaedit, keys, preserved()?, par)?
            }
            Method::Betaedit => {
                let mut betaedit = BetaEdit::default();
                set(&mut betaedit.lambda1, self.preserve_weight);
                set(&mut betaedit.lambda2, self.ridge);
                set(&mut betaedit.threshold, threshold);
                ConceptEdit::with_method(&betaedit, keys, preserved()?, par)?
            }
        })
    }
}

fn set<T>(setting: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *setting = given;
    }
}

impl Method {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// What an update does to a tensor.
struct Written {
    name: String,
    shape: (usize, usize),
    /// `|V - W' K| / |V - W K|`.
    missed: f64,
    change: f64,
    relative_change: f64,
    /// Of the preserved keys: the mean squared norm of the output, and of its change.
    preserved: Option<(f64, f64)>,
}

impl Written {
    fn measured(
        name: &str,
        weight: &Mat<f64>,
        update: &Update<f64>,
        arrays: &Arrays,
        terminal: Terminal,
    ) -> Done<Self> {
        let keys = arrays.keys.columns();
        let residuals = match &arrays.target {
            Target::Values(values) => values.columns() - weight * keys,
            Target::Anchors(anchors) => weight * (anchors.columns() - keys),
        };
        let left = &residuals - update.product(keys, terminal.par)?;
        let asked = residuals.norm_l2();
        let preserved = arrays.preserve.as_ref().map(|rows| -> Done<(f64, f64)> {
            let (C, m) = (rows.columns(), rows.count() as f64);
            Ok(((weight * C).squared_norm_l2() / m, update.product(C, terminal.par)?.squared_norm_l2() / m))
        });
        let change = update.frobenius_norm();
        Ok(Self {
            name: name.to_owned(),
            shape: weight.shape(),
            missed: if asked > 0.0 { left.norm_l2() / asked } else { 0.0 },
            change,
            relative_change: change / weight.norm_l2().max(f64::MIN_POSITIVE),
            preserved: preserved.transpose()?,
        })
    }

    /// The root mean square of the change of the preserved outputs, relative to that of the outputs.
    fn leakage(&self) -> Option<f64> {
        self.preserved.map(|(output, change)| (change / output.max(f64::MIN_POSITIVE)).sqrt())
    }

    fn json(&self, rounding: &Rounding) -> Value {
        json!({
            "tensor": self.name, "d_out": self.shape.0, "d_in": self.shape.1, "write_error": self.missed,
            "change": self.change, "relative_change": self.relative_change,
            "preserved_output": self.preserved.map(|(output, _)| output),
            "leakage": self.preserved.map(|(_, change)| change), "relative_leakage": self.leakage(),
            "precision": rounding.precision.to_string(), "rounding": rounding.share(),
        })
    }
}

/// Copies a file of weights, changes the copy and renames it into its place.
fn write(
    weights: &Path,
    out: &Path,
    change: impl FnOnce(&Checkpoint) -> betaedit_core::Result<BTreeMap<String, Rounding>>,
) -> Done<BTreeMap<String, Rounding>> {
    let folder = beside(out)?;
    let staged = folder.path().join(weights.file_name().unwrap_or_default());
    copy(weights, &staged)?;
    let roundings = change(&Checkpoint::open(&staged)?)?;
    rename(&staged, out)?;
    Ok(roundings)
}

fn report(arguments: &Arguments, written: &[Written], roundings: &BTreeMap<String, Rounding>, terminal: Terminal) {
    let heads = ["tensor", "shape", "missed", "change", "preserved changed", "lost to rounding"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for tensor in written {
        rows.push(vec![
            shortened(&tensor.name, 64),
            format!("{} x {}", tensor.shape.0, tensor.shape.1),
            short(tensor.missed),
            short(tensor.relative_change),
            tensor.leakage().map_or("-".to_owned(), short),
            short(roundings[&tensor.name].share()),
        ]);
    }
    terminal.say(format!(
        "{}\n\nmissed: the share of the change of the edited outputs that was not written; change: |Delta| / |W|; preserved \
         changed: the change of the preserved outputs, as a share of them; lost to rounding: share of the change\n\nthe edited \
         weights are in {}",
        table(&rows),
        arguments.out.display()
    ));
    let tensors: Vec<Value> = written.iter().map(|tensor| tensor.json(&roundings[&tensor.name])).collect();
    terminal.result(&json!({ "method": arguments.method.name(), "tensors": tensors, "out": arguments.out }));
}
