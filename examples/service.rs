//! A service: one thread edits, several answer, and a decomposition that takes long is watched and can be stopped.
//!
//! ```sh
//! cargo run --release --features session --example service
//! ```
//! In an async program, run `edit` and `Spectrum::new_watched` in `spawn_blocking`: both take long.

use std::error::Error;
use std::ops::ControlFlow;
use std::sync::{Arc, RwLock, mpsc};
use std::thread;

use betaedit_core::editor::History;
use betaedit_core::faer::{Mat, MatMut, MatRef, Par};
use betaedit_core::session::SessionBuilder;
use betaedit_core::spectrum::DecompositionProgress;
use betaedit_core::{Adapter, KeyStatistics, Memit, Result, SecondMoment, Spectrum};

const D_IN: usize = 64;
const D_OUT: usize = 8;

/// One weight, which readers share. A request is a key and the value to store under it.
struct Store(Arc<RwLock<Mat<f64>>>);

impl Adapter for Store {
    type Scalar = f64;
    type Request = (Mat<f64>, Mat<f64>);

    fn layers(&self) -> &[usize] {
        &[0]
    }

    fn weight_shape(&self, _: usize) -> Result<(usize, usize)> {
        Ok((D_OUT, D_IN))
    }

    fn keys(&mut self, _: usize, requests: &[Self::Request]) -> Result<Mat<f64>> {
        Ok(Mat::from_fn(D_IN, requests.len(), |i, j| requests[j].0[(i, 0)]))
    }

    fn residuals(&mut self, layer: usize, requests: &[Self::Request]) -> Result<Mat<f64>> {
        let keys = self.keys(layer, requests)?;
        Ok(Mat::from_fn(D_OUT, requests.len(), |i, j| requests[j].1[(i, 0)])
            - &*self.0.read().expect("no thread panics") * keys)
    }

    fn read_weight(&self, _: usize, mut weight: MatMut<'_, f64>) -> Result<()> {
        weight.copy_from(&*self.0.read().expect("no thread panics"));
        Ok(())
    }

    fn write_weight(&mut self, _: usize, weight: MatRef<'_, f64>) -> Result<()> {
        self.0.write().expect("no thread panics").copy_from(weight);
        Ok(())
    }

    fn fingerprint(&self) -> String {
        "store".into()
    }
}

fn key(n: usize) -> Mat<f64> {
    Mat::from_fn(D_IN, 1, |i, _| ((i + 1) as f64 * (n as f64 + 0.37) * 1.618).sin())
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let mut moment = SecondMoment::new(D_IN);
    (1000..1500).try_for_each(|n| moment.observe(key(n).as_ref(), Par::Seq))?;
    // Return `ControlFlow::Break(())` to stop the decomposition.
    let spectrum = Spectrum::new_watched(&moment, Par::Seq, &mut |now: DecompositionProgress| {
        eprintln!("{:?}: {:.0} %", now.stage, 100.0 * now.done);
        ControlFlow::Continue(())
    })?;
    let statistics = KeyStatistics::from_parts(moment, spectrum, Par::Seq)?;

    let weight = Arc::new(RwLock::new(Mat::zeros(D_OUT, D_IN)));
    let method = Memit::default().with_lambda(0.01).with_history(History::Absorbed);
    let store = Store(Arc::clone(&weight));
    let mut session = SessionBuilder::new(method).layer(0, statistics).open(store, Par::Seq)?;
    let (edits, inbox) = mpsc::channel::<(Mat<f64>, Mat<f64>)>();
    let editing = thread::spawn(move || -> Result<u64> {
        for request in inbox {
            session.edit(&[request])?.applied()?;
        }
        Ok(session.processed())
    });
    (0..20).try_for_each(|n| edits.send((key(n), Mat::full(D_OUT, 1, n as f64))))?;
    drop(edits); // the thread ends when nobody can send
    let edited = editing.join().map_err(|_| "the editing thread panicked")??;
    thread::scope(|scope| {
        for n in 0..4 {
            let weight = &weight;
            scope.spawn(move || {
                let value = &*weight.read().expect("no thread panics") * key(n);
                println!("{edited} edits; the value of key {n} is {:.3}", value[(0, 0)]);
            });
        }
    });
    Ok(())
}
