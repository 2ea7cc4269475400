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
//! What the journal does at the moment with its file is a [`Phase`].
//!
//! Invariants:
//! - batches are written in the order of their sequences, one at a time;
//! - `committed` passes a batch only once it may be acknowledged: fsynced under `always`, written otherwise, and with
//!   the file verified to be where it was;
//! - a seal's durable mark is the highest batch whose fsync had succeeded;
//! - a file of which an fsync failed gets no further byte;
//! - at most one batch is being written, and one fsync of written batches is under way.
//!
//! [`fault`](super::fault) is what happens after a failure, [`watch`](super::watch) checks that the file is where it was,
//! and [`replace`](super::replace) changes it as a whole: it is cut back, replaced, compacted.
//!
//! Lock order: a shard's lock may be held when the journal's is taken, never the other way.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{Addition, Batch, Flush, Pending};
use super::breakage::{self, Breakage};
use super::disk::Disk;
use super::fault::{Failure, WriteRefused};
use super::gather::Gather;
use super::new_file::Segment;
use super::phase::{Event, Intake, Phase};
use crate::limits::SLOWED_BYTES_PER_S;
use crate::util::clock::unix_time_s;
use crate::util::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::util::sync::thread::{self, ThreadId};
use crate::util::sync::{AbortOnPanic, Condvar, Mutex, MutexGuard, Waiters, lock};

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

/// The append-only end of a data file.
#[derive(Debug)]
pub struct Journal {
    // Constant after construction.
    pub(super) disk: Arc<dyn Disk>,
    pub(super) path: PathBuf,
    pub(super) fsync: Fsync,
    pub(super) started: Instant,

    // Their own synchronization.
    /// When the path was last verified, in milliseconds since the start.
    pub(super) verified_ms: AtomicU64,
    /// The highest sequence that may be acknowledged.
    pub(super) committed: AtomicU64,
    /// Counts the repairs: see [`CommitPoint`].
    pub(super) epoch: AtomicU64,
    /// There is a fault, or the journal is closed.
    pub(super) refusing: AtomicBool,
    /// There are callbacks to run, or aborted records to free.
    pub(super) has_completed: AtomicBool,
    /// Length of the data file, in bytes.
    pub(super) bytes: AtomicU64,
    /// How much of it is seals of this run, and what selects databases, in bytes.
    pub(super) seal_bytes: AtomicU64,
    /// How much of it was superseded since [`Journal::take_garbage`] was last called, in bytes.
    pub(super) garbage: AtomicU64,
    /// Beyond this length of the file, in bytes, leaders are slowed down.
    pub(super) length_max: AtomicU64,
    /// For the followers of batches of even and of odd sequences: only two batches can have any.
    pub(super) woken: [Waiters; 2],
    /// Notified when a write or a sync ends.
    pub(super) idle: Waiters,
    /// For the [gatherer](super::gather): a batch is left to it, or has as many callbacks as it waits for.
    pub(super) gathered: Waiters,
    /// Notified when a fault begins.
    pub(super) faulted: Condvar,

    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    /// Records appended and not yet taken by a leader.
    pub(super) pending: Pending,
    /// The last flush whose record is in the file.
    pub(super) flush: Option<Flush>,
    /// How many flushes were committed in this run.
    pub(super) flushes: u64,
    /// Sequence of the pending batch.
    pub(super) sequence: u64,
    /// A thread is in `commit` for the pending batch, and will lead it unless another does.
    pub(super) has_leader: bool,
    pub(super) gather: Gather,
    /// Callbacks of batches of even and of odd sequences.
    pub(super) callbacks: [Vec<Arc<dyn CommitCallback>>; 2],
    /// Callbacks to be run: their batches are committed or aborted.
    pub(super) completed: Vec<Arc<dyn CommitCallback>>,
    /// The thread that led the last batch.
    pub(super) leader: Option<ThreadId>,
    pub(super) phase: Phase,
    pub(super) intake: Intake,
    /// The data file.
    pub(super) segment: Segment,
    /// A [`TailReader`] follows what is committed.
    pub(super) has_tail_reader: bool,
    /// What was pending when a fault began, to be freed.
    pub(super) aborted: Option<Pending>,
    /// A leader's buffer, for reuse.
    pub(super) spare: Vec<u8>,
    /// Why writes are refused, or were before the last repair if no write has succeeded since.
    pub(super) recent_fault: Option<WriteRefused>,
    /// The last sequence committed before the last fault.
    pub(super) committed_at_fault: u64,
    /// The same of the last fault that was repaired: later sequences of earlier epochs are aborted.
    pub(super) epoch_base: u64,
    /// The reason of the last fault, or of the closing.
    pub(super) reason: WriteRefused,
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
            woken: Default::default(),
            idle: Waiters::default(),
            gathered: Waiters::default(),
            faulted: Condvar::new(),
            state: Mutex::new(State {
                pending: Pending::default(),
                flush: None,
                flushes: 0,
                sequence: 1,
                has_leader: false,
                gather: Gather::default(),
                callbacks: Default::default(),
                completed: Vec::new(),
                leader: None,
                phase: Phase::Idle,
                intake: Intake::Open,
                segment,
                has_tail_reader: false,
                aborted: None,
                spare: Vec::new(),
                recent_fault: None,
                committed_at_fault: 0,
                epoch_base: 0,
                reason: WriteRefused::new(""),
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
        added.map_err(WriteRefused::new)?;
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
            state.has_leader |= point.sequence == state.sequence;
            if !state.phase.may_write() {
                state = self.woken[point.sequence as usize % 2].wait(state);
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
        state.phase.fault().map(|_| Err(state.reason.clone()))
    }

    /// Registers `callback` to run once everything up to `point` is committed or aborted; `false` if it is already, or if
    /// no thread will lead the batch unless the caller [commits](Self::commit) it. If `may_gather` the gatherer may lead it.
    pub fn on_commit(
        &self,
        point: CommitPoint,
        callback: &Arc<dyn CommitCallback>,
        may_gather: bool,
    ) -> bool {
        let mut state = lock(&self.state);
        if self.outcome(&state, point).is_some() {
            return false;
        }
        let has_leader = point.sequence < state.sequence || state.has_leader;
        if !(has_leader || may_gather && self.leave_to_gatherer(&mut state)) {
            return false;
        }
        state.callbacks[point.sequence as usize % 2].push(Arc::clone(callback));
        self.was_registered(&state, point.sequence);
        true
    }

    /// Runs the callbacks of finished batches. To be called after whatever may finish one. `roll_back` undoes in memory
    /// what was aborted, before any of them tells a client so.
    pub fn run_callbacks(&self, roll_back: impl FnOnce()) {
        if !self.has_completed.load(Ordering::Acquire) {
            return;
        }
        let (mut completed, aborted, failed) = {
            let mut state = lock(&self.state);
            self.has_completed.store(false, Ordering::Release);
            let completed = std::mem::take(&mut state.completed);
            (completed, state.aborted.take(), state.phase.fault().is_some())
        };
        // They may be large: not with the lock held.
        drop(aborted);
        if failed && !completed.is_empty() {
            roll_back();
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
    pub(super) fn lead_mark<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        state.pending.add_time(unix_time_s());
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

    /// Seals `batch`, writes it to the end of `segment` and makes it as durable as the mode asks for.
    pub(super) fn write(&self, segment: &Segment, batch: &mut Batch) -> Result<(), Failure> {
        batch.append_to(segment).map_err(Failure::Write)?;
        if segment.end > self.length_max.load(Ordering::Relaxed) {
            let ms = 1000 * batch.length / SLOWED_BYTES_PER_S;
            thread::sleep(Duration::from_millis(ms.clamp(1, 1000)));
        }
        if breakage::has(Breakage::EarlyAcknowledgement) {
            self.committed.store(batch.sequence, Ordering::Release);
        }
        if self.fsync == Fsync::Always {
            segment.file.sync_data().map_err(Failure::Sync)?;
        }
        self.verify_after_write(segment, segment.end + batch.length)
    }

    /// The leader's batch is written, or failed: acknowledges it, or refuses writes, and wakes its followers.
    pub(super) fn conclude<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        batch: Batch,
        written: Result<(), Failure>,
    ) -> MutexGuard<'a, State> {
        match written {
            Err(failure) => self.fail(&mut state, &failure),
            // Another thread's fsync failed meanwhile: how much of this batch is on disk is unknown.
            Ok(()) if state.phase.fault().is_some() => {}
            Ok(()) => {
                state.recent_fault = None;
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
    pub(super) fn count(&self, state: &mut State, batch: &Batch) {
        self.garbage.fetch_add(batch.garbage, Ordering::Relaxed);
        if batch.flush.is_some() {
            state.flush = batch.flush;
            state.flushes += 1;
        }
    }

    /// The write of `batch` ended: its callbacks may run, and the waiting threads are woken.
    pub(super) fn finish(&self, state: &mut State, mut batch: Batch) {
        state.enter(Event::EndWrite);
        state.gather.last = state.registered(batch.sequence);
        let State { completed, callbacks, .. } = state;
        completed.append(&mut callbacks[batch.sequence as usize % 2]);
        if !completed.is_empty() {
            self.has_completed.store(true, Ordering::Release);
        }
        state.spare = std::mem::take(&mut batch.spare);
        if !breakage::has(Breakage::LostWakeup) {
            self.woken[batch.sequence as usize % 2].notify_all();
        }
        self.idle.notify_all();
    }

    /// Publishes that the batch of `sequence` is committed.
    pub(super) fn acknowledge(&self, state: &State, sequence: u64) {
        self.bytes.store(state.segment.end, Ordering::Relaxed);
        self.committed.store(sequence, Ordering::Release);
        // One of the threads that wait for the next batch leads it.
        self.woken[(sequence + 1) as usize % 2].notify_one();
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
            let sequence = match (state.pending.is_empty(), state.phase.is_writing()) {
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
        match state.phase.fault() {
            Some(_) => Err(state.reason.clone()),
            None => Ok(()),
        }
    }

    /// Fsyncs what is committed and not yet synced, with the lock released meanwhile.
    fn sync<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while !state.phase.may_sync() {
            state = self.idle.wait(state);
        }
        let segment = state.segment.clone();
        if state.phase.fault().is_some() || segment.synced >= segment.last {
            return state;
        }
        state.enter(Event::BeginSync);
        drop(state);
        let guard = AbortOnPanic;
        let synced = segment.file.sync_data();
        std::mem::forget(guard);
        let mut state = lock(&self.state);
        state.enter(Event::EndSync);
        self.idle.notify_all();
        match synced {
            // Whatever failed before, the file must get no further byte.
            Err(error) => self.fail(&mut state, &Failure::Sync(error)),
            Ok(()) if state.phase.fault().is_some() => {}
            Ok(()) => state.segment.synced = segment.last.max(state.segment.synced),
        }
        state
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
        state.intake = Intake::Closing;
        while state.phase.fault().is_none() {
            let segment = &state.segment;
            state = match () {
                () if !state.phase.may_write() => self.idle.wait(state),
                () if !state.pending.is_empty() => self.lead(state),
                () if segment.synced < segment.last => self.sync(state),
                () if segment.is_unmarked() => self.lead_mark(state),
                () => break,
            };
        }
        drop(state);
        self.verify_at_rest();
        let mut state = lock(&self.state);
        match state.phase.fault() {
            Some(_) => Err(state.reason.clone()),
            None => {
                self.refuse(&mut state, WriteRefused::stopping());
                Ok(())
            }
        }
    }
}

impl State {
    /// How many callbacks wait for the batch of `sequence`, the pending one or the one that is being written.
    pub(super) fn registered(&self, sequence: u64) -> usize {
        self.callbacks[sequence as usize % 2].len()
    }

    pub(super) fn check(&self) -> Result<(), WriteRefused> {
        match (self.phase.fault(), self.intake) {
            (Some(_), _) => Err(self.reason.clone()),
            (None, Intake::Closing) => Err(WriteRefused::stopping()),
            (None, Intake::Open) => Ok(()),
        }
    }

    /// Goes on to the phase after `event`.
    pub(super) fn enter(&mut self, event: Event) {
        let next = self.phase.after(event);
        assert!(next.is_some(), "{event:?} while {:?}", self.phase);
        self.phase = next.unwrap_or(self.phase);
    }

    /// Takes the pending batch for its leader to write.
    pub(super) fn take_batch(&mut self) -> Batch {
        self.enter(Event::BeginWrite);
        let sequence = self.sequence;
        self.sequence += 1;
        self.has_leader = false;
        self.leader = Some(thread::current().id());
        self.pending.take(sequence, std::mem::take(&mut self.spare))
    }
}
