//! What is in the directory: it survives, or it is refused.

use std::fs;
use std::path::{Path, PathBuf};

use betaedit_core::editor::NamedRecipe;
use betaedit_core::error::FileError;
use betaedit_core::faer::{Mat, Par};
use betaedit_core::session::{Session, SessionBuilder};
use betaedit_core::{Error, Refresh, Result};

use super::model::{Stack, builder, facts, recipe, refreshes};

/// A folder of its own, gone at the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("betaedit-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn durable(path: &Path, refresh: Refresh) -> SessionBuilder<NamedRecipe> {
    builder(2, recipe(refresh)).directory(path).snapshot_every(5)
}

fn open(path: &Path, refresh: Refresh) -> Result<Session<Stack>> {
    Ok(durable(path, refresh).open(Stack::new(2), Par::Seq)?)
}

/// The weights after every batch of a stream.
fn run(session: &mut Session<Stack>, seed: u64, batches: usize) -> Vec<Vec<Mat<f64>>> {
    let batches = facts(seed, 2 * batches);
    let mut weights = vec![session.adapter().W.clone()];
    for batch in batches.chunks(2) {
        assert!(session.edit(batch).unwrap().is_applied());
        weights.push(session.adapter().W.clone());
    }
    weights
}

/// Opened again and again, in the middle of everything, the run is bit for bit that of a session that was never closed.
#[test]
fn a_session_that_is_opened_again_goes_on_bit_for_bit() {
    for refresh in refreshes() {
        let (folder, stream) = (Folder::new("again"), facts(1, 16));
        let mut reference = builder(2, recipe(refresh)).open(Stack::new(2), Par::Seq).unwrap();
        for (i, fact) in stream.iter().enumerate() {
            let mut session = open(folder.path(), refresh).unwrap();
            assert_eq!((session.processed(), session.recovery().resumed), (reference.processed(), i > 0));
            let one = std::slice::from_ref(fact);
            assert_eq!(session.edit(one).unwrap().is_applied(), reference.edit(one).unwrap().is_applied());
            if i % 6 == 4 {
                let id = [(i as u64 - 2).into()];
                assert_eq!(session.undo(&id).unwrap(), reference.undo(&id).unwrap());
            }
            if i == 11 {
                session.replace(&[7.into()], &stream[..1]).unwrap().applied().unwrap();
                reference.replace(&[7.into()], &stream[..1]).unwrap().applied().unwrap();
            }
            assert_eq!(session.adapter().W, reference.adapter().W, "{refresh:?}, edit {i}");
            assert!(session.states().eq(reference.states()));
            assert!(session.snapshot_failure().is_none());
        }
        let session = open(folder.path(), refresh).unwrap();
        assert!(session.recovery().replayed < 6, "{:?}", session.recovery());
        assert_eq!(session.report(), reference.report());
        assert_eq!(session.total(4).unwrap(), reference.total(4).unwrap());
    }
}

#[test]
fn a_journal_cut_at_any_byte_of_its_last_record_loses_that_record_alone() {
    let folder = Folder::new("cut");
    let path = folder.path();
    let weights = run(&mut open(path, Refresh::Never).unwrap(), 2, 4);
    let journal = path.join("journal");
    let whole = fs::read(&journal).unwrap();
    let before = {
        let other = Folder::new("cut-before");
        run(&mut open(other.path(), Refresh::Never).unwrap(), 2, 3);
        fs::read(other.path().join("journal")).unwrap().len()
    };
    fs::remove_file(path.join("snapshot")).unwrap();
    for length in before..whole.len() {
        fs::write(&journal, &whole[..length]).unwrap();
        let session = open(path, Refresh::Never).unwrap();
        assert_eq!((session.processed(), &session.adapter().W), (6, &weights[3]), "{length}");
        assert_eq!(session.recovery().dropped_bytes, (length - before) as u64);
        assert_eq!(fs::metadata(&journal).unwrap().len(), before as u64);
    }
    // A snapshot from beyond the end is left aside.
    run(&mut open(path, Refresh::Never).unwrap(), 3, 3);
    fs::write(&journal, &whole[..before]).unwrap();
    let session = open(path, Refresh::Never).unwrap();
    assert_eq!(session.adapter().W, weights[3]);
    assert!(session.recovery().snapshot_ignored.is_some());
}

/// Flipped bits anywhere in any file: an error, or the very state that was committed.
#[test]
fn damage_is_never_silent() {
    let folder = Folder::new("flip");
    let path = folder.path();
    let weights = run(&mut open(path, Refresh::Never).unwrap(), 4, 4);
    let last = weights.last().unwrap();
    let everything = std::env::var_os("BETAEDIT_LONG").is_some();
    let (mut refused, mut unharmed) = (0, 0);
    for name in ["journal", "snapshot", "base"] {
        let file = path.join(name);
        let whole = fs::read(&file).unwrap();
        let step = if everything { 1 } else { (whole.len() / 150).max(1) };
        for at in (0..whole.len()).step_by(step).chain(0..100.min(whole.len())) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&file, &damaged).unwrap();
            match open(path, Refresh::Never) {
                Err(Error::File(FileError::Format { path, problem })) => {
                    assert!(path == file && !problem.is_empty());
                    assert_eq!(fs::read(&file).unwrap(), damaged, "a damaged file is left as it is");
                    refused += 1;
                }
                Err(error) => panic!("{name}, byte {at}: {error}"),
                Ok(session) => {
                    assert_ne!(name, "journal", "byte {at}");
                    assert_eq!((session.processed(), &session.adapter().W), (8, last), "{name}, byte {at}");
                    assert!(name == "base" || session.recovery().snapshot_ignored.is_some());
                    unharmed += 1;
                }
            }
        }
        fs::write(&file, &whole).unwrap();
    }
    // The journal cannot be done without; the other two can, as long as one of them is whole.
    assert!(refused > 100 && unharmed > 100, "{refused} {unharmed}");
    for name in ["snapshot", "base"] {
        let file = path.join(name);
        let mut bytes = fs::read(&file).unwrap();
        bytes.truncate(bytes.len() / 2);
        fs::write(&file, bytes).unwrap();
    }
    assert!(matches!(open(path, Refresh::Never), Err(Error::File(FileError::Format { .. }))));
}

#[test]
fn a_session_of_something_else_is_refused_and_named() {
    let folder = Folder::new("other");
    run(&mut open(folder.path(), Refresh::Never).unwrap(), 5, 1);
    let problem = |opened: Result<Session<Stack>>| match opened {
        Err(Error::File(FileError::Format { problem, .. })) => problem,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("another session was opened"),
    };
    assert!(problem(open(folder.path(), refreshes()[1])).contains("method"));
    let deeper = builder(2, recipe(Refresh::Never)).directory(folder.path()).open(Stack::new(3), Par::Seq);
    assert!(problem(deeper.map_err(Error::from)).contains("its model is `a stack of 2`"));
    let fewer = builder(1, recipe(Refresh::Never)).directory(folder.path()).open(Stack::new(2), Par::Seq);
    assert!(problem(fewer.map_err(Error::from)).contains("layer 4"));
    // Another process, or the same one twice.
    let first = open(folder.path(), Refresh::Never).unwrap();
    let locked = open(folder.path(), Refresh::Never).unwrap_err();
    assert!(matches!(&locked, Error::File(FileError::Locked { path }) if path.ends_with("journal")), "{locked}");
    drop(first);
    assert!(open(folder.path(), Refresh::Never).is_ok());
}

#[test]
fn a_place_that_cannot_be_written_is_an_error_and_loses_nothing() {
    let folder = Folder::new("place");
    let file = folder.path().join("a-file");
    fs::write(&file, "").unwrap();
    for place in [file.join("below"), PathBuf::from("/proc/betaedit")] {
        assert!(matches!(open(&place, Refresh::Never), Err(Error::File(FileError::Io { .. }))), "{}", place.display());
    }
    fs::create_dir(folder.path().join("empty")).unwrap();
    fs::write(folder.path().join("empty/journal"), "x").unwrap();
    assert!(matches!(open(&folder.path().join("empty"), Refresh::Never), Err(Error::File(FileError::Format { .. }))));
}

/// A disk that is full when a snapshot is written: the batch counts, the failure is told, and the next snapshot is tried.
#[cfg(target_os = "linux")]
#[test]
fn a_snapshot_that_does_not_fit_costs_nothing_but_time() {
    let folder = Folder::new("full");
    let mut session = open(folder.path(), Refresh::Never).unwrap();
    let snapshot = folder.path().join("snapshot");
    std::os::unix::fs::symlink("/dev/full", &snapshot).unwrap();
    let weights = run(&mut session, 6, 3);
    assert!(matches!(session.snapshot_failure(), Some(Error::File(FileError::Io { .. }))));
    assert!(session.snapshot().is_err());
    drop(session);
    fs::remove_file(&snapshot).unwrap();
    let mut session = open(folder.path(), Refresh::Never).unwrap();
    assert_eq!(session.adapter().W, weights[3]);
    session.snapshot().unwrap();
    assert!(fs::metadata(&snapshot).unwrap().is_file());
}

/// Long sessions: what an edit costs and what the process holds do not grow. `BETAEDIT_LONG=1` makes 100,000 edits of it.
#[cfg(target_os = "linux")]
#[test]
fn a_long_session_stays_flat() {
    use std::time::Instant;

    let long = std::env::var_os("BETAEDIT_LONG").is_some();
    let edits: usize = if long { 100_000 } else { 4_000 };
    let folder = Folder::new("long");
    let mut session = super::model::wide(256).directory(folder.path()).snapshot_every(edits / 4);
    session = session.without_gauges();
    let mut session = session.open(super::model::Wide::new(256), Par::Seq).unwrap();
    let resident = || {
        let status = fs::read_to_string("/proc/self/statm").unwrap();
        status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let (mut seconds, mut memory) = (Vec::new(), Vec::new());
    for tenth in 0..10_u64 {
        let clock = Instant::now();
        for request in tenth * edits as u64 / 10..(tenth + 1) * edits as u64 / 10 {
            assert!(session.edit(&[request]).unwrap().is_applied());
        }
        seconds.push(clock.elapsed().as_secs_f64() / (edits / 10) as f64);
        memory.push(resident());
    }
    println!("seconds an edit, by tenths: {seconds:?}\nbytes resident: {memory:?}");
    let grown = memory[9].saturating_sub(memory[0]);
    assert!(grown < 300 * edits as u64 + (8 << 20), "{grown} bytes more");
    let median = |part: &[f64]| {
        let mut part = part.to_vec();
        part.sort_by(f64::total_cmp);
        part[part.len() / 2]
    };
    // Loose: a test machine does other things as well.
    assert!(median(&seconds[5..]) < 3.0 * median(&seconds[..5]), "{seconds:?}");
}
