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
//! - after a failed write or fsync nothing is ever committed again on this file.
//!
//! Lock order: a shard's lock may be held when the journal's is taken, never the other way.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::format::{Checksum, FileId, Seal};
use super::scan::Sealed;
use crate::limits::SPARE_BYTES_MAX;
use crate::sync::{AbortOnPanic, lock, wait};

/// The number of a batch: whoever shows what it changed waits until it is committed.
pub type Mark = u64;

/// When what was written is made to survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fsync {
    /// Before it is acknowledged.
    Always,
    /// Each second; a power cut may take the last second or so.
    Everysec,
    /// When the system pleases.
    No,
}

impl Fsync {
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
#[error("MISCONF Errors writing to the AOF file: {0}")]
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
    /// will be in the file or none. Call it with the locks of all changed shards held, so that the
    /// file has the order of memory.
    pub fn append(&self, records: &[u8], count: u64) -> Mark {
        let mut state = lock(&self.state);
        state.pending.extend_from_slice(records);
        state.pending_records += count;
        state.number
    }

    /// Whether everything up to `mark` may be acknowledged already.
    pub fn is_committed(&self, mark: Mark) -> bool {
        self.committed.load(Ordering::Acquire) >= mark
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
        batch.shrink_to(SPARE_BYTES_MAX);
        std::mem::forget(guard);

        let mut state = lock(&self.state);
        state.writing = false;
        state.spare = batch;
        match written {
            Ok(()) => {
                state.marked = durable;
                if records > 0 {
                    state.last_with_records = number;
                }
                if self.fsync == Fsync::Always {
                    state.synced = state.synced.max(number);
                }
                self.committed.store(number, Ordering::Release);
                self.woken[number as usize % 2].notify_all();
                // One of those who wait for the next batch leads it.
                self.woken[(number + 1) as usize % 2].notify_one();
            }
            Err(error) => self.fail(&mut state, &error),
        }
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
        if state.failure.is_some() {
            return;
        }
        log::error!(
            "{}: {error}: writes are refused from now on, reads go on; make the disk well and restart",
            self.path.display()
        );
        self.refuse(state, &error.to_string());
    }

    fn refuse(&self, state: &mut State, reason: &str) {
        state.failure = Some(WriteRefused(reason.into()));
        self.failed.store(true, Ordering::Release);
        self.woken.iter().for_each(Condvar::notify_all);
    }

    /// Under `everysec`, fsyncs what is written; call it each second.
    pub fn sync_second(&self) {
        let state = lock(&self.state);
        if self.fsync == Fsync::Everysec && state.synced < self.committed.load(Ordering::Acquire) {
            drop(self.sync(state));
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
        let unmarked = state.marked < state.last_with_records;
        let durable = state.last_with_records <= state.synced;
        if idle && unmarked && durable && state.failure.is_none() {
            drop(self.lead(state));
        }
        written
    }

    /// Fsyncs what is committed, with the lock released meanwhile.
    fn sync<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if state.failure.is_some() {
            return state;
        }
        let target = self.committed.load(Ordering::Acquire);
        drop(state);
        let synced = self.file.sync_data();
        let mut state = lock(&self.state);
        match synced {
            Ok(()) => state.synced = state.synced.max(target),
            Err(error) => self.fail(&mut state, &error),
        }
        state
    }

    /// Commits what is pending, makes everything durable whatever the mode, marks it so, and
    /// refuses all further writes. After an error some acknowledged writes may not be durable.
    pub fn close(&self) -> Result<(), WriteRefused> {
        let pending = lock(&self.state).number;
        if !lock(&self.state).pending.is_empty() {
            self.commit(pending)?;
        }
        let mut state = lock(&self.state);
        while state.writing {
            let next = state.number - 1;
            state = wait(&self.woken[next as usize % 2], state);
        }
        state = self.sync(state);
        if state.failure.is_none() && state.marked < state.last_with_records {
            state = self.lead(state);
            state = self.sync(state);
        }
        if let Some(refused) = &state.failure {
            return Err(refused.clone());
        }
        self.refuse(&mut state, "the server is stopping");
        Ok(())
    }
}
