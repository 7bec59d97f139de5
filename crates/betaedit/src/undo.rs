//! `betaedit undo`.

use betaedit_core::session::EditId;
use serde_json::json;

use crate::outputs::Outputs;
use crate::progress::Steps;
use crate::run::{Run, SessionArguments};
use crate::scores::completion;
use crate::terminal::{Done, Terminal, shortened, table};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    of: SessionArguments,
    /// Numbers of the edits to undo, from 0; see `betaedit inspect --session DIR`
    #[arg(value_name = "EDIT", required_unless_present = "subject")]
    edits: Vec<u64>,
    /// Undo all edits about this subject
    #[arg(long)]
    subject: Option<String>,
    #[command(flatten)]
    outputs: Outputs,
}

pub fn run(arguments: &Arguments, terminal: Terminal) -> Done {
    let bar = terminal.bar(0, "consolidation");
    let mut run = arguments.of.open(Steps(bar.clone()), terminal)?;
    let inputs = [run.description.model.as_path(), &run.description.stats];
    let places = arguments.outputs.check(inputs[0], &inputs, &[&Some(arguments.of.session.clone())])?;
    arguments.outputs.check_model(&run.unedited)?;
    let mut ids = arguments.edits.clone();
    if let Some(subject) = &arguments.subject {
        let held = run.held().into_iter();
        let about = held.filter(|&id| run.entries[id as usize].subject.eq_ignore_ascii_case(subject));
        let before = ids.len();
        ids.extend(about);
        if ids.len() == before {
            return Err(format!("no edit in the model is about `{subject}`").into());
        }
    }
    ids.sort_unstable();
    ids.dedup();
    // A run that was killed between the undo and its outputs is run again.
    if arguments.outputs.are_asked_for() {
        let (held, gone): (Vec<u64>, Vec<u64>) = ids.iter().partition(|&&id| run.session.holds(EditId(id)));
        if gone.iter().all(|&id| id < run.session.processed()) {
            gone.iter().for_each(|id| terminal.note(format!("edit {id} is not in the model already")));
            ids = held;
        }
    }
    let mut undone = match ids.is_empty() {
        true => json!({ "undone": [], "rebuilt": false, "edits": run.held().len() }),
        false => take_back(&mut run, &ids, terminal)?,
    };
    bar.finish_and_clear();
    undone["outputs"] = arguments.outputs.write(&places, &mut run, terminal)?;
    terminal.result(&undone);
    Ok(())
}

/// Undoes edits and shows the model's completions of their prompts.
pub fn take_back(run: &mut Run, ids: &[u64], terminal: Terminal) -> Done<serde_json::Value> {
    let prompts: Vec<String> = ids
        .iter()
        .filter_map(|&id| run.entries.get(id as usize))
        .map(|entry| Ok(entry.request()?.text()))
        .collect::<Done<_>>()?;
    let answers = |run: &Run| {
        let (model, tokenizer) = (run.adapter().model(), run.adapter().tokenizer());
        prompts.iter().map(|prompt| Ok(completion(model, tokenizer, prompt, 8)?.text)).collect::<Done<Vec<_>>>()
    };
    let unedited = |prompt: &String| Ok(completion(&run.unedited, run.adapter().tokenizer(), prompt, 8)?.text);
    let before_any = prompts.iter().map(unedited).collect::<Done<Vec<_>>>()?;
    let edited = answers(run)?;
    let edits: Vec<EditId> = ids.iter().copied().map(EditId).collect();
    let undone = run.session.undo(&edits)?;
    let restored = answers(run)?;

    let mut rows = vec![["prompt", "unedited", "edited", "undone"].map(str::to_owned).to_vec()];
    for (i, prompt) in prompts.iter().enumerate() {
        let cells = [&before_any[i], &edited[i], &restored[i]].map(|text| shortened(text, 30));
        rows.push(std::iter::once(shortened(prompt, 44)).chain(cells).collect());
    }
    let how = match (run.held().is_empty(), undone.rebuilt) {
        (true, _) => "; no edit is left: the weights are those of the unedited model",
        (false, true) => "; the weights were derived anew from the other edits",
        (false, false) => "",
    };
    terminal.say(format!("undone: {}{how}\n\n{}", list(undone.ids.iter().map(|id| id.0)), table(&rows)));
    Ok(json!({
        "undone": undone.ids.iter().map(|id| id.0).collect::<Vec<_>>(),
        "rebuilt": undone.rebuilt,
        "edits": run.held().len(),
        "prompts": prompts, "unedited": before_any, "edited": edited, "restored": restored,
    }))
}

fn list(ids: impl Iterator<Item = u64>) -> String {
    ids.map(|id| format!("edit {id}")).collect::<Vec<_>>().join(", ")
}
