//! The steady state of the engine allocates nothing, and editors keep what the documentation says.
//!
//! A program of its own: it counts the allocations of its whole process, so its tests take turns.

#![allow(non_snake_case)]

use std::alloc::System;
use std::sync::{Arc, Mutex};

use betaedit_core::engine::{Solution, Workspace};
use betaedit_core::faer::{Mat, Par};
use betaedit_core::projector::HistoryWeighting;
use betaedit_core::{
    BetaEdit, EditBatch, Editor, InverseGram, Method, Projector, Refresh, RefreshRule, Scalar, SecondMoment, Spectrum,
    Threshold,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

static TURN: Mutex<()> = Mutex::new(());

#[test]
fn single_edits_allocate_nothing_and_folding_only_what_the_product_packs() {
    let _turn = TURN.lock().unwrap();
    let d = 600;
    let spectrum = Arc::new(Spectrum::from_matrix(Mat::<f64>::identity(d, d).as_ref(), Par::Seq).unwrap());
    let Q = InverseGram::diagonal(&Projector::identity(&spectrum), 1.0, 0.0, Par::Seq).unwrap();
    for Q in [Q.clone(), Q.with_rounded_copy().unwrap()] {
        run(Q, d);
    }
}

/// `docs/performance.md`, section Memory: matrices of `8 d²` bytes, the spectrum of `C` included.
#[test]
fn an_editor_keeps_at_most_so_many_matrices_beside_the_weight() {
    let _turn = TURN.lock().unwrap();
    let weight = 1e-3;
    let every = |rule| Refresh::Every { edits: 1, rule };
    let rules = [
        (Refresh::Never, 1.5, 1.75),
        (Refresh::Continuous { weight }, 2.0, 2.25),
        (every(RefreshRule::Nested { weight }), 2.0, 2.25),
        (every(RefreshRule::Maximal { weight }), 2.0, 2.25),
        (every(RefreshRule::Full(HistoryWeighting::Sum { weight })), 2.0, 2.25),
    ];
    // The matrix products keep memory of their own, once and for all.
    matrices::<f64>(Refresh::Never);
    for (rule, double, single) in rules {
        for (found, stated) in [(matrices::<f64>(rule), double), (matrices::<f32>(rule), single)] {
            println!("{found:.3} of {stated}: {rule:?}");
            assert!(found < stated + 0.01, "{found:.3} of {stated}: {rule:?}");
        }
    }
}

/// Statistics hold a block of 64 keys until it is full, and then the triangle too.
#[test]
fn few_keys_are_kept_as_keys() {
    let _turn = TURN.lock().unwrap();
    let d = 512;
    let keys = Mat::from_fn(d, 64, |i, t| ((i * 31 + t * 17) as f64).sin());
    let kept = |n: usize| {
        let before = Region::new(ALLOCATOR);
        let mut moment = SecondMoment::new(d);
        (0..n).for_each(|t| moment.observe(keys.subcols(t, 1), Par::Seq).unwrap());
        let change = before.change();
        let exact = keys.subcols(0, n) * keys.subcols(0, n).transpose();
        assert!((moment.to_sum(Par::Seq).unwrap() - &exact).norm_l2() < 1e-12 * exact.norm_l2());
        change.bytes_allocated - change.bytes_deallocated
    };
    kept(64);
    let (block, triangle) = (8 * d * 64, 4 * d * (d + 256));
    assert_eq!([kept(1), kept(63), kept(64)].map(|bytes| bytes / block), [1, 1, 1 + triangle / block]);
}

/// A full refresh forms `C` once, for the protected matrix and for `Q`, and not at all for `Q` where its weight is zero.
#[test]
fn a_full_refresh_forms_the_second_moment_once() {
    let _turn = TURN.lock().unwrap();
    let d = 256;
    let refresh = |lambda1: f64| {
        let values = (0..d).map(|i| 1e-4 * 1e5_f64.powf(i as f64 / d as f64)).collect();
        let spectrum = Arc::new(Spectrum::from_parts(values, Mat::identity(d, d), Par::Seq).unwrap());
        let rule = RefreshRule::Full(HistoryWeighting::Sum { weight: 1e-3 });
        let method = BetaEdit::default().with_lambda1(lambda1).with_threshold(Threshold::Absolute(0.02));
        let mut editor =
            method.with_refresh(Refresh::Every { edits: 1, rule }).editor::<f64>(&spectrum, Par::Seq).unwrap();
        let (k, r) = (Mat::from_fn(d, 1, |i, _| (i as f64).sin()), Mat::full(1, 1, 1.0));
        let _ = editor.edit(&EditBatch::new(k.as_ref(), r.as_ref()).unwrap()).unwrap();
        let region = Region::new(ALLOCATOR);
        editor.refresh_if_due().unwrap().unwrap();
        region.change().bytes_allocated as f64 / (8 * d * d) as f64
    };
    refresh(10.0);
    let (kept, dropped) = (refresh(10.0), refresh(0.0));
    println!("{kept:.2} matrices allocated, {dropped:.2} without the weight");
    // More than half of this is asked for, and given back, before the work begins.
    assert!(kept.max(dropped) < 25.0, "{kept} {dropped}");
}

/// The share of what an editor and its spectrum keep that grows like the square of `d`.
fn matrices<T: Scalar>(refresh: Refresh) -> f64 {
    let d = 512;
    (kept::<T>(refresh, 2 * d) - 2.0 * kept::<T>(refresh, d)) / (16 * d * d) as f64
}

/// Bytes that are kept for an editor and its spectrum after refreshes and as many keys as `Maximal` keeps.
fn kept<T: Scalar>(refresh: Refresh, d: usize) -> f64 {
    let before = Region::new(ALLOCATOR);
    let values = (0..d).map(|i| 1e-4 * 1e5_f64.powf(i as f64 / d as f64)).collect();
    let spectrum = Arc::new(Spectrum::from_parts(values, Mat::identity(d, d), Par::Seq).unwrap());
    let method = BetaEdit::default().with_lambda1(10.0).with_threshold(Threshold::Absolute(0.02)).with_refresh(refresh);
    let mut editor = method.editor::<T>(&spectrum, Par::Seq).unwrap();
    let number = |i: usize, t: usize| T::from_f64(((i * 31 + t * 17 + (i * t) % 23) as f64).sin());
    let mut edit = |from: usize, n: usize| {
        let keys = Mat::from_fn(d, n, |i, t| number(i, from + t));
        let residuals = Mat::from_fn(1, n, |_, t| number(t, from));
        let _ = editor.edit(&EditBatch::new(keys.as_ref(), residuals.as_ref()).unwrap()).unwrap();
    };
    edit(0, 1);
    edit(1, d / 8);
    edit(1 + d / 8, d / 6);
    editor.refresh_if_due().unwrap();
    let change = before.change();
    assert_eq!(editor.state().refreshes, if matches!(refresh, Refresh::Every { .. }) { 3 } else { 0 });
    (change.bytes_allocated - change.bytes_deallocated) as f64
}

fn run(mut Q: InverseGram, d: usize) {
    let keys = Mat::<f32>::from_fn(d, 300, |i, j| ((i * 7 + j * 13) % 19) as f32 * 0.01);
    let (mut solution, mut workspace) = (Solution::default(), Workspace::default());
    // Products are rounded or exact, as the keys ask for.
    Q.solve_into(Mat::<f64>::full(d, 1, 1.0).as_ref(), &mut solution, &mut workspace).unwrap();
    let mut edit = |t: usize| {
        Q.solve_into(keys.as_ref().subcols(t, 1), &mut solution, &mut workspace).unwrap();
        Q.absorb_solution(&solution).unwrap();
    };
    // Past the first fold, everything has its size.
    (0..65).for_each(&mut edit);
    let within_a_block = Region::new(ALLOCATOR);
    (65..128).for_each(&mut edit);
    assert_eq!(within_a_block.change().allocations, 0);
    // What a long run holds does not grow.
    let long = Region::new(ALLOCATOR);
    (128..300).for_each(&mut edit);
    let change = long.change();
    assert_eq!(change.bytes_allocated, change.bytes_deallocated);
}
