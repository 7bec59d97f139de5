//! The engine: an inverse that is updated, never recomputed.

mod drift;
mod rounding;
mod solution;

pub use solution::{Solution, Workspace};

use std::io::{Read, Write};

use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{Accum, Mat, MatRef, Par};

use drift::Probe;
use rounding::{Fate, Unsettled};
use solution::Product;

use crate::batch::Order;
use crate::error::{EditError, Result};
use crate::linalg::symmetric::{BLOCK, Sign, Symmetric};
use crate::linalg::{self, tolerance};
use crate::projector::{Projector, singular_start};
use crate::scalar::{Scalar, cast};
use crate::spectrum::Spectrum;
use crate::util::{bytes, validate};

/// `Q = V (Vᵀ A V + lambda2 I)⁻¹ Vᵀ`, the inverse of the protected Gram matrix `A` on the space that may be edited.
///
/// `Q` (`d_in x d_in`) is symmetric, positive semidefinite, and its range lies inside the range of `V`. It is the only
/// state of size `d_in²` that editing needs. Every closed-form editor of the field is
///
/// ```text
/// Delta = R (I + G)⁻¹ Zᵀ,    Z = Q K,    G = Kᵀ Z
/// ```
///
/// on some `Q`, and every event in an editor's life is a low-rank change of `Q`:
///
/// | event | change | method |
/// |---|---|---|
/// | keys join the history, `A + K Kᵀ` | `Q - Z (I + G)⁻¹ Zᵀ` | [`absorb`](Self::absorb) |
/// | keys leave it, `A - K Kᵀ` | `Q + Z (I - G)⁻¹ Zᵀ` | [`release`](Self::release) |
/// | directions become untouchable | `Q - Q N (Nᵀ Q N)⁺ Nᵀ Q` | [`constrain`](Self::constrain) |
///
/// Changes are kept as pending factors and folded in by one matrix product when 64 columns have gathered. This is
/// recursive least squares.
///
/// # Precision and memory
/// `Q` is `f64` whatever the keys are, and only its lower triangle is stored: `4 d_in²` bytes, what a full matrix of
/// `f32` takes, and as many to read for a product. So an engine that runs for 10,000 edits does not drift as one in
/// `f32` would, at the same cost.
///
/// # Examples
/// ```
/// use betaedit_core::{InverseGram, faer::{mat, Par}};
///
/// let k = mat![[1.0_f64], [2.0]];
/// let mut Q = InverseGram::isotropic(2, 5.0, Par::Seq)?; // (5 I)⁻¹
/// Q.absorb(k.as_ref())?; //                                 (5 I + k kᵀ)⁻¹
/// assert!((Q.dense()[(0, 0)] - 0.18).abs() < 1e-15);
/// Q.release(k.as_ref())?; //                                as if it had never been
/// assert!((Q.dense()[(0, 0)] - 0.2).abs() < 1e-15);
/// # Ok::<(), betaedit_core::EditError>(())
/// ```
#[derive(Clone, Debug)]
pub struct InverseGram {
    Q: Symmetric,
    /// Largest eigenvalue that `Q` can have: what its rounding errors are relative to.
    largest: f64,
    /// Counts the changes, so that a solution knows the state it was found in.
    revision: u64,
    /// As of before the unsettled keys.
    probe: Probe,
    unsettled: Unsettled,
}

/// Directions that are taken from the space: `N` at unit length, and `F` with `F Fᵀ = Q N (Nᵀ Q N)⁺ Nᵀ Q`.
#[derive(Clone, Debug)]
pub(crate) struct Constraint {
    N: Mat<f64>,
    factor: Mat<f64>,
}

/// Keys of a batch up to which so many products with the rounded copy of `Q` are faster than one with `Q`, which is bound by
/// arithmetic.
const ONE_BY_ONE: usize = 8;

const START: &str = "the inverse Gram matrix";

/// The small system `I + G = L Lᵀ` of a batch, and `F = Z L⁻ᵀ`.
struct Factored {
    G: Mat<f64>,
    L: Mat<f64>,
    factor: Mat<f64>,
    product: Product,
}

impl InverseGram {
    /// `Q = V diag(1 / (weight s_i + ridge)) Vᵀ`: the start of every method, where `A = weight C` is diagonal in the
    /// eigenbasis that the projector was cut from.
    ///
    /// * `projector`: cut from the spectrum of `C` itself, not from a refreshed one
    /// * `weight`: `lambda` of MEMIT, `lambda1` of BetaEdit, 0 for AlphaEdit
    /// * `ridge`: `lambda2`
    ///
    /// Cost: `d_in² r` flops, and `d_in r` numbers of workspace.
    ///
    /// # Errors
    /// Negative or non-finite numbers; [`EditError::Singular`] if `weight s_i + ridge` is zero to working precision
    /// for a kept direction.
    pub fn diagonal(projector: &Projector, weight: f64, ridge: f64, par: Par) -> Result<Self> {
        let A = projector.protection(weight, ridge)?;
        let smallest = A.iter().copied().fold(f64::INFINITY, f64::min);
        let V = projector.basis();
        let root = Mat::from_fn(V.nrows(), V.ncols(), |i, j| V[(i, j)] / A[j].sqrt());
        Self::of_root(&root, 1.0 / smallest, par)
    }

    /// `Q = V (Vᵀ A V + ridge I)⁻¹ Vᵀ` for any symmetric positive semidefinite `A` (`d_in x d_in`), the start after a
    /// full refresh. Cost: about `6 d_in² r` flops and an `r x r` Cholesky factorisation.
    ///
    /// # Errors
    /// Wrong shapes, NaN; [`EditError::Singular`] if `Vᵀ A V + ridge I` is not positive definite.
    pub fn new(projector: &Projector, A: MatRef<'_, f64>, ridge: f64, par: Par) -> Result<Self> {
        validate::shape("A", A, projector.dim(), projector.dim())?;
        validate::finite("A", A)?;
        validate::symmetric("A", A, tolerance::SYMMETRY)?;
        validate::non_negative("ridge", ridge)?;
        let V = projector.basis();
        let AV = linalg::product(A, V, par);
        let mut S = linalg::product(V.transpose(), AV.as_ref(), par);
        drop(AV);
        let n = S.nrows();
        for i in 0..n {
            S[(i, i)] += ridge;
        }
        validate::no_overflow("the protected Gram matrix", S.as_ref())?;
        let floors: Vec<f64> = diagonal(&S).into_iter().map(|entry| tolerance::singular(n) * entry).collect();
        let L = linalg::cholesky(S, &floors, singular_start, par)?;
        // Rows of L⁻¹ Vᵀ: Q = (L⁻¹ Vᵀ)ᵀ (L⁻¹ Vᵀ), a product of a matrix with itself, so symmetric and semidefinite.
        let mut root = V.to_owned();
        solve_lower_triangular_in_place(L.as_ref(), root.as_mut().transpose_mut(), par);
        // The trace bounds the largest eigenvalue, and so does the ridge, also after keys are released.
        let largest = if ridge > 0.0 { 1.0 / ridge } else { root.squared_norm_l2() };
        Self::of_root(&root, largest, par)
    }

    /// `Q = I / a` on all of `d_in` dimensions.
    ///
    /// # Errors
    /// `d_in = 0`, or an `a` that is not a positive number.
    pub fn isotropic(d_in: usize, a: f64, par: Par) -> Result<Self> {
        validate::positive("a", a)?;
        if d_in == 0 {
            return Err(EditError::Empty { argument: "d_in" });
        }
        validate::in_range(START, &[1.0 / a])?;
        Ok(Self::started(Symmetric::identity(d_in, 1.0 / a, par)?, 1.0 / a))
    }

    /// Keeps a copy of `Q` in `f32` beside it, `2 d_in²` bytes, from which [`solve`](Self::solve) multiplies keys of `f32`, up to
    /// eight of them, one by one: half the bytes of a pass, so twice as fast.
    ///
    /// Directions are then right to about `1e-7`, as they are when they are rounded to `f32`. A key for which that would not
    /// do (`s` large, or hardly in the space) is multiplied once more, with `Q` itself; a block of pending factors with such a
    /// key is computed again in `f64` from its keys before it is folded, as it is before anything but an absorption. Else
    /// the rounding stays: 2e-7 of the state after 10,000 edits (test `endurance`), and [`drift`](Self::drift) measures it.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn with_rounded_copy(mut self) -> Result<Self> {
        self.Q.keep_rounded(self.largest)?;
        self.unsettled.keys.reserve(BLOCK * self.dim());
        self.unsettled.fates.reserve(BLOCK);
        Ok(self)
    }

    fn started(Q: Symmetric, largest: f64) -> Self {
        Self { probe: Probe::new(&Q), Q, largest, revision: 1, unsettled: Unsettled::default() }
    }

    fn of_root(root: &Mat<f64>, largest: f64, par: Par) -> Result<Self> {
        validate::in_range(START, &[largest])?;
        let Q = Symmetric::of_root(root.as_ref(), par)?;
        if Q.is_finite() {
            Ok(Self::started(Q, largest))
        } else {
            Err(EditError::Overflow { step: START, scalar: f64::NAME })
        }
    }

    /// Length of the keys, `d_in`.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.Q.dim()
    }

    /// `Z = Q K` for `d_in x n` keys. Cost: one pass over `Q` and the pending block.
    ///
    /// # Errors
    /// Wrong shape.
    pub fn product<T: Scalar>(&self, keys: MatRef<'_, T>) -> Result<Mat<f64>> {
        validate::shape("keys", keys, self.dim(), keys.ncols())?;
        validate::finite("keys", keys)?;
        let mut Z = Mat::new();
        self.Q.product(cast::<T, f64>(keys).as_ref(), &mut Z, &mut Default::default());
        Ok(Z)
    }

    /// Solves for a batch of keys that are written together; changes nothing.
    ///
    /// * `keys`: `d_in x n`, any `n` of at least 1, also above `d_in`
    ///
    /// Cost: one pass over `Q`, `O(d_in n²)`, and an `n x n` Cholesky factorisation.
    ///
    /// # Errors
    /// Wrong shape, empty batch, NaN, and [`EditError::Overflow`] if finite keys lead beyond the range of `f64`.
    pub fn solve<T: Scalar>(&self, keys: MatRef<'_, T>) -> Result<Solution> {
        let mut solution = Solution::default();
        self.solve_into(keys, &mut solution, &mut Workspace::default())?;
        Ok(solution)
    }

    /// As [`solve`](Self::solve), into memory that is used again: for single keys, nothing is allocated from the second
    /// call on.
    ///
    /// # Errors
    /// As [`solve`](Self::solve); what is in `solution` then means nothing.
    pub fn solve_into<T: Scalar>(
        &self,
        keys: MatRef<'_, T>,
        solution: &mut Solution,
        workspace: &mut Workspace,
    ) -> Result<()> {
        // Until it is whole, a solution belongs to no state.
        solution.revision = 0;
        if keys.ncols() == 1 {
            solution.product = self.multiply_single(keys, workspace)?;
            self.single(workspace, solution)?;
            solution.revision = self.revision;
            return Ok(());
        }
        let Factored { G, L, factor, product } = self.factored(keys, workspace)?;
        let mut directions = factor.clone();
        solve_upper_triangular_in_place(L.transpose(), directions.as_mut().transpose_mut(), self.Q.par());
        *solution = self.found(workspace, directions, factor, diagonal(&G), product)?;
        Ok(())
    }

    /// Solves for keys that are written **one after the other**, each protected from those behind it: the same numbers
    /// as [`solve`](Self::solve) and [`absorb`](Self::absorb) column by column, at matrix-product speed, because the
    /// Cholesky factorisation of `I + G` runs through the same elimination.
    ///
    /// The directions are those of single edits, so the residual of column `t` may be computed when columns `0..t` are
    /// written already.
    ///
    /// # Errors
    /// As [`solve`](Self::solve).
    pub fn solve_in_sequence<T: Scalar>(&self, keys: MatRef<'_, T>) -> Result<Solution> {
        let mut workspace = Workspace::default();
        let Factored { G, L, factor, product } = self.factored(keys, &mut workspace)?;
        let directions = Mat::from_fn(factor.nrows(), factor.ncols(), |i, t| factor[(i, t)] / L[(t, t)]);
        let gains = (0..G.nrows()).map(|t| L[(t, t)] * L[(t, t)] - 1.0).collect();
        self.found(&mut workspace, directions, factor, gains, product)
    }

    /// As [`solve`](Self::solve), for `Delta = R (G + e I)⁻¹ Zᵀ`: with `e < 1` the residuals are met more closely than by least
    /// squares, with `e = 0` exactly.
    ///
    /// # Errors
    /// As [`solve`](Self::solve), a negative `e`, and [`EditError::Singular`] if `e` is so small that keys which are dependent, or
    /// outside of the space, ask for the impossible.
    ///
    /// ```
    /// use betaedit_core::{InverseGram, faer::{mat, Par}};
    /// let Q = InverseGram::isotropic(2, 5.0, Par::Seq)?;
    /// let k = mat![[1.0], [2.0]];
    /// let exact = Q.solve_with_slack(k.as_ref(), 0.0)?; // Delta k = r, for any r
    /// assert!(((k.transpose() * exact.directions())[(0, 0)] - 1.0).abs() < 1e-15);
    /// # Ok::<(), betaedit_core::EditError>(())
    /// ```
    pub fn solve_with_slack<T: Scalar>(&self, keys: MatRef<'_, T>, slack: f64) -> Result<Solution> {
        let mut solution = self.solve(keys)?;
        self.set_slack(&mut solution, slack, Order::Together)?;
        Ok(solution)
    }

    /// Turns the directions of a least squares solution into those with another slack: of the batch as a whole, or column by
    /// column. With `D = Z (I + G)⁻¹` and `B = Kᵀ D = G (I + G)⁻¹`, `Z (G + e I)⁻¹ = D (e I + (1 - e) B)⁻¹`.
    pub(crate) fn set_slack(&self, solution: &mut Solution, slack: f64, order: Order) -> Result<()> {
        validate::non_negative("slack", slack)?;
        if slack == 1.0 {
            return Ok(());
        }
        let singular = || EditError::Singular {
            step: "the small system Kᵀ Q K + e I",
            advice: "the residuals cannot be met so closely: keys of the batch are dependent, or (nearly) outside of the \
                     space that may be edited; allow more slack, or merge the edits",
        };
        let n = solution.keys.ncols();
        let floors: Vec<f64> = self.rounding(&solution.keys).map(|rounding| 1e3 * rounding).collect();
        if order == Order::InSequence || n == 1 {
            for (j, floor) in floors.into_iter().enumerate() {
                let (k, d) = (solution.keys.col_as_slice(j), solution.directions.col_as_slice_mut(j));
                let met: f64 = k.iter().zip(&*d).map(|(k, d)| k * d).sum();
                let divisor = slack + (1.0 - slack) * met;
                if !(divisor > floor) {
                    return Err(singular());
                }
                d.iter_mut().for_each(|d| *d /= divisor);
            }
        } else {
            let B = linalg::product(solution.keys.transpose(), solution.directions.as_ref(), self.Q.par());
            let mean = |i, j| 0.5 * B[(i, j)] + 0.5 * B[(j, i)];
            let system = Mat::from_fn(n, n, |i, j| (1.0 - slack) * mean(i, j) + if i == j { slack } else { 0.0 });
            let L = linalg::cholesky(system, &floors, singular, self.Q.par())?;
            let mut rows = solution.directions.as_mut().transpose_mut();
            solve_lower_triangular_in_place(L.as_ref(), rows.as_mut(), self.Q.par());
            solve_upper_triangular_in_place(L.transpose(), rows, self.Q.par());
        }
        validate::no_overflow("the solution of the edit", solution.directions.as_ref())
    }

    /// Solves for keys that know nothing of each other: every column as if it were alone.
    ///
    /// # Errors
    /// As [`solve`](Self::solve).
    pub fn solve_each<T: Scalar>(&self, keys: MatRef<'_, T>) -> Result<Solution> {
        let mut workspace = Workspace::default();
        self.multiply(keys, &mut workspace)?;
        let G = self.gram(&workspace)?;
        let gains = diagonal(&G);
        let directions = Mat::from_fn(self.dim(), keys.ncols(), |i, t| workspace.Z[(i, t)] / (1.0 + gains[t]));
        let (factor, _) = self.factor(&workspace, &G, |_| Fate::Absorbed)?;
        self.found(&mut workspace, directions, factor, gains, Product::Exact)
    }

    /// What was found for the keys in the workspace, which are moved out.
    fn found(
        &self,
        workspace: &mut Workspace,
        directions: Mat<f64>,
        factor: Mat<f64>,
        gains: Vec<f64>,
        product: Product,
    ) -> Result<Solution> {
        validate::no_overflow("the solution of the edit", directions.as_ref())?;
        let keys = std::mem::replace(&mut workspace.keys, Mat::new());
        Ok(Solution { keys, directions, factor, gains, revision: self.revision, product })
    }

    /// The keys join the history: `A <- A + K Kᵀ`.
    ///
    /// # Errors
    /// As [`solve`](Self::solve); nothing is changed then.
    pub fn absorb<T: Scalar>(&mut self, keys: MatRef<'_, T>) -> Result<()> {
        let solution = self.solve(keys)?;
        self.absorb_solution(&solution)
    }

    /// As [`absorb`](Self::absorb), with the solution that was found for these keys in this very state: no second
    /// product.
    ///
    /// # Errors
    /// [`EditError::StaleUpdate`] if the state has changed since, or if the solution was found for another size.
    pub fn absorb_solution(&mut self, solution: &Solution) -> Result<()> {
        self.check_fresh(solution)?;
        self.join(solution, solution.factor.as_ref(), Fate::Absorbed);
        Ok(())
    }

    /// As [`absorb_solution`](Self::absorb_solution) for a single key of `f64` that becomes untouchable as well. Both
    /// together are one column, `Q - z zᵀ / g`.
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
            // Nothing of it is left in the space.
            self.join(solution, solution.factor.as_ref(), Fate::Absorbed);
        }
        Ok(())
    }

    fn check_fresh(&self, solution: &Solution) -> Result<()> {
        let fresh = solution.revision == self.revision && solution.factor.nrows() == self.dim();
        if fresh { Ok(()) } else { Err(EditError::StaleUpdate) }
    }

    /// `Q <- Q - F Fᵀ`, for what becomes of the keys of a solution.
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

    /// Computes the pending factors that came from rounded products again, from their keys and with `Q` itself, so that
    /// their rounding does not become part of the state. Should that be impossible, they stay as they are.
    fn settle(&mut self) {
        if self.unsettled.is_empty() {
            return;
        }
        let Ok(factor) = self.settled_factor() else { return self.leave_unsettled() };
        self.Q.replace_last(factor.as_ref());
        self.probe.follow(&self.unsettled, |i| factor.as_ref().subcols(i, 1));
        self.forget_unsettled();
    }

    /// At the price of half a pass for each key, so only where the rounding shows.
    fn settle_if_it_shows(&mut self) {
        if self.unsettled.strong { self.settle() } else { self.leave_unsettled() }
    }

    /// Lets the pending factors stay as they are, with their rounding.
    fn leave_unsettled(&mut self) {
        let Self { Q, probe, unsettled, .. } = self;
        probe.follow(unsettled, |i| unsettled.column(Q, i));
        self.forget_unsettled();
    }

    fn forget_unsettled(&mut self) {
        self.unsettled.keys.clear();
        self.unsettled.fates.clear();
        self.unsettled.strong = false;
    }

    /// The probe after the unsettled keys.
    fn present_probe(&self) -> Probe {
        let mut probe = self.probe.clone();
        probe.follow(&self.unsettled, |i| self.unsettled.column(&self.Q, i));
        probe
    }

    fn settled_factor(&self) -> Result<Mat<f64>> {
        let (keys, par) = (self.unsettled.as_mat(self.dim()), self.Q.par());
        let mut workspace = Workspace::default();
        self.multiply(keys, &mut workspace)?;
        let rounded = self.Q.last(keys.ncols());
        let coordinates = linalg::product(rounded.transpose(), keys, par);
        linalg::matmul(workspace.Z.as_mut(), Accum::Add, rounded, coordinates.as_ref(), 1.0, par);
        let G = self.gram(&workspace)?;
        Ok(self.factor(&workspace, &G, |i| self.unsettled.fates[i])?.0)
    }

    /// `F` with `F Fᵀ` what constraining the combinations `K Y` of a solution's keys will take from the state that absorbing
    /// it leads to.
    pub(crate) fn constraint_after(&self, solution: &Solution, Y: MatRef<'_, f64>) -> Result<Option<Constraint>> {
        let (F, par) = (solution.factor.as_ref(), self.Q.par());
        let mut N = linalg::product(solution.keys.as_ref(), Y, par);
        let QN = self.product(N.as_ref())?
            - linalg::product(F, linalg::product(F.transpose(), N.as_ref(), par).as_ref(), par);
        // As directions, at unit length.
        let lengths = linalg::column_norms(N.as_ref());
        let scaled = |columns: &Mat<f64>| {
            Mat::from_fn(columns.nrows(), columns.ncols(), |i, j| columns[(i, j)] / lengths[j].max(f64::MIN_POSITIVE))
        };
        let QN = scaled(&QN);
        N = scaled(&N);
        let factor = self.constraint(N.as_ref(), QN.as_ref())?;
        Ok(factor.map(|factor| Constraint { N, factor }))
    }

    /// Takes away what [`constraint_after`](Self::constraint_after) found.
    pub(crate) fn take(&mut self, constraint: &Constraint) {
        // Found with a rounded product, it is found again.
        if self.unsettled.is_empty() || self.constrain(constraint.N.as_ref()).is_err() {
            self.subtract(constraint.factor.as_ref());
        }
    }

    fn subtract(&mut self, factor: MatRef<'_, f64>) {
        self.settle();
        self.push(factor, Sign::Minus);
        self.probe.change(factor, factor, -1.0);
    }

    /// `Q <- Q + A Bᵀ` for a product that is symmetric.
    pub(crate) fn add_product(&mut self, A: MatRef<'_, f64>, B: MatRef<'_, f64>) {
        self.settle_if_it_shows();
        self.Q.add_product(A, B, 1.0);
        self.probe.change(A, B, 1.0);
        self.revision += 1;
    }

    fn push(&mut self, F: MatRef<'_, f64>, sign: Sign) {
        self.Q.push(F, sign);
        self.revision += 1;
    }

    /// The keys leave the history: `A <- A - K Kᵀ`, the exact reverse of [`absorb`](Self::absorb), in any order.
    ///
    /// Only keys that are in the history may be released; for others the result is meaningless even where no error
    /// can be seen.
    ///
    /// # Errors
    /// As [`solve`](Self::solve), and [`EditError::Singular`] if `I - G` is not positive, which means that the keys are
    /// not in the history, or not so by more than 10⁴ times its rounding: a key of huge `s = kᵀ A⁻¹ k` leaves
    /// `1 / (1 + s)` of itself in `Q`, and the relative error of what comes back is about `1e-16 s²`. In `f64` a key
    /// can be released up to `s` of about 10⁵. Nothing is changed then.
    pub fn release<T: Scalar>(&mut self, keys: MatRef<'_, T>) -> Result<()> {
        self.settle();
        let mut workspace = Workspace::default();
        self.multiply(keys, &mut workspace)?;
        let G = self.gram(&workspace)?;
        let n = G.nrows();
        let floors: Vec<f64> = self.rounding(&workspace.keys).map(|rounding| 1e4 * rounding).collect();
        let singular = || EditError::Singular {
            step: "releasing keys, I - Kᵀ Q K",
            advice: "release only keys that were absorbed, each once; if they were, their norm is too large for the \
                     precision: use a larger lambda2",
        };
        let system = Mat::from_fn(n, n, |i, j| f64::from(i == j) - (0.5 * G[(i, j)] + 0.5 * G[(j, i)]));
        let L = linalg::cholesky(system, &floors, singular, self.Q.par())?;
        let mut factor = workspace.Z;
        solve_lower_triangular_in_place(L.as_ref(), factor.as_mut().transpose_mut(), self.Q.par());
        // Q grows by F Fᵀ, whose entries are at most its trace.
        validate::in_range("releasing keys", &[factor.squared_norm_l2() + self.largest])?;
        self.push(factor.as_ref(), Sign::Plus);
        self.probe.absorb(workspace.keys.as_ref(), -1.0);
        Ok(())
    }

    /// How far rounding has put `Q` from what exact arithmetic would have made of it: `|Q a - x| / |x|` for a pair with
    /// `Q a = x`, carried along by algebra alone since the start. In `f64` it stays near `1e-14` for thousands of edits;
    /// near `1e-6`, build the editor anew from its history.
    ///
    /// Cost: one product. Carrying the pair along costs `O(d_in)` an edit.
    #[must_use]
    pub fn drift(&self) -> f64 {
        let Probe { a, x: expected } = self.present_probe();
        let mut x = Mat::new();
        self.Q.product(a.as_ref(), &mut x, &mut Default::default());
        let norm = expected.norm_l2();
        if norm > 0.0 { (x - expected).norm_l2() / norm } else { 0.0 }
    }

    /// The directions become untouchable: `Q N = 0` from now on, for the columns `N` (`d_in x m`, any length, also
    /// dependent or constrained already).
    ///
    /// Keys along them are never written again, and no later [`release`](Self::release) brings them back. Directions
    /// that differ by less than 1e-7 count as one.
    ///
    /// # Errors
    /// Wrong shape, empty, NaN, overflow. Nothing is changed then.
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

    /// `F` with `F Fᵀ = Q N (Nᵀ Q N)⁺ Nᵀ Q` for unit columns `N`; `None` if `Q N` is zero up to rounding.
    fn constraint(&self, N: MatRef<'_, f64>, QN: MatRef<'_, f64>) -> Result<Option<Mat<f64>>> {
        let S = linalg::product(N.transpose(), QN, self.Q.par());
        // nᵀ Q n is right to the rounding of |Q n|; what is below that is constrained already.
        let rounding = tolerance::CONSTRAINED * f64::EPSILON;
        let norms = linalg::column_norms(QN);
        validate::in_range("constraining directions", &norms)?;
        let free = |j: usize| S[(j, j)] > rounding * norms[j];
        let free: Vec<usize> = (0..N.ncols()).filter(|&j| free(j)).collect();
        if free.is_empty() {
            return Ok(None);
        }
        // Scaled to a unit diagonal, so that every direction counts as much; small eigenvalues are dependences.
        let scale = |i: usize| 1.0 / S[(free[i], free[i])].sqrt();
        let m = free.len();
        let scaled = Mat::from_fn(m, m, |i, j| S[(free[i], free[j])] * scale(i) * scale(j));
        let spectrum = Spectrum::of_symmetric("Nᵀ Q N", scaled, self.Q.par())?;
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

    /// `Q` as a dense matrix, `d_in x d_in`, exactly symmetric.
    #[must_use]
    pub fn dense(&self) -> Mat<f64> {
        let mut settled = self.clone();
        settled.settle();
        settled.Q.dense()
    }

    /// The state, bit for bit.
    pub(crate) fn save(&self, out: &mut dyn Write) -> bytes::Result<()> {
        self.Q.save(out)?;
        bytes::write_f64(out, self.largest)?;
        bytes::write_slice(out, &self.unsettled.keys)?;
        for fate in &self.unsettled.fates {
            bytes::write_u64(out, u64::from(*fate == Fate::Removed))?;
        }
        bytes::write_u64(out, u64::from(self.unsettled.strong))?;
        bytes::write_matrix(out, self.probe.a.as_ref())?;
        bytes::write_matrix(out, self.probe.x.as_ref())
    }

    /// Takes over a state that [`save`](Self::save) wrote, of the same size. After an error it means nothing.
    pub(crate) fn load(&mut self, from: &mut dyn Read) -> bytes::Result<()> {
        let d = self.dim();
        self.Q.load(from)?;
        self.largest = bytes::read_f64(from)?;
        let keys = bytes::read_slice(from, d)?;
        let n = keys.len() / d;
        if n > self.Q.subtracted() {
            return Err(bytes::invalid("more unsettled keys than pending columns"));
        }
        let fate = |_| Ok(if bytes::read_u64(from)? == 0 { Fate::Absorbed } else { Fate::Removed });
        let fates = (0..n).map(fate).collect::<bytes::Result<_>>()?;
        self.unsettled = Unsettled { keys, fates, strong: bytes::read_u64(from)? != 0 };
        self.probe.a = bytes::read_matrix(from, d, 1)?;
        self.probe.x = bytes::read_matrix(from, d, 1)?;
        self.revision += 1;
        Ok(())
    }

    /// `Z = Q K` into the workspace, with the keys in `f64` beside it.
    fn multiply<T: Scalar>(&self, keys: MatRef<'_, T>, workspace: &mut Workspace) -> Result<()> {
        self.take_keys(keys, workspace)?;
        let Workspace { keys: K, Z, product } = workspace;
        self.Q.product(K.as_ref(), Z, product);
        validate::no_overflow("the product Q K", Z.as_ref())
    }

    fn take_keys<T: Scalar>(&self, keys: MatRef<'_, T>, workspace: &mut Workspace) -> Result<()> {
        validate::columns("keys", keys, self.dim())?;
        validate::finite("keys", keys)?;
        let Workspace { keys: K, Z, .. } = workspace;
        for matrix in [&mut *K, Z] {
            matrix.resize_with(keys.nrows(), keys.ncols(), |_, _| 0.0);
        }
        for (to, from) in K.col_iter_mut().zip(keys.col_iter()) {
            to.iter_mut().zip(from.iter()).for_each(|(to, from)| *to = from.to_f64());
        }
        Ok(())
    }

    /// As [`multiply`](Self::multiply) for one key, which is multiplied with the rounded copy of `Q` if it is `f32` and that
    /// is precise enough.
    fn multiply_single<T: Scalar>(&self, key: MatRef<'_, T>, workspace: &mut Workspace) -> Result<Product> {
        if T::EPSILON > f64::EPSILON {
            self.take_keys(key, workspace)?;
            let Workspace { keys: K, Z, product } = workspace;
            let (k, z) = (K.col_as_slice(0), Z.col_as_slice_mut(0));
            if self.Q.rounded_product(k, z, product) {
                let g: f64 = k.iter().zip(&*z).map(|(k, z)| k * z).sum();
                if self.is_precise_enough(K.norm_l2(), Z.norm_l2(), 1.0 + g) {
                    return Ok(Product::Rounded);
                }
            }
        }
        self.multiply(key, workspace)?;
        Ok(Product::Exact)
    }

    /// The small system of a batch, factored; from products with the rounded copy of `Q` where they are precise enough for
    /// every key as it comes, after those before it.
    fn factored<T: Scalar>(&self, keys: MatRef<'_, T>, workspace: &mut Workspace) -> Result<Factored> {
        let factored = |product, workspace: &Workspace| {
            let G = self.gram(workspace)?;
            let (factor, L) = self.factor(workspace, &G, |_| Fate::Absorbed)?;
            Ok(Factored { G, L, factor, product })
        };
        if T::EPSILON > f64::EPSILON && keys.ncols() <= ONE_BY_ONE {
            self.take_keys(keys, workspace)?;
            let Workspace { keys: K, Z, product } = &mut *workspace;
            let multiply = |j| self.Q.rounded_product(K.col_as_slice(j), Z.col_as_slice_mut(j), product);
            if (0..keys.ncols()).all(multiply)
                && let Ok(factored) = factored(Product::Rounded, workspace)
                && (0..keys.ncols()).all(|j| {
                    let [k, f] = [&workspace.keys, &factored.factor].map(|matrix| matrix.col(j).norm_l2());
                    // The column is z / sqrt(1 + g), and sqrt(1 + g) is the pivot.
                    self.is_precise_enough(k, factored.L[(j, j)] * f, factored.L[(j, j)].powi(2))
                })
            {
                return Ok(factored);
            }
        }
        self.multiply(keys, workspace)?;
        factored(Product::Exact, workspace)
    }

    /// Whether the rounding of a product `z` with the rounded copy stays small also against the share `z / (1 + g)` that
    /// absorbing the key leaves; by the norms of `k` and `z`.
    fn is_precise_enough(&self, k: f64, z: f64, one_and_gain: f64) -> bool {
        f64::from(f32::EPSILON) * self.largest * k * one_and_gain <= tolerance::ROUNDED * z
    }

    /// `G = Kᵀ Z`, symmetric up to rounding.
    fn gram(&self, workspace: &Workspace) -> Result<Mat<f64>> {
        let G = linalg::product(workspace.keys.transpose(), workspace.Z.as_ref(), self.Q.par());
        validate::no_overflow("the small system Kᵀ Q K", G.as_ref())?;
        Ok(G)
    }

    /// `F = Z L⁻ᵀ` with `I + G = L Lᵀ`, and `L`; zero instead of 1 for a key that is removed.
    fn factor(
        &self,
        workspace: &Workspace,
        G: &Mat<f64>,
        fate: impl Fn(usize) -> Fate,
    ) -> Result<(Mat<f64>, Mat<f64>)> {
        let n = G.nrows();
        let noise = |i, j| if i == j { fate(i).noise() } else { 0.0 };
        let system = Mat::from_fn(n, n, |i, j| noise(i, j) + (0.5 * G[(i, j)] + 0.5 * G[(j, i)]));
        let floors = self.rounding(&workspace.keys).enumerate().map(|(i, rounding)| smallest_pivot(rounding, fate(i)));
        let floors: Vec<f64> = floors.collect();
        let L = linalg::cholesky(system, &floors, singular_batch, self.Q.par())?;
        let mut factor = workspace.Z.clone();
        solve_lower_triangular_in_place(L.as_ref(), factor.as_mut().transpose_mut(), self.Q.par());
        validate::no_overflow("the solution of the edit", factor.as_ref())?;
        Ok((factor, L))
    }

    /// How far rounding may put an entry of the diagonal of `G` from where it is: products with `Q` are right to the
    /// rounding of its largest eigenvalue, also where most of it cancels.
    fn rounding<'a>(&self, keys: &'a Mat<f64>) -> impl Iterator<Item = f64> + use<'a> {
        let largest = self.largest.sqrt();
        keys.col_iter().map(move |k| f64::EPSILON * (largest * k.norm_l2()).powi(2))
    }

    /// The solution for one key, where the small system is the number `1 + g`.
    fn single(&self, workspace: &Workspace, solution: &mut Solution) -> Result<()> {
        let (k, z) = (workspace.keys.col_as_slice(0), workspace.Z.col_as_slice(0));
        let g: f64 = k.iter().zip(z).map(|(k, z)| k * z).sum();
        let rounding = self.rounding(&workspace.keys).fold(0.0, f64::max);
        if !g.is_finite() {
            return Err(EditError::Overflow { step: "the small system Kᵀ Q K", scalar: f64::NAME });
        }
        if !(1.0 + g >= smallest_pivot(rounding, Fate::Absorbed)) {
            return Err(singular_batch());
        }
        solution.gains.clear();
        solution.gains.push(g);
        solution.keys.resize_with(k.len(), 1, |_, _| 0.0);
        solution.keys.col_as_slice_mut(0).copy_from_slice(k);
        for (matrix, divisor) in [(&mut solution.directions, 1.0 + g), (&mut solution.factor, (1.0 + g).sqrt())] {
            matrix.resize_with(z.len(), 1, |_, _| 0.0);
            matrix.col_as_slice_mut(0).iter_mut().zip(z).for_each(|(to, z)| *to = z / divisor);
        }
        Ok(())
    }
}

/// In exact arithmetic the pivots of `I + G` are at least 1. One that is smaller, or not far above its own rounding, would
/// make a wrong update.
fn smallest_pivot(rounding: f64, fate: Fate) -> f64 {
    (1e3 * rounding).max(0.5 * fate.noise())
}

/// The columns at unit length.
fn normalised<T: Scalar>(columns: MatRef<'_, T>) -> Mat<f64> {
    let mut N = cast::<T, f64>(columns);
    for (column, norm) in N.col_iter_mut().zip(linalg::column_norms(columns)) {
        if norm > 0.0 {
            column.iter_mut().for_each(|x| *x /= norm);
        }
    }
    N
}

fn diagonal(G: &Mat<f64>) -> Vec<f64> {
    (0..G.nrows()).map(|i| G[(i, i)]).collect()
}

fn singular_batch() -> EditError {
    EditError::Singular {
        step: "the small system I + Kᵀ Q K",
        advice: "a key is so long against lambda2, and so near to keys edited before or with it, that rounding hides \
                 what is left of it: raise lambda2, or merge the edits",
    }
}
