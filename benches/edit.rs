//! One edit, beside a plain product of the same size and beside the dense solve that the published programs make.
//!
//! ```sh
//! cargo bench --bench edit
//! ```
//!
//! Groups are named by number type and `d_in`; in each, `n` is the number of edits written together.
//!
//! * `engine`: propose and commit, foldings included
//! * `edit`: the same, with the update added to the weight
//! * `sequence`: the engine for `n` single edits whose keys are known ahead
//! * `product`: faer's `Q K` with a full square matrix
//! * `dense`: `P A`, LU with partial pivoting, `d_out` right-hand sides; its time does not depend on `n`

#![allow(non_snake_case, missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use betaedit_core::faer::linalg::matmul::matmul;
use betaedit_core::faer::{Accum, Mat, Par, set_global_parallelism};
use betaedit_core::projector::ProjectorBuilder;
use betaedit_core::{BetaEdit, EditBatch, Editor, InverseGram, Method, Orientation, Refresh, Scalar};
use betaedit_synthetic::{DenseSolve, LAMBDA1, LAMBDA2, Layer, THRESHOLD};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

/// `d_in` and `d_out`: SmolLM2-135M's, and a middle-sized model's.
const SIZES: [(usize, usize); 2] = [(1536, 576), (4096, 1024)];

/// Different keys of a stream; they come round again and again.
const KEYS: usize = 1024;

fn edits<T: Scalar>(criterion: &mut Criterion) {
    let par = Par::rayon(0);
    set_global_parallelism(par);
    for (d_in, d_out) in SIZES {
        let layer = Layer::new(d_in, 1.0, 1, par).expect("a layer");
        let (keys, residuals) = (layer.keys::<T>(0, KEYS), layer.residuals::<T>(d_out, 0, KEYS));
        let mut W = layer.weight::<T>(d_out);
        let projector = ProjectorBuilder::new(&layer.spectrum).threshold(THRESHOLD).build(par).expect("a projector");
        let mut group = criterion.benchmark_group(format!("edit/{}/{d_in}", T::NAME));
        group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));

        for n in [1, 16, 128] {
            let mut next = (0..KEYS).step_by(n).cycle();
            let mut batch = move || next.next().expect("an endless cycle");
            let method = BetaEdit::default().with_refresh(Refresh::Never);

            let mut editor = method.editor::<T>(&layer.spectrum, par).expect("an editor");
            for (name, onto_the_weight) in [("engine", false), ("edit", true)] {
                group.bench_function(BenchmarkId::new(name, n), |bencher| {
                    bencher.iter(|| {
                        let first = batch();
                        let (K, R) = (keys.as_ref().subcols(first, n), residuals.as_ref().subcols(first, n));
                        let proposal = editor.propose(&EditBatch::new(K, R).expect("a batch")).expect("an update");
                        if onto_the_weight {
                            proposal
                                .update()
                                .apply_to(W.as_mut(), Orientation::OutputsByInputs, par)
                                .expect("a weight");
                        }
                        editor.commit(proposal).expect("a commit");
                    });
                });
            }

            if n > 1 {
                let mut Q = InverseGram::diagonal(&projector, LAMBDA1, LAMBDA2, par).expect("a start");
                group.bench_function(BenchmarkId::new("sequence", n), |bencher| {
                    bencher.iter(|| {
                        let K = keys.as_ref().subcols(batch(), n);
                        let solution = Q.solve_in_sequence(K).expect("a solution");
                        Q.absorb_solution(&solution).expect("a commit");
                    });
                });
            }

            // Which numbers are multiplied does not matter.
            let square = Mat::from_fn(d_in, d_in, |i, j| T::from_f64(1.0 / (1.0 + ((i ^ j) % 64) as f64)));
            let mut Z = Mat::<T>::zeros(d_in, n);
            group.bench_function(BenchmarkId::new("product", n), |bencher| {
                bencher.iter(|| {
                    let K = keys.as_ref().subcols(batch(), n);
                    matmul(&mut Z, Accum::Replace, &square, K, T::from_f64(1.0), par);
                    black_box(&mut Z);
                });
            });
        }

        let mut dense = DenseSolve::new(&projector, keys.as_ref().subcols(0, 64), par);
        let (k, r) = (keys.as_ref().subcols(64, 1), residuals.as_ref().subcols(64, 1));
        group.bench_function(BenchmarkId::new("dense", 1), |bencher| bencher.iter(|| dense.solve(k, r, par)));
        group.finish();
    }
}

criterion_group!(benches, edits::<f32>, edits::<f64>);
criterion_main!(benches);
