//! The command `betaedit`, as a user runs it.

#![allow(non_snake_case)]

mod editing;
mod input;
mod kill;
mod matrices;
mod python;
mod research;
mod setting;
mod usage;
