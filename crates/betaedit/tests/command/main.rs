//! The command `betaedit`, as a user runs it.

#![allow(non_snake_case)]

mod consolidating;
mod editing;
mod exporting;
mod faults;
mod generated;
mod gguf_file;
mod input;
mod kill;
mod matrices;
#[cfg(unix)]
mod outputs;
mod probes;
mod python;
mod research;
mod setting;
mod together;
mod usage;
