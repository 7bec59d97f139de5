//! What goes into an editor and what comes out: a batch of keys and residuals, an update of low rank.

use std::sync::Arc;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};

use rayon::iter::ParallelIterator;

use crate::editor::Remembered;
use crate::error::{EditError, Result};
use crate::inverse_gram::Solution;
use crate::scalar::{Scalar, cast};
use crate::spectrum::Spectrum;
use crate::{check, dense, restraint};

/// How a model stores the edited weight. It is always said, never guessed from shapes: a square weight fits both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Orientation {
    /// `d_out x d_in`, `y = W k`: PyTorch's `Linear`, that is, nearly every model.
    OutputsByInputs,
    /// `d_in x d_out`, `y = k W` for a row `k`: GPT-2's `Conv1D`.
    InputsByOutputs,
}

/// Whether the edits of a batch know of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// They are written together: one solve for all, each residual that of the weight before the batch.
    #[default]
    Together,
    /// They are written one after the other, as if each were a batch of its own, but at the speed of a matrix product: for
    /// streams whose keys are known ahead. The residual of an edit is that of the weight with the edits before it in
    /// place. No refresh comes in between, and a continuous one tests the keys of the sequence together.
    InSequence,
}

/// A batch of edits for one layer: keys and residuals, checked.
///
/// * `keys`: `d_in x n`, the inputs of the edited matrix at the edited token, one column an edit
/// * `residuals`: `d_out x n`, what the matrix's output must change by for each of them
///
/// # Examples
/// ```
/// use betaedit_core::{EditBatch, EditError, faer::mat};
///
/// let keys = mat![[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]];
/// let residuals = mat![[0.5, f64::NAN], [0.0, 0.25]];
/// let refused = EditBatch::new(keys.as_ref(), residuals.as_ref());
/// assert!(matches!(refused, Err(EditError::NonFinite { argument: "residuals", row: 0, col: 1, .. })));
/// # Ok::<(), EditError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct EditBatch<'a, T: Scalar> {
    keys: MatRef<'a, T>,
    residuals: MatRef<'a, T>,
    context: Option<MatRef<'a, T>>,
    order: Order,
}

impl<'a, T: Scalar> EditBatch<'a, T> {
    /// Checks a batch.
    ///
    /// # Errors
    /// A different number of keys and residuals, an empty batch, NaN or infinity.
    pub fn new(keys: MatRef<'a, T>, residuals: MatRef<'a, T>) -> Result<Self> {
        check::not_empty("keys", keys)?;
        check::not_empty("residuals", residuals)?;
        check::shape("residuals", residuals, residuals.nrows(), keys.ncols())?;
        check::finite("keys", keys)?;
        check::finite("residuals", residuals)?;
        Ok(Self { keys, residuals, context: None, order: Order::Together })
    }

    /// The same edits, one after the other.
    #[must_use]
    pub fn in_sequence(mut self) -> Self {
        self.order = Order::InSequence;
        self
    }

    /// The same edits, with the inputs of the edited matrix at all tokens of their requests, `d_in x m`: for methods that
    /// look at more than the edited token ([`SimIe`](crate::SimIe)).
    ///
    /// # Errors
    /// Another length than that of the keys, no column, NaN or infinity.
    pub fn with_context(mut self, context: MatRef<'a, T>) -> Result<Self> {
        check::columns("context", context, self.keys.nrows())?;
        check::finite("context", context)?;
        self.context = Some(context);
        Ok(self)
    }

    /// Inputs of the edited matrix at all tokens, if they were given.
    #[must_use]
    pub fn context(&self) -> Option<MatRef<'a, T>> {
        self.context
    }

    /// These edits with other keys and residuals, one for several.
    pub(crate) fn merged<'b>(&self, keys: &'b Mat<T>, residuals: &'b Mat<T>) -> EditBatch<'b, T>
    where
        'a: 'b,
    {
        EditBatch { keys: keys.as_ref(), residuals: residuals.as_ref(), ..*self }
    }

    /// Whether the edits know of each other.
    #[must_use]
    pub fn order(&self) -> Order {
        self.order
    }

    /// The keys `K`, `d_in x n`.
    #[must_use]
    pub fn keys(&self) -> MatRef<'a, T> {
        self.keys
    }

    /// The residuals `R`, `d_out x n`.
    #[must_use]
    pub fn residuals(&self) -> MatRef<'a, T> {
        self.residuals
    }

    /// Number of edits `n` in the batch.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.keys.ncols()
    }
}

/// A change of one weight, `Delta = left right` (`d_out x d_in`), always as factors of rank `n`.
///
/// (A [restraint](crate::restraint) may make it dense: then one of the factors is the identity, and `n` the smaller side.)
/// As factors an update takes `n (d_in + d_out)` numbers, is exactly a LoRA pair (`B = left`, `A = right`), and can be
/// subtracted again. One that an editor proposed holds `2 n d_in` more in `f64` until it is [`detached`](Self::detached).
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
/// # Ok::<(), betaedit_core::EditError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Update<T: Scalar> {
    left: Mat<T>,
    /// The transpose of the right factor, so that one edit is one contiguous column.
    right: Mat<T>,
    form: Form,
    edits: usize,
    pub(crate) proposal: Option<Proposal>,
}

/// How the factors of an update are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Factors,
    /// The factor on the smaller side is the identity: the other one is `Delta`, and nothing needs to be multiplied.
    Dense,
}

/// What an editor needs to commit an update that it proposed: not to be made by anyone else.
#[derive(Clone, Debug)]
pub(crate) struct Proposal {
    pub(crate) solution: Solution,
    pub(crate) remembered: Remembered,
    /// The state that the update was proposed in.
    pub(crate) state: Arc<()>,
}

impl<T: Scalar> Update<T> {
    /// An update from its factors, for example one read from a file. An editor commits only updates that it proposed.
    ///
    /// * `left`: `d_out x n`
    /// * `right`: `n x d_in`
    ///
    /// # Errors
    /// Factors that do not fit each other, empty ones, NaN or infinity.
    pub fn from_factors(left: Mat<T>, right: Mat<T>) -> Result<Self> {
        check::not_empty("left", left.as_ref())?;
        check::not_empty("right", right.as_ref())?;
        check::shape("right", right.as_ref(), left.ncols(), right.ncols())?;
        check::finite("left", left.as_ref())?;
        check::finite("right", right.as_ref())?;
        let edits = left.ncols();
        Self { left, right: right.transpose().to_owned(), form: Form::Factors, edits, proposal: None }.representable()
    }

    /// `Delta = left directionsᵀ`, as an editor proposes it for so many edits.
    pub(crate) fn proposed(left: Mat<T>, directions: &Mat<f64>, edits: usize, proposal: Proposal) -> Result<Self> {
        let right = cast::<f64, T>(directions.as_ref());
        check::no_overflow("the update", right.as_ref())?;
        Self { left, right, form: Form::Factors, edits, proposal: Some(proposal) }.representable()
    }

    /// The same update as far as its editor is concerned, with other factors: `left` (`d_out x m`), and `right` transposed
    /// (`d_in x m`).
    pub(crate) fn with_factors(&self, left: Mat<T>, right: Mat<T>) -> Result<Self> {
        check::no_overflow("the changed update", left.as_ref())?;
        check::no_overflow("the changed update", right.as_ref())?;
        Self { left, right, form: Form::Factors, edits: self.edits, proposal: self.proposal.clone() }.representable()
    }

    /// The same update as far as its editor is concerned, with a dense `Delta` in place of its own.
    pub(crate) fn with_entries(&self, Delta: Mat<T>) -> Result<Self> {
        let (d_out, d_in) = Delta.shape();
        let changed = if d_out <= d_in {
            self.with_factors(Mat::identity(d_out, d_out), Delta.transpose().to_owned())?
        } else {
            self.with_factors(Delta, Mat::identity(d_in, d_in))?
        };
        Ok(Self { form: Form::Dense, ..changed })
    }

    /// The entries of `Delta`, if they are there without a multiplication.
    fn entries(&self) -> Option<MatRef<'_, T>> {
        match self.form {
            Form::Factors => None,
            Form::Dense if self.d_out() <= self.d_in() => Some(self.right()),
            Form::Dense => Some(self.left()),
        }
    }

    /// Directions that committing the update will take out of the space, by continuous refresh.
    #[cfg(feature = "session")]
    pub(crate) fn saturated(&self) -> usize {
        self.proposal.as_ref().map_or(0, |proposal| proposal.remembered.saturated())
    }

    /// The update without what a commit would need: half the memory or less, for updates that are kept.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.proposal = None;
        self
    }

    /// Refuses factors whose product leaves the range of `T`.
    fn representable(self) -> Result<Self> {
        if self.bound() <= T::MAX { Ok(self) } else { Err(EditError::Overflow { step: "the update", scalar: T::NAME }) }
    }

    /// An upper bound of every entry of `Delta`.
    pub(crate) fn bound(&self) -> f64 {
        if let Some(entries) = self.entries() {
            return dense::largest(entries);
        }
        let norms = dense::column_norms(self.left.as_ref()).into_iter().zip(dense::column_norms(self.right.as_ref()));
        norms.map(|(l, r)| l * r).sum()
    }

    /// Refuses, under the name of an argument, an update of another weight.
    pub(crate) fn check_shape(&self, argument: &'static str, d_out: usize, d_in: usize) -> Result<()> {
        let (expected, found) = ((d_out, d_in).into(), (self.d_out(), self.d_in()).into());
        if expected == found { Ok(()) } else { Err(EditError::Shape { argument, expected, found }) }
    }

    /// The left factor, `d_out x n`: for a proposed update, the residuals.
    #[must_use]
    pub fn left(&self) -> MatRef<'_, T> {
        self.left.as_ref()
    }

    /// The right factor, `n x d_in`.
    #[must_use]
    pub fn right(&self) -> MatRef<'_, T> {
        self.right.transpose()
    }

    /// Number of columns `n` of the left factor, an upper bound of the rank.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.left.ncols()
    }

    /// How many edits it is of: as many as columns, but for edits that were merged, and updates that were changed.
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

    /// `g = kᵀ Q k` of every key of the batch, for an update that an editor proposed (else empty): see
    /// [`Solution::gains`].
    #[must_use]
    pub fn gains(&self) -> &[f64] {
        self.proposal.as_ref().map_or(&[], |proposal| proposal.solution.gains())
    }

    /// `Delta` as a dense matrix, `d_out x d_in`.
    #[must_use]
    pub fn dense(&self, par: Par) -> Mat<T> {
        self.entries().map_or_else(|| dense::product(self.left(), self.right(), par), |entries| entries.to_owned())
    }

    /// `Delta X` for a `d_in x m` matrix, through the factors: `2 n m (d_in + d_out)` flops.
    ///
    /// # Errors
    /// Wrong shape.
    pub fn product(&self, X: MatRef<'_, T>, par: Par) -> Result<Mat<T>> {
        check::shape("X", X, self.d_in(), X.ncols())?;
        check::finite("X", X)?;
        if let Some(entries) = self.entries() {
            return Ok(dense::product(entries, X, par));
        }
        Ok(dense::product(self.left(), dense::product(self.right(), X, par).as_ref(), par))
    }

    /// `W <- W + Delta` in a weight of either orientation. Cost: for `n = 1`, one pass over the weight to check it, and
    /// one to change it.
    ///
    /// # Errors
    /// A weight of another shape, one that holds NaN or infinity, or one that would; it is unchanged then.
    pub fn apply_to(&self, weight: MatMut<'_, T>, orientation: Orientation, par: Par) -> Result<()> {
        self.add_to(weight, orientation, 1.0, par)
    }

    /// `W <- W - Delta`: takes back what [`apply_to`](Self::apply_to) added, up to the rounding of the additions.
    ///
    /// # Errors
    /// As [`apply_to`](Self::apply_to).
    pub fn subtract_from(&self, weight: MatMut<'_, T>, orientation: Orientation, par: Par) -> Result<()> {
        self.add_to(weight, orientation, -1.0, par)
    }

    fn add_to(&self, weight: MatMut<'_, T>, orientation: Orientation, sign: f64, par: Par) -> Result<()> {
        let weight = match orientation {
            Orientation::OutputsByInputs => {
                check::shape("weight", weight.as_ref(), self.d_out(), self.d_in())?;
                weight
            }
            Orientation::InputsByOutputs => {
                check::shape("weight", weight.as_ref(), self.d_in(), self.d_out())?;
                weight.transpose_mut()
            }
        };
        // One comparison finds NaN, infinity, and entries from which the update might overflow.
        let room = (T::MAX - self.bound()) * (1.0 - T::EPSILON);
        let fits = |part: MatRef<'_, T>| {
            let within =
                |column: faer::ColRef<'_, T>| column.iter().fold(true, |all, x| all & (x.to_f64().abs() <= room));
            part.col_iter().all(within)
        };
        let lines = check::along_memory(weight.as_ref());
        let threads = par.degree().min(lines.ncols());
        if !lines.par_col_partition(threads).all(fits) {
            check::finite("weight", weight.as_ref())?;
            return Err(EditError::Overflow { step: "the edited weight", scalar: T::NAME });
        }
        self.add_unchecked(weight, sign, par);
        Ok(())
    }

    /// `W <- W ± Delta` (`d_out x d_in`), where shapes and range are known to be right.
    pub(crate) fn add_unchecked(&self, weight: MatMut<'_, T>, sign: f64, par: Par) {
        if let Some(entries) = self.entries() {
            let add = |w: &mut T, d: T| *w = T::of_f64(w.to_f64() + sign * d.to_f64());
            return faer::zip!(weight, entries).for_each(|faer::unzip!(w, d)| add(w, *d));
        }
        let sign = T::of_f64(sign);
        match weight.row_stride() {
            1 => matmul(weight, Accum::Add, self.left(), self.right(), sign, par),
            _ => {
                matmul(weight.transpose_mut(), Accum::Add, self.right().transpose(), self.left().transpose(), sign, par)
            }
        }
    }

    /// The same update with factors in another number type, each entry rounded once.
    ///
    /// # Errors
    /// [`EditError::Overflow`] if a factor or their product leaves the range of `U`.
    pub fn cast<U: Scalar>(&self) -> Result<Update<U>> {
        let (left, right) = (cast::<T, U>(self.left()), cast::<T, U>(self.right.as_ref()));
        check::no_overflow("the conversion of the update", left.as_ref())?;
        check::no_overflow("the conversion of the update", right.as_ref())?;
        Update { left, right, form: self.form, edits: self.edits, proposal: None }.representable()
    }

    /// The Frobenius norm `|Delta|_F`, in `f64` from the factors: `O(n² (d_in + d_out))`.
    #[must_use]
    pub fn frobenius_norm(&self) -> f64 {
        if let Some(entries) = self.entries() {
            let (entries, scale) = dense::unit_scaled(entries);
            return entries.norm_l2() * scale;
        }
        let (inner, scale, _) = self.scaled_inner(self);
        dense::clamped(inner).sqrt() * scale
    }

    /// The spectral norm `|Delta|_2`, the largest singular value, in `f64` from the factors:
    /// `O(n² (d_in + d_out) + n³)`.
    ///
    /// # Errors
    /// A failed decomposition of an `n x n` matrix.
    pub fn spectral_norm(&self) -> Result<f64> {
        if let Some(entries) = self.entries() {
            return restraint::spectral_norm(entries, Par::Seq);
        }
        let [(L, left_scale), (R, right_scale)] = [self.left(), self.right.as_ref()].map(|factor| {
            let (factor, scale) = dense::unit_scaled(factor);
            (dense::product(factor.transpose(), factor.as_ref(), Par::Seq), scale)
        });
        // |left right|² is the largest eigenvalue of L R, and of the symmetric R^(1/2) L R^(1/2).
        let spectrum = Spectrum::decompose("the Gram matrix of the right factor", R, Par::Seq)?;
        let n = spectrum.dim();
        let root = Mat::from_fn(n, n, |i, j| spectrum.vectors()[(i, j)] * spectrum.values()[j].sqrt());
        let LR = dense::product(L.as_ref(), root.as_ref(), Par::Seq);
        let product = dense::product(root.transpose(), LR.as_ref(), Par::Seq);
        let spectrum = Spectrum::decompose("the Gram matrix of the update", product, Par::Seq)?;
        Ok(spectrum.largest().sqrt() * left_scale * right_scale)
    }

    /// `<Delta, Other> = tr(Delta Otherᵀ)`, in `f64` from the factors: how two updates interfere. Negative means that
    /// one undoes part of the other.
    ///
    /// # Errors
    /// Updates of different weights, or overflow.
    pub fn inner(&self, other: &Self) -> Result<f64> {
        other.check_shape("other", self.d_out(), self.d_in())?;
        let (inner, ours, theirs) = self.scaled_inner(other);
        let inner = inner * ours * theirs;
        check::in_range("the inner product", &[inner])?;
        Ok(inner)
    }

    /// The inner product as a number of moderate size and a scale for each side, so that no square leaves the range.
    fn scaled_inner(&self, other: &Self) -> (f64, f64, f64) {
        let gram = |a: &Mat<T>, b: &Mat<T>| {
            let ((a, scale_a), (b, scale_b)) = (dense::unit_scaled(a.as_ref()), dense::unit_scaled(b.as_ref()));
            (dense::product(a.transpose(), b.as_ref(), Par::Seq), scale_a, scale_b)
        };
        let ((L, l, other_l), (R, r, other_r)) = (gram(&self.left, &other.left), gram(&self.right, &other.right));
        (dense::inner(L.as_ref(), R.as_ref()), l * r, other_l * other_r)
    }
}
