//! Many small random streams.

use std::sync::Arc;

use betaedit_core::faer::Mat;
use betaedit_core::{EditBatch, Spectrum};
use serde_json::{Value, json};

use super::random::Random;
use super::theorem::Theorem1;
use super::{PAR, ensure};
use crate::terminal::{Done, Terminal};

/// Section 3: many small random streams.
pub fn show(random: &mut Random, terminal: Terminal) -> Done<Counts> {
    const STREAMS: usize = 5_000;
    const DIM: usize = 20;
    terminal.say(format!(
        "
3. RANDOM STREAMS

Each line is {STREAMS} streams of 4 edits in {DIM} dimensions, with the same residuals with and without history.
All keys of a stream have the same s. How similar its keys are, and its residuals, differs from
stream to stream. \"More drift\", \"more leakage\": with history than without, after any of the edits.

                             theorem's assumption    conditions (3) and (4)
  eigenvalues of A0      s      met   more drift       met   more leakage   more drift"
    ));
    let mut all = Counts::default();
    for (name, condition) in [("all 1", 1.0_f64), ("from 1 to 1000", 1e3)] {
        let A0: Vec<f64> = (0..DIM).map(|i| condition.powf(i as f64 / (DIM - 1) as f64)).collect();
        for s in [0.1, 1.0, 10.0, 100.0] {
            let mut counts = Counts::default();
            for run in streams(&A0, s, STREAMS, random)? {
                counts.add(&run);
                all.add(&run);
            }
            terminal.say(format!("  {name:<16} {s:>7} {counts}"));
        }
    }
    terminal.say(format!(
        "
As printed, the claim failed in {} of the {} streams that meet its assumption. Under conditions
(3) and (4) history raised the leakage in {} of {} streams. It raised the drift in {} of the {}
with A0 = I, and in {} of the {} with the other A0: for the drift, condition (2) is needed as well.",
        all.claim_fails,
        all.assumption,
        all.leaks_more,
        all.conditions,
        all.drifts_more_isotropic,
        all.isotropic,
        all.drifts_more - all.drifts_more_isotropic,
        all.conditions - all.isotropic,
    ));
    ensure(all.conditions > 0 && all.isotropic > 0, "no random stream meets the conditions: nothing was tested")?;
    ensure(all.leaks_more == 0, "history raised the leakage although conditions (3) and (4) hold")?;
    ensure(all.drifts_more_isotropic == 0, "history raised the drift although all conditions hold")?;
    Ok(all)
}

/// Random streams of four edits against a diagonal `A0`, with `kᵀ A0⁻¹ k = s` for every key.
fn streams(A0: &[f64], s: f64, count: usize, random: &mut Random) -> Done<Vec<Theorem1>> {
    let dim = A0.len();
    let matrix = Mat::from_fn(dim, dim, |i, j| if i == j { A0[i] } else { 0.0 });
    let spectrum = Arc::new(Spectrum::from_matrix(matrix.as_ref(), PAR)?);
    // Slightly below s, so that rounding does not raise s = 1 above 1.
    let length = (s * (1.0 - 1e-12)).sqrt();
    let mut stream = || -> Done<Theorem1> {
        let [in_keys, in_residuals] = [random.uniform(), random.uniform()];
        let (whitened, residuals) = (random.cone(dim, 4, in_keys), random.cone(dim, 4, in_residuals));
        let keys = Mat::from_fn(dim, 4, |i, j| length * A0[i].sqrt() * whitened[(i, j)]);
        Theorem1::run(&spectrum, &EditBatch::new(keys.as_ref(), residuals.as_ref())?)
    };
    (0..count).map(|_| stream()).collect()
}

/// Counts of streams, by the conditions that they met and their results.
#[derive(Default)]
pub struct Counts {
    assumption: usize,
    claim_fails: usize,
    /// Conditions 3 and 4.
    conditions: usize,
    leaks_more: usize,
    drifts_more: usize,
    /// Conditions 2 to 4.
    isotropic: usize,
    drifts_more_isotropic: usize,
}

impl Counts {
    pub fn json(&self) -> Value {
        json!({
            "assumption": { "met": self.assumption, "more_drift": self.claim_fails },
            "conditions_3_and_4": { "met": self.conditions, "more_leakage": self.leaks_more },
            "all_conditions": { "met": self.isotropic, "more_drift": self.drifts_more_isotropic },
        })
    }

    fn add(&mut self, run: &Theorem1) {
        let more = |with: &[f64], without: &[f64]| with.iter().zip(without).any(|(a, b)| *a > b * (1.0 + 1e-9));
        let drifts_more = more(&run.drift_with, &run.drift_without);
        let leaks_more = more(&run.leakage_with, &run.leakage_without);
        let (conditions, isotropic) = (run.leakage_cannot_grow(), run.drift_cannot_grow());
        self.assumption += usize::from(run.non_conflicting);
        self.claim_fails += usize::from(run.non_conflicting && drifts_more);
        self.conditions += usize::from(conditions);
        self.leaks_more += usize::from(conditions && leaks_more);
        self.drifts_more += usize::from(conditions && drifts_more);
        self.isotropic += usize::from(isotropic);
        self.drifts_more_isotropic += usize::from(isotropic && drifts_more);
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { assumption, claim_fails, conditions, leaks_more, drifts_more, .. } = self;
        write!(f, "{assumption:>8} {claim_fails:>12} {conditions:>9} {leaks_more:>14} {drifts_more:>12}")
    }
}
