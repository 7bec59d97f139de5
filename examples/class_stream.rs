//! Learns classes as they appear, and forgets a person's samples: ridge regression over a stream.
//!
//! ```sh
//! cargo run --release --example class_stream
//! ```
//!
//! In analytic continual learning, the inputs are the features of a frozen network, and the outputs are classes. Here the features
//! are made up.

use std::error::Error;

use betaedit_core::faer::{Mat, MatRef, Par};
use betaedit_core::ridge::{Ridge, Samples};

const FEATURES: usize = 64;
const GAMMA: f64 = 1.0;

fn main() -> Result<(), Box<dyn Error>> {
    let mut ridge = Ridge::new(FEATURES, 3, GAMMA, Par::Seq)?.with_samples(Samples::Kept)?;

    // The first task has three classes, each later one brings two more. No earlier sample is looked at again.
    for (task, classes) in [3, 5, 7].into_iter().enumerate() {
        ridge.add_outputs(classes - ridge.d_out())?;
        let labels: Vec<usize> = (0..200).map(|i| if task == 0 { i % 3 } else { classes - 2 + i % 2 }).collect();
        ridge.fit(samples(&labels, 1000 * task).as_ref(), one_hot(&labels, classes).as_ref())?;
        println!("{classes} classes: accuracy {:.3} on all of them", accuracy(&ridge)?);
    }

    // A person joins with 20 samples, and asks to be forgotten.
    let before = ridge.weight().to_owned();
    let labels: Vec<usize> = (0..20).map(|i| i % 7).collect();
    let numbers = ridge.fit(samples(&labels, 9000).as_ref(), one_hot(&labels, 7).as_ref())?;
    let with = (ridge.weight() - &before).norm_l2() / before.norm_l2();
    ridge.forget_numbers(&numbers.collect::<Vec<_>>())?;
    let without = (ridge.weight() - &before).norm_l2() / before.norm_l2();
    println!(
        "the person's samples move the weight by {with:.1e} of its norm; after they are forgotten, it is {without:.1e} away"
    );
    if without > 1e-10 || accuracy(&ridge)? < 0.9 {
        return Err("the weight is not that of a regression without the person".into());
    }
    Ok(())
}

/// The share of new samples of all classes for which the largest output is that of their class.
fn accuracy(ridge: &Ridge) -> Result<f64, Box<dyn Error>> {
    let labels: Vec<usize> = (0..700).map(|i| i % ridge.d_out()).collect();
    let outputs = ridge.predict(samples(&labels, 50_000).as_ref())?;
    let right = labels.iter().enumerate().filter(|&(i, &label)| largest(outputs.as_ref().subcols(i, 1)) == label);
    Ok(right.count() as f64 / labels.len() as f64)
}

fn largest(column: MatRef<'_, f64>) -> usize {
    (0..column.nrows()).max_by(|&i, &j| column[(i, 0)].total_cmp(&column[(j, 0)])).unwrap_or(0)
}

/// One sample a column: the centre of its class, and noise.
fn samples(labels: &[usize], seed: usize) -> Mat<f64> {
    let wave = |i: usize, n: usize| ((1 + i) as f64 * (0.37 + n as f64).sqrt() * 12.9898).sin();
    Mat::from_fn(FEATURES, labels.len(), |i, j| wave(i, labels[j]) + 1.2 * wave(i, 100 + seed + j))
}

fn one_hot(labels: &[usize], classes: usize) -> Mat<f64> {
    Mat::from_fn(classes, labels.len(), |i, j| f64::from(u8::from(labels[j] == i)))
}
