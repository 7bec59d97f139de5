//! Ridge regression over a stream of samples, with exact forgetting.
//!
//! The weight that minimises
//!
//! ```text
//! sum_i |W x_i - y_i|² + gamma |W|_F²
//! ```
//!
//! over all samples that were fitted and not forgotten. A sample costs one pass over the state of the
//! [engine](crate::engine) and one over the weight, whatever the number of samples before it. No sample is visited twice, and
//! the order does not matter.
//!
//! This is the classifier of analytic continual learning (ACIL), where outputs are classes that are
//! [added](Ridge::add_outputs) as they appear. [Forgetting](Ridge::forget) gives the weight that would result if the samples
//! had never been fitted.
//!
//! # References
//! Zhuang et al., "ACIL: Analytic Class-Incremental Learning with Absolute Memorization and Privacy Protection", NeurIPS 2022.

#[cfg(feature = "files")]
mod file;
mod ledger;
mod state;

pub use self::ledger::Samples;

use std::ops::Range;

use faer::{Mat, MatRef, Par};

use self::ledger::{Held, Ledger};
use self::state::RidgeState;
use crate::engine::InverseGram;
use crate::error::numerics::{NumericsError, Result};
use crate::linalg;
use crate::scalar::{Scalar, cast};
use crate::util::shown::shown;
use crate::util::validate;

/// Samples that are fitted or forgotten in one step. More are taken in several steps: a step factors a matrix of this size.
const BLOCK: usize = 256;

/// Ridge regression over a stream of samples: see the [module](self).
///
/// Samples are **columns**: `X` is `d_in x n`, `Y` is `d_out x n`. For matrices from numpy and scikit-learn, where samples are
/// rows, pass the transpose, which costs nothing. The result is that of scikit-learn's `Ridge(alpha=gamma, fit_intercept=False)`,
/// with a rounding error that grows with `|x|² / gamma` (about `1e-18 |x|² / gamma`, relative, in one measurement): scale large
/// features down. For an intercept, add a row of ones to `X`; it is penalised like the others.
///
/// All numbers are kept in `f64`. Memory: `4 d_in²` bytes for the engine, `8 d_in d_out` for the weight, and about 150 bytes per
/// sample.
///
/// # Examples
/// ```
/// use betaedit_core::faer::{Par, mat};
/// use betaedit_core::ridge::Ridge;
///
/// let mut ridge = Ridge::new(2, 1, 0.1, Par::Seq)?;
/// let (X, Y) = (mat![[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], mat![[2.0, -1.0, 1.0]]);
/// ridge.fit(X.as_ref(), Y.as_ref())?;
/// assert!((ridge.predict(mat![[1.0], [0.0]].as_ref())?[(0, 0)] - 1.85).abs() < 0.01);
///
/// // A second class appears.
/// ridge.add_outputs(1)?;
/// let (x, y) = (mat![[3.0], [-1.0]], mat![[0.0], [1.0]]);
/// let numbers = ridge.fit(x.as_ref(), y.as_ref())?;
/// assert_eq!((numbers, ridge.d_out()), (3..4, 2));
///
/// // Its only sample is forgotten: the class has no weight left.
/// ridge.forget(x.as_ref(), y.as_ref())?;
/// assert!(ridge.weight().row(1).norm_l2() < 1e-12);
/// assert!(ridge.forget(x.as_ref(), y.as_ref()).is_err()); // it is no longer there
/// # Ok::<(), betaedit_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Ridge {
    gamma: f64,
    state: RidgeState,
    ledger: Ledger,
    par: Par,
}

impl Ridge {
    /// A regression without samples, whose weight is zero.
    ///
    /// * `d_in`: length of a sample
    /// * `d_out`: number of outputs; more can be [added](Self::add_outputs)
    /// * `gamma`: weight of the penalty, `alpha` in scikit-learn
    ///
    /// # Errors
    /// No input, no output, a `gamma` that is not a positive number, or not enough memory.
    pub fn new(d_in: usize, d_out: usize, gamma: f64, par: Par) -> Result<Self> {
        validate::positive("gamma", gamma)?;
        if d_out == 0 {
            return Err(NumericsError::Empty { argument: "d_out", item: "output" });
        }
        let state = RidgeState::new(InverseGram::isotropic(d_in, gamma, par)?, d_out)?;
        Ok(Self { gamma, state, ledger: Ledger::new(Samples::default()), par })
    }

    /// Sets what is remembered of the samples.
    ///
    /// # Errors
    /// Samples that were already fitted.
    pub fn with_samples(mut self, samples: Samples) -> Result<Self> {
        if self.ledger.fitted() > 0 {
            let what =
                "changing what is remembered after samples were fitted: call `with_samples` before the first `fit`";
            return Err(NumericsError::Unsupported { what: what.to_owned() });
        }
        self.ledger = Ledger::new(samples);
        Ok(self)
    }

    /// Adds outputs, for example new classes. All earlier samples have the target 0 there.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn add_outputs(&mut self, count: usize) -> Result<()> {
        self.state.add_outputs(count)
    }

    /// Fits samples. Returns their numbers, which count up from 0.
    ///
    /// * `X`: `d_in x n`
    /// * `Y`: `d_out x n`
    ///
    /// Cost: `2 n d_in (d_in + 2 d_out)` flops, and `O(d_in n²)` for up to 256 samples at a time.
    ///
    /// # Errors
    /// Wrong shapes, no sample, NaN or infinity, overflow; [`NumericsError::Singular`] if a sample is so large relative to
    /// `gamma` that rounding hides the rest. On error, nothing is changed.
    pub fn fit<T: Scalar>(&mut self, X: MatRef<'_, T>, Y: MatRef<'_, T>) -> Result<Range<u64>> {
        let (X, Y) = self.checked(X, Y)?;
        if X.ncols() <= BLOCK {
            self.state.fit(X.as_ref(), Y.as_ref(), self.par)?;
        } else {
            let mut next = self.state.clone();
            for (X, Y) in blocks(X.as_ref(), Y.as_ref()) {
                next.fit(X, Y, self.par)?;
            }
            self.state = next;
        }
        Ok(self.ledger.add(X.as_ref(), Y.as_ref()))
    }

    /// Forgets samples, each once. The weight is then that of a regression that has never seen them, up to rounding.
    ///
    /// * `X`: `d_in x n`, `Y`: `d_out x n`: samples as they were fitted, in any order and grouping. Outputs that were added since
    ///   have the target 0.
    ///
    /// Cost: as [`fit`](Self::fit), and a copy of the state.
    ///
    /// # Errors
    /// [`NumericsError::NotFitted`] for a sample that was never fitted, or was already forgotten; wrong shapes;
    /// [`NumericsError::Singular`] if a sample is too large relative to `gamma` to be removed in `f64` (`xᵀ A⁻¹ x` above about
    /// 10⁵, with `A` the matrix `gamma I + sum x xᵀ` of the others). On error, nothing is changed.
    pub fn forget<T: Scalar>(&mut self, X: MatRef<'_, T>, Y: MatRef<'_, T>) -> Result<()> {
        let (X, Y) = self.checked(X, Y)?;
        let numbers = self.ledger.find(X.as_ref(), Y.as_ref())?;
        self.forget_found(&numbers, X.as_ref(), Y.as_ref())
    }

    /// Forgets samples by their numbers, as [`fit`](Self::fit) returned them. The samples must be [kept](Samples::Kept).
    ///
    /// # Errors
    /// [`NumericsError::Unsupported`] if samples are not kept, no number, a number twice, and as [`forget`](Self::forget). On
    /// error, nothing is changed.
    pub fn forget_numbers(&mut self, numbers: &[u64]) -> Result<()> {
        if numbers.is_empty() {
            return Err(NumericsError::Empty { argument: "numbers", item: "number" });
        }
        let (X, Y) = self.ledger.recall(numbers, self.d_in(), self.d_out())?;
        self.forget_found(numbers, X.as_ref(), Y.as_ref())
    }

    fn forget_found(&mut self, numbers: &[u64], X: MatRef<'_, f64>, Y: MatRef<'_, f64>) -> Result<()> {
        if numbers.len() == self.ledger.len() {
            // Nothing is left: the start is known exactly.
            self.state = RidgeState::new(InverseGram::isotropic(self.d_in(), self.gamma, self.par)?, self.d_out())?;
        } else {
            let mut next = self.state.clone();
            for (X, Y) in blocks(X, Y) {
                next.forget(X, Y, self.par)?;
            }
            self.state = next;
        }
        self.ledger.remove(numbers);
        Ok(())
    }

    /// The outputs for samples: `W X`, `d_out x n`.
    ///
    /// # Errors
    /// Wrong shape, NaN or infinity.
    pub fn predict<T: Scalar>(&self, X: MatRef<'_, T>) -> Result<Mat<f64>> {
        validate::shape("X", X, self.d_in(), X.ncols())?;
        validate::finite("X", X)?;
        Ok(linalg::product(self.weight(), cast::<T, f64>(X).as_ref(), self.par))
    }

    /// The weight `W`, `d_out x d_in`.
    #[must_use]
    pub fn weight(&self) -> MatRef<'_, f64> {
        self.state.weight()
    }

    /// The inverse of `gamma I + sum x xᵀ`. With it, `xᵀ Q x` says how uncertain the prediction for `x` is.
    #[must_use]
    pub fn inverse_gram(&self) -> &InverseGram {
        self.state.inverse_gram()
    }

    /// Length of a sample.
    #[must_use]
    pub fn d_in(&self) -> usize {
        self.weight().ncols()
    }

    /// Number of outputs.
    #[must_use]
    pub fn d_out(&self) -> usize {
        self.weight().nrows()
    }

    /// Number of samples that were fitted and not forgotten.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.ledger.len()
    }

    /// The weight of the penalty.
    #[must_use]
    pub fn gamma(&self) -> f64 {
        self.gamma
    }

    /// Samples of the right shape, in `f64`.
    fn checked<T: Scalar>(&self, X: MatRef<'_, T>, Y: MatRef<'_, T>) -> Result<Held> {
        validate::columns("X", X, self.d_in())?;
        validate::shape("Y", Y, self.d_out(), X.ncols())?;
        validate::finite("X", X)?;
        validate::finite("Y", Y)?;
        Ok((cast::<T, f64>(X), cast::<T, f64>(Y)))
    }
}

shown!([] Ridge, "Ridge", self => {
    "gamma": self.gamma, "d_in": self.d_in(), "d_out": self.d_out(), "samples": self.samples()
});

/// Samples in steps.
fn blocks<'a>(X: MatRef<'a, f64>, Y: MatRef<'a, f64>) -> impl Iterator<Item = (MatRef<'a, f64>, MatRef<'a, f64>)> {
    (0..X.ncols()).step_by(BLOCK).map(move |first| {
        let n = BLOCK.min(X.ncols() - first);
        (X.subcols(first, n), Y.subcols(first, n))
    })
}
