//! `betaedit descent`.

use std::path::PathBuf;
use std::time::Instant;

use betaedit_core::facts::{Facts, shipped};
use betaedit_core::llm::{Contexts, Descent, Model, Request, TargetSearch, Tokenizer};
use serde_json::{Value, json};

use crate::source::open_model;
use crate::terminal::{Done, Terminal};

#[derive(clap::Args)]
pub struct Arguments {
    /// Model: a Hugging Face directory or a .gguf file
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// File of facts [default: those that come with the program]
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
    /// Use at most N facts, after --skip
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Skip the first N facts
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: usize,
    /// Block whose output the search changes
    #[arg(long, default_value_t = 10)]
    layer: usize,
    /// Maximum number of evaluations per search
    #[arg(long, default_value_t = 20)]
    steps: usize,
}

const DESCENTS: [Descent; 5] = [
    Descent::Adam { rate: 0.5 },
    Descent::Adam { rate: 1.0 },
    Descent::Steepest { step: 0.05 },
    Descent::Steepest { step: 0.08 },
    Descent::Steepest { step: 0.13 },
];

pub fn run(arguments: &Arguments, terminal: Terminal) -> Done {
    let (model, tokenizer) = open_model(&arguments.model, terminal)?;
    let facts = match &arguments.facts {
        Some(path) => Facts::read(path)?,
        None => shipped::facts()?,
    };
    let requests: Vec<Request> = facts.iter().skip(arguments.skip).take(arguments.limit).map(Request::from).collect();
    if requests.is_empty() {
        return Err("no facts are left: see --skip and --limit".into());
    }
    let contexts = Contexts::generate(&model, &tokenizer, 3, 10, 0)?;
    let search = TargetSearch::default().with_steps(arguments.steps).with_margin(0.0);
    terminal.say(format!(
        "{} facts, until the mean -log p is below {}, at most {} evaluations",
        requests.len(),
        search.enough,
        arguments.steps
    ));
    terminal.say("descent               found  evaluations  |delta|/|v|  -log p  seconds");
    let bench = Bench { model, tokenizer, contexts, layer: arguments.layer, requests };
    let mut results = vec![];
    for descent in DESCENTS {
        let found = bench.search(search.with_descent(descent), terminal)?;
        terminal.say(found.line(&name(descent)));
        results.push(found.json(&name(descent)));
    }
    terminal.result(&json!({ "facts": bench.requests.len(), "enough": search.enough, "descents": results }));
    Ok(())
}

fn name(descent: Descent) -> String {
    match descent {
        Descent::Adam { rate } => format!("Adam, rate {rate}"),
        Descent::Steepest { step } => format!("steepest, step {step}"),
        other => format!("{other:?}"),
    }
}

/// The inputs that all descents share.
struct Bench {
    model: Model,
    tokenizer: Tokenizer,
    contexts: Contexts,
    layer: usize,
    requests: Vec<Request>,
}

/// The results of a descent, as means over the facts.
struct Found {
    share: f64,
    evaluations: f64,
    /// `|delta| / |v|`.
    length: f64,
    likelihood: f64,
    seconds: f64,
}

impl Bench {
    fn search(&self, search: TargetSearch, terminal: Terminal) -> Done<Found> {
        let (mut found, mut evaluations, mut length, mut likelihood) = (0, 0, 0.0, 0.0);
        let clock = Instant::now();
        let bar = terminal.bar(self.requests.len() as u64, "targets");
        for request in &self.requests {
            let target = search.run(&self.model, &self.tokenizer, &self.contexts, self.layer, request)?;
            let moved: Vec<f32> = target.value.iter().zip(&target.start).map(|(z, v)| z - v).collect();
            found += usize::from(f64::from(target.likelihood) < search.enough);
            evaluations += target.losses.len();
            length += norm(&moved) / norm(&target.start);
            likelihood += f64::from(target.likelihood);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let n = self.requests.len() as f64;
        Ok(Found {
            share: found as f64 / n,
            evaluations: evaluations as f64 / n,
            length: length / n,
            likelihood: likelihood / n,
            seconds: clock.elapsed().as_secs_f64() / n,
        })
    }
}

impl Found {
    fn line(&self, name: &str) -> String {
        let Self { share, evaluations, length, likelihood, seconds } = self;
        let percent = 100.0 * share;
        format!("{name:20} {percent:5.0} %  {evaluations:11.1}  {length:11.3}  {likelihood:6.3}  {seconds:7.2}")
    }

    fn json(&self, name: &str) -> Value {
        let Self { share, evaluations, length, likelihood, seconds } = self;
        json!({
            "descent": name, "found": share, "evaluations": evaluations, "length": length,
            "likelihood": likelihood, "seconds": seconds,
        })
    }
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt()
}
