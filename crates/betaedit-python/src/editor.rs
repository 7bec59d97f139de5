//! Editors of one layer.

use betaedit_core::editor::{ClosedFormEditor, Editor as _};
use betaedit_core::faer::MatRef;
use betaedit_core::{EditBatch, Method as _, batch::Order};
use numpy::{PyArray1, PyArray2};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::arrays::{ByType, Held, HeldNumber, Matrix, by_type, par, to_python, vector};
use crate::errors::{self, OrRaise};
use crate::method::Method;
use crate::projector::Projector;
use crate::settings;
use crate::spectrum::Spectrum;
use crate::update::Update;

/// The number type of an editor: "float32" or "float64".
pub fn is_single(dtype: &Bound<'_, PyAny>) -> PyResult<bool> {
    // Also numpy's and torch's types, which are written `<class 'numpy.float32'>`, `float32`, `torch.float32`.
    let name = dtype.str()?.to_string();
    match name {
        name if name.contains("float32") => Ok(true),
        name if name.contains("float64") => Ok(false),
        name => Err(errors::numerics(format!("dtype `{name}`: expected float32 or float64"))),
    }
}

/// Edits one layer: proposes updates, and remembers those that are committed.
///
/// `Editor(method, spectrum, dtype="float64")`. Keys are d_in x n, residuals d_out x n, a column an edit; one dimension is one edit. They
/// are converted to `dtype`. An edit costs one pass over `Q`, d_in x d_in.
#[pyclass(module = "betaedit")]
pub struct Editor {
    inner: ByType<ClosedFormEditor<f32>, ClosedFormEditor<f64>>,
    method: Method,
    spectrum: Spectrum,
    threads: usize,
}

/// Keys, residuals and context in the number type of an editor.
struct Batch<'a, T> {
    keys: Held<'a, T>,
    residuals: Held<'a, T>,
    context: Option<Held<'a, T>>,
    order: Order,
}

impl<'a, T: HeldNumber> Batch<'a, T> {
    fn new(
        keys: &'a Matrix<'_>,
        residuals: &'a Matrix<'_>,
        context: Option<&'a Matrix<'_>>,
        order: Order,
    ) -> PyResult<Self> {
        let context = context.map(T::held).transpose()?;
        Ok(Self { keys: T::held(keys)?, residuals: T::held(residuals)?, context, order })
    }

    fn checked(&self) -> Result<EditBatch<'_, T>, betaedit_core::error::NumericsError> {
        let mut batch = EditBatch::new(self.keys.as_ref(), self.residuals.as_ref())?;
        if let Some(context) = &self.context {
            batch = batch.with_context(context.as_ref())?;
        }
        Ok(if self.order == Order::InSequence { batch.in_sequence() } else { batch })
    }
}

#[pymethods]
impl Editor {
    #[new]
    #[pyo3(signature = (method, spectrum, *, dtype = None, threads = 0))]
    pub fn new(
        py: Python<'_>,
        method: &Method,
        spectrum: &Spectrum,
        dtype: Option<&Bound<'_, PyAny>>,
        threads: usize,
    ) -> PyResult<Self> {
        let (any, of, par) = (method.any(), &spectrum.0, par(threads));
        let inner = match dtype.map(is_single).transpose()?.unwrap_or(false) {
            true => ByType::F32(py.detach(|| any.editor::<f32>(of, par)).or_raise()?),
            false => ByType::F64(py.detach(|| any.editor::<f64>(of, par)).or_raise()?),
        };
        Ok(Self { inner, method: method.again(), spectrum: Spectrum(of.clone()), threads })
    }

    /// Computes the update for a batch. Changes nothing. Raises if a refresh is due.
    ///
    /// keys: d_in x n. residuals: d_out x n. order: "together", or "in-sequence" as if each edit were its own batch. context: d_in x m,
    /// inputs of the edited matrix at all tokens, for SimIE.
    #[pyo3(signature = (keys, residuals, *, order = "together", context = None))]
    fn propose(
        &self,
        py: Python<'_>,
        keys: Matrix<'_>,
        residuals: Matrix<'_>,
        order: &str,
        context: Option<Matrix<'_>>,
    ) -> PyResult<Proposal> {
        let order = settings::named(order)?;
        self.check_keys(&keys)?;
        let (keys, residuals, context) = (&keys, &residuals, context.as_ref());
        Ok(Proposal(Proposed::Open(match &self.inner {
            ByType::F32(editor) => {
                let batch = Batch::new(keys, residuals, context, order)?;
                ByType::F32(py.detach(|| editor.propose(&batch.checked()?)).or_raise()?)
            }
            ByType::F64(editor) => {
                let batch = Batch::new(keys, residuals, context, order)?;
                ByType::F64(py.detach(|| editor.propose(&batch.checked()?)).or_raise()?)
            }
        })))
    }

    /// Records a proposal of this editor in its present state. The proposal is used up, its update stays. The caller applies that to the
    /// weight. A proposal that is refused because the state has changed is used up, too.
    fn commit(&mut self, py: Python<'_>, proposal: &mut Proposal) -> PyResult<()> {
        let update = proposal.update()?;
        match (&mut self.inner, proposal.take()?) {
            (ByType::F32(editor), ByType::F32(one)) => py.detach(|| editor.commit(one)).or_raise()?,
            (ByType::F64(editor), ByType::F64(one)) => py.detach(|| editor.commit(one)).or_raise()?,
            (_, other) => {
                proposal.0 = Proposed::Open(other);
                return Err(errors::numerics("the proposal is that of an editor of another number type"));
            }
        }
        proposal.0 = Proposed::Committed(update);
        Ok(())
    }

    /// Refreshes if a refresh is due, proposes and commits. Returns the update, which the caller applies to the weight.
    #[pyo3(signature = (keys, residuals, *, order = "together", context = None))]
    fn edit(
        &mut self,
        py: Python<'_>,
        keys: Matrix<'_>,
        residuals: Matrix<'_>,
        order: &str,
        context: Option<Matrix<'_>>,
    ) -> PyResult<Update> {
        let order = settings::named(order)?;
        self.check_keys(&keys)?;
        let (keys, residuals, context) = (&keys, &residuals, context.as_ref());
        match &mut self.inner {
            ByType::F32(editor) => {
                let batch = Batch::new(keys, residuals, context, order)?;
                py.detach(|| editor.edit(&batch.checked()?)).or_raise().map(Update::from)
            }
            ByType::F64(editor) => {
                let batch = Batch::new(keys, residuals, context, order)?;
                py.detach(|| editor.edit(&batch.checked()?)).or_raise().map(Update::from)
            }
        }
    }

    /// Refreshes the projector if a refresh is due, and returns what was done.
    fn refresh_if_due<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let report = by_type!(&mut self.inner, editor => py.detach(|| editor.refresh_if_due()).or_raise()?);
        report.map(|report| settings::to_python(py, &report)).transpose()
    }

    /// Ends refreshes and keeps the present space.
    fn stop_refreshing(&mut self) {
        by_type!(&mut self.inner, editor => editor.stop_refreshing());
    }

    /// Protects keys without editing them, also in methods without history. keys: d_in x n.
    fn protect(&mut self, py: Python<'_>, keys: Matrix<'_>) -> PyResult<()> {
        self.with_keys(py, &keys, |editor, keys| editor.protect(keys), |editor, keys| editor.protect(keys))
    }

    /// Removes committed edits from the history, as if they had never been made. keys: d_in x n, each released once.
    fn release(&mut self, py: Python<'_>, keys: Matrix<'_>) -> PyResult<()> {
        self.with_keys(py, &keys, |editor, keys| editor.release(keys), |editor, keys| editor.release(keys))
    }

    /// `Q K` in the present state, float64. keys: d_in x n.
    fn product<'py>(&mut self, py: Python<'py>, keys: Matrix<'_>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let product =
            self.with_keys(py, &keys, |editor, keys| editor.product(keys), |editor, keys| editor.product(keys))?;
        to_python(py, product.as_ref())
    }

    /// `s = kᵀ A0⁻¹ k` of every key, n numbers. Far above 1, a key overwhelms the protection. keys: d_in x n.
    fn stability<'py>(&mut self, py: Python<'py>, keys: Matrix<'_>) -> PyResult<Option<Bound<'py, PyArray1<f64>>>> {
        let s =
            self.with_keys(py, &keys, |editor, keys| editor.stability(keys), |editor, keys| editor.stability(keys))?;
        Ok(s.map(|s| vector(py, s)))
    }

    /// Edits so far, refreshes, directions kept and removed, capacity.
    #[getter]
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        settings::to_python(py, &by_type!(&self.inner, editor => editor.state()))
    }

    /// The method.
    #[getter]
    fn method(&self) -> Method {
        self.method.again()
    }

    /// The number type, "float32" or "float64".
    #[getter]
    fn dtype(&self) -> &'static str {
        match self.inner {
            ByType::F32(_) => "float32",
            ByType::F64(_) => "float64",
        }
    }

    /// Length of the keys.
    #[getter]
    fn d_in(&self) -> usize {
        by_type!(&self.inner, editor => editor.d_in())
    }

    /// The projector of the start. A refresh changes the space, but not this.
    #[getter]
    fn projector(&self) -> PyResult<Projector> {
        by_type!(&self.inner, editor => editor.projector()).or_raise().map(Projector)
    }

    fn __repr__(&self) -> String {
        let edits = by_type!(&self.inner, editor => editor.state().edits);
        let name = by_type!(&self.inner, editor => editor.name().to_owned());
        format!("Editor('{name}', d_in={}, dtype={}, {edits} edits)", self.d_in(), self.dtype())
    }

    /// The settings and the state, bit for bit.
    #[expect(clippy::type_complexity, reason = "the form that pickle asks for")]
    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, (Method, Spectrum, &'static str, usize, Bound<'py, PyBytes>))> {
        let (py, editor) = (slf.py(), slf.borrow());
        let mut state = vec![];
        by_type!(&editor.inner, inner => inner.save(&mut state))
            .map_err(|error| errors::numerics(error.to_string()))?;
        let settings = (editor.method.again(), Spectrum(editor.spectrum.0.clone()), editor.dtype(), editor.threads);
        let (method, spectrum, dtype, threads) = settings;
        Ok((slf.get_type().getattr("_restored")?, (method, spectrum, dtype, threads, PyBytes::new(py, &state))))
    }

    #[staticmethod]
    fn _restored(
        py: Python<'_>,
        method: &Method,
        spectrum: &Spectrum,
        dtype: &Bound<'_, PyAny>,
        threads: usize,
        state: &[u8],
    ) -> PyResult<Self> {
        let mut editor = Self::new(py, method, spectrum, Some(dtype), threads)?;
        by_type!(&mut editor.inner, inner => inner.load(&mut &state[..]))
            .map_err(|error| errors::numerics(format!("the state of an editor: {error}")))?;
        Ok(editor)
    }
}

impl Editor {
    /// Refuses keys of another length, before residuals are compared with them.
    fn check_keys(&self, keys: &Matrix<'_>) -> PyResult<()> {
        let (rows, cols) = by_type!(keys.view()?, keys => keys.shape());
        match rows == self.d_in() {
            true => Ok(()),
            false => {
                let expected = self.d_in();
                Err(errors::numerics(format!("`keys` is {rows} x {cols}, expected {expected} x n: a column an edit")))
            }
        }
    }

    /// Runs what an editor does with keys, without the interpreter.
    fn with_keys<R: Send>(
        &mut self,
        py: Python<'_>,
        keys: &Matrix<'_>,
        single: impl FnOnce(&mut ClosedFormEditor<f32>, MatRef<'_, f32>) -> Result<R, betaedit_core::error::NumericsError>
        + Send,
        double: impl FnOnce(&mut ClosedFormEditor<f64>, MatRef<'_, f64>) -> Result<R, betaedit_core::error::NumericsError>
        + Send,
    ) -> PyResult<R> {
        match &mut self.inner {
            ByType::F32(editor) => {
                let keys = f32::held(keys)?;
                let keys = keys.as_ref();
                py.detach(|| single(editor, keys)).or_raise()
            }
            ByType::F64(editor) => {
                let keys = f64::held(keys)?;
                let keys = keys.as_ref();
                py.detach(|| double(editor, keys)).or_raise()
            }
        }
    }
}

/// An update that an editor has computed and not recorded yet. To reject it, drop it.
#[pyclass(module = "betaedit")]
pub struct Proposal(Proposed);

type Open = ByType<betaedit_core::Proposal<f32>, betaedit_core::Proposal<f64>>;

/// What became of a proposal.
enum Proposed {
    Open(Open),
    Committed(Update),
    UsedUp,
}

impl Proposed {
    /// Why nothing can be done with it.
    fn refused(&self) -> PyErr {
        errors::numerics(match self {
            Self::Committed(_) => "the proposal was committed already",
            _ => "the proposal is used up: it was scaled, or its commit failed",
        })
    }
}

impl Proposal {
    fn there(&self) -> PyResult<&Open> {
        match &self.0 {
            Proposed::Open(proposal) => Ok(proposal),
            other => Err(other.refused()),
        }
    }

    fn take(&mut self) -> PyResult<Open> {
        match std::mem::replace(&mut self.0, Proposed::UsedUp) {
            Proposed::Open(proposal) => Ok(proposal),
            other => {
                let refused = other.refused();
                self.0 = other;
                Err(refused)
            }
        }
    }
}

#[pymethods]
impl Proposal {
    /// The update, also after a commit.
    #[getter]
    fn update(&self) -> PyResult<Update> {
        if let Proposed::Committed(update) = &self.0 {
            return Ok(update.clone());
        }
        Ok(by_type!(self.there()?, proposal => proposal.update().clone().into()))
    }

    /// `g = kᵀ Q k` of every key, n numbers. An edit on its own writes the share `g / (1 + g)` of its residual.
    #[getter]
    fn gains<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        Ok(vector(py, by_type!(self.there()?, proposal => proposal.gains().to_vec())))
    }

    /// Number of directions that a commit will remove from the space that may be edited.
    #[getter]
    fn directions_taken(&self) -> PyResult<usize> {
        Ok(by_type!(self.there()?, proposal => proposal.directions_taken()))
    }

    /// The same proposal with its update times a factor. This one is used up.
    fn scaled(&mut self, factor: f64) -> PyResult<Self> {
        if !factor.is_finite() {
            return Err(errors::numerics(format!("factor is {factor}: expected a finite number")));
        }
        let scaled = match self.take()? {
            ByType::F32(proposal) => ByType::F32(proposal.scaled(factor).or_raise()?),
            ByType::F64(proposal) => ByType::F64(proposal.scaled(factor).or_raise()?),
        };
        Ok(Self(Proposed::Open(scaled)))
    }

    fn __repr__(&self) -> String {
        match &self.0 {
            Proposed::Committed(_) => "Proposal(committed)".to_owned(),
            Proposed::UsedUp => "Proposal(used up)".to_owned(),
            Proposed::Open(proposal) => {
                format!("Proposal({})", by_type!(proposal, one => Update::from(one.update().clone()).shown()))
            }
        }
    }
}
