//! Files of statistics, updates, LoRA adapters and spectra.

use std::collections::BTreeMap;
use std::path::PathBuf;

use betaedit_core::format::{self, Fingerprint, Updates, delta, lora, spectrum as spectra};
use numpy::PyArray2;
use pyo3::prelude::*;

use crate::arrays::{ByType, Matrix, par, to_python};
use crate::errors::{self, OrRaise};
use crate::moment::SecondMoment;
use crate::projector::Projector;
use crate::settings;
use crate::spectrum::Spectrum;
use crate::update::Update;

/// Statistics of one layer as a file holds them: a sum over tokens, their number, and which model, layer, text and parts of it.
///
/// `Statistics(moment, model, layer, text, part)`. Two parts of one text are added by `merge`, which counts no part twice.
#[pyclass(module = "betaedit")]
pub struct Statistics(format::Statistics);

#[pymethods]
impl Statistics {
    #[new]
    #[pyo3(signature = (moment, *, model, layer, text, part, threads = 0))]
    fn new(
        moment: &SecondMoment,
        model: String,
        layer: usize,
        text: String,
        part: &str,
        threads: usize,
    ) -> PyResult<Self> {
        let fingerprint = Fingerprint { model, layer, text };
        format::Statistics::from_moment(&moment.now(), fingerprint, part, par(threads)).or_raise().map(Self)
    }

    /// Reads a file of this format (`.safetensors`).
    #[staticmethod]
    fn read(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| format::Statistics::read(path)).or_raise().map(Self)
    }

    /// Reads files of parts and merges them, with at most two in memory.
    #[staticmethod]
    fn read_parts(py: Python<'_>, paths: Vec<PathBuf>) -> PyResult<Self> {
        py.detach(|| format::Statistics::read_parts(paths)).or_raise().map(Self)
    }

    /// Reads a file of ROME, MEMIT, AlphaEdit, BetaEdit or EasyEdit (`.npz`).
    #[staticmethod]
    fn read_npz(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| format::Statistics::read_npz(path)).or_raise().map(Self)
    }

    /// Writes a file of this format.
    fn write(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.0.write(path)).or_raise()
    }

    /// Writes an `.npz` file for the programs of the MEMIT family. precision: "f32" or "f64". samples: the number of texts.
    #[pyo3(signature = (path, precision = "f32", samples = None))]
    fn write_npz(&self, py: Python<'_>, path: PathBuf, precision: &str, samples: Option<u64>) -> PyResult<()> {
        let precision = settings::from_python("precision", &pyo3::types::PyString::new(py, precision))?;
        py.detach(|| self.0.write_npz(path, precision, samples)).or_raise()
    }

    /// Adds another part of the same text, layer and model.
    fn merge(&mut self, py: Python<'_>, other: &Bound<'_, Self>) -> PyResult<()> {
        let other = other.try_borrow().map_err(|_| errors::numerics("statistics cannot be merged with themselves"))?;
        let other = &other.0;
        py.detach(|| self.0.merge(other)).or_raise()
    }

    /// The second moment. witness: d_in x m, any keys of the layer, which show that the file holds a sum and not a mean.
    #[pyo3(signature = (witness = None))]
    fn moment(&self, witness: Option<Matrix<'_>>) -> PyResult<SecondMoment> {
        match witness {
            Some(witness) => self.0.moment(witness.to_mat::<f64>()?.as_ref()).or_raise().map(SecondMoment::from),
            None => self.0.moment_without_witness().or_raise().map(SecondMoment::from),
        }
    }

    /// The sum over all tokens, d_in x d_in, float64.
    #[getter]
    fn sum<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        to_python(py, self.0.sum())
    }

    /// Number of tokens.
    #[getter]
    fn tokens(&self) -> u64 {
        self.0.tokens()
    }

    /// Length of the keys.
    #[getter]
    fn d_in(&self) -> usize {
        self.0.d_in()
    }

    /// (model, layer, text), if the file says so.
    #[getter]
    fn fingerprint(&self) -> Option<(String, usize, String)> {
        self.0.fingerprint().map(|of| (of.model.clone(), of.layer, of.text.clone()))
    }

    /// The parts that were counted.
    #[getter]
    fn parts(&self) -> Vec<String> {
        self.0.parts().map(str::to_owned).collect()
    }

    /// A hash of the contents.
    #[getter]
    fn hash(&self) -> String {
        self.0.hash()
    }

    fn __repr__(&self) -> String {
        format!("Statistics(d_in={}, {} tokens)", self.0.d_in(), self.0.tokens())
    }
}

/// Updates of one number type: float32 if all are, else float64.
fn updates(given: BTreeMap<String, Py<Update>>) -> PyResult<ByType<Updates<f32>, Updates<f64>>> {
    let single = given.values().all(|update| matches!(update.get().0, ByType::F32(_)));
    if single {
        let one = |(name, update): (String, Py<Update>)| match &update.get().0 {
            ByType::F32(update) => Some((name, update.clone())),
            ByType::F64(_) => None,
        };
        return Ok(ByType::F32(given.into_iter().filter_map(one).collect()));
    }
    given.into_iter().map(|(name, update)| Ok((name, update.get().to_f64()?))).collect::<PyResult<_>>().map(ByType::F64)
}

/// Writes updates by the names of their parameters, as factors (`.safetensors`).
#[pyfunction]
fn write_delta(py: Python<'_>, path: PathBuf, updates: BTreeMap<String, Py<Update>>) -> PyResult<()> {
    crate::arrays::by_type!(self::updates(updates)?, updates => py.detach(|| delta::write(path, &updates))).or_raise()
}

/// Reads updates by the names of their parameters, in float64.
#[pyfunction]
fn read_delta(py: Python<'_>, path: PathBuf) -> PyResult<BTreeMap<String, Update>> {
    let updates: Updates<f64> = py.detach(|| delta::read(path)).or_raise()?;
    Ok(updates.into_iter().map(|(name, update)| (name, update.into())).collect())
}

/// Writes updates as a LoRA adapter that PEFT, transformers and vLLM load: an update is a LoRA pair, exactly.
///
/// updates: by the names of the parameters, which end in `.weight`. base_model: as `from_pretrained` takes it. orientation:
/// "inputs-by-outputs" for GPT-2's Conv1D.
#[pyfunction]
#[pyo3(signature = (folder, updates, base_model, orientation = "outputs-by-inputs"))]
fn write_lora(
    py: Python<'_>,
    folder: PathBuf,
    updates: BTreeMap<String, Py<Update>>,
    base_model: &str,
    orientation: &str,
) -> PyResult<()> {
    let orientation = settings::named(orientation)?;
    crate::arrays::by_type!(self::updates(updates)?, updates => {
        py.detach(|| lora::write(folder, &updates, base_model, orientation))
    })
    .or_raise()
}

/// A LoRA adapter in a folder of PEFT.
#[pyclass(module = "betaedit")]
pub struct LoraAdapter(lora::LoraAdapter);

#[pymethods]
impl LoraAdapter {
    /// Reads `adapter_config.json` and `adapter_model.safetensors` in a folder.
    #[staticmethod]
    fn read(py: Python<'_>, folder: PathBuf) -> PyResult<Self> {
        py.detach(|| lora::LoraAdapter::read(folder)).or_raise().map(Self)
    }

    /// The names of the modules.
    #[getter]
    fn modules(&self) -> Vec<String> {
        self.0.modules().map(str::to_owned).collect()
    }

    /// The model that the adapter is for, as its configuration names it.
    #[getter]
    fn base_model(&self) -> Option<&str> {
        self.0.base_model()
    }

    /// "outputs-by-inputs" or "inputs-by-outputs".
    #[getter]
    fn orientation(&self) -> String {
        self.0.orientation().to_string()
    }

    /// The update of a module, `scale B A`, float64.
    fn update(&self, module: &str) -> PyResult<Update> {
        self.0.update(module).or_raise().map(Update::from)
    }

    /// Projects a module's update onto the space of a projector: `Delta <- Delta P`.
    #[pyo3(signature = (module, projector, *, threads = 0))]
    fn project(&mut self, py: Python<'_>, module: &str, projector: &Projector, threads: usize) -> PyResult<()> {
        py.detach(|| self.0.project(module, &projector.0, par(threads))).or_raise()
    }

    /// Writes the adapter into a folder.
    fn write(&self, py: Python<'_>, folder: PathBuf) -> PyResult<()> {
        py.detach(|| self.0.write(folder)).or_raise()
    }
}

/// Writes a spectrum with the statistics it belongs to (`.safetensors`).
#[pyfunction]
#[pyo3(signature = (path, spectrum, *, model = String::new(), layer = 0, text = String::new()))]
fn write_spectrum(
    py: Python<'_>,
    path: PathBuf,
    spectrum: &Spectrum,
    model: String,
    layer: usize,
    text: String,
) -> PyResult<()> {
    py.detach(|| spectra::write(path, &spectrum.0, &Fingerprint { model, layer, text })).or_raise()
}

/// Reads a spectrum, and the (model, layer, text) it belongs to.
#[pyfunction]
#[pyo3(signature = (path, *, threads = 0))]
fn read_spectrum(py: Python<'_>, path: PathBuf, threads: usize) -> PyResult<(Spectrum, (String, usize, String))> {
    let (spectrum, of) = py.detach(|| spectra::read(path, par(threads))).or_raise()?;
    Ok((spectrum.into(), (of.model, of.layer, of.text)))
}

/// Reads a dense projector, d x d: a tensor of a safetensors file. It suits AlphaEdit with the threshold 0.5.
#[pyfunction]
#[pyo3(signature = (path, tensor, *, threads = 0))]
fn read_projector(py: Python<'_>, path: PathBuf, tensor: &str, threads: usize) -> PyResult<Projector> {
    py.detach(|| spectra::read_projector(path, tensor, par(threads))).or_raise().map(Projector)
}

pub fn add_functions(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(write_delta, module)?)?;
    module.add_function(wrap_pyfunction!(read_delta, module)?)?;
    module.add_function(wrap_pyfunction!(write_lora, module)?)?;
    module.add_function(wrap_pyfunction!(write_spectrum, module)?)?;
    module.add_function(wrap_pyfunction!(read_spectrum, module)?)?;
    module.add_function(wrap_pyfunction!(read_projector, module)?)
}
