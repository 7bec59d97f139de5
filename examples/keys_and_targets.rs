//! What an adapter gives to an editor, as files of numpy: keys and targets of facts in a language model.
//!
//! ```sh
//! cargo run --release --example keys_and_targets --all-features -- MODEL FOLDER
//! ```
//!
//! Writes `keys-L.npy` (`d_in x n`) for every layer, `targets.npy` (`hidden x n`), and `facts.txt`, a line a fact.

use std::path::PathBuf;

use betaedit_core::Adapter;
use betaedit_core::error::Result;
use betaedit_core::facts::shipped;
use betaedit_core::faer::Par;
use betaedit_core::format::{Precision, npy};
use betaedit_core::llm::{Contexts, Model, ModelAdapter, Request, Surroundings, TargetSearch};

fn main() -> Result<()> {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [model, folder] = &paths[..] else {
        eprintln!("usage: keys_and_targets MODEL FOLDER");
        std::process::exit(2);
    };
    let (model, tokenizer) = Model::open(model, Par::rayon(0))?;
    let layers: Vec<usize> = (model.config().layers / 6..=model.config().layers / 3).collect();
    let contexts = Contexts::new(vec!["The weather was fine".into(), "I have read a book about it".into()]);
    let requests: Vec<Request> = shipped::facts()?.iter().take(4).map(Request::from).collect();

    let surroundings = Surroundings::new(contexts);
    let mut adapter = ModelAdapter::new(model, tokenizer, layers.clone(), surroundings, TargetSearch::default())?;
    std::fs::create_dir_all(folder).expect("the folder can be made");
    for &layer in &layers {
        let keys = adapter.keys(layer, &requests)?;
        npy::write(folder.join(format!("keys-{layer}.npy")), keys.as_ref(), Precision::F32)?;
        if let Some(further) = adapter.companions(layer, &requests)? {
            npy::write(folder.join(format!("companions-{layer}.npy")), further.keys.as_ref(), Precision::F32)?;
        }
    }
    let targets = adapter.find_targets(&requests)?.expect("language models have targets");
    npy::write(folder.join("targets.npy"), targets.as_ref(), Precision::F32)?;
    let subjects: Vec<&str> = requests.iter().map(Request::subject).collect();
    std::fs::write(folder.join("facts.txt"), subjects.join("\n")).expect("the folder can be written");
    Ok(())
}
