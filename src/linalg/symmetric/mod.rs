//! A large symmetric matrix in half the memory, with pending low-rank changes.
//!
//! An editor multiplies its `d x d` state by a few columns, and changes it by a term of low rank, thousands of times.
//! Both are bound by memory traffic, so only the lower triangle is stored, in `f64`. It takes as many bytes as a full
//! `f32` matrix, and a product reads as many, with sixteen digits instead of seven.

mod state;

use faer::{Accum, Mat, MatMut, MatRef, Par};

use rayon::iter::{IndexedParallelIterator, IntoParallelRefMutIterator, ParallelIterator};

use crate::error::numerics::Result;
use crate::linalg::triangle::{PartialSums, Triangle};
use crate::linalg::{self, Need};
use crate::scalar::Scalar;

/// Pending columns that are folded into the base by one matrix product.
pub(crate) const BLOCK: usize = 64;

/// Beyond this scale the pending columns are folded in and the base is scaled. A matrix that is scaled up by and by while its
/// size stays has to lose as much to pending columns: at this bound the loss is one bit.
const LARGEST_SCALE: f64 = 2.0;

/// How far the scale of the `f32` copy may be from the largest eigenvalue: a quarter of the exponents of an `f32`.
const ROUNDED_RANGE: f64 = (1_u64 << 32) as f64;

/// `X = scale (base + F₊ F₊ᵀ - F₋ F₋ᵀ)`, symmetric, with `base` stored as its lower triangle.
#[derive(Clone)]
pub(crate) struct Symmetric {
    base: Triangle<f64>,
    /// From 1 to [`LARGEST_SCALE`], so that scaling costs no pass.
    scale: f64,
    rounded: Option<Rounded>,
    /// `F`: added columns gather from the left, subtracted ones from the right. Each was divided by the root of the scale.
    pending: Mat<f64>,
    added: usize,
    subtracted: usize,
    par: Par,
}

/// The base in `f32`, divided by a power of two that keeps it in range: half the bytes, for products that need no more
/// precision.
#[derive(Clone)]
struct Rounded {
    triangle: Triangle<f32>,
    scale: f64,
}

impl Rounded {
    fn copy(&mut self, base: &Triangle<f64>, par: Par) {
        let scale = 1.0 / self.scale;
        let round = |(to, from): (&mut Mat<f32>, &Mat<f64>)| {
            for j in 0..from.ncols() {
                let columns = to.col_as_slice_mut(j)[j..].iter_mut().zip(&from.col_as_slice(j)[j..]);
                columns.for_each(|(to, from)| *to = f32::from_f64(from * scale));
            }
        };
        let (to, from) = (&mut self.triangle.panels, &base.panels);
        match par {
            Par::Seq => to.iter_mut().zip(from).for_each(round),
            Par::Rayon(_) => to.par_iter_mut().zip(from).with_max_len(1).for_each(round),
        }
    }
}

/// Working memory of products with one column.
#[derive(Clone, Default)]
pub(crate) struct ProductBuffer {
    exact: PartialSums<f64>,
    rounded: PartialSums<f32>,
    key: Vec<f32>,
}

/// The sign of a pending change: `+ F Fᵀ` or `- F Fᵀ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    Plus,
    Minus,
}

impl Sign {
    pub(crate) fn factor(self) -> f64 {
        match self {
            Self::Plus => 1.0,
            Self::Minus => -1.0,
        }
    }
}

impl Symmetric {
    /// `sum_j root_j root_jᵀ` over the columns of `root`.
    pub(crate) fn from_root(root: MatRef<'_, f64>, need: Need, par: Par) -> Result<Self> {
        let mut zero = Self::zeros(root.nrows(), need, par)?;
        zero.add_product(root, root, 1.0);
        Ok(zero)
    }

    /// A multiple of the identity.
    pub(crate) fn identity(dim: usize, scale: f64, need: Need, par: Par) -> Result<Self> {
        let mut matrix = Self::zeros(dim, need, par)?;
        for panel in &mut matrix.base.panels {
            for j in 0..panel.ncols() {
                panel[(j, j)] = scale;
            }
        }
        Ok(matrix)
    }

    /// Zeros, as a part of a reserved need.
    fn zeros(dim: usize, need: Need, par: Par) -> Result<Self> {
        let pending = need.zeros(dim, BLOCK)?;
        Ok(Self { base: Triangle::zeros(dim, need)?, scale: 1.0, rounded: None, pending, added: 0, subtracted: 0, par })
    }

    /// Keeps a copy of the base in `f32` from now on, for [`rounded_product`](Self::rounded_product).
    ///
    /// * `scale`: about the largest eigenvalue
    pub(crate) fn keep_rounded(&mut self, scale: f64, need: Need) -> Result<()> {
        let mut rounded = Rounded { triangle: Triangle::zeros(self.dim(), need)?, scale: linalg::power_of_two(scale) };
        rounded.copy(&self.base, self.par);
        self.rounded = Some(rounded);
        Ok(())
    }

    /// Bytes without the copy in `f32`.
    pub(crate) fn bytes(dim: usize) -> usize {
        Triangle::<f64>::bytes(dim).saturating_add(dim.saturating_mul(BLOCK * size_of::<f64>()))
    }

    /// Bytes of the copy in `f32`.
    pub(crate) fn rounded_bytes(dim: usize) -> usize {
        Triangle::<f32>::bytes(dim)
    }

    pub(crate) fn dim(&self) -> usize {
        self.pending.nrows()
    }

    pub(crate) fn par(&self) -> Par {
        self.par
    }

    /// `Z = X K`. A single column is one pass over the triangle and allocates nothing if `Z` and `workspace` were used
    /// before.
    pub(crate) fn product(&self, K: MatRef<'_, f64>, Z: &mut Mat<f64>, workspace: &mut ProductBuffer) {
        Z.resize_with(self.dim(), K.ncols(), |_, _| 0.0);
        if K.ncols() == 1 && K.row_stride() == 1 {
            let k = K.col(0).try_as_col_major().expect("the stride is 1").as_slice();
            self.times_vector(k, Z.col_as_slice_mut(0), workspace);
        } else {
            self.times_matrix(K, Z.as_mut());
        }
    }

    /// As [`product`](Self::product) for a single column, from the `f32` copy, which reads half the bytes. The result
    /// is accurate to about `f32::EPSILON |X|₂ |k|`. Returns whether there is a copy.
    pub(crate) fn rounded_product(&self, k: &[f64], z: &mut [f64], workspace: &mut ProductBuffer) -> bool {
        let Some(rounded) = &self.rounded else { return false };
        let ProductBuffer { rounded: sums, key, .. } = workspace;
        let length = linalg::power_of_two(k.iter().fold(0.0, |max, k| max.max(k.abs())));
        key.clear();
        key.extend(k.iter().map(|k| f32::from_f64(k / length)));
        let pending = |thread, threads, z: &mut [f64]| self.add_pending(k, thread, threads, z);
        rounded.triangle.times_vector(key, length * rounded.scale * self.scale, z, sums, pending, self.par);
        true
    }

    fn times_matrix(&self, K: MatRef<'_, f64>, mut Z: MatMut<'_, f64>) {
        self.base.times_matrix(K, self.scale, Z.as_mut(), self.par);
        for (F, sign) in self.pending() {
            let coordinates = linalg::product(F.transpose(), K, self.par);
            let factor = sign.factor() * self.scale;
            linalg::matmul(Z.as_mut(), Accum::Add, F, coordinates.as_ref(), factor, self.par);
        }
    }

    fn pending(&self) -> [(MatRef<'_, f64>, Sign); 2] {
        let F = self.pending.as_ref();
        let right = F.subcols(BLOCK - self.subtracted, self.subtracted);
        [(F.subcols(0, self.added), Sign::Plus), (right, Sign::Minus)]
    }

    fn times_vector(&self, k: &[f64], z: &mut [f64], workspace: &mut ProductBuffer) {
        let pending = |thread, threads, z: &mut [f64]| self.add_pending(k, thread, threads, z);
        self.base.times_vector(k, self.scale, z, &mut workspace.exact, pending, self.par);
    }

    /// A thread's part of the pending columns times `k`.
    fn add_pending(&self, k: &[f64], thread: usize, threads: usize, z: &mut [f64]) {
        let columns = self.added + self.subtracted;
        let part = columns * thread / threads..columns * (thread + 1) / threads;
        pulp::Arch::new().dispatch(PendingTimesVector { matrix: self, part, k, z });
    }

    /// `X <- X ± F Fᵀ`: kept pending, and folded in when a block is full.
    pub(crate) fn push(&mut self, F: MatRef<'_, f64>, sign: Sign) {
        let n = F.ncols();
        if !self.has_room_for(n) {
            self.fold();
        }
        if n > BLOCK {
            return self.add_product(F, F, sign.factor());
        }
        let first = match sign {
            Sign::Plus => {
                self.added += n;
                self.added - n
            }
            Sign::Minus => {
                self.subtracted += n;
                BLOCK - self.subtracted
            }
        };
        self.set_pending(first, F);
    }

    fn set_pending(&mut self, first: usize, F: MatRef<'_, f64>) {
        let mut columns = self.pending.as_mut().subcols_mut(first, F.ncols());
        columns.copy_from(F);
        if self.scale != 1.0 {
            columns *= faer::Scale(1.0 / self.scale.sqrt());
        }
    }

    /// Whether `n` more pending columns fit before the next folding.
    pub(crate) fn has_room_for(&self, n: usize) -> bool {
        self.added + self.subtracted + n <= BLOCK
    }

    /// Pending columns that were subtracted.
    pub(crate) fn subtracted(&self) -> usize {
        self.subtracted
    }

    /// The last `n` columns that were subtracted and are still pending. What was subtracted is the [`scale`](Self::scale)
    /// times their product.
    pub(crate) fn last(&self, n: usize) -> MatRef<'_, f64> {
        self.pending.as_ref().subcols(BLOCK - self.subtracted, n)
    }

    /// Replaces the last columns that were subtracted.
    pub(crate) fn replace_last(&mut self, F: MatRef<'_, f64>) {
        self.set_pending(BLOCK - self.subtracted, F);
    }

    pub(crate) fn scale(&self) -> f64 {
        self.scale
    }

    /// `X <- X + alpha A Bᵀ`, for a symmetric product.
    pub(crate) fn add_product(&mut self, A: MatRef<'_, f64>, B: MatRef<'_, f64>, alpha: f64) {
        self.base.add_product(A, B, alpha / self.scale, self.par);
        self.round();
    }

    fn fold(&mut self) {
        let F = self.pending.as_ref();
        let (added, subtracted) = (F.subcols(0, self.added), F.subcols(BLOCK - self.subtracted, self.subtracted));
        self.base.add_product(added, added, 1.0, self.par);
        self.base.add_product(subtracted, subtracted, -1.0, self.par);
        (self.added, self.subtracted) = (0, 0);
        self.round();
    }

    /// Whether [`scale_by`](Self::scale_by) would fold.
    pub(crate) fn folds_when_scaled_by(&self, factor: f64) -> bool {
        !(self.scale * factor <= LARGEST_SCALE)
    }

    /// `X <- factor X`, for a factor of at least 1. Cost: nothing, but for a folding now and then.
    pub(crate) fn scale_by(&mut self, factor: f64) {
        if self.folds_when_scaled_by(factor) {
            self.fold();
            self.base.scale_by(self.scale * factor);
            self.scale = 1.0;
            self.round();
        } else {
            self.scale *= factor;
        }
    }

    /// Two traces whose difference is the trace: what was added, and what is pending to be subtracted.
    pub(crate) fn traces(&self) -> (f64, f64) {
        let [added, subtracted] = self.pending().map(|(F, _)| F.squared_norm_l2());
        (self.scale * (self.base.trace() + added), self.scale * subtracted)
    }

    /// Keeps the `f32` copy in range when the largest eigenvalue has changed by orders of magnitude.
    pub(crate) fn fit_rounded(&mut self, largest: f64) {
        let Some(rounded) = &mut self.rounded else { return };
        if !(largest / rounded.scale <= ROUNDED_RANGE && rounded.scale / largest <= ROUNDED_RANGE) {
            rounded.scale = linalg::power_of_two(largest);
            self.round();
        }
    }

    fn round(&mut self) {
        if let Some(rounded) = &mut self.rounded {
            rounded.copy(&self.base, self.par);
        }
    }

    /// The whole matrix, exactly symmetric.
    pub(crate) fn to_dense(&self) -> Mat<f64> {
        let mut whole = self.clone();
        whole.fold();
        let mut matrix = Mat::zeros(self.dim(), self.dim());
        whole.base.add_to(matrix.as_mut(), whole.scale);
        linalg::mirror(matrix.as_mut());
        matrix
    }

    /// Whether all entries are finite.
    pub(crate) fn is_finite(&self) -> bool {
        self.base.is_finite()
    }
}

/// Numbers of a column that are processed at once; the compiler uses vector registers for them.
const LANES: usize = 4;

/// `z += F₊ F₊ᵀ k - F₋ F₋ᵀ k` for a range of the columns, counted from the first added one.
struct PendingTimesVector<'a> {
    matrix: &'a Symmetric,
    part: std::ops::Range<usize>,
    k: &'a [f64],
    z: &'a mut [f64],
}

impl pulp::WithSimd for PendingTimesVector<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        simd.vectorize(
            #[inline(always)]
            || {
                let Symmetric { pending, added, subtracted, scale, .. } = self.matrix;
                for column in self.part {
                    let (j, sign) = match column.checked_sub(*added) {
                        None => (column, Sign::Plus),
                        Some(other) => (BLOCK - subtracted + other, Sign::Minus),
                    };
                    let f = pending.col_as_slice(j);
                    let share = sign.factor() * scale * dot(f, self.k);
                    self.z.iter_mut().zip(f).for_each(|(z, f)| *z += share * f);
                }
            },
        );
    }
}

#[inline(always)]
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for l in 0..LANES {
            sums[l] += a[l] * b[l];
        }
    }
    sums.iter().sum::<f64>() + a_tail.iter().zip(b_tail).map(|(a, b)| a * b).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(i: usize, j: usize) -> f64 {
        ((i * 37 + j * 101) % 64) as f64 / 32.0 - 1.0
    }

    /// Sizes around the borders of groups, lanes and panels; products of one and of several columns; pending and folded.
    #[test]
    fn products_and_changes_are_those_of_the_dense_matrix() {
        for dim in [1, 3, 4, 5, 12, 63, 255, 256, 257, 258, 300, 515] {
            for par in [Par::Seq, Par::rayon(2), Par::rayon(5)] {
                let (root, need) = (Mat::from_fn(dim, 7, entry), Need::new("a test", dim, dim));
                let mut matrix = Symmetric::from_root(root.as_ref(), need, par).unwrap();
                let mut expected = &root * root.transpose();
                matrix.keep_rounded(expected.norm_l2(), need).unwrap();
                let (plus, minus) = (Sign::Plus, Sign::Minus);
                for (n, sign) in [(1, plus), (3, minus), (40, plus), (30, minus), (70, plus), (1, minus)] {
                    let F = Mat::from_fn(dim, n, |i, j| entry(i + n, 3 * j + 1));
                    matrix.push(F.as_ref(), sign);
                    expected += &F * F.transpose() * faer::Scale(sign.factor());
                    let (mut Z, mut workspace) = (Mat::new(), ProductBuffer::default());
                    for columns in [1, 2, 9] {
                        let K = Mat::from_fn(dim, columns, |i, j| entry(2 * i + 5, j + n));
                        matrix.product(K.as_ref(), &mut Z, &mut workspace);
                        let error = (&Z - &expected * &K).norm_l2() / (expected.norm_l2() * K.norm_l2());
                        assert!(error < 1e-14, "{dim} {columns} {error:e}");
                    }
                    // The rounded copy follows every change, in range for keys of any length.
                    for length in [1.0, 1e-200, 1e200] {
                        let k = Mat::from_fn(dim, 1, |i, _| length * entry(2 * i + 5, n));
                        Z.resize_with(dim, 1, |_, _| f64::NAN);
                        assert!(matrix.rounded_product(k.col_as_slice(0), Z.col_as_slice_mut(0), &mut workspace));
                        let error = (&Z - &expected * &k).norm_l2() / (expected.norm_l2() * k.norm_l2());
                        assert!(error < 1e-6, "{dim} {length:e} {error:e}");
                    }
                }
                assert!((matrix.to_dense() - &expected).norm_l2() < 1e-13 * expected.norm_l2());
            }
        }
    }
}
