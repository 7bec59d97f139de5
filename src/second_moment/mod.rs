//! What the model already knows: the second moment of a layer's keys.

mod counted;

use std::io::{Read, Write};

use faer::{Mat, MatMut, MatRef, Par};

use counted::Counted;

use crate::error::numerics::{NumericsError, Result};
use crate::linalg::{self, Need, tolerance};
use crate::scalar::Scalar;
use crate::util::large::Large;
use crate::util::shown::shown;
use crate::util::{bytes, validate};

/// Bounds of the factor by which the trace of a mean may differ from the mean squared norm of the witness keys. Edit
/// keys are not typical keys, so the factor is wide. Statistics cover 10^5 to 10^8 tokens, so a sum is still far
/// outside.
const SCALE_BOUND: (f64, f64) = (16.0, 1e4);

/// The second moment of a layer's keys, `C = E[k kᵀ]` (not centred), as a running sum and a count.
///
/// The papers write `K0 K0ᵀ`. Every published program divides by the number of tokens, and every published
/// hyperparameter (thresholds, `lambda`, `lambda1`) is on the scale of that **mean**. Statistics files, however, store
/// the **sum**. Mistaking one for the other changes every result by a factor of millions, without any error. So this
/// type cannot be made from a bare matrix. Accumulate it with [`observe`](Self::observe), or use
/// [`from_sum`](Self::from_sum) or [`from_mean`](Self::from_mean), which state what the matrix is and check it against
/// a few keys of the same layer (`tr C = E |k|²`).
///
/// The same type accumulates the keys of past edits (`H`, a sum) for a refresh of the projector.
///
/// # Memory
/// Nothing until the first key is counted or merged, then a block of 64 keys, and once that was full the lower triangle of a
/// `d_in x d_in` matrix of `f64`, `4 d_in²` bytes, for any number of tokens. While a batch is counted, up to 512 more keys.
///
/// # Long texts
/// [`observe`](Self::observe) counts one batch and returns, so a loop over batches can show its progress, and stop
/// between any two of them. The statistics are complete after every batch.
///
/// # Examples
/// ```
/// use betaedit_core::{SecondMoment, faer::{Mat, Par}};
///
/// let K = Mat::from_fn(3, 100, |i, j| ((i + 1) * (j % 7)) as f64 * 0.1);
/// let mut moment = SecondMoment::new(3);
/// moment.observe(K.as_ref().subcols(0, 60), Par::Seq)?;
///
/// // Another worker counted the rest.
/// let mut rest = SecondMoment::new(3);
/// rest.observe(K.as_ref().subcols(60, 40), Par::Seq)?;
/// moment.merge(&rest)?;
///
/// assert_eq!(moment.tokens(), Some(100));
/// let C = moment.to_mean(Par::Seq)?;
/// let expected = &K * K.transpose() / 100.0;
/// assert!((C - expected).norm_l2() < 1e-12);
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone)]
pub struct SecondMoment {
    d_in: usize,
    tokens: Option<u64>,
    /// `None` before the first key.
    counted: Option<Counted>,
}

shown!([] SecondMoment, "SecondMoment", self => {
    "d_in": self.d_in,
    "tokens": self.tokens,
    "trace": self.trace(),
});

impl SecondMoment {
    /// Empty statistics, for keys of length `d_in`.
    #[must_use]
    pub fn new(d_in: usize) -> Self {
        Self { d_in, tokens: Some(0), counted: None }
    }

    /// Statistics from a **sum** `sum k kᵀ` over `tokens` keys, such as `mom2.mom2` in the files of the MEMIT family.
    ///
    /// * `sum`: `d_in x d_in`, symmetric
    /// * `witness`: `d_in x m`, any keys of the same layer, for example those of the first batch of edits
    ///
    /// # Errors
    /// [`NumericsError::Scale`] if the trace of `sum / tokens` and the mean squared norm of `witness` differ by more
    /// than a factor `sqrt(tokens)` (at least 16, at most 10⁴). If the trace is too small, the matrix looks like a
    /// mean; if it is too large, texts were probably counted instead of tokens. Wrong shapes, NaN, asymmetry, negative
    /// diagonal and `tokens = 0` have their own errors.
    pub fn from_sum<T: Scalar, W: Scalar>(sum: MatRef<'_, T>, tokens: u64, witness: MatRef<'_, W>) -> Result<Self> {
        Self::reserve("sum", sum)?;
        check_matrix("sum", sum)?;
        check_tokens(tokens)?;
        let implied = trace(sum) / tokens as f64;
        let witnessed = witness_norm(witness, sum.nrows())?;
        let (argument, claimed, bound) = ("sum", "a sum over that many tokens", scale_bound(Some(tokens)));
        if implied > 0.0 && implied * bound < witnessed {
            let advice = "it looks like a mean, already divided by the token count";
            return Err(NumericsError::Scale { argument, claimed, implied, witnessed, advice });
        }
        if !(implied <= witnessed * bound) {
            let advice = "the token count is too small: count tokens, not texts";
            return Err(NumericsError::Scale { argument, claimed, implied, witnessed, advice });
        }
        Self::symmetrised(sum, 1.0, Some(tokens))
    }

    /// Statistics from a **mean** `E[k kᵀ]` over `tokens` keys.
    ///
    /// * `mean`: `d_in x d_in`, symmetric
    /// * `tokens`: `None` if the number is unknown; nothing can then be added to the statistics
    /// * `witness`: `d_in x m`, any keys of the same layer, for example those of the first batch of edits
    ///
    /// # Errors
    /// [`NumericsError::Scale`] if the trace of `mean` and the mean squared norm of `witness` differ by more than a
    /// factor `sqrt(tokens)` (at least 16, at most 10⁴; 10⁴ for an unknown count). The factor is wide because edit keys
    /// are not typical keys. If the trace is too large, the matrix looks like a sum. Wrong shapes, NaN, asymmetry,
    /// negative diagonal and a count of 0 have their own errors.
    pub fn from_mean<T: Scalar, W: Scalar>(
        mean: MatRef<'_, T>,
        tokens: Option<u64>,
        witness: MatRef<'_, W>,
    ) -> Result<Self> {
        let moment = Self::from_mean_named("mean", mean, tokens, witness)?;
        let (implied, witnessed) = (trace(mean), witness_norm(witness, mean.nrows())?);
        if implied > 0.0 && implied * scale_bound(tokens) < witnessed {
            let advice = "it seems to be divided by the token count twice";
            return Err(NumericsError::Scale { argument: "mean", claimed: "a mean", implied, witnessed, advice });
        }
        Ok(moment)
    }

    /// Statistics from a sum that was checked for everything but its scale.
    #[cfg(any(feature = "npz", feature = "safetensors"))]
    pub(crate) fn from_checked_sum(sum: MatRef<'_, f64>, tokens: u64) -> Result<Self> {
        Self::symmetrised(sum, 1.0, Some(tokens))
    }

    /// As [`from_mean`](Self::from_mean), with a name for the matrix in errors.
    pub(crate) fn from_mean_named<T: Scalar, W: Scalar>(
        argument: &'static str,
        mean: MatRef<'_, T>,
        tokens: Option<u64>,
        witness: MatRef<'_, W>,
    ) -> Result<Self> {
        Self::reserve(argument, mean)?;
        check_matrix(argument, mean)?;
        tokens.map_or(Ok(()), check_tokens)?;
        let implied = trace(mean);
        let witnessed = witness_norm(witness, mean.nrows())?;
        let total = tokens.unwrap_or(1) as f64;
        validate::in_range("the sum over all tokens", &[implied * total])?;
        // Written this way so that all-zero witness keys, which prove nothing, are refused too.
        if implied > 0.0 && !(implied <= witnessed * scale_bound(tokens)) {
            return Err(NumericsError::Scale {
                argument,
                claimed: "a mean",
                implied,
                witnessed,
                advice: "it looks like a sum over tokens, not yet divided by their number",
            });
        }
        Self::symmetrised(mean, total, tokens)
    }

    /// Asks for the memory before the entries are read.
    fn reserve<T>(argument: &'static str, matrix: MatRef<'_, T>) -> Result<()> {
        validate::square(argument, matrix)?;
        Counted::need(matrix.nrows()).reserve()
    }

    fn symmetrised<T: Scalar>(matrix: MatRef<'_, T>, factor: f64, tokens: Option<u64>) -> Result<Self> {
        let entry = |i, j| factor * (0.5 * matrix[(i, j)].to_f64() + 0.5 * matrix[(j, i)].to_f64());
        let d_in = matrix.nrows();
        Ok(Self { d_in, tokens, counted: Some(Counted::from_fn(d_in, entry)?) })
    }

    /// What statistics hold from the first key on.
    pub(crate) fn need(d_in: usize) -> Need {
        Counted::need(d_in)
    }

    /// Length of the keys.
    #[must_use]
    pub fn d_in(&self) -> usize {
        self.d_in
    }

    /// Number of keys counted so far; `None` for a mean without a count.
    #[must_use]
    pub fn tokens(&self) -> Option<u64> {
        self.tokens
    }

    /// Counts a batch of keys.
    ///
    /// * `keys`: `d_in x n`, one column per token
    ///
    /// Sums are kept in `f64` for keys of either type. Cost: `d_in² n` multiply-adds at matrix-product speed. Keys that
    /// come one at a time are gathered in blocks.
    ///
    /// # Errors
    /// Wrong shape, an empty batch, NaN or infinity, statistics with an unknown token count, or not enough memory. On
    /// error, nothing is counted.
    pub fn observe<T: Scalar>(&mut self, keys: MatRef<'_, T>, par: Par) -> Result<()> {
        validate::columns("keys", keys, self.d_in())?;
        if self.counted.is_none() {
            Counted::need(self.d_in).reserve()?;
        }
        validate::finite("keys", keys)?;
        let added: f64 = linalg::squared_column_norms(keys).iter().sum();
        validate::in_range("the squared norm of the keys", &[added])?;
        // No entry of a positive semidefinite matrix exceeds its trace.
        validate::in_range("the sum over all keys", &[self.trace_of_sum() + added])?;
        let tokens = self.tokens.ok_or(NumericsError::UnknownTokenCount { argument: "self" })?;
        let tokens = count(tokens, keys.ncols() as u64)?;
        self.counted()?.add(keys, par)?;
        self.tokens = Some(tokens);
        Ok(())
    }

    /// Adds statistics that another worker collected over other tokens of the same layer.
    ///
    /// # Errors
    /// Different key lengths, an unknown token count on either side, or not enough memory.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if other.d_in() != self.d_in() {
            let (expected, found) = ((self.d_in(), self.d_in()).into(), (other.d_in(), other.d_in()).into());
            return Err(NumericsError::Shape { argument: "other", expected, found });
        }
        let ours = self.tokens.ok_or(NumericsError::UnknownTokenCount { argument: "self" })?;
        let theirs = other.tokens.ok_or(NumericsError::UnknownTokenCount { argument: "other" })?;
        let tokens = count(ours, theirs)?;
        validate::in_range("the sum over all keys", &[self.trace_of_sum() + other.trace_of_sum()])?;
        if let Some(theirs) = &other.counted {
            self.counted()?.merge(theirs)?;
        }
        self.tokens = Some(tokens);
        Ok(())
    }

    fn counted(&mut self) -> Result<&mut Counted> {
        Ok(match &mut self.counted {
            Some(counted) => counted,
            none => none.insert(Counted::new(self.d_in)?),
        })
    }

    /// Removes keys that were counted, each once.
    ///
    /// * `keys`: `d_in x n`
    ///
    /// # Errors
    /// As [`observe`](Self::observe), and more keys than were counted. On error, nothing is changed.
    pub fn forget<T: Scalar>(&mut self, keys: MatRef<'_, T>, par: Par) -> Result<()> {
        let left = self.holds(keys)?;
        let K = crate::scalar::cast::<T, f64>(keys);
        self.counted()?.sum()?.add_product(K.as_ref(), K.as_ref(), -1.0, par);
        self.tokens = Some(left);
        Ok(())
    }

    /// Checks that these could be counted keys. Returns how many others there are.
    pub(crate) fn holds<T: Scalar>(&self, keys: MatRef<'_, T>) -> Result<u64> {
        validate::columns("keys", keys, self.d_in())?;
        validate::finite("keys", keys)?;
        validate::in_range("the squared norm of the keys", &linalg::squared_column_norms(keys))?;
        let tokens = self.tokens.ok_or(NumericsError::UnknownTokenCount { argument: "self" })?;
        tokens.checked_sub(keys.ncols() as u64).ok_or(NumericsError::Parameter {
            parameter: "number of keys to forget",
            value: keys.ncols() as f64,
            allowed: "at most as many as were counted",
        })
    }

    /// Writes the state, bit for bit.
    pub(crate) fn save(&self, out: &mut dyn Write) -> bytes::Result<()> {
        bytes::write_u64(out, self.tokens.unwrap_or(0))?;
        Counted::save(self.counted.as_ref(), self.d_in, out)
    }

    /// Loads a state that [`save`](Self::save) wrote for counted keys of the same length. After an error the state is
    /// unspecified.
    pub(crate) fn load(&mut self, from: &mut dyn Read) -> bytes::Result<()> {
        self.tokens = Some(bytes::read_u64(from)?);
        self.counted().map_err(bytes::out_of_memory)?.load(from)
    }

    /// The sum of the keys, if there is one.
    pub(crate) fn large(&mut self) -> Option<&mut dyn Large> {
        self.counted.as_mut()?.sum.as_mut().map(|sum| sum as &mut dyn Large)
    }

    /// As [`load`](Self::load), for statistics of any kind: a mean without a count too.
    #[cfg(feature = "files")]
    pub(crate) fn loaded(from: &mut dyn Read, d_in: usize, tokens: Option<u64>) -> bytes::Result<Self> {
        let mut moment = Self::new(d_in);
        moment.load(from)?;
        moment.tokens = tokens;
        Ok(moment)
    }

    /// The mean `C = E[k kᵀ]`, `d_in x d_in`, exactly symmetric. All zeros if no token was counted.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn to_mean(&self, par: Par) -> Result<Mat<f64>> {
        self.to_dense(self.per_token(), par)
    }

    /// The sum `sum k kᵀ` over all tokens, `d_in x d_in`, exactly symmetric. For the keys of past edits it is the
    /// history `H` of the papers. It equals the mean if the token count is unknown.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn to_sum(&self, par: Par) -> Result<Mat<f64>> {
        self.to_dense(1.0, par)
    }

    fn to_dense(&self, scale: f64, par: Par) -> Result<Mat<f64>> {
        let d = self.d_in;
        let need = Need::new("a second moment as a dense matrix", d, d).matrix::<f64>(d, d);
        let mut matrix = need.zeros(d, d)?;
        self.add_to(matrix.as_mut(), scale, par);
        Ok(matrix)
    }

    /// `M <- M + scale sum k kᵀ` for a symmetric `M`, which stays exactly symmetric.
    pub(crate) fn add_to(&self, mut M: MatMut<'_, f64>, scale: f64, par: Par) {
        if let Some(counted) = &self.counted {
            counted.sum.iter().for_each(|sum| sum.add_to(M.as_mut(), scale));
            linalg::add_self_outer(M, counted.waiting(), scale, par);
        }
    }

    /// `C X` for a `d_in x n` matrix `X`, without forming `C`. Cost: one pass over `d_in² / 2` numbers.
    ///
    /// # Errors
    /// Wrong shape.
    pub fn product(&self, X: MatRef<'_, f64>, par: Par) -> Result<Mat<f64>> {
        validate::shape("X", X, self.d_in(), X.ncols())?;
        let need = Need::new("the product C X", X.nrows(), X.ncols()).matrix::<f64>(X.nrows(), X.ncols());
        need.reserve()?;
        validate::finite("X", X)?;
        let mut CX = need.zeros(X.nrows(), X.ncols())?;
        if let Some(counted) = &self.counted {
            counted.product(X, &mut CX, par);
        }
        Ok(CX * faer::Scale(self.per_token()))
    }

    /// `tr C = E |k|²`, the mean squared norm of a key.
    #[must_use]
    pub fn trace(&self) -> f64 {
        self.trace_of_sum() * self.per_token()
    }

    fn trace_of_sum(&self) -> f64 {
        self.counted.as_ref().map_or(0.0, Counted::trace)
    }

    pub(crate) fn per_token(&self) -> f64 {
        1.0 / self.tokens.unwrap_or(1).max(1) as f64
    }
}

pub(crate) fn check_matrix<T: Scalar>(argument: &'static str, matrix: MatRef<'_, T>) -> Result<()> {
    validate::square(argument, matrix)?;
    validate::finite(argument, matrix)?;
    validate::symmetric(argument, matrix, tolerance::SYMMETRY)?;
    let smallest = (0..matrix.nrows()).map(|i| matrix[(i, i)].to_f64()).fold(f64::INFINITY, f64::min);
    if smallest < 0.0 {
        let largest = (0..matrix.nrows()).map(|i| matrix[(i, i)].to_f64()).fold(0.0, f64::max);
        return Err(NumericsError::NotPositiveSemidefinite { argument, smallest, largest });
    }
    Ok(())
}

pub(crate) fn check_tokens(tokens: u64) -> Result<()> {
    if tokens > 0 {
        Ok(())
    } else {
        Err(NumericsError::Parameter { parameter: "tokens", value: 0.0, allowed: "at least 1" })
    }
}

pub(crate) fn trace<T: Scalar>(matrix: MatRef<'_, T>) -> f64 {
    (0..matrix.nrows()).map(|i| matrix[(i, i)].to_f64()).sum()
}

/// The mean squared norm of the witness keys.
fn witness_norm<W: Scalar>(witness: MatRef<'_, W>, d_in: usize) -> Result<f64> {
    validate::columns("witness", witness, d_in)?;
    validate::finite("witness", witness)?;
    let mean = linalg::squared_column_norms(witness).iter().sum::<f64>() / witness.ncols() as f64;
    validate::in_range("the squared norm of the witness keys", &[mean])?;
    Ok(mean)
}

pub(crate) fn count(a: u64, b: u64) -> Result<u64> {
    let allowed = "at most 2^64 - 1 together";
    a.checked_add(b).ok_or(NumericsError::Parameter { parameter: "tokens", value: a as f64 + b as f64, allowed })
}

/// Separates two hypotheses a factor `tokens` apart, halfway on a logarithmic scale.
fn scale_bound(tokens: Option<u64>) -> f64 {
    tokens.map_or(SCALE_BOUND.1, |n| (n as f64).sqrt().clamp(SCALE_BOUND.0, SCALE_BOUND.1))
}
