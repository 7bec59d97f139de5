//! What a caller sees of a session: outcomes as errors, what was written, restraints of its own, an adapter given back.

use std::error::Error as _;
use std::sync::{Arc, Mutex};

use betaedit_core::editor::{Description, EditorState};
use betaedit_core::error::{FileError, NumericsError, SessionError};
use betaedit_core::faer::{Mat, MatMut, MatRef, Par};
use betaedit_core::restraint::{Needs, Restraint, Situation};
use betaedit_core::session::{Applied, Guard, Guards, LayerOutcome, Outcome, ProgressLine, Rejection, SessionBuilder};
use betaedit_core::{
    Adapter, BetaEdit, Error, KeyStatistics, Memit, Method, Orientation, Refresh, RefreshRule, Result, Scalar,
    SecondMoment, Threshold, Update,
};

use super::durability::Folder;
use super::model::{Stack, builder, facts, recipe, session};
use super::transaction::Shared;
use crate::common::Random;

const D_IN: usize = 12;
const D_OUT: usize = 4;

/// A weight whose requests are keys and residuals.
#[derive(Clone, Debug)]
struct Plain {
    weight: Mat<f64>,
}

impl Plain {
    fn new() -> Self {
        Self { weight: Random::new(8).matrix(D_OUT, D_IN) }
    }
}

type Request = (Mat<f64>, Mat<f64>);

impl Adapter for Plain {
    type Scalar = f64;
    type Request = Request;

    fn layers(&self) -> &[usize] {
        &[2]
    }

    // It does not look at the number: a session asks `layers`.
    fn weight_shape(&self, _: usize) -> Result<(usize, usize)> {
        Ok((D_OUT, D_IN))
    }

    fn keys(&mut self, _: usize, requests: &[Request]) -> Result<Mat<f64>> {
        Ok(Mat::from_fn(D_IN, requests.len(), |i, j| requests[j].0[(i, 0)]))
    }

    fn residuals(&mut self, _: usize, requests: &[Request]) -> Result<Mat<f64>> {
        Ok(Mat::from_fn(D_OUT, requests.len(), |i, j| requests[j].1[(i, 0)]))
    }

    fn read_weight(&self, _: usize, mut weight: MatMut<'_, f64>) -> Result<()> {
        weight.copy_from(&self.weight);
        Ok(())
    }

    fn write_weight(&mut self, _: usize, weight: MatRef<'_, f64>) -> Result<()> {
        self.weight.copy_from(weight);
        Ok(())
    }

    fn fingerprint(&self) -> String {
        "plain".into()
    }

    fn apply(&mut self, _: usize, update: &Update<f64>) -> Result<()> {
        Ok(update.apply_to(self.weight.as_mut(), Orientation::OutputsByInputs, Par::Seq)?)
    }
}

/// Statistics that use the first half of the inputs.
fn halves() -> KeyStatistics {
    let mut random = Random::new(4);
    let keys = Mat::from_fn(D_IN, 500, |i, _| if i < D_IN / 2 { random.normal() } else { 1e-6 * random.normal() });
    let mut moment = SecondMoment::new(D_IN);
    moment.observe(keys.as_ref(), Par::Seq).unwrap();
    KeyStatistics::new(moment, Par::Seq).unwrap()
}

/// A key that lies in one of the halves.
fn key(half: usize, seed: u64) -> Mat<f64> {
    let mut random = Random::new(seed);
    Mat::from_fn(D_IN, 1, |i, _| if i / (D_IN / 2) == half { random.normal() } else { 0.0 })
}

fn residual(seed: u64) -> Mat<f64> {
    Random::new(100 + seed).matrix(D_OUT, 1)
}

fn betaedit() -> BetaEdit {
    BetaEdit::default().with_lambda1(1.0).with_lambda2(1e-3).with_refresh(Refresh::Never)
}

fn only_layer(outcome: Outcome) -> LayerOutcome {
    outcome.applied().unwrap().layers[0]
}

#[test]
fn an_edit_that_would_write_nothing_is_rejected_unless_that_is_allowed() {
    let open = |guards| {
        let builder = SessionBuilder::new(betaedit()).layer(2, halves()).guards(guards);
        builder.open(Plain::new(), Par::Seq).unwrap()
    };
    // A key that the model uses: outside of the null space.
    let (outside, inside) = ((key(0, 1), residual(1)), (key(1, 2), residual(2)));
    let mut session = open(Guards::default());
    let before = session.adapter().weight.clone();
    let error = session.edit(std::slice::from_ref(&outside)).unwrap().applied().unwrap_err();
    assert!(matches!(&error, Rejection::Guard(found) if found.guard == Guard::WrittenShare && found.value < 1e-4));
    assert!(error.to_string().contains("at least 1e-4 is required"), "{error}");
    assert_eq!(session.adapter().weight, before);
    let written = only_layer(session.edit(&[inside]).unwrap());
    assert!(written.written_share > 0.99 && written.write_error < 0.01 && written.room == Some(1.0), "{written:?}");

    let mut session = open(Guards::default().with_written_share(None));
    let nothing = only_layer(session.edit(std::slice::from_ref(&outside)).unwrap());
    assert!(nothing.written_share < 1e-3 && nothing.write_error > 0.999, "{nothing:?}");
    // A residual of zero asks for nothing.
    let zero = only_layer(open(Guards::default()).edit(&[(outside.0, Mat::zeros(D_OUT, 1))]).unwrap());
    assert_eq!((zero.written_share, zero.write_error), (1.0, 0.0));
}

/// What counts is what arrives in the weight: a restraint that leaves nothing, or edits that undo each other, write nothing.
#[test]
fn what_is_taken_away_again_is_not_written() {
    let memit = || SessionBuilder::new(Memit::default().with_lambda(0.1).with_ridge(0.1)).layer(2, halves());
    let (k, r) = (key(0, 1), residual(1));
    let written_share = |outcome: Outcome| match outcome.applied() {
        Err(Rejection::Guard(found)) if found.guard == Guard::WrittenShare => Err(found.value),
        Ok(applied) => Ok(applied.layers[0].written_share),
        Err(other) => panic!("{other}"),
    };
    let mut clipped = memit().restraint(Clip { norm: 1e-9 }).open(Plain::new(), Par::Seq).unwrap();
    assert!(written_share(clipped.edit(&[(k.clone(), r.clone())]).unwrap()).unwrap_err() < 1e-6);
    let opposite = [(k.clone(), r.clone()), (k.clone(), &r * -1.0)];
    let mut session = memit().open(Plain::new(), Par::Seq).unwrap();
    assert!(written_share(session.edit(&opposite).unwrap()).unwrap_err().abs() < 1e-9);
    // Most of it is gone, and the outcome says so.
    let rect = betaedit_core::restraint::Rect::default().with_kept(0.1);
    let mut rect = memit().restraint(rect).open(Plain::new(), Par::Seq).unwrap();
    let before = rect.adapter().weight.clone();
    let share = written_share(rect.edit(&[(k.clone(), r.clone())]).unwrap()).unwrap();
    let done = (&rect.adapter().weight - before) * &k;
    assert!((share - (done.transpose() * &r)[(0, 0)] / r.squared_norm_l2()).abs() < 1e-12 && share < 0.9, "{share}");
    // More edits than can be written: the share is that of all of them.
    let many: Vec<Request> = (0..40).map(|seed| (Random::new(seed).matrix(D_IN, 1), residual(seed))).collect();
    let mut session = memit().open(Plain::new(), Par::Seq).unwrap();
    let before = session.adapter().weight.clone();
    let layer = only_layer(session.edit(&many).unwrap());
    let change = &session.adapter().weight - before;
    let along: f64 = many.iter().map(|(k, r)| ((&change * k).transpose() * r)[(0, 0)]).sum();
    let all: f64 = many.iter().map(|(_, r)| r.squared_norm_l2()).sum();
    assert!((layer.written_share - along / all).abs() < 1e-12 && layer.written_share < 0.6, "{layer:?}");
}

/// The share is that of the weight as it is afterwards, and with one edit `g / (1 + g)`.
#[test]
fn what_is_written_is_what_the_weight_shows() {
    let builder = SessionBuilder::new(Memit::default().with_lambda(3.0).with_ridge(1.0)).layer(2, halves());
    let mut session = builder.open(Plain::new(), Par::Seq).unwrap();
    for seed in 0..5 {
        let (k, r) = (Random::new(seed).matrix::<f64>(D_IN, 1), residual(seed));
        let before = session.adapter().weight.clone();
        let layer = only_layer(session.edit(&[(k.clone(), r.clone())]).unwrap());
        let missed = &r - (&session.adapter().weight - before) * k;
        assert!((layer.write_error - missed.norm_l2() / r.norm_l2()).abs() < 1e-12);
        assert!((layer.written_share - layer.gain / (1.0 + layer.gain)).abs() < 1e-12);
        assert!((layer.write_error - (1.0 - layer.written_share)).abs() < 1e-12);
    }
}

/// Edits along the same few directions use up the room for keys like them, while most directions are still free.
#[test]
fn room_falls_where_directions_do_not_tell() {
    let rule = RefreshRule::Nested { weight: 1.0 };
    let method = betaedit().with_refresh(Refresh::Every { edits: 8, rule }).with_threshold(Threshold::Absolute(0.02));
    let guards = Guards::default().with_written_share(None);
    let bar = Shared::default();
    let observer = ProgressLine::new(bar.clone(), Some(12));
    let builder = SessionBuilder::new(method).layer(2, halves()).guards(guards).observer(observer);
    let mut session = builder.open(Plain::new(), Par::Seq).unwrap();
    // Keys in one plane of the null space.
    let plane = [key(1, 50), key(1, 51)];
    let mut random = Random::new(60);
    let mut next = |seed| (&plane[0] * random.normal() + &plane[1] * random.normal(), residual(seed));
    let first: Vec<f64> = (0..8).map(|seed| only_layer(session.edit(&[next(seed)]).unwrap()).room.unwrap()).collect();
    assert_eq!(first[0], 1.0);
    for seed in 8..12 {
        let layer = only_layer(session.edit(&[next(seed)]).unwrap());
        let EditorState { kept_directions, removed_directions, .. } = layer.state;
        assert!(removed_directions <= 2 && kept_directions >= 4, "{layer:?}");
        assert!(layer.room.unwrap() < 1e-3 && layer.written_share < 1e-3 && layer.write_error > 0.99, "{layer:?}");
    }
    // The line of the last of the twelve is always drawn.
    let bar = String::from_utf8(bar.0.lock().unwrap().clone()).unwrap();
    assert!(bar.contains("12/12") && bar.contains("room 0.0 %"), "{bar}");
    // Another key has the room that it had.
    let other = only_layer(session.edit(&[(key(1, 70), residual(70))]).unwrap());
    assert!(other.room.unwrap() > 0.9, "{other:?}");
}

#[test]
fn a_rejection_is_an_error_where_the_caller_wants_one() {
    fn run(mut session: betaedit_core::session::Session<Stack>) -> Result<Applied> {
        Ok(session.edit(&facts(1, 2))?.applied()?)
    }
    let applied = run(session(2, Refresh::Never)).unwrap();
    assert_eq!((applied.ids.len(), applied.layers.len()), (2, 2));
    let guarded = builder(2, recipe(Refresh::Never)).guards(Guards::default().with_update_norm(1e-9));
    let error = run(guarded.open(Stack::new(2), Par::Seq).unwrap()).unwrap_err();
    let Error::Session(SessionError::Rejected(reason)) = &error else { panic!("{error}") };
    assert!(matches!(reason.downcast_ref(), Some(Rejection::Guard(found)) if found.guard == Guard::UpdateNorm));
    // The message is complete, and no source repeats it.
    assert!(error.source().is_none() && error.to_string().contains("the norm of the update"), "{error}");
    let outcome = Outcome::clone(&session(1, Refresh::Never).edit(&facts(1, 1)).unwrap());
    assert!(outcome.is_applied());
}

/// Scales an update down to a largest norm.
#[derive(Debug)]
struct Clip {
    norm: f64,
}

impl<T: Scalar> Restraint<T> for Clip {
    fn description(&self) -> Description {
        Description::new("clip").with("norm", self.norm)
    }

    fn check(&self) -> Result<(), NumericsError> {
        if self.norm > 0.0 {
            return Ok(());
        }
        Err(NumericsError::Parameter { parameter: "norm", value: self.norm, allowed: "above 0" })
    }

    fn restrained(&self, update: &Update<T>, _: &Situation<'_, T>) -> Result<Option<Update<T>>, NumericsError> {
        let norm = update.frobenius_norm();
        if norm <= self.norm {
            return Ok(None);
        }
        // Of another rank, which is not the number of edits.
        Update::stacked([&update.scaled(0.5 * self.norm / norm)?, &update.scaled(0.5 * self.norm / norm)?]).map(Some)
    }
}

#[test]
fn a_restraint_of_its_own_is_applied_recognised_and_undone() {
    let folder = Folder::new("clip");
    let durable = |norm| builder(2, recipe(Refresh::Never)).restraint(Clip { norm }).directory(folder.path());
    let mut session = durable(0.1).open(Stack::new(2), Par::Seq).unwrap();
    let stream = facts(3, 4);
    for batch in stream.chunks(2) {
        for layer in session.edit(batch).unwrap().applied().unwrap().layers {
            assert!(layer.update_norm <= 0.1 * (1.0 + 1e-12), "{layer:?}");
        }
    }
    assert!(session.states().all(|(_, state)| state.edits == 4));
    assert!(session.undo(&[1.into()]).unwrap().rebuilt);
    let weights = session.adapter().W.clone();
    drop(session);
    assert_eq!(durable(0.1).open(Stack::new(2), Par::Seq).unwrap().adapter().W, weights);
    let error = durable(0.2).open(Stack::new(2), Par::Seq).unwrap_err().to_string();
    assert!(error.contains("its restraint is `norm: 0.1` there, `norm: 0.2` here"), "{error}");
    let error = durable(-1.0).open(Stack::new(2), Par::Seq).unwrap_err().into_parts().0;
    assert!(matches!(error, Error::Numerics(NumericsError::Parameter { parameter: "norm", .. })), "{error}");
    // Behind a pointer it is the same restraint.
    let boxed: Box<dyn Restraint<f64>> = Box::new(Clip { norm: 0.1 });
    assert_eq!(boxed.needs(), Needs::Weight);
    let again = builder(2, recipe(Refresh::Never)).restraint(boxed).directory(folder.path());
    assert_eq!(again.open(Stack::new(2), Par::Seq).unwrap().adapter().W, weights);
}

#[test]
fn an_adapter_comes_back_when_a_session_cannot_be_opened() {
    let folder = Folder::new("locked");
    let durable = || builder(1, recipe(Refresh::Never)).directory(folder.path());
    let first = durable().open(Stack::new(1), Par::Seq).unwrap();
    let mut model = Stack::new(1);
    model.A[0][(0, 0)] = 7.0;
    let failed = durable().open(model, Par::Seq).unwrap_err();
    assert!(failed.to_string().contains("the session is open already"), "{failed}");
    let (error, model) = failed.into_parts();
    assert!(matches!(error, Error::File(FileError::Locked { .. })), "{error}");
    assert_eq!(model.A[0][(0, 0)], 7.0);
    drop(first);
    assert!(durable().open(model, Par::Seq).is_ok());
    // As an error alone.
    let error: Error = SessionBuilder::new(betaedit()).open(Plain::new(), Par::Seq).unwrap_err().into();
    assert!(matches!(&error, Error::Session(SessionError::Setting { setting: "layers", .. })), "{error}");
}

#[test]
fn a_session_asks_the_adapter_for_its_layers() {
    let builder = || SessionBuilder::new(betaedit());
    let error = builder().layer(1, halves()).open(Plain::new(), Par::Seq).unwrap_err();
    assert_eq!(error.to_string(), "the adapter has no layer 1; its layers are [2]");
    let twice = builder().layer(2, halves()).layer(2, halves()).open(Plain::new(), Par::Seq).unwrap_err();
    assert!(twice.to_string().contains("`layers` has 2 after 2"), "{twice}");
    let limited = builder().layer(2, halves()).guards(Guards::default().with_leakage(1.0)).without_gauges();
    let error = limited.open(Plain::new(), Par::Seq).unwrap_err();
    assert!(error.to_string().contains("leave out `without_gauges`"), "{error}");
}

#[test]
fn a_closure_observes_and_a_borrowed_adapter_is_edited() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (log, mut plain) = (Arc::clone(&seen), Plain::new());
    let before = plain.weight.clone();
    let boxed: betaedit_core::editor::AnyMethod = Box::new(betaedit());
    assert_eq!(boxed.name(), "betaedit");
    let builder = SessionBuilder::new(boxed).layer(2, halves()).observer(
        move |outcome: &Outcome, progress: &betaedit_core::session::Progress| {
            log.lock().unwrap().push((outcome.is_applied(), progress.processed));
        },
    );
    let mut session = builder.open(&mut plain, Par::Seq).unwrap();
    let _ = session.edit(&[(key(1, 1), residual(1))]).unwrap();
    let _ = session.edit(&[(key(0, 1), residual(1))]).unwrap();
    session.adapter_mut().weight.as_ref();
    drop(session);
    assert_eq!(*seen.lock().unwrap(), [(true, 1), (false, 2)]);
    assert!(plain.weight != before);
}
