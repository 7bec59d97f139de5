//! The projector on the null space: which directions may be edited.

use std::sync::Arc;

use faer::{Mat, MatRef, Par};

use crate::error::numerics::{NumericsError, Result};
use crate::linalg::{self, Need, tolerance};
use crate::second_moment::SecondMoment;
use crate::spectrum::Spectrum;
use crate::util::on_demand::OnDemand;
use crate::util::validate;

/// Which eigendirections of the protected matrix are kept, so that they may be edited.
///
/// A direction is kept if its eigenvalue is **below** the threshold: the model hardly uses it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Threshold {
    /// Eigenvalues below this number. The published choice, 0.02 everywhere, assumes statistics that are a mean.
    Absolute(f64),
    /// Eigenvalues below this fraction of the largest. The cut does not change when all keys are scaled.
    RelativeToLargest(f64),
    /// As many of the smallest eigenvalues as together hold at most this fraction of the trace, that is, of the energy
    /// of the keys. As an absolute eigenvalue, the threshold is the first one that is left out: a refresh may let in what
    /// stays below it.
    KeptEnergy(f64),
    /// This many directions, those with the smallest eigenvalues; all of them if there are not more. The threshold as an
    /// absolute eigenvalue is the first one that is left out.
    Directions(usize),
}

impl Default for Threshold {
    /// `Absolute(0.02)`, the choice of the AlphaEdit and BetaEdit programs.
    fn default() -> Self {
        Self::Absolute(0.02)
    }
}

impl Threshold {
    /// Checks that the number is in range.
    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Absolute(tau) => validate::positive("threshold", tau),
            Self::RelativeToLargest(x) | Self::KeptEnergy(x) => {
                if x > 0.0 && x <= 1.0 {
                    Ok(())
                } else {
                    Err(NumericsError::Parameter { parameter: "threshold", value: x, allowed: "a fraction in (0, 1]" })
                }
            }
            Self::Directions(0) => {
                Err(NumericsError::Parameter { parameter: "threshold", value: 0.0, allowed: "at least one direction" })
            }
            Self::Directions(_) => Ok(()),
        }
    }

    /// Number of kept directions and the threshold as an absolute eigenvalue.
    fn cut(self, spectrum: &Spectrum) -> (usize, f64) {
        let values = spectrum.values();
        // The first eigenvalue that a cut by number or by energy leaves out; infinite if everything is kept.
        let next = |kept: usize| values.get(kept).copied().unwrap_or(f64::INFINITY);
        match self {
            Self::Absolute(tau) => (spectrum.count_below(tau), tau),
            Self::RelativeToLargest(x) => {
                let tau = x * spectrum.largest();
                (spectrum.count_below(tau), tau)
            }
            Self::KeptEnergy(x) => {
                let budget = x * spectrum.trace();
                let mut held = 0.0;
                let kept = values
                    .iter()
                    .take_while(|&&s| {
                        held += s;
                        held <= budget
                    })
                    .count();
                (kept, next(kept))
            }
            Self::Directions(kept) => (kept.min(values.len()), next(kept)),
        }
    }
}

/// How the keys of past edits (`H`, a sum over `t` keys) are weighted against the statistics in the protected matrix
/// `M`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum HistoryWeighting {
    /// `M = (H / t + lambda1 C) / (lambda1 + 1)`, as in the published BetaEdit program. With its `lambda1 = 3000` the
    /// history hardly moves the projector.
    Mean {
        /// Weight of the statistics against the mean of the edit keys.
        lambda1: f64,
    },
    /// `M = C + weight H`. With weight 1, as in the text of the BetaEdit paper, every edited key counts in full.
    Sum {
        /// Weight of an edited key relative to the mean over the text.
        weight: f64,
    },
}

impl HistoryWeighting {
    /// The protected matrix `M`, `d_in x d_in`, from the spectrum of the statistics and the history.
    ///
    /// With an empty history it equals `C` (for `Mean`, `C` times `lambda1 / (lambda1 + 1)`).
    ///
    /// # Errors
    /// A history of another size, a weight that is negative or not finite, or not enough memory.
    pub fn protected_matrix(self, spectrum: &Spectrum, history: &SecondMoment, par: Par) -> Result<Mat<f64>> {
        let d = spectrum.dim();
        if history.d_in() != d {
            return Err(NumericsError::Shape {
                argument: "history",
                expected: (d, d).into(),
                found: (history.d_in(), history.d_in()).into(),
            });
        }
        // With the root that `C` is made from.
        Need::new("a protected matrix", d, d).matrix::<f64>(d, d.saturating_mul(2)).reserve()?;
        self.protect(spectrum.to_matrix(par), history, par)
    }

    /// Turns `C` into the protected matrix, with a history of the same size.
    pub(crate) fn protect(self, C: Mat<f64>, history: &SecondMoment, par: Par) -> Result<Mat<f64>> {
        let mut M = C;
        match self {
            Self::Mean { lambda1 } => {
                validate::non_negative("lambda1", lambda1)?;
                M *= faer::Scale(lambda1 / (lambda1 + 1.0));
                history.add_to(M.as_mut(), history.per_token() / (lambda1 + 1.0), par);
            }
            Self::Sum { weight } => {
                validate::non_negative("refresh weight", weight)?;
                history.add_to(M.as_mut(), weight, par);
            }
        }
        Ok(M)
    }
}

/// The orthogonal projector `P = V Vᵀ` on the directions that may be edited.
///
/// `V` (`d_in x r`) holds the eigenvectors of the protected matrix whose eigenvalues are below the threshold. `P` is
/// never formed unless [`to_dense`](Self::to_dense) asks for it.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use betaedit_core::{Spectrum, Threshold, faer::{Mat, Par}, projector::ProjectorBuilder};
///
/// let C = Mat::from_fn(4, 4, |i, j| if i == j { [5.0, 0.001, 0.3, 0.01][i] } else { 0.0 });
/// let spectrum = Arc::new(Spectrum::from_matrix(C.as_ref(), Par::Seq)?);
/// let P = ProjectorBuilder::new(&spectrum).threshold(Threshold::Absolute(0.02)).build(Par::Seq)?;
/// assert_eq!((P.kept(), P.dim()), (2, 4));
/// // P removes the directions that the model uses.
/// let x = Mat::from_fn(4, 1, |_, _| 1.0);
/// let Px = P.apply(x.as_ref(), Par::Seq)?;
/// assert!(Px[(0, 0)].abs() < 1e-14 && (Px[(1, 0)] - 1.0).abs() < 1e-14);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Projector {
    spectrum: Arc<Spectrum>,
    kept: usize,
    threshold: f64,
}

impl Projector {
    /// The whole space, `P = I`, in the eigenbasis of `spectrum`.
    #[must_use]
    pub fn identity(spectrum: &Arc<Spectrum>) -> Self {
        Self { kept: spectrum.dim(), threshold: f64::INFINITY, spectrum: Arc::clone(spectrum) }
    }

    /// Length of the keys, `d_in`.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.spectrum.dim()
    }

    /// The projector without the directions just below the threshold, within a relative `2e-9` of it. The refresh rules
    /// that use headroom divide by the distance to the threshold.
    ///
    /// # Errors
    /// [`NumericsError::NothingKept`] if no direction is left, and a threshold that is not finite (a projector that
    /// keeps all).
    pub fn with_headroom(mut self) -> Result<Self> {
        validate::positive("threshold", self.threshold)?;
        let limit = self.threshold * (1.0 - 2.0 * tolerance::HEADROOM);
        self.kept = self.kept.min(self.spectrum.count_below(limit));
        if self.kept == 0 {
            return Err(NumericsError::NothingKept { threshold: self.threshold, smallest: self.spectrum.values()[0] });
        }
        Ok(self)
    }

    /// What remains of a projector when its spectrum may be put away.
    pub(crate) fn without_spectrum(&self, spectrum: OnDemand<Spectrum>) -> ProjectorCut {
        ProjectorCut { dim: self.dim(), kept: self.kept, threshold: self.threshold, spectrum }
    }

    /// The directions of a spectrum below a threshold.
    pub(crate) fn cut(spectrum: Arc<Spectrum>, threshold: Threshold) -> Result<Self> {
        let (kept, threshold) = threshold.cut(&spectrum);
        if kept == 0 {
            return Err(NumericsError::NothingKept { threshold, smallest: spectrum.values()[0] });
        }
        Ok(Self { spectrum, kept, threshold })
    }

    /// Number of kept directions `r`, the rank of `P`.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// The threshold as an absolute eigenvalue. It is infinite for the whole space.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// `V`, an orthonormal basis of the kept space, `d_in x r`.
    #[must_use]
    pub fn basis(&self) -> MatRef<'_, f64> {
        self.spectrum.vectors().subcols(0, self.kept)
    }

    /// An orthonormal basis of the protected space, `d_in x (d_in - r)`.
    #[must_use]
    pub fn complement(&self) -> MatRef<'_, f64> {
        self.spectrum.vectors().subcols(self.kept, self.dim() - self.kept)
    }

    /// Eigenvalues of the protected matrix in the kept space, ascending, one for each column of `V`.
    #[must_use]
    pub fn kept_values(&self) -> &[f64] {
        &self.spectrum.values()[..self.kept]
    }

    /// `weight s_i + ridge` for the kept directions: the diagonal of the initial protected Gram matrix
    /// `Vᵀ (weight C) V + ridge I`, for a projector that was cut from the spectrum of `C`.
    pub(crate) fn protection(&self, weight: f64, ridge: f64) -> Result<Vec<f64>> {
        validate::non_negative("weight", weight)?;
        validate::non_negative("ridge", ridge)?;
        let A: Vec<f64> = self.kept_values().iter().map(|s| weight * s + ridge).collect();
        validate::in_range("the protected Gram matrix", &A)?;
        let largest = A.iter().copied().fold(0.0, f64::max);
        match A.iter().position(|&a| !(a > tolerance::singular(A.len()) * largest)) {
            None => Ok(A),
            Some(pivot) => Err(singular_start(pivot)),
        }
    }

    /// The spectrum that the projector was cut from.
    #[must_use]
    pub fn spectrum(&self) -> &Arc<Spectrum> {
        &self.spectrum
    }

    /// The eigenvalues on both sides of the cut.
    #[must_use]
    pub fn gap(&self) -> SpectralGap {
        let values = self.spectrum.values();
        SpectralGap {
            largest_kept: self.kept.checked_sub(1).map(|i| values[i]),
            smallest_protected: values.get(self.kept).copied(),
        }
    }

    /// How much more can be written before the space is full: `sum (tau - s_i) / tau` over the kept directions. It
    /// weights each direction by its distance to the threshold, and lies between 0 and `r`.
    #[must_use]
    pub fn capacity(&self) -> f64 {
        if self.threshold.is_finite() && self.threshold > 0.0 {
            self.kept_values().iter().map(|s| (1.0 - s / self.threshold).max(0.0)).sum()
        } else {
            self.kept as f64
        }
    }

    /// `P X` for a `d_in x n` matrix `X`. Cost: `4 d_in n min(r, d_in - r)` flops.
    ///
    /// # Errors
    /// Wrong shape, NaN or infinity.
    pub fn apply(&self, X: MatRef<'_, f64>, par: Par) -> Result<Mat<f64>> {
        validate::shape("X", X, self.dim(), X.ncols())?;
        let (d, n) = X.shape();
        Need::new("a projected matrix", d, n).matrix::<f64>(d.saturating_mul(2), n).reserve()?;
        validate::finite("X", X)?;
        let onto = |V: MatRef<'_, f64>| {
            let coordinates = linalg::product(V.transpose(), X, par);
            linalg::product(V, coordinates.as_ref(), par)
        };
        Ok(if 2 * self.kept <= self.dim() { onto(self.basis()) } else { X - onto(self.complement()) })
    }

    /// `P` as a dense `d_in x d_in` matrix. Cost: `2 d_in² r` flops.
    #[must_use]
    pub fn to_dense(&self, par: Par) -> Mat<f64> {
        let mut P = Mat::zeros(self.dim(), self.dim());
        linalg::add_self_outer(P.as_mut(), self.basis(), 1.0, par);
        P
    }

    /// `|P - P'|_F² = r + r' - 2 tr(P P')`: how many directions, counted with their angles, differ between two
    /// projectors. Cost: `2 d_in r r'` flops, or `2 d_in (d_in - r) (d_in - r')` if these are fewer.
    ///
    /// # Errors
    /// Projectors of different spaces.
    pub fn distance_squared(&self, other: &Self, par: Par) -> Result<f64> {
        validate::shape("other", other.spectrum.vectors(), self.dim(), self.dim())?;
        // The projectors on what is left out are as far apart.
        let left_out = self.kept + other.kept > self.dim();
        let [A, B] = [self, other].map(|one| match left_out {
            true => one.spectrum.vectors().subcols(one.kept, one.dim() - one.kept),
            false => one.basis(),
        });
        let overlap = linalg::product(A.transpose(), B, par).squared_norm_l2();
        Ok(((A.ncols() + B.ncols()) as f64 - 2.0 * overlap).max(0.0))
    }
}

/// Where a projector was cut, and the spectrum that it was cut from, which is read when the projector is needed.
#[derive(Clone)]
pub(crate) struct ProjectorCut {
    pub(crate) dim: usize,
    pub(crate) kept: usize,
    pub(crate) threshold: f64,
    pub(crate) spectrum: OnDemand<Spectrum>,
}

impl ProjectorCut {
    pub(crate) fn projector(&self) -> Result<Projector> {
        Ok(Projector { spectrum: self.spectrum.get()?, kept: self.kept, threshold: self.threshold })
    }
}

/// The eigenvalues on both sides of a cut, each `None` if there is none. If they are close, rounding decides which
/// directions are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct SpectralGap {
    /// The largest eigenvalue whose direction may be edited.
    pub largest_kept: Option<f64>,
    /// The smallest eigenvalue whose direction is protected.
    pub smallest_protected: Option<f64>,
}

/// Builds a [`Projector`] from the statistics and, for a refresh, the keys of past edits.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use betaedit_core::{SecondMoment, Spectrum, faer::{Mat, mat, Par}, projector::{HistoryWeighting, ProjectorBuilder}};
///
/// let C = Mat::from_fn(3, 3, |i, j| if i == j { [1.0, 0.001, 0.002][i] } else { 0.0 });
/// let spectrum = Arc::new(Spectrum::from_matrix(C.as_ref(), Par::Seq)?);
/// let mut history = SecondMoment::new(3);
/// history.observe(mat![[0.5], [2.0], [0.0]].as_ref(), Par::Seq)?;
///
/// let before = ProjectorBuilder::new(&spectrum).build(Par::Seq)?;
/// let sum = HistoryWeighting::Sum { weight: 1.0 };
/// let after = ProjectorBuilder::new(&spectrum).history(&history, sum).build(Par::Seq)?;
/// assert_eq!((before.kept(), after.kept()), (2, 1)); // the edited key is protected now
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ProjectorBuilder<'a> {
    spectrum: &'a Arc<Spectrum>,
    threshold: Threshold,
    history: Option<(&'a SecondMoment, HistoryWeighting)>,
}

impl<'a> ProjectorBuilder<'a> {
    /// A projector from the spectrum of the statistics, with the default [`Threshold`].
    pub fn new(spectrum: &'a Arc<Spectrum>) -> Self {
        Self { spectrum, threshold: Threshold::default(), history: None }
    }

    /// Sets where to cut.
    pub fn threshold(mut self, threshold: Threshold) -> Self {
        self.threshold = threshold;
        self
    }

    /// Protects the keys of past edits as well. A history without keys changes nothing.
    pub fn history(mut self, history: &'a SecondMoment, weighting: HistoryWeighting) -> Self {
        self.history = Some((history, weighting));
        self
    }

    /// Builds the projector. Without history this is free. With history it takes one eigendecomposition of
    /// [`HistoryWeighting::protected_matrix`].
    ///
    /// # Errors
    /// [`NumericsError::NothingKept`] if no eigenvalue is below the threshold; a threshold outside its range, a history
    /// of another size, and the errors of [`Spectrum::from_matrix`].
    pub fn build(self, par: Par) -> Result<Projector> {
        self.threshold.check()?;
        let spectrum = match self.history {
            Some((history, weighting)) if history.tokens() != Some(0) => {
                Spectrum::need(self.spectrum.dim()).reserve()?;
                let M = weighting.protected_matrix(self.spectrum, history, par)?;
                Arc::new(Spectrum::decompose("protected matrix", M, par)?)
            }
            _ => Arc::clone(self.spectrum),
        };
        Projector::cut(spectrum, self.threshold)
    }
}

/// The error of a protected Gram matrix that has no inverse.
pub(crate) fn singular_start(pivot: usize) -> NumericsError {
    NumericsError::Singular {
        pivot: Some(pivot),
        step: "inverting the protected Gram matrix",
        advice: "the weight of the statistics (`lambda`) and the ridge are zero, or the statistics have directions without \
                 energy: use a larger ridge (`lambda2` of some methods), or statistics over more tokens",
    }
}
