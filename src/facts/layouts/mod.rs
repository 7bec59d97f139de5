//! Data sets whose records are more than a fact and what to measure it on.

pub(super) mod mquake;
pub(super) mod ripple_edits;
pub(super) mod unke_bench;
pub(super) mod zsre;
