//! Targets: outputs of a block that make the model give the new answer.
//!
//! [`Steering`] is the loss as a function of vectors that are added to outputs of a block, [`Descent`] minimises it, and [`TargetSearch`]
//! is the whole search.

mod adam;
mod descent;
mod search;
mod sensitivity;
mod steering;

pub(super) use adam::Adam;
pub use descent::Descent;
pub use search::{Target, TargetSearch, Wording};
pub use sensitivity::Sensitivity;
pub use steering::{Anchor, Site, Steered, SteeredEvaluation, Steering};
