//! A layer and a stream of edits, of the size of a small experiment.

use std::sync::Arc;

use betaedit_core::faer::Mat;
use betaedit_core::{SecondMoment, Spectrum};

use super::PAR;
use super::random::Random;
use crate::terminal::Done;

pub const D_IN: usize = 256;
pub const D_OUT: usize = 64;
pub const EDITS: usize = 400;
pub const TOPICS: usize = 40;
/// Median `s` of the edited keys, to which every method's hyperparameters are set.
pub const TYPICAL_S: f64 = 0.6;

/// The statistics of ordinary text, and a stream of edits.
pub struct World {
    pub moment: Arc<SecondMoment>,
    pub spectrum: Arc<Spectrum>,
    pub keys: Mat<f64>,
    /// The residual of each edit on the unedited weight, `v - W0 k`, of length 1.
    pub goals: Mat<f64>,
    /// Keys of edits that are never made.
    pub other_keys: Mat<f64>,
}

impl World {
    pub fn new(random: &mut Random) -> Done<Self> {
        let mut moment = SecondMoment::new(D_IN);
        moment.observe(text(8_192, random).as_ref(), PAR)?;
        let spectrum = Arc::new(Spectrum::new(&moment, PAR)?);
        let common = text(1, random);
        let (keys, other_keys) = (edited_keys(&common, random), edited_keys(&common, random));
        let goals = random.cone(D_OUT, EDITS, 0.0);
        Ok(Self { moment: Arc::new(moment), spectrum, keys, goals, other_keys })
    }
}

/// Keys of ordinary text. The energy of direction `i` falls like `i^-1.5`, from 20 to 0.005.
fn text(count: usize, random: &mut Random) -> Mat<f64> {
    Mat::from_fn(D_IN, count, |i, _| (20.0 * ((i + 1) as f64).powf(-1.5)).sqrt() * random.normal())
}

/// Keys of edits: like text, but they share a part with all other edits and another with their topic, and use only every
/// third direction (about as many, by their participation ratio, as the recorded keys in `tests/data`).
fn edited_keys(common: &Mat<f64>, random: &mut Random) -> Mat<f64> {
    let (topics, own) = (text(TOPICS, random), text(EDITS, random));
    let topic: Vec<usize> = (0..EDITS).map(|_| (random.uniform() * TOPICS as f64) as usize).collect();
    let share = [0.2_f64, 0.3, 0.5].map(f64::sqrt);
    Mat::from_fn(D_IN, EDITS, |i, j| {
        let inside = if i % 3 == 0 { 3.0_f64.sqrt() } else { 0.0 };
        inside * (share[0] * common[(i, 0)] + share[1] * topics[(i, topic[j])] + share[2] * own[(i, j)])
    })
}
