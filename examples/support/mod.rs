//! What the examples share.

pub mod plot;
