//! The figure of a study.

use std::error::Error;
use std::path::Path;

use crate::plot::{self, Curve, Panel};
use crate::run::{Measure, Record};
use crate::studies::Study;

/// Writes a panel for each of the study's measures, a curve for each run.
pub fn save(path: &Path, study: &Study, runs: &[(String, Record)]) -> Result<(), Box<dyn Error>> {
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
