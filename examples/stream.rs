//! Edits a matrix 200 times and prints leakage and drift. It needs keys and residuals, but no model.
//!
//! ```sh
//! cargo run --release --features safetensors --example stream
//! ```
//!
//! The keys and residuals come from a recording of a language model (`tests/data/README.md`). To use another recording, give its
//! path as an argument.

use std::error::Error;
use std::sync::Arc;

use betaedit_core::adapter::RecordedStream;
use betaedit_core::faer::Par;
use betaedit_core::metrics::RunningTotal;
use betaedit_core::projector::HistoryWeighting;
use betaedit_core::{Adapter, BetaEdit, EditBatch, Editor, Method, Refresh, RefreshRule, Spectrum};

const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/smollm2-layer10-slice.safetensors");

fn main() -> Result<(), Box<dyn Error>> {
    let par = Par::rayon(0);
    let path = std::env::args().nth(1).unwrap_or_else(|| RECORDING.to_owned());
    let mut stream = RecordedStream::<f32>::open(path, par)?;
    let layer = stream.layers()[0];
    let (d_out, _) = stream.weight_shape(layer)?;

    // The second moment of ordinary keys, for which the matrix must keep its outputs.
    let moment = Arc::new(stream.second_moment().clone());
    let spectrum = Arc::new(Spectrum::new(&moment, par)?);
    let rule = RefreshRule::Full(HistoryWeighting::Sum { weight: 1.0 });
    let method = BetaEdit::default().with_lambda1(300.0).with_refresh(Refresh::Every { edits: 50, rule });
    let mut editor = method.editor::<f32>(&spectrum, par)?;

    // Leakage tr(D C Dᵀ): how much the outputs for ordinary keys have changed. Drift |D|: how far the weight has moved.
    let mut total = RunningTotal::new(&moment, d_out, 1, par)?;
    println!("{:>5}  {:>10}  {:>8}  {:>10}", "edits", "leakage", "drift", "directions");
    for edit in 0..stream.len() {
        let (key, residual) = (stream.keys(layer, &[edit])?, stream.residuals(layer, &[edit])?);
        editor.refresh_if_due()?;
        let update = editor.edit(&EditBatch::new(key.as_ref(), residual.as_ref())?)?;
        stream.apply(layer, &update)?;
        let measured = total.record(&update)?;
        if let Some(now) = measured.filter(|now| now.edits % 25 == 0) {
            let kept = editor.state().kept_directions;
            println!("{:>5}  {:>10.5}  {:>8.4}  {kept:>10}", now.edits, now.leakage, now.drift);
        }
    }
    Ok(())
}
