//! Updates: low-rank changes of a weight, as plain values.

mod compress;
#[cfg(feature = "half")]
mod half_precision;
#[cfg(feature = "half")]
mod precision;
mod weight;

/// The crate of the half precision types. Use this re-export, so that the versions always match.
#[cfg(feature = "half")]
pub use half;

pub use compress::{Compressed, Compression};
#[cfg(feature = "half")]
pub use half_precision::Half;
#[cfg(feature = "half")]
pub use precision::{Precision, Rounding};
pub use weight::{Orientation, Weight};

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};

use rayon::iter::ParallelIterator;

use crate::error::numerics::{NumericsError, Result};
use crate::linalg::{self, Need, lanczos};
use crate::scalar::{Scalar, cast};
use crate::spectrum::Spectrum;
use crate::util::shown::{Shown, shown};
use crate::util::validate;

/// A change of one weight, `Delta = left right` (`d_out x d_in`), stored as factors of rank `n`.
///
/// As factors, an update takes `n (d_in + d_out)` numbers, is exactly a LoRA pair (`B = left`, `A = right`), and can be
/// subtracted again. A [restraint](crate::restraint) may make an update dense. Then one of the factors is the identity,
/// and `n` is the smaller side.
///
/// # Examples
/// ```
/// use betaedit_core::{Orientation, Update, faer::{mat, Mat, Par}};
///
/// let update = Update::from_factors(mat![[1.0], [2.0]], mat![[0.5, 0.0, -1.0]])?;
/// let mut W = Mat::<f64>::zeros(2, 3);
/// update.apply_to(W.as_mut(), Orientation::OutputsByInputs, Par::Seq)?;
/// assert_eq!(W, mat![[0.5, 0.0, -1.0], [1.0, 0.0, -2.0]]);
/// assert!((update.frobenius_norm() - 6.25_f64.sqrt()).abs() < 1e-15);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "an update changes nothing until it is applied to a weight"]
pub struct Update<T: Scalar> {
    left: Mat<T>,
    /// The transpose of the right factor, so that one edit is one contiguous column.
    right: Mat<T>,
    form: Form,
    edits: usize,
}

shown!([T: Scalar] Update<T>, "Update", self => {
    "shape": Shown::from((self.d_out(), self.d_in())),
    "rank": self.rank(),
    "edits": self.edits,
});

/// How to read the factors of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Factors,
    /// The factor on the smaller side is the identity. The other one is `Delta`; no product is needed.
    Dense,
}

/// The factor to scale: never the identity.
enum Side {
    Left,
    Right,
}

impl<T: Scalar> Update<T> {
    /// An update from its factors, for example read from a file.
    ///
    /// * `left`: `d_out x n`
    /// * `right`: `n x d_in`
    ///
    /// # Errors
    /// Factors that do not fit together, empty factors, NaN or infinity, or a product that may leave the range of `T`.
    pub fn from_factors(left: Mat<T>, right: Mat<T>) -> Result<Self> {
        validate::not_empty("left", left.as_ref())?;
        validate::not_empty("right", right.as_ref())?;
        validate::shape("right", right.as_ref(), left.ncols(), right.ncols())?;
        validate::finite("left", left.as_ref())?;
        validate::finite("right", right.as_ref())?;
        let edits = left.ncols();
        Self { left, right: right.transpose().to_owned(), form: Form::Factors, edits }.representable()
    }

    /// `Delta = left directionsᵀ`, for a number of edits.
    pub(crate) fn from_directions(left: Mat<T>, directions: &Mat<f64>, edits: usize) -> Result<Self> {
        let right = cast::<f64, T>(directions.as_ref());
        validate::no_overflow("the update", right.as_ref())?;
        Self { left, right, form: Form::Factors, edits }.representable()
    }

    /// An update for the same edits with other factors: `left` (`d_out x m`), and `right`, transposed (`d_in x m`).
    pub(crate) fn with_factors(&self, left: Mat<T>, right: Mat<T>) -> Result<Self> {
        validate::no_overflow("the changed update", left.as_ref())?;
        validate::no_overflow("the changed update", right.as_ref())?;
        Self { left, right, form: Form::Factors, edits: self.edits }.representable()
    }

    /// The same update, for a number of edits.
    pub(crate) fn for_edits(mut self, edits: usize) -> Self {
        self.edits = edits;
        self
    }

    /// An update for the same edits with a new, dense `Delta`.
    pub(crate) fn with_entries(&self, Delta: Mat<T>) -> Result<Self> {
        let (d_out, d_in) = Delta.shape();
        let changed = if d_out <= d_in {
            self.with_factors(Mat::identity(d_out, d_out), Delta.transpose().to_owned())?
        } else {
            self.with_factors(Delta, Mat::identity(d_in, d_in))?
        };
        Ok(Self { form: Form::Dense, ..changed })
    }

    /// The entries of `Delta`, if they need no product.
    fn entries(&self) -> Option<MatRef<'_, T>> {
        match self.form {
            Form::Factors => None,
            Form::Dense if self.d_out() <= self.d_in() => Some(self.right()),
            Form::Dense => Some(self.left()),
        }
    }

    /// Refuses factors whose product may leave the range of `T`.
    fn representable(self) -> Result<Self> {
        if self.bound() <= T::MAX {
            Ok(self)
        } else {
            Err(NumericsError::Overflow { step: "the update", scalar: T::NAME })
        }
    }

    /// An upper bound of the absolute entries of `Delta`.
    pub(crate) fn bound(&self) -> f64 {
        if let Some(entries) = self.entries() {
            return linalg::largest(entries);
        }
        let norms = linalg::column_norms(self.left.as_ref()).into_iter().zip(linalg::column_norms(self.right.as_ref()));
        norms.map(|(l, r)| l * r).sum()
    }

    /// Checks that the update is for a `d_out x d_in` weight.
    ///
    /// * `argument`: the name of the update in the error
    ///
    /// # Errors
    /// [`NumericsError::Shape`].
    pub fn check_shape(&self, argument: &'static str, d_out: usize, d_in: usize) -> Result<()> {
        let (expected, found) = ((d_out, d_in).into(), (self.d_out(), self.d_in()).into());
        if expected == found { Ok(()) } else { Err(NumericsError::Shape { argument, expected, found }) }
    }

    /// The left factor, `d_out x n`. In a proposed update it holds the residuals.
    #[must_use]
    pub fn left(&self) -> MatRef<'_, T> {
        self.left.as_ref()
    }

    /// The right factor, `n x d_in`.
    #[must_use]
    pub fn right(&self) -> MatRef<'_, T> {
        self.right.transpose()
    }

    /// Number of columns of the left factor, `n`: an upper bound of the rank.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.left.ncols()
    }

    /// Number of edits in the update. It equals [`rank`](Self::rank), unless edits were merged or the update was
    /// changed.
    #[must_use]
    pub fn edits(&self) -> usize {
        self.edits
    }

    /// Rows of the update, `d_out`.
    #[must_use]
    pub fn d_out(&self) -> usize {
        self.left.nrows()
    }

    /// Columns of the update, `d_in`.
    #[must_use]
    pub fn d_in(&self) -> usize {
        self.right.nrows()
    }

    /// `Delta` as a dense matrix, `d_out x d_in`: as many numbers as the weight has.
    #[must_use]
    pub fn to_dense(&self, par: Par) -> Mat<T> {
        self.entries().map_or_else(|| linalg::product(self.left(), self.right(), par), |entries| entries.to_owned())
    }

    /// The update times `c`.
    ///
    /// # Errors
    /// A `c` that is not finite, or a factor beyond the range of `T`.
    pub fn scaled(&self, c: f64) -> Result<Self> {
        validate::finite_number("c", c)?;
        let side = if self.entries().is_some() && self.d_out() <= self.d_in() { Side::Right } else { Side::Left };
        let factor = T::from_f64(c);
        let mut scaled = self.clone();
        match side {
            Side::Left => scaled.left *= faer::Scale(factor),
            Side::Right => scaled.right *= faer::Scale(factor),
        }
        validate::no_overflow("the scaled update", scaled.left.as_ref())?;
        validate::no_overflow("the scaled update", scaled.right.as_ref())?;
        scaled.representable()
    }

    /// `Delta X` for a `d_in x m` matrix, through the factors: `2 n m (d_in + d_out)` flops.
    ///
    /// # Errors
    /// Wrong shape, NaN or infinity.
    pub fn product(&self, X: MatRef<'_, T>, par: Par) -> Result<Mat<T>> {
        validate::shape("X", X, self.d_in(), X.ncols())?;
        validate::finite("X", X)?;
        if let Some(entries) = self.entries() {
            return Ok(linalg::product(entries, X, par));
        }
        Ok(linalg::product(self.left(), linalg::product(self.right(), X, par).as_ref(), par))
    }

    /// `W <- W + Delta`, in a weight of either orientation. Cost for `n = 1`: one pass over the weight to check it, and
    /// one to change it.
    ///
    /// # Errors
    /// A weight of another shape, one that holds NaN or infinity, or one that the update might make overflow. On error,
    /// the weight is unchanged.
    pub fn apply_to(&self, weight: MatMut<'_, T>, orientation: Orientation, par: Par) -> Result<()> {
        self.add_to(weight, orientation, 1.0, par)
    }

    /// `W <- W - Delta`: undoes [`apply_to`](Self::apply_to), up to the rounding of the additions.
    ///
    /// # Errors
    /// As [`apply_to`](Self::apply_to).
    pub fn subtract_from(&self, weight: MatMut<'_, T>, orientation: Orientation, par: Par) -> Result<()> {
        self.add_to(weight, orientation, -1.0, par)
    }

    fn add_to(&self, weight: MatMut<'_, T>, orientation: Orientation, sign: f64, par: Par) -> Result<()> {
        let weight = self.outputs_by_inputs(weight, orientation)?;
        // One comparison finds NaN, infinity, and entries that the update might make overflow.
        let room = (T::MAX - self.bound()) * (1.0 - T::EPSILON);
        let fits = |part: MatRef<'_, T>| {
            let within =
                |column: faer::ColRef<'_, T>| column.iter().fold(true, |all, x| all & (x.to_f64().abs() <= room));
            part.col_iter().all(within)
        };
        let lines = validate::along_memory(weight.as_ref());
        let threads = par.degree().min(lines.ncols());
        if !lines.par_col_partition(threads).all(fits) {
            validate::finite("weight", weight.as_ref())?;
            return Err(NumericsError::Overflow { step: "the edited weight", scalar: T::NAME });
        }
        self.add_unchecked(weight, sign, par);
        Ok(())
    }

    /// A stored weight as `d_out x d_in`, its shape checked.
    fn outputs_by_inputs<'w, W>(&self, weight: MatMut<'w, W>, orientation: Orientation) -> Result<MatMut<'w, W>> {
        match orientation {
            Orientation::OutputsByInputs => {
                validate::shape("weight", weight.as_ref(), self.d_out(), self.d_in())?;
                Ok(weight)
            }
            Orientation::InputsByOutputs => {
                validate::shape("weight", weight.as_ref(), self.d_in(), self.d_out())?;
                Ok(weight.transpose_mut())
            }
        }
    }

    /// `W <- W ± Delta` (`d_out x d_in`), without checks of shape and range.
    pub(crate) fn add_unchecked(&self, weight: MatMut<'_, T>, sign: f64, par: Par) {
        if let Some(entries) = self.entries() {
            let add = |w: &mut T, d: T| *w = T::from_f64(w.to_f64() + sign * d.to_f64());
            return faer::zip!(weight, entries).for_each(|faer::unzip!(w, d)| add(w, *d));
        }
        let sign = T::from_f64(sign);
        match weight.row_stride() {
            1 => matmul(weight, Accum::Add, self.left(), self.right(), sign, par),
            _ => {
                matmul(weight.transpose_mut(), Accum::Add, self.right().transpose(), self.left().transpose(), sign, par)
            }
        }
    }

    /// The same update with factors of another number type, each entry rounded once.
    ///
    /// # Errors
    /// [`NumericsError::Overflow`] if a factor or their product leaves the range of `U`.
    pub fn cast<U: Scalar>(&self) -> Result<Update<U>> {
        let (left, right) = (cast::<T, U>(self.left()), cast::<T, U>(self.right.as_ref()));
        validate::no_overflow("the conversion of the update", left.as_ref())?;
        validate::no_overflow("the conversion of the update", right.as_ref())?;
        Update { left, right, form: self.form, edits: self.edits }.representable()
    }

    /// The Frobenius norm `|Delta|_F`, in `f64` from the factors: `O(n² (d_in + d_out))`, and two `n x n` matrices.
    #[must_use]
    pub fn frobenius_norm(&self) -> f64 {
        if let Some(entries) = self.entries() {
            let (entries, scale) = linalg::unit_scaled(entries);
            return entries.norm_l2() * scale;
        }
        let (inner, scale, _) = self.scaled_inner(self);
        linalg::clamped(inner).sqrt() * scale
    }

    /// The spectral norm `|Delta|_2`, the largest singular value, in `f64` from the factors:
    /// `O(n² (d_in + d_out) + n³)`.
    ///
    /// # Errors
    /// A failed decomposition of an `n x n` matrix, or not enough memory for one.
    pub fn spectral_norm(&self) -> Result<f64> {
        if let Some(entries) = self.entries() {
            return lanczos::spectral_norm(entries, Par::Seq);
        }
        let n = self.rank();
        Need::new("the spectral norm of an update", n, n).matrix::<f64>(n, n).and(Spectrum::need(n)).reserve()?;
        let [(L, left_scale), (R, right_scale)] = [self.left(), self.right.as_ref()].map(|factor| {
            let (factor, scale) = linalg::unit_scaled(factor);
            (linalg::product(factor.transpose(), factor.as_ref(), Par::Seq), scale)
        });
        // |left right|² is the largest eigenvalue of L R, and of the symmetric R^(1/2) L R^(1/2).
        let spectrum = Spectrum::decompose("the Gram matrix of the right factor", R, Par::Seq)?;
        let n = spectrum.dim();
        let root = Mat::from_fn(n, n, |i, j| spectrum.vectors()[(i, j)] * spectrum.values()[j].sqrt());
        let LR = linalg::product(L.as_ref(), root.as_ref(), Par::Seq);
        let product = linalg::product(root.transpose(), LR.as_ref(), Par::Seq);
        let spectrum = Spectrum::decompose("the Gram matrix of the update", product, Par::Seq)?;
        Ok(spectrum.largest().sqrt() * left_scale * right_scale)
    }

    /// `<Delta, Other> = tr(Delta Otherᵀ)`, in `f64` from the factors: the interference of two updates. It is negative
    /// where one undoes part of the other.
    ///
    /// # Errors
    /// Updates of different weights, overflow, or not enough memory.
    pub fn inner(&self, other: &Self) -> Result<f64> {
        other.check_shape("other", self.d_out(), self.d_in())?;
        let (n, m) = (self.rank(), other.rank());
        Need::new("the inner product of two updates", n, m).matrix::<f64>(n, m.saturating_mul(2)).reserve()?;
        let (inner, ours, theirs) = self.scaled_inner(other);
        let inner = inner * ours * theirs;
        validate::in_range("the inner product", &[inner])?;
        Ok(inner)
    }

    /// The inner product as a number of moderate size, and one scale per side, so that no square leaves the range.
    fn scaled_inner(&self, other: &Self) -> (f64, f64, f64) {
        let gram = |a: &Mat<T>, b: &Mat<T>| {
            let ((a, scale_a), (b, scale_b)) = (linalg::unit_scaled(a.as_ref()), linalg::unit_scaled(b.as_ref()));
            (linalg::product(a.transpose(), b.as_ref(), Par::Seq), scale_a, scale_b)
        };
        let ((L, l, other_l), (R, r, other_r)) = (gram(&self.left, &other.left), gram(&self.right, &other.right));
        (linalg::inner(L.as_ref(), R.as_ref()), l * r, other_l * other_r)
    }
}
