//! Ridge regression over a stream: the dense solution and scikit-learn's, after any fits and forgets.

use std::path::Path;

use betaedit_core::error::NumericsError;
use betaedit_core::faer::linalg::solvers::Solve;
use betaedit_core::faer::{Mat, MatRef, Par};
use betaedit_core::ridge::{Ridge, Samples};
use proptest::prelude::*;

use crate::common::{Random, distance, property_config};

const SEQ: Par = Par::Seq;

/// `W = Y Xᵀ (gamma I + X Xᵀ)⁻¹`.
fn dense(X: MatRef<'_, f64>, Y: MatRef<'_, f64>, gamma: f64) -> Mat<f64> {
    let A = X * X.transpose() + Mat::<f64>::identity(X.nrows(), X.nrows()) * betaedit_core::faer::Scale(gamma);
    let B = X * Y.transpose();
    A.llt(betaedit_core::faer::Side::Lower).unwrap().solve(&B).transpose().to_owned()
}

fn chosen(matrix: MatRef<'_, f64>, columns: &[usize]) -> Mat<f64> {
    Mat::from_fn(matrix.nrows(), columns.len(), |i, j| matrix[(i, columns[j])])
}

/// `|W - expected| <= bound |expected|`, and absolutely where nothing is expected.
#[track_caller]
fn assert_near(ridge: &Ridge, expected: MatRef<'_, f64>, bound: f64) {
    let error = distance(ridge.weight(), expected);
    assert!(error < bound, "{error:e}");
}

#[derive(serde::Deserialize)]
struct Golden {
    gamma: f64,
    #[serde(rename = "X")]
    samples: Vec<Vec<f64>>,
    #[serde(rename = "Y")]
    targets: Vec<Vec<f64>>,
    steps: Vec<Step>,
}

#[derive(serde::Deserialize)]
struct Step {
    event: String,
    samples: Vec<usize>,
    outputs: usize,
    weight: Vec<Vec<f64>>,
}

#[test]
fn a_stream_has_the_weights_of_scikit_learn() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ridge.json");
    let golden: Golden = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let d = golden.samples[0].len();
    let columns =
        |rows: &[Vec<f64>], which: &[usize], length: usize| Mat::from_fn(length, which.len(), |i, j| rows[which[j]][i]);
    let mut ridge = Ridge::new(d, 2, golden.gamma, SEQ).unwrap();
    for step in &golden.steps {
        let (X, Y) =
            (columns(&golden.samples, &step.samples, d), columns(&golden.targets, &step.samples, step.outputs));
        match step.event.as_str() {
            "fit" => drop(ridge.fit(X.as_ref(), Y.as_ref()).unwrap()),
            "forget" => ridge.forget(X.as_ref(), Y.as_ref()).unwrap(),
            "add outputs" => ridge.add_outputs(1).unwrap(),
            other => panic!("{other}"),
        }
        let expected = Mat::from_fn(step.outputs, d, |i, j| step.weight[i][j]);
        assert_near(&ridge, expected.as_ref(), 1e-10);
    }
    assert_eq!((golden.steps.len(), ridge.samples()), (10, 37));
}

proptest! {
    #![proptest_config(property_config())]

    /// Any stream of fits and forgets, by samples or by numbers, with duplicates, growing outputs, and more samples than inputs.
    #[test]
    fn any_stream_gives_the_dense_solution(
        seed in any::<u64>(),
        d in 1_usize..12,
        outputs in 1_usize..4,
        log_gamma in -2.0_f64..2.0,
        kept in any::<bool>(),
        events in prop::collection::vec((0_u8..6, any::<u64>(), 1_usize..20), 1..12),
    ) {
        let mut random = Random::new(seed);
        let gamma = 10_f64.powf(log_gamma);
        let samples = if kept { Samples::Kept } else { Samples::Recognised };
        let mut ridge = Ridge::new(d, outputs, gamma, SEQ).unwrap().with_samples(samples).unwrap();
        // What is held: number, sample, target.
        let mut held: Vec<(u64, Mat<f64>, Mat<f64>)> = vec![];
        for (event, which, n) in events {
            let k = ridge.d_out();
            match event {
                0 => ridge.add_outputs(1).unwrap(),
                1..=3 => {
                    let (X, Y) = (random.matrix::<f64>(d, n), random.matrix::<f64>(k, n));
                    // The second sample is the first once more.
                    let twice = |M: &Mat<f64>| Mat::from_fn(M.nrows(), n, |i, j| M[(i, if j == 1 { 0 } else { j })]);
                    let (X, Y) = (twice(&X), twice(&Y));
                    let numbers = ridge.fit(X.as_ref(), Y.as_ref()).unwrap();
                    let columns = (0..n).map(|j| (X.subcols(j, 1).to_owned(), Y.subcols(j, 1).to_owned()));
                    held.extend(numbers.zip(columns).map(|(number, (x, y))| (number, x, y)));
                }
                _ => {
                    let mut gone = vec![];
                    for step in 0..n.min(held.len()) as u64 {
                        gone.push(held.swap_remove((which.wrapping_add(step * 7) % held.len() as u64) as usize));
                    }
                    if gone.is_empty() {
                        continue;
                    }
                    let padded = |y: &Mat<f64>, i: usize| if i < y.nrows() { y[(i, 0)] } else { 0.0 };
                    let X = Mat::from_fn(d, gone.len(), |i, j| gone[j].1[(i, 0)]);
                    let Y = Mat::from_fn(k, gone.len(), |i, j| padded(&gone[j].2, i));
                    if kept && event == 4 {
                        let numbers: Vec<u64> = gone.iter().map(|gone| gone.0).collect();
                        ridge.forget_numbers(&numbers).unwrap();
                    } else {
                        ridge.forget(X.as_ref(), Y.as_ref()).unwrap();
                        // Of equal samples, which one is forgotten is not said: the numbers are not used again.
                        if kept {
                            break;
                        }
                    }
                }
            }
            prop_assert_eq!(ridge.samples(), held.len());
            let k = ridge.d_out();
            let X = Mat::from_fn(d, held.len(), |i, j| held[j].1[(i, 0)]);
            let Y = Mat::from_fn(k, held.len(), |i, j| if i < held[j].2.nrows() { held[j].2[(i, 0)] } else { 0.0 });
            let expected = dense(X.as_ref(), Y.as_ref(), gamma);
            let error = (ridge.weight() - &expected).norm_l2();
            prop_assert!(error <= 1e-8 * (1.0 + expected.norm_l2()), "{:e}", error);
        }
    }
}

/// Samples of both kinds, more than a block of them at once, and single precision.
#[test]
fn many_samples_at_once_are_many_samples_one_by_one() {
    let mut random = Random::new(5);
    let (d, k, n) = (20, 3, 700);
    let (X, Y) = (random.matrix::<f32>(d, n), random.matrix::<f32>(k, n));
    let double = |M: &Mat<f32>| Mat::from_fn(M.nrows(), M.ncols(), |i, j| f64::from(M[(i, j)]));
    let expected = dense(double(&X).as_ref(), double(&Y).as_ref(), 2.0);
    let mut together = Ridge::new(d, k, 2.0, SEQ).unwrap();
    assert_eq!(together.fit(X.as_ref(), Y.as_ref()).unwrap(), 0..700);
    let shown = format!("{together:?}");
    assert!(shown.contains("samples: 700") && shown.len() < 100, "{shown}");
    assert_near(&together, expected.as_ref(), 1e-12);
    let mut single = Ridge::new(d, k, 2.0, SEQ).unwrap();
    for j in 0..n {
        single.fit(X.as_ref().subcols(j, 1), Y.as_ref().subcols(j, 1)).unwrap();
    }
    assert_near(&single, expected.as_ref(), 1e-12);
    // All but the first ten are forgotten, in another grouping than they were fitted.
    single.forget(X.as_ref().subcols(10, 690), Y.as_ref().subcols(10, 690)).unwrap();
    let few = dense(double(&X).as_ref().subcols(0, 10), double(&Y).as_ref().subcols(0, 10), 2.0);
    assert_near(&single, few.as_ref(), 1e-9);
}

#[test]
fn a_regression_that_forgot_everything_is_new() {
    let mut random = Random::new(6);
    let (X, Y) = (random.matrix::<f64>(5, 9), random.matrix::<f64>(2, 9));
    let mut ridge = Ridge::new(5, 2, 0.5, SEQ).unwrap().with_samples(Samples::Kept).unwrap();
    let numbers = ridge.fit(X.as_ref(), Y.as_ref()).unwrap();
    ridge.forget_numbers(&numbers.collect::<Vec<_>>()).unwrap();
    assert_eq!((ridge.samples(), ridge.weight()), (0, Mat::zeros(2, 5).as_ref()));
    assert_eq!(ridge.inverse_gram().to_dense(), Mat::<f64>::identity(5, 5) * betaedit_core::faer::Scale(2.0));
    // Numbers are not given twice.
    assert_eq!(ridge.fit(X.as_ref(), Y.as_ref()).unwrap(), 9..18);
    assert_near(&ridge, dense(X.as_ref(), Y.as_ref(), 0.5).as_ref(), 1e-12);
}

/// What was never fitted, or is forgotten, or is given more often than it is held: an error, and nothing is changed.
#[test]
fn what_is_not_held_is_not_forgotten() {
    let mut random = Random::new(7);
    let (X, Y) = (random.matrix::<f64>(4, 6), random.matrix::<f64>(2, 6));
    let (X, Y) = (X.as_ref(), Y.as_ref());
    let mut ridge = Ridge::new(4, 2, 1.0, SEQ).unwrap().with_samples(Samples::Kept).unwrap();
    ridge.fit(X.subcols(0, 4), Y.subcols(0, 4)).unwrap();
    ridge.forget(X.subcols(2, 1), Y.subcols(2, 1)).unwrap();
    let (weight, Q) = (ridge.weight().to_owned(), ridge.inverse_gram().to_dense());
    let other = Mat::from_fn(2, 1, |i, _| Y[(i, 0)] + 1e-12);
    let mut refuse = |X: MatRef<'_, f64>, Y: MatRef<'_, f64>, sample: u64| {
        let error = ridge.forget(X, Y).unwrap_err();
        assert!(matches!(error, NumericsError::NotFitted { sample: found } if found == sample), "{error:?}");
    };
    refuse(X.subcols(0, 6), Y.subcols(0, 6), 2);
    refuse(X.subcols(4, 1), Y.subcols(4, 1), 0);
    refuse(X.subcols(2, 1), Y.subcols(2, 1), 0);
    refuse(X.subcols(0, 1), other.as_ref(), 0);
    refuse(chosen(X, &[0, 1, 0]).as_ref(), chosen(Y, &[0, 1, 0]).as_ref(), 2);
    for (numbers, sample) in [(&[0, 2][..], 2), (&[1, 1], 1), (&[17], 17)] {
        let error = ridge.forget_numbers(numbers).unwrap_err();
        assert!(matches!(error, NumericsError::NotFitted { sample: found } if found == sample), "{error:?}");
    }
    assert!(matches!(ridge.forget_numbers(&[]), Err(NumericsError::Empty { .. })));
    assert_eq!((ridge.samples(), ridge.weight(), ridge.inverse_gram().to_dense()), (3, weight.as_ref(), Q));

    let mut without = Ridge::new(4, 2, 1.0, SEQ).unwrap();
    let numbers = without.fit(X, Y).unwrap();
    let error = without.forget_numbers(&[numbers.start]).unwrap_err().to_string();
    assert!(error.contains("Samples::Kept"), "{error}");
    assert!(without.with_samples(Samples::Kept).is_err());
}

/// Wrong input, and a sample that is too large to be taken back: an error, and nothing is changed.
#[test]
fn what_cannot_be_done_changes_nothing() {
    for gamma in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(Ridge::new(2, 1, gamma, SEQ), Err(NumericsError::Parameter { parameter: "gamma", .. })));
    }
    assert!(Ridge::new(0, 1, 1.0, SEQ).is_err() && Ridge::new(1, 0, 1.0, SEQ).is_err());

    let mut ridge = Ridge::new(2, 1, 1e-9, SEQ).unwrap();
    let fitted = |ridge: &mut Ridge, x: [f64; 2], y: f64| {
        ridge.fit(Mat::from_fn(2, 1, |i, _| x[i]).as_ref(), Mat::full(1, 1, y).as_ref())
    };
    fitted(&mut ridge, [1.0, 2.0], 1.0).unwrap();
    fitted(&mut ridge, [-1.0, 3.0], 2.0).unwrap();
    let weight = ridge.weight().to_owned();
    assert!(matches!(fitted(&mut ridge, [f64::NAN, 0.0], 1.0), Err(NumericsError::NonFinite { argument: "X", .. })));
    assert!(matches!(fitted(&mut ridge, [1e200, 0.0], 1.0), Err(NumericsError::Overflow { .. })));
    let two = Mat::<f64>::zeros(2, 2);
    assert!(matches!(ridge.fit(two.as_ref(), two.as_ref()), Err(NumericsError::Shape { argument: "Y", .. })));
    assert!(matches!(ridge.predict(Mat::<f64>::zeros(3, 1).as_ref()), Err(NumericsError::Shape { .. })));
    let error = ridge.forget(Mat::from_fn(2, 1, |i, _| [1.0, 2.0][i]).as_ref(), Mat::full(1, 1, 1.0).as_ref());
    let error = error.unwrap_err();
    assert!(matches!(error, NumericsError::Singular { .. }) && error.to_string().contains("larger gamma"), "{error}");
    assert_eq!((ridge.samples(), ridge.weight()), (2, weight.as_ref()));
}

/// A regression that was written and read goes on with the same bits, and remembers the same samples.
#[cfg(feature = "npz")]
#[test]
fn a_regression_in_a_file_continues_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ridge");
    let mut random = Random::new(9);
    let (X, Y) = (random.matrix::<f64>(6, 100), random.matrix::<f64>(3, 100));
    let (X, Y) = (X.as_ref(), Y.as_ref());
    for samples in [Samples::Recognised, Samples::Kept] {
        let mut ridge = Ridge::new(6, 2, 0.3, SEQ).unwrap().with_samples(samples).unwrap();
        for j in 0..30 {
            ridge.fit(X.subcols(j, 1), Y.subcols(j, 1).subrows(0, 2)).unwrap();
        }
        ridge.forget(X.subcols(3, 4), Y.subcols(3, 4).subrows(0, 2)).unwrap();
        ridge.add_outputs(1).unwrap();
        ridge.fit(X.subcols(30, 20), Y.subcols(30, 20)).unwrap();
        ridge.forget(X.subcols(49, 1), Y.subcols(49, 1)).unwrap();
        ridge.write(&path).unwrap();
        let mut read = Ridge::read(&path, SEQ).unwrap();
        for ridge in [&mut ridge, &mut read] {
            assert_eq!(ridge.fit(X.subcols(50, 50), Y.subcols(50, 50)).unwrap(), 50..100);
            ridge.forget(X.subcols(32, 9), Y.subcols(32, 9)).unwrap();
            match samples {
                Samples::Kept => ridge.forget_numbers(&[7, 60]).unwrap(),
                _ => assert!(ridge.forget_numbers(&[7, 60]).is_err()),
            }
            assert!(matches!(ridge.forget(X.subcols(3, 1), Y.subcols(3, 1)), Err(NumericsError::NotFitted { .. })));
        }
        assert_eq!((read.weight(), read.samples(), read.gamma()), (ridge.weight(), ridge.samples(), 0.3));
        assert_eq!(read.inverse_gram().to_dense(), ridge.inverse_gram().to_dense());
    }
}

#[cfg(feature = "npz")]
#[test]
fn a_damaged_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ridge");
    let mut random = Random::new(10);
    let mut ridge = Ridge::new(3, 2, 1.0, SEQ).unwrap();
    ridge.fit(random.matrix::<f64>(3, 4).as_ref(), random.matrix::<f64>(2, 4).as_ref()).unwrap();
    ridge.write(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = Ridge::read(&path, SEQ).unwrap_err().to_string();
        assert!(error.contains("ridge"), "{error}");
        error
    };
    for length in 0..good.len() {
        refused(&good[..length]);
    }
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        refused(&bytes);
    }
    assert!(refused(b"something else").contains("not a regression"));
    assert!(refused(&good[..good.len() - 1]).contains("checksum"));
}
