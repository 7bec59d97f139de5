//! Batches from every form of columns.

use betaedit_core::batch::IntoColumns;
use betaedit_core::error::{NumericsError, Shape};
use betaedit_core::faer::{Mat, MatRef};
use betaedit_core::{EditBatch, Scalar};

use crate::common::Random;

/// The batch of these columns, whatever they come as.
#[track_caller]
fn same<'a, T: Scalar>(
    keys: impl IntoColumns<'a, T>,
    residuals: impl IntoColumns<'a, T>,
    (expected_keys, expected_residuals): (MatRef<'_, T>, MatRef<'_, T>),
) {
    let batch = EditBatch::new(keys, residuals).unwrap();
    assert_eq!((batch.keys(), batch.residuals()), (expected_keys, expected_residuals));
    assert_eq!(batch.len(), expected_keys.ncols());
}

fn every_form<T: Scalar>() {
    let mut random = Random::new(40);
    let (mut K, R) = (random.matrix::<T>(5, 3), random.matrix::<T>(2, 3));
    let (copy, expected) = (K.clone(), R.clone());
    let whole = (copy.as_ref(), expected.as_ref());
    same(K.as_ref(), R.as_ref(), whole);
    same(&K, &R, whole);
    same(&K.as_mut(), R.as_ref(), whole);
    // Views with any strides: a transpose, rows in reverse, every other column.
    let (KT, RT) = (K.transpose().to_owned(), R.transpose().to_owned());
    same(KT.transpose(), RT.transpose(), whole);
    let reversed = Mat::from_fn(5, 3, |i, j| K[(4 - i, j)]);
    same(reversed.as_ref().reverse_rows(), &R, whole);

    let first = (whole.0.subcols(1, 1), whole.1.subcols(1, 1));
    let (k, r): (Vec<T>, Vec<T>) = (K.col(1).iter().copied().collect(), R.col(1).iter().copied().collect());
    let array = [r[0], r[1]];
    same(K.col(1), R.col(1), first);
    same(&K.col(1).to_owned(), &R.col(1).to_owned(), first);
    same(KT.row(1).transpose(), &r, first);
    same(&k, &array, first);
    same(&k[..], &r[..], first);
    same(K.subcols(1, 1), &array, first);
    let single = EditBatch::single(&k, R.col(1)).unwrap();
    assert_eq!((single.keys(), single.residuals(), single.len()), (first.0, first.1, 1));
    let context = single.with_context(&K).unwrap();
    assert_eq!(context.context(), Some(whole.0));

    let flat = |matrix: &Mat<T>| matrix.col_iter().flat_map(|column| column.iter().copied()).collect::<Vec<T>>();
    let (keys, residuals) = (flat(&K), flat(&R));
    let batch = EditBatch::from_slices(&keys, 5, &residuals, 2).unwrap();
    assert_eq!((batch.keys(), batch.residuals()), whole);
}

#[test]
fn every_form_of_columns_gives_the_same_batch() {
    every_form::<f32>();
    every_form::<f64>();
}

/// A type of one's own can be a batch as well.
#[test]
fn strangers_can_bring_their_own_columns() {
    struct Activation {
        numbers: Vec<f64>,
    }
    impl<'a> IntoColumns<'a, f64> for &'a Activation {
        fn into_columns(self) -> MatRef<'a, f64> {
            self.numbers.as_slice().into_columns()
        }
    }
    let activation = Activation { numbers: vec![1.0, 2.0] };
    assert_eq!(
        EditBatch::single(&activation, &[3.0]).unwrap().keys(),
        MatRef::from_column_major_slice(&[1.0, 2.0], 2, 1)
    );
}

#[test]
fn what_is_no_batch_is_refused() {
    let (K, R) = (Mat::<f64>::zeros(3, 2), Mat::<f64>::zeros(4, 2));
    let refused = EditBatch::single(&K, &R).unwrap_err();
    let (one, two) = (Shape { rows: 3, cols: 1 }, Shape { rows: 3, cols: 2 });
    assert!(
        matches!(refused, NumericsError::Shape { argument: "keys", expected, found } if (expected, found) == (one, two))
    );
    let refused = EditBatch::single(K.col(0), &R).unwrap_err();
    assert!(matches!(refused, NumericsError::Shape { argument: "residuals", .. }), "{refused}");
    let none: &[f64] = &[];
    assert!(matches!(EditBatch::single(none, &[1.0]), Err(NumericsError::Empty { argument: "keys", .. })));
    assert!(matches!(EditBatch::single(&[1.0], none), Err(NumericsError::Empty { argument: "residuals", .. })));
    let numbers = [0.0; 6];
    for (d_in, d_out, parameter) in [(4, 2, "d_in"), (0, 2, "d_in"), (3, 5, "d_out"), (7, 2, "d_in")] {
        let refused = EditBatch::from_slices(&numbers, d_in, &numbers, d_out).unwrap_err();
        assert!(
            matches!(refused, NumericsError::Parameter { parameter: found, .. } if found == parameter),
            "{refused}"
        );
    }
    let refused = EditBatch::from_slices(&numbers, 3, &numbers, 2).unwrap_err();
    assert!(matches!(refused, NumericsError::Shape { argument: "residuals", .. }), "{refused}");
    assert!(matches!(EditBatch::from_slices(none, 3, &numbers, 2), Err(NumericsError::Empty { argument: "keys", .. })));
}
