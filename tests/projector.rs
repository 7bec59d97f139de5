//! Where the cut falls, by every kind of threshold, and what is reported about it.

use std::sync::Arc;

use betaedit_core::faer::{Mat, Par};
use betaedit_core::projector::ProjectorBuilder;
use betaedit_core::projector::SpectralGap;
use betaedit_core::{Projector, Spectrum, Threshold};

use crate::common::{Random, distance};

/// Eigenvalues 0.01, 0.02, 0.03, 0.14, 0.8 in a random basis.
fn spectrum() -> Arc<Spectrum> {
    let vectors = Random::new(61).rotation(5);
    Arc::new(Spectrum::from_parts(vec![0.01, 0.02, 0.03, 0.14, 0.8], vectors, Par::Seq).unwrap())
}

fn cut(threshold: Threshold) -> Projector {
    ProjectorBuilder::new(&spectrum()).threshold(threshold).build(Par::Seq).unwrap()
}

#[test]
fn every_threshold_keeps_what_it_says() {
    for (threshold, kept, tau) in [
        // Strictly below.
        (Threshold::Absolute(0.02), 1, 0.02),
        (Threshold::Absolute(0.0200001), 2, 0.0200001),
        (Threshold::Absolute(7.0), 5, 7.0),
        (Threshold::RelativeToLargest(0.1), 3, 0.08),
        // The trace is 1: 0.01 + 0.02 + 0.03 = 0.06, with 0.14 it is 0.2.
        (Threshold::KeptEnergy(0.07), 3, 0.14),
        (Threshold::KeptEnergy(0.199), 3, 0.14),
        (Threshold::KeptEnergy(0.201), 4, 0.8),
        (Threshold::Directions(2), 2, 0.03),
        (Threshold::Directions(5), 5, f64::INFINITY),
        (Threshold::Directions(9), 5, f64::INFINITY),
    ] {
        let P = cut(threshold);
        assert_eq!((P.kept(), P.basis().ncols(), P.complement().ncols()), (kept, kept, 5 - kept), "{threshold:?}");
        assert!(P.threshold() == tau || (P.threshold() - tau).abs() < 1e-15, "{threshold:?} {}", P.threshold());
    }
}

#[test]
fn the_gap_and_the_capacity_are_those_of_the_eigenvalues() {
    let P = cut(Threshold::Absolute(0.05));
    assert_eq!((P.gap(), P.kept_values()), (gap(Some(0.03), Some(0.14)), [0.01, 0.02, 0.03].as_slice()));
    assert!((P.capacity() - (0.8 + 0.6 + 0.4)).abs() < 1e-12);
    let all = Projector::identity(&spectrum());
    assert_eq!((all.gap(), all.capacity()), (gap(Some(0.8), None), 5.0));
}

#[test]
fn a_projector_is_one() {
    for kept in 1..=5 {
        let P = cut(Threshold::Directions(kept));
        let dense = P.to_dense(Par::Seq);
        assert!(distance((&dense * &dense).as_ref(), dense.as_ref()) < 1e-14);
        assert_eq!(dense, dense.transpose().to_owned());
        // Through V or through its complement, whichever is smaller.
        let X = Random::new(62).matrix::<f64>(5, 3);
        assert!(distance(P.apply(X.as_ref(), Par::Seq).unwrap().as_ref(), (&dense * &X).as_ref()) < 1e-14);
        for other in 1..=5 {
            let distance = P.distance_squared(&cut(Threshold::Directions(other)), Par::Seq).unwrap();
            assert!((distance - kept.abs_diff(other) as f64).abs() < 1e-13);
        }
    }
    assert!((cut(Threshold::Directions(5)).to_dense(Par::Seq) - Mat::<f64>::identity(5, 5)).norm_l2() < 1e-14);
}

fn gap(largest_kept: Option<f64>, smallest_protected: Option<f64>) -> SpectralGap {
    SpectralGap { largest_kept, smallest_protected }
}
