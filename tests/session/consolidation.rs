//! Consolidation: weights that depend on the first weights and the edits alone.

use std::fs;
use std::path::Path;

use betaedit_core::error::SessionError;
use betaedit_core::faer::Par;
use betaedit_core::session::{ConflictPolicy, Consolidation, EditId, Guard, Guards, Rejection, Session};
use betaedit_core::{Error, Refresh};

use super::durability::Folder;
use super::model::{Fact, Fault, Stack, builder, facts, quiet_faults, recipe, refreshes};
use crate::common::distance;

fn ids(numbers: impl IntoIterator<Item = u64>) -> Vec<EditId> {
    numbers.into_iter().map(EditId::from).collect()
}

fn open(depth: usize, refresh: Refresh) -> Session<Stack> {
    builder(depth, recipe(refresh)).open(Stack::new(depth), Par::Seq).unwrap()
}

fn open_in(path: &Path, refresh: Refresh) -> betaedit_core::Result<Session<Stack>> {
    Ok(builder(2, recipe(refresh)).directory(path).snapshot_every(4).open(Stack::new(2), Par::Seq)?)
}

fn edit(session: &mut Session<Stack>, stream: &[Fact], batch: usize) {
    for facts in stream.chunks(batch) {
        session.edit(facts).unwrap().applied().unwrap();
    }
}

fn plain() -> Consolidation {
    Consolidation::default()
}

/// However the edits came, with others between them that were undone: the weights of a session that has seen them alone.
#[test]
fn the_weights_depend_on_the_edits_alone() {
    for refresh in refreshes() {
        let (stream, others) = (facts(1, 10), facts(2, 3));
        let mut reference = open(2, refresh);
        edit(&mut reference, &stream, 1);
        reference.consolidate(&plain()).unwrap();

        let mut session = open(2, refresh);
        edit(&mut session, &stream[..5], 5);
        edit(&mut session, &others, 1);
        session.consolidate(&plain()).unwrap();
        edit(&mut session, &stream[5..], 2);
        session.undo(&ids(5..8)).unwrap();
        let done = session.consolidate(&plain()).unwrap();
        assert_eq!(done.ids, ids((0..5).chain(8..13)));
        assert_eq!(session.adapter().W, reference.adapter().W, "{refresh:?}");
        // And what follows.
        let more = facts(3, 4);
        edit(&mut session, &more, 2);
        edit(&mut reference, &more, 2);
        assert_eq!(session.adapter().W, reference.adapter().W, "{refresh:?}");
    }
}

#[test]
fn an_undo_of_consolidated_edits_is_a_ledger_that_never_had_them() {
    for refresh in [Refresh::Never, refreshes()[5]] {
        let stream = facts(4, 12);
        let gone = [0, 3, 4, 11];
        let kept: Vec<Fact> = (0..12).filter(|i| !gone.contains(i)).map(|i| stream[i as usize].clone()).collect();
        let mut reference = open(3, refresh);
        edit(&mut reference, &kept, 1);
        reference.consolidate(&plain()).unwrap();
        let mut session = open(3, refresh);
        edit(&mut session, &stream, 3);
        session.consolidate(&plain()).unwrap();
        for &id in &gone {
            assert!(session.undo(&ids([id])).unwrap().rebuilt);
            assert!(!session.holds(id.into()));
        }
        assert_eq!(session.adapter().W, reference.adapter().W);
        assert_eq!(session.report().undone, 4);
        // All of them: the first weights.
        session.undo(&ids((0..12).filter(|id| !gone.contains(id)))).unwrap();
        assert_eq!(session.adapter().W, Stack::new(3).W);
        // What was consolidated plays no part in what follows.
        let mut new = open(3, refresh);
        for (session, first) in [(&mut session, 12), (&mut new, 0)] {
            edit(session, &stream[..3], 1);
            session.undo(&ids([first, first + 1])).unwrap();
        }
        assert_eq!(session.adapter().W, new.adapter().W);
    }
}

/// Edits behind a consolidation are undone as before: without them, the weights are the consolidated ones.
#[test]
fn edits_behind_a_consolidation_are_undone_directly() {
    for refresh in refreshes() {
        let mut session = open(1, refresh);
        edit(&mut session, &facts(5, 6), 2);
        session.consolidate(&plain()).unwrap();
        let consolidated = session.adapter().W.clone();
        edit(&mut session, &facts(6, 9), 3);
        session.undo(&ids(6..12)).unwrap();
        session.undo(&ids(12..15)).unwrap();
        let error = distance(session.adapter().W[0].as_ref(), consolidated[0].as_ref());
        assert!(error < 1e-8, "{refresh:?}: {error:e}");
    }
}

#[test]
fn a_fact_about_the_same_subject_replaces_a_consolidated_one() {
    let about = |fact: &Fact| Fact { subject: Some("Paris"), ..fact.clone() };
    let stream = facts(7, 6);
    let open = || {
        let builder = builder(2, recipe(Refresh::Never)).conflicts(ConflictPolicy::LastWins);
        builder.open(Stack::new(2), Par::Seq).unwrap()
    };
    let mut session = open();
    edit(&mut session, &[about(&stream[0])], 1);
    edit(&mut session, &stream[1..4], 1);
    session.consolidate(&plain()).unwrap();
    let applied = session.edit(&[about(&stream[4])]).unwrap().applied().unwrap();
    assert_eq!(applied.replaced, ids([0]));
    let mut reference = open();
    edit(&mut reference, &stream[1..4], 1);
    reference.consolidate(&plain()).unwrap();
    edit(&mut reference, &stream[4..5], 1);
    assert_eq!(session.adapter().W, reference.adapter().W);
}

/// Opened again at every stage, from snapshots and without them.
#[test]
fn a_directory_brings_back_what_was_consolidated() {
    for refresh in [Refresh::Never, refreshes()[3], refreshes()[5]] {
        let (folder, stream) = (Folder::new("consolidated"), facts(8, 12));
        let mut reference = open(2, refresh);
        let step = |session: &mut Session<Stack>, stage: usize| match stage {
            1 | 4 => drop(session.consolidate(&plain().with_passes(stage / 4)).unwrap()),
            3 => drop(session.undo(&ids([1, 5])).unwrap()),
            6 => drop(session.undo(&ids([8])).unwrap()),
            7 => drop(session.replace(&ids([2]), &facts(9, 1)).unwrap().applied().unwrap()),
            stage => edit(session, &stream[2 * stage..2 * stage + 2], 1),
        };
        let count = |prefix: &str| {
            let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name.to_string_lossy().starts_with(prefix)).count()
        };
        edit(&mut reference, &stream[..4], 1);
        edit(&mut open_in(folder.path(), refresh).unwrap(), &stream[..4], 1);
        for stage in 0..8 {
            step(&mut reference, stage);
            step(&mut open_in(folder.path(), refresh).unwrap(), stage);
            assert_eq!(count("consolidated-"), usize::from(stage > 0), "only the last is kept");
            let snapshot = folder.path().join("snapshot");
            let there = fs::read(&snapshot).ok();
            for with_snapshot in [true, false] {
                if !with_snapshot {
                    drop(fs::remove_file(&snapshot));
                }
                let session = open_in(folder.path(), refresh).unwrap();
                assert_eq!(session.adapter().W, reference.adapter().W, "{refresh:?}, stage {stage}");
                let gauges = |session: &Session<Stack>| [1, 4].map(|layer| session.gauges(layer).unwrap().drift);
                assert_eq!(gauges(&session), gauges(&reference));
                let counts = |session: &Session<Stack>| (session.report().applied, session.report().undone);
                assert_eq!(counts(&session), counts(&reference), "stage {stage}");
            }
            if let Some(there) = there {
                fs::write(&snapshot, there).unwrap();
            }
        }
    }
}

/// What a crash leaves before the record is in the journal, and damage to what was consolidated.
#[test]
fn a_consolidation_counts_once_it_is_in_the_journal() {
    let folder = Folder::new("consolidated-crash");
    let mut session = open_in(folder.path(), Refresh::Never).unwrap();
    edit(&mut session, &facts(10, 5), 1);
    let (before, journal) = (session.adapter().W.clone(), fs::read(folder.path().join("journal")).unwrap());
    session.consolidate(&plain()).unwrap();
    let after = session.adapter().W.clone();
    assert_ne!(before, after);
    drop(session);
    let whole = fs::read(folder.path().join("journal")).unwrap();
    let files = || -> Vec<_> {
        let paths = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("consolidated-")).collect()
    };
    let [file] = &files()[..] else { panic!("{:?}", files()) };
    let (file, contents) = (file.clone(), fs::read(file).unwrap());
    for length in journal.len()..whole.len() {
        fs::write(folder.path().join("journal"), &whole[..length]).unwrap();
        fs::write(&file, &contents).unwrap();
        assert_eq!(open_in(folder.path(), Refresh::Never).unwrap().adapter().W, before, "{length} bytes");
        assert_eq!(files().len(), 0, "what does not count is removed");
    }
    fs::write(folder.path().join("journal"), &whole).unwrap();
    let refused = |problem: &str| {
        let error = open_in(folder.path(), Refresh::Never).expect_err("it cannot be opened").to_string();
        assert!(error.contains("consolidated-") && error.contains(problem), "{error}");
    };
    fs::remove_file(folder.path().join("snapshot")).unwrap();
    refused("No such file");
    let mut damaged = contents.clone();
    damaged[contents.len() / 2] ^= 1;
    fs::write(&file, damaged).unwrap();
    refused("damaged");
    fs::write(&file, &contents).unwrap();
    assert_eq!(open_in(folder.path(), Refresh::Never).unwrap().adapter().W, after);
}

/// Whatever goes wrong, at whatever call: nothing has changed, and the run goes on.
#[test]
fn any_fault_at_any_call_of_a_consolidation_leaves_no_trace() {
    quiet_faults();
    for fault in [Fault::Error, Fault::Panic, Fault::NaN, Fault::Shape] {
        let mut tried = 0;
        for call in 1.. {
            let mut session = open(3, Refresh::Never);
            edit(&mut session, &facts(11, 4), 2);
            let before = session.adapter().W.clone();
            session.adapter().fault.set(Some((session.adapter().calls() + call, fault)));
            if session.consolidate(&plain().with_passes(1)).is_ok() {
                break;
            }
            tried += 1;
            session.adapter().fault.set(None);
            assert_eq!(session.adapter().W, before, "{fault:?} at call {call}");
            let mut reference = open(3, Refresh::Never);
            edit(&mut reference, &facts(11, 4), 2);
            for session in [&mut session, &mut reference] {
                edit(session, &facts(12, 2), 1);
                session.consolidate(&plain()).unwrap();
            }
            assert_eq!(session.adapter().W, reference.adapter().W);
        }
        // Keys, residuals and apply of three layers, and of the further pass at the last.
        assert_eq!(tried, 12, "{fault:?}");
    }
}

/// A batch that would replace a consolidated edit and fails: what was consolidated is still there to derive from.
#[test]
fn a_replacement_that_fails_leaves_what_was_consolidated() {
    quiet_faults();
    let folder = Folder::new("replacement");
    for place in [None, Some(folder.path())] {
        let builder = builder(2, recipe(refreshes()[3]));
        let builder = match place {
            None => builder,
            Some(place) => builder.directory(place),
        };
        let mut session = builder.open(Stack::new(2), Par::Seq).unwrap();
        edit(&mut session, &facts(14, 6), 2);
        session.consolidate(&plain()).unwrap();
        edit(&mut session, &facts(15, 2), 2);
        let mut reference = open(2, refreshes()[3]);
        edit(&mut reference, &facts(14, 6), 2);
        reference.consolidate(&plain()).unwrap();
        edit(&mut reference, &facts(15, 2), 2);
        // Twelve calls of the derivation, then those of the batch.
        let before = session.adapter().W.clone();
        session.adapter().fault.set(Some((session.adapter().calls() + 10, Fault::Error)));
        assert!(!session.replace(&ids([1]), &facts(16, 1)).unwrap().is_applied());
        session.adapter().fault.set(None);
        assert_eq!(session.adapter().W, before);
        for session in [&mut session, &mut reference] {
            session.undo(&ids([6])).unwrap();
            session.undo(&ids([0, 7])).unwrap();
        }
        assert_eq!(session.adapter().W, reference.adapter().W, "{place:?}");
    }
}

#[test]
fn guards_hold_for_a_consolidation_and_nothing_is_consolidated_from_nothing() {
    let mut session = open(2, Refresh::Never);
    assert!(session.consolidate(&plain()).unwrap_err().to_string().contains("edit"));
    let free = {
        edit(&mut session, &facts(13, 4), 4);
        session.consolidate(&plain()).unwrap()
    };
    let drift = free.layers[0].drift.unwrap() / free.layers[0].weight_norm;
    let guarded = builder(2, recipe(Refresh::Never)).guards(Guards::default().with_relative_drift(0.9 * drift));
    let mut session = guarded.open(Stack::new(2), Par::Seq).unwrap();
    for fact in facts(13, 4) {
        // Some of them are rejected when they come; those that are not are consolidated.
        let _ = session.edit(&[fact]).unwrap();
    }
    let before = session.adapter().W.clone();
    match session.consolidate(&plain()) {
        Ok(done) => assert!(done.layers.iter().all(|layer| layer.drift.unwrap() <= 0.9 * drift * layer.weight_norm)),
        Err(Error::Session(SessionError::Rejected(reason))) => {
            let reason = reason.downcast::<Rejection>().unwrap();
            assert!(matches!(*reason, Rejection::Guard(violation) if violation.guard == Guard::RelativeDrift));
            assert_eq!(session.adapter().W, before);
        }
        Err(error) => panic!("{error}"),
    }
}
