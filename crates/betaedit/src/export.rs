//! `betaedit export`.

use serde_json::json;

use crate::outputs::Outputs;
use crate::run::SessionArguments;
use crate::terminal::{Done, Terminal};

#[derive(clap::Args)]
#[command(after_help = "Example, for llama.cpp:
  betaedit export --session run-1 --gguf-lora edits.gguf
  llama-server --model M.gguf --lora edits.gguf")]
pub struct Arguments {
    #[command(flatten)]
    of: SessionArguments,
    #[command(flatten)]
    outputs: Outputs,
}

pub fn run(arguments: &Arguments, terminal: Terminal) -> Done {
    let Arguments { of, outputs } = arguments;
    if !outputs.are_asked_for() {
        return Err("nothing is to be written: give --out, --lora, --mlx or --gguf-lora".into());
    }
    let mut run = of.open((), terminal)?;
    let description = run.description.clone();
    let inputs = [description.model.as_path(), &description.stats];
    let places = outputs.check(inputs[0], &inputs, &[&Some(of.session.clone())])?;
    outputs.check_model(&run.unedited)?;
    let edits = run.held().len();
    if edits == 0 {
        outputs.note_nothing(terminal);
        terminal.result(&json!({ "edits": edits, "outputs": {} }));
        return Ok(());
    }
    let written = outputs.write(&places, &mut run, terminal)?;
    terminal.result(&json!({ "edits": edits, "outputs": written }));
    Ok(())
}
