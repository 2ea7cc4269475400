//! Appends records and commits them in groups.
//!
//! A writer appends its records to the pending batch in memory, under its shard's lock, and gets the batch's sequence:
//! what its reply has to wait for. The first thread that waits for the batch with no write under way leads: it takes the
//! batch, seals it, writes and fsyncs it with no lock held, and wakes the followers. What is appended meanwhile shares
//! the next batch. A lone client leads its own batches on its own thread, with no handover.
//!
//! A follower may register a [`CommitCallback`] instead of blocking. The leader runs the callbacks of the finished batch
//! ([`run_callbacks`](Journal::run_callbacks)), so one thread that is awake answers fifty clients instead of waking
//! fifty threads.
//!
//! Sequences count the batches of this run, whatever file they are written to; a seal's number counts within its file.
//! A fault refuses writes until the file is repaired (`cut_back` or `replace`, then `resume`), which begins an epoch.
//! The batches that were not committed then are *aborted*: they never commit, though `committed` passes their sequences
//! later. A [`CommitPoint`] holds its epoch, so an aborted sequence is not taken for a committed one.
//!
//! Invariants:
//! - batches are written in the order of their sequences, one at a time;
//! - `committed` passes a batch only once it may be acknowledged: fsynced under `always`, written otherwise, and with
//!   the file verified to be where it was;
//! - a seal's durable mark is the highest batch whose fsync had succeeded;
//! - a file of which an fsync failed gets no further byte;
//! - at most one batch is being written, and one fsync of written batches is under way.
//!
//! [`replace`] changes the file as a whole: it is cut back, replaced, compacted.
//!
//! Lock order: a shard's lock may be held when the journal's is taken, never the other way.

mod flushed;
mod replace;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::format::{Checksum, SELECT_BYTES_MAX, Seal, write_select, write_time};
use super::new_file::Segment;
use super::records::Records;
use crate::limits::{JOURNAL_SPARE_BYTES_MAX, SLOWED_BYTES_PER_S};
use crate::util::clock::unix_time_s;
use crate::util::memory::{self, NoMemory};
use crate::util::sync::{AbortOnPanic, lock, wait, wait_timeout};

pub use replace::{Flushing, SwitchError, TailReader};

/// What a reply has to wait for: a batch, and the epoch in which it was pending or written.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommitPoint {
    /// The batch's sequence; 0 for nothing to wait for.
    pub sequence: u64,
    /// The journal's epoch when the sequence was read, or an earlier one.
    pub epoch: u64,
}

/// Runs when the batch that it waits for is committed or aborted.
pub trait CommitCallback: fmt::Debug + Send + Sync {
    /// `outcome` says whether the point that it was registered with, or a lower one, is committed. Runs before the
    /// callbacks registered after it, so it must not wait for anything.
    fn completed(self: Arc<Self>, outcome: &dyn Fn(CommitPoint) -> Result<(), WriteRefused>);
}

/// When what was written is made to survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before it is acknowledged.
    Always,
    /// Each second; a power cut may take the last second or so.
    Everysec,
    /// Left to the system.
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

/// What a command or a transaction adds to the file: all of it or nothing.
#[derive(Debug)]
pub struct Addition<'a> {
    /// Whole lines. They are taken: a large record changes hands, and is not copied.
    pub records: &'a mut Records,
    /// How many records they are.
    pub count: u64,
    /// The database in which they begin, and the one that they have selected at the end.
    pub databases: (usize, usize),
    /// How much of the file they supersede, in bytes.
    pub garbage: u64,
    /// The last `FLUSHALL` or `FLUSHDB` among them.
    pub flush: Option<Flush>,
}

/// A `FLUSHALL` or `FLUSHDB` whose record is in the file: without its line the keys are there again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flush {
    /// When it ran, in seconds of Unix time.
    pub time_s: u64,
    /// About how much of the file the removed keys are, in bytes.
    pub bytes: u64,
}

/// Why a write is not acknowledged. It may or may not be found after a restart.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct WriteRefused(Arc<str>);

/// What repairs the file after a failure, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repair {
    /// Cutting off what was written of a batch.
    CutBack,
    /// A complete new file: the content of this one is uncertain.
    Rewrite,
    /// The same, and the file now at the path, which another process put there or changed, is kept under another name.
    RewriteBeside,
}

/// Why a batch is not committed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Write(io::Error),
    #[error("fsync: {0}")]
    Sync(io::Error),
    #[error("{0}")]
    Replaced(&'static str),
}

impl Failure {
    fn repair(&self) -> Repair {
        match self {
            Self::Write(_) => Repair::CutBack,
            Self::Sync(_) => Repair::Rewrite,
            Self::Replaced(_) => Repair::RewriteBeside,
        }
    }
}

/// The append-only end of a data file.
#[derive(Debug)]
pub struct Journal {
    // Constant after construction.
    disk: Arc<dyn Disk>,
    path: PathBuf,
    fsync: Fsync,
    started: Instant,

    // Their own synchronization.
    /// When the path was last verified, in milliseconds since the start.
    verified_ms: AtomicU64,
    /// The highest sequence that may be acknowledged.
    committed: AtomicU64,
    /// Counts the repairs: see [`CommitPoint`].
    epoch: AtomicU64,
    /// `State::fault` is set, or it is closed.
    refusing: AtomicBool,
    /// `State::due` is not empty.
    has_completed: AtomicBool,
    /// Length of the data file, in bytes.
    bytes: AtomicU64,
    /// How much of it is seals of this run, and what selects databases, in bytes.
    seal_bytes: AtomicU64,
    /// How much of it was superseded since [`Journal::take_garbage`] was last called, in bytes.
    garbage: AtomicU64,
    /// Beyond this length of the file, in bytes, leaders are slowed down.
    length_max: AtomicU64,
    /// For the followers of batches of even and of odd sequences: only two batches can have any.
    woken: [Condvar; 2],
    /// Notified when a write or a sync ends.
    idle: Condvar,
    /// Notified when a fault begins.
    faulted: Condvar,

    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Records appended and not yet taken by a leader.
    pending: Pending,
    /// The last flush whose record is in the file.
    flush: Option<Flush>,
    /// How many flushes were committed in this run.
    flushes: u64,
    /// Sequence of the pending batch.
    sequence: u64,
    /// A thread is in `commit` for the pending batch, and will lead it unless another does.
    led: bool,
    /// Callbacks of batches of even and of odd sequences.
    callbacks: [Vec<Arc<dyn CommitCallback>>; 2],
    /// Callbacks to be run: their batches are committed or aborted.
    completed: Vec<Arc<dyn CommitCallback>>,
    /// The thread that led the last batch.
    leader: Option<ThreadId>,
    /// A leader is writing batch `sequence - 1`.
    writing: bool,
    /// A thread fsyncs what is written.
    syncing: bool,
    /// A thread is about to replace the file, or does: no new leader.
    reserved: bool,
    /// Nothing more is appended.
    closing: bool,
    /// The data file.
    segment: Segment,
    /// A [`TailReader`] follows what is committed.
    has_tail_reader: bool,
    /// A leader's buffer, for reuse.
    spare: Vec<u8>,
    /// Set while writes are refused: what will repair the file.
    fault: Option<Repair>,
    /// The file was repaired, but no write has succeeded since.
    unproven: bool,
    /// The last sequence committed before the last fault.
    committed_at_fault: u64,
    /// The same of the last fault that was repaired: later sequences of earlier epochs are aborted.
    epoch_base: u64,
    /// The reason of the last fault.
    reason: WriteRefused,
}

impl Journal {
    /// A journal that goes on at the end of `segment`, which is the file at `path`.
    pub fn new(disk: Arc<dyn Disk>, path: PathBuf, fsync: Fsync, segment: Segment) -> Self {
        Self {
            disk,
            path,
            fsync,
            started: Instant::now(),
            verified_ms: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
            has_completed: AtomicBool::new(false),
            bytes: AtomicU64::new(segment.end),
            seal_bytes: AtomicU64::new(0),
            garbage: AtomicU64::new(0),
            length_max: AtomicU64::new(u64::MAX),
            woken: [Condvar::new(), Condvar::new()],
            idle: Condvar::new(),
            faulted: Condvar::new(),
            state: Mutex::new(State {
                pending: Pending::default(),
                flush: None,
                flushes: 0,
                sequence: 1,
                led: false,
                callbacks: Default::default(),
                completed: Vec::new(),
                leader: None,
                writing: false,
                syncing: false,
                reserved: false,
                closing: false,
                segment,
                has_tail_reader: false,
                spare: Vec::new(),
                fault: None,
                unproven: false,
                committed_at_fault: 0,
                epoch_base: 0,
                reason: WriteRefused("".into()),
            }),
        }
    }

    /// The data file's absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the data file, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How much of it is seals written in this run, and what selects databases, in bytes.
    pub fn seal_bytes(&self) -> u64 {
        self.seal_bytes.load(Ordering::Relaxed)
    }

    /// While the file is longer than so many bytes, leaders are slowed down, so that a compaction can catch up.
    pub fn limit(&self, length_max: u64) {
        self.length_max.store(length_max, Ordering::Relaxed);
    }

    /// Whether writes are taken. To be checked before memory is changed.
    pub fn check(&self) -> Result<(), WriteRefused> {
        if !self.refusing.load(Ordering::Acquire) {
            return Ok(());
        }
        lock(&self.state).check()
    }

    /// Adds records to the pending batch. Call it with the locks of all shards that they change held and before they
    /// are changed, so that the file has the order of memory. Returns the sequence of the batch.
    pub fn append(&self, addition: Addition<'_>) -> Result<u64, WriteRefused> {
        let mut state = lock(&self.state);
        state.check()?;
        let added = state.pending.add(addition);
        added.map_err(|error| WriteRefused(error.to_string().into()))?;
        Ok(state.sequence)
    }

    /// How much of the file was superseded since the last call, in bytes, by what appended records say.
    pub fn take_garbage(&self) -> u64 {
        self.garbage.swap(0, Ordering::Relaxed)
    }

    /// The highest sequence that may be acknowledged.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// How often the file was repaired. To be read no later than the sequence with which it makes a [`CommitPoint`], or
    /// with the lock of that sequence's shard held.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether everything up to `point` may be acknowledged already.
    pub fn is_committed(&self, point: CommitPoint) -> bool {
        // In this order: `committed` passes an aborted sequence only after the epoch was counted.
        point.sequence == 0 || self.committed() >= point.sequence && self.epoch() == point.epoch
    }

    /// Waits until everything up to `point` may be acknowledged, leading its batch unless another thread does. Whatever
    /// the result, there may be [callbacks to run](Self::run_callbacks) afterwards.
    pub fn commit(&self, point: CommitPoint) -> Result<(), WriteRefused> {
        if self.is_committed(point) {
            return Ok(());
        }
        let mut state = lock(&self.state);
        let mut has_gathered = false;
        loop {
            if let Some(outcome) = self.outcome(&state, point) {
                return outcome;
            }
            state.led |= point.sequence == state.sequence;
            if state.writing || state.reserved {
                state = wait(&self.woken[point.sequence as usize % 2], state);
            } else if !has_gathered && state.leader != Some(thread::current().id()) {
                // Yield once, so that writers that can run join this batch.
                has_gathered = true;
                drop(state);
                thread::yield_now();
                state = lock(&self.state);
            } else {
                state = self.lead(state);
            }
        }
    }

    /// Whether everything up to `point` is committed; `None` while that is open.
    fn outcome(&self, state: &State, point: CommitPoint) -> Option<Result<(), WriteRefused>> {
        let epoch = self.epoch() - point.epoch;
        // A point that covers several shards may be that of a later write, and hide an aborted one.
        if epoch > 1 || epoch == 1 && point.sequence > state.epoch_base {
            return Some(Err(state.reason.clone()));
        }
        if self.committed() >= point.sequence {
            return Some(Ok(()));
        }
        state.fault.map(|_| Err(state.reason.clone()))
    }

    /// Registers `callback` to run once everything up to `point` is committed or aborted; `false` if it is already, or if
    /// no thread will lead the batch unless the caller [commits](Self::commit) it.
    pub fn on_commit(&self, point: CommitPoint, callback: &Arc<dyn CommitCallback>) -> bool {
        let mut state = lock(&self.state);
        let is_led = point.sequence < state.sequence || state.led;
        if self.outcome(&state, point).is_some() || !is_led {
            return false;
        }
        state.callbacks[point.sequence as usize % 2].push(Arc::clone(callback));
        true
    }

    /// Runs the callbacks of finished batches. To be called after whatever may finish one. `take_back` undoes in memory
    /// what was aborted, before any of them tells a client so.
    pub fn run_callbacks(&self, take_back: impl FnOnce()) {
        if !self.has_completed.load(Ordering::Acquire) {
            return;
        }
        let (mut completed, failed) = {
            let mut state = lock(&self.state);
            self.has_completed.store(false, Ordering::Release);
            (std::mem::take(&mut state.completed), state.fault.is_some())
        };
        if failed {
            take_back();
        }
        // No other thread will run them.
        let guard = AbortOnPanic;
        let outcome = |point| match self.is_committed(point) {
            true => Ok(()),
            false => {
                let state = lock(&self.state);
                self.outcome(&state, point).unwrap_or_else(|| Err(state.reason.clone()))
            }
        };
        completed.drain(..).for_each(|callback| callback.completed(&outcome));
        std::mem::forget(guard);
        let mut state = lock(&self.state);
        if state.completed.capacity() == 0 {
            state.completed = completed;
        }
    }

    /// Writes a batch without records, with a comment that tells the time: its durable mark covers the last records.
    fn lead_mark<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let pending = &mut state.pending;
        write_time(unix_time_s(), pending.records.tail());
        pending.select_bytes = pending.records.len();
        self.lead(state)
    }

    /// Writes the pending batch, empty or not, with the lock released meanwhile.
    fn lead<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let mut batch = state.take_batch();
        let segment = state.segment.clone();
        drop(state);
        // Followers wait for this thread.
        let guard = AbortOnPanic;
        let written = self.write(&segment, &mut batch);
        batch.free_records();
        std::mem::forget(guard);
        self.conclude(lock(&self.state), batch, written)
    }

    /// Seals `batch` and writes it to the end of `segment`.
    fn write(&self, segment: &Segment, batch: &mut Batch) -> Result<(), Failure> {
        let mut checksum = Checksum::new(segment.id);
        // The end goes with the seal: most batches are one small piece, and one call.
        let mut end = std::mem::take(batch.records.tail());
        let append = |text: &[u8], length: &mut u64| {
            *length += text.len() as u64;
            segment.file.append(text).map_err(Failure::Write)
        };
        batch.length = 0;
        batch.records.write_to(|text| {
            checksum.update(text);
            append(text, &mut batch.length)
        })?;
        checksum.update(&end);
        let seal = Seal::close(segment.last + 1, batch.count, segment.synced, checksum).to_string();
        end.extend_from_slice(seal.as_bytes());
        append(&end, &mut batch.length)?;
        *batch.records.tail() = end;
        batch.overhead = batch.select_bytes + seal.len();
        batch.durable = segment.synced;
        if segment.end > self.length_max.load(Ordering::Relaxed) {
            let ms = 1000 * batch.length / SLOWED_BYTES_PER_S;
            std::thread::sleep(Duration::from_millis(ms.clamp(1, 1000)));
        }
        if self.fsync == Fsync::Always {
            segment.file.sync_data().map_err(Failure::Sync)?;
        }
        self.verify_after_write(segment, segment.end + batch.length)
    }

    /// Checks that the file is where it was, and of this length.
    fn verify(&self, segment: &Segment, length: u64) -> Result<(), Failure> {
        let ours = segment.file.status().map_err(Failure::Write)?;
        match self.disk.status(&self.path) {
            Ok(named) if named.identity != segment.identity => {
                Err(Failure::Replaced("another file has taken the data file's name"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Failure::Replaced("the data file was removed or renamed"))
            }
            Err(error) => Err(Failure::Write(error)),
            Ok(_) if ours.length != length => {
                Err(Failure::Replaced("somebody else changed the data file's length"))
            }
            Ok(_) => Ok(()),
        }
    }

    /// The same after a write. The open file's own metadata show all but a rename; where there is no fsync to wait for,
    /// the path is looked up now and then only.
    fn verify_after_write(&self, segment: &Segment, length: u64) -> Result<(), Failure> {
        const VERIFY_EVERY_MS: u64 = 5;
        let now_ms = self.started.elapsed().as_millis() as u64;
        let due_ms = self.verified_ms.load(Ordering::Relaxed) + VERIFY_EVERY_MS;
        if self.fsync != Fsync::Always && now_ms < due_ms {
            let ours = segment.file.status().map_err(Failure::Write)?;
            if ours.links > 0 && ours.length == length {
                return Ok(());
            }
        }
        self.verified_ms.store(now_ms, Ordering::Relaxed);
        self.verify(segment, length)
    }

    /// The leader's batch is written, or failed: acknowledges it, or refuses writes, and wakes its followers.
    fn conclude<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        batch: Batch,
        written: Result<(), Failure>,
    ) -> MutexGuard<'a, State> {
        match written {
            Err(failure) => self.fail(&mut state, &failure),
            // Another thread's fsync failed meanwhile: how much of this batch is on disk is unknown.
            Ok(()) if state.fault.is_some() => {}
            Ok(()) => {
                state.unproven = false;
                let segment = &mut state.segment;
                segment.last += 1;
                segment.end += batch.length;
                segment.marked = batch.durable;
                if batch.count > 0 {
                    segment.last_with_records = segment.last;
                }
                if self.fsync == Fsync::Always {
                    segment.synced = segment.last;
                }
                self.seal_bytes.fetch_add(batch.overhead as u64, Ordering::Relaxed);
                self.count(&mut state, &batch);
                self.acknowledge(&state, batch.sequence);
            }
        }
        self.finish(&mut state, batch);
        state
    }

    /// Counts what a committed batch supersedes and flushes.
    fn count(&self, state: &mut State, batch: &Batch) {
        self.garbage.fetch_add(batch.garbage, Ordering::Relaxed);
        if batch.flush.is_some() {
            state.flush = batch.flush;
            state.flushes += 1;
        }
    }

    /// The write of `batch` ended: its callbacks may run, and the waiting threads are woken.
    fn finish(&self, state: &mut State, mut batch: Batch) {
        state.writing = false;
        let State { completed, callbacks, .. } = state;
        completed.append(&mut callbacks[batch.sequence as usize % 2]);
        self.has_completed.store(!completed.is_empty(), Ordering::Release);
        state.spare = std::mem::take(&mut batch.spare);
        self.woken[batch.sequence as usize % 2].notify_all();
        self.idle.notify_all();
    }

    /// Publishes that the batch of `sequence` is committed.
    fn acknowledge(&self, state: &State, sequence: u64) {
        self.bytes.store(state.segment.end, Ordering::Relaxed);
        self.committed.store(sequence, Ordering::Release);
        // One of the threads that wait for the next batch leads it.
        self.woken[(sequence + 1) as usize % 2].notify_one();
    }

    /// Refuses writes until the file is repaired, and aborts the batches that are not committed. Of several
    /// failures the one that needs the most counts: a failed fsync is never forgotten for a failed write.
    fn fail(&self, state: &mut State, failure: &Failure) {
        let repair = failure.repair();
        if let Some(fault) = &mut state.fault {
            if repair > *fault {
                *fault = repair;
                state.reason = WriteRefused(failure.to_string().into());
            }
            return;
        }
        state.fault = Some(repair);
        state.committed_at_fault = self.committed();
        state.sequence += 1;
        let State { completed, callbacks, .. } = state;
        callbacks.iter_mut().for_each(|callbacks| completed.append(callbacks));
        self.has_completed.store(!completed.is_empty(), Ordering::Release);
        state.led = false;
        state.pending = Pending::default();
        state.has_tail_reader = false;
        self.refuse(state, failure.to_string());
    }

    fn refuse(&self, state: &mut State, reason: String) {
        state.reason = WriteRefused(reason.into());
        self.refusing.store(true, Ordering::Release);
        self.woken.iter().for_each(Condvar::notify_all);
        self.faulted.notify_all();
    }

    /// Under `everysec`, fsyncs what is written; call it each second.
    pub fn sync_second(&self) {
        if self.fsync == Fsync::Everysec {
            drop(self.sync(lock(&self.state)));
        }
    }

    /// Makes everything appended so far survive a power cut, whatever the mode.
    pub fn save(&self) -> Result<(), WriteRefused> {
        let point = {
            let state = lock(&self.state);
            let sequence = match (state.pending.is_empty(), state.writing) {
                (false, _) => state.sequence,
                (true, true) => state.sequence - 1,
                (true, false) => self.committed(),
            };
            CommitPoint { sequence, epoch: self.epoch() }
        };
        self.commit(point)?;
        drop(self.sync(lock(&self.state)));
        self.verify_at_rest();
        let state = lock(&self.state);
        match state.fault {
            Some(_) => Err(state.reason.clone()),
            None => Ok(()),
        }
    }

    /// If nothing was appended since the last call, writes an empty batch whose seal marks the last records as durable,
    /// so that damage to them can be told from a crash. Also verifies the file, which otherwise only a write does.
    ///
    /// `before` is what the last call returned, at first 0.
    pub fn mark_idle(&self, before: u64) -> u64 {
        self.verify_at_rest();
        let state = lock(&self.state);
        let sequence = state.sequence;
        let idle = sequence == before && state.is_resting() && state.pending.is_empty();
        let segment = &state.segment;
        let durable = segment.last_with_records <= segment.synced;
        // After a repair it also shows that the file can be written to.
        let due = segment.is_unmarked() || state.unproven;
        if idle && durable && due && state.check().is_ok() {
            drop(self.lead_mark(state));
        }
        sequence
    }

    /// Verifies the file while no write is under way.
    fn verify_at_rest(&self) {
        let (sequence, segment) = {
            let state = lock(&self.state);
            if !state.is_resting() || state.fault.is_some() {
                return;
            }
            (state.sequence, state.segment.clone())
        };
        let verified = self.verify(&segment, segment.end);
        let mut state = lock(&self.state);
        // Else a write may have changed the length meanwhile.
        let idle = state.sequence == sequence && state.is_resting() && state.fault.is_none();
        if let (Err(failure), true) = (verified, idle) {
            self.fail(&mut state, &failure);
        }
    }

    /// Fsyncs what is committed and not yet synced, with the lock released meanwhile.
    fn sync<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while state.syncing || state.reserved {
            state = wait(&self.idle, state);
        }
        let segment = state.segment.clone();
        if state.fault.is_some() || segment.synced >= segment.last {
            return state;
        }
        state.syncing = true;
        drop(state);
        let guard = AbortOnPanic;
        let synced = segment.file.sync_data();
        std::mem::forget(guard);
        let mut state = lock(&self.state);
        state.syncing = false;
        self.idle.notify_all();
        match synced {
            // Whatever failed before, the file must get no further byte.
            Err(error) => self.fail(&mut state, &Failure::Sync(error)),
            Ok(()) if state.fault.is_some() => {}
            Ok(()) => state.segment.synced = segment.last.max(state.segment.synced),
        }
        state
    }

    /// Waits for at most `timeout` until there is a fault, and says whether there is one.
    pub fn wait_for_fault(&self, timeout: Duration) -> bool {
        let state = lock(&self.state);
        let state = match state.fault {
            Some(_) => state,
            None => wait_timeout(&self.faulted, state, timeout),
        };
        state.fault.is_some()
    }

    /// Why writes are refused; also after the repair, until a write has succeeded.
    pub fn fault(&self) -> Option<WriteRefused> {
        let state = lock(&self.state);
        (state.fault.is_some() || state.unproven).then(|| state.reason.clone())
    }

    /// Whether there is a fault: the batches that were not committed are aborted, and memory may still hold them.
    pub fn is_faulted(&self) -> bool {
        lock(&self.state).fault.is_some()
    }

    /// Panics with the state locked, for tests of what that does.
    pub fn panic_locked(&self) -> ! {
        let _state = lock(&self.state);
        panic!("asked for, with the journal locked");
    }

    /// Refuses further writes, commits the pending batch, makes everything durable whatever the mode, and marks it so.
    /// After an error some acknowledged writes may not be durable.
    pub fn close(&self) -> Result<(), WriteRefused> {
        let mut state = lock(&self.state);
        state.closing = true;
        while state.fault.is_none() {
            let segment = &state.segment;
            state = match () {
                () if !state.is_resting() => wait(&self.idle, state),
                () if !state.pending.is_empty() => self.lead(state),
                () if segment.synced < segment.last => self.sync(state),
                () if segment.is_unmarked() => self.lead_mark(state),
                () => break,
            };
        }
        drop(state);
        self.verify_at_rest();
        let mut state = lock(&self.state);
        match state.fault {
            Some(_) => Err(state.reason.clone()),
            None => {
                let WriteRefused(reason) = stopping();
                self.refuse(&mut state, reason.to_string());
                Ok(())
            }
        }
    }
}

/// Records that wait for a leader.
#[derive(Debug, Default)]
struct Pending {
    records: Records,
    count: u64,
    /// The database that they have selected at the end.
    database: usize,
    /// How much of them is only that, or a comment, in bytes.
    select_bytes: usize,
    garbage: u64,
    flush: Option<Flush>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds all of it, or nothing if there is no memory for it.
    fn add(&mut self, addition: Addition<'_>) -> Result<(), NoMemory> {
        let Addition { records, count, databases, garbage, flush } = addition;
        let tail = self.records.tail();
        if tail.capacity() - tail.len() < 2 * SELECT_BYTES_MAX {
            memory::try_to(|| tail.try_reserve(2 * SELECT_BYTES_MAX))?;
        }
        let before = (self.records.len(), self.count, self.database, self.select_bytes);
        self.select(databases.0);
        if let Err(error) = self.records.take(records) {
            (_, self.count, self.database, self.select_bytes) = before;
            self.records.truncate(before.0);
            return Err(error);
        }
        self.database = databases.1;
        self.count += count;
        self.garbage += garbage;
        self.flush = flush.or(self.flush);
        Ok(())
    }

    /// Makes the records select a database at their end.
    fn select(&mut self, database: usize) {
        if self.database != database {
            let start = self.records.len();
            write_select(database, self.records.tail());
            self.select_bytes += self.records.len() - start;
            self.count += 1;
            self.database = database;
        }
    }
}

/// Records on their way to the file.
struct Batch {
    /// The records, and once it is written its seal.
    records: Records,
    count: u64,
    /// How much of that only selects databases, or is a comment, in bytes.
    select_bytes: usize,
    /// The same with the seal.
    overhead: usize,
    /// How much of it was written, in bytes.
    length: u64,
    sequence: u64,
    /// The durable mark of its seal.
    durable: u64,
    garbage: u64,
    flush: Option<Flush>,
    /// A buffer for other records, once its own are written.
    spare: Vec<u8>,
}

impl Batch {
    /// Frees the records. They may be large: not with the lock held.
    fn free_records(&mut self) {
        self.spare = std::mem::take(&mut self.records).into_spare();
        self.spare.shrink_to(JOURNAL_SPARE_BYTES_MAX);
    }
}

impl State {
    fn check(&self) -> Result<(), WriteRefused> {
        match self.fault {
            Some(_) => Err(self.reason.clone()),
            None if self.closing => Err(stopping()),
            None => Ok(()),
        }
    }

    /// Whether a leader may begin a write.
    fn is_resting(&self) -> bool {
        !self.writing && !self.reserved
    }

    /// Takes the pending batch for its leader to write.
    fn take_batch(&mut self) -> Batch {
        assert!(!self.writing, "one leader at a time");
        self.writing = true;
        self.pending.select(0);
        let records = Records::with_spare(std::mem::take(&mut self.spare));
        let taken = std::mem::replace(&mut self.pending, Pending { records, ..Pending::default() });
        let Pending { records, count, select_bytes, garbage, flush, .. } = taken;
        let sequence = self.sequence;
        self.sequence += 1;
        self.led = false;
        self.leader = Some(thread::current().id());
        Batch {
            records,
            count,
            select_bytes,
            overhead: 0,
            length: 0,
            sequence,
            durable: 0,
            garbage,
            flush,
            spare: Vec::new(),
        }
    }
}

fn stopping() -> WriteRefused {
    WriteRefused("the server is stopping".into())
}
