//! Targets: outputs of a block that make the model give the new answer.
//!
//! [`Steering`] is the loss as a function of vectors that are added to outputs of a block, [`Descent`] minimises it, and [`TargetSearch`]
//! is the whole search, of one target or of many together.

mod adam;
mod course;
mod descent;
mod preparation;
mod question;
mod rows;
mod search;
mod sensitivity;
mod site;
mod steering;
mod together;

pub(super) use adam::Adam;
pub use descent::Descent;
pub use question::{Anchor, Steered};
pub use search::{Target, TargetSearch, Wording};
pub use sensitivity::Sensitivity;
pub use site::Site;
pub use steering::{SteeredEvaluation, Steering};
pub(super) use together::{Ground, Others};
