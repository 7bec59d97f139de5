//! What takes the time, beside its partner in the same run. Prints one line for each ratio.
//!
//! ```sh
//! cargo bench --all-features --bench ratios                   # at d_in = 4096, some minutes
//! cargo bench --all-features --bench ratios -- --d-in 1024
//! cargo bench --all-features --bench ratios -- --model PATH --facts 64
//! ```
//!
//! * `start`: `Q` of MEMIT from the second moment, and the eigendecomposition that it does without
//! * `full refresh`: after 256 edits, and the decomposition
//! * `maximal refresh`: each time 256 edits have joined, and the decomposition
//! * `batch`: the engine for `n` keys, folding included, and faer's product `Q K` in `f32`
//! * `targets`: of facts sought together, and one by one, with a model
//!
//! The partner of the targets in torch is `benches/published_search.py`. Ratios are of medians. Other work on the machine changes
//! them: `targets` most, because the threads wait for each other.

#![allow(non_snake_case, missing_docs)]

use std::time::Instant;

use betaedit_core::facts::{Facts, shipped};
use betaedit_core::faer::linalg::matmul::matmul;
use betaedit_core::faer::{Accum, Mat, Par};
use betaedit_core::llm::{Contexts, Model, ModelAdapter, Request, Surroundings, TargetSearch};
use betaedit_core::projector::HistoryWeighting;
use betaedit_core::{
    Adapter, BetaEdit, EditBatch, Editor, Memit, Method, Refresh, RefreshRule, Result, SecondMoment, Spectrum,
};
use betaedit_synthetic::Layer;

/// Length of the residuals: they take little of the time.
const D_OUT: usize = 16;

/// New keys of a refresh.
const KEYS: usize = 256;

/// What an edited key counts in a refresh: little enough that the space lasts.
const WEIGHT: f64 = 1e-4;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().position(|given| given == name).and_then(|i| arguments.get(i + 1));
    let number = |name: &str, usual: usize| value(name).map_or(usual, |text| text.parse().expect("a number"));
    let done = match value("--model") {
        Some(model) => targets(model, value("--file").map(String::as_str), number("--facts", 64)),
        None => algebra(number("--d-in", 4096)),
    };
    done.expect("the measurement");
}

/// Median seconds of some runs.
fn seconds(runs: usize, mut run: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..runs)
        .map(|_| {
            let clock = Instant::now();
            run();
            clock.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[runs / 2]
}

fn line(name: &str, ours: f64, partner: &str, theirs: f64) {
    println!("{name:32} {ours:9.4} s   {partner:28} {theirs:9.4} s   {:8.2} times", theirs / ours);
}

fn algebra(d: usize) -> Result<()> {
    let par = Par::rayon(0);
    let layer = Layer::new(d, 1.0, 1, par)?;
    // Keys whose second moment is that of the layer.
    let (U, s) = (layer.spectrum.vectors(), layer.spectrum.values());
    let text = Mat::from_fn(d, d, |i, j| U[(i, j)] * (s[j].max(0.0) * d as f64).sqrt());
    let mut moment = SecondMoment::new(d);
    moment.observe(text.as_ref(), par)?;
    drop(text);
    let decomposition = seconds(1, || drop(Spectrum::new(&moment, par).expect("a spectrum")));

    let memit = Memit::default().with_lambda(1_500.0);
    let start = seconds(3, || drop(memit.editor_from_moment::<f32>(&moment, par).expect("an editor")));
    line("start of memit", start, "decomposition", decomposition);

    let weighting = HistoryWeighting::Sum { weight: WEIGHT };
    for (name, rule, times) in [
        ("full refresh", RefreshRule::Full(weighting), 1),
        ("maximal refresh", RefreshRule::Maximal { weight: WEIGHT }, 4),
    ] {
        let method = BetaEdit::default().with_refresh(Refresh::Every { edits: KEYS, rule });
        let mut editor = method.editor::<f32>(&layer.spectrum, par)?;
        for time in 0..times {
            let (K, R) = (layer.keys::<f32>(time * KEYS, KEYS), layer.residuals::<f32>(D_OUT, time * KEYS, KEYS));
            drop(editor.edit(&EditBatch::new(K.as_ref(), R.as_ref())?)?);
            let refresh = seconds(1, || assert!(editor.refresh_if_due().expect("a refresh").is_some()));
            line(&format!("{name}, {} keys in all", (time + 1) * KEYS), refresh, "decomposition", decomposition);
        }
    }

    let Q = Mat::<f32>::from_fn(d, d, |i, j| ((i * j) as f32).sin());
    for n in [1, 16, 128] {
        let (K, R) = (layer.keys::<f32>(0, n), layer.residuals::<f32>(D_OUT, 0, n));
        let mut Z = Mat::zeros(d, n);
        let product = seconds(15, || matmul(Z.as_mut(), Accum::Replace, Q.as_ref(), K.as_ref(), 1.0, par));
        let method = BetaEdit::default().with_refresh(Refresh::Never);
        let mut editor = method.editor::<f32>(&layer.spectrum, par)?;
        let batch = EditBatch::new(K.as_ref(), R.as_ref())?;
        // As many batches as fill the pending block, so that a folding is in each.
        let batches = 64_usize.div_ceil(n);
        let engine = seconds(5, || (0..batches).for_each(|_| drop(editor.edit(&batch).expect("an edit"))));
        line(&format!("batch of {n}"), engine / batches as f64, "product in f32", product);
    }
    Ok(())
}

fn targets(model: &str, file: Option<&str>, facts: usize) -> Result<()> {
    let (model, tokenizer) = Model::open(model, Par::rayon(0))?;
    let layer = model.config().layers / 3;
    let surroundings = Surroundings::new(Contexts::generate(&model, &tokenizer, 3, 10, 0)?);
    let all = file.map_or_else(shipped::facts, Facts::read)?;
    let requests: Vec<Request> = all.iter().take(facts).map(Request::from).collect();
    let mut adapter = ModelAdapter::new(
        model.clone(),
        tokenizer.clone(),
        vec![layer],
        surroundings.clone(),
        TargetSearch::default(),
    )?;
    let clock = Instant::now();
    let together = adapter.find_targets(&requests)?.expect("targets");
    let ours = clock.elapsed().as_secs_f64();
    let (mut evaluations, mut worst, clock) = (0, 0.0_f64, Instant::now());
    for (j, request) in requests.iter().enumerate() {
        let target = TargetSearch::default().run(&model, &tokenizer, &surroundings, layer, request)?;
        evaluations += target.losses.len();
        let square = |x: f32| f64::from(x) * f64::from(x);
        let moved: f64 = target.value.iter().zip(&target.start).map(|(z, v)| square(z - v)).sum();
        let off: f64 = target.value.iter().zip(together.col(j).iter()).map(|(z, v)| square(z - v)).sum();
        worst = worst.max((off / moved).sqrt());
    }
    let theirs = clock.elapsed().as_secs_f64();
    let n = requests.len() as f64;
    line(&format!("a target, {} together", requests.len()), ours / n, "a target alone", theirs / n);
    println!("{:.1} evaluations a target; the vectors differ by {worst:.1e} at most", evaluations as f64 / n);
    Ok(())
}
