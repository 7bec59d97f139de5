//! Changes one fact in a language model, and shows what it says before and after.
//!
//! ```sh
//! cargo run --release --features llm --example edit_fact -- --model SmolLM2-135M-Instruct --text corpus.txt \
//!     --subject "The Eiffel Tower" --prompt "{} is located in the city of" --target Rome
//! ```

#![allow(non_snake_case)]

#[path = "support/command.rs"]
mod command;

use std::error::Error;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use betaedit_core::faer::Scale;
use betaedit_core::llm::{Collector, Contexts, Model, ModelAdapter, Request, Sampler, TargetSearch};
use betaedit_core::{Adapter, BetaEdit, EditBatch, Editor, Method, Spectrum, metrics};
use clap::Parser;

/// Changes one fact in a language model, and shows what it says before and after.
#[derive(Parser)]
struct Arguments {
    /// A model: a directory in the layout of the Hugging Face hub, or a .gguf file
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// A text for the statistics of what the model knows
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens of it to read [default: ten for each dimension of a key]
    #[arg(long)]
    tokens: Option<u64>,
    /// What the fact is about
    #[arg(long, default_value = "The Eiffel Tower")]
    subject: String,
    /// A text with {} in the subject's place
    #[arg(long, default_value = "{} is located in the city of")]
    prompt: String,
    /// How the text shall go on
    #[arg(long, default_value = "Rome")]
    target: String,
    /// The layers to edit
    #[arg(long, value_delimiter = ',', default_values_t = [7, 8, 9, 10])]
    layers: Vec<usize>,
    /// Weight of what the model knows against one edit
    #[arg(long, default_value_t = 300.0)]
    lambda1: f64,
    /// Texts that keys and targets are averaged over, besides the bare prompt
    #[arg(long, default_value_t = 3)]
    contexts: usize,
    /// For the texts
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Threads, 0 = all cores
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

fn main() -> ExitCode {
    command::exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let par = command::par(arguments.threads);
    let request = Request::new(&*arguments.subject, &*arguments.prompt, &*arguments.target)?;
    let clock = Instant::now();
    let (model, tokenizer) = Model::open(&arguments.model, par)?;
    println!("{} blocks of {}, read in {:.1?}", model.config().layers, model.family().name(), clock.elapsed());

    // What the model knows, and from it one editor a layer.
    let clock = Instant::now();
    let text = std::fs::read_to_string(&arguments.text)?;
    let mut collector = Collector::new(&model, &tokenizer, &arguments.layers)?;
    let enough = arguments.tokens.unwrap_or(collector.enough());
    collector.read([text], enough, |_| ControlFlow::Continue(()))?;
    let (tokens, seconds) = (collector.tokens(), clock.elapsed().as_secs_f64());
    println!("statistics over {tokens} tokens, {:.0} a second", tokens as f64 / seconds);
    let method = BetaEdit::default().with_lambda1(arguments.lambda1);
    let moments = collector.into_moments();
    let mut editors = vec![];
    for (layer, moment) in &moments {
        let editor = method.editor::<f32>(&Arc::new(Spectrum::of(moment, par)?), par)?;
        println!("layer {layer}: {} of {} directions may be edited", editor.projector().kept(), moment.d_in());
        editors.push(editor);
    }

    let contexts = Contexts::generate(&model, &tokenizer, arguments.contexts, 10, arguments.seed)?;
    let mut adapter = ModelAdapter::new(model, tokenizer, arguments.layers.clone(), contexts, TargetSearch::default())?;
    println!("\nbefore: {}", said(&adapter, &request)?);
    let clock = Instant::now();
    let requests = [request];
    let layers = adapter.layers().to_vec();
    for (i, (&layer, editor)) in layers.iter().zip(&mut editors).enumerate() {
        let R = adapter.residuals(layer, &requests)? * Scale(1.0 / (layers.len() - i) as f32);
        let K = adapter.keys(layer, &requests)?;
        let update = editor.edit(&EditBatch::new(K.as_ref(), R.as_ref())?)?;
        adapter.apply(layer, &update)?;
        let leakage = metrics::leakage(&update, &moments[&layer], par)?;
        println!("layer {layer}: norm {:.3}, leakage {leakage:.2e}", update.frobenius_norm());
    }
    println!("edited in {:.1?}", clock.elapsed());
    println!("after:  {}", said(&adapter, &requests[0])?);
    Ok(())
}

/// The prompt and what the model makes of it, and how likely it finds the target.
fn said(adapter: &ModelAdapter, request: &Request) -> Result<String, Box<dyn Error>> {
    let (model, tokenizer) = (adapter.model(), adapter.tokenizer());
    let prompt = tokenizer.encode(&request.text())?;
    let completion = model.generate(&prompt, 12, &mut Sampler::Greedy)?;
    let target = tokenizer.encode(&format!("{} {}", request.text(), request.target()))?;
    let found = model.score_continuations(&[(&target, prompt.len())])?;
    let probability = found[0].log_probabilities.iter().sum::<f32>().exp();
    let text = tokenizer.decode(&[prompt, completion].concat())?;
    Ok(format!("{} [p({}) = {probability:.4}]", text.replace('\n', " / "), request.target()))
}
