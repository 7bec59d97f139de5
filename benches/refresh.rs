//! What it costs to refresh a projector, by rule, by number of new keys and by `d_in`; what a refresh at every edit adds to
//! an edit; and what it costs to build everything at the start.
//!
//! ```sh
//! cargo bench --bench refresh
//! ```
//!
//! * `refresh`: the first refresh after `t` edits, the change of `Q` included. Full ones, and the eigendecomposition that
//!   they have to be compared with, at the smaller size only: at 4096 one takes half a minute (`betaedit scale`
//!   times it)
//! * `continuous`: propose and commit, without a refresh and with one at every edit
//! * `build`: the eigendecomposition, the projector with its dense `P`, the state `Q` from the spectrum and from the moment alone, and the
//!   headroom

#![allow(non_snake_case, missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use betaedit_core::editor::ClosedFormEditor;
use betaedit_core::faer::{Mat, Par, set_global_parallelism};
use betaedit_core::projector::{HistoryWeighting, ProjectorBuilder};
use betaedit_core::refresh::Headroom;
use betaedit_core::{BetaEdit, EditBatch, Editor, InverseGram, Method, Refresh, RefreshRule, SecondMoment, Spectrum};
use betaedit_synthetic::{LAMBDA1, LAMBDA2, Layer, THRESHOLD};
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};

const SMALL: usize = 1536;
const LARGE: usize = 4096;

/// Length of the residuals: they take no part in a refresh.
const D_OUT: usize = 16;

/// What an edited key counts: little enough that the space lasts.
const WEIGHT: f64 = 1e-4;

fn start<'a>(criterion: &'a mut Criterion, name: String, seconds: u64) -> BenchmarkGroup<'a, WallTime> {
    set_global_parallelism(Par::rayon(0));
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(seconds));
    group
}

fn layer(d_in: usize) -> Layer {
    Layer::new(d_in, 1.0, 1, Par::rayon(0)).expect("a layer")
}

/// The statistics, not decomposed.
fn moment(layer: &Layer) -> SecondMoment {
    let d = layer.spectrum.dim();
    let (U, s) = (layer.spectrum.vectors(), layer.spectrum.values());
    let text = Mat::from_fn(d, d, |i, j| U[(i, j)] * (s[j].max(0.0) * d as f64).sqrt());
    let mut moment = SecondMoment::new(d);
    moment.observe(text.as_ref(), Par::rayon(0)).expect("keys");
    moment
}

fn editor(layer: &Layer, refresh: Refresh) -> ClosedFormEditor<f32> {
    BetaEdit::default().with_refresh(refresh).editor(&layer.spectrum, Par::rayon(0)).expect("an editor")
}

fn refresh(criterion: &mut Criterion) {
    let weight = WEIGHT;
    for d_in in [SMALL, LARGE] {
        let layer = layer(d_in);
        let mut group = start(criterion, format!("refresh/{d_in}"), 2);
        for (name, rule) in [
            ("nested", RefreshRule::Nested { weight }),
            ("maximal", RefreshRule::Maximal { weight }),
            ("full", RefreshRule::Full(HistoryWeighting::Sum { weight })),
        ] {
            for edits in [16, 64, 256] {
                let full = matches!(rule, RefreshRule::Full(_));
                if full && (d_in == LARGE || edits < 256) {
                    continue; // too long, and as long for any number of keys
                }
                let mut due = editor(&layer, Refresh::Every { edits, rule });
                let (keys, residuals) = (layer.keys::<f32>(0, edits), layer.residuals::<f32>(D_OUT, 0, edits));
                let _ =
                    due.edit(&EditBatch::new(keys.as_ref(), residuals.as_ref()).expect("a batch")).expect("an update");
                group.bench_function(BenchmarkId::new(name, edits), |bencher| {
                    let run = |mut editor: ClosedFormEditor<f32>| {
                        let report = editor.refresh_if_due().expect("a refresh");
                        assert!(report.is_some(), "no refresh was due");
                        editor
                    };
                    bencher.iter_batched(|| due.clone(), run, BatchSize::PerIteration);
                });
            }
        }
        group.finish();
    }
}

fn continuous(criterion: &mut Criterion) {
    const KEYS: usize = 1024;
    for d_in in [SMALL, LARGE] {
        let layer = layer(d_in);
        let (keys, residuals) = (layer.keys::<f32>(0, KEYS), layer.residuals::<f32>(D_OUT, 0, KEYS));
        let mut group = start(criterion, format!("continuous/{d_in}"), 3);
        for (name, refresh) in [("never", Refresh::Never), ("at every edit", Refresh::Continuous { weight: WEIGHT })] {
            let mut editor = editor(&layer, refresh);
            let mut next = (0..KEYS).cycle();
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    let edit = next.next().expect("an endless cycle");
                    let (k, r) = (keys.as_ref().subcols(edit, 1), residuals.as_ref().subcols(edit, 1));
                    editor.edit(&EditBatch::new(k, r).expect("a batch")).expect("an update")
                });
            });
        }
        group.finish();
    }
}

fn build(criterion: &mut Criterion) {
    let par = Par::rayon(0);
    for d_in in [SMALL, LARGE] {
        let layer = layer(d_in);
        let mut group = start(criterion, format!("build/{d_in}"), 3);
        let projector = || ProjectorBuilder::new(&layer.spectrum).threshold(THRESHOLD).build(par).expect("a projector");
        let with_headroom = projector().with_headroom().expect("headroom");
        let moment = moment(&layer);
        group.bench_function("state, from the moment", |bencher| {
            bencher.iter(|| InverseGram::from_moment(&moment, LAMBDA1, LAMBDA2, par).expect("a start"));
        });
        if d_in == SMALL {
            let C = layer.spectrum.to_matrix(par);
            group.bench_function("eigendecomposition", |bencher| {
                bencher.iter(|| Spectrum::from_matrix(C.as_ref(), par).expect("a spectrum"));
            });
        }
        group.bench_function("projector", |bencher| bencher.iter(|| black_box(projector())));
        group.bench_function("projector, dense", |bencher| bencher.iter(|| projector().to_dense(par)));
        group.bench_function("state", |bencher| {
            bencher.iter(|| InverseGram::diagonal(&projector(), LAMBDA1, LAMBDA2, par).expect("a start"));
        });
        group.bench_function("headroom", |bencher| {
            bencher.iter(|| Headroom::new(&with_headroom, WEIGHT, par).expect("headroom"));
        });
        group.finish();
    }
}

criterion_group!(benches, refresh, continuous, build);
criterion_main!(benches);
