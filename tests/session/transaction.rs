//! All layers or none; guards; conflicts; who is told.

use std::sync::{Arc, Mutex};

use betaedit_core::editor::NamedRecipe;
use betaedit_core::editor::Share;
use betaedit_core::error::{ModelError, NumericsError, SessionError};
use betaedit_core::faer::Par;
use betaedit_core::session::{
    Applied, ConflictPolicy, Guard, Guards, JsonLines, Observer, Outcome, Progress, ProgressLine, Rejection, Violation,
};
use betaedit_core::{Error, Refresh};

use super::model::{Fact, Fault, Stack, builder, fact, facts, quiet_faults, recipe, refreshes, session};
use crate::common::Random;

fn missed(stack: &Stack, fact: &Fact) -> f64 {
    (stack.run(&fact.x) - &fact.y).norm_l2()
}

#[test]
fn facts_are_spread_over_the_layers_and_hold() {
    for share in [Share::Even, Share::SquareRoot] {
        let mut session = builder(3, recipe(Refresh::Never)).share(share).open(Stack::new(3), Par::Seq).unwrap();
        let facts = facts(1, 6);
        let before: f64 = facts.iter().map(|fact| missed(session.adapter(), fact)).sum();
        for batch in facts.chunks(2) {
            let outcome = session.edit(batch).unwrap();
            let Outcome::Applied(Applied { layers, .. }) = &outcome else { panic!("{outcome}") };
            assert_eq!(layers.iter().map(|layer| layer.layer).collect::<Vec<_>>(), [1, 4, 7]);
            assert!(layers.iter().all(|layer| layer.update_norm > 0.0 && layer.drift.unwrap() > 0.0));
        }
        let after: f64 = facts.iter().map(|fact| missed(session.adapter(), fact)).sum();
        assert!(after < 0.25 * before, "{share:?}: {before} -> {after}");
        assert_eq!((session.processed(), session.report().applied), (6, 6));
        assert!(session.states().all(|(_, state)| state.edits == 6));
    }
}

/// Whatever goes wrong, at whatever call, leaves weights and editors as they were: the stream goes on as if the faulty batch
/// had never been tried.
#[test]
fn any_fault_at_any_call_leaves_no_trace() {
    quiet_faults();
    for refresh in [Refresh::Never, refreshes()[5]] {
        let stream = facts(2, 8);
        let mut reference = session(3, refresh);
        for batch in stream.chunks(2) {
            assert!(reference.edit(batch).unwrap().is_applied());
        }
        for fault in [Fault::Error, Fault::Panic, Fault::NaN, Fault::Shape] {
            let mut tried = 0;
            for call in 1.. {
                let mut session = session(3, refresh);
                for batch in stream[..4].chunks(2) {
                    session.edit(batch).unwrap().applied().unwrap();
                }
                let before = session.adapter().W.clone();
                let at = session.adapter().calls() + call;
                session.adapter().fault.set(Some((at, fault)));
                let outcome = session.edit(&facts(3, 2)).unwrap();
                if outcome.is_applied() {
                    break;
                }
                tried += 1;
                let Outcome::Rejected { reason: Rejection::Failed { .. }, .. } = outcome else { panic!("{outcome}") };
                assert_eq!(session.adapter().W, before);
                for batch in stream[4..].chunks(2) {
                    assert!(session.edit(batch).unwrap().is_applied());
                }
                assert_eq!(session.adapter().W, reference.adapter().W, "{fault:?} at call {call}");
                assert_eq!(session.report().rejected, 2);
            }
            // Keys, residuals and apply of three layers.
            assert_eq!(tried, 9, "{fault:?}");
        }
    }
}

#[test]
fn every_guard_rejects_one_batch_and_lets_the_run_go_on() {
    let tight = 1e-9;
    for (guards, expected) in [
        (Guards::default().with_update_norm(tight), Guard::UpdateNorm),
        (Guards::default().with_relative_update_norm(tight), Guard::RelativeUpdateNorm),
        (Guards::default().with_leakage(tight), Guard::Leakage),
        (Guards::default().with_relative_drift(tight), Guard::RelativeDrift),
        (Guards::default().with_stability(tight), Guard::Stability),
    ] {
        let mut session = builder(2, recipe(Refresh::Never)).guards(guards).open(Stack::new(2), Par::Seq).unwrap();
        let before = session.adapter().W.clone();
        match session.edit(&facts(1, 1)).unwrap() {
            Outcome::Rejected { reason: Rejection::Guard(Violation { layer: 1, guard, value, limit, .. }), .. } => {
                assert_eq!((guard, limit), (expected, tight));
                assert!(value > limit);
            }
            other => panic!("{expected:?}: {other}"),
        }
        assert_eq!(session.adapter().W, before);
        // A residual of zero passes all guards but that of the key itself.
        let x = facts(4, 1).remove(0).x;
        let nothing = Fact { y: session.adapter().run(&x), x, subject: None };
        assert_eq!(session.edit(&[nothing]).unwrap().is_applied(), expected != Guard::Stability);
    }
    // A limit on the total is met by the edit that would pass it, not by the first.
    let mut free = session(1, Refresh::Never);
    let mut relative_drift = None;
    for fact in facts(1, 4) {
        let Outcome::Applied(Applied { layers, .. }) = free.edit(&[fact]).unwrap() else {
            panic!("nothing is guarded")
        };
        relative_drift = Some(layers[0].drift.unwrap() / layers[0].weight_norm);
    }
    let guards = Guards::default().with_relative_drift(relative_drift);
    let mut session = builder(1, recipe(Refresh::Never)).guards(guards).open(Stack::new(1), Par::Seq).unwrap();
    let applied: Vec<bool> = facts(1, 12).chunks(1).map(|one| session.edit(one).unwrap().is_applied()).collect();
    assert!(applied[..4].iter().all(|&applied| applied) && !applied[4..].iter().all(|&applied| applied), "{applied:?}");
    let refused = Guards::default().with_leakage(f64::NAN);
    assert!(matches!(
        builder(1, recipe(Refresh::Never)).guards(refused).open(Stack::new(1), Par::Seq).map_err(Error::from),
        Err(Error::Numerics(NumericsError::Parameter { parameter: "leakage", .. }))
    ));
}

#[test]
fn capacity_is_guarded() {
    let guards = Guards::default().with_used_capacity(0.0);
    let mut session = builder(1, recipe(Refresh::Continuous { weight: 1e6 }));
    session = session.guards(guards);
    let mut session = session.open(Stack::new(1), Par::Seq).unwrap();
    let outcomes: Vec<_> = facts(1, 3).chunks(1).map(|one| session.edit(one).unwrap()).collect();
    let guarded = |outcome: &Outcome| {
        matches!(
            outcome,
            Outcome::Rejected { reason: Rejection::Guard(Violation { guard: Guard::UsedCapacity, .. }), .. }
        )
    };
    assert!(outcomes.iter().all(guarded), "{outcomes:?}");
}

/// Two facts of one subject, and one whose key is nearly that of another.
fn contradictions() -> (Fact, Fact, Fact, Fact) {
    let mut random = Random::new(9);
    let mut a = fact(&mut random);
    a.subject = Some("Lyon");
    let mut same_subject = fact(&mut random);
    same_subject.subject = Some(" lyon");
    let other = fact(&mut random);
    let mut near = Fact { y: random.matrix(10, 1), ..other.clone() };
    near.x[(0, 0)] += 1e-6;
    (a, same_subject, other, near)
}

#[test]
fn conflicts_are_found_within_a_batch_and_against_the_past() {
    let (a, same_subject, other, near) = contradictions();
    let open = |policy| builder(2, recipe(Refresh::Never)).conflicts(policy).open(Stack::new(2), Par::Seq).unwrap();
    let conflicts = |outcome: &Outcome| match outcome {
        Outcome::Applied(Applied { conflicts, .. }) => {
            conflicts.iter().map(|c| (c.edit.0, c.with.0, c.same_subject)).collect()
        }
        _ => vec![],
    };

    let mut session = open(ConflictPolicy::Report);
    let outcome = session.edit(&[a.clone(), other.clone(), same_subject.clone(), near.clone()]).unwrap();
    assert_eq!(conflicts(&outcome), [(2, 0, true), (3, 1, false)]);
    let outcome = session.edit(std::slice::from_ref(&near)).unwrap();
    assert_eq!(conflicts(&outcome), [(4, 1, false), (4, 3, false)]);
    assert_eq!(conflicts(&session.edit(&facts(30, 3)).unwrap()), []);

    let mut session = open(ConflictPolicy::Reject);
    assert!(session.edit(&[a.clone(), other.clone()]).unwrap().is_applied());
    let before = session.adapter().W.clone();
    for one in [&same_subject, &near] {
        let Outcome::Rejected { reason: Rejection::Conflict(conflict), .. } =
            session.edit(std::slice::from_ref(one)).unwrap()
        else {
            panic!("a conflict was let pass")
        };
        assert!(conflict.same_subject || conflict.cosine > 0.99);
    }
    assert_eq!(session.adapter().W, before);

    // Merged: one column, with the mean of the two.
    let mut session = open(ConflictPolicy::Merge);
    assert!(session.edit(&[other.clone(), near.clone()]).unwrap().is_applied());
    let mean = Fact { y: (&other.y + &near.y) * 0.5, ..other.clone() };
    let mut alone = open(ConflictPolicy::Report);
    alone.edit(std::slice::from_ref(&mean)).unwrap().applied().unwrap();
    for (merged, alone) in session.adapter().W.iter().zip(&alone.adapter().W) {
        assert!((merged - alone).norm_l2() < 1e-5 * alone.norm_l2());
    }
    // They stay together: one cannot be undone without the other.
    assert_eq!(session.undo(&[0.into()]).unwrap().ids, [0.into(), 1.into()]);

    // The last wins, in a batch and against the past.
    let mut session = open(ConflictPolicy::LastWins);
    session.edit(&[other.clone(), near.clone()]).unwrap().applied().unwrap();
    let mut alone = open(ConflictPolicy::Report);
    alone.edit(std::slice::from_ref(&near)).unwrap().applied().unwrap();
    assert_eq!(session.adapter().W, alone.adapter().W);
    assert!(!session.holds(0.into()) && session.holds(1.into()));
    let outcome = session.edit(std::slice::from_ref(&other)).unwrap();
    let Outcome::Applied(Applied { replaced, .. }) = &outcome else { panic!("{outcome}") };
    assert_eq!(*replaced, [1.into()]);
    assert!(!session.holds(1.into()) && session.holds(2.into()));
    assert_eq!((session.report().applied, session.report().undone), (3, 1));
}

/// A batch that would replace an edit and is rejected leaves that edit where it was.
#[test]
fn a_rejected_replacement_takes_nothing_back() {
    for refresh in refreshes() {
        let stream = facts(6, 9);
        let [mut session, mut reference] = [(); 2].map(|()| session(2, refresh));
        for batch in stream[..6].chunks(1) {
            session.edit(batch).unwrap().applied().unwrap();
            reference.edit(batch).unwrap().applied().unwrap();
        }
        let at = session.adapter().calls() + 6;
        session.adapter().fault.set(Some((at, Fault::Error)));
        let outcome = session.replace(&[2.into()], &stream[..1]).unwrap();
        assert!(!outcome.is_applied() && session.holds(2.into()), "{refresh:?}: {outcome}");
        for batch in stream[6..].chunks(1) {
            session.edit(batch).unwrap().applied().unwrap();
            reference.edit(batch).unwrap().applied().unwrap();
        }
        assert_eq!(session.adapter().W, reference.adapter().W, "{refresh:?}");
    }
}

#[derive(Clone, Default)]
pub struct Shared(pub Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(bool, u64, u64)>>>);

impl Observer for Seen {
    fn outcome(&mut self, outcome: &Outcome, progress: &Progress) {
        self.0.lock().unwrap().push((outcome.is_applied(), progress.processed, progress.rejected));
    }
}

#[test]
fn observers_see_every_outcome() {
    let limited = || {
        let guards = Guards::default().with_update_norm(100.0);
        builder(1, recipe(Refresh::Never)).guards(guards)
    };
    let mut far = facts(1, 1).remove(0);
    far.y *= 1e3;
    let stream = [facts(2, 1).remove(0), far, facts(3, 1).remove(0)];
    let run = |observer: Box<dyn FnOnce(betaedit_core::session::SessionBuilder<NamedRecipe>) -> _>| {
        let builder: betaedit_core::session::SessionBuilder<NamedRecipe> = observer(limited());
        let mut session = builder.open(Stack::new(1), Par::Seq).unwrap();
        stream.iter().for_each(|fact| drop(session.edit(std::slice::from_ref(fact)).unwrap()));
    };
    let (seen, lines, bar) = (Seen::default(), Shared::default(), Shared::default());
    let (a, b, c) = (seen.clone(), JsonLines(lines.clone()), ProgressLine::new(bar.clone(), Some(3)));
    run(Box::new(move |builder| builder.observer(a)));
    run(Box::new(move |builder| builder.observer(b)));
    run(Box::new(move |builder| builder.observer(c)));
    assert_eq!(*seen.0.lock().unwrap(), [(true, 1, 0), (false, 2, 1), (true, 3, 1)]);

    let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!((&lines[0]["outcome"], &lines[1]["outcome"]), (&"applied".into(), &"rejected".into()));
    assert!(lines[0]["layers"][0]["drift"].as_f64().unwrap() > 0.0);
    assert!(lines[1]["reason"].as_str().unwrap().contains("norm of the update"));

    let bar = String::from_utf8(bar.0.lock().unwrap().clone()).unwrap();
    assert!(bar.contains("3/3") && bar.contains("1 rejected") && bar.contains("drift") && bar.ends_with('\n'), "{bar}");
}

#[test]
fn what_cannot_be_a_session_is_refused() {
    let open = |builder: betaedit_core::session::SessionBuilder<NamedRecipe>| {
        builder.open(Stack::new(2), Par::Seq).map(|_| ()).map_err(Error::from)
    };
    let usual = || builder(2, recipe(Refresh::Never));
    assert!(matches!(
        open(usual().snapshot_every(0)),
        Err(Error::Numerics(NumericsError::Parameter { parameter: "snapshot_every", .. }))
    ));
    assert!(matches!(open(usual().parallel_from(0.5)), Err(Error::Numerics(NumericsError::Parameter { .. }))));
    let unknown = builder(3, recipe(Refresh::Never));
    assert!(matches!(open(unknown), Err(Error::Model(ModelError::UnknownLayer { layer: 7, .. }))));
    let mut session = session(2, Refresh::Never);
    assert!(matches!(session.edit(&[]), Err(Error::Numerics(NumericsError::Empty { argument: "requests", .. }))));
    assert!(matches!(session.undo(&[]), Err(Error::Numerics(NumericsError::Empty { argument: "ids", .. }))));
    assert!(matches!(
        session.undo(&[0.into()]),
        Err(Error::Session(SessionError::UnknownEdit { id: 0, processed: 0 }))
    ));
}
