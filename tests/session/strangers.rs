//! Sessions over editors that the library does not have: with a memo and a token of their own, and with every kind of failure.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use betaedit_core::editor::{ClosedFormEditor, Description, EditorState, Proposal};
use betaedit_core::engine::StateToken;
use betaedit_core::error::{NumericsError, SessionError};
use betaedit_core::faer::{Mat, Par};
use betaedit_core::session::{Guards, LayerStatistics, Outcome, Rejection, Session, SessionBuilder, SessionMethod};
use betaedit_core::{Adapter, EditBatch, Editor, Error, KeyStatistics, Memit, Method, Result, Spectrum, Update};

use crate::session::durability::Folder;
use crate::session::model::{Stack, facts, known, statistics};

/// Writes a fixed share of every residual along its key: `Delta = share R Kᵀ / |K|²`. It wraps no other editor.
#[derive(Clone, Debug)]
struct Gradient {
    d_in: usize,
    layer: usize,
    edits: usize,
    token: StateToken,
    fault: Fault,
}

/// What goes wrong next, and where; shared by all editors of a session.
#[derive(Clone, Debug, Default)]
struct Fault(Arc<AtomicU8>);

const NONE: u8 = 0;
const PANIC_IN_PROPOSE: u8 = 1;
const PANIC_IN_COMMIT: u8 = 2;
const ERROR_IN_COMMIT: u8 = 3;

impl Fault {
    fn set(&self, fault: u8) {
        self.0.store(fault, Ordering::Relaxed);
    }

    /// Whether this fault is set; it happens at the second layer, when the first one has been written.
    fn strikes(&self, fault: u8, layer: usize) -> bool {
        layer > 1 && self.0.load(Ordering::Relaxed) == fault
    }
}

impl Editor<f64> for Gradient {
    fn name(&self) -> &str {
        "gradient"
    }

    fn d_in(&self) -> usize {
        self.d_in
    }

    fn state(&self) -> EditorState {
        EditorState::new(self.edits, 0, self.d_in, self.d_in)
    }

    fn propose(&self, batch: &EditBatch<'_, f64>) -> Result<Proposal<f64>, NumericsError> {
        assert!(!self.fault.strikes(PANIC_IN_PROPOSE, self.layer), "planted");
        let share = 0.5 / batch.keys().squared_norm_l2();
        let right = Mat::from_fn(batch.len(), self.d_in, |i, j| share * batch.keys()[(j, i)]);
        let update = Update::from_factors(batch.residuals().to_owned(), right)?;
        Ok(Proposal::new(update, batch.len(), &self.token))
    }

    fn commit(&mut self, proposal: Proposal<f64>) -> Result<(), NumericsError> {
        assert!(!self.fault.strikes(PANIC_IN_COMMIT, self.layer), "planted");
        if self.fault.strikes(ERROR_IN_COMMIT, self.layer) {
            return Err(NumericsError::Editor("planted".into()));
        }
        let (_, edits) = proposal.into_memo::<usize>(&self.token)?;
        self.edits += edits;
        self.token.advance();
        Ok(())
    }
}

#[derive(Clone, Debug, Default)]
struct Descent {
    fault: Fault,
}

impl SessionMethod<f64> for Descent {
    type Editor = Gradient;

    fn description(&self) -> Description {
        Description::new("gradient")
    }

    fn layer_editor(&self, layer: &LayerStatistics, _: Par) -> Result<Gradient> {
        let (d_in, token) = (layer.statistics.d_in(), StateToken::new());
        Ok(Gradient { d_in, layer: layer.layer, edits: 0, token, fault: self.fault.clone() })
    }
}

fn builder(method: Descent) -> SessionBuilder<Descent> {
    let stack = Stack::new(2);
    (0..2).fold(SessionBuilder::new(method), |builder, layer| {
        let (moment, spectrum) = statistics(&stack, layer);
        builder.layer(stack.layers()[layer], known(moment, spectrum))
    })
}

fn weights(session: &Session<Stack, Gradient>) -> Vec<Mat<f64>> {
    let stack = session.adapter();
    let weight = |&layer: &usize| {
        let (d_out, d_in) = stack.weight_shape(layer).unwrap();
        let mut weight = Mat::zeros(d_out, d_in);
        stack.read_weight(layer, weight.as_mut()).unwrap();
        weight
    };
    stack.layers().iter().map(weight).collect()
}

#[test]
fn an_editor_of_its_own_edits_resumes_and_undoes() {
    let folder = Folder::new("stranger");
    let open = || builder(Descent::default()).directory(folder.path()).snapshot_every(2).open(Stack::new(2), Par::Seq);
    let mut session = open().unwrap();
    for seed in 0..5 {
        assert!(session.edit(&facts(seed, 1)).unwrap().is_applied());
    }
    // It cannot be saved: no snapshot, and no failure of one.
    assert!(session.snapshot_failure().is_none());
    let error = session.snapshot().unwrap_err().to_string();
    assert!(error.contains("cannot be saved"), "{error}");
    session.undo(&[1.into()]).unwrap();
    let expected = weights(&session);
    drop(session);
    let again = open().unwrap();
    assert!(again.recovery().resumed && !again.holds(1.into()) && again.holds(2.into()));
    assert_eq!(weights(&again), expected);
}

#[test]
fn a_panic_while_an_editor_proposes_leaves_no_trace() {
    let method = Descent::default();
    let fault = method.fault.clone();
    let mut session = builder(method).open(Stack::new(2), Par::Seq).unwrap();
    session.edit(&facts(1, 1)).unwrap().applied().unwrap();
    let before = weights(&session);
    fault.set(PANIC_IN_PROPOSE);
    let outcome = session.edit(&facts(2, 1)).unwrap();
    let Outcome::Rejected { reason: Rejection::Failed { error, .. }, .. } = outcome else { panic!("{outcome}") };
    assert!(matches!(*error, Error::Numerics(NumericsError::Editor(_))) && error.to_string().contains("planted"));
    assert_eq!(weights(&session), before);
    fault.set(NONE);
    assert!(session.edit(&facts(3, 1)).unwrap().is_applied());
}

#[test]
fn an_editor_that_cannot_commit_breaks_the_session_and_loses_nothing() {
    for planted in [PANIC_IN_COMMIT, ERROR_IN_COMMIT] {
        let folder = Folder::new(&format!("commit-{planted}"));
        let method = Descent::default();
        let fault = method.fault.clone();
        let open = |method| builder(method).directory(folder.path()).open(Stack::new(2), Par::Seq);
        let mut session = open(method).unwrap();
        session.edit(&facts(1, 1)).unwrap().applied().unwrap();
        fault.set(planted);
        let error = session.edit(&facts(2, 1)).unwrap_err();
        assert!(
            matches!(&error, Error::Session(SessionError::Broken { problem }) if problem.contains("planted")),
            "{error}"
        );
        // It says so from now on, instead of going on from a state that nobody knows.
        fault.set(NONE);
        assert!(matches!(session.edit(&facts(3, 1)), Err(Error::Session(SessionError::Broken { .. }))));
        drop(session);
        // The batch is in the journal, so it counts; the directory opens, and goes on.
        let mut again = open(Descent::default()).unwrap();
        assert!(again.holds(0.into()) && again.holds(1.into()) && again.processed() == 2);
        let mut twin = builder(Descent::default()).open(Stack::new(2), Par::Seq).unwrap();
        for seed in [1, 2, 4] {
            twin.edit(&facts(seed, 1)).unwrap().applied().unwrap();
        }
        again.edit(&facts(4, 1)).unwrap().applied().unwrap();
        assert_eq!(weights(&again), weights(&twin));
    }
}

#[test]
fn a_panic_while_an_undo_plays_the_other_edits_leaves_no_trace() {
    let folder = Folder::new("panic-undo");
    let method = Descent::default();
    let fault = method.fault.clone();
    let open = |method| builder(method).directory(folder.path()).open(Stack::new(2), Par::Seq);
    let mut session = open(method).unwrap();
    for seed in 1..4 {
        session.edit(&facts(seed, 1)).unwrap().applied().unwrap();
    }
    let before = weights(&session);
    for planted in [PANIC_IN_PROPOSE, PANIC_IN_COMMIT] {
        fault.set(planted);
        let error = session.undo(&[0.into()]).unwrap_err();
        assert!(matches!(&error, Error::Numerics(NumericsError::Editor(_))), "{error}");
        assert_eq!(weights(&session), before);
        assert!(session.holds(0.into()));
    }
    fault.set(NONE);
    session.undo(&[0.into()]).unwrap();
    let undone = weights(&session);
    drop(session);
    // Opening a directory is no place for a panic either.
    let method = Descent::default();
    method.fault.set(PANIC_IN_COMMIT);
    let error = open(method).unwrap_err();
    assert!(error.to_string().contains("planted"), "{error}");
    assert_eq!(weights(&open(Descent::default()).unwrap()), undone);
}

#[test]
fn a_guard_that_the_editor_cannot_measure_is_refused() {
    let guards = Guards::default().with_stability(10.0);
    let error = builder(Descent::default()).guards(guards).open(Stack::new(2), Par::Seq).unwrap_err();
    assert!(matches!(error.error(), Error::Session(SessionError::Setting { setting: "guards", .. })), "{error}");
    assert!(error.to_string().contains("`gradient`"), "{error}");
}

#[test]
fn a_spectrum_of_other_statistics_is_refused() {
    let stack = Stack::new(1);
    let (moment, _) = statistics(&stack, 0);
    let other = Mat::from_fn(moment.d_in(), moment.d_in(), |i, j| if i == j { 1.0 + i as f64 } else { 0.0 });
    let other = Arc::new(Spectrum::from_matrix(other.as_ref(), Par::Seq).unwrap());
    let error = KeyStatistics::from_parts(moment, other, Par::Seq).unwrap_err();
    assert!(matches!(error, NumericsError::ForeignSpectrum { difference } if difference > 0.01), "{error}");
}

#[test]
fn methods_and_editors_work_behind_pointers() {
    let stack = Stack::new(1);
    let (moment, spectrum) = statistics(&stack, 0);
    let boxed: Box<dyn Method + Send + Sync> = Box::new(Memit::default().with_ridge(1.0));
    assert_eq!(boxed.name(), Cow::from("memit"));
    let mut editor: Box<dyn Editor<f64>> = Box::new(Method::editor::<f64>(&boxed, &spectrum, Par::Seq).unwrap());
    let (k, r) = (Mat::full(editor.d_in(), 1, 0.1), Mat::full(2, 1, 1.0));
    let _ = editor.edit(&EditBatch::new(k.as_ref(), r.as_ref()).unwrap()).unwrap();
    assert_eq!(editor.state().edits, 1);
    let number = stack.layers()[0];
    let session: Session<Stack, ClosedFormEditor<f64>> =
        SessionBuilder::new(boxed).layer(number, known(moment, spectrum)).open(stack, Par::Seq).unwrap();
    assert_eq!(session.editor(number).unwrap().name(), "memit");
}
