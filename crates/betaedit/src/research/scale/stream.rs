//! The stream of edits that is measured.

use std::time::Instant;

use betaedit_core::editor::ClosedFormEditor;
use betaedit_core::faer::linalg::matmul::matmul;
use betaedit_core::faer::{Accum, Mat, MatRef};
use betaedit_core::refresh::RefreshReport;
use betaedit_core::update::Weight;
use betaedit_core::{EditBatch, Editor, Orientation, Scalar, Update};
use betaedit_synthetic::Layer;

use super::Arguments;
use super::compare::AFFORDABLE;
use crate::terminal::{Done, Terminal};

/// The measurements of a stream of edits; times in seconds, one number per edit.
pub struct Stream<T: Scalar> {
    pub edit: Vec<f64>,
    pub engine: Vec<f64>,
    pub outer: Vec<f64>,
    pub product: Vec<f64>,
    pub refreshes: Vec<(f64, RefreshReport)>,
    pub gains: Vec<f64>,
    /// Edits and refreshes together.
    pub seconds: f64,
    /// If a comparison takes little enough time.
    pub updates: Vec<Update<T>>,
}

impl<T: Scalar> Stream<T> {
    pub fn run(
        arguments: &Arguments,
        layer: &Layer,
        editor: &mut ClosedFormEditor<T>,
        terminal: Terminal,
    ) -> Done<Self> {
        let (d_in, edits, par) = (arguments.d_in, arguments.edits, terminal.par);
        let mut stream = Self {
            edit: Vec::with_capacity(edits),
            engine: Vec::with_capacity(edits),
            outer: Vec::with_capacity(edits),
            product: Vec::new(),
            refreshes: Vec::new(),
            gains: Vec::with_capacity(edits),
            seconds: 0.0,
            updates: Vec::new(),
        };
        let bar = terminal.bar(edits as u64, "edits");
        let mut W = Weight::new(layer.weight::<T>(arguments.d_out), Orientation::OutputsByInputs)?;
        // The matrix of the plain product; its numbers do not matter.
        let square = Mat::from_fn(d_in, d_in, |i, j| T::from_f64(1.0 / (1.0 + ((i ^ j) % 64) as f64)));
        let mut z = Mat::<T>::zeros(d_in, 1);
        let mut product = |k: MatRef<'_, T>| {
            let clock = Instant::now();
            matmul(&mut z, Accum::Replace, &square, k, T::from_f64(1.0), par);
            std::hint::black_box(&z);
            clock.elapsed().as_secs_f64()
        };
        // One product before the measurement, to warm up memory and threads.
        product(layer.key::<T>(0).as_ref());
        let every = (edits / 8).clamp(1, 16);

        for edit in 0..edits {
            let (k, r) = (layer.key::<T>(edit), layer.residuals::<T>(arguments.d_out, edit, 1));
            stream.refresh(editor)?;
            let clock = Instant::now();
            let proposal = editor.propose(&EditBatch::new(k.as_ref(), r.as_ref())?)?;
            let proposed = clock.elapsed().as_secs_f64();
            W.apply(proposal.update(), par)?;
            let applied = clock.elapsed().as_secs_f64();
            let gain = proposal.gains().first().copied();
            let update = proposal.update().clone();
            editor.commit(proposal)?;
            let committed = clock.elapsed().as_secs_f64();
            stream.edit.push(committed);
            stream.outer.push(applied - proposed);
            stream.engine.push(committed - (applied - proposed));
            stream.seconds += committed;
            stream.gains.extend(gain);
            if d_in <= AFFORDABLE.0 && edits <= AFFORDABLE.1 {
                stream.updates.push(update);
            }
            if edit % every == 0 {
                stream.product.push(product(k.as_ref()));
            }
            bar.inc(1);
        }
        stream.refresh(editor)?;
        bar.finish_and_clear();
        Ok(stream)
    }

    fn refresh(&mut self, editor: &mut ClosedFormEditor<T>) -> Done {
        let clock = Instant::now();
        if let Some(refresh) = editor.refresh_if_due()? {
            let seconds = clock.elapsed().as_secs_f64();
            self.refreshes.push((seconds, refresh));
            self.seconds += seconds;
        }
        Ok(())
    }
}
