//! Sessions: one transaction a batch, undo, conflicts, guards, and what survives a crash.

mod companions;
mod damage;
mod durability;
mod family;
mod histories;
mod model;
mod openness;
mod small;
mod strangers;
mod transaction;
mod undo;
