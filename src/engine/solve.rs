//! Solutions for batches of keys: together, in sequence, each on its own, with slack.

use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{Mat, MatRef};

use super::InverseGram;
use super::solution::{Product, Solution, Workspace};
use super::unsettled::Fate;
use crate::batch::Order;
use crate::error::numerics::{NumericsError, Result};
use crate::linalg::{self, Need, tolerance};
use crate::scalar::Scalar;
use crate::util::validate;

/// Up to this batch size, single products with the rounded copy of `Q` are faster than one matrix product with `Q`,
/// which is bound by arithmetic.
const ONE_BY_ONE: usize = 8;

/// The memory for this many keys is not worth asking for.
const FEW: usize = 64;

/// The small system `I + G = L Lᵀ` of a batch, and `F = Z L⁻ᵀ`.
struct Factored {
    G: Mat<f64>,
    L: Mat<f64>,
    factor: Mat<f64>,
    product: Product,
}

impl InverseGram {
    /// Solves for a batch of keys that are written together. Changes nothing.
    ///
    /// * `keys`: `d_in x n`, with any `n` of at least 1, even above `d_in`
    ///
    /// Cost: one pass over `Q`, `O(d_in n²)`, and an `n x n` Cholesky factorisation.
    ///
    /// # Errors
    /// Wrong shape, empty batch, NaN; [`NumericsError::Overflow`] if finite keys lead beyond the range of `f64`;
    /// [`NumericsError::Singular`] if rounding hides a pivot of the small system.
    pub fn solve<T: Scalar>(&self, keys: MatRef<'_, T>) -> Result<Solution> {
        let mut solution = Solution::default();
        self.solve_into(keys, &mut solution, &mut Workspace::default())?;
        Ok(solution)
    }

    /// As [`solve`](Self::solve), into memory that is reused. For single keys, nothing is allocated from the second
    /// call on.
    ///
    /// # Errors
    /// As [`solve`](Self::solve). On error, the contents of `solution` are unspecified.
    pub fn solve_into<T: Scalar>(
        &self,
        keys: MatRef<'_, T>,
        solution: &mut Solution,
        workspace: &mut Workspace,
    ) -> Result<()> {
        // An incomplete solution belongs to no state.
        solution.token = None;
        if keys.ncols() == 1 {
            solution.product = self.multiply_single(keys, workspace)?;
            self.single(workspace, solution)?;
            solution.token = Some(self.token.clone());
            return Ok(());
        }
        let Factored { G, L, factor, product } = self.factored(keys, workspace)?;
        let mut directions = factor.clone();
        solve_upper_triangular_in_place(L.transpose(), directions.as_mut().transpose_mut(), self.Q.par());
        *solution = self.found(workspace, directions, factor, diagonal(&G), product)?;
        Ok(())
    }

    /// Solves for keys that are written **one after the other**, each protected from those after it. The numbers are
    /// those of [`solve`](Self::solve) and [`absorb`](Self::absorb) column by column, at matrix-product speed: the
    /// Cholesky factorisation of `I + G` performs the same elimination.
    ///
    /// The directions are those of single edits, so the residual of column `t` may be computed after columns `0..t` are
    /// written.
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

    /// As [`solve`](Self::solve), for `Delta = R (G + e I)⁻¹ Zᵀ` with the slack `e`. With `e < 1` the residuals are met
    /// more closely than by least squares, with `e = 0` exactly.
    ///
    /// # Errors
    /// As [`solve`](Self::solve), a negative `e`, and [`NumericsError::Singular`] if `e` is too small for keys that are
    /// linearly dependent or outside the space.
    ///
    /// ```
    /// use betaedit_core::{InverseGram, faer::{mat, Par}};
    /// let Q = InverseGram::isotropic(2, 5.0, Par::Seq)?;
    /// let k = mat![[1.0], [2.0]];
    /// let exact = Q.solve_with_slack(k.as_ref(), 0.0)?; // Delta k = r, for any r
    /// assert!(((k.transpose() * exact.directions())[(0, 0)] - 1.0).abs() < 1e-15);
    /// # Ok::<(), betaedit_core::Error>(())
    /// ```
    pub fn solve_with_slack<T: Scalar>(&self, keys: MatRef<'_, T>, slack: f64) -> Result<Solution> {
        let mut solution = self.solve(keys)?;
        self.set_slack(&mut solution, slack, Order::Together)?;
        Ok(solution)
    }

    /// Replaces the directions of a least squares solution by those for another slack, for the batch as a whole or
    /// column by column. With `D = Z (I + G)⁻¹` and `B = Kᵀ D = G (I + G)⁻¹`, `Z (G + e I)⁻¹ = D (e I + (1 - e) B)⁻¹`.
    pub(crate) fn set_slack(&self, solution: &mut Solution, slack: f64, order: Order) -> Result<()> {
        validate::non_negative("slack", slack)?;
        if slack == 1.0 {
            return Ok(());
        }
        let singular = |pivot| NumericsError::Singular {
            pivot: Some(pivot),
            step: "the small system Kᵀ Q K + e I",
            advice: "the residuals cannot be met this closely: keys of the batch are linearly dependent, or (nearly) outside \
                     the space that may be edited; allow more slack, or merge the edits",
        };
        let n = solution.keys.ncols();
        let floors: Vec<f64> = self.rounding(&solution.keys).map(|rounding| 1e3 * rounding).collect();
        if order == Order::InSequence || n == 1 {
            for (j, floor) in floors.into_iter().enumerate() {
                let (k, d) = (solution.keys.col_as_slice(j), solution.directions.col_as_slice_mut(j));
                let met: f64 = k.iter().zip(&*d).map(|(k, d)| k * d).sum();
                let divisor = slack + (1.0 - slack) * met;
                if !(divisor > floor) {
                    return Err(singular(j));
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

    /// Solves for independent keys: every column as if it were alone.
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

    /// The solution for the keys in the workspace. Moves the keys out.
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
        Ok(Solution { keys, directions, factor, gains, token: Some(self.token.clone()), product })
    }

    /// `Z = Q K` into the workspace, together with the keys in `f64`.
    pub(super) fn multiply<T: Scalar>(&self, keys: MatRef<'_, T>, workspace: &mut Workspace) -> Result<()> {
        self.take_keys(keys, workspace)?;
        let Workspace { keys: K, Z, product } = workspace;
        self.Q.product(K.as_ref(), Z, product);
        validate::no_overflow("the product Q K", Z.as_ref())
    }

    fn take_keys<T: Scalar>(&self, keys: MatRef<'_, T>, workspace: &mut Workspace) -> Result<()> {
        validate::columns("keys", keys, self.dim())?;
        if keys.ncols() > FEW {
            // Keys, products, factor and directions; the small system and its factor.
            let (d, n) = keys.shape();
            let need = Need::new("the system of a batch", n, n).matrix::<f64>(d, n.saturating_mul(4));
            need.matrix::<f64>(n, n.saturating_mul(3)).reserve()?;
        }
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

    /// As [`multiply`](Self::multiply) for one key. Uses the rounded copy of `Q` if the key is `f32` and the copy is
    /// precise enough.
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

    /// The factored small system of a batch. Uses products with the rounded copy of `Q` if they are precise enough for
    /// every key in turn, after the keys before it.
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

    /// Whether the rounding of a product `z` with the rounded copy is small even relative to `z / (1 + g)`, the part
    /// that is left when the key is absorbed. Takes the norms of `k` and `z`.
    fn is_precise_enough(&self, k: f64, z: f64, one_and_gain: f64) -> bool {
        f64::from(f32::EPSILON) * self.largest * k * one_and_gain <= tolerance::ROUNDED * z
    }

    /// `G = Kᵀ Z`, symmetric up to rounding.
    pub(super) fn gram(&self, workspace: &Workspace) -> Result<Mat<f64>> {
        let G = linalg::product(workspace.keys.transpose(), workspace.Z.as_ref(), self.Q.par());
        validate::no_overflow("the small system Kᵀ Q K", G.as_ref())?;
        Ok(G)
    }

    /// `F = Z L⁻ᵀ` and `L`, with `I + G = L Lᵀ`. A removed key has 0 instead of 1 in `I`.
    pub(super) fn factor(
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

    /// Rounding error of each diagonal entry of `G`. Products with `Q` are accurate to the rounding of its largest
    /// eigenvalue, even where most of the sum cancels.
    pub(super) fn rounding<'a>(&self, keys: &'a Mat<f64>) -> impl Iterator<Item = f64> + use<'a> {
        let largest = self.largest.sqrt();
        keys.col_iter().map(move |k| f64::EPSILON * (largest * k.norm_l2()).powi(2))
    }

    /// The solution for one key: the small system is the number `1 + g`.
    fn single(&self, workspace: &Workspace, solution: &mut Solution) -> Result<()> {
        let (k, z) = (workspace.keys.col_as_slice(0), workspace.Z.col_as_slice(0));
        let g: f64 = k.iter().zip(z).map(|(k, z)| k * z).sum();
        let rounding = self.rounding(&workspace.keys).fold(0.0, f64::max);
        if !g.is_finite() {
            return Err(NumericsError::Overflow { step: "the small system Kᵀ Q K", scalar: f64::NAME });
        }
        if !(1.0 + g >= smallest_pivot(rounding, Fate::Absorbed)) {
            return Err(singular_batch(0));
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

/// In exact arithmetic the pivots of `I + G` are at least 1. A smaller pivot, or one that is not far above its own
/// rounding, would give a wrong update.
fn smallest_pivot(rounding: f64, fate: Fate) -> f64 {
    (1e3 * rounding).max(0.5 * fate.noise())
}

fn diagonal(G: &Mat<f64>) -> Vec<f64> {
    (0..G.nrows()).map(|i| G[(i, i)]).collect()
}

fn singular_batch(pivot: usize) -> NumericsError {
    NumericsError::Singular {
        pivot: Some(pivot),
        step: "the small system I + Kᵀ Q K",
        advice: "a key is so large relative to the ridge (`lambda2` of some methods), and so close to keys edited before or \
                 with it, that rounding hides what is left of it: use a larger ridge, merge the edits, or, if `discount` has \
                 let `Q` grow, use a factor nearer to 1",
    }
}
