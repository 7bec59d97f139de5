//! Layers and statistics at rest: the same bits as in memory, whatever happens in a session.

use betaedit_core::editor::{ClosedFormEditor, Editor, METHODS, NamedRecipe, Recipe};
use betaedit_core::error::NumericsError;
use betaedit_core::faer::Par;
use betaedit_core::session::{Consolidation, EditId, Session, SessionBuilder};
use betaedit_core::{EditBatch, Method, Refresh};

use super::durability::Folder;
use super::family;
use super::model::{Stack, builder, facts, recipe, refreshes, resting_builder};

fn same(ours: &Session<Stack>, theirs: &Session<Stack>, what: &str) {
    assert_eq!(ours.adapter().W, theirs.adapter().W, "{what}");
    assert!(ours.states().eq(theirs.states()), "{what}");
    assert_eq!(ours.report(), theirs.report(), "{what}");
    for (layer, _) in theirs.states() {
        assert_eq!(ours.gauges(layer), theirs.gauges(layer), "{what}");
        assert_eq!(ours.total(layer).unwrap(), theirs.total(layer).unwrap(), "{what}");
    }
}

/// Runs edits, an undo, a consolidation, a replacement and a new opening, and compares with a session in memory all along.
///
/// * `builder_of`: the session's
/// * `pause`: what happens between them
fn goes_as_in_memory(
    refresh: Refresh,
    builder_of: impl Fn(usize, Recipe) -> SessionBuilder<NamedRecipe>,
    pause: impl Fn(&mut Session<Stack>),
) -> (Folder, [Session<Stack>; 2]) {
    let (folder, stream, more) = (Folder::new("rest"), facts(61, 14), facts(62, 3));
    let open = || {
        let builder = builder_of(3, recipe(refresh)).directory(folder.path()).snapshot_every(5);
        builder.open(Stack::new(3), Par::Seq).unwrap()
    };
    let mut reference = builder(3, recipe(refresh)).open(Stack::new(3), Par::Seq).unwrap();
    let mut session = open();
    for (i, batch) in stream.chunks(3).enumerate() {
        pause(&mut session);
        same(&session, &reference, &format!("{refresh:?}, before batch {i}"));
        let outcomes = [&mut session, &mut reference].map(|session| format!("{:?}", session.edit(batch).unwrap()));
        assert_eq!(outcomes[0], outcomes[1], "{refresh:?}, batch {i}");
        same(&session, &reference, &format!("{refresh:?}, batch {i}"));
        pause(&mut session);
        match i {
            1 => assert_eq!(session.undo(&[EditId(2)]).unwrap(), reference.undo(&[EditId(2)]).unwrap()),
            2 => {
                let settings = Consolidation::default().with_passes(1);
                assert_eq!(session.consolidate(&settings).unwrap(), reference.consolidate(&settings).unwrap());
            }
            3 => {
                for session in [&mut session, &mut reference] {
                    session.replace(&[EditId(4)], &more).unwrap().applied().unwrap();
                }
                pause(&mut session);
                // As after a crash.
                drop(session);
                session = open();
            }
            _ => {}
        }
        same(&session, &reference, &format!("{refresh:?}, after batch {i}"));
    }
    (folder, [session, reference])
}

#[test]
fn a_session_whose_layers_rest_is_bit_for_bit_one_in_memory() {
    for refresh in refreshes() {
        goes_as_in_memory(refresh, resting_builder, |_| {});
    }
}

#[test]
fn a_session_that_is_put_away_goes_on_with_the_same_bits() {
    for refresh in refreshes() {
        let (_folder, [mut session, mut reference]) =
            goes_as_in_memory(refresh, builder, |session| session.put_away(std::env::temp_dir()).unwrap());
        session.snapshot().unwrap();
        let more = facts(64, 2);
        let outcomes = [&mut session, &mut reference].map(|session| format!("{:?}", session.edit(&more).unwrap()));
        assert_eq!(outcomes[0], outcomes[1]);
        let error = session.put_away(std::env::temp_dir().join("betaedit-nowhere")).unwrap_err().to_string();
        assert!(error.contains("betaedit-nowhere"), "{error}");
        same(&session, &reference, "where nothing can be put away");
    }
}

/// Every kind of state that an editor has.
#[test]
fn a_proposal_made_before_its_editor_rested_is_still_good() {
    let stack = Stack::new(1);
    for entry in METHODS {
        let recipe = family::recipe(entry.name());
        let (moment, spectrum) = super::model::statistics(&stack, 0);
        let statistics = super::model::known(moment, spectrum);
        let new = || ClosedFormEditor::<f64>::with_statistics(entry.name(), recipe, &statistics, Par::Seq).unwrap();
        let (mut ours, mut theirs) = (new(), new());
        let mut random = crate::common::Random::new(63);
        for _ in 0..3 {
            let (K, R) = (random.matrix(theirs.d_in(), 2), random.matrix(5, 2));
            let batch = EditBatch::new(K.as_ref(), R.as_ref()).unwrap();
            let proposal = ours.propose(&batch).unwrap();
            let mut file = Vec::new();
            ours.write_matrices(&mut file).unwrap();
            ours.drop_matrices();
            let Err(NumericsError::AtRest(error)) = ours.product(K.as_ref()) else {
                panic!("{} has a Q", entry.name())
            };
            assert!(error.to_string().contains("read them first"), "{error}");
            assert!(ours.read_matrices(&mut &file[..file.len() / 2]).is_err());
            assert!(ours.propose(&batch).is_err() && ours.write_matrices(&mut Vec::new()).is_err());
            ours.read_matrices(&mut &file[..]).unwrap();
            ours.commit(proposal).unwrap();
            let update = theirs.edit(&batch).unwrap();
            assert_eq!(update.edits(), 2);
            assert_eq!(ours.product(K.as_ref()).unwrap(), theirs.product(K.as_ref()).unwrap(), "{}", entry.name());
            let _ = (ours.refresh_if_due().unwrap(), theirs.refresh_if_due().unwrap());
            let saved = |editor: &ClosedFormEditor<f64>| {
                let mut bytes = Vec::new();
                editor.save(&mut bytes).unwrap();
                bytes
            };
            assert_eq!(saved(&ours), saved(&theirs), "{}", entry.name());
        }
    }
}

/// Where nothing can be put away, it stays in memory, or is an error at once.
#[test]
fn a_directory_that_is_not_there_is_an_error_before_the_first_edit() {
    let (moment, spectrum) = super::model::statistics(&Stack::new(1), 0);
    let nowhere = std::env::temp_dir().join("betaedit-nowhere");
    let Err(error) = super::model::known(moment, spectrum).at_rest(&nowhere) else { panic!("nothing is there") };
    assert!(error.to_string().contains("betaedit-nowhere"), "{error}");
    let refused = builder(1, recipe(refreshes()[0])).layers_at_rest(&nowhere).open(Stack::new(1), Par::Seq);
    let error = refused.map(drop).unwrap_err().to_string();
    assert!(error.contains("betaedit-nowhere"), "{error}");
}

/// A method by its name and by its recipe starts from statistics at rest as from those in memory.
#[test]
fn an_editor_starts_from_statistics_at_rest() {
    let (moment, spectrum) = super::model::statistics(&Stack::new(1), 0);
    let known = super::model::known(moment, spectrum);
    let resting = known.clone().at_rest(std::env::temp_dir()).unwrap();
    assert_eq!(resting.moment().unwrap().trace(), known.moment().unwrap().trace());
    assert_eq!(resting.spectrum().unwrap().vectors(), known.spectrum().unwrap().vectors());
    let method = NamedRecipe::new("betaedit", recipe(refreshes()[1]));
    let theirs = method.editor::<f64>(&known.spectrum().unwrap(), Par::Seq).unwrap();
    let ours = ClosedFormEditor::<f64>::with_statistics("betaedit", method.recipe(), &resting, Par::Seq).unwrap();
    assert_eq!(ours.inverse_gram().to_dense(), theirs.inverse_gram().to_dense());
    assert_eq!(ours.projector().unwrap().basis(), theirs.projector().unwrap().basis());
}
