//! A program whose user chooses the method: by name, with the settings in a file.
//!
//! ```sh
//! cargo run --release --features serde --example by_name -- betaedit '{ "lambda1": 3, "lambda2": 0.1 }'
//! ```
//!
//! Without arguments it runs every method of the table on the same ten edits.

use std::error::Error;
use std::sync::Arc;

use betaedit_core::editor::{Hyperparameters, METHODS, MethodEntry, method};
use betaedit_core::faer::{Mat, Par};
use betaedit_core::{EditBatch, Editor, SecondMoment, Spectrum, Threshold, metrics};

const D_IN: usize = 48;
const D_OUT: usize = 16;
const PAR: Par = Par::Seq;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // What a settings file leaves out has its default; a misspelt name is an error.
    let settings: Hyperparameters = match arguments.get(1) {
        Some(text) => serde_json::from_str(text)?,
        None => Hyperparameters::default().with_lambda(3.0).with_lambda1(3.0).with_lambda2(0.1),
    };
    let settings = settings.with_threshold(Threshold::KeptEnergy(0.2));
    match arguments.first() {
        Some(name) => run(&method(name)?, &settings)?, // an unknown name: the error lists all
        None => METHODS.iter().try_for_each(|entry| run(entry, &settings))?,
    }
    Ok(())
}

fn run(entry: &MethodEntry, settings: &Hyperparameters) -> Result<(), Box<dyn Error>> {
    let (moment, spectrum) = statistics()?;
    let mut editor = entry.editor::<f64>(settings, &spectrum, PAR)?;
    let mut total = metrics::RunningTotal::new(&moment, D_OUT, 1, PAR)?;
    let (mut missed, mut leakage) = (0.0, 0.0);
    for t in 0..10 {
        let k = Mat::from_fn(D_IN, 1, |i, _| wave(i, 5000 + t));
        let r = Mat::from_fn(D_OUT, 1, |i, _| wave(i + 3, t + 1));
        let batch = EditBatch::new(k.as_ref(), r.as_ref())?;
        let update = editor.edit(&batch)?;
        missed += metrics::write_errors(&update, &batch, PAR)?[0] / r.norm_l2() / 10.0;
        leakage = total.record(&update)?.map_or(leakage, |measured| measured.leakage);
    }
    println!(
        "{:12} {:45} missed {:5.1} %  leakage {leakage:.4}",
        entry.name(),
        entry.parameters().join(", "),
        100.0 * missed
    );
    Ok(())
}

/// Second moment and spectrum of keys that use some inputs more than others.
fn statistics() -> Result<(Arc<SecondMoment>, Arc<Spectrum>), Box<dyn Error>> {
    let mut moment = SecondMoment::new(D_IN);
    moment.observe(Mat::from_fn(D_IN, 2000, wave).as_ref(), PAR)?;
    let spectrum = Arc::new(Spectrum::new(&moment, PAR)?);
    Ok((Arc::new(moment), spectrum))
}

/// Numbers that look random, smaller and smaller for later inputs.
fn wave(i: usize, t: usize) -> f64 {
    let x =
        ((i * 7919 + t * 104_729 + 17) as f64 * 0.618_033_988_7).fract() + ((i + 1) * (t + 3)) as f64 * 0.414_213_56;
    (std::f64::consts::TAU * x).sin() / (1.0 + i as f64 / 8.0)
}
