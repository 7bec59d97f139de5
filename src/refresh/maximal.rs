//! The `Maximal` refresh: the largest space that keeps the guarantee, from the eigendecomposition of the start.

use std::io::{Read, Write};
use std::ops::Range;

use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, Mat, MatRef, Par};

use crate::engine::InverseGram;
use crate::error::numerics::{NumericsError, Result};
use crate::linalg::{self, Need, tolerance};
use crate::projector::ProjectorCut;
use crate::spectrum::Spectrum;
use crate::util::bytes;

/// The keys of all edits in the eigenbasis of `C`, and the space that they leave.
///
/// With `+` the directions kept at the start and `-` the others, `E₊ = tau - s₊`, `E₋ = s₋ - tau`, `Z = Uᵀ K`, the largest
/// space on which `M = C + w H` stays below `tau` is (proof in `docs/design.md`)
///
/// ```text
/// { x₊ + x₋ :  x₊ orthogonal to Z₊ N,   x₋ = - E₋⁻¹ Z₋ X Z₊ᵀ x₊ },   X = w S⁻¹,   S = I + w Z₋ᵀ E₋⁻¹ Z₋,
/// ```
///
/// with `N = L⁻ᵀ y` and `S = L Lᵀ`, for the eigenvectors `y` of `w L⁻¹ Z₊ᵀ E₊⁻¹ Z₊ L⁻ᵀ` whose eigenvalue is at least 1.
/// On any such space, with any keys in the history, `Q` is the `Q` of the start plus `A Psi Aᵀ`. Here
/// `A = [U₊ D₊⁻¹ Z₊, U₋ E₋⁻¹ Z₋]`, and `Psi` is a matrix of size `2t`. A refresh adds the difference of two such terms.
#[derive(Clone)]
pub(super) struct Tilt {
    /// The initial projector.
    first: ProjectorCut,
    weight: f64,
    /// Weight of `C` and ridge in the solve.
    solve: (f64, f64),
    /// `Z`, column by column.
    keys: Vec<f64>,
    space: TiltedSpace,
    par: Par,
}

/// A space between two refreshes, in terms of the keys that made it.
#[derive(Clone)]
struct TiltedSpace {
    X: Mat<f64>,
    N: Mat<f64>,
}

/// A refresh, computed before anything changes.
pub(super) struct TiltPlan {
    space: TiltedSpace,
    keys: Vec<f64>,
    /// `A` and `A (Psi' - Psi)`: the change of `Q` is their product.
    basis: Mat<f64>,
    change: Mat<f64>,
    pub(super) kept: usize,
}

impl Tilt {
    pub(super) fn new(first: &ProjectorCut, weight: f64, solve: (f64, f64), par: Par) -> Self {
        Self {
            first: first.clone(),
            weight,
            solve,
            keys: Vec::new(),
            space: TiltedSpace { X: Mat::zeros(0, 0), N: Mat::zeros(0, 0) },
            par,
        }
    }

    /// `w`: the weight of an edited key.
    pub(super) fn weight(&self) -> f64 {
        self.weight
    }

    /// Number of keys known to the last refresh.
    pub(super) fn len(&self) -> usize {
        self.keys.len() / self.first.dim
    }

    /// These keys, `d_in x t`.
    pub(super) fn keys(&self) -> Result<Mat<f64>> {
        let Z = MatRef::from_column_major_slice(&self.keys, self.first.dim, self.len());
        Ok(linalg::product(self.first.spectrum.get()?.vectors(), Z, self.par))
    }

    /// The space after `new` keys (`d_in x n`) have joined those of earlier refreshes.
    pub(super) fn plan(&self, new: MatRef<'_, f64>) -> Result<TiltPlan> {
        let (d, r, tau, par) = (self.first.dim, self.first.kept, self.first.threshold, self.par);
        let spectrum = self.first.spectrum.get()?;
        let (s, U) = (spectrum.values(), spectrum.vectors());
        let all = self.len().saturating_add(new.ncols());
        // Keys, scaled keys, the basis and its change; inner products of the keys, spaces, and `Psi`.
        let need = Need::new("a maximal refresh", d, all).matrix::<f64>(d, all.saturating_mul(8));
        need.matrix::<f64>(all, all.saturating_mul(24)).reserve()?;
        let coordinates = linalg::product(U.transpose(), new, par);
        let mut keys = Vec::with_capacity(self.keys.len() + d * new.ncols());
        keys.extend_from_slice(&self.keys);
        (0..new.ncols()).for_each(|j| keys.extend_from_slice(coordinates.col_as_slice(j)));
        let t = keys.len() / d;
        let (plus, minus) = (0..r, r..d);

        let (weight, ridge) = self.solve;
        let least = tolerance::HEADROOM * tau;
        let D = |i: usize| weight * s[i] + ridge;
        let E = |i: usize| (s[i] - tau).abs().max(least);
        let scaled = |rows: Range<usize>, scale: &dyn Fn(usize) -> f64| {
            let scale: Vec<f64> = rows.clone().map(scale).collect();
            let mut scaled = Mat::zeros(scale.len(), t);
            for (j, key) in keys.chunks_exact(d).enumerate() {
                let entries = key[rows.clone()].iter().zip(&scale).map(|(z, scale)| z * scale);
                scaled.col_as_slice_mut(j).iter_mut().zip(entries).for_each(|(to, z)| *to = z);
            }
            scaled
        };
        let gram = |rows: Range<usize>, scale: &dyn Fn(usize) -> f64| {
            let half = scaled(rows, &|i| scale(i).sqrt());
            linalg::self_outer(half.transpose(), par)
        };
        let small = Small {
            Gamma: gram(plus.clone(), &|i| 1.0 / D(i)),
            Theta: gram(minus.clone(), &|i| 1.0 / E(i)),
            Pi: gram(minus.clone(), &|i| D(i) / E(i).powi(2)),
            par,
        };
        let Omega = gram(plus.clone(), &|i| 1.0 / E(i));
        let space = self.space_of(&small.Theta, &Omega)?;
        let kept = r.saturating_sub(space.N.ncols());

        let difference = small.psi(&space)? - small.psi(&self.space.padded(t))?;
        let mut basis = Mat::zeros(d, 2 * t);
        let (left, right) = basis.as_mut().split_at_col_mut(t);
        let by_D = scaled(plus, &|i| 1.0 / D(i));
        let by_E = scaled(minus, &|i| 1.0 / E(i));
        linalg::matmul(left, Accum::Replace, U.subcols(0, r), by_D.as_ref(), 1.0, par);
        linalg::matmul(right, Accum::Replace, U.subcols(r, d - r), by_E.as_ref(), 1.0, par);
        let change = linalg::product(basis.as_ref(), difference.as_ref(), par);
        crate::util::validate::no_overflow("the refreshed space", change.as_ref())?;
        Ok(TiltPlan { space, keys, basis, change, kept })
    }

    /// Writes the state, bit for bit.
    pub(super) fn save(&self, out: &mut dyn Write) -> bytes::Result<()> {
        bytes::write_slice(out, &self.keys)?;
        bytes::write_matrix(out, self.space.X.as_ref())?;
        bytes::write_matrix(out, self.space.N.as_ref())
    }

    /// Loads a state of the same size that [`save`](Self::save) wrote. After an error the state is unspecified.
    pub(super) fn load(&mut self, from: &mut dyn Read) -> bytes::Result<()> {
        // The keys are replaced by their sum long before there are this many.
        let d = self.first.dim;
        self.keys = bytes::read_slice(from, d)?;
        let t = bytes::read_len(from, d)?;
        let mut X = Mat::zeros(t, bytes::read_len(from, d)?);
        bytes::read_columns(from, &mut X)?;
        let rows = bytes::read_len(from, d)?;
        let mut N = Mat::zeros(rows, bytes::read_len(from, d)?);
        bytes::read_columns(from, &mut N)?;
        if X.ncols() != t || rows != t || self.len() < t {
            return Err(bytes::invalid("the space does not match the keys"));
        }
        self.space = TiltedSpace { X, N };
        Ok(())
    }

    pub(super) fn carry_out(&mut self, plan: TiltPlan, Q: &mut InverseGram) {
        Q.add_product(plan.change.as_ref(), plan.basis.as_ref());
        (self.space, self.keys) = (plan.space, plan.keys);
    }

    fn space_of(&self, Theta: &Mat<f64>, Omega: &Mat<f64>) -> Result<TiltedSpace> {
        let (t, w, par) = (Theta.nrows(), self.weight, self.par);
        let S = Mat::from_fn(t, t, |i, j| f64::from(i == j) + w * Theta[(i, j)]);
        let L = factor(S, par)?;
        let mut inverse = Mat::<f64>::identity(t, t);
        solve_lower_triangular_in_place(L.as_ref(), inverse.as_mut(), par);
        let half = linalg::product(inverse.as_ref(), Omega.as_ref(), par);
        let B = linalg::product(half.as_ref(), inverse.transpose(), par);
        let B = Spectrum::from_symmetric("B", B * faer::Scale(w), par)?;
        let first = B.values().partition_point(|&beta| beta < 1.0 - tolerance::HEADROOM);
        let N = linalg::product(inverse.transpose(), B.vectors().subcols(first, t - first), par);
        Ok(TiltedSpace { X: linalg::self_outer(inverse.transpose(), par) * faer::Scale(w), N })
    }
}

impl TiltedSpace {
    /// The same space among `t` keys, of which it knows only the first.
    fn padded(&self, t: usize) -> Self {
        let pad = |matrix: &Mat<f64>, cols: usize| {
            Mat::from_fn(t, cols, |i, j| if i < matrix.nrows() && j < matrix.ncols() { matrix[(i, j)] } else { 0.0 })
        };
        Self { X: pad(&self.X, t), N: pad(&self.N, self.N.ncols()) }
    }
}

/// Inner products of the keys: `Gamma = Z₊ᵀ D₊⁻¹ Z₊`, `Theta = Z₋ᵀ E₋⁻¹ Z₋`, `Pi = Z₋ᵀ E₋⁻¹ D₋ E₋⁻¹ Z₋`.
struct Small {
    Gamma: Mat<f64>,
    Theta: Mat<f64>,
    Pi: Mat<f64>,
    par: Par,
}

impl Small {
    /// `Psi` of a space, with all keys in the history.
    fn psi(&self, space: &TiltedSpace) -> Result<Mat<f64>> {
        let (t, par) = (self.Gamma.nrows(), self.par);
        let product = |a: &Mat<f64>, b: &Mat<f64>| linalg::product(a.as_ref(), b.as_ref(), par);
        let identity = Mat::<f64>::identity(t, t);
        let (X, N, Gamma) = (&space.X, &space.N, &self.Gamma);
        // On x₊ the history is Z₊ W Z₊ᵀ, with the tilt folded in.
        let seen = &identity - product(&self.Theta, X);
        let mut W = product(X, &product(&self.Pi, X)) + linalg::self_outer(seen.transpose(), par);
        // If keys lie nearly in one direction, what is left may be rounding alone, of either sign.
        let rounding = 2.0 * tolerance::singular(t) * W.norm_max();
        (0..t).for_each(|i| W[(i, i)] += rounding);
        let root = factor(W, par)?;
        let inner = linalg::product(root.transpose(), product(Gamma, &root).as_ref(), par) + &identity;
        let mut Phi = over(inner, &root, par)?;
        if N.ncols() > 0 {
            let p = N - product(&Phi, &product(Gamma, N));
            let left = linalg::product(N.transpose(), product(Gamma, &p).as_ref(), par);
            Phi += over(left, &p, par)?;
        }
        let rest = &identity - product(&Phi, Gamma);
        let right = linalg::product(rest.as_ref(), X.transpose(), par);
        let last = product(X, &product(Gamma, &right));
        Ok(Mat::from_fn(2 * t, 2 * t, |i, j| match (i < t, j < t) {
            (true, true) => -Phi[(i, j)],
            (true, false) => -right[(i, j - t)],
            (false, true) => -right[(j, i - t)],
            (false, false) => last[(i - t, j - t)],
        }))
    }
}

/// The Cholesky factor of a positive definite `G`.
fn factor(G: Mat<f64>, par: Par) -> Result<Mat<f64>> {
    let singular = |pivot| NumericsError::Singular {
        pivot: Some(pivot),
        step: "the refreshed space",
        advice: "use a larger ridge (`lambda2` of some methods), or a refresh by eigendecomposition (`RefreshRule::Full`)",
    };
    let floors: Vec<f64> = (0..G.nrows()).map(|i| tolerance::singular(G.nrows()) * G[(i, i)]).collect();
    linalg::cholesky(G, &floors, singular, par)
}

/// `B G⁻¹ Bᵀ` for a positive definite `G`.
fn over(G: Mat<f64>, B: &Mat<f64>, par: Par) -> Result<Mat<f64>> {
    let L = factor(G, par)?;
    let mut half = B.clone();
    solve_lower_triangular_in_place(L.as_ref(), half.as_mut().transpose_mut(), par);
    Ok(linalg::self_outer(half.as_ref(), par))
}
