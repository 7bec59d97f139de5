//! Takes out of a LoRA adapter what it changes about a text.
//!
//! ```sh
//! cargo run --release --features safetensors --example project_adapter
//! ```
//!
//! The adapter and the statistics are made up, and written to a temporary folder. `betaedit project` does the same with those of a real
//! model.

use std::error::Error;
use std::sync::Arc;

use betaedit_core::faer::{Mat, Par};
use betaedit_core::format::{Updates, lora};
use betaedit_core::projector::ProjectorBuilder;
use betaedit_core::{Orientation, SecondMoment, Spectrum, Threshold, Update, metrics};

const PAR: Par = Par::Seq;
const MODULE: &str = "model.layers.5.mlp.down_proj";

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let (trained, projected) = (folder.path().join("adapter"), folder.path().join("adapter-projected"));
    write_adapter(&trained)?;

    // The inputs of the module over a text: a few directions are used much, most are used little.
    let inputs = Mat::from_fn(64, 2000, |i, t| 0.9_f64.powi(2 * i as i32) * ((t * (3 * i + 5)) as f64).sin());
    let mut moment = SecondMoment::new(64);
    moment.observe(inputs.as_ref(), PAR)?;
    let spectrum = Arc::new(Spectrum::new(&moment, PAR)?);

    println!("{:>9}  {:>10}  {:>9}  {:>6}", "threshold", "directions", "leakage", "norm");
    let adapter = lora::LoraAdapter::read(&trained)?;
    let before = adapter.update(MODULE)?;
    let leakage = metrics::leakage(&before, &moment, PAR)?;
    println!("{:>9}  {:>10}  {leakage:>9.2e}  {:>6.3}", "-", 64, before.frobenius_norm());
    for threshold in [1e-1, 1e-2, 1e-3] {
        let projector = ProjectorBuilder::new(&spectrum).threshold(Threshold::Absolute(threshold)).build(PAR)?;
        let mut adapter = adapter.clone();
        adapter.project(MODULE, &projector, PAR)?;
        let after = adapter.update(MODULE)?;
        let left = metrics::leakage(&after, &moment, PAR)?;
        println!("{threshold:>9}  {:>10}  {left:>9.2e}  {:>6.3}", projector.kept(), after.frobenius_norm());
        // Every direction that is kept has an eigenvalue below the threshold.
        if left > threshold * after.frobenius_norm().powi(2) || left > leakage {
            return Err("more is left than the threshold allows".into());
        }
        adapter.write(&projected)?;
    }
    let read = lora::LoraAdapter::read(&projected)?;
    println!("the last one was written, and is for {}", read.base_model().unwrap_or("an unknown model"));
    Ok(())
}

fn write_adapter(folder: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let left = Mat::from_fn(32, 4, |i, j| ((5 * i + 3 * j) as f64).sin());
    let right = Mat::from_fn(4, 64, |i, j| 0.1 * ((7 * i + 2 * j) as f64).cos());
    let updates = Updates::from([(format!("{MODULE}.weight"), Update::from_factors(left, right)?)]);
    lora::write(folder, &updates, "org/model", Orientation::OutputsByInputs)?;
    Ok(())
}
