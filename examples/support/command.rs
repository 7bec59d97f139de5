//! What the programs have in common: how they end, and how they print.

#![allow(dead_code, reason = "each program that includes this uses a part of it")]

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

/// The exit code of a program; its error is printed.
pub fn exit(outcome: Result<(), Box<dyn Error>>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a text and ends quietly where nobody reads any more.
pub fn say(text: &str) -> Result<(), Box<dyn Error>> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
