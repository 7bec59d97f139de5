//! Changes one fact in a language model, and prints the model's completions before and after.
//!
//! ```sh
//! cargo run --release --features llm --example edit_fact -- MODEL TEXT \
//!     "The Eiffel Tower" "{} is located in the city of" Rome
//! ```
//!
//! MODEL is a directory in the layout of the Hugging Face hub or a .gguf file. TEXT is a file of ordinary text for the
//! statistics. The subject, the prompt with `{}` for the subject, and the target are optional.

#![allow(non_snake_case)]

use std::error::Error;
use std::ops::ControlFlow;
use std::sync::Arc;

use betaedit_core::faer::{Par, Scale};
use betaedit_core::llm::{Collector, Contexts, Model, ModelAdapter, Request, Sampler, TargetSearch};
use betaedit_core::{Adapter, BetaEdit, EditBatch, Editor, Method, Spectrum, metrics};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (model, text, [subject, prompt, target]) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [model, text] => (model, text, ["The Eiffel Tower", "{} is located in the city of", "Rome"]),
        [model, text, subject, prompt, target] => (model, text, [subject, prompt, target]),
        _ => {
            eprintln!("usage: edit_fact MODEL TEXT [SUBJECT PROMPT TARGET]");
            std::process::exit(2);
        }
    };
    let par = Par::rayon(0);
    let requests = [Request::new(subject, prompt, target)?];
    let (model, tokenizer) = Model::open(model, par)?;
    // From a sixth to a third of the depth.
    let depth = model.config().layers;
    let layers: Vec<usize> = (depth / 6..=depth / 3).collect();

    // The statistics of each layer, and an editor from them.
    let mut collector = Collector::new(&model, &tokenizer, &layers)?;
    let enough = collector.enough();
    collector.read([std::fs::read_to_string(text)?], enough, |_| ControlFlow::Continue(()))?;
    println!("statistics over {} tokens", collector.tokens());
    let moments = collector.into_moments();
    let method = BetaEdit::default().with_lambda1(300.0);
    let mut editors = vec![];
    for moment in moments.values() {
        editors.push(method.editor::<f32>(&Arc::new(Spectrum::new(moment, par)?), par)?);
    }

    // Keys are averaged over the bare prompt and the prompt after each of three texts that the model generates.
    let contexts = Contexts::generate(&model, &tokenizer, 3, 10, 0)?;
    let mut adapter = ModelAdapter::new(model, tokenizer, layers.clone(), contexts, TargetSearch::default())?;
    println!("before: {}", said(&adapter, &requests[0])?);
    for (i, (&layer, editor)) in layers.iter().zip(&mut editors).enumerate() {
        // Each layer takes an equal share of what is missing.
        let R = adapter.residuals(layer, &requests)? * Scale(1.0 / (layers.len() - i) as f32);
        let K = adapter.keys(layer, &requests)?;
        let update = editor.edit(&EditBatch::new(K.as_ref(), R.as_ref())?)?;
        adapter.apply(layer, &update)?;
        let leakage = metrics::leakage(&update, &moments[&layer], par)?;
        println!("layer {layer}: norm {:.3}, leakage {leakage:.2e}", update.frobenius_norm());
    }
    println!("after:  {}", said(&adapter, &requests[0])?);
    Ok(())
}

/// The prompt, the model's completion, and the probability of the target.
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
