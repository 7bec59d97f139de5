//! Random histories of a session, and cases that went wrong once.

use std::cell::Cell;
use std::rc::Rc;

use betaedit_core::editor::Hyperparameters;
use betaedit_core::editor::{ClosedFormEditor, method};
use betaedit_core::error::{ModelError, SessionError};
use betaedit_core::faer::{Mat, MatMut, MatRef, Par};
use betaedit_core::session::{ConflictPolicy, EditId, Guards, Observer, Outcome, Progress};
use betaedit_core::{Adapter, EditBatch, Editor, Error, Refresh, Result, Update};

use super::durability::Folder;
use super::model::{
    Fact, Fault, HIDDEN, Stack, WIDTH, builder, facts, quiet_faults, recipe, refreshes, session, statistics,
};
use crate::common::{Random, distance};

#[test]
fn a_replacement_that_is_rejected_after_a_refresh_leaves_a_session_that_opens() {
    quiet_faults();
    let refresh = refreshes()[1];
    let folder = Folder::new("rejected");
    let open = || builder(1, recipe(refresh)).directory(folder.path()).open(Stack::new(1), Par::Seq);
    let mut s = open().unwrap();
    for f in facts(1, 4).chunks(1) {
        assert!(s.edit(f).unwrap().is_applied());
    }
    let at = s.adapter().calls() + 3; // keys, apply of the withdrawal, residuals
    s.adapter().fault.set(Some((at, Fault::Error)));
    let o = s.replace(&[2.into()], &facts(2, 1)).unwrap();
    assert!(!o.is_applied());
    let live: Vec<_> = s.states().collect();
    s.undo(&[1.into()]).unwrap();
    drop(s);
    if let Err(error) = open() {
        panic!("cannot be opened: {error} (live {live:?})");
    }
}

fn alike(seed: u64, n: usize) -> Vec<Fact> {
    let mut r = Random::new(seed);
    let base: Mat<f64> = Random::new(4242).matrix(WIDTH, 1);
    (0..n)
        .map(|_| {
            let e: Mat<f64> = r.matrix(WIDTH, 1);
            Fact { x: &base + e * 0.6, y: r.matrix(WIDTH, 1), subject: None }
        })
        .collect()
}

#[test]
fn conflicts_are_found_among_keys_that_are_all_alike() {
    let mut s =
        builder(1, recipe(Refresh::Never)).conflicts(ConflictPolicy::Reject).open(Stack::new(1), Par::Seq).unwrap();
    let mut all = alike(5, 40);
    all[0].subject = Some("Lyon");
    for f in all[..39].chunks(1) {
        assert!(s.edit(f).unwrap().is_applied());
    }
    let mut again = all[39].clone();
    again.subject = Some("Lyon");
    let a = s.edit(std::slice::from_ref(&again)).unwrap();
    let exact = Fact { y: all[1].y.clone() * -1.0, ..all[1].clone() };
    let b = s.edit(std::slice::from_ref(&exact)).unwrap();
    assert!(!a.is_applied() && !b.is_applied());
}

#[test]
fn a_chain_of_conflicts_is_one_conflict() {
    let mut s =
        builder(1, recipe(Refresh::Never)).conflicts(ConflictPolicy::LastWins).open(Stack::new(1), Par::Seq).unwrap();
    let mut f = facts(7, 3);
    f[0].subject = Some("Lyon");
    // f[2] has the subject of 0 and the key of 1
    f[2].x = f[1].x.clone();
    f[2].subject = Some("Lyon");
    assert!(s.edit(&f).unwrap().is_applied());
    assert_eq!([0, 1, 2].map(|id| s.holds(id.into())), [false, false, true]);
}

#[test]
fn without_history_an_undo_leaves_the_batch_without_that_edit() {
    let mut h = Hyperparameters::default();
    h.lambda = 0.05;
    h.lambda2 = 0.01;
    for name in ["memit", "alphaedit"] {
        let recipe = method(name).unwrap().recipe(&h);
        let mut s = builder(1, recipe).open(Stack::new(1), Par::Seq).unwrap();
        let f = alike(8, 3);
        s.edit(&f).unwrap().applied().unwrap();
        s.undo(&[1.into()]).unwrap();
        let mut t = builder(1, recipe).open(Stack::new(1), Par::Seq).unwrap();
        t.edit(&[f[0].clone(), f[2].clone()]).unwrap().applied().unwrap();
        assert!(distance(s.adapter().W[0].as_ref(), t.adapter().W[0].as_ref()) < 1e-12, "{name}");
    }
}

struct Flaky {
    inner: Stack,
    nan_at: Rc<Cell<usize>>,
    reads: Cell<usize>,
}
impl Adapter for Flaky {
    type Scalar = f64;
    type Request = Fact;
    fn layers(&self) -> &[usize] {
        self.inner.layers()
    }
    fn weight_shape(&self, l: usize) -> Result<(usize, usize)> {
        self.inner.weight_shape(l)
    }
    fn keys(&mut self, l: usize, r: &[Fact]) -> Result<Mat<f64>> {
        self.inner.keys(l, r)
    }
    fn residuals(&mut self, l: usize, r: &[Fact]) -> Result<Mat<f64>> {
        self.inner.residuals(l, r)
    }
    fn read_weight(&self, l: usize, mut w: MatMut<'_, f64>) -> Result<()> {
        self.inner.read_weight(l, w.as_mut())?;
        self.reads.set(self.reads.get() + 1);
        if self.reads.get() == self.nan_at.get() {
            w[(0, 0)] = f64::NAN;
        }
        Ok(())
    }
    fn write_weight(&mut self, l: usize, w: MatRef<'_, f64>) -> Result<()> {
        self.inner.write_weight(l, w)
    }
    fn fingerprint(&self) -> String {
        self.inner.fingerprint()
    }
    fn apply(&mut self, l: usize, u: &Update<f64>) -> Result<()> {
        self.inner.apply(l, u)
    }
}

#[test]
fn a_weight_that_is_read_as_nan_is_not_written_back() {
    let nan = Rc::new(Cell::new(0));
    let flaky = Flaky { inner: Stack::new(2), nan_at: nan.clone(), reads: Cell::new(0) };
    let guards = Guards::default().with_update_norm(50.0);
    let mut s = builder(2, recipe(Refresh::Never)).guards(guards).open(flaky, Par::Seq).unwrap();
    let before = s.adapter().inner.W.clone();
    // layer 1's read is spoilt; the second layer then fails
    nan.set(s.adapter().reads.get() + 1);
    s.adapter().inner.fault.set(Some((s.adapter().inner.calls() + 4, Fault::NaN)));
    let o = s.edit(&facts(1, 1)).unwrap();
    println!("{o}; weight nan: {}", s.adapter().inner.W[0][(0, 0)]);
    let one = s.adapter().inner.W == before;
    // recorded: undo impossible
    let flaky = Flaky { inner: Stack::new(1), nan_at: nan.clone(), reads: Cell::new(0) };
    let mut s = builder(1, recipe(Refresh::Never)).open(flaky, Par::Seq).unwrap();
    nan.set(s.adapter().reads.get() + 1);
    let o = s.edit(&facts(1, 1)).unwrap();
    let undo = s.undo(&[0.into()]);
    println!("{o}; undo {undo:?}");
    assert!(one && (!o.is_applied() || undo.is_ok()));
}

fn saved(refresh: Refresh) -> (ClosedFormEditor<f64>, Vec<u8>) {
    let (_, sp) = statistics(&Stack::new(1), 0);
    let mut e = ClosedFormEditor::<f64>::new("x", recipe(refresh), &sp, Par::Seq).unwrap();
    let mut r = Random::new(3);
    for _ in 0..3 {
        let (k, v): (Mat<f64>, Mat<f64>) = (r.matrix(HIDDEN, 1), r.matrix(WIDTH, 1));
        let b = EditBatch::new(k.as_ref(), v.as_ref()).unwrap();
        let u = e.propose(&b).unwrap();
        e.commit(u).unwrap();
    }
    let mut bytes = Vec::new();
    e.save(&mut bytes).unwrap();
    (e, bytes)
}

#[test]
fn damaged_states_of_an_editor_are_refused() {
    let (e, bytes) = saved(refreshes()[4]);
    let put = |b: &mut Vec<u8>, at: usize, x: u64| b[at..at + 8].copy_from_slice(&x.to_le_bytes());
    let keys_at = bytes.len() - 8 - 3 * HIDDEN * 8;
    let damages: [(&str, &[(usize, u64)]); 4] = [
        ("endless keys", &[(8, u64::MAX >> 1), (keys_at, u64::MAX >> 2)]),
        ("a refresh after the last edit", &[(16, 7)]),
        ("half a key", &[(keys_at, 3 * HIDDEN as u64 - 1)]),
        ("more directions than there are", &[(0, HIDDEN as u64 + 1)]),
    ];
    for (what, damage) in damages {
        let mut bytes = bytes.clone();
        damage.iter().for_each(|&(at, x)| put(&mut bytes, at, x));
        let mut loaded = e.clone();
        assert!(loaded.load(&mut &bytes[..]).is_err(), "{what}");
        assert_eq!(loaded.state(), e.state());
    }
    for length in 0..bytes.len() {
        assert!(e.clone().load(&mut &bytes[..length]).is_err(), "{length}");
    }
}

#[derive(Clone, Default)]
struct Now(std::sync::Arc<std::sync::Mutex<Vec<u64>>>);
impl Observer for Now {
    fn outcome(&mut self, _: &Outcome, p: &Progress) {
        self.0.lock().unwrap().push(p.processed_now)
    }
}

#[test]
fn progress_counts_from_the_opening() {
    let folder = Folder::new("progress");
    let now = Now::default();
    for round in 0..2 {
        let mut s = builder(1, recipe(Refresh::Never))
            .directory(folder.path())
            .observer(now.clone())
            .open(Stack::new(1), Par::Seq)
            .unwrap();
        for f in facts(round, 3).chunks(1) {
            s.edit(f).unwrap().applied().unwrap();
        }
    }
    assert_eq!(*now.0.lock().unwrap(), [1, 2, 3, 1, 2, 3]);
}

#[test]
fn guards_of_what_is_not_measured_are_refused() {
    let guards = Guards::default().with_relative_drift(1e-12).with_leakage(0.0);
    let s = builder(1, recipe(Refresh::Never)).guards(guards).without_gauges().open(Stack::new(1), Par::Seq);
    let Ok(mut s) = s else { return };
    let o = s.edit(&facts(1, 1)).unwrap();
    assert!(!o.is_applied(), "the limit is not kept, and nobody says so: {o}");
}

#[test]
fn the_capacity_that_an_edit_would_use_is_guarded() {
    let refresh = Refresh::Continuous { weight: 1.0 };
    let guards = Guards::default().with_used_capacity(0.05);
    let mut s = builder(1, recipe(refresh)).guards(guards).open(Stack::new(1), Par::Seq).unwrap();
    for f in facts(1, 30).chunks(6) {
        let _ = s.edit(f).unwrap();
        let state = s.states().next().unwrap().1;
        assert!(state.removed_directions as f64 <= 0.05 * (3 * HIDDEN / 4) as f64, "{state:?}");
    }
}

/// Random operations, one session opened again now and then, the other never.
#[test]
fn any_history_is_the_same_opened_again_or_not() {
    quiet_faults();
    let seeds: u64 = std::env::var("BETAEDIT_HISTORIES").ok().and_then(|s| s.parse().ok()).unwrap_or(12);
    let mut bad = Vec::new();
    for (which, refresh) in refreshes().into_iter().enumerate() {
        for seed in 0..seeds {
            let r = std::panic::catch_unwind(|| fuzz(refresh, seed));
            if let Err(p) = r {
                let t = p
                    .downcast_ref::<String>()
                    .cloned()
                    .or(p.downcast_ref::<&str>().map(|s| s.to_string()))
                    .unwrap_or_default();
                bad.push(format!("{which} {seed}: {}", t.lines().take(3).collect::<Vec<_>>().join(" | ")));
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

fn fuzz(refresh: Refresh, seed: u64) {
    let folder = Folder::new(&format!("fuzz-{seed}"));
    let guards = Guards::default().with_update_norm(30.0);
    let policy = [ConflictPolicy::Report, ConflictPolicy::LastWins, ConflictPolicy::Merge][seed as usize % 3];
    let make = || {
        builder(2, recipe(refresh)).guards(guards).conflicts(policy).snapshot_every(if seed.is_multiple_of(2) {
            1000
        } else {
            7
        })
    };
    let mut a = make().open(Stack::new(2), Par::Seq).unwrap();
    let mut b = make().directory(folder.path()).open(Stack::new(2), Par::Seq).unwrap();
    let mut r = Random::new(1000 + seed);
    let pool = facts(seed + 50, 30);
    for step in 0..30 {
        let pick = |r: &mut Random, n: usize| (r.uniform() * n as f64) as usize % n;
        let n = 1 + pick(&mut r, 3);
        let mut batch: Vec<Fact> = (0..n).map(|_| pool[pick(&mut r, 30)].clone()).collect();
        if pick(&mut r, 6) == 0 {
            batch[0].y *= 1e4;
        }
        let kind = pick(&mut r, 10);
        let held: Vec<EditId> = (0..a.processed()).map(EditId).filter(|&id| a.holds(id)).collect();
        let target = if held.is_empty() { None } else { Some(held[pick(&mut r, held.len())]) };
        let fault = pick(&mut r, 8) == 0;
        if fault {
            let call = 1 + pick(&mut r, 8);
            let f = [Fault::Error, Fault::Panic, Fault::NaN, Fault::Shape][pick(&mut r, 4)];
            for s in [&a, &b] {
                s.adapter().fault.set(Some((s.adapter().calls() + call, f)));
            }
        }
        let what;
        match (kind, target) {
            (8 | 9, Some(id)) => {
                what = format!("undo {id}");
                let (x, y) = (a.undo(&[id]), b.undo(&[id]));
                assert_eq!(format!("{x:?}"), format!("{y:?}"), "step {step} {what}");
            }
            (6 | 7, Some(id)) => {
                what = format!("replace {id}");
                let (x, y) = (a.replace(&[id], &batch).unwrap(), b.replace(&[id], &batch).unwrap());
                assert_eq!(format!("{x:?}"), format!("{y:?}"), "step {step} {what}");
            }
            _ => {
                what = "edit".into();
                let (x, y) = (a.edit(&batch).unwrap(), b.edit(&batch).unwrap());
                assert_eq!(format!("{x:?}"), format!("{y:?}"), "step {step} {what}");
            }
        }
        for s in [&a, &b] {
            s.adapter().fault.set(None);
        }
        if pick(&mut r, 2) == 0 {
            drop(b);
            b = make()
                .directory(folder.path())
                .open(Stack::new(2), Par::Seq)
                .unwrap_or_else(|e| panic!("step {step} {what}: cannot be opened: {e}"));
        }
        assert!(a.adapter().W == b.adapter().W, "step {step} {what}: weights");
        assert!(
            a.states().eq(b.states()),
            "step {step} {what}: states {:?} {:?}",
            a.states().collect::<Vec<_>>(),
            b.states().collect::<Vec<_>>()
        );
        assert!(
            a.report().refreshes == b.report().refreshes,
            "step {step} {what} fault {fault}: refreshes {} {}",
            a.report().refreshes,
            b.report().refreshes
        );
        assert_eq!(a.report(), b.report(), "step {step} {what}: report");
        for layer in [1, 4] {
            assert_eq!(a.total(layer).unwrap(), b.total(layer).unwrap(), "step {step} {what}");
        }
        assert_eq!(a.processed(), b.processed());
    }
}

/// Undo before the first refresh, as if it had never been, also later.
#[test]
fn an_undo_before_the_first_refresh_counts_for_all_that_follow() {
    for (which, refresh) in refreshes().into_iter().enumerate() {
        let stream = facts(21, 14);
        let mut s = session(1, refresh);
        let mut t = session(1, refresh);
        for (i, f) in stream.iter().enumerate() {
            let f = std::slice::from_ref(f);
            s.edit(f).unwrap().applied().unwrap();
            if i != 1 {
                t.edit(f).unwrap().applied().unwrap();
            }
            if i == 2 {
                println!("{which}: rebuilt {}", s.undo(&[1.into()]).unwrap().rebuilt);
            }
            if i >= 2 {
                assert!(distance(s.adapter().W[0].as_ref(), t.adapter().W[0].as_ref()) < 1e-9, "{which} {i}");
                assert_eq!(s.states().next().unwrap().1, t.states().next().unwrap().1, "{which} {i}");
            }
        }
    }
}

/// Faults of the calls that `Stack` does not spoil itself: reading and writing weights, and naming subjects.
struct Spoilt {
    inner: Stack,
    calls: Cell<usize>,
    fault: Rc<Cell<Option<(usize, Fault)>>>,
    writes_fail: bool,
}

impl Spoilt {
    fn new(fault: &Rc<Cell<Option<(usize, Fault)>>>, writes_fail: bool) -> Self {
        Self { inner: Stack::new(2), calls: Cell::new(0), fault: Rc::clone(fault), writes_fail }
    }

    fn call(&self) -> Result<()> {
        self.calls.set(self.calls.get() + 1);
        match self.fault.get() {
            Some((at, Fault::Panic)) if at == self.calls.get() => panic!("a fault"),
            Some((at, _)) if at == self.calls.get() => Err(ModelError::Adapter("a fault".into()).into()),
            _ => Ok(()),
        }
    }
}

impl Adapter for Spoilt {
    type Scalar = f64;
    type Request = Fact;

    fn layers(&self) -> &[usize] {
        self.inner.layers()
    }

    fn weight_shape(&self, layer: usize) -> Result<(usize, usize)> {
        self.inner.weight_shape(layer)
    }

    fn keys(&mut self, layer: usize, facts: &[Fact]) -> Result<Mat<f64>> {
        self.inner.keys(layer, facts)
    }

    fn residuals(&mut self, layer: usize, facts: &[Fact]) -> Result<Mat<f64>> {
        self.inner.residuals(layer, facts)
    }

    fn read_weight(&self, layer: usize, weight: MatMut<'_, f64>) -> Result<()> {
        self.call()?;
        self.inner.read_weight(layer, weight)
    }

    fn write_weight(&mut self, layer: usize, weight: MatRef<'_, f64>) -> Result<()> {
        if self.writes_fail { self.call() } else { self.inner.write_weight(layer, weight) }
    }

    fn fingerprint(&self) -> String {
        self.inner.fingerprint()
    }

    fn subject(&self, _: &Fact) -> Option<String> {
        // It cannot fail but by a panic.
        self.call().expect("a fault");
        None
    }

    fn apply(&mut self, layer: usize, update: &Update<f64>) -> Result<()> {
        self.inner.apply(layer, update)
    }
}

#[test]
fn faults_of_weights_and_subjects_leave_no_trace_either() {
    quiet_faults();
    let stream = facts(61, 6);
    for fault in [Fault::Error, Fault::Panic] {
        let spoilt = Rc::new(Cell::new(None));
        let open = || builder(2, recipe(Refresh::Never)).open(Spoilt::new(&spoilt, false), Par::Seq).unwrap();
        let mut reference = open();
        stream.chunks(1).for_each(|one| assert!(reference.edit(one).unwrap().is_applied()));
        let mut tried = 0;
        for call in 1.. {
            spoilt.set(None);
            let mut session = open();
            stream[..3].chunks(1).for_each(|one| assert!(session.edit(one).unwrap().is_applied()));
            let before = session.adapter().inner.W.clone();
            spoilt.set(Some((session.adapter().calls.get() + call, fault)));
            if session.edit(&facts(62, 1)).unwrap().is_applied() {
                break;
            }
            tried += 1;
            spoilt.set(None);
            assert_eq!(session.adapter().inner.W, before);
            stream[3..].chunks(1).for_each(|one| assert!(session.edit(one).unwrap().is_applied()));
            assert_eq!(session.adapter().inner.W, reference.adapter().inner.W, "{fault:?} at call {call}");
        }
        // A subject, and the weights of two layers.
        assert_eq!(tried, 3, "{fault:?}");
    }
}

/// Where even the way back fails, the session says so and does nothing more; the journal has what was confirmed.
#[test]
fn a_session_that_cannot_restore_the_model_stops() {
    let folder = Folder::new("broken");
    let open = |adapter| builder(2, recipe(Refresh::Never)).directory(folder.path()).open(adapter, Par::Seq);
    let fault = Rc::new(Cell::new(None));
    let stream = facts(63, 3);
    let mut session = open(Spoilt::new(&fault, true)).unwrap();
    session.edit(&stream[..1]).unwrap().applied().unwrap();
    let confirmed = session.adapter().inner.W.clone();
    // The second layer's update fails, and then the first weight that is written back: after a subject and two reads.
    session.adapter().inner.fault.set(Some((session.adapter().inner.calls() + 6, Fault::Error)));
    fault.set(Some((session.adapter().calls.get() + 4, Fault::Error)));
    assert!(matches!(session.edit(&stream[1..2]), Err(Error::Session(SessionError::Broken { .. }))));
    assert!(matches!(session.edit(&stream[2..]), Err(Error::Session(SessionError::Broken { .. }))));
    assert!(matches!(session.undo(&[0.into()]), Err(Error::Session(SessionError::Broken { .. }))));
    drop(session);
    fault.set(None);
    let session = open(Spoilt::new(&fault, false)).unwrap();
    assert_eq!((session.processed(), &session.adapter().inner.W), (1, &confirmed));
}
