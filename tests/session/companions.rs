//! Companions: further keys of a request, and keys whose outputs stay.

use betaedit_core::adapter::Companions;
use betaedit_core::faer::{Mat, MatMut, MatRef, Par};
use betaedit_core::session::{ConflictPolicy, Session, SessionBuilder};
use betaedit_core::{Adapter, Refresh, Result, Update};

use super::model::{Fact, HIDDEN, Stack, WIDTH, builder, facts, recipe, refreshes};
use crate::common::{Random, distance};

/// A stack whose facts have a further input near their own, and two inputs whose outputs should stay.
struct Beside {
    stack: Stack,
    fault: Option<Uneven>,
}

/// How companions differ between the first layer and the others.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Uneven {
    Owners,
    OnlyFirst,
    OnlyLater,
}

const STAYING: usize = 2;

impl Beside {
    fn new(depth: usize) -> Self {
        Self { stack: Stack::new(depth), fault: None }
    }

    /// The inputs beside a fact's, and the multiple of its residual that they are given.
    fn inputs(fact: &Fact) -> Vec<(Fact, f64)> {
        let mut random = Random::new((1e6 * fact.x[(0, 0)].abs()) as u64);
        let mut near = |share: f64| {
            let other = random.matrix::<f64>(WIDTH, 1);
            Fact { x: Mat::from_fn(WIDTH, 1, |i, _| fact.x[(i, 0)] + share * other[(i, 0)]), ..fact.clone() }
        };
        let further = (near(0.1), 1.0);
        [further].into_iter().chain((0..STAYING).map(|_| (near(0.8), 0.0))).collect()
    }
}

impl Adapter for Beside {
    type Scalar = f64;
    type Request = Fact;

    fn layers(&self) -> &[usize] {
        self.stack.layers()
    }

    fn weight_shape(&self, layer: usize) -> Result<(usize, usize)> {
        self.stack.weight_shape(layer)
    }

    fn keys(&mut self, layer: usize, facts: &[Fact]) -> Result<Mat<f64>> {
        self.stack.keys(layer, facts)
    }

    fn companions(&mut self, layer: usize, facts: &[Fact]) -> Result<Option<Companions<f64>>> {
        let is_first = layer == self.stack.layers()[0];
        if self.fault == Some(if is_first { Uneven::OnlyLater } else { Uneven::OnlyFirst }) {
            return Ok(None);
        }
        let (mut inputs, mut of) = (vec![], vec![]);
        for (request, fact) in facts.iter().enumerate() {
            for (input, times) in Self::inputs(fact) {
                inputs.push(input);
                of.push((request, times));
            }
        }
        if self.fault == Some(Uneven::Owners) && !is_first {
            of[0].0 = facts.len() - 1;
        }
        Ok(Some(Companions::new(self.stack.keys(layer, &inputs)?, of)))
    }

    fn residuals(&mut self, layer: usize, facts: &[Fact]) -> Result<Mat<f64>> {
        self.stack.residuals(layer, facts)
    }

    fn read_weight(&self, layer: usize, weight: MatMut<'_, f64>) -> Result<()> {
        self.stack.read_weight(layer, weight)
    }

    fn write_weight(&mut self, layer: usize, weight: MatRef<'_, f64>) -> Result<()> {
        self.stack.write_weight(layer, weight)
    }

    fn fingerprint(&self) -> String {
        self.stack.fingerprint()
    }

    fn subject(&self, fact: &Fact) -> Option<String> {
        self.stack.subject(fact)
    }

    fn apply(&mut self, layer: usize, update: &Update<f64>) -> Result<()> {
        self.stack.apply(layer, update)
    }
}

fn open(depth: usize, refresh: Refresh) -> Session<Beside> {
    builder(depth, recipe(refresh)).open(Beside::new(depth), Par::Seq).unwrap()
}

fn weights(session: &Session<Beside>) -> &[Mat<f64>] {
    &session.adapter().stack.W
}

fn far(a: &[Mat<f64>], b: &[Mat<f64>]) -> f64 {
    a.iter().zip(b).map(|(a, b)| distance(a.as_ref(), b.as_ref())).fold(0.0, f64::max)
}

#[test]
fn the_adapter_keeps_its_contract() {
    betaedit_core::adapter::check(&mut Beside::new(2), &facts(3, 4), Par::Seq).unwrap();
}

/// In one layer: what a session writes is one solve with all columns.
#[test]
fn companions_are_columns_of_the_batch() {
    let stream = facts(5, 3);
    let mut session = open(1, Refresh::Never);
    let mut by_hand = builder(1, recipe(Refresh::Never)).open(Stack::new(1), Par::Seq).unwrap();
    assert!(session.edit(&stream).unwrap().is_applied());
    assert!(by_hand.edit(&stream).unwrap().is_applied());
    let moved = |W: &Mat<f64>, input: &Fact| {
        let key = (&Stack::new(1).A[0] * &input.x).map(|a| a.tanh());
        ((W - &Stack::new(1).W[0]) * key).norm_l2()
    };
    for fact in &stream {
        let inputs = Beside::inputs(fact);
        let reached = |W| moved(W, &inputs[0].0) / moved(W, fact);
        assert!((reached(&weights(&session)[0]) - 1.0).abs() < 0.2, "the further key is given the same residual");
        for (staying, _) in &inputs[1..] {
            let (with, without) = (moved(&weights(&session)[0], staying), moved(&by_hand.adapter().W[0], staying));
            assert!(with < 0.5 * without, "what is to stay moves by {with}, without companions by {without}");
        }
    }
}

/// An edit leaves with its companions: the last one at once, an earlier one as if it had never been.
#[test]
fn undo_takes_the_companions_along() {
    for depth in [1, 2] {
        for refresh in refreshes() {
            let stream = facts(7, 6);
            let mut session = open(depth, refresh);
            assert!(session.edit(&stream[..2]).unwrap().is_applied());
            let before = weights(&session).to_vec();
            assert!(session.edit(&stream[2..4]).unwrap().is_applied());
            session.undo(&[2.into(), 3.into()]).unwrap();
            let error = far(weights(&session), &before);
            assert!(error < 1e-9, "{refresh:?}, {depth} layers: {error:e}");
            session.undo(&[0.into(), 1.into()]).unwrap();
            assert_eq!(weights(&session), Stack::new(depth).W, "{refresh:?}, {depth} layers");
        }
    }
}

#[test]
fn a_session_that_is_opened_again_has_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let stream = facts(9, 9);
    let durable =
        |every| builder(2, recipe(Refresh::Never)).directory(folder.path().join("state")).snapshot_every(every);
    let opened = |builder: SessionBuilder<_>| builder.open(Beside::new(2), Par::Seq).unwrap();
    let mut plain = open(2, Refresh::Never);
    for (i, batch) in stream.chunks(2).enumerate() {
        // From the journal, and from a snapshot.
        let mut session = opened(durable(if i < 2 { 1000 } else { 2 }));
        assert!(session.edit(batch).unwrap().is_applied());
        assert!(plain.edit(batch).unwrap().is_applied());
        assert_eq!(weights(&session), weights(&plain));
    }
    let mut session = opened(durable(1000));
    session.undo(&[4.into()]).unwrap();
    plain.undo(&[4.into()]).unwrap();
    assert!(far(weights(&session), weights(&plain)) < 1e-12);
    let undone = weights(&session).to_vec();
    drop(session);
    assert!(far(weights(&opened(durable(1000))), &undone) < 1e-12);
}

/// A merged group keeps the companions of all its requests; an overruled request has none.
#[test]
fn companions_follow_their_requests_in_conflicts() {
    for (policy, expected) in [(ConflictPolicy::Merge, 2), (ConflictPolicy::LastWins, 1)] {
        let mut stream = facts(11, 2);
        stream.iter_mut().for_each(|fact| fact.subject = Some("one"));
        let conflicts = builder(1, recipe(Refresh::Never)).conflicts(policy);
        let mut session = conflicts.open(Beside::new(1), Par::Seq).unwrap();
        assert!(session.edit(&stream).unwrap().is_applied());
        let columns = 1 + expected * (1 + STAYING);
        let rank = |W: &Mat<f64>| {
            let D = W - &Stack::new(1).W[0];
            let s = D.as_ref().svd().unwrap().S().column_vector().to_owned();
            (0..WIDTH.min(HIDDEN)).filter(|&i| s[i] > 1e-9 * s[0]).count()
        };
        // All residuals of a group are multiples of one.
        assert_eq!(rank(&weights(&session)[0]), 1, "{policy}, {columns} columns");
        let ids = if policy == ConflictPolicy::Merge { vec![0.into()] } else { vec![1.into()] };
        session.undo(&ids).unwrap();
        assert_eq!(weights(&session), Stack::new(1).W, "{policy}");
    }
}

#[test]
fn companions_that_differ_between_layers_are_refused() {
    for fault in [Uneven::Owners, Uneven::OnlyFirst, Uneven::OnlyLater] {
        let mut adapter = Beside::new(2);
        adapter.fault = Some(fault);
        let mut session = builder(2, recipe(Refresh::Never)).open(adapter, Par::Seq).unwrap();
        let outcome = session.edit(&facts(13, 2)).unwrap();
        assert!(!outcome.is_applied() && outcome.to_string().contains("other requests"), "{fault:?}: {outcome}");
        assert_eq!(weights(&session), Stack::new(2).W);
    }
}
