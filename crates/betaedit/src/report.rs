//! The results of a run, as numbers and curves.

use std::path::{Path, PathBuf};

use betaedit_core::session::Session;
use serde_json::{Value, json};

use crate::files::{self, replace};
use crate::plot::{self, Curve, Panel};
use crate::run::Run;
use crate::scores::Scores;
use crate::terminal::{Done, table};
use crate::timed::Timed;

#[derive(clap::Args, Clone, Default)]
pub struct Reports {
    /// Write all numbers to a JSON file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Write an HTML page with tables and plots [default: beside the report]
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Draw leakage and drift to an SVG file
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

impl Reports {
    /// Where the page goes.
    pub fn page(&self) -> Option<PathBuf> {
        let report = self.report.as_ref().filter(|report| !files::is_device(report));
        self.html.clone().or_else(|| Some(report?.with_extension("html")))
    }
}

/// The seconds that the edits of one run took, and the number of facts.
#[derive(Clone, Copy, Default)]
pub struct Seconds {
    pub facts: usize,
    pub targets: f64,
    pub keys: f64,
    pub linear_algebra: f64,
    pub total: f64,
}

impl Seconds {
    pub fn json(self) -> Value {
        json!({
            "targets": self.targets, "keys": self.keys, "linear_algebra": self.linear_algebra, "total": self.total,
        })
    }

    /// The means per fact, as a line of text.
    pub fn line(self) -> String {
        let n = self.facts.max(1) as f64;
        format!(
            "{:.2} s per fact: targets {:.2} s, keys {:.3} s, linear algebra {:.3} s ({:.1} %)",
            self.total / n,
            self.targets / n,
            self.keys / n,
            self.linear_algebra / n,
            100.0 * self.linear_algebra / self.total.max(1e-9),
        )
    }
}

/// The current leakage, drift and directions of every layer.
pub fn layers(session: &Session<Timed>) -> Vec<Value> {
    let last = session.report().curve.iter().rev();
    session
        .states()
        .map(|(layer, state)| {
            let gauges = session.gauges(layer);
            let (leakage, drift) = (gauges.map(|g| g.leakage), gauges.map(|g| g.drift));
            let stability = last.clone().find(|point| point.layer == layer).map(|point| point.stability);
            let expected_loss = gauges.and_then(|g| g.expected_loss);
            json!({
                "layer": layer, "leakage": leakage, "expected_loss": expected_loss, "drift": drift, "kept_directions": state.kept_directions,
                "removed_directions": state.removed_directions, "refreshes": state.refreshes, "stability": stability,
            })
        })
        .collect()
}

/// The same as a table.
pub fn layer_table(session: &Session<Timed>) -> String {
    let head = ["layer", "leakage tr(D C D^T)", "expected loss", "drift |D|", "directions"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (layer, state) in session.states() {
        let gauges = session.gauges(layer);
        let number = |x: Option<f64>, digits: usize| x.map_or("-".into(), |x| format!("{x:.digits$}"));
        let leakage = number(gauges.map(|gauges| gauges.leakage), 5);
        let expected_loss = number(gauges.and_then(|gauges| gauges.expected_loss), 5);
        let drift = number(gauges.map(|gauges| gauges.drift), 4);
        let kept = format!("{} kept, {} removed", state.kept_directions, state.removed_directions);
        rows.push(vec![layer.to_string(), leakage, expected_loss, drift, kept]);
    }
    if let Some(loss) = session.expected_loss() {
        let kept = "nats a token, all layers".to_owned();
        rows.push(vec!["sum".into(), String::new(), format!("{loss:.5}"), String::new(), kept]);
    }
    table(&rows)
}

/// Leakage and drift over the edits, one curve per layer.
pub fn curves(session: &Session<Timed>) -> Vec<Panel> {
    let report = session.report();
    type Gauge = fn(&betaedit_core::session::Point) -> Option<f64>;
    let gauges: [(&str, &str, Gauge); 2] =
        [("leakage", "tr(D C Dᵀ)", |point| point.leakage), ("drift", "|D|", |point| point.drift)];
    gauges
        .into_iter()
        .map(|(title, y, gauge)| Panel {
            title: title.into(),
            y: y.into(),
            curves: session
                .states()
                .map(|(layer, _)| {
                    let points = report.curve.iter().filter(|point| point.layer == layer);
                    let points = points.filter_map(|point| Some((point.processed as f64, gauge(point)?)));
                    Curve { name: format!("layer {layer}"), dashed: false, points: points.collect() }
                })
                .collect(),
        })
        .collect()
}

pub fn edits(run: &Run, before: &Scores, after: &Scores, seconds: Seconds, rejections: &[Value]) -> Value {
    let description = &run.description;
    json!({
        "edits": run.held().len(),
        "rejected": run.session.report().rejected,
        "processed": run.session.processed(),
        "model": description.model,
        "fingerprint": run.unedited.fingerprint(),
        "settings": description.plan,
        "before": before.json(Some(before)),
        "after": after.json(Some(before)),
        "seconds": seconds.json(),
        "expected_loss": run.session.expected_loss(),
        "layers": layers(&run.session),
        "rejections": rejections,
    })
}

pub fn write_json(path: &Path, report: &Value) -> Done {
    replace(path, format!("{report:#}\n"))
}

pub fn draw(path: &Path, title: &str, x: &str, panels: &[Panel]) -> Done {
    plot::save(path, title, x, panels)
}
