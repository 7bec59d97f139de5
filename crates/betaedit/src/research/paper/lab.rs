//! What all runs share: the unedited model, the facts, the statistics, and the targets.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use betaedit_core::adapter::Adapter;
use betaedit_core::editor::NamedRecipe;
use betaedit_core::facts::metrics::{self, Evaluation};
use betaedit_core::facts::{Fact, shipped};
use betaedit_core::faer::{Mat, MatRef, Par};
use betaedit_core::format::{Fingerprint, Statistics, spectrum};
use betaedit_core::llm::{Collector, Contexts, Model, ModelAdapter, Request, Scoring, TargetSearch, Tokenizer};
use betaedit_core::session::{Guards, SessionBuilder};
use betaedit_core::{KeyStatistics, Spectrum};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::edited::{By, ClosedForm, Edited};
use super::run::hash;
use super::targets::Targets;
use crate::source::{open_model, setting};
use crate::stored;
use crate::terminal::{Done, Terminal};

/// How facts are written, whatever the method.
#[derive(Serialize)]
pub struct Settings {
    pub layers: Vec<usize>,
    pub contexts: usize,
    pub search: TargetSearch,
    pub seed: u64,
}

/// The statistics of a layer before any edit.
pub struct Layer {
    pub number: usize,
    pub statistics: KeyStatistics,
    /// `tr(W C Wᵀ)`, the unit of leakage.
    pub energy: f64,
    /// `|W|_F`, the unit of drift.
    pub norm: f64,
}

impl Layer {
    /// `tr(X C Xᵀ)`.
    pub fn energy_of(&self, X: MatRef<'_, f64>, par: Par) -> Done<f64> {
        stored::energy(X, &*self.statistics.moment()?, par)
    }
}

pub struct Lab {
    model: Model,
    tokenizer: Tokenizer,
    contexts: Contexts,
    settings: Settings,
    facts: Vec<Fact>,
    facts_hash: u64,
    layers: Vec<Layer>,
    targets: Targets,
    before: HashMap<u64, Evaluation>,
    out: PathBuf,
    terminal: Terminal,
}

impl Lab {
    pub fn open(model: &Path, facts: Vec<Fact>, settings: Settings, out: &Path, terminal: Terminal) -> Done<Self> {
        std::fs::create_dir_all(out.join("runs"))?;
        let (model, tokenizer) = open_model(model, terminal)?;
        let layers = layers(&model, &tokenizer, &settings.layers, out, terminal)?;
        let contexts = Contexts::generate(&model, &tokenizer, settings.contexts, 10, settings.seed)?;
        let of = format!("{} {}", model.fingerprint(), setting(&model, &tokenizer)?);
        let made_by = format!("{of} {}", serde_json::to_string(&settings)?);
        let targets = Targets::open(&out.join("targets.jsonl"), &made_by)?;
        let facts_hash = hash(&serde_json::to_string(&facts)?);
        let (before, out) = (HashMap::new(), out.to_owned());
        Ok(Self { model, tokenizer, contexts, settings, facts, facts_hash, layers, targets, before, out, terminal })
    }

    pub fn facts(&self) -> &[Fact] {
        &self.facts
    }

    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Everything that the results of a run depend on, except its method.
    pub fn description(&self) -> Done<String> {
        let settings = serde_json::to_string(&self.settings)?;
        let of = format!("{} {}", self.model.fingerprint(), setting(&self.model, &self.tokenizer)?);
        Ok(format!("{of} {settings} {} facts {:016x}", self.facts.len(), self.facts_hash))
    }

    pub fn path_of_run(&self, name: &str) -> PathBuf {
        self.out.join("runs").join(format!("{name}.json"))
    }

    pub fn terminal(&self) -> Terminal {
        self.terminal
    }

    pub fn par(&self) -> Par {
        self.terminal.par
    }

    /// The edited matrix of a layer in a copy of the model.
    pub fn weight(&self, model: &Model, layer: usize) -> Done<Mat<f64>> {
        weight(model, &self.tokenizer, layer)
    }

    /// The edited matrix of a layer in the unedited model.
    pub fn unedited_weight(&self, layer: usize) -> Done<Mat<f64>> {
        self.weight(&self.model, layer)
    }

    /// A copy of the model to edit, and the requests of some facts.
    pub fn begin(&mut self, by: &By, facts: Range<usize>) -> Done<(Edited, Vec<Request>)> {
        let requests: Vec<Request> =
            self.facts[facts].iter().map(|fact| Request::from(fact).with_token(by.token())).collect();
        let (model, tokenizer) = (self.model.clone(), self.tokenizer.clone());
        let edited = match by {
            By::ClosedForm(form) => self.session(form, &requests)?,
            By::FineTuning(tuning) => Edited::FineTuned { model, tokenizer, layer: self.last_layer(), tuning: *tuning },
            By::LowRank(tuning) => Edited::LowRank { model, tokenizer, tuning: *tuning },
        };
        Ok((edited, requests))
    }

    fn last_layer(&self) -> usize {
        self.settings.layers[self.settings.layers.len() - 1]
    }

    /// A session, with the targets of all requests, which are searched first.
    fn session(&mut self, form: &ClosedForm, requests: &[Request]) -> Done<Edited> {
        let last = self.last_layer();
        let mut known = HashMap::new();
        let bar = self.terminal.bar(requests.len() as u64, "targets");
        for request in requests {
            let search = &self.settings.search;
            let seek = || Ok(search.run(&self.model, &self.tokenizer, &self.contexts, last, request)?.value);
            known.insert(request.clone(), self.targets.of(request, seek)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let adapter = ModelAdapter::new(
            self.model.clone(),
            self.tokenizer.clone(),
            self.settings.layers.clone(),
            self.contexts.clone(),
            self.settings.search,
        )?;
        let adapter = adapter.with_targets(known)?;
        // An edit at one of two keys this near also changes the other; a run counts such pairs.
        let mut builder = SessionBuilder::new(NamedRecipe::new(form.method.clone(), form.recipe))
            .guards(Guards::default().with_written_share(None))
            .parallel_from(0.9);
        for layer in &self.layers {
            builder = builder.layer(layer.number, layer.statistics.clone());
        }
        Ok(Edited::Session(Box::new(builder.open(adapter, self.par())?)))
    }

    /// The answers of a model and of the unedited model about some facts.
    pub fn ask(&mut self, model: &Model, facts: &[usize]) -> Done<[Evaluation; 2]> {
        let asked: Vec<&Fact> = facts.iter().map(|&fact| &self.facts[fact]).collect();
        for fact in &asked {
            if !self.before.contains_key(&fact.case_id()) {
                let mut scoring = Scoring::new(&self.model, &self.tokenizer);
                self.before.insert(fact.case_id(), metrics::evaluate(&mut scoring, [*fact])?);
            }
        }
        let earlier = asked.iter().flat_map(|fact| self.before[&fact.case_id()].cases().iter().cloned());
        let before = earlier.collect();
        let now = metrics::evaluate(&mut Scoring::new(model, &self.tokenizer), asked)?;
        Ok([before, now])
    }

    /// Perplexity on text that is not in the statistics.
    pub fn perplexity(&self, model: &Model, tokens: u64) -> Done<f64> {
        let perplexity = Scoring::new(model, &self.tokenizer).measure_perplexity(shipped::HELD_OUT_TEXT, tokens)?;
        perplexity.value().ok_or_else(|| "the held-out text has no tokens".into())
    }

    /// Adds studies to the file of all results.
    pub fn keep_results(&self, studies: Map<String, Value>) -> Done {
        let path = self.out.join("results.json");
        let mut results = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)?,
            Err(_) => json!({ "studies": {} }),
        };
        results["settings"] = self.description()?.into();
        results["contexts"] = json!(self.contexts.prefixes());
        for (name, study) in studies {
            results["studies"][name] = study;
        }
        crate::files::replace(&path, serde_json::to_string_pretty(&results)?)
    }
}

/// The statistics of the layers, from files if they exist.
fn layers(model: &Model, tokenizer: &Tokenizer, numbers: &[usize], out: &Path, terminal: Terminal) -> Done<Vec<Layer>> {
    let par = terminal.par;
    let fingerprint =
        |layer| Fingerprint { model: model.fingerprint().into(), layer, text: "shipped with betaedit-core".into() };
    let paths = |layer| ["statistics", "spectrum"].map(|kind| out.join(format!("{kind}-{layer}.safetensors")));
    let missing: Vec<usize> =
        numbers.iter().copied().filter(|&layer| paths(layer).iter().any(|path| !path.exists())).collect();
    if !missing.is_empty() {
        terminal.say(format!("statistics of layers {missing:?}"));
        let mut collector = Collector::new(model, tokenizer, &missing)?;
        let enough = collector.enough();
        collector.read([shipped::STATISTICS_TEXT], enough, |_| ControlFlow::Continue(()))?;
        for (layer, moment) in collector.into_moments() {
            let [statistics, spectra] = paths(layer);
            Statistics::from_moment(&moment, fingerprint(layer), "all", par)?.write(statistics)?;
            spectrum::write(spectra, &Spectrum::new(&moment, par)?, &fingerprint(layer))?;
        }
    }
    let witnesses = model.trace(&tokenizer.encode("Some keys, to tell the sum over a text from its mean.")?)?.keys;
    let read = |&number: &usize| -> Done<Layer> {
        let [statistics, spectra] = paths(number);
        let statistics = Statistics::read(&statistics)?;
        let (spectrum, made_from) = spectrum::read(&spectra, par)?;
        if statistics.fingerprint() != Some(&fingerprint(number)) || made_from != fingerprint(number) {
            return Err(format!("{}: statistics of another model; use another --out", spectra.display()).into());
        }
        let moment = statistics.moment(witnesses[number].as_ref().get(.., 1..))?;
        let W = weight(model, tokenizer, number)?;
        let energy = stored::energy(W.as_ref(), &moment, par)?;
        let statistics = KeyStatistics::from_parts(moment, spectrum, par)?;
        Ok(Layer { number, statistics, energy, norm: W.norm_l2() })
    };
    numbers.iter().map(read).collect()
}

fn weight(model: &Model, tokenizer: &Tokenizer, layer: usize) -> Done<Mat<f64>> {
    let (model, tokenizer, contexts) = (model.clone(), tokenizer.clone(), Contexts::default());
    let adapter = ModelAdapter::new(model, tokenizer, vec![layer], contexts, TargetSearch::default())?;
    let (rows, cols) = adapter.weight_shape(layer)?;
    let mut W = Mat::<f32>::zeros(rows, cols);
    adapter.read_weight(layer, W.as_mut())?;
    Ok(betaedit_core::scalar::cast::<f32, f64>(W.as_ref()))
}
