//! Watching a long decomposition, and stopping it.

use std::ops::ControlFlow;

use crate::error::numerics::{NumericsError, Result};
use crate::util::named::named;

/// A stage of a decomposition, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum DecompositionStage {
    /// The matrix is reduced to a tridiagonal one.
    Reduction,
    /// The tridiagonal matrix is decomposed, by divide and conquer.
    Solution,
    /// Its eigenvectors are transformed into those of the matrix, block by block.
    BackTransformation,
    /// The result is verified.
    Verification,
}

named!(DecompositionStage, "stage of a decomposition", {
    Reduction => "reduction",
    Solution => "solution",
    BackTransformation => "back-transformation",
    Verification => "verification",
});

/// The progress of a decomposition.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DecompositionProgress {
    /// The stage that comes next.
    pub stage: DecompositionStage,
    /// The estimated share of the time that has passed, from 0 to 1.
    pub done: f64,
}

/// When each stage begins, as a share of the whole. Measured at 4096 x 4096, where a
/// decomposition begins to take long (test `how_the_time_divides`). At 2048 the stages take 65, 20, 14 and 1 %, at 1024 they
/// take 57, 29, 12 and 1 %.
const REDUCTION: f64 = 0.0;
const SOLUTION: f64 = 0.80;
const BACK_TRANSFORMATION: f64 = 0.90;
const VERIFICATION: f64 = 0.995;

/// The caller's watch.
pub(super) struct Watch<'a>(pub(super) &'a mut dyn FnMut(DecompositionProgress) -> ControlFlow<()>);

impl Watch<'_> {
    /// Reports that a stage begins.
    pub(super) fn begins(&mut self, stage: DecompositionStage) -> Result<()> {
        let done = match stage {
            DecompositionStage::Reduction => REDUCTION,
            DecompositionStage::Solution => SOLUTION,
            DecompositionStage::BackTransformation => BACK_TRANSFORMATION,
            DecompositionStage::Verification => VERIFICATION,
        };
        self.report(DecompositionProgress { stage, done })
    }

    /// Reports that this share of the back-transformation is done.
    pub(super) fn transformed(&mut self, share: f64) -> Result<()> {
        let done = BACK_TRANSFORMATION + share * (VERIFICATION - BACK_TRANSFORMATION);
        self.report(DecompositionProgress { stage: DecompositionStage::BackTransformation, done })
    }

    /// Reports the end.
    pub(super) fn ends(&mut self) -> Result<()> {
        self.report(DecompositionProgress { stage: DecompositionStage::Verification, done: 1.0 })
    }

    fn report(&mut self, progress: DecompositionProgress) -> Result<()> {
        match (self.0)(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(NumericsError::Cancelled),
        }
    }
}
