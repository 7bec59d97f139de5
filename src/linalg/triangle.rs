//! The lower triangle of a large symmetric matrix, and its product with one vector at memory speed.

use std::io::{Read, Write};
use std::ops::{Add, AddAssign, Mul};

use faer::{Accum, Mat, MatMut, MatRef, Par};

use crate::error::numerics::Result;
use crate::linalg::{self, Need};
use crate::scalar::Scalar;
use crate::util::bytes;
use crate::util::large::Large;

/// Columns of a panel. A product with many columns works on one panel at a time, from cache.
pub(crate) const PANEL: usize = 256;

/// Columns of a product from which a copy of the right-hand side pays off: it is up to twice as fast (`docs/performance.md`).
const WORTH_A_COPY: usize = 128;

/// Columns that are read together, so that `z` is read and written once for all of them.
const GROUP: usize = 8;

/// The lower triangle of a `dim x dim` matrix.
#[derive(Clone)]
pub(crate) struct Triangle<X> {
    dim: usize,
    /// Panel `p` holds columns `p * PANEL ..` from the diagonal block downwards. Of the diagonal block only the lower
    /// triangle means anything.
    pub(crate) panels: Vec<Mat<X>>,
}

/// Number types of a triangle.
pub(crate) trait Entry: Scalar + Add<Output = Self> + AddAssign + Mul<Output = Self> {}

impl Entry for f32 {}
impl Entry for f64 {}

/// Working memory of a product: for every thread but the first its share of `z`, and for every thread its sums over a
/// panel.
#[derive(Clone, Default)]
pub(crate) struct PartialSums<X> {
    shares: Vec<f64>,
    panel: Vec<X>,
}

impl<X: Entry> Triangle<X> {
    /// Zeros, as a part of a reserved need.
    pub(crate) fn zeros(dim: usize, need: Need) -> Result<Self> {
        let panel = |first| need.zeros(dim - first, PANEL.min(dim - first));
        Ok(Self { dim, panels: (0..dim).step_by(PANEL).map(panel).collect::<Result<_>>()? })
    }

    /// Bytes of a triangle, with the whole of its diagonal blocks.
    pub(crate) fn bytes(dim: usize) -> usize {
        (dim.saturating_mul(dim.saturating_add(PANEL)) / 2).saturating_mul(size_of::<X>())
    }

    /// `z = scale X k`, one pass over the triangle. PartialSums in `X` run over one panel; the panels are summed in `f64`.
    ///
    /// * `more`: adds further terms to a thread's share of `z`; takes the number of the thread and the number of
    ///   threads
    pub(crate) fn times_vector(
        &self,
        k: &[X],
        scale: f64,
        z: &mut [f64],
        sums: &mut PartialSums<X>,
        more: impl Fn(usize, usize, &mut [f64]) + Sync,
        par: Par,
    ) {
        let threads = par.degree().min(self.panels.len()).max(1);
        sums.shares.clear();
        sums.shares.resize((threads - 1) * self.dim, 0.0);
        sums.panel.resize(threads * self.dim, X::default());
        z.fill(0.0);
        let work = PanelWork { triangle: self, k, scale, more, threads };
        work.fan_out(z, &mut sums.shares, &mut sums.panel, 0..threads);
        for share in sums.shares.chunks_exact(self.dim) {
            z.iter_mut().zip(share).for_each(|(z, share)| *z += share);
        }
    }
}

impl Triangle<f64> {
    /// The lower triangle of a matrix given by its entries.
    pub(crate) fn from_fn(dim: usize, need: Need, entry: impl Fn(usize, usize) -> f64) -> Result<Self> {
        let mut triangle = Self::zeros(dim, need)?;
        for (p, panel) in triangle.panels.iter_mut().enumerate() {
            for j in 0..panel.ncols() {
                let (first, column) = (p * PANEL, &mut panel.col_as_slice_mut(j)[j..]);
                column.iter_mut().enumerate().for_each(|(i, x)| *x = entry(first + j + i, first + j));
            }
        }
        Ok(triangle)
    }

    /// `X <- X + alpha A Bᵀ`, for a symmetric product.
    pub(crate) fn add_product(&mut self, A: MatRef<'_, f64>, B: MatRef<'_, f64>, alpha: f64, par: Par) {
        if A.ncols() == 0 {
            return;
        }
        for (p, panel) in self.panels.iter_mut().enumerate() {
            let (first, rows, width) = (p * PANEL, panel.nrows(), panel.ncols());
            let (left, right) = (A.subrows(first, rows), B.subrows(first, width).transpose());
            // faer's kernel reads the right-hand side as it lies, every number of a column from another page.
            let copied = (B.ncols() >= WORTH_A_COPY).then(|| right.to_owned());
            let right = copied.as_ref().map_or(right, Mat::as_ref);
            linalg::matmul(panel.as_mut(), Accum::Add, left, right, alpha, par);
        }
    }

    /// `X <- X + Y`, of the same size.
    pub(crate) fn add(&mut self, other: &Self) {
        self.panels.iter_mut().zip(&other.panels).for_each(|(panel, other)| *panel += other);
    }

    /// `X <- factor X`.
    pub(crate) fn scale_by(&mut self, factor: f64) {
        for panel in &mut self.panels {
            (0..panel.ncols()).for_each(|j| panel.col_as_slice_mut(j).iter_mut().for_each(|x| *x *= factor));
        }
    }

    /// `Z = scale X K`.
    pub(crate) fn times_matrix(&self, K: MatRef<'_, f64>, scale: f64, mut Z: MatMut<'_, f64>, par: Par) {
        Z.fill(0.0);
        for (p, panel) in self.panels.iter().enumerate() {
            let (first, width) = (p * PANEL, panel.ncols());
            let mut diagonal = panel.as_ref().subrows(0, width).to_owned();
            linalg::mirror(diagonal.as_mut());
            let here = K.subrows(first, width);
            let (above, mut below) = Z.as_mut().split_at_row_mut(first + width);
            let mut rows = above.subrows_mut(first, width);
            linalg::matmul(rows.as_mut(), Accum::Add, diagonal.as_ref(), here, scale, par);
            let rest = panel.nrows() - width;
            if rest > 0 {
                let lower = panel.as_ref().subrows(width, rest);
                linalg::matmul(below.as_mut(), Accum::Add, lower, here, scale, par);
                linalg::matmul(rows, Accum::Add, lower.transpose(), K.subrows(first + width, rest), scale, par);
            }
        }
    }

    /// `M <- M + alpha X` in the lower triangle of `M`.
    pub(crate) fn add_to(&self, mut M: MatMut<'_, f64>, alpha: f64) {
        for (p, panel) in self.panels.iter().enumerate() {
            for j in 0..panel.ncols() {
                let column = p * PANEL + j;
                let to = M.as_mut().col_mut(column).subrows_mut(column, self.dim - column);
                to.iter_mut().zip(&panel.col_as_slice(j)[j..]).for_each(|(to, x)| *to += alpha * x);
            }
        }
    }

    pub(crate) fn trace(&self) -> f64 {
        self.panels.iter().map(|panel| (0..panel.ncols()).map(|j| panel[(j, j)]).sum::<f64>()).sum()
    }

    /// Whether all entries are finite.
    pub(crate) fn is_finite(&self) -> bool {
        // Only the lower triangle of a diagonal block counts, but the rest comes from the same products.
        self.panels.iter().all(|panel| panel.as_ref().is_all_finite())
    }

    /// Writes the entries times a scale; bit for bit if that is 1.
    pub(crate) fn save(&self, out: &mut dyn Write, scale: f64) -> bytes::Result<()> {
        for panel in &self.panels {
            bytes::write_numbers(out, panel.col_iter().flat_map(|column| column.iter().map(|x| scale * x)))?;
        }
        Ok(())
    }

    /// Writes what [`save`](Self::save) would write of zeros.
    pub(crate) fn save_zeros(dim: usize, out: &mut dyn Write) -> bytes::Result<()> {
        (0..dim).step_by(PANEL).try_for_each(|first| {
            let entries = (dim - first) * PANEL.min(dim - first);
            bytes::write_numbers(out, std::iter::repeat_n(0.0_f64, entries))
        })
    }

    /// Loads entries of the same size that [`save`](Self::save) wrote. After an error they are unspecified.
    pub(crate) fn load(&mut self, from: &mut dyn Read) -> bytes::Result<()> {
        self.panels.iter_mut().try_for_each(|panel| bytes::read_columns(from, panel))
    }
}

impl Large for Triangle<f64> {
    fn write(&self, out: &mut dyn Write) -> bytes::Result<()> {
        self.save(out, 1.0)
    }

    fn let_go(&mut self) {
        self.panels = Vec::new();
    }

    fn read(&mut self, from: &mut dyn Read) -> bytes::Result<()> {
        let need = Need::new("a matrix from disk", self.dim, self.dim).bytes(Self::bytes(self.dim));
        *self = Self::zeros(self.dim, need).map_err(bytes::out_of_memory)?;
        self.load(from)
    }
}

/// A product, divided among threads.
struct PanelWork<'a, X, F> {
    triangle: &'a Triangle<X>,
    k: &'a [X],
    scale: f64,
    more: F,
    threads: usize,
}

impl<X: Entry, F: Fn(usize, usize, &mut [f64]) + Sync> PanelWork<'_, X, F> {
    /// Runs a range of the threads. Each works on an equal area of the triangle, into its own vector.
    fn fan_out(&self, z: &mut [f64], shares: &mut [f64], panel_sums: &mut [X], some: std::ops::Range<usize>) {
        let (Self { triangle, k, scale, more, threads }, dim) = (self, self.triangle.dim);
        if some.len() == 1 {
            // Columns 0..c hold the share 1 - (1 - c/d)² of the triangle.
            let cut = |i: usize| {
                let left = (1.0 - i as f64 / *threads as f64).sqrt();
                ((1.0 - left) * dim as f64 / GROUP as f64).round() as usize * GROUP
            };
            let last = if some.end == *threads { dim } else { cut(some.end) };
            let columns = cut(some.start)..last;
            pulp::Arch::new().dispatch(Columns { triangle, k, scale: *scale, z, panel_sums, columns });
            more(some.start, *threads, z);
        } else {
            let middle = some.start.midpoint(some.end);
            let count = middle - some.start;
            let (left, right) = shares.split_at_mut((count - 1) * dim);
            let (first, rest) = right.split_at_mut(dim);
            let (left_sums, right_sums) = panel_sums.split_at_mut(count * dim);
            rayon::join(
                || self.fan_out(z, left, left_sums, some.start..middle),
                || self.fan_out(first, rest, right_sums, middle..some.end),
            );
        }
    }
}

/// `z += scale (L k + strict(L)ᵀ k)` for some columns of the lower triangle `L`.
struct Columns<'a, X> {
    triangle: &'a Triangle<X>,
    k: &'a [X],
    scale: f64,
    z: &'a mut [f64],
    panel_sums: &'a mut [X],
    columns: std::ops::Range<usize>,
}

impl<X: Entry> pulp::WithSimd for Columns<'_, X> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        simd.vectorize(
            #[inline(always)]
            || match size_of::<X>() {
                // Eight columns of 32 bytes at a time were the fastest of those tried (4 x 64, 4 x 32, 16 x 32).
                4 => self.run::<8>(),
                _ => self.run::<4>(),
            },
        );
    }
}

impl<X: Entry> Columns<'_, X> {
    #[inline(always)]
    fn run<const LANES: usize>(self) {
        let mut column = self.columns.start;
        while column < self.columns.end {
            let (p, first) = (column / PANEL, column);
            let panel = &self.triangle.panels[p];
            let last = self.columns.end.min((p + 1) * PANEL);
            let sums = &mut self.panel_sums[first..];
            sums.fill(X::default());
            while column < last {
                let j = column % PANEL;
                let (k, z) = (&self.k[column..], &mut sums[column - first..]);
                if column + GROUP <= last {
                    let columns = std::array::from_fn(|c| &panel.col_as_slice(j + c)[j..]);
                    group_times_vector::<X, LANES>(columns, k, z);
                    column += GROUP;
                } else {
                    column_times_vector(&panel.col_as_slice(j)[j..], k, z);
                    column += 1;
                }
            }
            self.z[first..].iter_mut().zip(sums).for_each(|(z, sum)| *z += self.scale * sum.to_f64());
        }
    }
}

/// One column from the diagonal downwards: `z += column k_0`, and `z_0 += columnᵀ k` below the diagonal.
#[inline(always)]
fn column_times_vector<X: Entry>(column: &[X], k: &[X], z: &mut [X]) {
    let k0 = k[0];
    z[0] += column[0] * k0;
    let mut dot = X::default();
    for ((&a, &k), z) in column[1..].iter().zip(&k[1..]).zip(&mut z[1..]) {
        dot += a * k;
        *z += a * k0;
    }
    z[0] += dot;
}

/// As [`column_times_vector`], for a group of neighbouring columns at once, each from the diagonal entry of the first.
#[inline(always)]
fn group_times_vector<X: Entry, const LANES: usize>(columns: [&[X]; GROUP], k: &[X], z: &mut [X]) {
    // The small triangle on the diagonal.
    for c in 0..GROUP {
        column_times_vector(&columns[c][c..GROUP], &k[c..GROUP], &mut z[c..GROUP]);
    }
    let factors: [X; GROUP] = std::array::from_fn(|c| k[c]);
    let (k, k_tail) = k[GROUP..].as_chunks::<LANES>();
    let (head, below) = z.split_at_mut(GROUP);
    let (z, z_tail) = below.as_chunks_mut::<LANES>();
    let parts = columns.map(|column| column[GROUP..].as_chunks::<LANES>());
    // Of equal length, so that the compiler drops the checks.
    let n = k.len();
    let chunks: [&[[X; LANES]]; GROUP] = parts.map(|(chunks, _)| &chunks[..n]);
    let z = &mut z[..n];
    let mut dots = [[X::default(); LANES]; GROUP];
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
        let mut dot = dots[c].into_iter().fold(X::default(), |sum, x| sum + x);
        for ((&a, &k), z) in tail.iter().zip(k_tail).zip(z_tail.iter_mut()) {
            dot += a * k;
            *z += a * factors[c];
        }
        head[c] += dot;
    }
}
