//! A run: a session on a language model, with everything needed to open it again.
//!
//! A session directory holds `run.toml` (model, statistics, settings, contexts), `edits.jsonl` (the requests in order),
//! `before.json` (scores of the unedited model), `state/` (the directory of the library's session), and while facts are written together
//! `targets.jsonl` (the targets found so far).

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use betaedit_core::Result;
use betaedit_core::error::{Error, SessionError};
use betaedit_core::llm::{Contexts, Model, ModelAdapter, Request, Tokenizer};
use betaedit_core::session::{Consolidation, EditId, Observer, Outcome, Session, SessionBuilder};
use serde::{Deserialize, Serialize};

use crate::files::{self, make_own, replace};
use crate::found::{self, Found, state_of};
use crate::gradients;
use crate::rest;
use crate::settings::Plan;
use crate::source::{open_model, setting};
use crate::stored::{self, Start};
use crate::terminal::{Done, Terminal};
use crate::timed::Timed;

/// The contents of `run.toml`.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Description {
    pub model: PathBuf,
    pub stats: PathBuf,
    /// Texts that precede the prompts.
    pub contexts: Vec<String>,
    /// The model's [`setting`]; sessions of earlier versions do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setting: Option<String>,
    /// Whether the statistics had gradients when the session began: targets and gauges stay of one kind.
    #[serde(default)]
    pub gradients: bool,
    /// What editors start from; sessions of earlier versions do not have it.
    #[serde(default)]
    pub start: Start,
    pub plan: Plan,
}

/// A line of `edits.jsonl`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub subject: String,
    pub prompt: String,
    pub target: String,
}

impl From<&Request> for Entry {
    fn from(request: &Request) -> Self {
        let [subject, prompt, target] = [request.subject(), request.prompt(), request.target()].map(str::to_owned);
        Self { subject, prompt, target }
    }
}

impl Entry {
    pub fn request(&self) -> Result<Request> {
        Request::new(&*self.subject, &*self.prompt, &*self.target)
    }
}

/// Whether more facts are to be written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum More {
    Follow,
    None,
}

/// The arguments that choose a session.
#[derive(clap::Args)]
pub struct SessionArguments {
    /// Directory of the session
    #[arg(long, value_name = "DIR")]
    pub session: PathBuf,
    /// Model of the session, if it has moved
    #[arg(long, value_name = "M")]
    model: Option<PathBuf>,
}

impl SessionArguments {
    /// Opens the session, and tells an observer what is done.
    pub fn open(&self, observer: impl Observer + 'static, terminal: Terminal) -> Done<Run> {
        Run::open_with(&self.session, self.model.as_deref(), observer, terminal)
    }
}

/// An open session, and the unedited model.
pub struct Run {
    pub description: Description,
    pub unedited: Model,
    pub session: Session<Timed>,
    pub entries: Vec<Entry>,
    /// The statistics of its layers.
    pub known: Vec<stored::Known>,
    pub(crate) directory: Option<PathBuf>,
    /// Targets that are found and not written yet, in the directory.
    pub(crate) found: Found,
    /// From how many facts on another consolidation is tried, after one was rejected.
    consolidate_from: u64,
}

impl Run {
    /// Starts a session, or continues the one in the directory, which must have the same settings.
    pub fn begin(
        (model, tokenizer): (Model, Tokenizer),
        model_path: &Path,
        stats_path: &Path,
        plan: Plan,
        directory: Option<&Path>,
        observer: impl Observer + 'static,
        terminal: Terminal,
    ) -> Done<Self> {
        let there = directory.map(Self::description).transpose()?.flatten();
        if let (Some(directory), None) = (directory, &there) {
            check_is_free(directory)?;
        }
        if let Some(there) = &there {
            same_plan(&there.plan, &plan, directory.unwrap_or(Path::new("")))?;
        }
        let contexts = match &there {
            Some(there) => Contexts::new(there.contexts.clone()),
            None => Contexts::generate(&model, &tokenizer, plan.contexts, plan.context_length, plan.seed)?,
        };
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let description = Description {
            model: absolute(model_path),
            stats: absolute(stats_path),
            contexts: contexts.prefixes().to_vec(),
            setting: match there.as_ref().and_then(|there| there.setting.clone()) {
                None => Some(setting(&model, &tokenizer)?),
                there => there,
            },
            gradients: match &there {
                Some(there) => there.gradients,
                None => gradients::are_there(stats_path, &plan.layers.0),
            },
            start: match &there {
                Some(there) => there.start,
                None => Start::of(&plan.entry()?.method(&plan.hyperparameters()).recipe()),
            },
            plan,
        };
        let run = Self::start(description, (model, tokenizer), directory, observer, terminal)?;
        // After the session was opened without errors, and before the first edit. Paths may have changed since the last run.
        if let Some(directory) = directory
            && there.as_ref() != Some(&run.description)
        {
            replace(&directory.join("run.toml"), toml::to_string(&run.description)?)?;
        }
        Ok(run)
    }

    /// Opens the session in a directory.
    pub fn open(directory: &Path, model: Option<&Path>, terminal: Terminal) -> Done<Self> {
        Self::open_with(directory, model, (), terminal)
    }

    /// Opens the session in a directory, and tells an observer what is done.
    fn open_with(
        directory: &Path,
        model: Option<&Path>,
        observer: impl Observer + 'static,
        terminal: Terminal,
    ) -> Done<Self> {
        let mut description = Self::description(directory)?
            .ok_or_else(|| format!("there is no session in `{}`: it has no run.toml", directory.display()))?;
        if let Some(model) = model {
            description.model = model.to_owned();
        }
        let opened = open_model(&description.model, terminal)?;
        Self::start(description, opened, Some(directory), observer, terminal)
    }

    /// The contents of a directory's `run.toml`, if it has one.
    pub fn description(directory: &Path) -> Done<Option<Description>> {
        let path = directory.join("run.toml");
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path)?;
        Ok(Some(toml::from_str(&text).map_err(|error| format!("`{}`: {error}", path.display()))?))
    }

    fn start(
        description: Description,
        (model, tokenizer): (Model, Tokenizer),
        directory: Option<&Path>,
        observer: impl Observer + 'static,
        terminal: Terminal,
    ) -> Done<Self> {
        let plan = &description.plan;
        if description
            .setting
            .as_ref()
            .is_some_and(|there| setting(&model, &tokenizer).is_ok_and(|here| here != *there))
        {
            let model = description.model.display();
            let problem = "the configuration or the tokenizer of the model has changed since the session began";
            return Err(format!("`{model}`: {problem}: restore them, or start another session").into());
        }
        let scratch = rest::scratch(directory)?;
        let (stats, start) = (&description.stats, description.start);
        let known = stored::load(stats, (&model, &tokenizer), &plan.layers, start, &scratch, terminal)?;
        let (unedited, contexts) = (model.clone(), Contexts::new(description.contexts.clone()));
        let surroundings = plan.surroundings(contexts)?;
        let mut adapter = ModelAdapter::new(model, tokenizer, plan.layers.0.clone(), surroundings, plan.search())?;
        let gradients = match description.gradients {
            true => gradients::load(&description.stats, adapter.model(), &plan.layers.0)?,
            false => vec![],
        };
        match gradients.last() {
            Some((_, last)) => {
                if let Some(sensitivity) = plan.sensitivity(last, terminal.par)? {
                    adapter = adapter.with_sensitivity(sensitivity)?;
                }
            }
            None if plan.sensitivity > 0.0 => terminal.note(WITHOUT_GRADIENTS),
            None => {}
        }
        let entry = plan.entry()?;
        let mut builder = SessionBuilder::new(entry.method(&plan.hyperparameters()))
            .guards(plan.guards())
            .conflicts(plan.on_conflict)
            .snapshot_every(200)
            .observer(observer);
        if let Some(restraint) = plan.restraint() {
            builder = builder.restraint(restraint);
        }
        for (layer, statistics) in &known {
            builder = builder.layer(*layer, statistics.clone());
        }
        for (layer, moment) in gradients {
            builder = builder.gradients(layer, moment);
        }
        if let Some(directory) = directory {
            builder = builder.directory(directory.join("state"));
        }
        if rest::is_due(&adapter)? {
            builder = builder.layers_at_rest(scratch);
        }
        let session = builder.open(Timed::new(adapter), terminal.par)?;
        say_how_it_continues(&session, terminal);
        let entries =
            directory.map(|directory| entries(directory, session.processed())).transpose()?.unwrap_or_default();
        Ok(Self {
            description,
            unedited,
            session,
            entries,
            known,
            directory: directory.map(Path::to_owned),
            found: Found::default(),
            consolidate_from: 0,
        })
    }

    pub fn adapter(&self) -> &ModelAdapter {
        &self.session.adapter().inner
    }

    /// Edits a batch. A request without a target does not keep the others from being written: it is a batch of its own, which is
    /// rejected, and so are those before it and those after it.
    pub fn edit(&mut self, batch: &[Request], mut each: impl FnMut(&Outcome, &[Request])) -> Done {
        let mut rest = batch;
        while !rest.is_empty() {
            let clock = Instant::now();
            if rest.len() > 1 && self.description.plan.lookahead == 1 {
                self.keep_found(&state_of(self.adapter())?, rest)?;
            }
            let adapter = self.session.adapter_mut();
            let prepared = if rest.len() > 1 { adapter.inner.prepare(rest) } else { Ok(()) };
            adapter.targets += clock.elapsed();
            let cut = match prepared {
                Ok(()) => rest.len(),
                Err((0, _)) => 1,
                Err((without, _)) => without,
            };
            let (part, others) = rest.split_at(cut);
            each(&self.edit_whole(part)?, part);
            rest = others;
        }
        if batch.len() > 1 && self.description.plan.lookahead == 1 {
            self.found.remove()?;
        }
        Ok(())
    }

    /// Edits a batch and records its requests.
    fn edit_whole(&mut self, batch: &[Request]) -> Done<Outcome> {
        if let Some(directory) = &self.directory {
            let path = directory.join("edits.jsonl");
            make_own(&path)?;
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
            let lines = batch.iter().map(|request| Ok(serde_json::to_string(&Entry::from(request))? + "\n"));
            file.write_all(lines.collect::<serde_json::Result<String>>()?.as_bytes())?;
            file.sync_data()?;
        }
        let outcome = self.session.edit(batch)?;
        self.entries.extend(batch.iter().map(Entry::from));
        Ok(outcome)
    }

    /// Consolidates, if enough facts were written since the last time: as many as the settings say, and half of all while more are to come,
    /// else a fifth. If the guards reject what comes out, the facts stay as they were written.
    pub fn consolidate_if_due(&mut self, more: More, terminal: Terminal) -> Done {
        let plan = &self.description.plan;
        let every = plan.consolidate_every as u64;
        let (new, all) = (self.session.unconsolidated(), self.session.applied());
        let share = match more {
            More::Follow => all.div_ceil(2),
            More::None => all.div_ceil(5),
        };
        if every == 0 || new < every.max(share) || all < self.consolidate_from {
            return Ok(());
        }
        match self.session.consolidate(&Consolidation::default().with_passes(plan.passes)) {
            Ok(_) => Ok(()),
            Err(Error::Session(SessionError::Rejected(reason))) => {
                self.consolidate_from = 2 * all;
                terminal.note(format!("{all} facts are not consolidated, they stay as they were written: {reason}"));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Edits that are in the model.
    pub fn held(&self) -> Vec<u64> {
        (0..self.session.processed()).filter(|&id| self.session.holds(EditId(id))).collect()
    }
}

/// Says what a session that goes on has found.
fn say_how_it_continues(session: &Session<Timed>, terminal: Terminal) {
    let recovery = session.recovery();
    if recovery.resumed {
        let again = recovery.replayed;
        terminal.note(format!(
            "the session continues after {} facts ({again} replayed from the journal)",
            session.processed()
        ));
    }
    if let Some(reason) = &recovery.snapshot_ignored {
        terminal.note(format!("the snapshot was not used: {reason}"));
    }
}

/// What a session does without gradients.
const WITHOUT_GRADIENTS: &str = "the statistics have no gradients: targets are sought along the plain gradient, which changes more of \
     what is around a fact, and the expected loss is not measured; `betaedit stats` collects them for a new session, `--sensitivity 0` does \
     without";

/// The files of a session's directory, besides `state/`.
const FILES: [&str; 4] = ["run.toml", "edits.jsonl", "before.json", found::FILE];

/// Whether a path is one of a session's own files.
fn is_of_session(path: &Path, session: &Path) -> bool {
    let whole = |path: &Path| {
        let (folder, name) = (files::folder_of(path), path.file_name().unwrap_or_default());
        folder.canonicalize().or_else(|_| std::path::absolute(folder)).unwrap_or_else(|_| folder.to_owned()).join(name)
    };
    let session = session.canonicalize().unwrap_or_else(|_| whole(session));
    let path = whole(path);
    path.starts_with(session.join("state")) || FILES.iter().any(|name| path == session.join(name))
}

/// Refuses paths in the places of a session's own files.
pub fn check_beside<'a>(session: &Path, paths: impl IntoIterator<Item = &'a Path>) -> Done {
    match paths.into_iter().find(|path| is_of_session(path, session)) {
        None => Ok(()),
        Some(path) => {
            let (path, session) = (path.display(), session.display());
            Err(format!("`{path}` is the place of a file of the session in `{session}`: give another path").into())
        }
    }
}

/// Refuses a directory that holds something and no session: a session's files would take its place.
fn check_is_free(directory: &Path) -> Done {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    // A run that was killed at its start leaves the state.
    let passed_over =
        |name: &OsString| name == "state" || files::is_of_desktop(name) || name.to_string_lossy().starts_with(".tmp");
    match entries.into_iter().find(|name| !passed_over(name)) {
        None => Ok(()),
        Some(name) => {
            let (directory, name) = (directory.display(), name.display());
            Err(format!(
                "`{directory}` holds `{name}` and no session (it has no run.toml): give a new or empty directory"
            )
            .into())
        }
    }
}

/// The requests of all edits in the journal. Lines beyond them were written before a crash and not confirmed; they are removed,
/// so that the next edits take their place.
fn entries(directory: &Path, processed: u64) -> Done<Vec<Entry>> {
    let path = directory.join("edits.jsonl");
    let text = if path.exists() { std::fs::read_to_string(&path)? } else { String::new() };
    let lines: Vec<&str> = text.lines().take(processed as usize).collect();
    let entries = lines.iter().map(|line| serde_json::from_str(line));
    let entries: Vec<Entry> =
        entries.collect::<serde_json::Result<_>>().map_err(|error| format!("`{}`: {error}", path.display()))?;
    if (entries.len() as u64) < processed {
        let (there, path) = (entries.len(), path.display());
        return Err(format!(
            "`{path}` has only {there} of the {processed} edits in the journal: restore the file from a copy"
        )
        .into());
    }
    let kept: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
    if kept != text {
        replace(&path, &kept)?;
    }
    Ok(entries)
}

fn same_plan(there: &Plan, here: &Plan, directory: &Path) -> Done {
    let (there, here) = (toml::Table::try_from(there)?, toml::Table::try_from(here)?);
    // When to consolidate may change from run to run.
    let differing = there.iter().filter(|(name, value)| *name != "consolidate-every" && here.get(*name) != Some(value));
    let differing: Vec<String> = differing
        .map(|(name, value)| {
            format!("{name} is {value} there, {} here", here.get(name).map_or("".into(), ToString::to_string))
        })
        .collect();
    if differing.is_empty() {
        return Ok(());
    }
    let (directory, differing) = (directory.display(), differing.join("; "));
    Err(format!(
        "the session in `{directory}` has other settings ({differing}): use the same settings, or another directory"
    )
    .into())
}
