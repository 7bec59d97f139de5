//! Headroom: how much more a kept direction can take below the threshold, without any eigendecomposition.

use std::io::{Read, Write};

use faer::{Mat, MatRef, Par};

use crate::util::bytes;

use crate::error::numerics::{NumericsError, Result};
use crate::linalg::symmetric::{Sign, Symmetric};
use crate::linalg::{self, Need, tolerance};
use crate::projector::Projector;
use crate::scalar::{Scalar, cast};
use crate::spectrum::Spectrum;
use crate::util::large::Large;
use crate::util::shown::shown;
use crate::util::validate;

/// The headroom `E = tau I - (C + w H)` on the kept space, as its inverse `V (Vᵀ E V)⁻¹ Vᵀ`.
///
/// A direction may be edited while the protected matrix `M = C + w H` stays below the threshold `tau` on it, that is,
/// while `E` is positive there. For new keys `K`, `B = w Kᵀ E⁻¹ K` tells how much of the headroom they use. An
/// eigenvalue `beta >= 1` means that a combination of keys is **saturated**: the rule
/// [`Nested`](crate::RefreshRule::Nested) removes it from the space. On the rest, `E` is positive again, so every
/// update inside it leaks at most `tau |Delta|²`. No direction that was ever protected is released, and no fewer
/// directions could have been removed.
///
/// The inverse changes by low-rank terms only: `+ w Z y yᵀ Zᵀ / (1 - beta)` for a combination `y` that fits, and
/// `- w Z y yᵀ Zᵀ / beta` for a saturated one, with `Z = E⁻¹ K`. Cost: one pass over a matrix per key.
///
/// # Memory
/// The lower triangle in `f64`, `4 d_in²` bytes.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use betaedit_core::{Spectrum, faer::{Mat, mat, Par}, projector::ProjectorBuilder, refresh::Headroom};
///
/// let C = Mat::from_fn(3, 3, |i, j| if i == j { [1.0, 0.004, 0.01][i] } else { 0.0 });
/// let spectrum = Arc::new(Spectrum::from_matrix(C.as_ref(), Par::Seq)?);
/// let P = ProjectorBuilder::new(&spectrum).build(Par::Seq)?; // threshold 0.02
/// let mut headroom = Headroom::new(&P, 1.0, Par::Seq)?;
///
/// let (small, large) = (mat![[0.0], [0.1], [0.0]], mat![[0.0], [0.0], [0.5]]);
/// assert!((headroom.used(small.as_ref())?[0] - 0.01 / 0.016).abs() < 1e-12); // most of what the second direction can take
/// assert!(headroom.used(large.as_ref())?[0] > 1.0);
/// assert_eq!((headroom.absorb(small.as_ref())?, headroom.absorb(large.as_ref())?), (0, 1)); // directions removed
/// assert_eq!(headroom.kept(), 1);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Headroom {
    inverse: Symmetric,
    weight: f64,
    kept: usize,
}

shown!([] Headroom, "Headroom", self => {
    "dim": self.inverse.dim(),
    "kept": self.kept,
    "weight": self.weight,
});

/// What absorbing keys would do, computed before anything changes.
#[derive(Clone)]
pub(crate) struct HeadroomPlan {
    /// `Y`: the saturated combinations of the keys, one per column.
    pub(crate) saturated: Mat<f64>,
    grows: Mat<f64>,
    shrinks: Mat<f64>,
}

impl HeadroomPlan {
    /// Whether the plan is for a single key that is saturated.
    pub(crate) fn removes_its_only_key(&self) -> bool {
        self.saturated.shape() == (1, 1)
    }
}

impl Headroom {
    /// The headroom of a projector that was cut from the spectrum of `C`. Directions within a relative `1e-9` of the
    /// threshold have no headroom and must not be in the projector: see [`Projector::with_headroom`].
    ///
    /// * `weight`: `w`, weight of an edited key relative to the mean over the text; 1 is the paper's `C + H`
    ///
    /// Cost: `d_in² r` flops.
    ///
    /// # Errors
    /// A projector without a finite threshold, one with directions that have no headroom, or a weight that is not
    /// positive.
    pub fn new(projector: &Projector, weight: f64, par: Par) -> Result<Self> {
        validate::positive("weight", weight)?;
        let tau = projector.threshold();
        validate::positive("threshold", tau)?;
        let V = projector.basis();
        let s = projector.kept_values();
        if s.iter().any(|s| tau - s < tolerance::HEADROOM * tau) {
            return Err(NumericsError::Parameter {
                parameter: "threshold",
                value: tau,
                allowed: "a value farther from every kept eigenvalue; use `Projector::with_headroom`",
            });
        }
        let need = Self::need(V.nrows(), V.ncols());
        need.reserve()?;
        let root = Mat::from_fn(V.nrows(), V.ncols(), |i, j| V[(i, j)] / (tau - s[j]).sqrt());
        Ok(Self { inverse: Symmetric::from_root(root.as_ref(), need, par)?, weight, kept: projector.kept() })
    }

    pub(super) fn large(&mut self) -> &mut dyn Large {
        &mut self.inverse
    }

    /// What a headroom of `r` directions holds at its start.
    pub(crate) fn need(d: usize, r: usize) -> Need {
        Need::new("a headroom", d, d).bytes(Symmetric::bytes(d)).matrix::<f64>(d, r)
    }

    /// Directions that may still be edited.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// `w kᵀ E⁻¹ k` of every key: the share of the headroom that it would use. A key at 1 or above would be saturated.
    ///
    /// # Errors
    /// Wrong shape, empty, NaN.
    pub fn used<T: Scalar>(&self, keys: MatRef<'_, T>) -> Result<Vec<f64>> {
        validate::columns("keys", keys, self.inverse.dim())?;
        validate::finite("keys", keys)?;
        let K = cast::<T, f64>(keys);
        let mut Z = Mat::new();
        self.inverse.product(K.as_ref(), &mut Z, &mut Default::default());
        let used = |j: usize| self.weight * linalg::inner(K.as_ref().subcols(j, 1), Z.as_ref().subcols(j, 1));
        let used: Vec<f64> = (0..K.ncols()).map(used).collect();
        validate::in_range("the headroom used by a key", &used)?;
        Ok(used)
    }

    /// Adds keys to the protected matrix. Returns how many saturated directions this removes from the space.
    ///
    /// # Errors
    /// Wrong shape, empty, NaN, overflow. On error, nothing is changed.
    pub fn absorb<T: Scalar>(&mut self, keys: MatRef<'_, T>) -> Result<usize> {
        let plan = self.plan(keys)?;
        let removed = plan.saturated.ncols();
        self.carry_out(&plan);
        Ok(removed)
    }

    pub(crate) fn plan<T: Scalar>(&self, keys: MatRef<'_, T>) -> Result<HeadroomPlan> {
        validate::columns("keys", keys, self.inverse.dim())?;
        let (d, n) = keys.shape();
        if n > 1 {
            let need = Need::new("the headroom of a batch", n, n).matrix::<f64>(d, n.saturating_mul(4));
            need.matrix::<f64>(n, n.saturating_mul(3)).and(Spectrum::need(n)).reserve()?;
        }
        validate::finite("keys", keys)?;
        let par = self.inverse.par();
        let K = cast::<T, f64>(keys);
        let mut Z = Mat::new();
        self.inverse.product(K.as_ref(), &mut Z, &mut Default::default());
        let mut B = linalg::product(K.transpose(), Z.as_ref(), par);
        faer::zip!(&mut B).for_each(|faer::unzip!(b)| *b *= self.weight);
        validate::no_overflow("the headroom used by the keys", B.as_ref())?;
        if let (1, beta) = (K.ncols(), B[(0, 0)]) {
            // One key is its own eigenvector.
            let saturated = beta >= 1.0 - tolerance::HEADROOM;
            let scale = (self.weight / if saturated { beta } else { 1.0 - beta }).sqrt();
            Z *= faer::Scale(scale);
            validate::no_overflow("the headroom", Z.as_ref())?;
            let none = Mat::zeros(Z.nrows(), 0);
            let (grows, shrinks) = if saturated { (none, Z) } else { (Z, none) };
            return Ok(HeadroomPlan { saturated: Mat::full(1, usize::from(saturated), 1.0), grows, shrinks });
        }
        let spectrum = Spectrum::from_symmetric("the headroom used by the keys", B, par)?;
        let beta = spectrum.values();
        let first = beta.partition_point(|&beta| beta < 1.0 - tolerance::HEADROOM);
        let fits = spectrum.vectors().subcols(0, first);
        let saturated = spectrum.vectors().subcols(first, beta.len() - first).to_owned();
        let scaled = |Y: MatRef<'_, f64>, scale: &dyn Fn(usize) -> f64| {
            let Y = Mat::from_fn(Y.nrows(), Y.ncols(), |i, j| Y[(i, j)] * (self.weight * scale(j)).sqrt());
            linalg::product(Z.as_ref(), Y.as_ref(), par)
        };
        let grows = scaled(fits, &|j| 1.0 / (1.0 - beta[j]));
        let shrinks = scaled(saturated.as_ref(), &|j| 1.0 / beta[first + j]);
        validate::no_overflow("the headroom", grows.as_ref())?;
        validate::no_overflow("the headroom", shrinks.as_ref())?;
        Ok(HeadroomPlan { saturated, grows, shrinks })
    }

    /// Writes the state, bit for bit.
    pub(crate) fn save(&self, out: &mut dyn Write) -> bytes::Result<()> {
        bytes::write_len(out, self.kept)?;
        self.inverse.save(out)
    }

    /// Loads a state of the same size that [`save`](Self::save) wrote. After an error the state is unspecified.
    pub(crate) fn load(&mut self, from: &mut dyn Read) -> bytes::Result<()> {
        self.kept = bytes::read_len(from, self.inverse.dim())?;
        self.inverse.load(from)
    }

    pub(crate) fn carry_out(&mut self, plan: &HeadroomPlan) {
        self.kept -= plan.saturated.ncols().min(self.kept);
        self.inverse.push(plan.shrinks.as_ref(), Sign::Minus);
        self.inverse.push(plan.grows.as_ref(), Sign::Plus);
    }
}
