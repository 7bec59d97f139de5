//! `Weight`: the same numbers as `Update::apply_to` on a bare matrix, and never out of range.

use betaedit_core::error::NumericsError;
use betaedit_core::faer::{Mat, Par, mat};
use betaedit_core::update::Weight;
use betaedit_core::{Orientation, Update};

use crate::common::Random;

#[test]
fn a_weight_is_what_apply_to_makes_of_the_matrix() {
    let mut random = Random::new(3);
    for orientation in [Orientation::OutputsByInputs, Orientation::InputsByOutputs] {
        let (rows, cols) = if orientation == Orientation::OutputsByInputs { (5, 70) } else { (70, 5) };
        let mut bare = random.matrix::<f32>(rows, cols);
        let mut weight = Weight::new(bare.clone(), orientation).unwrap();
        for n in [1, 3, 1] {
            let update = Update::from_factors(random.matrix(5, n), random.matrix(n, 70)).unwrap();
            update.apply_to(bare.as_mut(), orientation, Par::Seq).unwrap();
            weight.apply(&update, Par::Seq).unwrap();
        }
        assert_eq!((weight.outputs_by_inputs().shape(), weight.orientation()), ((5, 70), orientation));
        assert_eq!(weight.stored(), bare);
        assert_eq!(weight.into_matrix(), bare);
    }
}

#[test]
fn a_bound_that_outgrew_the_entries_is_looked_up_again() {
    let mut weight = Weight::new(mat![[1.0_f32, -2.0]], Orientation::OutputsByInputs).unwrap();
    let large = |sign: f32| Update::from_factors(mat![[sign * 2_f32.powi(63)]], mat![[2_f32.powi(62), 0.0]]).unwrap();
    for _ in 0..20 {
        weight.apply(&large(1.0), Par::Seq).unwrap();
        weight.apply(&large(-1.0), Par::Seq).unwrap();
    }
    assert_eq!(weight.stored(), mat![[0.0, -2.0]]);
    (0..3).for_each(|_| weight.apply(&large(1.0), Par::Seq).unwrap());
    let before = weight.clone();
    let refused = weight.apply(&large(1.0), Par::Seq);
    assert!(matches!(refused, Err(NumericsError::Overflow { scalar: "f32", .. })), "{refused:?}");
    assert_eq!(weight.stored(), before.stored());
}

#[test]
fn what_is_no_weight_or_does_not_fit_is_refused() {
    let orientation = Orientation::OutputsByInputs;
    let nan = Weight::new(mat![[1.0, f64::NAN]], orientation);
    assert!(matches!(nan, Err(NumericsError::NonFinite { argument: "weight", row: 0, col: 1, .. })));
    assert!(matches!(
        Weight::new(Mat::<f64>::zeros(0, 3), orientation),
        Err(NumericsError::Empty { argument: "weight", .. })
    ));
    let mut weight = Weight::new(mat![[1.0, 2.0]], Orientation::InputsByOutputs).unwrap();
    let update = Update::from_factors(mat![[1.0]], mat![[1.0, 1.0]]).unwrap();
    assert!(matches!(weight.apply(&update, Par::Seq), Err(NumericsError::Shape { argument: "update", .. })));
}
