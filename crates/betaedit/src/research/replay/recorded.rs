//! `betaedit replay` without a session: every step is measured.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use betaedit_core::adapter::{RecordedStream, write_delta};
use betaedit_core::editor::{ClosedFormEditor, method};
use betaedit_core::faer::Mat;
use betaedit_core::metrics::{Measurement, Retention, RunningTotal, write_errors};
use betaedit_core::refresh::RefreshReport;
use betaedit_core::restraint::KnownRestraint;
use betaedit_core::{Adapter, EditBatch, Editor, Scalar, SecondMoment, Spectrum};

use super::{Arguments, report};
use crate::plot;
use crate::research::numbers::largest;
use crate::terminal::{Done, Terminal};

/// The recording, and the editor that it runs through.
pub struct Setup<T: Scalar> {
    stream: RecordedStream<T>,
    layer: usize,
    moment: Arc<SecondMoment>,
    editor: ClosedFormEditor<T>,
    pub name: String,
    pub edits: usize,
    pub d_out: usize,
    pub d_in: usize,
    pub weight_norm: f64,
    pub kept_first: usize,
    pub build_seconds: f64,
}

/// The measurements of one step, an edit or a batch.
pub struct Step {
    pub measured: Measurement,
    pub s: f64,
    pub gain: f64,
    pub write_error: f64,
}

/// The errors of all edits so far.
pub struct Checkpoint {
    pub edits: usize,
    pub errors: Vec<f64>,
}

/// The measurements of the whole stream.
pub struct Replayed {
    pub steps: Vec<Step>,
    pub checkpoints: Vec<Checkpoint>,
    pub refreshes: Vec<RefreshReport>,
    pub kept_last: usize,
    pub removed: usize,
    pub edit_seconds: f64,
    total: Mat<f64>,
}

pub fn run<T: Scalar>(arguments: &Arguments, terminal: Terminal) -> Done {
    let mut setup = Setup::<T>::new(arguments, terminal)?;
    terminal.say(setup.line(arguments.batch)?);
    let replayed = setup.replay(arguments, terminal)?;
    let result = report::json(arguments, &setup, &replayed);

    // Files are written before the summary is printed, so that a closed pipe loses nothing.
    let (mut failures, mut written) = (vec![], vec![]);
    for (what, path, outcome) in [
        ("report", &arguments.report, write_report(arguments, &result)),
        ("update", &arguments.out, write_update(arguments, &setup, &replayed)),
        ("curves", &arguments.plot, write_curves(arguments, &setup, &replayed)),
    ] {
        let Some(path) = path else { continue };
        match outcome {
            Ok(()) => written.push(format!("{what:<22}{}", path.display())),
            Err(error) => failures.push(format!("{what}: {error}")),
        }
    }
    terminal.say(report::summary(&setup, &replayed)?.into_iter().chain(written).collect::<Vec<_>>().join("\n"));
    if !failures.is_empty() {
        return Err(failures.join("\nerror: ").into());
    }
    terminal.result(&result);
    Ok(())
}

impl<T: Scalar> Setup<T> {
    fn new(arguments: &Arguments, terminal: Terminal) -> Done<Self> {
        let (started, par) = (Instant::now(), terminal.par);
        let stream = RecordedStream::<T>::open(&arguments.stream, par)?;
        let layer = stream.layers()[0];
        let (d_out, d_in) = stream.weight_shape(layer)?;
        let edits = arguments.edits(stream.len())?;
        let weight_norm = stream.weight().norm_l2().to_f64();
        let moment = Arc::new(stream.second_moment().clone());
        let spectrum = Arc::new(Spectrum::new(&moment, par)?);
        let entry = method(&arguments.method)?;
        let editor = entry.editor::<T>(&arguments.hyperparameters(), &spectrum, par)?;
        let (build_seconds, kept_first) = (started.elapsed().as_secs_f64(), editor.state().kept_directions);
        let name = entry.name().to_owned();
        Ok(Self { stream, layer, moment, editor, name, edits, d_out, d_in, weight_norm, kept_first, build_seconds })
    }

    /// A line about the run, and one about the projector.
    fn line(&self, batch: usize) -> Done<String> {
        let Self { name, edits, d_out, d_in, kept_first, .. } = self;
        let projector = self.editor.projector()?;
        let gap = projector.gap();
        let at_the_cut = |s: Option<f64>| s.map_or("none".into(), |s| format!("{s:.6}"));
        Ok(format!(
            "{name}: {edits} edits of a {d_out} x {d_in} weight, {batch} per batch, {}\n\
             projector: {kept_first} of {d_in} directions kept, eigenvalues {} | {} at the cut, capacity {:.0}",
            T::NAME,
            at_the_cut(gap.largest_kept),
            at_the_cut(gap.smallest_protected),
            projector.capacity(),
        ))
    }

    fn replay(&mut self, arguments: &Arguments, terminal: Terminal) -> Done<Replayed> {
        let (edits, par) = (self.edits, terminal.par);
        let bar = terminal.bar(edits as u64, "edits");
        let mut total = RunningTotal::new(&self.moment, self.d_out, 1, par)?;
        let mut retention = Retention::new(self.d_in, self.d_out);
        let (mut steps, mut checkpoints, mut refreshes) = (vec![], vec![], vec![]);
        let mut edit_seconds = 0.0;
        let requests: Vec<usize> = (0..edits).collect();
        for batch in requests.chunks(arguments.batch) {
            let (K, R) = (self.stream.keys(self.layer, batch)?, self.stream.residuals(self.layer, batch)?);
            let batch = EditBatch::new(K.as_ref(), R.as_ref())?;
            let clock = Instant::now();
            refreshes.extend(self.editor.refresh_if_due()?);
            let mut proposal = self.editor.propose(&batch)?;
            if let Some(KnownRestraint::Rect(rect)) = arguments.restraint() {
                proposal = proposal.map_update(|update| rect.restrain(update, self.stream.weight(), par))?;
            }
            let gain = largest(proposal.gains().iter().copied());
            self.stream.apply(self.layer, proposal.update())?;
            let update = proposal.update().clone();
            self.editor.commit(proposal)?;
            edit_seconds += clock.elapsed().as_secs_f64();

            retention.record(&batch, total.total()?, par)?;
            let measured = total.record(&update)?.ok_or("the stride is 1")?;
            let errors = write_errors(&update, &batch, par)?;
            steps.push(Step {
                measured,
                s: largest(self.editor.stability(batch.keys())?.unwrap_or_default()),
                gain,
                write_error: errors.iter().map(|e| e * e).sum::<f64>().sqrt(),
            });
            let done = measured.edits;
            // Retention is measured ten times; each costs a product of all past keys with the total.
            if done == edits || done * 10 / edits > (done - batch.len()) * 10 / edits {
                checkpoints.push(Checkpoint { edits: done, errors: retention.errors(total.total()?, par)? });
            }
            bar.set_message(format!("leakage {:.4}  drift {:.3}", measured.leakage, measured.drift));
            bar.inc(batch.len() as u64);
        }
        bar.finish_and_clear();
        let state = self.editor.state();
        let (kept_last, removed) = (state.kept_directions, state.removed_directions);
        Ok(Replayed {
            steps,
            checkpoints,
            refreshes,
            kept_last,
            removed,
            edit_seconds,
            total: total.total()?.to_owned(),
        })
    }
}

fn write_report(arguments: &Arguments, result: &serde_json::Value) -> Done {
    let Some(path) = &arguments.report else { return Ok(()) };
    crate::files::replace(path, serde_json::to_string_pretty(result)?)
}

fn write_update<T: Scalar>(arguments: &Arguments, setup: &Setup<T>, replayed: &Replayed) -> Done {
    let Some(path) = &arguments.out else { return Ok(()) };
    let metadata = HashMap::from([("method".into(), setup.name.clone()), ("edits".into(), setup.edits.to_string())]);
    Ok(write_delta(path, replayed.total.as_ref(), metadata)?)
}

fn write_curves<T: Scalar>(arguments: &Arguments, setup: &Setup<T>, replayed: &Replayed) -> Done {
    let Some(path) = &arguments.plot else { return Ok(()) };
    let title = format!("{} on {} edits", setup.name, setup.edits);
    plot::save(path, &title, "edits", &report::panels(replayed))
        .map_err(|error| format!("{}: {error}", path.display()).into())
}
