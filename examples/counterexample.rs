//! Theorem 1 of the BetaEdit paper as printed, and two edits for which it fails.
//!
//! ```sh
//! cargo run --release --example counterexample
//! ```
//!
//! The theorem: if no two updates point against each other, protecting past edits (history) reduces the drift. Here no two
//! updates point against each other, and history increases the drift. `betaedit theorem1` explains what a proof needs, and what
//! is true instead.

use std::error::Error;
use std::sync::Arc;

use betaedit_core::editor::History;
use betaedit_core::editor::{ClosedFormEditor, Recipe};
use betaedit_core::faer::{Mat, Par};
use betaedit_core::metrics::{Interference, RunningTotal};
use betaedit_core::{EditBatch, Editor, Memit, Method, SecondMoment, Spectrum};

fn main() -> Result<(), Box<dyn Error>> {
    let memit = Memit::default().with_lambda(1.0);
    let [without, with] = [History::Ignored, History::Absorbed].map(|history| memit.with_history(history).recipe());
    let (without, with) = (squared_drift(without)?, squared_drift(with)?);
    println!("squared drift without history {without:.5}, with history {with:.5}");
    if with <= without {
        return Err("history reduced the drift: this is no counterexample".into());
    }
    Ok(())
}

/// Two keys with `|k|² = 10` and `k1 · k2 = 5`, two orthogonal residuals of length 1, and `A0 = I`.
fn squared_drift(recipe: Recipe) -> Result<f64, Box<dyn Error>> {
    let keys = Mat::from_fn(2, 2, |i, j| [[10.0_f64.sqrt(), 2.5_f64.sqrt()], [0.0, 7.5_f64.sqrt()]][i][j]);
    let residuals = Mat::<f64>::identity(2, 2);

    // The mean of k kᵀ over two keys of length sqrt(2) along the axes is the identity.
    let mut moment = SecondMoment::new(2);
    let axes = Mat::from_fn(2, 2, |i, j| if i == j { 2.0_f64.sqrt() } else { 0.0 });
    moment.observe(axes.as_ref(), Par::Seq)?;
    let moment = Arc::new(moment);
    let spectrum = Arc::new(Spectrum::new(&moment, Par::Seq)?);

    let mut editor = ClosedFormEditor::<f64>::new("memit", recipe, &spectrum, Par::Seq)?;
    let mut total = RunningTotal::new(&moment, 2, 1, Par::Seq)?;
    let (mut drift, mut updates) = (0.0, vec![]);
    for edit in 0..2 {
        let (key, residual) = (keys.as_ref().subcols(edit, 1), residuals.as_ref().subcols(edit, 1));
        let update = editor.edit(&EditBatch::new(key, residual)?)?;
        drift = total.record(&update)?.ok_or("every edit is measured")?.drift;
        updates.push(update);
    }
    if !Interference::new(&updates, Par::Seq)?.is_non_conflicting(1e-12) {
        return Err("the updates conflict: the theorem says nothing about them".into());
    }
    Ok(drift * drift)
}
