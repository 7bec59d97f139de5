//! SPEED.

use faer::{MatRef, Par};

use super::{ConceptEdit, absorb_weighted, checked_keys, spectrum_of};
use crate::engine::InverseGram;
use crate::error::numerics::Result;
use crate::projector::{ProjectorBuilder, Threshold};
use crate::scalar::Scalar;
use crate::util::setters::setters;
use crate::util::validate;

/// SPEED: an edit in the null space of the preserved keys, which leaves some keys exactly as they are.
///
/// With `n` keys `K`, their anchors `A`, `S = K Kᵀ / n`, and `P` the projector on the eigenvectors of the mean of `c cᵀ` over the
/// preserved keys with eigenvalues below the threshold,
///
/// ```text
/// Delta = W (A Kᵀ / n - S) P (I - M K2 (K2ᵀ P M K2 + l I)⁻¹ K2ᵀ P) M,    M = (S P + r I)⁻¹
/// ```
///
/// The invariant keys `K2` are those that every prompt has, such as the start token. The published program also augments and
/// filters the preserved keys; pass the result of that.
///
/// # Examples
/// ```
/// use betaedit_core::concept::Speed;
/// use betaedit_core::faer::{Mat, Par, mat};
///
/// let (key, anchor) = (mat![[1.0], [1.0], [0.0]], mat![[0.0], [0.0], [1.0]]);
/// let preserved = mat![[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]];
/// let invariant = mat![[0.0], [0.0], [3.0]];
/// let speed = Speed::default().with_ridge(1e-3);
/// let edit = speed.edit(key.as_ref(), preserved.as_ref(), Some(invariant.as_ref()), Par::Seq)?;
///
/// let W = Mat::<f64>::identity(3, 3);
/// let update = edit.update_to_anchors(W.as_ref(), anchor.as_ref())?.to_dense(Par::Seq);
/// assert!(((&W + &update) * &key - &anchor).norm_l2() < 0.01);
/// assert!((&update * &preserved).norm_l2() < 1e-12 && (&update * &invariant).norm_l2() < 1e-12);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
///
/// # References
/// Li et al., "SPEED: Scalable, Precise, and Efficient Concept Erasure for Diffusion Models", ICLR 2026, arXiv 2503.07392. The
/// defaults are those of its program.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Speed {
    /// Where the null space ends. Default: `Threshold::Absolute(0.1)`.
    pub threshold: Threshold,
    /// `r`, the ridge on the norm of the update. Default: `1.0`.
    pub ridge: f64,
    /// `l`, the slack of the invariant keys; with 0, their outputs do not change at all. Default: `0.0`.
    pub slack: f64,
}

impl Default for Speed {
    fn default() -> Self {
        Self { threshold: Threshold::Absolute(0.1), ridge: 1.0, slack: 0.0 }
    }
}

setters!(Speed {
    /// Sets where the null space ends.
    with_threshold(threshold: Threshold),
    /// Sets the ridge on the norm of the update.
    with_ridge(ridge: f64),
    /// Sets the slack of the invariant keys.
    with_slack(slack: f64),
});

impl Speed {
    /// Solves the edit of some keys.
    ///
    /// * `keys`: `d_in x n`
    /// * `preserved`: `d_in x m`
    /// * `invariant`: `d_in x k`, if there are any
    ///
    /// Cost: an eigendecomposition of a `d_in x d_in` matrix.
    ///
    /// # Errors
    /// Wrong shapes, no key, NaN, settings out of range, a threshold that keeps nothing, and those of [`InverseGram::solve`].
    pub fn edit<T: Scalar>(
        &self,
        keys: MatRef<'_, T>,
        preserved: MatRef<'_, T>,
        invariant: Option<MatRef<'_, T>>,
        par: Par,
    ) -> Result<ConceptEdit> {
        validate::positive("ridge", self.ridge)?;
        validate::non_negative("slack", self.slack)?;
        let keys = checked_keys(keys)?;
        let spectrum = spectrum_of(preserved, keys.nrows(), par)?;
        let P = ProjectorBuilder::new(&spectrum).threshold(self.threshold).build(par)?;
        let mut Q = InverseGram::diagonal(&P, 0.0, self.ridge, par)?;
        if let Some(invariant) = invariant {
            validate::columns("invariant", invariant, keys.nrows())?;
            validate::finite("invariant", invariant)?;
            if self.slack == 0.0 {
                Q.constrain(invariant)?;
            } else {
                absorb_weighted(&mut Q, invariant, 1.0 / self.slack)?;
            }
        }
        let weight = 1.0 / keys.ncols() as f64;
        ConceptEdit::solved(&Q, keys, weight, par)
    }
}
