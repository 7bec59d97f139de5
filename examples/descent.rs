//! How targets are found: the ways downhill beside each other, on the unedited model.
//!
//! ```sh
//! cargo run --release --features facts,llm --example descent -- --model $(betaedit fetch) --limit 20
//! ```
//!
//! A good way finds a vector that makes a fact probable in few evaluations, and a short one: what writing it does to everything
//! else grows with its length.

#[path = "support/command.rs"]
mod command;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use betaedit_core::facts::{Facts, shipped};
use betaedit_core::llm::{Contexts, Descent, Model, Request, TargetSearch};
use clap::Parser;
use command::{exit, progress, say};

/// Seeks the targets of facts by several descents, and compares what they find.
#[derive(Parser)]
struct Arguments {
    /// A model: a directory in the layout of the Hugging Face hub, or a .gguf file
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// Facts [default: those that are shipped]
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
    /// Only the first N of them
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Leave out the first N of them
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: usize,
    /// The block whose outputs are sought
    #[arg(long, default_value_t = 10)]
    layer: usize,
    /// Evaluations at most
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Threads, 0 = all cores
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

fn main() -> ExitCode {
    exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let par = command::par(arguments.threads);
    let (model, tokenizer) = Model::open(&arguments.model, par)?;
    let facts = match &arguments.facts {
        Some(path) => Facts::read(path)?,
        None => shipped::facts()?,
    };
    let requests: Vec<Request> = facts.iter().skip(arguments.skip).take(arguments.limit).map(Request::from).collect();
    if requests.is_empty() {
        return Err("no facts to seek targets for".into());
    }
    let contexts = Contexts::generate(&model, &tokenizer, 3, 10, 0)?;
    let search = TargetSearch::default().with_steps(arguments.steps).with_margin(0.0);
    let enough = search.enough;
    let descents = [
        Descent::Adam { rate: 0.5 },
        Descent::Adam { rate: 1.0 },
        Descent::Steepest { step: 0.05 },
        Descent::Steepest { step: 0.08 },
        Descent::Steepest { step: 0.13 },
    ];
    say(&format!(
        "{} facts, until the mean -log p is below {enough}, {} evaluations at most",
        requests.len(),
        arguments.steps
    ))?;
    say("descent               found  evaluations  |delta|/|v|  -log p  seconds")?;
    for descent in descents {
        let (mut found, mut evaluations, mut length, mut likelihood) = (0, 0, 0.0, 0.0);
        let clock = Instant::now();
        let bar = progress(requests.len(), "targets")?;
        for request in &requests {
            let target = search.with_descent(descent).run(&model, &tokenizer, &contexts, arguments.layer, request)?;
            let moved: Vec<f32> = target.value.iter().zip(&target.start).map(|(z, v)| z - v).collect();
            found += usize::from(f64::from(target.likelihood) < enough);
            evaluations += target.losses.len();
            length += norm(&moved) / norm(&target.start);
            likelihood += f64::from(target.likelihood);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let n = requests.len() as f64;
        let (evaluations, seconds) = (evaluations as f64 / n, clock.elapsed().as_secs_f64() / n);
        let name = match descent {
            Descent::Adam { rate } => format!("Adam, rate {rate}"),
            Descent::Steepest { step } => format!("steepest, step {step}"),
            other => format!("{other:?}"),
        };
        say(&format!(
            "{name:20} {:5.0} %  {evaluations:11.1}  {:11.3}  {:6.3}  {seconds:7.2}",
            100.0 * found as f64 / n,
            length / n,
            likelihood / n
        ))?;
    }
    Ok(())
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt()
}
