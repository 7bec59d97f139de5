//! PRUNE.

use faer::{Mat, MatRef, Par};

use super::{Description, Needs, Restraint, Situation, Total, spectral_norm};
use crate::error::numerics::{NumericsError, Result};
use crate::linalg;
use crate::scalar::{Scalar, cast};
use crate::spectrum::Spectrum;
use crate::update::Update;
use crate::util::validate;

/// PRUNE: damps the singular values of the change that exceed the largest one of the weight, `s > s_max(W)`, to
/// preserve the condition number of the weight.
///
/// The paper applies it once, at the end of all edits. To do so, [`restrain`](Self::restrain) their sum
/// ([`Update::stacked`]) with the [`spectral_norm`] of the initial weight. A session continues from its restrained
/// weight, so it applies PRUNE after every batch.
///
/// # References
/// Ma et al., "Perturbation-Restrained Sequential Model Editing", ICLR 2025.
///
/// # Examples
/// ```
/// use betaedit_core::{Update, restraint::Prune, faer::{mat, Par}};
/// let total = Update::from_factors(mat![[3.0], [4.0]], mat![[2.0, 0.0]])?; // one singular value, 10
/// let pruned = Prune::default().restrain(&total, 2.0, Par::Seq)?;
/// assert!((pruned.frobenius_norm() - (5.0_f64.ln() + 2.0)).abs() < 1e-14);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Prune {
    /// How singular values are damped. Default: [`Damping::Logarithm`] with the base e.
    pub damping: Damping,
}

/// The damped value of a singular value `s` above `m`, the largest one of the weight. Never more than `s`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Damping {
    /// `log_b(s) - log_b(m) + m`. The published bases are e, 2, 1.5 and 1.2.
    Logarithm {
        /// `b`.
        base: f64,
    },
    /// `(s + m) / 2`.
    Linear,
}

impl Default for Damping {
    fn default() -> Self {
        Self::Logarithm { base: std::f64::consts::E }
    }
}

impl Damping {
    /// The damped value of `s`, for a weight whose largest singular value is `largest`.
    ///
    /// If the weight is so small that the logarithm would enlarge `s` (`largest < 1 / ln b`), `s` stays as it is.
    ///
    /// ```
    /// use betaedit_core::restraint::Damping;
    /// assert_eq!((Damping::Linear.damped(3.0, 5.0), Damping::Linear.damped(9.0, 5.0)), (3.0, 7.0));
    /// assert_eq!(Damping::Logarithm { base: 2.0 }.damped(20.0, 5.0), 7.0);
    /// ```
    #[must_use]
    pub fn damped(self, s: f64, largest: f64) -> f64 {
        if s <= largest {
            return s;
        }
        let damped = match self {
            // A zero weight sets no scale.
            Self::Logarithm { .. } if largest == 0.0 => s,
            Self::Logarithm { base } => (s / largest).ln() / base.ln() + largest,
            Self::Linear => 0.5 * s + 0.5 * largest,
        };
        damped.min(s)
    }
}

impl Prune {
    /// Sets how singular values are damped.
    #[must_use]
    pub fn with_damping(mut self, damping: Damping) -> Self {
        self.damping = damping;
        self
    }

    fn check_damping(&self) -> Result<()> {
        match self.damping {
            Damping::Logarithm { base: value } if !(value > 1.0 && value.is_finite()) => {
                Err(NumericsError::Parameter { parameter: "base of the logarithm", value, allowed: "above 1" })
            }
            Damping::Logarithm { .. } | Damping::Linear => Ok(()),
        }
    }

    /// The update with its singular values damped, computed from its factors: `O(n² (d_in + d_out) + n³)` for rank `n`.
    /// An update without singular values above `largest` is returned bit for bit.
    ///
    /// * `largest`: the largest singular value of the weight before any edit, from [`spectral_norm`]
    ///
    /// # Errors
    /// Numbers outside their range, or a decomposition that fails its verification.
    pub fn restrain<T: Scalar>(&self, update: &Update<T>, largest: f64, par: Par) -> Result<Update<T>> {
        self.check_damping()?;
        validate::non_negative("largest", largest)?;
        if update.frobenius_norm() <= largest {
            return Ok(update.clone());
        }
        let (U, S, V) = update.singular_values(par)?;
        if S[0] <= largest {
            return Ok(update.clone());
        }
        let damped: Vec<f64> = S.iter().map(|&s| self.damping.damped(s, largest).sqrt()).collect();
        let factor = |vectors: &Mat<f64>| {
            cast(Mat::from_fn(vectors.nrows(), damped.len(), |i, j| vectors[(i, j)] * damped[j]).as_ref())
        };
        update.with_factors(factor(&U), factor(&V))
    }

    /// The update to add to a dense total change (`d_out x d_in`) to damp its singular values; `None` if none exceeds
    /// `largest`. Its rank is the number of singular values above `largest`.
    ///
    /// Cost: a few passes over the total if none exceeds `largest`; otherwise an eigendecomposition of size
    /// `min(d_out, d_in)`.
    ///
    /// # Errors
    /// As [`restrain`](Self::restrain), and NaN.
    pub fn correction(&self, total: MatRef<'_, f64>, largest: f64, par: Par) -> Result<Option<Update<f64>>> {
        self.check_damping()?;
        validate::non_negative("largest", largest)?;
        if spectral_norm(total, par)? <= largest {
            return Ok(None);
        }
        // The Gram matrix of the smaller side. Values above the largest one of a weight are far above the rounding of
        // their squares.
        let wide = total.nrows() <= total.ncols();
        let (D, scale) = linalg::unit_scaled(if wide { total } else { total.transpose() });
        let mut gram = Mat::zeros(D.nrows(), D.nrows());
        linalg::add_self_outer(gram.as_mut(), D.as_ref(), 1.0, par);
        let spectrum = Spectrum::decompose("the Gram matrix of the total change", gram, par)?;
        let first = spectrum.values().partition_point(|square| square.sqrt() * scale <= largest);
        let U = spectrum.vectors().subcols(first, spectrum.dim() - first);
        if U.ncols() == 0 {
            return Ok(None);
        }
        // Dᵀ u = s v.
        let sV = linalg::product(D.transpose(), U, par);
        let lengths = linalg::column_norms(sV.as_ref());
        let change = |j: usize| self.damping.damped(lengths[j] * scale, largest) - lengths[j] * scale;
        let changes = Mat::from_fn(U.nrows(), U.ncols(), |i, j| U[(i, j)] * change(j));
        let V = Mat::from_fn(sV.nrows(), sV.ncols(), |i, j| sV[(i, j)] / lengths[j]);
        let (left, right) = if wide { (changes, V) } else { (V, changes) };
        Update::from_factors(left, right.transpose().to_owned()).map(Some)
    }
}

impl<T: Scalar> Restraint<T> for Prune {
    fn description(&self) -> Description {
        match self.damping {
            Damping::Logarithm { base } => Description::new("prune, logarithm").with("base", base),
            Damping::Linear => Description::new("prune, linear"),
        }
    }

    fn check(&self) -> Result<()> {
        self.check_damping()
    }

    fn needs(&self) -> Needs {
        Needs::Total
    }

    /// Damps the sum of all updates, with this one.
    fn restrained(&self, update: &Update<T>, situation: &Situation<'_, T>) -> Result<Option<Update<T>>> {
        let par = situation.par;
        let Some(Total { change, drift, largest }) = situation.total else {
            return Err(NumericsError::Unsupported { what: "PRUNE without the change so far".into() });
        };
        if drift <= largest {
            return Ok(None);
        }
        let sum = change + cast::<T, f64>(update.to_dense(par).as_ref());
        let Some(correction) = self.correction(sum.as_ref(), largest, par)? else { return Ok(None) };
        let both = Update::stacked([update, &correction.cast()?])?;
        update.with_factors(both.left().to_owned(), both.right().transpose().to_owned()).map(Some)
    }

    fn first_format(&self) -> Option<String> {
        Some(match self.damping {
            Damping::Logarithm { base } => format!("Prune(Prune {{ damping: Logarithm {{ base: {base:?} }} }})"),
            Damping::Linear => "Prune(Prune { damping: Linear })".to_owned(),
        })
    }
}
