//! LoRA adapters that other programs trained: reading, inspecting, projecting and writing them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use faer::{Mat, Par};
use serde_json::{Map, Value};

use super::{CONFIG, PREFIX, TENSORS};
use crate::error::{NumericsError, Result};
use crate::format::tensors::{self, NewTensor, TensorFile};
use crate::format::{Precision, in_file, malformed};
use crate::linalg;
use crate::projector::Projector;
use crate::update::{Orientation, Update};
use crate::util::atomic_file::{self, io_error};
use crate::util::shown::shown;

/// A LoRA adapter in PEFT's layout, read from a folder.
///
/// The update of a module is `Delta = scale B A`, with `lora_B` (`d_out x r`), `lora_A` (`r x d_in`), and `scale = alpha / r`, or
/// `alpha / sqrt(r)` with rsLoRA. `rank_pattern` and `alpha_pattern` are followed where their keys are names of modules or ends
/// of names; regular expressions are refused.
///
/// # Examples
/// Removes from an adapter what it would change on the text of the statistics.
/// ```
/// use std::sync::Arc;
/// use betaedit_core::faer::{Mat, Par, mat};
/// use betaedit_core::format::{Updates, lora};
/// use betaedit_core::projector::ProjectorBuilder;
/// use betaedit_core::{Orientation, SecondMoment, Spectrum, Threshold, Update, metrics};
///
/// # let folder = tempfile::tempdir()?;
/// # let (trained, projected) = (folder.path().join("trained"), folder.path().join("projected"));
/// # let update = Update::from_factors(mat![[1.0], [2.0]], mat![[0.5, 0.0, -1.0]])?;
/// # let updates = Updates::from([("layers.3.down.weight".to_owned(), update)]);
/// # lora::write(&trained, &updates, "org/model", Orientation::OutputsByInputs)?;
/// let mut adapter = lora::LoraAdapter::read(&trained)?;
/// let mut moment = SecondMoment::new(3); // of the inputs of `layers.3.down`
/// moment.observe(mat![[1.0, 2.0], [1.0, 0.0], [0.0, 0.0]].as_ref(), Par::Seq)?;
/// let spectrum = Arc::new(Spectrum::new(&moment, Par::Seq)?);
/// let P = ProjectorBuilder::new(&spectrum).threshold(Threshold::Absolute(0.01)).build(Par::Seq)?;
///
/// let before = metrics::leakage(&adapter.update("layers.3.down")?, &moment, Par::Seq)?;
/// adapter.project("layers.3.down", &P, Par::Seq)?;
/// let after = metrics::leakage(&adapter.update("layers.3.down")?, &moment, Par::Seq)?;
/// assert!(before > 1.0 && after < 1e-12);
/// adapter.write(&projected)?; // the configuration is the same, byte for byte
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct LoraAdapter {
    folder: PathBuf,
    config: Vec<u8>,
    base_model: Option<String>,
    orientation: Orientation,
    modules: BTreeMap<String, LoraPair>,
}

/// The pair of a module.
#[derive(Clone)]
struct LoraPair {
    A: StoredFactor,
    B: StoredFactor,
    scale: f64,
}

/// A tensor as it is in the file.
#[derive(Clone)]
struct StoredFactor {
    name: String,
    rows: Mat<f64>,
    precision: Precision,
}

/// What `alpha` is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LoraScaling {
    Rank,
    SquareRootOfRank,
}

impl LoraAdapter {
    /// Reads `adapter_config.json` and `adapter_model.safetensors` in a folder.
    ///
    /// # Errors
    /// A file that cannot be read; a configuration that is not one of LoRA, or uses DoRA or a bias on `lora_B`, whose updates are
    /// not `B A`; tensors that are not a pair of a module, do not fit each other, have another rank than the configuration says,
    /// or hold NaN or infinity.
    pub fn read(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let (config_path, path) = (folder.join(CONFIG), folder.join(TENSORS));
        let bytes = atomic_file::read(&config_path)?;
        let config = LoraConfig::read(&config_path, &bytes)?;
        let mut file = TensorFile::open(&path)?;
        let names = file.names();
        let mut modules = BTreeMap::new();
        for name in &names {
            let Some(module) = name.strip_suffix(".lora_A.weight") else { continue };
            let pair = [name.clone(), format!("{module}.lora_B.weight")];
            let (A, B) = (file.matrix(&pair[0])?, file.matrix(&pair[1])?);
            let B = file.matrix_of_shape(&pair[1], B.rows, A.rows)?;
            let module = module.strip_prefix(PREFIX).unwrap_or(module);
            let scale = config.scale(module, A.rows)?;
            let [A, B] = [(&pair[0], A), (&pair[1], B)].map(|(name, matrix)| -> Result<StoredFactor> {
                let rows = file.finite_columns::<f64>(name, &matrix)?.transpose().to_owned();
                Ok(StoredFactor { name: name.clone(), rows, precision: matrix.precision })
            });
            modules.insert(module.to_owned(), LoraPair { A: A?, B: B?, scale });
        }
        let paired = |name: &String| name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight");
        if let Some(name) = names.iter().find(|name| !paired(name)) {
            return Err(malformed(
                &path,
                format!("tensor `{name}` is not a `lora_A.weight` or `lora_B.weight` of a module"),
            ));
        }
        if 2 * modules.len() != names.len() {
            return Err(malformed(&path, "a `lora_B.weight` has no `lora_A.weight`"));
        }
        if modules.is_empty() {
            return Err(malformed(&path, "the adapter has no modules"));
        }
        let (base_model, orientation) = (config.base_model(), config.orientation());
        Ok(Self { folder: folder.to_owned(), config: bytes, base_model, orientation, modules })
    }

    /// Names of the modules, in alphabetical order, without PEFT's prefix.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// The model that the adapter is for, as the configuration names it.
    #[must_use]
    pub fn base_model(&self) -> Option<&str> {
        self.base_model.as_deref()
    }

    /// How the model stores the weights of the modules, by `fan_in_fan_out`.
    #[must_use]
    pub fn orientation(&self) -> Orientation {
        self.orientation
    }

    /// The update of a module, `Delta = scale B A`.
    ///
    /// # Errors
    /// An unknown module, or overflow.
    pub fn update(&self, module: &str) -> Result<Update<f64>> {
        let LoraPair { A, B, scale } = self.module(module)?;
        let update = Update::from_factors(&B.rows * faer::Scale(*scale), A.rows.clone());
        update.map_err(in_file(&self.folder.join(TENSORS)))
    }

    /// Projects a module's update onto the space of a projector: `A <- A P`, so `Delta <- Delta P`. The rank, the scale and `B`
    /// stay.
    ///
    /// # Errors
    /// An unknown module, or a projector of another dimension.
    pub fn project(&mut self, module: &str, projector: &Projector, par: Par) -> Result<()> {
        let d_in = self.module(module)?.A.rows.ncols();
        if projector.dim() != d_in {
            let (expected, found) = ((d_in, d_in).into(), (projector.dim(), projector.dim()).into());
            return Err(NumericsError::Shape { argument: "projector", expected, found }.into());
        }
        if let Some(LoraPair { A, .. }) = self.modules.get_mut(module) {
            A.rows = projector.apply(A.rows.transpose(), par)?.transpose().to_owned();
        }
        Ok(())
    }

    /// Writes the adapter into a folder, which is created if it does not exist: the same tensors in the same number types,
    /// rounded once, and the same configuration, byte for byte.
    ///
    /// # Errors
    /// A number beyond the range of its type, or a folder that cannot be written.
    pub fn write(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        let path = folder.join(TENSORS);
        let factors = || self.modules.values().flat_map(|module| [&module.A, &module.B]);
        for factor in factors() {
            if !(linalg::largest(factor.rows.as_ref()) <= factor.precision.largest()) {
                let scalar = factor.precision.name();
                return Err(in_file(&path)(NumericsError::Overflow { step: "the adapter", scalar }));
            }
        }
        let tensor = |factor| {
            let StoredFactor { name, rows, precision }: &StoredFactor = factor;
            NewTensor::matrix(name, rows.as_ref(), *precision)
        };
        let tensors: Vec<_> = factors().map(tensor).collect();
        std::fs::create_dir_all(folder).map_err(io_error(folder))?;
        // The configuration last: without it, there is no adapter.
        tensors::write(&path, tensors::kind("pt"), &tensors)?;
        atomic_file::write_whole(&folder.join(CONFIG), &self.config)
    }

    fn module(&self, name: &str) -> Result<&LoraPair> {
        self.modules.get(name).ok_or_else(|| {
            let known = self.modules.keys().cloned().collect::<Vec<_>>().join(", ");
            NumericsError::UnknownName { kind: "module", name: name.to_owned(), known }.into()
        })
    }
}

shown!([] LoraAdapter, "LoraAdapter", self => {
    "folder": self.folder, "base_model": self.base_model, "modules": self.modules.len()
});

/// What a configuration says about the scale of the pairs.
struct LoraConfig<'a> {
    path: &'a Path,
    fields: Map<String, Value>,
    rank: u64,
    alpha: f64,
    scaling: LoraScaling,
}

impl<'a> LoraConfig<'a> {
    fn read(path: &'a Path, bytes: &[u8]) -> Result<Self> {
        let wrong = |problem: String| malformed(path, problem);
        let fields: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|error| wrong(format!("not a valid adapter configuration: {error}")))?;
        match fields.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            found => return Err(wrong(format!("`peft_type` is `{}`, expected `LORA`", found.unwrap_or("nothing")))),
        }
        let on = |name: &str| fields.get(name).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)));
        for name in ["use_dora", "lora_bias"] {
            if on(name) {
                return Err(wrong(format!("`{name}` is set: the updates of such an adapter are not `B A` alone")));
            }
        }
        let rank = fields.get("r").and_then(Value::as_u64).filter(|rank| *rank > 0);
        let rank = rank.ok_or_else(|| wrong("`r` is not a positive integer".to_owned()))?;
        let alpha = fields.get("lora_alpha").and_then(Value::as_f64).filter(|alpha| alpha.is_finite());
        let alpha = alpha.ok_or_else(|| wrong("`lora_alpha` is not a number".to_owned()))?;
        let scaling = if on("use_rslora") { LoraScaling::SquareRootOfRank } else { LoraScaling::Rank };
        Ok(Self { path, rank, alpha, scaling, fields })
    }

    /// `alpha / r` or `alpha / sqrt(r)` of a module whose tensors have this rank.
    fn scale(&self, module: &str, rank: usize) -> Result<f64> {
        let expected = match self.pattern("rank_pattern", module)? {
            Some(value) => value.as_u64().ok_or_else(|| self.no_number("rank_pattern", module))?,
            None => self.rank,
        };
        if expected != rank as u64 {
            let problem =
                format!("module `{module}` has rank {rank} in {TENSORS}, but {expected} in the configuration");
            return Err(malformed(self.path, problem));
        }
        let alpha = match self.pattern("alpha_pattern", module)? {
            Some(value) => value.as_f64().ok_or_else(|| self.no_number("alpha_pattern", module))?,
            None => self.alpha,
        };
        Ok(match self.scaling {
            LoraScaling::Rank => alpha / rank as f64,
            LoraScaling::SquareRootOfRank => alpha / (rank as f64).sqrt(),
        })
    }

    fn no_number(&self, field: &str, module: &str) -> crate::error::Error {
        malformed(self.path, format!("`{field}` has no number for module `{module}`"))
    }

    /// The entry of a pattern for a module. Several that disagree are refused, because PEFT takes the first in its order.
    fn pattern(&self, field: &str, module: &str) -> Result<Option<&Value>> {
        let entries = match self.fields.get(field) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Object(entries)) => entries,
            Some(_) => return Err(malformed(self.path, format!("`{field}` is not a table"))),
        };
        let mut found: Option<&Value> = None;
        for (pattern, value) in entries {
            if pattern.contains(|c: char| "*+?()[]{}|^$\\".contains(c)) {
                let problem =
                    format!("`{field}` has the regular expression `{pattern}`: write the names of the modules");
                return Err(malformed(self.path, problem));
            }
            let end = module.strip_suffix(pattern.as_str());
            if !end.is_some_and(|before| before.is_empty() || before.ends_with('.')) {
                continue;
            }
            if found.is_some_and(|other| other != value) {
                return Err(malformed(self.path, format!("`{field}` has two entries for module `{module}`")));
            }
            found = Some(value);
        }
        Ok(found)
    }

    fn base_model(&self) -> Option<String> {
        self.fields.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned)
    }

    fn orientation(&self) -> Orientation {
        match self.fields.get("fan_in_fan_out") {
            Some(Value::Bool(true)) => Orientation::InputsByOutputs,
            _ => Orientation::OutputsByInputs,
        }
    }
}
