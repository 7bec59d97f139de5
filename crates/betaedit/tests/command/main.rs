//! The command `betaedit`, as a user runs it.

mod editing;
mod input;
mod kill;
mod python;
mod research;
mod setting;
mod usage;
