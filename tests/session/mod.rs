//! Sessions: one transaction a batch, undo, conflicts, guards, and what survives a crash.

mod damage;
mod durability;
mod histories;
mod kill;
mod model;
mod transaction;
mod undo;
