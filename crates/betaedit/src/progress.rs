//! What a session does, as a progress bar.

use std::io::Write;
use std::time::{Duration, Instant};

use betaedit_core::llm::AdapterStep;
use betaedit_core::session::{ConsolidationStep, LayerStep, Observer, Outcome, Progress};
use indicatif::ProgressBar;

/// A progress bar for a session. Without a terminal, it prints a line now and then.
pub struct Follow {
    bar: ProgressBar,
    said: Instant,
}

/// Below this, the bar shows the room that is left for keys like those of the last batch.
const LITTLE_ROOM: f64 = 0.1;

/// Time between two lines.
const LINE_EVERY: Duration = Duration::from_secs(30);

impl Follow {
    pub fn new(bar: ProgressBar) -> Self {
        Self { bar, said: Instant::now() }
    }
}

impl Observer for Follow {
    fn outcome(&mut self, outcome: &Outcome, progress: &Progress) {
        self.bar.set_position(progress.processed);
        match outcome {
            Outcome::Applied(applied) => {
                let last = applied.layers.last();
                if let Some((leakage, drift)) = last.and_then(|last| last.leakage.zip(last.drift)) {
                    let room = last.and_then(|last| last.room).filter(|&room| room < LITTLE_ROOM);
                    let room = room.map_or(String::new(), |room| format!("  room {:.1} %", 100.0 * room));
                    let harm = match applied.expected_loss() {
                        Some(loss) => format!("expected loss +{loss:.4}"),
                        None => format!("leakage {leakage:.4}"),
                    };
                    self.bar.set_message(format!("{harm}  drift {drift:.2}{room}"));
                }
            }
            Outcome::Rejected { .. } => self.bar.suspend(|| {
                let _ = writeln!(std::io::stderr(), "{outcome}");
            }),
            _ => {}
        }
        if self.bar.is_hidden() && self.said.elapsed() > LINE_EVERY {
            self.said = Instant::now();
            let (length, message) = (self.bar.length().unwrap_or(0), self.bar.message());
            let _ = writeln!(std::io::stderr(), "{} of {length} facts  {message}", progress.processed);
        }
    }

    fn solving(&mut self, step: &LayerStep) {
        if step.requests > 1 {
            self.bar.set_message(format!("solved layer {}, {} of {}", step.layer, step.done, step.of));
        }
    }

    fn consolidating(&mut self, step: &ConsolidationStep) {
        self.bar.set_message(format!("consolidation, {}", step_text(step)));
        say_layer(&self.bar, step);
    }
}

/// What is done of a batch, as a part of a progress bar's line: the phase, how far it is, and the time that is left for it. Without a
/// terminal, it prints a line now and then.
pub struct Phases {
    bar: ProgressBar,
    phase: &'static str,
    begun: Instant,
    said: Instant,
}

impl Phases {
    pub fn new(bar: ProgressBar) -> Self {
        Self { bar, phase: "", begun: Instant::now(), said: Instant::now() }
    }

    pub fn step(&mut self, step: AdapterStep<'_>) {
        match step {
            AdapterStep::Keys { done, of, .. } => self.show("keys", done, of),
            AdapterStep::Target { done, of, .. } => self.show("targets", done, of),
            _ => {}
        }
    }

    fn show(&mut self, phase: &'static str, done: usize, of: usize) {
        // The phases of a single fact are over at once.
        if of < 2 {
            return;
        }
        if phase != self.phase || done <= 1 {
            (self.phase, self.begun) = (phase, Instant::now());
        }
        let left = self.begun.elapsed().as_secs_f64() * (of - done) as f64 / done.max(1) as f64;
        let text = format!("{phase} {done} of {of}, {left:.0} s left");
        if self.bar.is_hidden() && self.said.elapsed() > LINE_EVERY {
            self.said = Instant::now();
            let _ = writeln!(std::io::stderr(), "{text}");
        }
        self.bar.set_message(text);
    }
}

/// A progress bar for a consolidation alone.
pub struct Steps(pub ProgressBar);

impl Observer for Steps {
    fn outcome(&mut self, _: &Outcome, _: &Progress) {}

    fn consolidating(&mut self, step: &ConsolidationStep) {
        if let ConsolidationStep::Targets { done, of } | ConsolidationStep::Layer { done, of, .. } = *step {
            self.0.set_length(of as u64);
            self.0.set_position(done as u64);
        }
        self.0.set_message(step_text(step));
        say_layer(&self.0, step);
    }
}

fn step_text(step: &ConsolidationStep) -> String {
    match step {
        ConsolidationStep::Targets { done, of } => format!("target {done} of {of}"),
        ConsolidationStep::Layer { layer, done, of } => format!("layer {layer}, {done} of {of}"),
        _ => String::new(),
    }
}

/// Without a terminal, the layers of a consolidation are said.
fn say_layer(bar: &ProgressBar, step: &ConsolidationStep) {
    if bar.is_hidden() && matches!(step, ConsolidationStep::Layer { .. }) {
        let _ = writeln!(std::io::stderr(), "consolidation: {}", step_text(step));
    }
}
