//! Weights in half precision: every entry of the sum rounded once, against a search through all numbers of the type.

use std::fmt::Debug;

use betaedit_core::error::NumericsError;
use betaedit_core::faer::{Mat, Par, mat};
use betaedit_core::restraint::Rect;
use betaedit_core::scalar::cast;
use betaedit_core::update::half::{bf16, f16};
use betaedit_core::update::{Half, Precision};
use betaedit_core::{Orientation, Scalar, Update};

use crate::common::Random;

const LINEAR: Orientation = Orientation::OutputsByInputs;
const SEQ: Par = Par::Seq;

/// What the test knows of a type: the meaning of its bits.
trait Bits: Half + PartialEq + Debug {
    /// Relative spacing of the numbers, at most.
    const SPACING: f64;
    const INFINITY: u16;
    fn of_bits(bits: u16) -> Self;

    /// A finite positive number by its bits; after the largest one, where the next would be.
    fn value(bits: u16) -> f64 {
        let value = |bits| Half::to_f64(Self::of_bits(bits));
        if bits == Self::INFINITY { 2.0 * value(bits - 1) - value(bits - 2) } else { value(bits) }
    }

    /// The nearest number, of two the even one, by search: the bits of positive numbers are in order.
    fn found(x: f64) -> Self {
        let (mut below, mut above) = (0, Self::INFINITY);
        let size = x.abs().min(Self::value(above));
        while above - below > 1 {
            let middle = u16::midpoint(below, above);
            if Self::value(middle) <= size { below = middle } else { above = middle }
        }
        let (down, up) = (size - Self::value(below), Self::value(above) - size);
        let nearest = if down < up || (down == up && below % 2 == 0) { below } else { above };
        Self::of_bits(nearest | if x.is_sign_negative() { 1 << 15 } else { 0 })
    }
}

impl Bits for f16 {
    const SPACING: f64 = 1.0 / 1024.0;
    const INFINITY: u16 = 0x7C00;
    fn of_bits(bits: u16) -> Self {
        Self::from_bits(bits)
    }
}

impl Bits for bf16 {
    const SPACING: f64 = 1.0 / 128.0;
    const INFINITY: u16 = 0x7F80;
    fn of_bits(bits: u16) -> Self {
        Self::from_bits(bits)
    }
}

fn every_number_and_every_tie<H: Bits>() {
    for bits in 0..H::INFINITY {
        let (x, next) = (H::value(bits), H::value(bits + 1));
        assert_eq!(H::nearest(x), H::of_bits(bits));
        let middle = 0.5 * (x + next);
        for x in [middle, middle * (1.0 - 1e-15), middle * (1.0 + 1e-15), 0.7 * x + 0.3 * next] {
            assert_eq!(H::nearest(x), H::found(x), "{x:e}");
            assert_eq!(H::nearest(-x), H::found(-x), "-{x:e}");
        }
    }
    assert_eq!(H::MAX, H::value(H::INFINITY - 1));
    for x in [H::MAX * 1.1, 1e300, f64::INFINITY] {
        assert_eq!(H::nearest(x), H::of_bits(H::INFINITY));
    }
    assert!(Half::to_f64(H::nearest(f64::NAN)).is_nan());
}

#[test]
fn numbers_are_rounded_once_to_the_nearest_even() {
    every_number_and_every_tie::<f16>();
    every_number_and_every_tie::<bf16>();
}

fn sums_are_rounded_once<T: Scalar, H: Bits>(precision: Precision) {
    let (d_out, d_in) = (23, 37);
    for par in [SEQ, Par::rayon(3)] {
        let mut random = Random::new(60);
        for n in [1, 4] {
            let factors = (random.matrix::<T>(d_out, n), random.matrix::<T>(n, d_in));
            let wide = (cast::<T, f64>(factors.0.as_ref()), cast::<T, f64>(factors.1.as_ref()));
            let update = Update::from_factors(factors.0, factors.1).unwrap();
            let start = Mat::from_fn(d_out, d_in, |_, _| H::found(random.normal()));
            let old = Mat::from_fn(d_out, d_in, |i, j| Half::to_f64(start[(i, j)]));
            // A restrained update is dense.
            let restrained =
                Rect::default().with_kept(0.5).restrain(&update, cast::<f64, T>(old.as_ref()).as_ref(), SEQ);
            let dense = restrained.unwrap();
            let entries = cast::<T, f64>(dense.to_dense(SEQ).as_ref());
            for (update, delta) in [(&update, &wide.0 * &wide.1), (&dense, entries)] {
                let exact = &old + &delta;
                let right = |i, j, found: H| {
                    assert_eq!(found, H::found(exact[(i, j)]), "entry ({i}, {j}): {:e}", exact[(i, j)]);
                };
                let mut W = start.clone();
                let rounding = update.apply_to_half(W.as_mut(), LINEAR, par).unwrap();
                (0..d_out).for_each(|i| (0..d_in).for_each(|j| right(i, j, W[(i, j)])));
                let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b;
                let error = Mat::from_fn(d_out, d_in, |i, j| Half::to_f64(W[(i, j)]) - exact[(i, j)]);
                let largest = error.norm_max();
                assert_eq!(rounding.precision, precision);
                assert!(close(rounding.error, error.norm_l2()) && close(rounding.largest, largest), "{rounding:?}");
                assert!(close(rounding.asked, delta.norm_l2()), "{rounding:?}");
                assert!(rounding.error <= 0.5 * H::SPACING * exact.norm_l2(), "{rounding:?}");
                // The other orientation, and rows in memory.
                let mut stored = Mat::from_fn(d_in, d_out, |j, i| start[(i, j)]);
                update.apply_to_half(stored.as_mut(), Orientation::InputsByOutputs, par).unwrap();
                (0..d_out).for_each(|i| (0..d_in).for_each(|j| right(i, j, stored[(j, i)])));
                let mut rows = Mat::from_fn(d_in, d_out, |j, i| start[(i, j)]);
                update.apply_to_half(rows.as_mut().transpose_mut(), LINEAR, par).unwrap();
                (0..d_out).for_each(|i| (0..d_in).for_each(|j| right(i, j, rows[(j, i)])));
            }
        }
    }
}

#[test]
fn sums_are_those_of_the_search() {
    sums_are_rounded_once::<f32, f16>(Precision::F16);
    sums_are_rounded_once::<f64, f16>(Precision::F16);
    sums_are_rounded_once::<f32, bf16>(Precision::Bf16);
    sums_are_rounded_once::<f64, bf16>(Precision::Bf16);
}

/// As documented: the error does not shrink with the update, so a small one is lost.
#[test]
fn what_half_precision_loses_of_a_small_update() {
    let mut random = Random::new(61);
    let start = Mat::from_fn(60, 80, |_, _| bf16::found(random.normal()));
    let old = Mat::from_fn(60, 80, |i, j| start[(i, j)].to_f64());
    let (left, right) = (random.matrix::<f64>(60, 1), random.matrix::<f64>(1, 80));
    let share = |size: f64| {
        let update = Update::from_factors(&left * betaedit_core::faer::Scale(size), right.clone()).unwrap();
        let mut W = start.clone();
        let rounding = update.apply_to_half(W.as_mut(), LINEAR, SEQ).unwrap();
        // Measured by hand as well: how much of the change arrived.
        let lost = Mat::from_fn(60, 80, |i, j| W[(i, j)].to_f64() - old[(i, j)] - size * left[(i, 0)] * right[(0, j)]);
        assert!((rounding.error - lost.norm_l2()).abs() < 1e-9 * rounding.error);
        (rounding.share(), rounding.error / old.norm_l2())
    };
    assert!(share(1.0).0 < 0.01);
    let (of_update, of_weight) = share(0.1);
    assert!((0.01..0.1).contains(&of_update) && (0.3..0.5).contains(&(256.0 * of_weight)), "{of_update} {of_weight}");
    assert!(share(1e-5).0 > 0.9);
    // Two hundred updates that are lost one by one arrive through a copy in f32.
    let update = Update::from_factors(Mat::full(60, 1, 1e-5_f32), Mat::full(1, 80, 1.0)).unwrap();
    let (mut direct, mut copy) = (Mat::full(60, 80, bf16::ONE), Mat::<f32>::full(60, 80, 1.0));
    for _ in 0..1000 {
        update.apply_to_half(direct.as_mut(), LINEAR, SEQ).unwrap();
        update.apply_to(copy.as_mut(), LINEAR, SEQ).unwrap();
    }
    assert_eq!((direct[(0, 0)], bf16::nearest(copy[(0, 0)].to_f64())), (bf16::ONE, bf16::from_f32(1.0078125)));
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let update = |l: f32, r: f32| Update::from_factors(mat![[l], [0.0]], mat![[r, 0.0, 0.0]]).unwrap();
    let start = Mat::from_fn(2, 3, |i, j| f16::from_f32((i + j) as f32 - 1.0));
    let refused = |weight: &Mat<f16>, update: &Update<f32>, orientation| {
        let mut W = weight.clone();
        let error = update.apply_to_half(W.as_mut(), orientation, SEQ).unwrap_err();
        let same = |i, j| W[(i, j)].to_bits() == weight[(i, j)].to_bits();
        assert!((0..2).all(|i| (0..3).all(|j| same(i, j))), "the weight was changed");
        error
    };
    let error = refused(&start, &update(300.0, 300.0), LINEAR);
    assert!(matches!(error, NumericsError::Overflow { step: "the edited weight", scalar: "f16" }), "{error:?}");
    assert!(error.to_string().contains("bf16"), "{error}");
    let error = refused(&start, &update(1.0, 1.0), Orientation::InputsByOutputs);
    assert!(matches!(error, NumericsError::Shape { argument: "weight", .. }), "{error:?}");
    for bad in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY] {
        let mut weight = start.clone();
        weight[(1, 2)] = bad;
        let error = refused(&weight, &update(1.0, 1.0), LINEAR);
        assert!(matches!(error, NumericsError::NonFinite { argument: "weight", row: 1, col: 2, .. }), "{error:?}");
    }
    // 65519 rounds to the largest number, 65520 is the tie that goes beyond it.
    for (change, fits) in [(65519.0 + 1.0, true), (65520.0 + 1.0, false)] {
        let mut W = start.clone();
        assert_eq!(update(change, 1.0).apply_to_half(W.as_mut(), LINEAR, SEQ).is_ok(), fits);
        assert_eq!(W[(0, 0)], if fits { f16::MAX } else { start[(0, 0)] });
    }
    // A bound that is too cautious for the entries does not refuse.
    let apart = Update::from_factors(Mat::<f32>::identity(2, 2), mat![[6e4, 0.0, 0.0], [0.0, 6e4, 0.0]]).unwrap();
    apart.apply_to_half(start.clone().as_mut(), LINEAR, SEQ).unwrap();
}
