//! Changes of state: keys join or leave the history, directions are constrained.

use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Mat, MatRef};

use super::InverseGram;
use super::solution::{Product, Solution, Workspace};
use super::unsettled::Fate;
use crate::error::numerics::{NumericsError, Result};
use crate::linalg::symmetric::{BLOCK, Sign};
use crate::linalg::{self, tolerance};
use crate::scalar::{Scalar, cast};
use crate::spectrum::Spectrum;
use crate::util::validate;

/// Directions to remove from the space: unit vectors `N`, and `F` with `F Fᵀ = Q N (Nᵀ Q N)⁺ Nᵀ Q`.
#[derive(Clone)]
pub(crate) struct Constraint {
    N: Mat<f64>,
    factor: Mat<f64>,
}

impl InverseGram {
    /// Adds keys to the history: `A <- A + K Kᵀ`.
    ///
    /// # Errors
    /// As [`solve`](Self::solve). On error, nothing is changed.
    pub fn absorb<T: Scalar>(&mut self, keys: MatRef<'_, T>) -> Result<()> {
        let solution = self.solve(keys)?;
        self.absorb_solution(&solution)
    }

    /// As [`absorb`](Self::absorb), from a solution that was found for these keys in the present state. This saves the
    /// second product.
    ///
    /// # Errors
    /// [`NumericsError::StaleProposal`] if the state has changed since, or if the solution belongs to another engine.
    pub fn absorb_solution(&mut self, solution: &Solution) -> Result<()> {
        self.check_fresh(solution)?;
        self.join(solution, solution.factor.as_ref(), Fate::Absorbed);
        Ok(())
    }

    /// As [`absorb_solution`](Self::absorb_solution), for a single `f64` key that is constrained as well. The two
    /// changes together are one column, `Q - z zᵀ / g`.
    ///
    /// # Errors
    /// As [`absorb_solution`](Self::absorb_solution).
    pub(crate) fn remove_solution(&mut self, solution: &Solution) -> Result<()> {
        self.check_fresh(solution)?;
        let (k, g) = (solution.keys.as_ref(), solution.gains[0]);
        let rounding = f64::EPSILON * self.largest * k.squared_norm_l2();
        if g > tolerance::CONSTRAINED * rounding {
            let factor = &solution.factor * faer::Scale(((1.0 + g) / g).sqrt());
            self.join(solution, factor.as_ref(), Fate::Removed);
        } else {
            // The key has no component left in the space.
            self.join(solution, solution.factor.as_ref(), Fate::Absorbed);
        }
        Ok(())
    }

    fn check_fresh(&self, solution: &Solution) -> Result<()> {
        let fresh = solution.token.as_ref() == Some(&self.token);
        if fresh { Ok(()) } else { Err(NumericsError::StaleProposal) }
    }

    /// `Q <- Q - F Fᵀ`, according to the fate of the solution's keys.
    fn join(&mut self, solution: &Solution, F: MatRef<'_, f64>, fate: Fate) {
        let n = solution.keys.ncols();
        if solution.product == Product::Rounded || !self.unsettled.is_empty() {
            if n <= BLOCK {
                if !self.Q.has_room_for(n) {
                    self.settle_if_it_shows();
                }
                self.push(F, Sign::Minus);
                self.unsettled.keys.extend(solution.keys.col_iter().flat_map(|key| key.iter().copied()));
                self.unsettled.fates.extend(std::iter::repeat_n(fate, n));
                self.unsettled.strong |= solution.product == Product::Exact && fate == Fate::Absorbed;
                return;
            }
            self.settle();
            let settled = self.solve(solution.keys.as_ref());
            self.push(settled.as_ref().map_or(F, |settled| settled.factor.as_ref()), Sign::Minus);
        } else {
            self.push(F, Sign::Minus);
        }
        match fate {
            Fate::Absorbed => self.probe.absorb(solution.keys.as_ref(), 1.0),
            Fate::Removed => self.probe.change(F, F, -1.0),
        }
    }

    /// Removes keys from the history: `A <- A - K Kᵀ`. This reverses [`absorb`](Self::absorb) up to rounding, in any
    /// order.
    ///
    /// Release only keys that are in the history. For other keys the result is meaningless, even where no error is
    /// reported.
    ///
    /// # Errors
    /// As [`solve`](Self::solve), and [`NumericsError::Singular`] if a pivot of `I - G` is not above 10⁴ times its
    /// rounding error. Then the keys are not in the history, or too little of them is left: a key with `s = kᵀ A⁻¹ k`
    /// leaves the share `1 / (1 + s)` of itself in `Q`, and the relative error after its release is about `1e-16 s²`.
    /// In `f64` a key can be released up to `s` of about 10⁵. On error, nothing is changed.
    pub fn release<T: Scalar>(&mut self, keys: MatRef<'_, T>) -> Result<()> {
        self.settle();
        let mut workspace = Workspace::default();
        self.multiply(keys, &mut workspace)?;
        let G = self.gram(&workspace)?;
        let n = G.nrows();
        let floors: Vec<f64> = self.rounding(&workspace.keys).map(|rounding| 1e4 * rounding).collect();
        let singular = |pivot| NumericsError::Singular {
            pivot: Some(pivot),
            step: "releasing keys, I - Kᵀ Q K",
            advice: "release only keys that were absorbed, each once; if they were absorbed, their norm is too large for \
                     the precision: start with a larger ridge (`lambda2` of some methods)",
        };
        let system = Mat::from_fn(n, n, |i, j| f64::from(i == j) - (0.5 * G[(i, j)] + 0.5 * G[(j, i)]));
        let L = linalg::cholesky(system, &floors, singular, self.Q.par())?;
        let mut factor = workspace.Z;
        solve_lower_triangular_in_place(L.as_ref(), factor.as_mut().transpose_mut(), self.Q.par());
        // `Q` grows by `F Fᵀ`, whose entries are at most its trace.
        let grown = factor.squared_norm_l2() + self.largest;
        validate::in_range("releasing keys", &[grown])?;
        self.largest = grown.min(self.limit);
        self.push(factor.as_ref(), Sign::Plus);
        self.probe.absorb(workspace.keys.as_ref(), -1.0);
        Ok(())
    }

    /// Constrains directions: `Q N = 0` from now on, for the columns of `N` (`d_in x m`, of any length; they may be
    /// linearly dependent, or constrained already).
    ///
    /// Later edits write nothing along these directions, and no later [`release`](Self::release) brings them back.
    /// Directions that differ by less than 1e-7 count as one.
    ///
    /// # Errors
    /// Wrong shape, empty, NaN, overflow. On error, nothing is changed.
    pub fn constrain<T: Scalar>(&mut self, directions: MatRef<'_, T>) -> Result<()> {
        validate::columns("directions", directions, self.dim())?;
        validate::finite("directions", directions)?;
        self.settle();
        let N = normalised(directions);
        let QN = self.product(N.as_ref())?;
        validate::no_overflow("constraining directions", QN.as_ref())?;
        if let Some(factor) = self.constraint(N.as_ref(), QN.as_ref())? {
            self.subtract(factor.as_ref());
        }
        Ok(())
    }

    /// The constraint on the combinations `K Y` of a solution's keys, for the state after the solution is absorbed.
    pub(crate) fn constraint_after(&self, solution: &Solution, Y: MatRef<'_, f64>) -> Result<Option<Constraint>> {
        let (F, par) = (solution.factor.as_ref(), self.Q.par());
        let mut N = linalg::product(solution.keys.as_ref(), Y, par);
        let QN = self.product(N.as_ref())?
            - linalg::product(F, linalg::product(F.transpose(), N.as_ref(), par).as_ref(), par);
        // Scale the directions to unit length.
        let lengths = linalg::column_norms(N.as_ref());
        let scaled = |columns: &Mat<f64>| {
            Mat::from_fn(columns.nrows(), columns.ncols(), |i, j| columns[(i, j)] / lengths[j].max(f64::MIN_POSITIVE))
        };
        let QN = scaled(&QN);
        N = scaled(&N);
        let factor = self.constraint(N.as_ref(), QN.as_ref())?;
        Ok(factor.map(|factor| Constraint { N, factor }))
    }

    /// Applies a constraint that [`constraint_after`](Self::constraint_after) found.
    pub(crate) fn take(&mut self, constraint: &Constraint) {
        // A constraint from a rounded product is computed again.
        if self.unsettled.is_empty() || self.constrain(constraint.N.as_ref()).is_err() {
            self.subtract(constraint.factor.as_ref());
        }
    }

    /// `F` with `F Fᵀ = Q N (Nᵀ Q N)⁺ Nᵀ Q` for unit columns `N`; `None` if `Q N` is zero up to rounding.
    fn constraint(&self, N: MatRef<'_, f64>, QN: MatRef<'_, f64>) -> Result<Option<Mat<f64>>> {
        let S = linalg::product(N.transpose(), QN, self.Q.par());
        // `nᵀ Q n` is accurate to the rounding of `|Q n|`; a direction below that is constrained already.
        let rounding = tolerance::CONSTRAINED * f64::EPSILON;
        let norms = linalg::column_norms(QN);
        validate::in_range("constraining directions", &norms)?;
        let free = |j: usize| S[(j, j)] > rounding * norms[j];
        let free: Vec<usize> = (0..N.ncols()).filter(|&j| free(j)).collect();
        if free.is_empty() {
            return Ok(None);
        }
        // Scaled to a unit diagonal, so that all directions weigh the same. Small eigenvalues mean linear dependence.
        let scale = |i: usize| 1.0 / S[(free[i], free[i])].sqrt();
        let m = free.len();
        let scaled = Mat::from_fn(m, m, |i, j| S[(free[i], free[j])] * scale(i) * scale(j));
        let spectrum = Spectrum::from_symmetric("Nᵀ Q N", scaled, self.Q.par())?;
        let first = spectrum.values().partition_point(|&s| s <= rounding * m as f64);
        let mut root = Mat::zeros(N.ncols(), m - first);
        for (i, &row) in free.iter().enumerate() {
            for j in first..m {
                root[(row, j - first)] = scale(i) * spectrum.vectors()[(i, j)] / spectrum.values()[j].sqrt();
            }
        }
        let factor = linalg::product(QN, root.as_ref(), self.Q.par());
        validate::no_overflow("constraining directions", factor.as_ref())?;
        Ok(Some(factor))
    }

    fn subtract(&mut self, factor: MatRef<'_, f64>) {
        self.settle();
        self.push(factor, Sign::Minus);
        self.probe.change(factor, factor, -1.0);
    }

    /// `Q <- Q + A Bᵀ`, for a symmetric product.
    pub(crate) fn add_product(&mut self, A: MatRef<'_, f64>, B: MatRef<'_, f64>) {
        self.settle_if_it_shows();
        self.Q.add_product(A, B, 1.0);
        self.probe.change(A, B, 1.0);
        self.token.advance();
    }

    pub(super) fn push(&mut self, F: MatRef<'_, f64>, sign: Sign) {
        self.Q.push(F, sign);
        self.token.advance();
    }
}

/// The columns, scaled to unit length.
fn normalised<T: Scalar>(columns: MatRef<'_, T>) -> Mat<f64> {
    let mut N = cast::<T, f64>(columns);
    for (column, norm) in N.col_iter_mut().zip(linalg::column_norms(columns)) {
        if norm > 0.0 {
            column.iter_mut().for_each(|x| *x /= norm);
        }
    }
    N
}
