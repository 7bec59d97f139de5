//! An append-only file of records. The hash of each record is chained to that of the record before.
//!
//! ```text
//! journal = magic (8 bytes)  record*
//! record  = length (u64)  kind (u8)  head check (8)  payload (length)  check (16)
//! ```
//!
//! Numbers are little endian. `head check` is the beginning of BLAKE3 over the previous check, length and kind; `check` is the
//! beginning of BLAKE3 over the previous check, length, kind and payload. So a truncated record, whose head is intact or
//! incomplete, can be told from a damaged one.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, FileError, Result};
use crate::util::atomic_file::{io_error, make_own};

const MAGIC: [u8; 8] = *b"betajrn1";
const HEAD: usize = 17;
const CHECK: usize = 16;

/// The place of the first record.
const START: Mark = Mark { offset: MAGIC.len() as u64, check: [0; CHECK] };

/// A place between two records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) offset: u64,
    pub(super) check: [u8; CHECK],
}

/// The records of a session, in a file or in memory.
#[derive(Debug)]
pub(super) struct Journal {
    storage: Storage,
    end: Mark,
    /// Whether bytes of a failed write may follow the end.
    unclean: bool,
}

#[derive(Debug)]
enum Storage {
    Memory(Vec<u8>),
    File { file: File, path: PathBuf },
}

/// What follows a mark.
enum Next {
    Record {
        kind: u8,
        payload: Vec<u8>,
        end: Mark,
    },
    End,
    /// The file ends within a record.
    CutOff,
}

impl Journal {
    pub(super) fn in_memory() -> Self {
        Self { storage: Storage::Memory(MAGIC.to_vec()), end: START, unclean: false }
    }

    /// Creates a journal in a file that does not exist yet.
    pub(super) fn create(path: &Path) -> Result<Self> {
        crate::util::atomic_file::write_whole(path, &MAGIC)?;
        Ok(Self { storage: open(path)?, end: START, unclean: false })
    }

    /// Opens a journal and passes every record (its place, kind and payload) to `visit`. A truncated record at the end is
    /// dropped; its length is returned.
    pub(super) fn open(path: &Path, mut visit: impl FnMut(Mark, u8, &[u8]) -> Result<()>) -> Result<(Self, u64)> {
        let start = Mark { offset: 0, check: [0; CHECK] };
        // A copy of a session made of links is a session of its own.
        make_own(path)?;
        let mut journal = Self { storage: open(path)?, end: start, unclean: false };
        let mut magic = [0; MAGIC.len()];
        let length = journal.length()?;
        if length < MAGIC.len() as u64 || journal.read_at(0, &mut magic).is_err() || magic != MAGIC {
            let problem = "not the journal of a session, or of an unknown version".into();
            return Err(FileError::Format { path: path.to_owned(), problem }.into());
        }
        journal.end = START;
        let mut records = 0;
        loop {
            match journal.next(journal.end, records)? {
                Next::Record { kind, payload, end } => {
                    visit(journal.end, kind, &payload)?;
                    journal.end = end;
                    records += 1;
                }
                Next::End => return Ok((journal, 0)),
                Next::CutOff => {
                    let dropped = length - journal.end.offset;
                    journal.truncate(journal.end)?;
                    return Ok((journal, dropped));
                }
            }
        }
    }

    pub(super) fn start(&self) -> Mark {
        START
    }

    /// Whether a record, or the end, is at a place.
    pub(super) fn holds(&mut self, place: Mark) -> bool {
        place == self.end || (place.offset < self.end.offset && self.read(place).is_ok())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end == START
    }

    pub(super) fn end(&self) -> Mark {
        self.end
    }

    /// Adds a record and waits until it is on the disk. After an error the journal is as it was.
    pub(super) fn append(&mut self, kind: u8, payload: &[u8]) -> Result<Mark> {
        let (place, end) = (self.end, Self::seal(self.end, kind, payload));
        let mut record = Vec::with_capacity(HEAD + payload.len() + CHECK);
        record.extend((payload.len() as u64).to_le_bytes());
        record.push(kind);
        record.extend(head_check(place.check, payload.len(), kind));
        record.extend(payload);
        record.extend(end.check);
        match &mut self.storage {
            Storage::Memory(bytes) => bytes.extend(record),
            Storage::File { file, path } => {
                let unclean = self.unclean;
                let write = |file: &mut File| {
                    if unclean {
                        file.set_len(place.offset)?;
                    }
                    file.seek(SeekFrom::Start(place.offset))?;
                    file.write_all(&record)?;
                    file.sync_data()
                };
                if let Err(error) = write(file) {
                    // The next opening would drop the incomplete record as well.
                    self.unclean = file.set_len(place.offset).is_err();
                    return Err(io_error(path)(error));
                }
            }
        }
        (self.end, self.unclean) = (end, false);
        Ok(place)
    }

    /// The record at a place.
    pub(super) fn read(&mut self, place: Mark) -> Result<(u8, Vec<u8>, Mark)> {
        match self.next(place, 0)? {
            Next::Record { kind, payload, end } => Ok((kind, payload, end)),
            Next::End | Next::CutOff => Err(self.damaged(place, "the record is no longer there")),
        }
    }

    fn seal(place: Mark, kind: u8, payload: &[u8]) -> Mark {
        let mut hasher = hasher(place.check, payload.len(), kind);
        hasher.update(payload);
        let mut check = [0; CHECK];
        check.copy_from_slice(&hasher.finalize().as_bytes()[..CHECK]);
        Mark { offset: place.offset + (HEAD + payload.len() + CHECK) as u64, check }
    }

    fn next(&mut self, place: Mark, record: u64) -> Result<Next> {
        let left = self.length()?.saturating_sub(place.offset);
        if left == 0 {
            return Ok(Next::End);
        }
        if left < HEAD as u64 {
            return Ok(Next::CutOff);
        }
        let mut head = [0; HEAD];
        self.read_at(place.offset, &mut head)?;
        let (length, kind) = (u64::from_le_bytes(head[..8].try_into().expect("8 bytes")), head[8]);
        let sound = usize::try_from(length).is_ok_and(|length| head[9..] == head_check(place.check, length, kind));
        if !sound {
            return Err(self.damaged(place, &format!("the head of record {record} does not match its hash")));
        }
        if left - (HEAD as u64) < length.saturating_add(CHECK as u64) {
            return Ok(Next::CutOff);
        }
        let mut payload = vec![0; length as usize + CHECK];
        self.read_at(place.offset + HEAD as u64, &mut payload)?;
        let check = payload.split_off(length as usize);
        let end = Self::seal(place, kind, &payload);
        if check != end.check {
            return Err(self.damaged(place, &format!("record {record} does not match its hash")));
        }
        Ok(Next::Record { kind, payload, end })
    }

    fn damaged(&self, place: Mark, problem: &str) -> Error {
        let path = match &self.storage {
            Storage::Memory(_) => PathBuf::from("the journal in memory"),
            Storage::File { path, .. } => path.clone(),
        };
        let problem = format!(
            "damaged at byte {}: {problem}. Everything before that byte is intact; to continue from there and lose the rest, \
             truncate the file to {} bytes",
            place.offset, place.offset
        );
        FileError::Format { path, problem }.into()
    }

    fn length(&self) -> Result<u64> {
        match &self.storage {
            Storage::Memory(bytes) => Ok(bytes.len() as u64),
            Storage::File { file, path } => Ok(file.metadata().map_err(io_error(path))?.len()),
        }
    }

    fn truncate(&mut self, place: Mark) -> Result<()> {
        if let Storage::File { file, path } = &mut self.storage {
            file.set_len(place.offset).and_then(|()| file.sync_data()).map_err(io_error(path))?;
        }
        Ok(())
    }

    fn read_at(&mut self, offset: u64, to: &mut [u8]) -> Result<()> {
        match &mut self.storage {
            Storage::Memory(bytes) => {
                let start = offset as usize;
                match bytes.get(start..start + to.len()) {
                    Some(bytes) => to.copy_from_slice(bytes),
                    None => return Err(self.damaged(self.end, "the journal ends early")),
                }
                Ok(())
            }
            Storage::File { file, path } => {
                file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(to)).map_err(io_error(path))
            }
        }
    }
}

/// How often a lock that is held elsewhere is tried, and the time between tries. A process that is just being started briefly has
/// a copy of every file that its parent had open, and so may hold a lock that the parent has released.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

/// Opens a file and locks it for this process.
fn open(path: &Path) -> Result<Storage> {
    let file = File::options().read(true).write(true).open(path).map_err(io_error(path))?;
    let mut locked = file.try_lock();
    for _ in 1..TRIES {
        if !matches!(locked, Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(BETWEEN_TRIES);
        locked = file.try_lock();
    }
    match locked {
        Ok(()) => Ok(Storage::File { file, path: path.to_owned() }),
        Err(TryLockError::WouldBlock) => Err(FileError::Locked { path: path.to_owned() }.into()),
        Err(TryLockError::Error(error)) => Err(io_error(path)(error)),
    }
}

fn hasher(before: [u8; CHECK], length: usize, kind: u8) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&before);
    hasher.update(&(length as u64).to_le_bytes());
    hasher.update(&[kind]);
    hasher
}

fn head_check(before: [u8; CHECK], length: usize, kind: u8) -> [u8; 8] {
    let mut check = [0; 8];
    check.copy_from_slice(&hasher(before, length, kind).finalize().as_bytes()[..8]);
    check
}
