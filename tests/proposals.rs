//! Which of several proposals of one state can be committed.

use std::sync::Arc;

use betaedit_core::editor::{ClosedFormEditor, History, Hyperparameters, METHODS, Recipe, Space};
use betaedit_core::error::NumericsError;
use betaedit_core::faer::{Mat, Par};
use betaedit_core::projector::HistoryWeighting;
use betaedit_core::{EditBatch, Editor, Method, Proposal, Refresh, RefreshRule, Spectrum, Threshold};

use crate::common::Random;

const D_IN: usize = 12;
const D_OUT: usize = 4;

fn statistics(random: &mut Random) -> Arc<Spectrum> {
    Arc::new(Spectrum::new(&random.moment(D_IN, D_IN, 1e-2), Par::Seq).unwrap())
}

/// Whether two proposals are equal to the last bit.
fn equal(a: &Proposal<f64>, b: &Proposal<f64>) -> bool {
    let factors = a.update().left() == b.update().left() && a.update().right() == b.update().right();
    factors && a.gains() == b.gains() && a.directions_taken() == b.directions_taken()
}

/// Commits two proposals of one state. The second is taken exactly if it is what the editor would propose afresh.
fn commit_two(mut editor: ClosedFormEditor<f64>, random: &mut Random) -> bool {
    let [a, b] = [1, 3].map(|n| (random.matrix::<f64>(D_IN, n), random.matrix::<f64>(D_OUT, n)));
    let [a, b] = [&a, &b].map(|(K, R)| EditBatch::new(K.as_ref(), R.as_ref()).unwrap());
    let (first, second) = (editor.propose(&a).unwrap(), editor.propose(&b).unwrap());
    editor.commit(first).unwrap();
    let afresh = editor.propose(&b);
    let same = afresh.is_ok_and(|afresh| equal(&afresh, &second));
    let committed = editor.commit(second);
    match &committed {
        Ok(_) => assert_eq!(editor.state().edits, 4),
        Err(error) => assert!(matches!(error, NumericsError::StaleProposal), "{error}"),
    }
    assert_eq!(committed.is_ok(), same, "{}", editor.name());
    same
}

#[test]
fn a_proposal_is_stale_only_if_the_editor_would_propose_something_else() {
    let mut random = Random::new(5);
    let spectrum = statistics(&mut random);
    let mut hyperparameters = Hyperparameters::default();
    hyperparameters.threshold = Threshold::Directions(8);
    hyperparameters.lambda = 3.0;
    let mut taken = vec![];
    for method in METHODS {
        let editor = method.method(&hyperparameters).editor(&spectrum, Par::Seq).unwrap();
        if commit_two(editor, &mut random) {
            taken.push(method.name());
        }
    }
    assert_eq!(taken, ["memit", "memit-merge", "pmet", "emmet", "alphaedit"]);
}

/// A method without history can still have a refresh: a proposal from before it is due comes too late.
#[test]
fn a_due_refresh_makes_a_proposal_stale() {
    let mut random = Random::new(6);
    let spectrum = statistics(&mut random);
    let rule = RefreshRule::Full(HistoryWeighting::Sum { weight: 1.0 });
    for (edits, taken) in [(1, false), (2, true)] {
        let space = Space::Null(Threshold::Directions(8));
        let recipe = Recipe::new(1.0, 0.1, space, History::Ignored, Refresh::Every { edits, rule });
        let editor = ClosedFormEditor::new("refreshed", recipe, &spectrum, Par::Seq).unwrap();
        assert_eq!(commit_two(editor.clone(), &mut random), taken);
        // Protected keys join every editor.
        let mut editor = editor;
        let (K, R) = (random.matrix::<f64>(D_IN, 1), Mat::full(D_OUT, 1, 1.0));
        let proposal = editor.propose(&EditBatch::new(K.as_ref(), R.as_ref()).unwrap()).unwrap();
        editor.protect(K.as_ref()).unwrap();
        assert!(matches!(editor.commit(proposal), Err(NumericsError::StaleProposal)));
    }
}
