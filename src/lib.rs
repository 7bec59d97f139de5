//! TODO
#![allow(non_snake_case)]

mod check;
mod dense;
mod tolerance;

pub mod adapter;
mod edit;
pub mod editor;
mod error;
#[cfg(feature = "nalgebra")]
mod interop;
mod inverse_gram;
pub mod metrics;
mod moment;
mod projector;
mod refresh;
mod scalar;
mod spectrum;

pub use faer;

pub use adapter::Adapter;
pub use edit::{EditBatch, Orientation, Update};
pub use editor::{AlphaEdit, BetaEdit, Editor, History, Hyperparameters, Memit, Method};
pub use error::{EditError, Result, Shape};
#[cfg(feature = "nalgebra")]
pub use interop::{faer_view, to_faer, to_nalgebra};
pub use inverse_gram::{InverseGram, Solution};
pub use moment::SecondMoment;
pub use projector::{HistoryWeighting, Projector, ProjectorBuilder, Threshold};
pub use refresh::{Refresh, RefreshReport, RefreshRule};
pub use scalar::{Scalar, cast};
pub use spectrum::Spectrum;
