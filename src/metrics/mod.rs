//! Metrics: the side effects of an edit, as values.
//!
//! | quantity | meaning | where | cost |
//! |---|---|---|---|
//! | leakage `tr(Delta C Deltaᵀ)` | mean squared change of the outputs on the model's own keys | [`leakage`], [`RunningTotal`] | one pass over `C` |
//! | expected loss `tr(G Delta C Deltaᵀ) / 2` | by how many nats a token the model gets worse at its texts | [`expected_loss`], [`RunningTotal`] | one pass over `C` and `G` |
//! | drift `\|sum Delta\|_F` | distance from the unedited weight | [`RunningTotal`] | two passes over the total |
//! | interference `<Delta_i, Delta_j>` | whether updates undo each other | [`Interference`], [`RunningTotal`] | `O(t² (d_in + d_out))` for all pairs |
//! | stability `s = kᵀ A0⁻¹ k` | how large a key is relative to what protects the model; above 1 the guarantees of history fade | [`stability`] | one pass over `V` |
//! | write error `\|Delta k - r\|` | how far the edit falls short of its own target | [`write_errors`] | `O(n (d_in + d_out))` |
//! | written share `<Delta k, r> / \|r\|²` | how much of its residual an edit writes; near 0, it does nothing | [`written`](fn@written) | same |
//! | room `(g / (1 + g)) / (s / (1 + s))` | what past edits and refreshes leave for keys like these; 1 at the start | [`room`] | none |
//! | retention error | the same for every past edit, in the present weight | [`Retention`] | `2 d_in d_out t` flops per measurement |
//!
//! All are computed in `f64`. [`RunningTotal`] takes a stride for long runs. [`Retention`] is measured on request.

mod expected_loss;
mod interference;
mod leakage;
mod retention;
mod running;
mod stability;
mod written;

pub use expected_loss::expected_loss;
pub use interference::Interference;
pub use leakage::leakage;
pub use retention::{Retention, write_errors};
pub use running::{Gauges, Measurement, RunningTotal};
pub use stability::stability;
pub use written::{Written, WrittenShare, room, written};
