//! A large symmetric matrix in half the memory, with low-rank changes pending.
//!
//! What an editor does to its `d x d` state is a product with a few columns, and a change of low rank, thousands of times.
//! Both are bound by memory traffic, so only the lower triangle is stored, in `f64`: as many bytes as a full matrix of
//! `f32`, and as many to read in a product, with sixteen digits instead of seven.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};

use crate::dense;
use crate::error::Result;

/// Columns of a panel. A product with many columns works on one panel at a time, from cache.
const PANEL: usize = 256;

/// Pending columns that are folded into the panels by one matrix product.
pub(crate) const BLOCK: usize = 64;

/// `X = base + F₊ F₊ᵀ - F₋ F₋ᵀ`, symmetric, with `base` stored as its lower triangle.
#[derive(Clone, Debug)]
pub(crate) struct Symmetric {
    dim: usize,
    /// Panel `p` holds columns `p * PANEL ..` from the diagonal block downwards. Of the diagonal block only the lower
    /// triangle means anything.
    panels: Vec<Mat<f64>>,
    /// `F`: added columns gather from the left, subtracted ones from the right.
    pending: Mat<f64>,
    added: usize,
    subtracted: usize,
    par: Par,
}

/// What a pending change does: `+ F Fᵀ` or `- F Fᵀ`.
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
    pub(crate) fn of_root(root: MatRef<'_, f64>, par: Par) -> Result<Self> {
        let mut zero = Self::zeros(root.nrows(), par)?;
        zero.add_product(root, root, 1.0);
        Ok(zero)
    }

    /// A multiple of the identity.
    pub(crate) fn identity(dim: usize, scale: f64, par: Par) -> Result<Self> {
        let mut matrix = Self::zeros(dim, par)?;
        for panel in &mut matrix.panels {
            for j in 0..panel.ncols() {
                panel[(j, j)] = scale;
            }
        }
        Ok(matrix)
    }

    fn zeros(dim: usize, par: Par) -> Result<Self> {
        let panels = (0..dim)
            .step_by(PANEL)
            .map(|first| dense::zeros(dim - first, PANEL.min(dim - first), "a symmetric matrix"))
            .collect::<Result<_>>()?;
        let pending = dense::zeros(dim, BLOCK, "pending factors")?;
        Ok(Self { dim, panels, pending, added: 0, subtracted: 0, par })
    }

    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    pub(crate) fn par(&self) -> Par {
        self.par
    }

    /// `Z = X K`. A single column is one pass over the triangle and allocates nothing if `Z` and `workspace` were used
    /// before.
    pub(crate) fn product(&self, K: MatRef<'_, f64>, Z: &mut Mat<f64>, workspace: &mut Vec<f64>) {
        Z.resize_with(self.dim, K.ncols(), |_, _| 0.0);
        if K.ncols() == 1 && K.row_stride() == 1 {
            let k = K.col(0).try_as_col_major().expect("the stride is 1").as_slice();
            self.times_vector(k, Z.col_as_slice_mut(0), workspace);
        } else {
            self.times_matrix(K, Z.as_mut());
        }
    }

    fn times_matrix(&self, K: MatRef<'_, f64>, mut Z: MatMut<'_, f64>) {
        Z.fill(0.0);
        for (p, panel) in self.panels.iter().enumerate() {
            let (first, width) = (p * PANEL, panel.ncols());
            let mut diagonal = panel.as_ref().subrows(0, width).to_owned();
            dense::mirror(diagonal.as_mut());
            let here = K.subrows(first, width);
            let (above, mut below) = Z.as_mut().split_at_row_mut(first + width);
            let mut rows = above.subrows_mut(first, width);
            matmul(rows.as_mut(), Accum::Add, &diagonal, here, 1.0, self.par);
            let rest = panel.nrows() - width;
            if rest > 0 {
                let lower = panel.as_ref().subrows(width, rest);
                matmul(below.as_mut(), Accum::Add, lower, here, 1.0, self.par);
                matmul(rows, Accum::Add, lower.transpose(), K.subrows(first + width, rest), 1.0, self.par);
            }
        }
        for (F, sign) in self.pending() {
            let coordinates = dense::product(F.transpose(), K, self.par);
            matmul(Z.as_mut(), Accum::Add, F, &coordinates, sign.factor(), self.par);
        }
    }

    fn pending(&self) -> [(MatRef<'_, f64>, Sign); 2] {
        let F = self.pending.as_ref();
        let right = F.subcols(BLOCK - self.subtracted, self.subtracted);
        [(F.subcols(0, self.added), Sign::Plus), (right, Sign::Minus)]
    }

    fn times_vector(&self, k: &[f64], z: &mut [f64], workspace: &mut Vec<f64>) {
        let threads = self.par.degree().min(self.panels.len()).max(1);
        workspace.clear();
        workspace.resize((threads - 1) * self.dim, 0.0);
        z.fill(0.0);
        self.fan_out(k, z, workspace, 0, threads, threads);
        for partial in workspace.chunks_exact(self.dim) {
            z.iter_mut().zip(partial).for_each(|(z, part)| *z += part);
        }
        pulp::Arch::new().dispatch(PendingTimesVector { matrix: self, k, z });
    }

    /// Threads `from..to` of `threads` work on equal areas of the triangle, each into a vector of its own.
    fn fan_out(&self, k: &[f64], z: &mut [f64], more: &mut [f64], from: usize, to: usize, threads: usize) {
        if to - from == 1 {
            // Columns 0..c hold the share 1 - (1 - c/d)² of the triangle.
            let cut = |i: usize| {
                let left = (1.0 - i as f64 / threads as f64).sqrt();
                ((1.0 - left) * self.dim as f64 / GROUP as f64).round() as usize * GROUP
            };
            let (first, last) = (cut(from), if to == threads { self.dim } else { cut(to) });
            pulp::Arch::new().dispatch(TriangleTimesVector { matrix: self, k, z, first, last });
        } else {
            let middle = from.midpoint(to);
            let (left, right) = more.split_at_mut((middle - from - 1) * self.dim);
            let (first, rest) = right.split_at_mut(self.dim);
            rayon::join(
                || self.fan_out(k, z, left, from, middle, threads),
                || self.fan_out(k, first, rest, middle, to, threads),
            );
        }
    }

    /// `X <- X ± F Fᵀ`: remembered, and folded in when a block is full.
    pub(crate) fn push(&mut self, F: MatRef<'_, f64>, sign: Sign) {
        let n = F.ncols();
        if self.added + self.subtracted + n > BLOCK {
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
        self.pending.as_mut().subcols_mut(first, n).copy_from(F);
    }

    /// `X <- X + alpha A Bᵀ` for a product that is symmetric.
    pub(crate) fn add_product(&mut self, A: MatRef<'_, f64>, B: MatRef<'_, f64>, alpha: f64) {
        add_product(&mut self.panels, A, B, alpha, self.par);
    }

    fn fold(&mut self) {
        let F = self.pending.as_ref();
        let (added, subtracted) = (F.subcols(0, self.added), F.subcols(BLOCK - self.subtracted, self.subtracted));
        add_product(&mut self.panels, added, added, 1.0, self.par);
        add_product(&mut self.panels, subtracted, subtracted, -1.0, self.par);
        (self.added, self.subtracted) = (0, 0);
    }

    /// The whole matrix, exactly symmetric.
    pub(crate) fn dense(&self) -> Mat<f64> {
        let mut whole = self.clone();
        whole.fold();
        let mut matrix = Mat::zeros(self.dim, self.dim);
        for (p, panel) in whole.panels.iter().enumerate() {
            let first = p * PANEL;
            matrix.as_mut().submatrix_mut(first, first, panel.nrows(), panel.ncols()).copy_from(panel);
        }
        dense::mirror(matrix.as_mut());
        matrix
    }

    /// Whether all entries are finite.
    pub(crate) fn is_finite(&self) -> bool {
        // Of a diagonal block only the lower triangle counts, but the rest is made of the same products.
        self.panels.iter().all(|panel| panel.as_ref().is_all_finite())
    }
}

fn add_product(panels: &mut [Mat<f64>], A: MatRef<'_, f64>, B: MatRef<'_, f64>, alpha: f64, par: Par) {
    if A.ncols() == 0 {
        return;
    }
    for (p, panel) in panels.iter_mut().enumerate() {
        let (first, rows, width) = (p * PANEL, panel.nrows(), panel.ncols());
        matmul(panel, Accum::Add, A.subrows(first, rows), B.subrows(first, width).transpose(), alpha, par);
    }
}

/// Columns that are read together, so that `z` is read and written once for all of them. Eight columns of four numbers at
/// a time were the fastest of those tried (4 x 8, 4 x 4, 16 x 4): at d = 4096, `z` and `k` no longer fit the first cache.
const GROUP: usize = 8;

/// Numbers of a column that are worked on at once; the compiler makes vector registers of them.
const LANES: usize = 4;

/// `z += L k + strict(L)ᵀ k` for columns `first..last` of the lower triangle `L`.
struct TriangleTimesVector<'a> {
    matrix: &'a Symmetric,
    k: &'a [f64],
    z: &'a mut [f64],
    first: usize,
    last: usize,
}

impl pulp::WithSimd for TriangleTimesVector<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        simd.vectorize(
            #[inline(always)]
            || {
                let mut column = self.first;
                while column < self.last {
                    let (p, j) = (column / PANEL, column % PANEL);
                    let panel = &self.matrix.panels[p];
                    let width = GROUP.min(panel.ncols() - j).min(self.last - column);
                    let k = &self.k[column..];
                    let z = &mut self.z[column..];
                    if width == GROUP {
                        let columns = std::array::from_fn(|c| &panel.col_as_slice(j + c)[j..]);
                        group_times_vector(columns, k, z);
                    } else {
                        for c in 0..width {
                            column_times_vector(&panel.col_as_slice(j + c)[j + c..], &k[c..], &mut z[c..]);
                        }
                    }
                    column += width;
                }
            },
        );
    }
}

/// One column from the diagonal downwards: `z += column k_0`, and `z_0 += columnᵀ k` below the diagonal.
#[inline(always)]
fn column_times_vector(column: &[f64], k: &[f64], z: &mut [f64]) {
    let k0 = k[0];
    z[0] += column[0] * k0;
    let mut dot = 0.0;
    for ((a, k), z) in column[1..].iter().zip(&k[1..]).zip(&mut z[1..]) {
        dot += a * k;
        *z += a * k0;
    }
    z[0] += dot;
}

/// As [`column_times_vector`], for a group of neighbouring columns at once, each from the diagonal entry of the first.
#[inline(always)]
fn group_times_vector(columns: [&[f64]; GROUP], k: &[f64], z: &mut [f64]) {
    // The small triangle on the diagonal.
    for c in 0..GROUP {
        column_times_vector(&columns[c][c..GROUP], &k[c..GROUP], &mut z[c..GROUP]);
    }
    let factors: [f64; GROUP] = std::array::from_fn(|c| k[c]);
    let (k, k_tail) = k[GROUP..].as_chunks::<LANES>();
    let (head, below) = z.split_at_mut(GROUP);
    let (z, z_tail) = below.as_chunks_mut::<LANES>();
    let parts = columns.map(|column| column[GROUP..].as_chunks::<LANES>());
    // Of equal length, so that the compiler drops the checks.
    let n = k.len();
    let chunks: [&[[f64; LANES]]; GROUP] = parts.map(|(chunks, _)| &chunks[..n]);
    let z = &mut z[..n];
    let mut dots = [[0.0; LANES]; GROUP];
    for i in 0..n {
        let k = k[i];
        let mut sum = z[i];
        for c in 0..GROUP {
            let a = chunks[c][i];
            for l in 0..LANES {
                dots[c][l] += a[l] * k[l];
                sum[l] += a[l] * factors[c];
            }
        }
        z[i] = sum;
    }
    for (c, (_, tail)) in parts.into_iter().enumerate() {
        let mut dot: f64 = dots[c].iter().sum();
        for ((a, k), z) in tail.iter().zip(k_tail).zip(z_tail.iter_mut()) {
            dot += a * k;
            *z += a * factors[c];
        }
        head[c] += dot;
    }
}

/// `z += F₊ F₊ᵀ k - F₋ F₋ᵀ k`.
struct PendingTimesVector<'a> {
    matrix: &'a Symmetric,
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
                for (F, sign) in self.matrix.pending() {
                    for column in F.col_iter() {
                        let f = column.try_as_col_major().expect("a column of a stored matrix").as_slice();
                        let share = sign.factor() * dot(f, self.k);
                        self.z.iter_mut().zip(f).for_each(|(z, f)| *z += share * f);
                    }
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
                let root = Mat::from_fn(dim, 7, entry);
                let mut matrix = Symmetric::of_root(root.as_ref(), par).unwrap();
                let mut expected = &root * root.transpose();
                let (plus, minus) = (Sign::Plus, Sign::Minus);
                for (n, sign) in [(1, plus), (3, minus), (40, plus), (30, minus), (70, plus), (1, minus)] {
                    let F = Mat::from_fn(dim, n, |i, j| entry(i + n, 3 * j + 1));
                    matrix.push(F.as_ref(), sign);
                    expected += &F * F.transpose() * faer::Scale(sign.factor());
                    let (mut Z, mut workspace) = (Mat::new(), Vec::new());
                    for columns in [1, 2, 9] {
                        let K = Mat::from_fn(dim, columns, |i, j| entry(2 * i + 5, j + n));
                        matrix.product(K.as_ref(), &mut Z, &mut workspace);
                        let error = (&Z - &expected * &K).norm_l2() / (expected.norm_l2() * K.norm_l2());
                        assert!(error < 1e-14, "{dim} {columns} {error:e}");
                    }
                }
                assert!((matrix.dense() - &expected).norm_l2() < 1e-13 * expected.norm_l2());
            }
        }
    }
}
