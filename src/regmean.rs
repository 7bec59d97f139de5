//! Merging models by regression means (RegMean).
//!
//! Models that were fine-tuned from the same start on different texts are merged into one, without training. For a linear layer,
//! the merged weight is the one whose outputs are closest to those of each model on that model's own text,
//!
//! ```text
//! min_W  sum_i E_i |W x - W_i x|²
//!
//! W = (sum_i W_i G_i) (sum_i G_i)⁻¹,   G_i = E_i[x xᵀ]
//! ```
//!
//! All other parameters are averaged. The statistics `G_i` are the same as for editing, a [`SecondMoment`] of each model's layer.
//!
//! # References
//! Jin, Ren, Preotiuc-Pietro, Cheng, "Dataless Knowledge Fusion by Merging Weights of Language Models", ICLR 2023, arXiv
//! 2212.09849.

use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{Accum, Mat, MatRef, Par};

use crate::error::numerics::{NumericsError, Result};
use crate::linalg::{self, Need, tolerance};
use crate::scalar::{Scalar, cast};
use crate::second_moment::SecondMoment;
use crate::util::named::named;
use crate::util::setters::setters;
use crate::util::validate;

/// How much the statistics of each model count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum ModelWeighting {
    /// Each model counts the same: `G_i` is the mean over its tokens.
    #[default]
    Equal,
    /// Each token counts the same: `G_i` is the sum over its tokens.
    Tokens,
}

named!(ModelWeighting, "model weighting", { Equal => "equal", Tokens => "tokens" });

/// RegMean: see the [module](self).
///
/// # Examples
/// ```
/// use betaedit_core::faer::{Mat, Par, mat};
/// use betaedit_core::regmean::RegMean;
/// use betaedit_core::SecondMoment;
///
/// // The text of the first model uses the first input, that of the second model the second.
/// let moment = |x: Mat<f64>| {
///     let mut moment = SecondMoment::new(2);
///     moment.observe(x.as_ref(), Par::Seq)?;
///     Ok::<_, betaedit_core::Error>(moment)
/// };
/// let (first, second) = (moment(mat![[1.0, 2.0], [0.0, 0.1]])?, moment(mat![[0.0, 0.1], [1.0, 1.0]])?);
/// let (A, B) = (mat![[5.0, 7.0]], mat![[6.0, 3.0]]);
/// let W = RegMean::default().merge(&[(A.as_ref(), &first), (B.as_ref(), &second)], Par::Seq)?;
/// assert!((W - mat![[5.0, 3.0]]).norm_max() < 0.2); // each keeps what it uses
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct RegMean {
    /// The factor of the off-diagonal entries of each `G_i`, between 0 and 1. Default: `0.9`, as published for most models; for
    /// T5, the paper uses `0.1`.
    pub off_diagonal: f64,
    /// How much the statistics of each model count. Default: [`ModelWeighting::Equal`].
    pub weighting: ModelWeighting,
    /// Added to the diagonal of each `G_i`, in units of its mean diagonal entry. Default: `0.0`, as published.
    pub ridge: f64,
}

impl Default for RegMean {
    fn default() -> Self {
        Self { off_diagonal: 0.9, weighting: ModelWeighting::Equal, ridge: 0.0 }
    }
}

setters!(RegMean {
    /// Sets the factor of the off-diagonal entries.
    with_off_diagonal(off_diagonal: f64),
    /// Sets how much the statistics of each model count.
    with_weighting(weighting: ModelWeighting),
    /// Sets the ridge.
    with_ridge(ridge: f64),
});

impl RegMean {
    /// Merges one linear layer. Equal weights give exactly that weight.
    ///
    /// * `models`: the weight of each model, `d_out x d_in`, and the second moment of its inputs
    ///
    /// The result is computed as `W_1 + sum (W_i - W_1) G_i (sum G_i)⁻¹`, so that rounding is relative to the differences of the
    /// models. Cost: a Cholesky factorisation of `sum G_i`, `d_in³ / 3` flops, and `2 d_out d_in²` for each model.
    ///
    /// # Errors
    /// No model, other shapes than those of the first model, NaN, settings out of range, statistics without a token count for
    /// [`ModelWeighting::Tokens`], not enough memory; [`NumericsError::Singular`] if `sum G_i` has no inverse.
    pub fn merge<T: Scalar>(&self, models: &[(MatRef<'_, T>, &SecondMoment)], par: Par) -> Result<Mat<f64>> {
        self.check()?;
        let Some((first, _)) = models.first() else {
            return Err(NumericsError::Empty { argument: "models", item: "model" });
        };
        let (d_out, d_in) = first.shape();
        validate::not_empty("weight", *first)?;
        for (weight, moment) in models {
            validate::shape("weight", *weight, d_out, d_in)?;
            validate::finite("weight", *weight)?;
            if moment.d_in() != d_in {
                let (expected, found) = ((d_in, d_in).into(), (moment.d_in(), moment.d_in()).into());
                return Err(NumericsError::Shape { argument: "moment", expected, found });
            }
        }
        // The sum of the Gram matrices and one of them; the base, what is moved, and a difference or the result.
        let need = Need::new("a merge of models", d_out, d_in).matrix::<[f64; 2]>(d_in, d_in);
        need.matrix::<[f64; 3]>(d_out, d_in).reserve()?;
        let base = cast::<T, f64>(*first);
        let mut total = Mat::zeros(d_in, d_in);
        let mut moved = Mat::zeros(d_out, d_in);
        for (which, (weight, moment)) in models.iter().enumerate() {
            let G = self.gram(moment, par)?;
            if which > 0 {
                let difference = cast::<T, f64>(*weight) - &base;
                linalg::matmul(moved.as_mut(), Accum::Add, difference.as_ref(), G.as_ref(), 1.0, par);
            }
            total += G;
        }
        validate::no_overflow("the sum of the Gram matrices", total.as_ref())?;
        validate::no_overflow("the weighted sum of the models", moved.as_ref())?;
        let floors: Vec<f64> = (0..d_in).map(|i| tolerance::singular(d_in) * total[(i, i)]).collect();
        let L = linalg::cholesky(total, &floors, singular, par)?;
        let mut rows = moved.as_mut().transpose_mut();
        solve_lower_triangular_in_place(L.as_ref(), rows.as_mut(), par);
        solve_upper_triangular_in_place(L.transpose(), rows, par);
        // Adding zero would make 0.0 of -0.0.
        let added = |i, j| if moved[(i, j)] == 0.0 { base[(i, j)] } else { base[(i, j)] + moved[(i, j)] };
        let merged = Mat::from_fn(d_out, d_in, added);
        validate::no_overflow("the merged weight", merged.as_ref())?;
        Ok(merged)
    }

    fn check(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.off_diagonal) {
            let (parameter, value) = ("off_diagonal", self.off_diagonal);
            return Err(NumericsError::Parameter { parameter, value, allowed: "a number between 0 and 1" });
        }
        validate::non_negative("ridge", self.ridge)
    }

    /// `G` of a model, with smaller entries off the diagonal and the ridge.
    fn gram(&self, moment: &SecondMoment, par: Par) -> Result<Mat<f64>> {
        let mut G = match self.weighting {
            ModelWeighting::Equal => moment.to_mean(par)?,
            ModelWeighting::Tokens => {
                moment.tokens().ok_or(NumericsError::UnknownTokenCount { argument: "moment" })?;
                moment.to_sum(par)?
            }
        };
        let d = G.nrows();
        let ridge = self.ridge * (0..d).map(|i| G[(i, i)]).sum::<f64>() / d as f64;
        for (j, column) in G.col_iter_mut().enumerate() {
            for (i, x) in column.iter_mut().enumerate() {
                *x = if i == j { *x + ridge } else { self.off_diagonal * *x };
            }
        }
        Ok(G)
    }
}

fn singular(pivot: usize) -> NumericsError {
    NumericsError::Singular {
        pivot: Some(pivot),
        step: "the sum of the models' Gram matrices",
        advice: "the statistics do not cover every input: collect them over more tokens, use a smaller `off_diagonal`, or add a \
                 `ridge` (1e-6 is small)",
    }
}
