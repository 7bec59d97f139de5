//! `Debug` shows shapes and the few numbers that matter, never the entries of a matrix.

use std::fmt::Debug;
use std::sync::Arc;

use betaedit_core::editor::{History, METHODS};
use betaedit_core::engine::Workspace;
use betaedit_core::faer::{Mat, Par};
use betaedit_core::metrics::{Interference, Retention, RunningTotal};
use betaedit_core::projector::{HistoryWeighting, ProjectorBuilder};
use betaedit_core::refresh::Headroom;
use betaedit_core::update::{Compression, Weight};
use betaedit_core::{
    BetaEdit, EditBatch, Editor, InverseGram, Memit, Method, Orientation, Refresh, RefreshRule, SecondMoment, Spectrum,
    Threshold,
};

use crate::common::Random;

const SEQ: Par = Par::Seq;
const D: usize = 300;
const OUT: usize = 200;
/// Edits of the batch.
const N: usize = 70;
const LONGEST: usize = 1000;

/// Both forms are short, and hold these words.
#[track_caller]
fn short(value: &impl Debug, words: &[&str]) {
    let text = format!("{value:?}");
    assert!(text.len() <= LONGEST, "{} characters: {}", text.len(), &text[..LONGEST]);
    assert!(format!("{value:#?}").len() <= 2 * LONGEST, "{value:#?}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in {text}");
    }
}

struct Layer {
    moment: SecondMoment,
    spectrum: Arc<Spectrum>,
    keys: Mat<f64>,
    residuals: Mat<f64>,
}

fn layer() -> Layer {
    let mut random = Random::new(1);
    let moment = random.moment(D, D, 1e-3);
    let spectrum = Arc::new(Spectrum::new(&moment, SEQ).unwrap());
    Layer { moment, spectrum, keys: random.matrix(D, N), residuals: random.matrix(OUT, N) }
}

#[test]
fn matrices_are_shown_by_their_shapes() {
    let Layer { moment, spectrum, keys, residuals } = layer();
    short(&moment, &["SecondMoment", "d_in: 300", "tokens: Some(300)"]);
    short(&SecondMoment::new(D), &["tokens: Some(0)"]);
    short(&*spectrum, &["dim: 300", "smallest: ", "largest: "]);
    let builder = ProjectorBuilder::new(&spectrum).threshold(Threshold::Directions(100));
    short(&builder.clone().history(&moment, HistoryWeighting::Sum { weight: 1.0 }), &["ProjectorBuilder"]);
    let P = builder.build(SEQ).unwrap();
    short(&P, &["kept: 100"]);

    let batch = EditBatch::new(keys.as_ref(), residuals.as_ref()).unwrap();
    short(&batch, &["keys: 300 x 70", "residuals: 200 x 70", "Together"]);
    let mut Q = InverseGram::isotropic(D, 2.0, SEQ).unwrap().with_rounded_copy().unwrap();
    let solution = Q.solve(keys.as_ref()).unwrap();
    Q.absorb_solution(&solution).unwrap();
    short(&Q, &["dim: 300"]);
    short(&solution, &["keys: 300 x 70", "and 66 more"]);
    let mut workspace = Workspace::default();
    Q.solve_into(keys.as_ref(), &mut solution.clone(), &mut workspace).unwrap();
    short(&workspace, &["Workspace"]);
    short(&Headroom::new(&P, 1.0, SEQ).unwrap(), &["kept: 100"]);

    let mut editor = Memit::default().editor::<f64>(&spectrum, SEQ).unwrap();
    let proposal = editor.propose(&batch).unwrap();
    short(&proposal, &["200 x 300", "and 66 more"]);
    let update = proposal.update().clone();
    editor.commit(proposal).unwrap();
    short(&update, &["200 x 300", "rank: 70"]);
    short(&update.compressed(Compression::Rank(5), SEQ).unwrap(), &["rank: 5", "error: "]);
    let mut total = RunningTotal::new(&Arc::new(moment), OUT, 2, SEQ).unwrap();
    total.record(&update).unwrap();
    short(&total, &["total: 200 x 300", "waiting: 1"]);
    let mut retention = Retention::new(D, OUT);
    retention.record(&batch, Mat::zeros(OUT, D).as_ref(), SEQ).unwrap();
    short(&retention, &["edits: 70"]);
    short(&Interference::new(&vec![update; 40], SEQ).unwrap(), &["40 x 40"]);
    let weight = Weight::new(Mat::<f32>::full(OUT, D, 1.0), Orientation::OutputsByInputs).unwrap();
    short(&weight, &["200 x 300", "OutputsByInputs", "bound: 1.0"]);
}

#[test]
fn editors_are_shown_by_their_recipe_and_state() {
    let Layer { spectrum, keys, residuals, .. } = layer();
    let batch = EditBatch::new(keys.as_ref(), residuals.as_ref()).unwrap();
    let rules = [
        RefreshRule::Full(HistoryWeighting::Sum { weight: 1.0 }),
        RefreshRule::Nested { weight: 1.0 },
        RefreshRule::Maximal { weight: 1.0 },
    ];
    let refreshes = rules.map(|rule| Refresh::Every { edits: 1000, rule });
    for refresh in refreshes.into_iter().chain([Refresh::Never, Refresh::Continuous { weight: 1e-6 }]) {
        let method = BetaEdit::default().with_threshold(Threshold::Directions(100)).with_refresh(refresh);
        let mut editor = method.editor::<f64>(&spectrum, SEQ).unwrap();
        let _ = editor.edit(&batch).unwrap();
        short(&editor, &["d_in: 300", "edits: 70", "betaedit"]);
        short(&(Box::new(editor) as Box<dyn Editor<f64>>), &["ClosedFormEditor"]);
    }
    for method in METHODS {
        short(&method.method(&Default::default()), &[method.name()]);
    }
    let random = Memit::default().with_history(History::Random { seed: 1 }).editor::<f64>(&spectrum, SEQ).unwrap();
    short(&random.with_random_keys(&Arc::new(keys)).unwrap(), &["Random"]);
}

#[cfg(feature = "safetensors")]
#[test]
fn files_are_shown_by_what_they_hold() {
    use betaedit_core::adapter::RecordedStream;
    use betaedit_core::format::{Checkpoint, Fingerprint, Statistics};

    let fingerprint = Fingerprint { model: "a model".into(), layer: 5, text: "a text".into() };
    let statistics = Statistics::from_moment(&layer().moment, fingerprint, "1 of 1", SEQ).unwrap();
    short(&statistics, &["sum: 300 x 300", "tokens: 300", "a model"]);
    let path = crate::common::data("smollm2-layer10-slice.safetensors");
    short(&RecordedStream::<f32>::open(&path, SEQ).unwrap(), &["layer: 10", "stored: ", "recording "]);
    short(&Checkpoint::open(&path).unwrap(), &["tensors: 4"]);
}

#[cfg(feature = "facts")]
#[test]
fn facts_are_shown_by_their_number() {
    let facts = betaedit_core::facts::shipped::facts().unwrap();
    short(&facts, &["facts: "]);
}

#[cfg(all(feature = "session", feature = "safetensors"))]
#[test]
fn sessions_are_shown_by_their_layers() {
    use betaedit_core::KeyStatistics;
    use betaedit_core::session::LayerStatistics;

    let Layer { moment, spectrum, .. } = layer();
    let statistics = KeyStatistics::from_parts(moment, spectrum, SEQ).unwrap();
    short(&LayerStatistics::new(3, statistics), &["layer: 3", "d_in: 300"]);
}
