//! Restraints: changes to an update after an editor has computed it.
//!
//! A restrained update is committed like the editor's own: its keys join the history. A restraint ignores the least
//! squares problem behind an update. So the guarantees of a method (one ridge solution in any order, a bound on the
//! leakage) do not hold with a restraint.
//!
//! * [`Rect`] keeps the entries with the largest change relative to the weight, and drops the others
//! * [`Prune`] damps the singular values of the change that exceed the largest one of the weight
//!
//! # Examples
//! ```
//! use std::sync::Arc;
//! use betaedit_core::faer::{Mat, Par, mat};
//! use betaedit_core::{EditBatch, Editor, Memit, Method, Spectrum, restraint::Rect};
//!
//! let spectrum = Arc::new(Spectrum::from_matrix(Mat::<f64>::identity(2, 2).as_ref(), Par::Seq)?);
//! let mut editor = Memit::default().with_lambda(1.0).editor::<f64>(&spectrum, Par::Seq)?;
//! let (k, r, W) = (mat![[1.0], [1.0]], mat![[3.0], [3.0]], mat![[1.0, -5.0], [0.0, 2.0]]);
//!
//! let proposal = editor.propose(&EditBatch::new(k.as_ref(), r.as_ref())?)?; // all ones
//! let half = Rect::default().with_kept(0.5);
//! let proposal = proposal.map_update(|update| half.restrain(update, W.as_ref(), Par::Seq))?;
//! let update = editor.commit(proposal)?;
//! assert!((update.to_dense(Par::Seq) - mat![[1.0, 0.0], [1.0, 0.0]]).norm_l2() < 1e-15);
//! # Ok::<(), betaedit_core::Error>(())
//! ```

mod prune;
mod rect;

pub use crate::linalg::lanczos::spectral_norm;
pub use prune::{Damping, Prune};
pub use rect::Rect;

use crate::error::numerics::Result;
use crate::util::description::Description;

/// A restraint as a value, for example for a [`SessionBuilder`](crate::session).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Restraint {
    /// Applied to every update.
    Rect(Rect),
    /// Applied to the total change, after every update.
    Prune(Prune),
}

impl Restraint {
    /// Checks that all numbers are in range.
    ///
    /// # Errors
    /// [`NumericsError::Parameter`](crate::error::NumericsError::Parameter).
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Rect(rect) => rect.check(),
            Self::Prune(prune) => prune.check(),
        }
    }

    /// Everything that the results depend on, in the form that is written to disk.
    #[must_use]
    pub fn description(&self) -> Description {
        match self {
            Self::Rect(Rect { kept }) => Description::new("rect").with("kept", kept),
            Self::Prune(Prune { damping: Damping::Logarithm { base } }) => {
                Description::new("prune, logarithm").with("base", base)
            }
            Self::Prune(Prune { damping: Damping::Linear }) => Description::new("prune, linear"),
        }
    }
}

impl From<Rect> for Restraint {
    fn from(rect: Rect) -> Self {
        Self::Rect(rect)
    }
}

impl From<Prune> for Restraint {
    fn from(prune: Prune) -> Self {
        Self::Prune(prune)
    }
}
