//! UCE.

use faer::{MatRef, Par};

use super::{ConceptEdit, absorb_weighted, checked_keys};
use crate::engine::InverseGram;
use crate::error::numerics::Result;
use crate::scalar::Scalar;
use crate::util::setters::setters;
use crate::util::validate;

/// UCE: `W' = (l W + e V Kᵀ + p W C Cᵀ) (l I + e K Kᵀ + p C Cᵀ)⁻¹`, with keys `K`, their values `V`, and preserved keys `C`.
///
/// # References
/// Gandikota et al., "Unified Concept Editing in Diffusion Models", WACV 2024, arXiv 2308.14761. The defaults are those of its
/// program.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Uce {
    /// `l`, the weight of the distance from the present weight. Default: `0.5`.
    pub ridge: f64,
    /// `e`, the weight of each edited key. Default: `1.0`.
    pub edit_weight: f64,
    /// `p`, the weight of each preserved key. Default: `1.0`.
    pub preserve_weight: f64,
}

impl Default for Uce {
    fn default() -> Self {
        Self { ridge: 0.5, edit_weight: 1.0, preserve_weight: 1.0 }
    }
}

setters!(Uce {
    /// Sets the weight of the distance from the present weight.
    with_ridge(ridge: f64),
    /// Sets the weight of each edited key.
    with_edit_weight(edit_weight: f64),
    /// Sets the weight of each preserved key.
    with_preserve_weight(preserve_weight: f64),
});

impl Uce {
    /// Solves the edit of some keys.
    ///
    /// * `keys`: `d_in x n`
    /// * `preserved`: `d_in x m`; `None` preserves nothing but the weight itself
    ///
    /// Cost: `4 d_in² (n + m)` flops.
    ///
    /// # Errors
    /// Wrong shapes, no key, NaN, weights out of range, and those of [`InverseGram::solve`].
    pub fn edit<T: Scalar>(
        &self,
        keys: MatRef<'_, T>,
        preserved: Option<MatRef<'_, T>>,
        par: Par,
    ) -> Result<ConceptEdit> {
        validate::positive("ridge", self.ridge)?;
        validate::positive("edit_weight", self.edit_weight)?;
        validate::non_negative("preserve_weight", self.preserve_weight)?;
        let keys = checked_keys(keys)?;
        let mut Q = InverseGram::isotropic(keys.nrows(), self.ridge, par)?;
        if let Some(preserved) = preserved {
            validate::columns("preserved", preserved, keys.nrows())?;
            validate::finite("preserved", preserved)?;
            absorb_weighted(&mut Q, preserved, self.preserve_weight)?;
        }
        ConceptEdit::solved(&Q, keys, self.edit_weight, par)
    }
}
