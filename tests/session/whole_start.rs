//! Sessions whose statistics have no spectrum.

use betaedit_core::faer::Par;
use betaedit_core::session::{Session, SessionBuilder};
use betaedit_core::{Adapter, BetaEdit, KeyStatistics, Memit};

use super::model::{Stack, facts, known, statistics};
use crate::common::distance;

/// MEMIT over two layers, with history, from statistics with a spectrum or without.
fn builder(decomposed: bool) -> SessionBuilder<Memit> {
    let stack = Stack::new(2);
    let method = Memit::default().with_lambda(0.5).with_history(betaedit_core::editor::History::Absorbed);
    (0..2).fold(SessionBuilder::new(method), |builder, at| {
        let (moment, spectrum) = statistics(&stack, at);
        let statistics = if decomposed { known(moment, spectrum) } else { KeyStatistics::from_moment(moment) };
        builder.layer(stack.layers()[at], statistics)
    })
}

fn same(one: &Session<Stack>, other: &Session<Stack>) {
    for (one, other) in one.adapter().W.iter().zip(&other.adapter().W) {
        let error = distance(one.as_ref(), other.as_ref());
        assert!(error < 1e-8, "{error:e}");
    }
}

#[test]
fn edits_and_undo_are_those_of_a_session_with_a_spectrum() {
    let mut sessions = [false, true].map(|decomposed| builder(decomposed).open(Stack::new(2), Par::Seq).unwrap());
    for session in &mut sessions {
        for facts in facts(3, 9).chunks(3) {
            assert!(session.edit(facts).unwrap().is_applied());
        }
    }
    same(&sessions[0], &sessions[1]);
    for session in &mut sessions {
        assert_eq!(session.undo(&[1.into(), 7.into()]).unwrap().ids.len(), 2);
    }
    same(&sessions[0], &sessions[1]);
    let layer = Stack::new(2).layers()[0];
    let [ours, theirs] = sessions.each_ref().map(|session| session.gauges(layer).unwrap().leakage);
    assert!((ours - theirs).abs() < 1e-7 * theirs);
    for session in &mut sessions {
        session.consolidate(&Default::default()).unwrap();
    }
    same(&sessions[0], &sessions[1]);
}

/// The two starts differ by rounding, so a session does not change from one to the other.
#[test]
fn a_directory_keeps_its_kind_of_start() {
    let folder = tempfile::tempdir().unwrap();
    let open = |decomposed| builder(decomposed).directory(folder.path()).open(Stack::new(2), Par::Seq);
    assert!(open(false).unwrap().edit(&facts(3, 2)).unwrap().is_applied());
    assert_eq!(open(false).unwrap().processed(), 2);
    let refused = open(true).unwrap_err().to_string();
    assert!(refused.contains("without a spectrum"), "{refused}");
}

#[test]
fn a_method_of_the_null_space_needs_the_spectrum() {
    let stack = Stack::new(1);
    let statistics = KeyStatistics::from_moment(statistics(&stack, 0).0);
    let builder = SessionBuilder::new(BetaEdit::default()).layer(stack.layers()[0], statistics);
    let refused = builder.open(Stack::new(1), Par::Seq).unwrap_err().to_string();
    assert!(refused.contains("without the spectrum"), "{refused}");
}
