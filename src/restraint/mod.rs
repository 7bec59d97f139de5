//! Restraints: changes to an update after an editor has computed it.
//!
//! A restrained update is committed like the editor's own: its keys join the history. A restraint ignores the least
//! squares problem behind an update. So the guarantees of a method (one ridge solution in any order, a bound on the
//! leakage) do not hold with a restraint.
//!
//! * [`Rect`] keeps the entries with the largest change relative to the weight, and drops the others
//! * [`Prune`] damps the singular values of the change that exceed the largest one of the weight
//!
//! A restraint of your own implements [`Restraint`].
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
//! assert!((proposal.update().to_dense(Par::Seq) - mat![[1.0, 0.0], [1.0, 0.0]]).norm_l2() < 1e-15);
//! editor.commit(proposal)?;
//! # Ok::<(), betaedit_core::Error>(())
//! ```

mod known;
mod prune;
mod rect;

pub use crate::linalg::lanczos::spectral_norm;
pub use crate::util::description::Description;
pub use known::KnownRestraint;
pub use prune::{Damping, Prune};
pub use rect::Rect;

use std::fmt;

use faer::{MatRef, Par};

use crate::error::numerics::Result;
use crate::scalar::Scalar;
use crate::update::Update;
use crate::util::shown::{Shown, shown};

/// A change to an update after an editor has computed it, for a `session::SessionBuilder`.
///
/// # Examples
/// ```
/// use betaedit_core::error::NumericsError;
/// use betaedit_core::restraint::{Description, Restraint, Situation};
/// use betaedit_core::{Scalar, Update};
///
/// /// Scales an update down to a largest Frobenius norm.
/// #[derive(Debug)]
/// struct Clip {
///     norm: f64,
/// }
///
/// impl<T: Scalar> Restraint<T> for Clip {
///     fn description(&self) -> Description {
///         Description::new("clip").with("norm", self.norm)
///     }
///
///     fn restrained(&self, update: &Update<T>, _: &Situation<'_, T>) -> Result<Option<Update<T>>, NumericsError> {
///         let norm = update.frobenius_norm();
///         if norm <= self.norm { Ok(None) } else { update.scaled(self.norm / norm).map(Some) }
///     }
/// }
/// ```
pub trait Restraint<T: Scalar>: fmt::Debug + Send + Sync {
    /// Everything that the results depend on, in the form that is written to disk. A session in a directory opens only
    /// with an equal description.
    fn description(&self) -> Description;

    /// Checks that all numbers are in range. The default accepts everything.
    ///
    /// # Errors
    /// [`NumericsError::Parameter`](crate::error::NumericsError::Parameter).
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// What the restraint needs to know. The default is [`Needs::Weight`].
    fn needs(&self) -> Needs {
        Needs::Weight
    }

    /// The update to apply instead; `None` if the update stays as it is. The caller applies and commits it.
    ///
    /// # Errors
    /// Those of the computation; [`NumericsError::Editor`](crate::error::NumericsError::Editor) for reasons of your own.
    fn restrained(&self, update: &Update<T>, situation: &Situation<'_, T>) -> Result<Option<Update<T>>>;

    /// The description in sessions of the first format, if that format has the restraint.
    #[doc(hidden)]
    fn first_format(&self) -> Option<String> {
        None
    }
}

/// What a [`Restraint`] needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Needs {
    /// The weight alone.
    Weight,
    /// The weight, and [`Situation::total`]: the change so far. A session then needs its gauges.
    Total,
}

/// The layer that an update is for.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Situation<'a, T: Scalar> {
    /// The weight before the update, `d_out x d_in`.
    pub weight: MatRef<'a, T>,
    /// The change so far, for restraints that need [`Needs::Total`].
    pub total: Option<Total<'a>>,
    /// The threads to use.
    pub par: Par,
}

shown!(['a, T: Scalar] Situation<'a, T>, "Situation", self => {
    "weight": Shown::from(self.weight.shape()),
    "total": self.total,
    "par": self.par,
});

impl<'a, T: Scalar> Situation<'a, T> {
    /// The situation of a weight, without a total.
    #[must_use]
    pub fn new(weight: MatRef<'a, T>, par: Par) -> Self {
        Self { weight, total: None, par }
    }

    /// Sets the change so far.
    #[must_use]
    pub fn with_total(mut self, total: Total<'a>) -> Self {
        self.total = Some(total);
        self
    }
}

/// The change of a weight so far.
#[derive(Clone, Copy)]
pub struct Total<'a> {
    /// The sum `D` of all updates before this one, `d_out x d_in`.
    pub change: MatRef<'a, f64>,
    /// `|D + Delta|_F`, with the update that is to be restrained. It bounds the singular values of the sum.
    pub drift: f64,
    /// The largest singular value of the weight before the first edit.
    pub largest: f64,
}

shown!(['a] Total<'a>, "Total", self => {
    "change": Shown::from(self.change.shape()),
    "drift": self.drift,
    "largest": self.largest,
});

/// Implements the trait for a restraint behind a pointer.
macro_rules! behind {
    ($pointer:ty) => {
        impl<T: Scalar, R: Restraint<T> + ?Sized> Restraint<T> for $pointer {
            fn description(&self) -> Description {
                (**self).description()
            }

            fn check(&self) -> Result<()> {
                (**self).check()
            }

            fn needs(&self) -> Needs {
                (**self).needs()
            }

            fn restrained(&self, update: &Update<T>, situation: &Situation<'_, T>) -> Result<Option<Update<T>>> {
                (**self).restrained(update, situation)
            }

            fn first_format(&self) -> Option<String> {
                (**self).first_format()
            }
        }
    };
}

behind!(&R);
behind!(Box<R>);
behind!(std::sync::Arc<R>);
