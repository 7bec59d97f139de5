//! Concept editing: new outputs for some inputs of a linear layer, such as the cross-attention of a diffusion model.
//!
//! In a text-to-image model, the projections `to_k` and `to_v` of every cross-attention read the same embeddings of the prompt.
//! To erase or replace a concept, its embeddings (**keys**) are given the outputs (**values**) of other ones (**anchors**), while
//! the outputs for preserved embeddings stay. The system depends on the keys alone, so it is solved once, and the [`ConceptEdit`]
//! is written into any number of weights.
//!
//! | method | update | by the engine |
//! |---|---|---|
//! | [`Uce`] | `e R Kᵀ (l I + p C Cᵀ + e K Kᵀ)⁻¹` | `isotropic(l)`, absorb the preserved keys `C`, solve |
//! | [`Speed`] | `R Kᵀ` times the inverse on the null space of the preserved keys, with invariant keys | `diagonal(P, 0, r)`, constrain or absorb the invariant keys, solve |
//! | any [`Method`] | MEMIT, AlphaEdit and the others, with the preserved keys as statistics | [`ConceptEdit::with_method`] |
//!
//! Keys are **columns**, `d_in x n`. Weights are `d_out x d_in`.
//!
//! # References
//! 1. Gandikota et al., "Unified Concept Editing in Diffusion Models", WACV 2024, arXiv 2308.14761 (UCE)
//! 2. Li et al., "SPEED: Scalable, Precise, and Efficient Concept Erasure for Diffusion Models", ICLR 2026, arXiv 2503.07392

mod speed;
mod uce;

use std::fmt;
use std::sync::Arc;

pub use speed::Speed;
pub use uce::Uce;

use faer::{Mat, MatRef, Par};

use crate::batch::EditBatch;
use crate::editor::{Editor, Method};
use crate::engine::InverseGram;
use crate::error::numerics::{NumericsError, Result};
use crate::linalg;
use crate::scalar::{Scalar, cast};
use crate::second_moment::SecondMoment;
use crate::spectrum::Spectrum;
use crate::update::Update;
use crate::util::validate;

/// The solved edit of some keys, ready for every weight that reads them.
///
/// # Examples
/// ```
/// use betaedit_core::concept::Uce;
/// use betaedit_core::faer::{Mat, Par, mat};
///
/// // One key of length 3 is to give the output of an anchor. Another key is preserved.
/// let (key, anchor) = (mat![[1.0], [0.2], [0.0]], mat![[0.0], [1.0], [0.0]]);
/// let preserved = mat![[0.0], [1.0], [2.0]];
/// let method = Uce::default().with_ridge(1e-3).with_preserve_weight(100.0);
/// let edit = method.edit(key.as_ref(), Some(preserved.as_ref()), Par::Seq)?;
///
/// let W = Mat::<f64>::identity(3, 3);
/// let update = edit.update_to_anchors(W.as_ref(), anchor.as_ref())?;
/// let edited = &W + update.to_dense(Par::Seq);
/// assert!((&edited * &key - &anchor).norm_l2() < 0.01);
/// assert!((&edited * &preserved - &preserved).norm_l2() < 0.01);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone)]
pub struct ConceptEdit {
    keys: Mat<f64>,
    directions: Mat<f64>,
    par: Par,
}

impl ConceptEdit {
    /// An edit by a method for language models: MEMIT, AlphaEdit, EMMET and the others, with the mean of `c cᵀ` over the
    /// preserved keys as the second moment.
    ///
    /// * `keys`: `d_in x n`, written together
    /// * `preserved`: `d_in x m`
    ///
    /// Cost: an eigendecomposition of a `d_in x d_in` matrix.
    ///
    /// # Errors
    /// Wrong shapes, no key, NaN, and those of [`Method::editor`] and [`Editor::propose`].
    pub fn with_method<T: Scalar>(
        method: &impl Method,
        keys: MatRef<'_, T>,
        preserved: MatRef<'_, T>,
        par: Par,
    ) -> Result<Self> {
        let keys = checked_keys(keys)?;
        let spectrum = spectrum_of(preserved, keys.nrows(), par)?;
        let editor = method.editor::<f64>(&spectrum, par)?;
        // The update is linear in the residuals, so that of the identity has the directions as its rows.
        let identity = Mat::<f64>::identity(keys.ncols(), keys.ncols());
        let proposal = editor.propose(&EditBatch::new(keys.as_ref(), identity.as_ref())?)?;
        let directions = proposal.update().to_dense(par).transpose().to_owned();
        Ok(Self { keys, directions, par })
    }

    /// Solves the edit of keys that have this weight.
    fn solved(Q: &InverseGram, keys: Mat<f64>, weight: f64, par: Par) -> Result<Self> {
        let root = faer::Scale(weight.sqrt());
        let solution = Q.solve((&keys * root).as_ref()).map_err(explained)?;
        Ok(Self { directions: solution.directions() * root, keys, par })
    }

    /// The update that gives the keys these values in a weight, `Delta = (V - W K) directionsᵀ`.
    ///
    /// * `weight`: `d_out x d_in`
    /// * `values`: `d_out x n`, one column for each key
    ///
    /// # Errors
    /// Wrong shapes, NaN, overflow.
    pub fn update<T: Scalar>(&self, weight: MatRef<'_, T>, values: MatRef<'_, T>) -> Result<Update<f64>> {
        validate::shape("weight", weight, weight.nrows(), self.keys.nrows())?;
        validate::shape("values", values, weight.nrows(), self.keys.ncols())?;
        validate::finite("weight", weight)?;
        validate::finite("values", values)?;
        let outputs = linalg::product(cast::<T, f64>(weight).as_ref(), self.keys.as_ref(), self.par);
        self.toward(cast::<T, f64>(values) - outputs)
    }

    /// The update that gives the keys the outputs of other keys in the same weight, `Delta = W (A - K) directionsᵀ`.
    ///
    /// * `weight`: `d_out x d_in`
    /// * `anchors`: `d_in x n`, one column for each key
    ///
    /// # Errors
    /// Wrong shapes, NaN, overflow.
    pub fn update_to_anchors<T: Scalar>(&self, weight: MatRef<'_, T>, anchors: MatRef<'_, T>) -> Result<Update<f64>> {
        validate::shape("weight", weight, weight.nrows(), self.keys.nrows())?;
        validate::shape("anchors", anchors, self.keys.nrows(), self.keys.ncols())?;
        validate::finite("weight", weight)?;
        validate::finite("anchors", anchors)?;
        let moved = cast::<T, f64>(anchors) - &self.keys;
        self.toward(linalg::product(cast::<T, f64>(weight).as_ref(), moved.as_ref(), self.par))
    }

    fn toward(&self, residuals: Mat<f64>) -> Result<Update<f64>> {
        validate::no_overflow("the residuals", residuals.as_ref())?;
        Update::from_directions(residuals, &self.directions, self.keys.ncols())
    }

    /// The keys, `d_in x n`.
    #[must_use]
    pub fn keys(&self) -> MatRef<'_, f64> {
        self.keys.as_ref()
    }

    /// The transposed right factor of every update, `d_in x n`.
    #[must_use]
    pub fn directions(&self) -> MatRef<'_, f64> {
        self.directions.as_ref()
    }
}

/// Sizes in place of matrices.
impl fmt::Debug for ConceptEdit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (d_in, keys) = self.keys.shape();
        f.debug_struct("ConceptEdit").field("d_in", &d_in).field("keys", &keys).finish_non_exhaustive()
    }
}

fn checked_keys<T: Scalar>(keys: MatRef<'_, T>) -> Result<Mat<f64>> {
    validate::not_empty("keys", keys)?;
    validate::finite("keys", keys)?;
    Ok(cast::<T, f64>(keys))
}

/// The spectrum of the mean of `c cᵀ` over the preserved keys.
fn spectrum_of<T: Scalar>(preserved: MatRef<'_, T>, d_in: usize, par: Par) -> Result<Arc<Spectrum>> {
    validate::columns("preserved", preserved, d_in)?;
    validate::finite("preserved", preserved)?;
    let mut moment = SecondMoment::new(d_in);
    moment.observe(preserved, par)?;
    Ok(Arc::new(Spectrum::new(&moment, par)?))
}

/// `A + weight C Cᵀ`, in blocks of columns: each step factors a square matrix of the block's size.
fn absorb_weighted<T: Scalar>(Q: &mut InverseGram, columns: MatRef<'_, T>, weight: f64) -> Result<()> {
    const BLOCK: usize = 256;
    let root = faer::Scale(weight.sqrt());
    for first in (0..columns.ncols()).step_by(BLOCK) {
        let some = columns.subcols(first, BLOCK.min(columns.ncols() - first));
        Q.absorb((cast::<T, f64>(some) * root).as_ref()).map_err(explained)?;
    }
    Ok(())
}

/// An error of the engine in the words of an edit.
fn explained(error: NumericsError) -> NumericsError {
    match error {
        NumericsError::Singular { pivot, step, .. } => NumericsError::Singular {
            pivot,
            step,
            advice: "a key is so large relative to the ridge that rounding hides the rest: use a larger ridge, or scale the \
                     keys down",
        },
        error => error,
    }
}
