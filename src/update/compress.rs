//! Many updates as one, and compression to a smaller rank.

use faer::{Mat, MatRef, Par, Scale};

use super::Update;
use crate::error::numerics::{NumericsError, Result};
use crate::linalg::range::range_of;
use crate::linalg::svd::{Qr, Svd, qr, svd};
use crate::linalg::{self, tolerance};
use crate::scalar::{Scalar, cast};
use crate::util::validate;

/// The smallest tolerance that is told apart from rounding: the error is a difference of squares.
const LEAST_TOLERANCE: f64 = 1e-6;

/// How far to compress an update.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Compression {
    /// To this rank, or to the update's own rank if that is smaller.
    Rank(usize),
    /// To the smallest rank whose error is at most this fraction of `|Delta|_F`.
    Tolerance(f64),
}

/// An update compressed to a smaller rank, see [`Update::compressed`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Compressed<T: Scalar> {
    /// The compressed update.
    pub update: Update<T>,
    /// Upper bound of `|Delta - Delta'|_F`: the part that was cut off, plus the rounding of the factors to `T`.
    pub error: f64,
}

impl<T: Scalar> Update<T> {
    /// The exact sum of several updates as one update. Its rank is the sum of their ranks. Use it to make one adapter
    /// of a whole session.
    ///
    /// # Errors
    /// An empty list, updates of different shapes, or a sum beyond the range of `T`.
    pub fn stacked<'a>(updates: impl IntoIterator<Item = &'a Self>) -> Result<Self> {
        let updates: Vec<_> = updates.into_iter().collect();
        let Some(first) = updates.first() else {
            return Err(NumericsError::Empty { argument: "updates", item: "update" });
        };
        for update in &updates {
            update.check_shape("updates", first.d_out(), first.d_in())?;
        }
        let rank = updates.iter().map(|update| update.rank()).sum();
        let (mut left, mut right) = (Mat::zeros(first.d_out(), rank), Mat::zeros(rank, first.d_in()));
        let mut done = 0;
        for update in updates {
            left.as_mut().subcols_mut(done, update.rank()).copy_from(update.left());
            right.as_mut().subrows_mut(done, update.rank()).copy_from(update.right());
            done += update.rank();
        }
        Self::from_factors(left, right)
    }

    /// The update of about the smallest rank that is within a share of a matrix: `|Delta - D|_F <= tolerance |D|_F`. Use it where many edits
    /// have been summed into one matrix whose rank is far below its size.
    ///
    /// A basis of the range of `D` grows by products with random vectors until it holds `D` (Halko, Martinsson, Tropp, "Finding structure
    /// with randomness", SIAM Review 2011, algorithm 4.2, with the error measured and not estimated); what it holds is
    /// [compressed](Self::compressed). The result is the same in every run. Cost: at most about `12 d_out d_in r` flops for rank `r`.
    ///
    /// * `matrix`: `d_out x d_in`
    /// * `tolerance`: from 1e-6 to 1
    ///
    /// # Errors
    /// An empty matrix, NaN or infinity, a tolerance out of range, a norm beyond the range of numbers, not enough memory, or a decomposition
    /// that fails its verification.
    ///
    /// # Examples
    /// ```
    /// use betaedit_core::{Update, faer::{Mat, Par}};
    ///
    /// let sum = Mat::from_fn(40, 60, |i, j| (i * j) as f64 - j as f64);
    /// let update = Update::from_dense(sum.as_ref(), 1e-6, Par::Seq)?.update;
    /// assert_eq!(update.rank(), 1);
    /// assert!((update.to_dense(Par::Seq) - &sum).norm_l2() <= 1e-6 * sum.norm_l2());
    /// # Ok::<(), betaedit_core::Error>(())
    /// ```
    pub fn from_dense(matrix: MatRef<'_, T>, tolerance: f64, par: Par) -> Result<Compressed<T>> {
        validate::not_empty("matrix", matrix)?;
        validate::finite("matrix", matrix)?;
        if !(LEAST_TOLERANCE..=1.0).contains(&tolerance) {
            let (parameter, allowed) = ("tolerance", "from 1e-6 to 1");
            return Err(NumericsError::Parameter { parameter, value: tolerance, allowed });
        }
        // A tenth is for the range, the rest for the cut.
        let range = range_of(matrix, 0.1 * tolerance, par)?;
        let unit = Update::from_factors(range.basis, range.within)?;
        let Compressed { update: unit, error } = unit.compressed(Compression::Tolerance(0.9 * tolerance), par)?;
        let rounding = T::EPSILON * unit.left().norm_l2() * unit.right().norm_l2();
        let error = (error + range.missing + rounding) * range.scale;
        validate::in_range("the error of the compression", &[error])?;
        // Both factors have a share of the scale, as they have of the singular values.
        let of_left = linalg::power_of_two(range.scale.sqrt());
        let (left, right) = (unit.left() * Scale(of_left), unit.right() * Scale(range.scale / of_left));
        Ok(Compressed { update: Update::from_factors(left, right)?.cast()?, error })
    }

    /// The nearest update of a smaller rank.
    ///
    /// It takes QR decompositions of both factors and a singular value decomposition of the small product of the
    /// triangles (Eckart, Young 1936: no update of that rank is nearer). The factors share the singular values evenly.
    /// Cost: `O(n² (d_in + d_out) + n³)`; in the last term, `n` is at most `min(d_in, d_out)`.
    ///
    /// # Errors
    /// A rank of 0, a tolerance outside 0 to 1, or a decomposition that fails its verification.
    ///
    /// # Examples
    /// ```
    /// use betaedit_core::{Update, faer::{mat, Mat, Par}, update::{Compressed, Compression}};
    ///
    /// // Two nearly equal edits.
    /// let update = Update::from_factors(mat![[3.0, 3.0], [4.0, 4.001]], mat![[1.0, 0.0], [1.0, 0.001]])?;
    /// let Compressed { update: one, error, .. } = update.compressed(Compression::Rank(1), Par::Seq)?;
    /// assert_eq!(one.rank(), 1);
    /// let difference = update.to_dense(Par::Seq) - one.to_dense(Par::Seq);
    /// assert!(difference.norm_l2() <= error && error < 1e-2);
    /// # Ok::<(), betaedit_core::Error>(())
    /// ```
    pub fn compressed(&self, to: Compression, par: Par) -> Result<Compressed<T>> {
        match to {
            Compression::Rank(0) => {
                return Err(NumericsError::Parameter { parameter: "rank", value: 0.0, allowed: "at least 1" });
            }
            Compression::Tolerance(share) if !(0.0..=1.0).contains(&share) => {
                return Err(NumericsError::Parameter { parameter: "tolerance", value: share, allowed: "from 0 to 1" });
            }
            Compression::Rank(_) | Compression::Tolerance(_) => {}
        }
        let (L, R, Svd { U, S, V }) = self.core(par)?;
        // `dropped[r]`: the norm of what a cut to rank `r` drops.
        let mut dropped: Vec<f64> = S
            .iter()
            .rev()
            .scan(0.0, |sum: &mut f64, s| {
                *sum = sum.hypot(*s);
                Some(*sum)
            })
            .collect();
        dropped.reverse();
        dropped.push(0.0);
        let rank = match to {
            Compression::Rank(rank) => rank.min(S.len()),
            Compression::Tolerance(share) => dropped.partition_point(|cut| *cut > share * dropped[0]).max(1),
        };
        let root: Vec<f64> = S[..rank].iter().map(|s| s.sqrt()).collect();
        let factor = |Qr { basis, scale, .. }: &Qr, vectors: &Mat<f64>| {
            let weighted = Mat::from_fn(vectors.nrows(), rank, |i, j| vectors[(i, j)] * root[j] * scale);
            cast::<f64, T>(linalg::product(basis.as_ref(), weighted.as_ref(), par).as_ref())
        };
        let (left, right) = (factor(&L, &U), factor(&R, &V));
        validate::no_overflow("the compression of the update", left.as_ref())?;
        validate::no_overflow("the compression of the update", right.as_ref())?;
        let kept: f64 = S[..rank].iter().sum();
        // |fl(A) fl(B) - A B| <= (2 u + u²) |A| |B|, and both factors have the squared norm `kept`. The
        // decompositions in f64 add a few more roundings.
        let u = T::EPSILON / 2.0 + tolerance::decomposition(self.rank());
        let error = L.scale * R.scale * (dropped[rank] + (2.0 * u + u * u) * kept);
        validate::in_range("the error of the compression", &[error])?;
        Ok(Compressed { update: Self::from_factors(left, right.transpose().to_owned())?, error })
    }

    /// The update of a smaller rank that is nearest at some keys: `|(Delta - Delta') K|_F` is the smallest that this rank allows.
    ///
    /// `Delta'` is `U Uᵀ Delta`, with the first left singular vectors of `Delta K`. What an update does at its keys takes a lower rank than
    /// the update itself, so a cut costs less than with [`compressed`](Self::compressed).
    ///
    /// * `rank`: the new rank; an update of that rank or a smaller one stays as it is
    /// * `keys`: `d_in x m`
    ///
    /// The error of the result is `|(Delta - Delta') K|_F`, before the factors are rounded to `T`.
    ///
    /// # Errors
    /// A rank of 0, keys of another length, NaN or infinity, or a decomposition that fails its verification.
    ///
    /// # Examples
    /// ```
    /// use betaedit_core::{Update, faer::{mat, Par}};
    ///
    /// // The larger of two parts does nothing at the key.
    /// let update = Update::from_factors(mat![[1.0_f64, 0.0], [0.0, 9.0]], mat![[1.0, 0.0], [0.0, 1.0]])?;
    /// let one = update.compressed_at(1, mat![[1.0], [0.0]].as_ref(), Par::Seq)?;
    /// assert!(one.update.rank() == 1 && one.error < 1e-12);
    /// assert!((one.update.to_dense(Par::Seq)[(0, 0)] - 1.0).abs() < 1e-12);
    /// # Ok::<(), betaedit_core::Error>(())
    /// ```
    pub fn compressed_at(&self, rank: usize, keys: MatRef<'_, T>, par: Par) -> Result<Compressed<T>> {
        if rank == 0 {
            return Err(NumericsError::Parameter { parameter: "rank", value: 0.0, allowed: "at least 1" });
        }
        validate::shape("keys", keys, self.d_in(), keys.ncols())?;
        validate::not_empty("keys", keys)?;
        validate::finite("keys", keys)?;
        if self.rank() <= rank {
            return Ok(Compressed { update: self.clone(), error: 0.0 });
        }
        let at_keys = linalg::product(self.right(), keys, par);
        let outputs = Self::from_factors(self.left().to_owned(), at_keys)?;
        let (U, S, _) = outputs.singular_values(par)?;
        let rank = rank.min(S.len());
        let U = U.subcols(0, rank);
        let within = linalg::product(U.transpose(), cast::<T, f64>(self.left()).as_ref(), par);
        let right = linalg::product(within.as_ref(), cast::<T, f64>(self.right()).as_ref(), par);
        let (left, right) = (cast::<f64, T>(U), cast::<f64, T>(right.as_ref()));
        let error = S[rank..].iter().fold(0.0_f64, |sum, s| sum.hypot(*s));
        Ok(Compressed { update: Self::from_factors(left, right)?.for_edits(self.edits()), error })
    }

    /// Thin singular value decomposition `U diag(s) Vᵀ`, in descending order: `d_out x m`, `m` values, `d_in x m`.
    pub(crate) fn singular_values(&self, par: Par) -> Result<(Mat<f64>, Vec<f64>, Mat<f64>)> {
        let (L, R, Svd { U, S, V }) = self.core(par)?;
        let S: Vec<f64> = S.iter().map(|s| s * L.scale * R.scale).collect();
        validate::in_range("the singular values of the update", &S)?;
        let (U, V) =
            (linalg::product(L.basis.as_ref(), U.as_ref(), par), linalg::product(R.basis.as_ref(), V.as_ref(), par));
        Ok((U, S, V))
    }

    /// `Delta = Q_L (R_L R_Rᵀ) Q_Rᵀ`: both QR decompositions, each triangle divided by a power of two, and the singular
    /// value decomposition of the small product.
    fn core(&self, par: Par) -> Result<(Qr, Qr, Svd)> {
        let (L, R) = (qr(self.left(), par)?, qr(self.right().transpose(), par)?);
        let core = linalg::product(L.triangle.as_ref(), R.triangle.transpose(), par);
        let svd = svd(core.as_ref(), par)?;
        Ok((L, R, svd))
    }
}
