//! The figure of a study.

use std::path::Path;

use super::run::{Measure, Record};
use super::studies::Study;
use crate::plot::{self, Curve, Panel};
use crate::terminal::Done;

/// Writes a panel for each of the study's measures, a curve for each run.
pub fn save(path: &Path, study: &Study, runs: &[(String, Record)]) -> Done {
    let panel = |&measure: &Measure| Panel {
        title: measure.description().into(),
        y: String::new(),
        curves: (runs.iter())
            .map(|(label, record)| Curve { name: label.clone(), dashed: false, points: record.curve(measure) })
            .collect(),
    };
    let panels: Vec<Panel> = study.measures.iter().map(panel).collect();
    plot::save(path, study.title, "edits", &panels)
}
