//! `betaedit methods`: the table of methods.

use betaedit_core::editor::{METHODS, MethodEntry, method};
use serde_json::json;

use crate::terminal::{Done, Terminal, table};

/// Lists every method with the hyperparameters that it uses.
pub fn run(terminal: Terminal) -> Done {
    let row =
        |entry: &MethodEntry| vec![entry.name().to_owned(), entry.parameters().join(", "), entry.summary().to_owned()];
    let head = ["method", "hyperparameters", ""].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(METHODS.iter().map(row)).collect();
    terminal.say(table(&rows));
    terminal.say("NAME-ns wraps a method in the null space, with history; simie-NAME wraps it in SimIE.");
    let json = |entry: &MethodEntry| json!({ "name": entry.name(), "hyperparameters": entry.parameters(), "summary": entry.summary() });
    terminal.result(&METHODS.iter().map(json).collect());
    Ok(())
}

/// The name of a method, for the command line.
pub fn known(name: &str) -> Result<String, String> {
    method(name).map(|_| name.to_owned()).map_err(|error| error.to_string())
}
