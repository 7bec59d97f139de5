//! `betaedit project`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use betaedit_core::format::lora::LoraAdapter;
use betaedit_core::projector::ProjectorBuilder;
use betaedit_core::{Spectrum, Threshold, metrics};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::{copy, short};
use crate::directory::{Kind, MANIFEST, Place};
use crate::stored;
use crate::terminal::{Done, Terminal, shortened, table};

#[derive(clap::Args)]
#[command(
    after_help = "An adapter changes a weight by B A. The command replaces A by A P, where P is the projector on the input \
directions that the text of the statistics hardly uses. The fine-tune keeps its effect in these directions, and the model's \
outputs on such a text hardly change. Rank, scale and configuration stay the same.

The statistics are those of the inputs of the adapted modules. `betaedit stats` collects them for the MLP's output projection; \
for any other module, give .npz files of the MEMIT family, named after the module (model.layers.7.self_attn.o_proj_...npz).

Example:
  betaedit stats --model M --text TEXT --layers 0-29 --out stats
  betaedit project --lora adapter --stats stats --threshold 0.02 --out adapter-projected"
)]
pub struct Arguments {
    /// Directory of a LoRA adapter in PEFT's layout
    #[arg(long, value_name = "ADAPTER_DIR")]
    lora: PathBuf,
    /// Directory with statistics of the modules
    #[arg(long, value_name = "STATS_DIR")]
    stats: PathBuf,
    /// Keep only directions with an eigenvalue of C below this
    #[arg(long, value_name = "X", default_value_t = 0.02)]
    threshold: f64,
    /// What to do with modules that have no statistics
    #[arg(long, value_enum, default_value_t = Others::Refuse)]
    others: Others,
    /// Directory for the projected adapter
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Others {
    /// Stop, and name them
    Refuse,
    /// Leave them as they are
    Keep,
}

/// What projecting did to a module.
struct Projected {
    module: String,
    kept: usize,
    d_in: usize,
    leakage: [f64; 2],
    norm: [f64; 2],
}

pub fn run(arguments: &Arguments, terminal: Terminal) -> Done {
    let place = Place::check(&arguments.out, Kind::Adapter, &[&arguments.lora, &arguments.stats])?;
    let mut adapter = LoraAdapter::read(&arguments.lora)?;
    let modules: Vec<String> = adapter.modules().map(str::to_owned).collect();
    let (mut projected, mut others) = (vec![], vec![]);
    let bar = terminal.bar(modules.len() as u64, "modules");
    for module in modules {
        match project(&mut adapter, &module, arguments, terminal)? {
            Some(done) => projected.push(done),
            None => others.push(module),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let stats = arguments.stats.display();
    if projected.is_empty() {
        return Err(format!("`{stats}` has no statistics of any module of the adapter, such as {}", others[0]).into());
    }
    if !others.is_empty() && arguments.others == Others::Refuse {
        let list = others.iter().take(20).cloned().collect::<Vec<_>>().join(", ");
        let advice = "collect them, or leave these modules as they are with `--others keep`";
        return Err(format!("`{stats}` has no statistics of {} modules: {list}; {advice}", others.len()).into());
    }
    place.fill(|folder| {
        copy_others(&arguments.lora, folder)?;
        Ok(adapter.write(folder)?)
    })?;
    report(arguments, &projected, &others, terminal);
    Ok(())
}

fn project(
    adapter: &mut LoraAdapter,
    module: &str,
    arguments: &Arguments,
    terminal: Terminal,
) -> Done<Option<Projected>> {
    let Some(statistics) = stored::of_module(&arguments.stats, module)? else { return Ok(None) };
    let before = adapter.update(module)?;
    if statistics.d_in() != before.d_in() {
        let (found, expected) = (statistics.d_in(), before.d_in());
        return Err(
            format!("the statistics of `{module}` are for {found} inputs, but the adapter has {expected}").into()
        );
    }
    let moment = statistics.moment_without_witness()?;
    let spectrum = Arc::new(Spectrum::new(&moment, terminal.par)?);
    let threshold = Threshold::Absolute(arguments.threshold);
    let projector = ProjectorBuilder::new(&spectrum).threshold(threshold).build(terminal.par)?;
    adapter.project(module, &projector, terminal.par)?;
    let after = adapter.update(module)?;
    let leakage = |update| metrics::leakage(update, &moment, terminal.par);
    Ok(Some(Projected {
        module: module.to_owned(),
        kept: projector.kept(),
        d_in: projector.dim(),
        leakage: [leakage(&before)?, leakage(&after)?],
        norm: [before.frobenius_norm(), after.frobenius_norm()],
    }))
}

/// The other files of an adapter: a tokenizer, a page.
fn copy_others(lora: &Path, folder: &Path) -> Done {
    for entry in std::fs::read_dir(lora)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        let weights =
            path.extension().is_some_and(|extension| ["safetensors", "bin", "pt"].iter().any(|x| extension == *x));
        if path.is_file() && !weights && name != "adapter_config.json" && name != MANIFEST {
            copy(&path, &folder.join(name))?;
        }
    }
    Ok(())
}

fn report(arguments: &Arguments, projected: &[Projected], others: &[String], terminal: Terminal) {
    let heads = ["module", "directions", "leakage before", "after", "norm before", "after"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    let mut values: Vec<Value> = vec![];
    for Projected { module, kept, d_in, leakage, norm } in projected {
        let numbers = [leakage[0], leakage[1], norm[0], norm[1]].map(short);
        rows.push([shortened(module, 48), format!("{kept} of {d_in}")].into_iter().chain(numbers).collect());
        values.push(json!({
            "module": module, "kept_directions": kept, "d_in": d_in, "leakage_before": leakage[0],
            "leakage_after": leakage[1], "norm_before": norm[0], "norm_after": norm[1],
        }));
    }
    let [before, after] = [0, 1].map(|when| projected.iter().map(|module| module.leakage[when]).sum::<f64>());
    terminal.say(format!(
        "{}\n\nleakage: the mean squared change of the module's output on the text; of {}, {} is left, which is {:.3} %",
        table(&rows),
        short(before),
        short(after),
        100.0 * after / before.max(f64::MIN_POSITIVE)
    ));
    if !others.is_empty() {
        terminal.say(format!("{} modules without statistics are unchanged", others.len()));
    }
    terminal.say(format!("the projected adapter is in {}", arguments.out.display()));
    terminal.result(&json!({
        "modules": values, "unchanged": others, "leakage_before": before, "leakage_after": after,
        "threshold": arguments.threshold, "out": arguments.out,
    }));
}
