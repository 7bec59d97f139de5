//! What the programs have in common: how they end, and how they print.

#![allow(dead_code, reason = "each program that includes this uses a part of it")]

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use betaedit_core::faer::Par;
use indicatif::{ProgressBar, ProgressStyle};

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

/// So many threads, 0 = all cores.
pub fn par(threads: usize) -> Par {
    if threads == 1 { Par::Seq } else { Par::rayon(threads) }
}

/// Prints a text and ends quietly where nobody reads any more.
pub fn say(text: &str) -> Result<(), Box<dyn Error>> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A bar for long work, on standard error; there is none where that is no terminal.
pub fn progress(length: usize, unit: &str) -> Result<ProgressBar, Box<dyn Error>> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {prefix}  {per_sec}  {eta} left  {msg}")?;
    Ok(ProgressBar::new(length as u64).with_style(style).with_prefix(unit.to_owned()))
}
