//! Targets: which output of a block makes the model say the new thing.
//!
//! [`Steering`] is the loss as a function of vectors that are added to outputs of a block, [`Descent`] a way down, and
//! [`TargetSearch`] the whole search.

mod adam;
mod descent;
mod search;
mod steering;

pub(super) use adam::Adam;
pub use descent::Descent;
pub use search::{Target, TargetSearch, Wording};
pub use steering::{Anchor, Site, Steered, SteeredEvaluation, Steering};
