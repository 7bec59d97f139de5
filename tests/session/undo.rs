//! Undo: weights and history as if the edit had never been.

use betaedit_core::editor::Hyperparameters;
use betaedit_core::editor::{Recipe, method};
use betaedit_core::faer::{Mat, Par};
use betaedit_core::projector::ProjectorBuilder;
use betaedit_core::session::Session;
use betaedit_core::{Refresh, Threshold};

use super::model::{Fact, HIDDEN, Stack, WIDTH, builder, facts, recipe, refreshes, session};
use crate::common::{distance, lu_solve};

/// The targets that edits had when they were written, and their keys: from a session of one layer whose key does not depend
/// on what is edited.
struct Written {
    K: Mat<f64>,
    V: Mat<f64>,
}

fn write(session: &mut Session<Stack>, stream: &[Fact], batch: usize) -> Written {
    let keys: Vec<Mat<f64>> = stream.iter().map(|fact| (&session.adapter().A[0] * &fact.x).map(|a| a.tanh())).collect();
    let K = Mat::from_fn(HIDDEN, stream.len(), |i, j| keys[j][(i, 0)]);
    let mut V = Mat::zeros(WIDTH, stream.len());
    for (start, facts) in (0..).step_by(batch).zip(stream.chunks(batch)) {
        // y = x + W k is asked for, so the target of W k is y - x.
        for (j, fact) in facts.iter().enumerate() {
            V.as_mut().col_mut(start + j).copy_from((&fact.y - &fact.x).col(0));
        }
        assert!(session.edit(facts).unwrap().is_applied());
    }
    Written { K, V }
}

/// The one-shot ridge solution over some of the edits: dense, no line shared with the library.
fn ridge(written: &Written, keep: &[usize], recipe: &Recipe) -> Mat<f64> {
    let stack = Stack::new(1);
    let (moment, spectrum) = super::model::statistics(&stack, 0);
    let threshold = Threshold::Directions(3 * HIDDEN / 4);
    let P = ProjectorBuilder::new(&spectrum).threshold(threshold).build(Par::Seq).unwrap();
    let V = P.basis();
    let some = |M: &Mat<f64>| Mat::from_fn(M.nrows(), keep.len(), |i, j| M[(i, keep[j])]);
    let (K, targets) = (some(&written.K), some(&written.V));
    let mut system = V.transpose() * (moment.to_mean(Par::Seq).unwrap() * recipe.weight + &K * K.transpose()) * V;
    (0..system.nrows()).for_each(|i| system[(i, i)] += recipe.ridge);
    let right = V.transpose() * &K * (targets - &stack.W[0] * &K).transpose();
    &stack.W[0] + lu_solve(system.as_ref(), right.as_ref()).transpose() * V.transpose()
}

#[test]
fn an_undone_stream_is_the_ridge_solution_over_the_others() {
    let recipe = recipe(Refresh::Never);
    let n = 20;
    for batch in [1, 4] {
        for undone in [vec![0], vec![9], vec![19], vec![3, 17, 0, 8], vec![19, 18, 17], (0..20).collect()] {
            let mut session = session(1, Refresh::Never);
            let written = write(&mut session, &facts(11, n), batch);
            for &id in &undone {
                let outcome = session.undo(&[(id as u64).into()]).unwrap();
                assert!(!outcome.rebuilt && !session.holds((id as u64).into()));
            }
            let keep: Vec<usize> = (0..n).filter(|id| !undone.contains(id)).collect();
            let expected = if keep.is_empty() { Stack::new(1).W[0].clone() } else { ridge(&written, &keep, &recipe) };
            let error = distance(session.adapter().W[0].as_ref(), expected.as_ref());
            assert!(error < 1e-10, "batches of {batch}, undone {undone:?}: {error:e}");
            // The history forgot it as well: what follows is what would have followed.
            let more = facts(12, 3);
            let more = write(&mut session, &more, 1);
            let together = |a: &Mat<f64>, b: &Mat<f64>| {
                let kept = keep.len();
                Mat::from_fn(a.nrows(), kept + 3, |i, j| if j < kept { a[(i, keep[j])] } else { b[(i, j - kept)] })
            };
            let all = Written { K: together(&written.K, &more.K), V: together(&written.V, &more.V) };
            let expected = ridge(&all, &(0..keep.len() + 3).collect::<Vec<_>>(), &recipe);
            let error = distance(session.adapter().W[0].as_ref(), expected.as_ref());
            assert!(error < 1e-10, "edits after {undone:?}: {error:e}");
        }
    }
}

/// Without edits the weights are the first ones, bit for bit, and what follows is what a new session does.
#[test]
fn an_undo_of_every_edit_restores_the_first_weights() {
    for refresh in refreshes() {
        for steps in [vec![vec![0, 1, 2, 3, 4, 5, 6, 7]], vec![vec![6, 7, 0], vec![1, 2, 3, 4, 5]]] {
            let folder = super::durability::Folder::new("all");
            let open =
                || builder(2, recipe(refresh)).directory(folder.path()).snapshot_every(3).open(Stack::new(2), Par::Seq);
            let (mut session, mut new) = (open().unwrap(), super::model::session(2, refresh));
            facts(51, 8).chunks(2).for_each(|batch| drop(session.edit(batch).unwrap().applied().unwrap()));
            for ids in &steps {
                let ids: Vec<_> = ids.iter().map(|&id: &u64| id.into()).collect();
                session.undo(&ids).unwrap();
            }
            let is_unedited = |session: &Session<Stack>| {
                assert_eq!(session.adapter().W, Stack::new(2).W, "{refresh:?}");
                assert_eq!(session.gauges(1).unwrap().drift, 0.0);
                assert!(session.total(4).unwrap().unwrap().norm_l2() == 0.0);
            };
            is_unedited(&session);
            // From the snapshot, and from the journal alone.
            drop(session);
            is_unedited(&open().unwrap());
            std::fs::remove_file(folder.path().join("snapshot")).unwrap();
            let mut session = open().unwrap();
            is_unedited(&session);
            for fact in facts(52, 6) {
                session.edit(std::slice::from_ref(&fact)).unwrap().applied().unwrap();
                new.edit(std::slice::from_ref(&fact)).unwrap().applied().unwrap();
                assert_eq!(session.adapter().W, new.adapter().W, "{refresh:?}");
            }
            drop(session);
            std::fs::remove_file(folder.path().join("snapshot")).unwrap();
            assert_eq!(open().unwrap().adapter().W, new.adapter().W, "{refresh:?}");
        }
    }
}

#[test]
fn an_edit_cannot_be_undone_twice() {
    let mut session = session(2, Refresh::Never);
    session.edit(&facts(1, 2)).unwrap().applied().unwrap();
    session.undo(&[1.into()]).unwrap();
    let before = session.adapter().W.clone();
    assert!(session.undo(&[1.into()]).is_err() && session.undo(&[0.into(), 7.into()]).is_err());
    assert_eq!(session.adapter().W, before);
    assert!(session.holds(0.into()));
}

/// Whatever shaped the projector: without the undone edits from the start.
#[test]
fn undo_after_a_refresh_plays_the_others_again() {
    for refresh in refreshes() {
        let stream = facts(21, 14);
        let undone = [2_usize, 9];
        let mut session = session(1, refresh);
        write(&mut session, &stream, 1);
        let outcome = session.undo(&undone.map(|id| (id as u64).into())).unwrap();
        assert_eq!(outcome.rebuilt, refresh != Refresh::Never, "{refresh:?}");

        let others: Vec<Fact> =
            stream.iter().enumerate().filter(|(id, _)| !undone.contains(id)).map(|(_, fact)| fact.clone()).collect();
        let mut without = super::model::session(1, refresh);
        write(&mut without, &others, 1);
        for more in facts(22, 6) {
            let error = distance(session.adapter().W[0].as_ref(), without.adapter().W[0].as_ref());
            assert!(error < 1e-10, "{refresh:?}: {error:e}");
            assert_eq!(session.states().next().unwrap().1, without.states().next().unwrap().1);
            session.edit(std::slice::from_ref(&more)).unwrap().applied().unwrap();
            without.edit(std::slice::from_ref(&more)).unwrap().applied().unwrap();
        }
    }
}

#[test]
fn editors_without_history_take_back_the_update() {
    let mut hyperparameters = Hyperparameters::default();
    hyperparameters.lambda = 0.05;
    hyperparameters.lambda2 = 0.01;
    for name in ["memit", "alphaedit"] {
        let recipe = method(name).unwrap().recipe(&hyperparameters);
        let mut session = builder(2, recipe).open(Stack::new(2), Par::Seq).unwrap();
        let stream = facts(31, 3);
        session.edit(&stream[..1]).unwrap().applied().unwrap();
        let before = session.adapter().W.clone();
        session.edit(&stream[1..]).unwrap().applied().unwrap();
        session.undo(&[1.into(), 2.into()]).unwrap();
        for (after, before) in session.adapter().W.iter().zip(&before) {
            assert!(distance(after.as_ref(), before.as_ref()) < 1e-12, "{name}");
        }
        // The gauges follow.
        let drift = (&session.adapter().W[0] - &Stack::new(2).W[0]).norm_l2();
        assert!((session.gauges(1).unwrap().drift - drift).abs() < 1e-9 * drift, "{name}");
    }
}

/// Replacing an edit reaches the new target as a first edit would; editing again without that averages the two.
#[test]
fn a_replaced_fact_is_not_averaged_with_its_old_target() {
    let stream = facts(41, 5);
    let changed = Fact { y: &stream[2].y * -1.0, ..stream[2].clone() };
    let missed = |session: &Session<Stack>| (session.adapter().run(&changed.x) - &changed.y).norm_l2();

    let mut first = session(1, Refresh::Never);
    [0, 1, 3, 4].iter().for_each(|&i| drop(first.edit(&stream[i..=i]).unwrap()));
    first.edit(std::slice::from_ref(&changed)).unwrap().applied().unwrap();

    let mut replaced = session(1, Refresh::Never);
    stream.chunks(1).for_each(|one| drop(replaced.edit(one).unwrap()));
    let mut averaged = session(1, Refresh::Never);
    stream.chunks(1).for_each(|one| drop(averaged.edit(one).unwrap()));
    assert!(replaced.replace(&[2.into()], std::slice::from_ref(&changed)).unwrap().is_applied());
    averaged.edit(std::slice::from_ref(&changed)).unwrap().applied().unwrap();

    let (first, replaced, averaged) = (missed(&first), missed(&replaced), missed(&averaged));
    assert!(
        (replaced - first).abs() < 1e-10 * first.max(1.0) && averaged > 2.0 * first,
        "{first} {replaced} {averaged}"
    );
}
