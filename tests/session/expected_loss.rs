//! The gauge of the expected loss in a session.

use std::sync::Arc;

use betaedit_core::Refresh;
use betaedit_core::error::SessionError;
use betaedit_core::faer::Par;
use betaedit_core::metrics::expected_loss;
use betaedit_core::session::{Consolidation, Guard, Guards, Outcome, Rejection, Session, SessionBuilder};
use betaedit_core::{Error, SecondMoment, Update};

use super::durability::Folder;
use super::model::{Stack, WIDTH, builder, facts, recipe, statistics};
use crate::common::Random;

fn gradients(seed: u64) -> Arc<SecondMoment> {
    Arc::new(Random::new(seed).moment(WIDTH, WIDTH, 1e-2))
}

/// Two layers with gradients.
fn gauged() -> SessionBuilder<betaedit_core::editor::NamedRecipe> {
    builder(2, recipe(Refresh::Never)).gradients(1, gradients(1)).gradients(4, gradients(2))
}

fn open(builder: SessionBuilder<betaedit_core::editor::NamedRecipe>) -> betaedit_core::Result<Session<Stack>> {
    Ok(builder.open(Stack::new(2), Par::Seq)?)
}

#[test]
fn it_is_that_of_the_total_and_survives_a_restart_bit_for_bit() {
    let folder = Folder::new("expected-loss");
    let stream = facts(1, 9);
    let mut whole = open(gauged()).unwrap();
    whole.edit(&stream[..7]).unwrap().applied().unwrap();
    whole.edit(&stream[7..]).unwrap().applied().unwrap();

    let kept = || gauged().directory(folder.path()).snapshot_every(7);
    let mut session = open(kept()).unwrap();
    session.edit(&stream[..7]).unwrap().applied().unwrap();
    drop(session);
    let mut session = open(kept()).unwrap();
    assert_eq!(session.recovery().replayed, 0, "from the snapshot");
    let outcome = session.edit(&stream[7..]).unwrap().applied().unwrap();
    assert_eq!(session.expected_loss(), whole.expected_loss());
    assert_eq!(outcome.expected_loss(), session.expected_loss());

    let (moment, _) = statistics(&Stack::new(2), 1);
    let total = session.total(4).unwrap().unwrap().to_owned();
    let change = Update::from_factors(betaedit_core::faer::Mat::identity(WIDTH, WIDTH), total).unwrap();
    let expected = expected_loss(&change, &moment, &gradients(2), Par::Seq).unwrap();
    let found = session.gauges(4).unwrap().expected_loss.unwrap();
    assert!(found > 0.0 && (found - expected).abs() < 1e-10 * expected, "{found} {expected}");

    session.consolidate(&Consolidation::default()).unwrap();
    whole.consolidate(&Consolidation::default()).unwrap();
    assert_eq!(session.expected_loss(), whole.expected_loss());
    session.undo(&(0..9).map(Into::into).collect::<Vec<_>>()).unwrap();
    assert_eq!(session.expected_loss(), Some(0.0));
}

#[test]
fn without_gradients_of_every_layer_there_is_no_sum() {
    let mut session = open(builder(2, recipe(Refresh::Never)).gradients(4, gradients(2))).unwrap();
    let applied = session.edit(&facts(1, 1)).unwrap().applied().unwrap();
    assert_eq!((applied.layers[0].expected_loss, applied.expected_loss(), session.expected_loss()), (None, None, None));
    assert!(applied.layers[1].expected_loss.unwrap() > 0.0);
}

#[test]
fn a_guard_keeps_it_small() {
    let mut free = open(gauged()).unwrap();
    let stream = facts(1, 2);
    let first = free.edit(&stream[..1]).unwrap().applied().unwrap();
    let most = first.layers.iter().map(|layer| layer.expected_loss.unwrap()).fold(0.0, f64::max);
    let mut session = open(gauged().guards(Guards::default().with_expected_loss(0.5 * most))).unwrap();
    let Outcome::Rejected { reason: Rejection::Guard(violation), .. } = session.edit(&stream[..1]).unwrap() else {
        panic!("it is rejected")
    };
    assert_eq!(violation.guard, Guard::ExpectedLoss);
    assert_eq!(session.expected_loss(), Some(0.0));
    let mut session = open(gauged().guards(Guards::default().with_expected_loss(2.0 * most))).unwrap();
    session.edit(&stream[..1]).unwrap().applied().unwrap();
}

#[test]
fn what_does_not_fit_is_refused() {
    let guards = Guards::default().with_expected_loss(1.0);
    let refused = |builder: SessionBuilder<_>, what: &str| {
        let error = open(builder).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    };
    refused(builder(2, recipe(Refresh::Never)).gradients(1, gradients(1)).guards(guards), "no gradients of layer 4");
    refused(gauged().without_gauges().guards(guards), "not measured");
    refused(gauged().gradients(9, gradients(1)), "layer 9");
    refused(gauged().gradients(4, Arc::new(Random::new(1).moment(3, 3, 1e-2))), "gradients");

    // A session knows its gradients.
    let folder = Folder::new("expected-loss-identity");
    drop(open(gauged().directory(folder.path())).unwrap());
    for other in [builder(2, recipe(Refresh::Never)), gauged().gradients(4, gradients(3))] {
        let error = open(other.directory(folder.path())).unwrap_err();
        assert!(!matches!(error, Error::Session(SessionError::Setting { .. })), "{error}");
        assert!(error.to_string().contains("gradients of layer"), "{error}");
    }
}
