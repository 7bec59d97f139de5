//! nalgebra's matrices as faer's, entry by entry.

use betaedit_core::faer::{Mat, MatRef, Par};
use betaedit_core::interop::nalgebra::{
    DMatrix, DMatrixView, DVector, Dim, Dyn, Matrix, OMatrix, RawStorage, RowDVector, SMatrix, SVector, U3, U5,
};
use betaedit_core::interop::{faer_view, faer_view_mut, to_faer, to_nalgebra, to_nalgebra_vector};
use betaedit_core::{EditBatch, Orientation, Scalar, Update};

use crate::common::Random;

/// Every entry, at its place.
#[track_caller]
fn equal<T, R, C, S>(ours: MatRef<'_, T>, theirs: &Matrix<T, R, C, S>)
where
    T: Scalar,
    R: Dim,
    C: Dim,
    S: RawStorage<T, R, C>,
{
    assert_eq!(ours.shape(), theirs.shape());
    for i in 0..ours.nrows() {
        for j in 0..ours.ncols() {
            assert!(ours[(i, j)] == theirs[(i, j)], "entry ({i}, {j}) of {:?}", ours.shape());
        }
    }
}

fn numbers(rows: usize, cols: usize) -> DMatrix<f64> {
    DMatrix::from_fn(rows, cols, |i, j| (10 * i + j) as f64 + 0.5)
}

#[test]
fn contiguous_storage_is_viewed_in_place() {
    // Degenerate shapes too.
    for (rows, cols) in [(5, 3), (1, 1), (1, 7), (7, 1), (3, 0), (0, 3), (0, 0)] {
        let theirs = numbers(rows, cols);
        equal(faer_view(&theirs), &theirs);
        equal(faer_view(&theirs).transpose(), &theirs.transpose());
        assert_eq!(faer_view(&theirs).as_ptr(), theirs.as_ptr());
        equal(to_faer(&theirs).as_ref(), &theirs);
        assert_eq!(to_nalgebra(faer_view(&theirs)), theirs);
        assert_eq!(to_nalgebra(faer_view(&theirs).transpose()), theirs.transpose());
    }
    let theirs = numbers(5, 3);
    let fixed = SMatrix::<f64, 5, 3>::from_fn(|i, j| theirs[(i, j)]);
    equal(faer_view(&fixed), &theirs);
    let half_fixed = OMatrix::<f64, U5, Dyn>::from_fn(3, |i, j| theirs[(i, j)]);
    equal(faer_view(&half_fixed), &theirs);
    equal(faer_view(&half_fixed.columns(1, 2)), &theirs.columns(1, 2));
    let (vector, row) = (DVector::from_fn(4, |i, _| i as f64), RowDVector::from_fn(4, |_, j| j as f64));
    equal(faer_view(&vector), &vector);
    equal(faer_view(&row), &row);
    equal(faer_view(&SVector::<f64, 2>::new(1.0, 2.0)), &SVector::<f64, 2>::new(1.0, 2.0));
    for j in 0..3 {
        equal(faer_view(&theirs.column(j)), &theirs.column(j));
        equal(faer_view(&fixed.column(j)), &fixed.column(j));
        // A part of a column is contiguous as well.
        equal(faer_view(&theirs.column_part(j, 3)), &theirs.column_part(j, 3));
        assert_eq!(to_nalgebra_vector(faer_view(&theirs).col(j)), theirs.column(j));
    }
    assert_eq!(to_nalgebra_vector(faer_view(&theirs).row(2).transpose()), theirs.row(2).transpose());
    assert_eq!(to_nalgebra_vector(faer_view(&DVector::<f64>::zeros(0)).col(0)).len(), 0);
}

/// What nalgebra cuts with strides, faer cuts from the view of the whole.
#[test]
fn strided_parts_are_copied_or_cut_by_faer() {
    let theirs = numbers(9, 6);
    let whole = faer_view(&theirs);
    equal(to_faer(&theirs.columns(1, 4)).as_ref(), &theirs.columns(1, 4));
    equal(whole.subcols(1, 4), &theirs.columns(1, 4));
    equal(to_faer(&theirs.rows(2, 5)).as_ref(), &theirs.rows(2, 5));
    equal(whole.subrows(2, 5), &theirs.rows(2, 5));
    equal(to_faer(&theirs.view((3, 2), (4, 3))).as_ref(), &theirs.view((3, 2), (4, 3)));
    equal(whole.submatrix(3, 2, 4, 3), &theirs.view((3, 2), (4, 3)));
    equal(to_faer(&theirs.row(4)).as_ref(), &theirs.row(4));
    equal(whole.subrows(4, 1), &theirs.row(4));
    let steps = theirs.view_with_steps((0, 1), (3, 2), (2, 1));
    equal(to_faer(&steps).as_ref(), &steps);
    let strided = DMatrixView::<f64, Dyn, Dyn>::from_slice_with_strides(theirs.as_slice(), 2, 3, 3, 9);
    equal(to_faer(&strided).as_ref(), &strided);
    equal(to_faer(&theirs.fixed_view::<3, 2>(1, 1)).as_ref(), &theirs.fixed_view::<3, 2>(1, 1));
    equal(to_faer(&theirs.columns(2, 0)).as_ref(), &theirs.columns(2, 0));
    let fixed = SMatrix::<f64, 3, 3>::from_fn(|i, j| (3 * i + j) as f64);
    equal(to_faer(&fixed.fixed_rows::<2>(1)).as_ref(), &fixed.fixed_rows::<2>(1));
}

fn edited_in_place<T: Scalar + betaedit_core::interop::nalgebra::RealField>() {
    let mut random = Random::new(50);
    let update = Update::from_factors(random.matrix::<T>(4, 2), random.matrix::<T>(2, 3)).unwrap();
    let start = random.matrix::<T>(4, 3);
    let mut expected = start.clone();
    update.apply_to(expected.as_mut(), Orientation::OutputsByInputs, Par::Seq).unwrap();

    let mut dynamic = to_nalgebra(start.as_ref());
    update.apply_to(faer_view_mut(&mut dynamic), Orientation::OutputsByInputs, Par::Seq).unwrap();
    equal(expected.as_ref(), &dynamic);
    let mut fixed = SMatrix::<T, 4, 3>::from_fn(|i, j| start[(i, j)]);
    update.apply_to(faer_view_mut(&mut fixed), Orientation::OutputsByInputs, Par::Seq).unwrap();
    equal(expected.as_ref(), &fixed);
    let mut half_fixed = OMatrix::<T, Dyn, U3>::from_fn(4, |i, j| start[(i, j)]);
    update.apply_to(faer_view_mut(&mut half_fixed), Orientation::OutputsByInputs, Par::Seq).unwrap();
    equal(expected.as_ref(), &half_fixed);
    // GPT-2's orientation: the rows of the matrix are inputs.
    let mut transposed = to_nalgebra(start.transpose());
    update.apply_to(faer_view_mut(&mut transposed), Orientation::InputsByOutputs, Par::Seq).unwrap();
    let close = |a: T, b: T| (a.to_f64() - b.to_f64()).abs() <= 8.0 * T::EPSILON * (1.0 + b.to_f64().abs());
    assert!((0..4).all(|i| (0..3).all(|j| close(transposed[(j, i)], expected[(i, j)]))));
}

#[test]
fn weights_are_edited_in_place() {
    edited_in_place::<f32>();
    edited_in_place::<f64>();
    // One column of a weight, and nothing beside it.
    let mut theirs = numbers(4, 3);
    let before = theirs.clone();
    let update = Update::from_factors(Mat::full(4, 1, 1.0), Mat::full(1, 1, 2.0)).unwrap();
    update.apply_to(faer_view_mut(&mut theirs.column_mut(1)), Orientation::OutputsByInputs, Par::Seq).unwrap();
    for j in 0..3 {
        let change = if j == 1 { 2.0 } else { 0.0 };
        assert_eq!(theirs.column(j), before.column(j).add_scalar(change));
    }
    let mut none = DMatrix::<f64>::zeros(3, 0);
    assert_eq!(faer_view_mut(&mut none).shape(), (3, 0));
}

#[test]
fn batches_are_made_of_nalgebra_as_it_is() {
    let (keys, residuals) = (numbers(5, 3), numbers(2, 3));
    let batch = EditBatch::new(&keys, &residuals).unwrap();
    equal(batch.keys(), &keys);
    equal(batch.residuals(), &residuals);
    let (key, column) = (SVector::<f64, 3>::new(1.0, 2.0, 3.0), residuals.column(1));
    let single = EditBatch::single(&key, &column).unwrap();
    assert_eq!((single.keys().shape(), single.residuals().shape()), ((3, 1), (2, 1)));
    equal(single.residuals(), &residuals.column(1));
}
