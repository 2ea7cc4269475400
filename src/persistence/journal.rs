//! Appends records and commits them in groups.
//!
//! Writers append to the pending batch in memory, under their shard's lock, and get its number: the
//! mark to wait for. Whoever waits first, with no write under way, leads: it takes the batch, seals
//! it, writes and fsyncs it with no lock held, and wakes the others. All who arrive meanwhile share
//! the next batch. A lone client leads its own batches on its own thread and is never handed over.
//!
//! Invariants:
//! - batches are written in the order of their numbers, one at a time;
//! - `committed` passes a batch only once it may be acknowledged: fsynced under `always`, written
//!   otherwise;
//! - a seal's durable mark is the highest batch whose fsync had succeeded;
//! - after a failed write or fsync nothing is ever committed again on this file;
//! - at most one batch is being written, and one fsync of written batches is under way.
//!
//! Lock order: a shard's lock may be held when the journal's is taken, never the other way.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::format::{Checksum, FileId, Seal};
use super::scan::Sealed;
use crate::limits::{CLIENT_SPARE_BYTES_MAX, JOURNAL_SPARE_BYTES_MAX};
use crate::sync::{AbortOnPanic, lock, wait};

/// The number of a batch: whoever shows what it changed waits until it is committed.
pub type Mark = u64;

/// When what was written is made to survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before it is acknowledged.
    Always,
    /// Each second; a power cut may take the last second or so.
    Everysec,
    /// When the system pleases.
    No,
}

impl Fsync {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Always, Self::Everysec, Self::No];

    /// As on the command line and in Redis's `appendfsync`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Everysec => "everysec",
            Self::No => "no",
        }
    }
}

/// Why a write is not acknowledged. It may or may not be found after a restart.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct WriteRefused(Arc<str>);

/// Where a journal goes on in its file.
#[derive(Debug)]
pub struct Position {
    /// The file's id.
    pub id: FileId,
    /// Number of the last batch in it.
    pub last: u64,
    /// Number of the last batch that holds records.
    pub last_with_records: u64,
    /// The highest durable mark written in it.
    pub marked: u64,
}

impl Position {
    /// The place after the header of a new file.
    pub fn start(id: FileId) -> Self {
        Self { id, last: 0, last_with_records: 0, marked: 0 }
    }

    /// The place after the good batches of a scanned file.
    pub fn after(sealed: &Sealed) -> Self {
        let Sealed { id, last, last_with_records, durable: marked, .. } = *sealed;
        Self { id, last, last_with_records, marked }
    }
}

/// The append-only end of a data file.
#[derive(Debug)]
pub struct Journal {
    // Constant after construction.
    file: File,
    path: PathBuf,
    id: FileId,
    fsync: Fsync,

    // Their own synchronization.
    /// The highest batch that may be acknowledged.
    committed: AtomicU64,
    /// `State::failure` is set.
    failed: AtomicBool,
    /// Waiters for batches of even and of odd numbers: only two batches can have any.
    woken: [Condvar; 2],

    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Records appended and not yet taken by a leader.
    pending: Vec<u8>,
    pending_records: u64,
    /// Number the pending batch will have.
    number: u64,
    /// A leader is writing batch `number - 1`.
    writing: bool,
    /// Someone fsyncs what is committed.
    syncing: bool,
    /// Nothing more is appended.
    closing: bool,
    /// The highest batch known to be fsynced.
    synced: u64,
    /// The highest durable mark in the file.
    marked: u64,
    /// The last batch that holds records.
    last_with_records: u64,
    /// A leader's buffer, to be used again.
    spare: Vec<u8>,
    failure: Option<WriteRefused>,
}

impl Journal {
    /// A journal that goes on at `position` of `file`, which is open for appending, locked and
    /// fsynced.
    pub fn new(file: File, path: PathBuf, fsync: Fsync, position: Position) -> Self {
        let Position { id, last, last_with_records, marked } = position;
        let state = State {
            pending: Vec::new(),
            pending_records: 0,
            number: last + 1,
            writing: false,
            syncing: false,
            closing: false,
            synced: last,
            marked,
            last_with_records,
            spare: Vec::new(),
            failure: None,
        };
        Self {
            file,
            path,
            id,
            fsync,
            committed: AtomicU64::new(last),
            failed: AtomicBool::new(false),
            woken: [Condvar::new(), Condvar::new()],
            state: Mutex::new(state),
        }
    }

    /// The data file's absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says whether writes are taken. Ask before changing memory.
    pub fn check(&self) -> Result<(), WriteRefused> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        match &lock(&self.state).failure {
            Some(refused) => Err(refused.clone()),
            None => Ok(()),
        }
    }

    /// Adds `records`, whole lines of which there are `count`, to the pending batch: all of them
    /// will be in the file or none. Call it with the locks of all shards it changes held and before
    /// it changes them, so that the file has the order of memory. `records` may be exchanged for
    /// another buffer: a large record is not copied.
    pub fn append(&self, records: &mut Vec<u8>, count: u64) -> Result<Mark, WriteRefused> {
        let mut state = lock(&self.state);
        if let Some(refused) = &state.failure {
            return Err(refused.clone());
        }
        if state.closing {
            return Err(stopping());
        }
        if state.pending.is_empty() && records.len() > CLIENT_SPARE_BYTES_MAX {
            std::mem::swap(&mut state.pending, records);
        } else {
            state.pending.extend_from_slice(records);
        }
        state.pending_records += count;
        Ok(state.number)
    }

    /// The highest batch that may be acknowledged.
    pub fn committed(&self) -> Mark {
        self.committed.load(Ordering::Acquire)
    }

    /// Whether everything up to `mark` may be acknowledged already.
    pub fn is_committed(&self, mark: Mark) -> bool {
        self.committed() >= mark
    }

    /// Waits until everything up to `mark` may be acknowledged, writing it if no one else does.
    pub fn commit(&self, mark: Mark) -> Result<(), WriteRefused> {
        if self.is_committed(mark) {
            return Ok(());
        }
        let mut state = lock(&self.state);
        loop {
            if self.is_committed(mark) {
                return Ok(());
            }
            if let Some(refused) = &state.failure {
                return Err(refused.clone());
            }
            state = match state.writing {
                true => wait(&self.woken[mark as usize % 2], state),
                false => self.lead(state),
            };
        }
    }

    /// Writes the pending batch, empty or not, with the lock released meanwhile.
    fn lead<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        assert!(!state.writing, "one leader at a time");
        let spare = std::mem::take(&mut state.spare);
        let mut batch = std::mem::replace(&mut state.pending, spare);
        let records = std::mem::take(&mut state.pending_records);
        let (number, durable) = (state.number, state.synced);
        state.number += 1;
        state.writing = true;
        drop(state);

        // Others wait for this thread: it must not vanish.
        let guard = AbortOnPanic;
        let written = self.write(&mut batch, number, records, durable);
        batch.clear();
        batch.shrink_to(JOURNAL_SPARE_BYTES_MAX);
        std::mem::forget(guard);

        let mut state = lock(&self.state);
        state.writing = false;
        state.spare = batch;
        match written {
            // Another thread's fsync failed meanwhile: nobody knows what of this is on disk.
            _ if state.failure.is_some() => {}
            Ok(()) => {
                state.marked = durable;
                if records > 0 {
                    state.last_with_records = number;
                }
                if self.fsync == Fsync::Always {
                    state.synced = number;
                }
                self.committed.store(number, Ordering::Release);
                // One of those who wait for the next batch leads it.
                self.woken[(number + 1) as usize % 2].notify_one();
            }
            Err(error) => self.fail(&mut state, &error),
        }
        self.woken[number as usize % 2].notify_all();
        state
    }

    fn write(
        &self,
        batch: &mut Vec<u8>,
        number: u64,
        records: u64,
        durable: u64,
    ) -> io::Result<()> {
        let mut checksum = Checksum::new(self.id);
        checksum.update(batch);
        write!(batch, "{}", Seal::close(number, records, durable, checksum))?;
        (&self.file).write_all(batch)?;
        match self.fsync {
            Fsync::Always => self.file.sync_data(),
            Fsync::Everysec | Fsync::No => Ok(()),
        }
    }

    fn fail(&self, state: &mut State, error: &io::Error) {
        log::error!(
            "{}: {error}: writes are refused from now on and those under way are taken back, reads go \
             on; make the disk well and restart",
            self.path.display()
        );
        self.refuse(state, WriteRefused(error.to_string().into()));
    }

    fn refuse(&self, state: &mut State, reason: WriteRefused) {
        state.failure = Some(reason);
        self.failed.store(true, Ordering::Release);
        self.woken.iter().for_each(Condvar::notify_all);
    }

    /// Under `everysec`, fsyncs what is written; call it each second.
    pub fn sync_second(&self) {
        if self.fsync == Fsync::Everysec {
            drop(self.sync(lock(&self.state)));
        }
    }

    /// Once nothing has been appended since the last call, writes an empty batch whose seal marks
    /// the last records as durable, so that damage to them can be told from a crash.
    ///
    /// `before` is what the last call returned, at first 0.
    pub fn mark_idle(&self, before: Mark) -> Mark {
        let state = lock(&self.state);
        let written = state.number - 1;
        let idle = written == before && !state.writing && state.pending.is_empty();
        let durable = state.last_with_records <= state.synced;
        if idle && durable && state.is_unmarked() && !state.closing && state.failure.is_none() {
            drop(self.lead(state));
        }
        written
    }

    /// Fsyncs what is committed and not yet synced, with the lock released meanwhile.
    fn sync<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while state.syncing {
            state = wait(&self.woken[0], state);
        }
        let target = self.committed();
        if state.failure.is_some() || state.synced >= target {
            return state;
        }
        state.syncing = true;
        drop(state);
        let guard = AbortOnPanic;
        let synced = self.file.sync_data();
        std::mem::forget(guard);
        let mut state = lock(&self.state);
        state.syncing = false;
        self.woken[0].notify_all();
        match synced {
            _ if state.failure.is_some() => {}
            Ok(()) => state.synced = target,
            Err(error) => self.fail(&mut state, &error),
        }
        state
    }

    /// Takes no more, commits what is pending, makes everything durable whatever the mode, and marks
    /// it so. After an error some acknowledged writes may not be durable.
    pub fn close(&self) -> Result<(), WriteRefused> {
        let mut state = lock(&self.state);
        state.closing = true;
        while state.failure.is_none() && (state.writing || !state.pending.is_empty()) {
            let last = state.number - 1;
            state = match state.writing {
                true => wait(&self.woken[last as usize % 2], state),
                false => self.lead(state),
            };
        }
        // From here on nobody else writes: nothing is pending and nothing can be appended.
        state = self.sync(state);
        if state.failure.is_none() && state.is_unmarked() {
            state = self.lead(state);
            state = self.sync(state);
        }
        match &state.failure {
            Some(refused) => Err(refused.clone()),
            None => {
                self.refuse(&mut state, stopping());
                Ok(())
            }
        }
    }
}

impl State {
    /// Whether there are records that no seal marks as durable.
    fn is_unmarked(&self) -> bool {
        self.marked < self.last_with_records
    }
}

fn stopping() -> WriteRefused {
    WriteRefused("the server is stopping".into())
}
