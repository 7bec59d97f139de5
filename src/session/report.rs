//! The report of a run, of bounded size.

use std::io::{Read, Write};

use super::outcome::{Applied, Outcome};
use crate::util::bytes;
use crate::util::shown::shown;

/// Points kept per layer. When there are twice as many, every second one is dropped.
const POINTS: usize = 512;

/// What a session has done since its first batch, in all runs, with curves.
#[derive(Clone, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Report {
    /// Requests applied, including those undone since.
    pub applied: u64,
    /// Requests rejected.
    pub rejected: u64,
    /// Edits undone or replaced.
    pub undone: u64,
    /// Refreshes of projectors.
    pub refreshes: u64,
    /// Points along the run, one per layer and batch, evenly thinned out.
    pub curve: Vec<Point>,
    stride: usize,
    skipped: usize,
}

shown!([] Report, "Report", self => {
    "applied": self.applied,
    "rejected": self.rejected,
    "undone": self.undone,
    "refreshes": self.refreshes,
    "points": self.curve.len(),
});

/// A point of a report's curve.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Point {
    /// Requests seen.
    pub processed: u64,
    /// The layer.
    pub layer: usize,
    /// Leakage of all edits so far; `None` with the gauges off.
    pub leakage: Option<f64>,
    /// Drift of all edits so far; `None` with the gauges off.
    pub drift: Option<f64>,
    /// Largest `s` of the batch, if it was measured.
    pub stability: Option<f64>,
    /// Directions that may be edited.
    pub kept_directions: usize,
}

impl Report {
    pub(super) fn add(&mut self, outcome: &Outcome, processed: u64) {
        let Outcome::Applied(Applied { ids, layers, replaced, .. }) = outcome else {
            self.rejected += outcome.ids().len() as u64;
            return;
        };
        self.applied += ids.len() as u64;
        self.undone += replaced.len() as u64;
        self.refreshes += layers.iter().filter(|layer| layer.refresh.is_some()).count() as u64;
        self.skipped += 1;
        if self.skipped < self.stride {
            return;
        }
        self.skipped = 0;
        self.curve.extend(layers.iter().map(|layer| Point {
            processed,
            layer: layer.layer,
            leakage: layer.leakage,
            drift: layer.drift,
            stability: layer.stability,
            kept_directions: layer.state.kept_directions,
        }));
        if self.curve.len() >= 2 * POINTS * layers.len().max(1) {
            let batch = layers.len().max(1);
            let mut at = 0;
            self.curve.retain(|_| {
                at += 1;
                ((at - 1) / batch).is_multiple_of(2)
            });
            self.stride = 2 * self.stride.max(1);
        }
    }

    pub(super) fn save(&self, out: &mut dyn Write) -> bytes::Result<()> {
        for count in [self.applied, self.rejected, self.undone, self.refreshes] {
            bytes::write_u64(out, count)?;
        }
        for count in [self.stride, self.skipped, self.curve.len()] {
            bytes::write_len(out, count)?;
        }
        for point in &self.curve {
            bytes::write_u64(out, point.processed)?;
            bytes::write_len(out, point.layer)?;
            bytes::write_len(out, point.kept_directions)?;
            for number in [point.leakage, point.drift, point.stability] {
                bytes::write_f64(out, number.unwrap_or(f64::NAN))?;
            }
        }
        Ok(())
    }

    pub(super) fn load(from: &mut dyn Read, layers: usize) -> bytes::Result<Self> {
        let mut report = Self::default();
        for count in [&mut report.applied, &mut report.rejected, &mut report.undone, &mut report.refreshes] {
            *count = bytes::read_u64(from)?;
        }
        report.stride = bytes::read_len(from, usize::MAX)?;
        report.skipped = bytes::read_len(from, usize::MAX)?;
        for _ in 0..bytes::read_len(from, 2 * POINTS * layers)? {
            let processed = bytes::read_u64(from)?;
            let (layer, kept_directions) = (bytes::read_len(from, usize::MAX)?, bytes::read_len(from, usize::MAX)?);
            let mut number = || bytes::read_f64(from).map(|x| Some(x).filter(|x| !x.is_nan()));
            let (leakage, drift, stability) = (number()?, number()?, number()?);
            report.curve.push(Point { processed, layer, leakage, drift, stability, kept_directions });
        }
        Ok(report)
    }
}
