//! Targets that were found and are not written yet, in a file of the session: a run that is interrupted does not seek them again.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use betaedit_core::Adapter;
use betaedit_core::faer::Mat;
use betaedit_core::llm::{AdapterStep, ModelAdapter, Request};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use crate::files::make_own;
use crate::progress::Phases;
use crate::run::{Entry, Run};
use crate::terminal::Done;

/// The file's name in the directory of a session.
pub const FILE: &str = "targets.jsonl";

/// The file, while targets are sought; shared with the function that watches the search.
#[derive(Clone, Default)]
pub struct Found(Arc<Mutex<Option<FoundFile>>>);

/// The open file.
struct FoundFile {
    path: PathBuf,
    file: File,
}

/// Its first line: what the targets belong to.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    of: String,
}

/// A line: a request and its target, as the bits of its numbers.
#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    entry: Entry,
    bits: Vec<u32>,
}

impl FoundFile {
    /// Opens the file of a session, and reads the targets of these requests that it has. Targets of another state are dropped.
    fn open(directory: &Path, of: &str, requests: &[Request]) -> Done<(Self, HashMap<Request, Vec<f32>>)> {
        let (path, header) = (directory.join(FILE), Header { of: of.to_owned() });
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let mut lines = text.split_inclusive('\n');
        let is_same = |line: &str| serde_json::from_str::<Header>(line).is_ok_and(|there| there == header);
        let same = lines.next().is_some_and(is_same);
        // The last line may have been cut by a crash.
        let whole = lines.take_while(|line| same && line.ends_with('\n'));
        let known: Vec<Line> = whole.map_while(|line| serde_json::from_str(line).ok()).collect();
        make_own(&path)?;
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&path)?;
        writeln!(file, "{}", serde_json::to_string(&header)?)?;
        let (mut opened, mut found) = (Self { path, file }, HashMap::new());
        for Line { entry, bits } in known {
            if let Some(request) = requests.iter().find(|request| Entry::from(*request) == entry) {
                let target: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
                opened.add(request, &target)?;
                found.insert(request.clone(), target);
            }
        }
        Ok((opened, found))
    }

    fn add(&mut self, request: &Request, target: &[f32]) -> Done {
        let line = Line { entry: request.into(), bits: target.iter().map(|x| x.to_bits()).collect() };
        Ok(writeln!(self.file, "{}", serde_json::to_string(&line)?)?)
    }
}

impl Found {
    fn file(&self) -> MutexGuard<'_, Option<FoundFile>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a target. It is not needed for the run: if it cannot be written, none is from here on.
    fn add(&self, request: &Request, target: &[f32]) {
        self.file().take_if(|file| file.add(request, target).is_err());
    }

    /// Removes the file: its targets are written.
    pub fn remove(&self) -> Done {
        match self.file().take() {
            Some(FoundFile { path, .. }) => Ok(std::fs::remove_file(path)?),
            None => Ok(()),
        }
    }
}

impl Run {
    /// Shows what is done of a batch, and keeps the targets that are found.
    pub fn follow(&mut self, bar: &ProgressBar) {
        let (mut phases, found) = (Phases::new(bar.clone()), self.found.clone());
        self.session.adapter_mut().inner.set_watch(move |step| {
            phases.step(step);
            if let AdapterStep::Target { request, target, .. } = step {
                found.add(request, target);
            }
            ControlFlow::Continue(())
        });
    }

    /// Keeps the targets of these requests from now on, and takes those that an interrupted run has found.
    ///
    /// * `of`: what the targets belong to
    pub fn keep_found(&mut self, of: &str, requests: &[Request]) -> Done {
        let Some(directory) = &self.directory else { return Ok(()) };
        let (file, found) = FoundFile::open(directory, of, requests)?;
        *self.found.file() = Some(file);
        Ok(self.session.adapter_mut().inner.resume_with(found)?)
    }

    /// Seeks the targets of the next requests, which are written one after the other.
    ///
    /// * `first`: the place of the first of those that were sought together
    pub fn look_ahead(&mut self, first: usize, requests: &[Request]) -> Done {
        let clock = Instant::now();
        self.keep_found(&format!("lookahead from fact {first}"), requests)?;
        let adapter = self.session.adapter_mut();
        adapter.inner.look_ahead(requests)?;
        adapter.targets += clock.elapsed();
        Ok(())
    }
}

/// A name for the state of the model: its edited weights.
pub fn state_of(adapter: &ModelAdapter) -> Done<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(adapter.fingerprint().as_bytes());
    for &layer in adapter.layers() {
        let (rows, cols) = adapter.weight_shape(layer)?;
        let mut weight = Mat::<f32>::zeros(rows, cols);
        adapter.read_weight(layer, weight.as_mut())?;
        for column in weight.col_iter() {
            hasher.update(&column.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}
