//! Observers, which are called with the outcome of every batch.

use std::io::Write;
use std::time::Duration;

use serde_json::json;

use super::outcome::{Applied, Outcome};
use crate::refresh::Capacity;

/// The progress of a session.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Progress {
    /// Requests seen, including those of earlier runs.
    pub processed: u64,
    /// Edits in the model.
    pub applied: u64,
    /// Requests rejected.
    pub rejected: u64,
    /// Requests seen since the session was opened.
    pub processed_now: u64,
    /// Time since the session was opened.
    pub elapsed: Duration,
}

/// How far a consolidation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsolidationStep {
    /// Targets are known.
    Targets {
        /// Of how many edits.
        done: usize,
        /// Of how many in all.
        of: usize,
    },
    /// A layer is solved.
    Layer {
        /// The layer.
        layer: usize,
        /// How many are, with it.
        done: usize,
        /// How many there are.
        of: usize,
    },
}

/// A layer of a batch is solved and written; the batch is not confirmed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LayerStep {
    /// The layer.
    pub layer: usize,
    /// How many are, with it.
    pub done: usize,
    /// How many there are.
    pub of: usize,
    /// Requests of the batch.
    pub requests: usize,
}

/// Called with the outcome of every batch, once it is in the journal. The observer `()` does nothing.
pub trait Observer: Send + Sync {
    /// A batch was applied or rejected.
    fn outcome(&mut self, outcome: &Outcome, progress: &Progress);

    /// A batch goes on. The default does nothing.
    fn solving(&mut self, step: &LayerStep) {
        let _ = step;
    }

    /// A consolidation goes on. The default does nothing.
    fn consolidating(&mut self, step: &ConsolidationStep) {
        let _ = step;
    }
}

/// A closure is an observer.
impl<F: FnMut(&Outcome, &Progress) + Send + Sync> Observer for F {
    fn outcome(&mut self, outcome: &Outcome, progress: &Progress) {
        self(outcome, progress);
    }
}

impl Observer for () {
    fn outcome(&mut self, _: &Outcome, _: &Progress) {}
}

/// Below this, a progress line shows the room.
const LITTLE_ROOM: f64 = 0.1;

/// A progress line that overwrites itself: edits done and rejected, edits per second, time left, the expected loss of all layers, and of the
/// last layer drift (and leakage, if there is no expected loss), and capacity and room where they are low. Meant for standard error on a terminal. Write errors are ignored.
#[derive(Debug)]
pub struct ProgressLine<W> {
    out: W,
    planned: Option<u64>,
    drawn: Option<Duration>,
    width: usize,
}

impl<W: Write + Send + Sync> ProgressLine<W> {
    /// A progress line.
    ///
    /// * `planned`: how many requests there are in all, if known; needed for the bar and the time left
    pub fn new(out: W, planned: Option<u64>) -> Self {
        Self { out, planned, drawn: None, width: 0 }
    }

    fn line(&self, outcome: &Outcome, progress: &Progress) -> String {
        let rate = progress.processed_now as f64 / progress.elapsed.as_secs_f64().max(1e-9);
        let mut line = match self.planned {
            Some(planned) if planned > 0 => {
                let filled = (24 * progress.processed.min(planned) / planned) as usize;
                let left = planned.saturating_sub(progress.processed) as f64 / rate.max(1e-9);
                let bar = format!("{}{}", "#".repeat(filled), ".".repeat(24 - filled));
                format!("[{bar}] {}/{planned}  {rate:.1}/s  {left:.0} s left", progress.processed)
            }
            _ => format!("{} edits  {rate:.1}/s", progress.processed),
        };
        if progress.rejected > 0 {
            line += &format!("  {} rejected", progress.rejected);
        }
        if let Outcome::Applied(applied) = outcome
            && let Some(last) = applied.layers.last()
        {
            if let (Some(leakage), Some(drift)) = (last.leakage, last.drift) {
                match applied.expected_loss() {
                    Some(loss) => line += &format!("  expected loss +{loss:.4}  drift {drift:.3}"),
                    None => line += &format!("  leakage {leakage:.4}  drift {drift:.3}"),
                }
            }
            if let Some(room) = last.room.filter(|&room| room < LITTLE_ROOM) {
                line += &format!("  room {:.1} %", 100.0 * room);
            }
            match last.state.capacity {
                Capacity::Ample => {}
                Capacity::Low => line += "  capacity low",
                Capacity::Exhausted => line += "  capacity exhausted",
            }
        }
        line
    }
}

impl<W: Write + Send + Sync> Observer for ProgressLine<W> {
    fn outcome(&mut self, outcome: &Outcome, progress: &Progress) {
        let last = self.planned.is_some_and(|planned| progress.processed >= planned);
        let due = self.drawn.is_none_or(|drawn| progress.elapsed.saturating_sub(drawn) >= Duration::from_millis(100));
        if !due && !last {
            return;
        }
        self.drawn = Some(progress.elapsed);
        let line = self.line(outcome, progress);
        let width = line.chars().count();
        let _ = write!(self.out, "\r{line:<pad$}{}", if last { "\n" } else { "" }, pad = self.width);
        let _ = self.out.flush();
        self.width = width;
    }
}

/// Writes a line with one JSON object for each batch. Write errors are ignored.
#[derive(Debug)]
pub struct JsonLines<W>(pub W);

impl<W: Write + Send + Sync> Observer for JsonLines<W> {
    fn outcome(&mut self, outcome: &Outcome, progress: &Progress) {
        let ids: Vec<u64> = outcome.ids().iter().map(|id| id.0).collect();
        let mut line = json!({
            "ids": ids,
            "outcome": if outcome.is_applied() { "applied" } else { "rejected" },
            "processed": progress.processed,
            "seconds": progress.elapsed.as_secs_f64(),
        });
        match outcome {
            Outcome::Applied(Applied { replaced, conflicts, layers, .. }) => {
                line["replaced"] = json!(replaced.iter().map(|id| id.0).collect::<Vec<_>>());
                line["conflicts"] = json!(conflicts.iter().map(ToString::to_string).collect::<Vec<_>>());
                line["layers"] = layers
                    .iter()
                    .map(|layer| {
                        json!({
                            "layer": layer.layer,
                            "update_norm": layer.update_norm,
                            "s": layer.stability,
                            "gain": layer.gain,
                            "written_share": layer.written_share,
                            "write_error": layer.write_error,
                            "room": layer.room,
                            "leakage": layer.leakage,
                            "expected_loss": layer.expected_loss,
                            "drift": layer.drift,
                            "kept_directions": layer.state.kept_directions,
                        })
                    })
                    .collect();
            }
            Outcome::Rejected { reason, .. } => line["reason"] = json!(reason.to_string()),
        }
        let _ = writeln!(self.0, "{line}");
    }
}
