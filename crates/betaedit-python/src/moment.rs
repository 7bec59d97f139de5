//! The second moment of keys.

use std::sync::Arc;

use betaedit_core::faer::{Mat, Par};
use numpy::PyArray2;
use pyo3::prelude::*;

use crate::arrays::{HeldNumber, Matrix, Reduced, by_type, par, to_python};
use crate::errors::OrRaise;

/// The second moment of a layer's keys, `C = E[k kᵀ]` (not centred): a running sum in float64, and a count.
///
/// `SecondMoment(d_in)` is empty. Fill it with `observe`, or start from a matrix with `from_sum` or `from_mean`, which say what the
/// matrix is and check its scale against a few keys of the layer.
#[pyclass(module = "betaedit", frozen)]
pub struct SecondMoment(pub std::sync::RwLock<Arc<betaedit_core::SecondMoment>>);

impl SecondMoment {
    /// The moment as it is now.
    pub fn now(&self) -> Arc<betaedit_core::SecondMoment> {
        Arc::clone(&self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Changes the moment. A copy is made if something else still reads it.
    fn change<R: Send>(&self, py: Python<'_>, change: impl FnOnce(&mut betaedit_core::SecondMoment) -> R + Send) -> R {
        py.detach(|| {
            let mut moment = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            change(Arc::make_mut(&mut moment))
        })
    }
}

impl From<betaedit_core::SecondMoment> for SecondMoment {
    fn from(moment: betaedit_core::SecondMoment) -> Self {
        Self(Arc::new(moment).into())
    }
}

#[pymethods]
impl SecondMoment {
    #[new]
    fn new(d_in: usize) -> Self {
        betaedit_core::SecondMoment::new(d_in).into()
    }

    /// Statistics from a sum of `k kᵀ` over `tokens` keys, such as `mom2.mom2` in files of the MEMIT family.
    ///
    /// sum: d_in x d_in, symmetric. witness: d_in x m, any keys of the same layer, which tell a sum from a mean.
    #[staticmethod]
    fn from_sum(py: Python<'_>, sum: Matrix<'_>, tokens: u64, witness: Matrix<'_>) -> PyResult<Self> {
        let witness = witness.to_mat::<f64>()?;
        by_type!(sum.view()?, sum => {
            py.detach(|| betaedit_core::SecondMoment::from_sum(sum, tokens, witness.as_ref())).or_raise().map(Self::from)
        })
    }

    /// Statistics from a mean of `k kᵀ` over `tokens` keys; `None` if their number is unknown, and nothing can be added then.
    ///
    /// mean: d_in x d_in, symmetric. witness: d_in x m, any keys of the same layer.
    #[staticmethod]
    fn from_mean(py: Python<'_>, mean: Matrix<'_>, tokens: Option<u64>, witness: Matrix<'_>) -> PyResult<Self> {
        let witness = witness.to_mat::<f64>()?;
        by_type!(mean.view()?, mean => {
            py.detach(|| betaedit_core::SecondMoment::from_mean(mean, tokens, witness.as_ref())).or_raise().map(Self::from)
        })
    }

    /// Counts keys. keys: d_in x n, a column a token (of a torch tensor `n x d_in`, its transpose).
    #[pyo3(signature = (keys, *, threads = 0))]
    fn observe(&self, py: Python<'_>, keys: Matrix<'_>, threads: usize) -> PyResult<()> {
        by_type!(keys.view()?, keys => self.change(py, |moment| moment.observe(keys, par(threads))).or_raise())
    }

    /// Removes keys that were counted, each once. keys: d_in x n.
    #[pyo3(signature = (keys, *, threads = 0))]
    fn forget(&self, py: Python<'_>, keys: Matrix<'_>, threads: usize) -> PyResult<()> {
        by_type!(keys.view()?, keys => self.change(py, |moment| moment.forget(keys, par(threads))).or_raise())
    }

    /// Adds statistics of other tokens of the same layer.
    fn merge(&self, py: Python<'_>, other: &Self) -> PyResult<()> {
        let other = other.now();
        self.change(py, |moment| moment.merge(&other)).or_raise()
    }

    /// Length of the keys.
    #[getter]
    fn d_in(&self) -> usize {
        self.now().d_in()
    }

    /// Number of keys counted; `None` for a mean without a count.
    #[getter]
    fn tokens(&self) -> Option<u64> {
        self.now().tokens()
    }

    /// `tr C = E |k|²`.
    #[getter]
    fn trace(&self) -> f64 {
        self.now().trace()
    }

    /// The mean `C`, d_in x d_in, float64.
    #[pyo3(signature = (*, threads = 0))]
    fn mean<'py>(&self, py: Python<'py>, threads: usize) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let moment = self.now();
        to_python(py, py.detach(|| moment.to_mean(par(threads))).or_raise()?.as_ref())
    }

    /// The sum over all keys, d_in x d_in, float64.
    #[pyo3(signature = (*, threads = 0))]
    fn sum<'py>(&self, py: Python<'py>, threads: usize) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let moment = self.now();
        to_python(py, py.detach(|| moment.to_sum(par(threads))).or_raise()?.as_ref())
    }

    /// `C X`, float64. X: d_in x n.
    #[pyo3(signature = (X, *, threads = 0))]
    fn product<'py>(&self, py: Python<'py>, X: Matrix<'_>, threads: usize) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let (moment, X) = (self.now(), f64::held(&X)?);
        let X = X.as_ref();
        to_python(py, py.detach(|| moment.product(X, par(threads))).or_raise()?.as_ref())
    }

    fn __repr__(&self) -> String {
        let moment = self.now();
        let tokens = moment.tokens().map_or("an unknown number of".to_owned(), |tokens| tokens.to_string());
        format!("SecondMoment(d_in={}, {tokens} tokens, trace={})", moment.d_in(), moment.trace())
    }

    fn __copy__(&self) -> Self {
        Self(self.now().into())
    }

    /// The sum and the count, from which the same bits come back.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> Reduced<'py, (usize, Option<u64>, Bound<'py, PyArray2<f64>>)> {
        let (py, moment) = (slf.py(), slf.get().now());
        let sum = to_python(py, moment.to_sum(Par::Seq).or_raise()?.as_ref())?;
        Ok((slf.get_type().getattr("_restored")?, (moment.d_in(), moment.tokens(), sum)))
    }

    #[staticmethod]
    fn _restored(d_in: usize, tokens: Option<u64>, sum: Matrix<'_>) -> PyResult<Self> {
        let sum = sum.to_mat::<f64>()?;
        let trace: f64 = (0..sum.nrows()).map(|i| sum[(i, i)]).sum();
        // Its scale was checked when it was made: a key of that norm says the same again.
        let witness = |tokens: f64| Mat::from_fn(d_in, 1, |i, _| if i == 0 { (trace / tokens).sqrt() } else { 0.0 });
        let moment = match tokens {
            Some(0) => Ok(betaedit_core::SecondMoment::new(d_in)),
            Some(tokens) => {
                betaedit_core::SecondMoment::from_sum(sum.as_ref(), tokens, witness(tokens as f64).as_ref())
            }
            None => betaedit_core::SecondMoment::from_mean(sum.as_ref(), None, witness(1.0).as_ref()),
        };
        moment.or_raise().map(Self::from)
    }
}
