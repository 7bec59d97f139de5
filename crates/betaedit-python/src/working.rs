//! Long calls: without the interpreter, so that other threads of Python run, and ended by Ctrl-C.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use betaedit_core::error::NumericsError;
use betaedit_core::spectrum::DecompositionProgress;
use pyo3::prelude::*;

use crate::errors::{self, OrRaise};

/// How often signals are looked for.
const LOOK: Duration = Duration::from_millis(50);

/// Runs a decomposition in a thread of its own, while this one shows its progress and looks for Ctrl-C.
///
/// After Ctrl-C the call ends at once. The thread ends at the next step that it can be stopped at, and its result is dropped.
pub fn watched<R: Send + 'static>(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(&mut dyn FnMut(DecompositionProgress) -> ControlFlow<()>) -> Result<R, NumericsError> + Send + 'static,
) -> PyResult<R> {
    let stop = Arc::new(AtomicBool::new(false));
    let (steps, mut seen) = mpsc::channel();
    let (done, result) = mpsc::channel();
    let told = Arc::clone(&stop);
    std::thread::spawn(move || {
        let outcome = work(&mut |step| {
            // Nobody listens after Ctrl-C.
            let _ = steps.send(step);
            if told.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let _ = done.send(outcome);
    });
    loop {
        let step;
        // A receiver can be moved to a part without the interpreter, but not shared with it.
        (step, seen) = py.detach(move || (seen.recv_timeout(LOOK), seen));
        let checked = py.check_signals().and_then(|()| match (&step, &progress) {
            (Ok(step), Some(progress)) => progress.call1(py, (step.stage.to_string(), step.done)).map(drop),
            _ => Ok(()),
        });
        if let Err(raised) = checked {
            stop.store(true, Ordering::Relaxed);
            return Err(raised);
        }
        if matches!(step, Err(RecvTimeoutError::Disconnected)) {
            let outcome = result.recv().map_err(|_| errors::numerics("the decomposition ended without a result"))?;
            return outcome.or_raise();
        }
    }
}
