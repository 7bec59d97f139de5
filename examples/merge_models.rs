//! Merges two linear layers that were trained on different data, by regression means and by averaging.
//!
//! ```sh
//! cargo run --release --example merge_models
//! ```
//!
//! Each layer knows one task. The merged layer needs no data, only the second moment of each task's inputs. `betaedit merge` does it
//! for whole models.

use std::error::Error;

use betaedit_core::SecondMoment;
use betaedit_core::faer::{Mat, Par};
use betaedit_core::regmean::RegMean;
use betaedit_core::ridge::Ridge;

const PAR: Par = Par::Seq;
const D: usize = 24;

fn main() -> Result<(), Box<dyn Error>> {
    // The tasks use mostly different inputs, and ask different things of them.
    let tasks: Vec<(Mat<f64>, Mat<f64>)> = (0..2).map(task).collect();
    let mut layers = vec![];
    for (inputs, targets) in &tasks {
        let mut ridge = Ridge::new(D, targets.nrows(), 1e-3, PAR)?;
        ridge.fit(inputs.as_ref(), targets.as_ref())?;
        let mut moment = SecondMoment::new(D);
        moment.observe(inputs.as_ref(), PAR)?;
        layers.push((ridge.weight().to_owned(), moment));
    }
    let models: Vec<_> = layers.iter().map(|(weight, moment)| (weight.as_ref(), moment)).collect();
    let average = (&layers[0].0 + &layers[1].0) * betaedit_core::faer::Scale(0.5);
    let regmean = RegMean::default();
    let candidates = [
        ("trained on task 0", layers[0].0.clone()),
        ("trained on task 1", layers[1].0.clone()),
        ("average", average),
        ("RegMean, 0.9", regmean.merge(&models, PAR)?),
        ("RegMean, 1.0", regmean.with_off_diagonal(1.0).merge(&models, PAR)?),
    ];
    println!("{:>17}  {:>6}  {:>6}", "relative error on", "task 0", "task 1");
    let mut worst = vec![];
    for (name, weight) in &candidates {
        let error =
            |(inputs, targets): &(Mat<f64>, Mat<f64>)| (weight * inputs - targets).norm_l2() / targets.norm_l2();
        let errors: Vec<f64> = tasks.iter().map(error).collect();
        println!("{name:>17}  {:>6.3}  {:>6.3}", errors[0], errors[1]);
        worst.push(errors[0].max(errors[1]));
    }
    if worst[3] > 0.5 * worst[2] {
        return Err("regression means must be better than the average".into());
    }
    Ok(())
}

/// Inputs and targets, one sample a column.
fn task(number: usize) -> (Mat<f64>, Mat<f64>) {
    let used = |i: usize| if i % 2 == number { 1.0 } else { 0.1 };
    let inputs = Mat::from_fn(D, 600, |i, t| used(i) * ((t * (i + 3) + 17 * number + i * i) as f64 * 0.7).sin());
    let weight = Mat::from_fn(6, D, |i, j| ((i * 5 + j * 3 + 11 * number) as f64).cos());
    let targets = weight * &inputs;
    (inputs, targets)
}
