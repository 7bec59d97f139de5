//! RECT.

use faer::{Mat, MatRef, Par};

use super::{Description, Restraint, Situation};
use crate::error::numerics::{NumericsError, Result};
use crate::scalar::Scalar;
use crate::update::Update;
use crate::util::validate;

/// RECT: keeps the entries of an update with the largest relative change `|Delta_ij / W_ij|`, and sets all others to
/// zero.
///
/// A change where the weight is zero ranks above all others. Of equal entries, the first in column order is kept. (One
/// published program divides by `W_ij + 1e-8`, which reverses the order for small negative weights.)
///
/// # References
/// Gu et al., "Model Editing Harms General Abilities of Large Language Models: Regularization to the Rescue", EMNLP 2024.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Rect {
    /// The share of the entries to keep, rounded up to a whole number of entries. Default: `0.4`, as in the AlphaEdit
    /// program; the original keeps `0.2`.
    pub kept: f64,
}

impl Default for Rect {
    fn default() -> Self {
        Self { kept: 0.4 }
    }
}

impl Rect {
    /// Sets the share of the entries to keep.
    #[must_use]
    pub fn with_kept(mut self, kept: f64) -> Self {
        self.kept = kept;
        self
    }

    fn check_kept(&self) -> Result<()> {
        if self.kept > 0.0 && self.kept <= 1.0 {
            return Ok(());
        }
        Err(NumericsError::Parameter { parameter: "kept", value: self.kept, allowed: "above 0, up to 1" })
    }

    /// The update with only the kept entries. It is dense, but an [`Update`] like any other, which its editor commits.
    ///
    /// * `weight`: `d_out x d_in`, before the update
    ///
    /// Cost: forming `Delta`, and a selection without sorting, `O(d_out d_in)`.
    ///
    /// # Errors
    /// A share outside its range, a weight of another shape, NaN.
    pub fn restrain<T: Scalar>(&self, update: &Update<T>, weight: MatRef<'_, T>, par: Par) -> Result<Update<T>> {
        self.check_kept()?;
        validate::shape("weight", weight, update.d_out(), update.d_in())?;
        validate::finite("weight", weight)?;
        let all = update.d_out() * update.d_in();
        let kept = (self.kept * all as f64).ceil() as usize;
        if kept >= all {
            return Ok(update.clone());
        }
        let mut Delta = update.to_dense(par);
        let changes = |Delta: &Mat<T>, j: usize, i: usize| relative(Delta[(i, j)], weight[(i, j)]);
        let mut sorted: Vec<T> = Vec::with_capacity(all);
        (0..Delta.ncols()).for_each(|j| sorted.extend((0..Delta.nrows()).map(|i| changes(&Delta, j, i))));
        let descending = |a: &T, b: &T| b.partial_cmp(a).expect("no NaN: the update and the weight are finite");
        let (above, &mut last, _) = sorted.select_nth_unstable_by(kept - 1, descending);
        let mut equal = kept - above.iter().filter(|change| **change > last).count();
        for j in 0..Delta.ncols() {
            for i in 0..Delta.nrows() {
                let change = changes(&Delta, j, i);
                let ties = change == last && equal > 0;
                equal -= usize::from(ties);
                if !(change > last || ties) {
                    Delta[(i, j)] = T::default();
                }
            }
        }
        update.with_entries(Delta)
    }
}

impl<T: Scalar> Restraint<T> for Rect {
    fn description(&self) -> Description {
        Description::new("rect").with("kept", self.kept)
    }

    fn check(&self) -> Result<()> {
        self.check_kept()
    }

    fn restrained(&self, update: &Update<T>, situation: &Situation<'_, T>) -> Result<Option<Update<T>>> {
        self.restrain(update, situation.weight, situation.par).map(Some)
    }

    fn first_format(&self) -> Option<String> {
        Some(format!("Rect(Rect {{ kept: {:?} }})", self.kept))
    }
}

/// `|d / w|`: infinite if only `w` is zero, zero if `d` is zero.
fn relative<T: Scalar>(d: T, w: T) -> T {
    let (d, w) = (d.to_f64().abs(), w.to_f64().abs());
    if d == 0.0 { T::default() } else { T::from_f64(d / w) }
}
