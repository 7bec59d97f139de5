//! Long streams: does what the engine has become still agree with a computation from scratch?
//!
//! `BETAEDIT_LONG=1` runs them at d_in = 1024 over 10,000 edits (minutes); otherwise they are smaller.

use betaedit_core::faer::{Mat, Par};
use betaedit_core::projector::ProjectorBuilder;
use betaedit_core::scalar::cast;
use betaedit_core::{BetaEdit, EditBatch, Editor, Method, Orientation, Refresh, Threshold};

use crate::common::{Random, distance, lu_solve, spectrum, textbook_update};

/// Keys of realistic and of ten times that norm, in f32: the total of the engine's updates, the solution of a dense f32
/// program at check points, and the truth.
#[test]
fn f32_holds_over_thousands_of_edits() {
    let long = std::env::var_os("BETAEDIT_LONG").is_some();
    let (d_in, d_out, edits, check_every) = if long { (1024, 64, 10_000, 1_000) } else { (192, 24, 3_000, 500) };
    for norm in [1.0, 10.0] {
        let mut random = Random::new(51);
        let moment = random.moment(d_in, d_in, 1e-4);
        let spectrum = spectrum(&moment);
        let par = Par::rayon(0);
        let (lambda1, lambda2) = (30.0, 1.0);
        let threshold = Threshold::Directions(2 * d_in / 3);
        let method = BetaEdit::default().with_lambda1(lambda1).with_lambda2(lambda2).with_threshold(threshold);
        let mut editor = method.with_refresh(Refresh::Never).editor::<f32>(&spectrum, par).unwrap();

        // Closed loop towards fixed targets, so that the one-shot ridge solution over all edits is the truth.
        let P = ProjectorBuilder::new(&spectrum).threshold(threshold).build(par).unwrap();
        let (V, dense_P) = (P.basis().to_owned(), P.to_dense(par));
        let P32 = cast::<f64, f32>(dense_P.as_ref());
        let C = moment.to_mean(par).unwrap() * betaedit_core::faer::Scale(lambda1);
        let mut A32 = cast::<f64, f32>(C.as_ref());
        let mut total = Mat::<f64>::zeros(d_out, d_in);
        let mut weight = Mat::<f32>::zeros(d_out, d_in);
        let (mut normal, mut right) = (V.transpose() * &C * &V, Mat::<f64>::zeros(V.ncols(), d_out));
        (0..normal.nrows()).for_each(|i| normal[(i, i)] += lambda2);
        let (mut H, mut worst) = (C.clone(), (0.0_f64, 0.0_f64));
        for t in 1..=edits {
            let scale = norm * (3.0 / d_in as f64).sqrt();
            let k = Mat::<f32>::from_fn(d_in, 1, |_, _| (random.normal() * scale) as f32);
            let v = random.matrix::<f64>(d_out, 1);
            let k64 = cast::<f32, f64>(k.as_ref());
            let r = cast::<f64, f32>((&v - &total * &k64).as_ref());
            let batch = EditBatch::new(k.as_ref(), r.as_ref()).unwrap();
            if t % check_every == 0 {
                let update = editor.propose(&batch).unwrap().update().cast::<f64>().unwrap().to_dense(par);
                let r64 = cast::<f32, f64>(r.as_ref());
                let truth = textbook_update(dense_P.as_ref(), H.as_ref(), lambda2, k64.as_ref(), r64.as_ref());
                let dense = textbook_update(P32.as_ref(), A32.as_ref(), lambda2, k.as_ref(), r.as_ref());
                let ours = distance(update.as_ref(), truth.as_ref());
                let theirs = distance(cast::<f32, f64>(dense.as_ref()).as_ref(), truth.as_ref());
                assert!(ours <= theirs && ours < 1e-6, "edit {t}, norm {norm}: {ours:e}, dense f32 {theirs:e}");
                worst = (worst.0.max(ours), worst.1.max(theirs));
            }
            let update = editor.edit(&batch).unwrap();
            total += update.cast::<f64>().unwrap().to_dense(par);
            update.apply_to(weight.as_mut(), Orientation::OutputsByInputs, par).unwrap();
            // What each of the three others knows of the past.
            let target = cast::<f32, f64>(r.as_ref()) + (&total - update.cast::<f64>().unwrap().to_dense(par)) * &k64;
            let coordinates = V.transpose() * &k64;
            normal += &coordinates * coordinates.transpose();
            right += &coordinates * target.transpose();
            H += &k64 * k64.transpose();
            A32 += &k * k.transpose();
        }
        let one_shot = lu_solve(normal.as_ref(), right.as_ref()).transpose() * V.transpose();
        let error = distance(total.as_ref(), one_shot.as_ref());
        let of_weight = distance(cast::<f32, f64>(weight.as_ref()).as_ref(), one_shot.as_ref());
        println!(
            "d_in {d_in}, {edits} edits, keys of norm {:.1}: total {error:.1e}, as an f32 weight {of_weight:.1e} off; \
             worst update {:.1e}, by a dense f32 solve {:.1e}",
            norm * 3.0_f64.sqrt(),
            worst.0,
            worst.1
        );
        let drift = editor.inverse_gram().measure_drift();
        println!("drift of Q {drift:.1e}");
        assert!(drift < 1e-6, "{drift:e}");
        assert!(error < 1e-6, "norm {norm}: {error:e}");
        assert!(of_weight < 1e-4, "norm {norm}: {of_weight:e}");
    }
}
