//! Sessions: one transaction a batch, undo, conflicts, guards, and what survives a crash.

mod companions;
mod consolidation;
mod damage;
mod durability;
mod expected_loss;
mod family;
mod histories;
mod ledger;
mod model;
mod openness;
mod rest;
mod small;
mod strangers;
mod transaction;
mod undo;
mod whole_start;
