//! A ledger of many edits: the weights that a consolidation derives from them, and what it takes for each.
//!
//! `BETAEDIT_LONG=1` runs it for 10,000 edits at d_in = 1024, and compares the time an edit with that for fewer.

use std::time::{Duration, Instant};

use betaedit_core::editor::History;
use betaedit_core::faer::{Mat, MatMut, MatRef, Par, Scale};
use betaedit_core::session::{Consolidation, SessionBuilder};
use betaedit_core::{Adapter, KeyStatistics, Memit, Result};

use crate::common::{Random, distance, lu_solve};

const LAMBDA: f64 = 30.0;

/// One layer, whose keys and residuals are given; a request is the number of an edit.
struct Given {
    weight: Mat<f32>,
    keys: Mat<f32>,
    residuals: Mat<f32>,
}

fn columns(of: &Mat<f32>, requests: &[u64]) -> Mat<f32> {
    Mat::from_fn(of.nrows(), requests.len(), |i, j| of[(i, requests[j] as usize)])
}

impl Adapter for Given {
    type Scalar = f32;
    type Request = u64;

    fn layers(&self) -> &[usize] {
        &[0]
    }

    fn weight_shape(&self, _: usize) -> Result<(usize, usize)> {
        Ok(self.weight.shape())
    }

    fn keys(&mut self, _: usize, requests: &[u64]) -> Result<Mat<f32>> {
        Ok(columns(&self.keys, requests))
    }

    fn residuals(&mut self, _: usize, requests: &[u64]) -> Result<Mat<f32>> {
        Ok(columns(&self.residuals, requests))
    }

    fn read_weight(&self, _: usize, mut weight: MatMut<'_, f32>) -> Result<()> {
        weight.copy_from(&self.weight);
        Ok(())
    }

    fn write_weight(&mut self, _: usize, weight: MatRef<'_, f32>) -> Result<()> {
        self.weight.copy_from(weight);
        Ok(())
    }

    fn fingerprint(&self) -> String {
        "given".into()
    }

    fn encode(&self, request: &u64) -> Option<Vec<u8>> {
        Some(request.to_le_bytes().into())
    }

    fn decode(&self, bytes: &[u8]) -> Result<u64> {
        Ok(u64::from_le_bytes(bytes.try_into().expect("as it was encoded")))
    }
}

/// The time of a consolidation of so many edits. The weights are compared with one dense solve in `f64`.
fn consolidate(d_in: usize, d_out: usize, edits: usize) -> Duration {
    let (mut random, par) = (Random::new(61), Par::rayon(0));
    let moment = random.moment(d_in, d_in, 1e-3);
    let C = moment.to_mean(par).unwrap();
    let keys: Mat<f32> = random.matrix(d_in, edits);
    let residuals: Mat<f32> = random.matrix(d_out, edits);
    let wide = |of: &Mat<f32>| Mat::from_fn(of.nrows(), of.ncols(), |i, j| f64::from(of[(i, j)]));
    let (K, R) = (wide(&keys), wide(&residuals));
    let adapter = Given { weight: Mat::zeros(d_out, d_in), keys, residuals };
    let mut session = SessionBuilder::new(Memit::default().with_lambda(LAMBDA).with_history(History::Absorbed))
        .layer(0, KeyStatistics::new(moment, par).unwrap())
        .open(adapter, par)
        .unwrap();
    let numbers: Vec<u64> = (0..edits as u64).collect();
    for batch in numbers.chunks(250) {
        session.edit(batch).unwrap().applied().unwrap();
    }
    let clock = Instant::now();
    session.consolidate(&Consolidation::default()).unwrap();
    let taken = clock.elapsed();
    let truth = lu_solve((C * Scale(LAMBDA) + &K * K.transpose()).as_ref(), (&K * R.transpose()).as_ref());
    let error = distance(wide(&session.adapter().weight).as_ref(), truth.transpose().to_owned().as_ref());
    assert!(error < 1e-6, "{edits} edits: {error:e}");
    println!("d_in {d_in}, d_out {d_out}, {edits} edits: {:.3} ms an edit, {error:.1e} off", per_edit(taken, edits));
    taken
}

fn per_edit(taken: Duration, edits: usize) -> f64 {
    1e3 * taken.as_secs_f64() / edits as f64
}

#[test]
fn a_ledger_of_many_edits_takes_no_longer_for_each() {
    if std::env::var_os("BETAEDIT_LONG").is_none() {
        consolidate(96, 24, 700);
        return;
    }
    let (few, many) = (consolidate(1024, 512, 1_250), consolidate(1024, 512, 10_000));
    assert!(per_edit(many, 10_000) < 1.5 * per_edit(few, 1_250), "{few:?} for 1,250, {many:?} for 10,000");
}
