//! The eigendecomposition on matrices with a reputation, at sizes around the block borders, at every scale.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use betaedit_core::Spectrum;
use betaedit_core::error::NumericsError;
use betaedit_core::faer::{Mat, Par};
use betaedit_core::spectrum::{DecompositionProgress, DecompositionStage};
use nalgebra::DMatrix;

use crate::common::{Random, distance};

/// Symmetric positive semidefinite families. Many are shifted or squared from matrices that broke eigensolvers.
fn families(n: usize) -> Vec<(&'static str, Mat<f64>)> {
    let mut random = Random::new(n as u64);
    let diagonal = |f: &dyn Fn(usize) -> f64| Mat::from_fn(n, n, |i, j| if i == j { f(i) } else { 0.0 });
    let square = |A: &Mat<f64>| A * A.transpose();
    let tridiagonal = |on: &dyn Fn(usize) -> f64, off: f64| {
        Mat::from_fn(n, n, |i, j| {
            if i == j {
                on(i)
            } else if i.abs_diff(j) == 1 {
                off
            } else {
                0.0
            }
        })
    };
    let low_rank = random.matrix::<f64>(n, 3.min(n));
    let full = random.matrix::<f64>(n, n);
    let U = random.rotation(n);
    let rotated = |f: &dyn Fn(usize) -> f64| {
        let scaled = Mat::from_fn(n, n, |i, j| U[(i, j)] * f(j));
        let A = scaled * U.transpose();
        Mat::from_fn(n, n, |i, j| 0.5 * (A[(i, j)] + A[(j, i)]))
    };
    vec![
        ("zero", Mat::zeros(n, n)),
        ("identity", Mat::identity(n, n)),
        ("ascending diagonal", diagonal(&|i| i as f64)),
        ("descending diagonal", diagonal(&|i| (n - i) as f64)),
        ("ones", Mat::from_fn(n, n, |_, _| 1.0)),
        ("path graph", tridiagonal(&|_| 2.0, -1.0)),
        ("Wilkinson", tridiagonal(&|i| n as f64 + (i as f64 - n as f64 / 2.0).abs(), 1.0)),
        ("Hilbert", Mat::from_fn(n, n, |i, j| 1.0 / (i + j + 1) as f64)),
        ("low rank", square(&low_rank)),
        ("full rank", square(&full)),
        ("permuted blocks", Mat::from_fn(n, n, |i, j| if i % 3 == j % 3 { 1.0 + f64::from(i == j) } else { 0.0 })),
        ("geometric", rotated(&|i| 0.5_f64.powi(i.min(60) as i32))),
        ("clustered", rotated(&|i| 1.0 + 1e-14 * (i % 5) as f64)),
        ("two clusters", rotated(&|i| if i % 2 == 0 { 1.0 } else { 1e-8 })),
    ]
}

#[test]
fn every_family_at_every_size_reconstructs() {
    for n in [1, 2, 3, 31, 32, 33, 64, 127, 128, 129, 200] {
        for (name, A) in families(n) {
            let spectrum =
                Spectrum::from_matrix(A.as_ref(), Par::rayon(0)).unwrap_or_else(|e| panic!("{name} {n}: {e}"));
            let U = spectrum.vectors();
            assert!(spectrum.values().windows(2).all(|pair| pair[0] <= pair[1]), "{name} {n}");
            let error = distance((U.transpose() * U).as_ref(), Mat::identity(n, n).as_ref());
            assert!(error < 1e-13, "{name} {n}: orthogonality {error:e}");
            let error = distance(spectrum.to_matrix(Par::Seq).as_ref(), A.as_ref());
            // Eigenvalues are right to rounding of the largest; zeros are not negative.
            assert!(error < 1e-12, "{name} {n}: reconstruction {error:e}");
        }
    }
}

#[test]
fn a_matrix_is_made_of_its_spectrum() {
    for n in [255, 256, 257, 600] {
        let A = Mat::from_fn(n, n, |i, j| 1.0 / (1.0 + i.abs_diff(j) as f64));
        let spectrum = Spectrum::from_matrix(A.as_ref(), Par::rayon(0)).unwrap();
        for par in [Par::Seq, Par::rayon(2)] {
            let made = spectrum.to_matrix(par);
            assert!(distance(made.as_ref(), A.as_ref()) < 1e-12, "{n}");
            assert_eq!(made, made.transpose());
        }
    }
}

#[test]
fn eigenvalues_agree_with_nalgebra() {
    for n in [5, 40, 130] {
        for (name, A) in families(n) {
            let ours = Spectrum::from_matrix(A.as_ref(), Par::Seq).unwrap();
            let theirs = DMatrix::from_fn(n, n, |i, j| A[(i, j)]).symmetric_eigenvalues();
            let mut theirs: Vec<f64> = theirs.iter().copied().collect();
            theirs.sort_by(f64::total_cmp);
            let largest = ours.largest().max(1e-300);
            for (a, b) in ours.values().iter().zip(&theirs) {
                assert!((a - b).abs() < 1e-12 * largest, "{name} {n}: {a} {b}");
            }
        }
    }
}

#[test]
fn every_magnitude_is_as_accurate_as_one() {
    let (n, mut random) = (140, Random::new(3));
    let A = random.matrix::<f64>(n, n);
    let A = &A * A.transpose();
    let reference = Spectrum::from_matrix(A.as_ref(), Par::Seq).unwrap();
    for magnitude in [1e-160, 1e-30, 1e30, 1e150] {
        let scaled = Mat::from_fn(n, n, |i, j| A[(i, j)] * magnitude);
        let spectrum = Spectrum::from_matrix(scaled.as_ref(), Par::Seq).unwrap();
        for (a, b) in spectrum.values().iter().zip(reference.values()) {
            assert!((a / magnitude - b).abs() < 1e-12 * reference.largest(), "{magnitude:e}: {a} {b}");
        }
    }
}

#[test]
fn negative_eigenvalues_pass_as_rounding_or_are_refused() {
    let U = Random::new(4).rotation(12);
    let with_smallest = |smallest: f64| {
        let A = Mat::from_fn(12, 12, |i, j| {
            (0..12).map(|m| U[(i, m)] * U[(j, m)] * if m == 0 { smallest } else { m as f64 }).sum()
        });
        Spectrum::from_matrix(A.as_ref(), Par::Seq)
    };
    assert_eq!(with_smallest(-1e-7).unwrap().values()[0], 0.0);
    assert!(matches!(
        with_smallest(-0.5),
        Err(NumericsError::NotPositiveSemidefinite { argument: "matrix", smallest, .. }) if (smallest + 0.5).abs() < 1e-12
    ));
}

#[test]
fn the_same_matrix_gives_the_same_bits() {
    let mut random = Random::new(5);
    let A = random.matrix::<f64>(150, 150);
    let A = &A * A.transpose();
    for par in [Par::Seq, Par::rayon(2)] {
        let [a, b] = [(); 2].map(|()| Spectrum::from_matrix(A.as_ref(), par).unwrap());
        assert_eq!(a.values(), b.values());
        assert_eq!(a.vectors(), b.vectors());
    }
}

#[test]
fn a_known_decomposition_is_taken_if_it_is_one() {
    let A = Random::new(6).matrix::<f64>(30, 30);
    let A = &A * A.transpose();
    let whole = Spectrum::from_matrix(A.as_ref(), Par::Seq).unwrap();
    let (values, vectors) = (whole.values().to_vec(), whole.vectors().to_owned());
    let again = Spectrum::from_parts(values.clone(), vectors.clone(), Par::Seq).unwrap();
    assert_eq!((again.values(), again.vectors()), (whole.values(), whole.vectors()));

    let mut skewed = vectors.clone();
    skewed[(3, 4)] += 1e-6;
    let outcome = Spectrum::from_parts(values.clone(), skewed, Par::Seq);
    assert!(matches!(outcome, Err(NumericsError::NotOrthonormal { argument: "vectors", .. })));
    let mut swapped = values.clone();
    swapped.swap(0, 9);
    assert!(matches!(
        Spectrum::from_parts(swapped, vectors.clone(), Par::Seq),
        Err(NumericsError::Unsorted { argument: "values", index: 0, .. })
    ));
    let mut negative = values.clone();
    negative[0] = -1.0;
    assert!(matches!(Spectrum::from_parts(negative, vectors.clone(), Par::Seq), Err(NumericsError::Parameter { .. })));
    let mut poisoned = vectors.clone();
    poisoned[(0, 0)] = f64::NAN;
    let outcome = Spectrum::from_parts(values.clone(), poisoned, Par::Seq);
    assert!(matches!(outcome, Err(NumericsError::NonFinite { argument: "vectors", .. })));
    let outcome = Spectrum::from_parts(values[1..].to_vec(), vectors, Par::Seq);
    assert!(matches!(outcome, Err(NumericsError::Shape { argument: "vectors", .. })));
}

/// The watch sees every stage in its order, and `done` ascends to 1.
#[test]
fn a_watched_decomposition_is_the_same_and_says_how_far_it_is() {
    let A = square(200, 7);
    for par in [Par::Seq, Par::rayon(2)] {
        let mut seen: Vec<DecompositionProgress> = vec![];
        let watched = Spectrum::from_matrix_watched(A.as_ref(), par, |progress| {
            seen.push(progress);
            ControlFlow::Continue(())
        });
        let (watched, plain) = (watched.unwrap(), Spectrum::from_matrix(A.as_ref(), par).unwrap());
        assert_eq!((watched.values(), watched.vectors()), (plain.values(), plain.vectors()));
        assert!(seen.windows(2).all(|pair| pair[0].done <= pair[1].done), "{seen:?}");
        let (first, last) = (seen[0], seen[seen.len() - 1]);
        assert_eq!((first.stage, first.done), (DecompositionStage::Reduction, 0.0));
        assert_eq!((last.stage, last.done), (DecompositionStage::Verification, 1.0));
        let mut stages: Vec<_> = seen.iter().map(|progress| progress.stage).collect();
        stages.dedup();
        assert_eq!(stages, DecompositionStage::ALL);
        // The back-transformation reports its blocks.
        assert!(seen.len() > DecompositionStage::ALL.len() + 5, "{}", seen.len());
    }
}

#[test]
fn a_watch_that_breaks_cancels_at_any_point() {
    let A = square(60, 8);
    let mut calls = 0;
    Spectrum::from_matrix_watched(A.as_ref(), Par::Seq, |_| {
        calls += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    for allowed in 0..calls {
        let mut left = allowed;
        let outcome = Spectrum::from_matrix_watched(A.as_ref(), Par::Seq, |_| match left {
            0 => ControlFlow::Break(()),
            _ => {
                left -= 1;
                ControlFlow::Continue(())
            }
        });
        assert!(matches!(outcome, Err(NumericsError::Cancelled)), "{allowed}");
    }
}

fn square(n: usize, seed: u64) -> Mat<f64> {
    let A = Random::new(seed).matrix::<f64>(n, n);
    &A * A.transpose()
}

/// How long a decomposition takes, and how its time divides over the stages: the table in the docs of `Spectrum`, and
/// the shares in `spectrum/watch.rs`.
#[test]
#[ignore = "measures; run it alone, in release mode, with --nocapture"]
fn how_the_time_divides() {
    for n in [512, 1024, 2048, 4096] {
        let A = square(n, 9);
        for par in [Par::Seq, Par::rayon(2)] {
            let mut least = [Duration::MAX; 4];
            for _ in 0..3 {
                let mut times = [Duration::ZERO; 4];
                let (mut since, mut stage) = (Instant::now(), DecompositionStage::Reduction);
                Spectrum::from_matrix_watched(A.as_ref(), par, |progress| {
                    times[stage as usize] += since.elapsed();
                    (since, stage) = (Instant::now(), progress.stage);
                    ControlFlow::Continue(())
                })
                .unwrap();
                least.iter_mut().zip(times).for_each(|(least, time)| *least = time.min(*least));
            }
            let whole: Duration = least.iter().sum();
            let shares = least.map(|time| (1000.0 * time.as_secs_f64() / whole.as_secs_f64()).round() / 10.0);
            println!("{n} {par:?}: {:.2} s, shares {shares:?} %", whole.as_secs_f64());
        }
    }
}
