//! Appends records and commits them in groups.
//!
//! Writers append to the pending batch in memory, under their shard's lock, and get its mark: what to
//! wait for. Whoever waits first, with no write under way, leads: it takes the batch, seals it, writes
//! and fsyncs it with no lock held, and wakes the others. All who arrive meanwhile share the next
//! batch. A lone client leads its own batches on its own thread and is never handed over.
//!
//! Who shares a batch need not stand and wait: it may leave a [`Waiter`] behind. The leader tells it how the batch
//! ended ([`deliver`](Journal::deliver)), and so one thread that is awake answers fifty clients, instead of
//! waking fifty threads.
//!
//! Stamps count the batches of this run, whatever file they go to; a batch's number counts within its
//! file. After a failure nothing is appended until the file is well again (`cut_back` or `switch`, then
//! `resume`). The stamps that were under way then are *doomed*: they are never committed, though
//! `committed` passes them later. A [`Mark`] knows when it was taken, so it is not mistaken.
//!
//! Invariants:
//! - batches are written in the order of their stamps, one at a time;
//! - `committed` passes a batch only once it may be acknowledged: fsynced under `always`, written
//!   otherwise, and the file is still where it was;
//! - a seal's durable mark is the highest batch whose fsync had succeeded;
//! - a file of which an fsync failed gets no further byte;
//! - at most one batch is being written, and one fsync of written batches is under way.
//!
//! [`replace`] is what happens to the file as a whole: cut back, replaced, compacted.
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

pub use replace::{Flushing, SwitchError, Tee};

/// What to wait for before something may be shown: a batch, and when it was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark {
    /// The batch's stamp; 0 waits for nothing.
    pub stamp: u64,
    /// How often the journal had been healed when the stamp was read, or less.
    pub healed: u64,
}

/// Told when what it waits for was committed, or never will be.
pub trait Waiter: fmt::Debug + Send + Sync {
    /// `outcome` says of each mark that it asked to wait for, or of a lower one, what became of it. Holds up all
    /// who are told later: it must not wait for anything.
    fn settled(self: Arc<Self>, outcome: &dyn Fn(Mark) -> Result<(), WriteRefused>);
}

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

/// What a command or a transaction adds to the file: all of it gets there, or nothing.
#[derive(Debug)]
pub struct Addition<'a> {
    /// Whole lines. They are taken: a large record changes hands, and is not copied.
    pub records: &'a mut Records,
    /// How many records they are.
    pub count: u64,
    /// The database in which they begin, and the one that they have selected at the end.
    pub databases: (usize, usize),
    /// How much of the file says nothing any more once they are in it, in bytes.
    pub garbage: u64,
    /// The last `FLUSHALL` or `FLUSHDB` among them.
    pub flush: Option<Flush>,
}

/// A `FLUSHALL` or `FLUSHDB` whose record is in the file: without its line the keys are there again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flush {
    /// When it was said, in seconds of Unix time.
    pub time_s: u64,
    /// About how much of the file the removed keys are, in bytes.
    pub bytes: u64,
}

/// Why a write is not acknowledged. It may or may not be found after a restart.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct WriteRefused(Arc<str>);

/// What makes a file well after a failure, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remedy {
    /// What was written of a batch is cut off.
    CutBack,
    /// A complete new file: what this one holds is uncertain.
    Rewrite,
    /// The same, and what stands in its place now is somebody's work: it is kept aside.
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
    Astray(&'static str),
}

impl Failure {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Write(_) => Remedy::CutBack,
            Self::Sync(_) => Remedy::Rewrite,
            Self::Astray(_) => Remedy::RewriteBeside,
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
    /// When the path was last looked at, in milliseconds since the start.
    looked_ms: AtomicU64,
    /// The highest stamp that may be acknowledged.
    committed: AtomicU64,
    /// How often it was healed.
    healed: AtomicU64,
    /// `State::trouble` is set, or it is closed.
    refusing: AtomicBool,
    /// `State::due` is not empty.
    has_due: AtomicBool,
    /// Length of the data file, in bytes.
    bytes: AtomicU64,
    /// How much of it is seals of this run, and what selects databases, in bytes.
    seal_bytes: AtomicU64,
    /// How much of it says nothing any more since [`Journal::take_garbage`] was last called, in bytes.
    garbage: AtomicU64,
    /// Beyond this length of the file a leader takes its time, in bytes.
    length_max: AtomicU64,
    /// Waiters for batches of even and of odd stamps: only two batches can have any.
    woken: [Condvar; 2],
    /// A write or a sync ended.
    rested: Condvar,
    /// Trouble began.
    alarm: Condvar,

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
    /// Stamp the pending batch will have.
    stamp: u64,
    /// Somebody is in `commit` for the pending batch, and will lead it if nobody else does.
    led: bool,
    /// Who wait for batches of even and of odd stamps, and left.
    waiters: [Vec<Arc<dyn Waiter>>; 2],
    /// Who are to be told that their batch is settled.
    due: Vec<Arc<dyn Waiter>>,
    /// Which thread led the last batch.
    leader: Option<ThreadId>,
    /// A leader is writing batch `stamp - 1`.
    writing: bool,
    /// Someone fsyncs what is committed.
    syncing: bool,
    /// Someone waits to exchange the file: no new leader.
    reserved: bool,
    /// Nothing more is appended.
    closing: bool,
    /// The data file.
    segment: Segment,
    /// A new file is being written, and will need what is committed meanwhile.
    teed: bool,
    /// A leader's buffer, to be used again.
    spare: Vec<u8>,
    /// Nothing is written until this is over.
    trouble: Option<Remedy>,
    /// It is over, but no write has shown it yet.
    unproven: bool,
    /// The last stamp committed before the last failure.
    safe_when_failed: u64,
    /// The same of the last failure that was healed.
    safe: u64,
    /// The reason of the last failure.
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
            looked_ms: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            healed: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
            has_due: AtomicBool::new(false),
            bytes: AtomicU64::new(segment.end),
            seal_bytes: AtomicU64::new(0),
            garbage: AtomicU64::new(0),
            length_max: AtomicU64::new(u64::MAX),
            woken: [Condvar::new(), Condvar::new()],
            rested: Condvar::new(),
            alarm: Condvar::new(),
            state: Mutex::new(State {
                pending: Pending::default(),
                flush: None,
                flushes: 0,
                stamp: 1,
                led: false,
                waiters: Default::default(),
                due: Vec::new(),
                leader: None,
                writing: false,
                syncing: false,
                reserved: false,
                closing: false,
                segment,
                teed: false,
                spare: Vec::new(),
                trouble: None,
                unproven: false,
                safe_when_failed: 0,
                safe: 0,
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

    /// While the file is longer than so many bytes, writers are slowed down: a compaction is to catch up.
    pub fn limit(&self, length_max: u64) {
        self.length_max.store(length_max, Ordering::Relaxed);
    }

    /// Says whether writes are taken. Ask before changing memory.
    pub fn check(&self) -> Result<(), WriteRefused> {
        if !self.refusing.load(Ordering::Acquire) {
            return Ok(());
        }
        lock(&self.state).check()
    }

    /// Adds records to the pending batch. Call it with the locks of all shards that they change held and before they
    /// are changed, so that the file has the order of memory. Returns the stamp of the batch.
    pub fn append(&self, addition: Addition<'_>) -> Result<u64, WriteRefused> {
        let mut state = lock(&self.state);
        state.check()?;
        let added = state.pending.add(addition);
        added.map_err(|error| WriteRefused(error.to_string().into()))?;
        Ok(state.stamp)
    }

    /// How much of the file says nothing any more since this was last called, in bytes, as far as appended records
    /// told.
    pub fn take_garbage(&self) -> u64 {
        self.garbage.swap(0, Ordering::Relaxed)
    }

    /// The highest stamp that may be acknowledged.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// How often it was healed. Read it no later than the stamp it goes into a [`Mark`] with, or with
    /// the lock of that stamp's shard held.
    pub fn healed(&self) -> u64 {
        self.healed.load(Ordering::Acquire)
    }

    /// Whether everything up to `mark` may be acknowledged already.
    pub fn is_committed(&self, mark: Mark) -> bool {
        // In this order: a doomed stamp is passed only after the healing was counted.
        mark.stamp == 0 || self.committed() >= mark.stamp && self.healed() == mark.healed
    }

    /// Waits until everything up to `mark` may be acknowledged, writing it if no one else does. Whatever comes
    /// of it, there may be somebody to be [told](Self::deliver).
    pub fn commit(&self, mark: Mark) -> Result<(), WriteRefused> {
        if self.is_committed(mark) {
            return Ok(());
        }
        let mut state = lock(&self.state);
        let mut has_gathered = false;
        loop {
            if let Some(outcome) = self.outcome(&state, mark) {
                return outcome;
            }
            state.led |= mark.stamp == state.stamp;
            if state.writing || state.reserved {
                state = wait(&self.woken[mark.stamp as usize % 2], state);
            } else if !has_gathered && state.leader != Some(thread::current().id()) {
                // There are others, and what they have to write is as good as free once this writes: those who
                // can run now are let do so first.
                has_gathered = true;
                drop(state);
                thread::yield_now();
                state = lock(&self.state);
            } else {
                state = self.lead(state);
            }
        }
    }

    /// What became of everything up to `mark`; `None` if that is open.
    fn outcome(&self, state: &State, mark: Mark) -> Option<Result<(), WriteRefused>> {
        let healed = self.healed() - mark.healed;
        // A mark of several shards may be that of a later write, and hide a doomed one.
        if healed > 1 || healed == 1 && mark.stamp > state.safe {
            return Some(Err(state.reason.clone()));
        }
        if self.committed() >= mark.stamp {
            return Some(Ok(()));
        }
        state.trouble.map(|_| Err(state.reason.clone()))
    }

    /// Leaves `waiter` to be told what became of everything up to `mark`; `false` if somebody has to
    /// [`commit`](Self::commit) it, or nobody needs to.
    pub fn leave(&self, mark: Mark, waiter: &Arc<dyn Waiter>) -> bool {
        let mut state = lock(&self.state);
        let is_led = mark.stamp < state.stamp || state.led;
        if self.outcome(&state, mark).is_some() || !is_led {
            return false;
        }
        state.waiters[mark.stamp as usize % 2].push(Arc::clone(waiter));
        true
    }

    /// Tells those who left a waiter and whose batch is settled. Call it after whatever may settle one.
    /// `take_back` sees to it that memory shows no more what some of them are refused.
    pub fn deliver(&self, take_back: impl FnOnce()) {
        if !self.has_due.load(Ordering::Acquire) {
            return;
        }
        let (mut due, failed) = {
            let mut state = lock(&self.state);
            self.has_due.store(false, Ordering::Release);
            (std::mem::take(&mut state.due), state.trouble.is_some())
        };
        if failed {
            take_back();
        }
        // They wait for this thread: it must not vanish.
        let guard = AbortOnPanic;
        let outcome = |mark| match self.is_committed(mark) {
            true => Ok(()),
            false => {
                let state = lock(&self.state);
                self.outcome(&state, mark).unwrap_or_else(|| Err(state.reason.clone()))
            }
        };
        due.drain(..).for_each(|waiter| waiter.settled(&outcome));
        std::mem::forget(guard);
        let mut state = lock(&self.state);
        if state.due.capacity() == 0 {
            state.due = due;
        }
    }

    /// Writes a batch without records: its durable mark covers the last of them, and a comment tells the time.
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
        // Others wait for this thread: it must not vanish.
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
        self.glance(segment, segment.end + batch.length)
    }

    /// Whether the file is where it was, and as long as it should be.
    fn look(&self, segment: &Segment, length: u64) -> Result<(), Failure> {
        let ours = segment.file.status().map_err(Failure::Write)?;
        match self.disk.look(&self.path) {
            Ok(named) if named.identity != segment.identity => {
                Err(Failure::Astray("another file has taken the data file's name"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Failure::Astray("the data file was removed or renamed"))
            }
            Err(error) => Err(Failure::Write(error)),
            Ok(_) if ours.length != length => {
                Err(Failure::Astray("somebody else changed the data file's length"))
            }
            Ok(_) => Ok(()),
        }
    }

    /// The same after a write. The open file itself tells what may have happened to it, but not that it
    /// got another name: where there is no fsync to wait for, that is asked now and then only.
    fn glance(&self, segment: &Segment, length: u64) -> Result<(), Failure> {
        const LOOK_EVERY_MS: u64 = 5;
        let now_ms = self.started.elapsed().as_millis() as u64;
        let due_ms = self.looked_ms.load(Ordering::Relaxed) + LOOK_EVERY_MS;
        if self.fsync != Fsync::Always && now_ms < due_ms {
            let ours = segment.file.status().map_err(Failure::Write)?;
            if ours.links > 0 && ours.length == length {
                return Ok(());
            }
        }
        self.looked_ms.store(now_ms, Ordering::Relaxed);
        self.look(segment, length)
    }

    /// The leader's batch is written, or not: acknowledges it and wakes who waits.
    fn conclude<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        batch: Batch,
        written: Result<(), Failure>,
    ) -> MutexGuard<'a, State> {
        match written {
            Err(failure) => self.fail(&mut state, &failure),
            // Another thread's fsync failed meanwhile: what of this batch is on disk is unknown.
            Ok(()) if state.trouble.is_some() => {}
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
                self.acknowledge(&state, batch.stamp);
            }
        }
        self.finish(&mut state, batch);
        state
    }

    /// Counts what a committed batch says of the file.
    fn count(&self, state: &mut State, batch: &Batch) {
        self.garbage.fetch_add(batch.garbage, Ordering::Relaxed);
        if batch.flush.is_some() {
            state.flush = batch.flush;
            state.flushes += 1;
        }
    }

    /// Nobody writes `batch` any more: wakes who waits for that.
    fn finish(&self, state: &mut State, mut batch: Batch) {
        state.writing = false;
        let State { due, waiters, .. } = state;
        due.append(&mut waiters[batch.stamp as usize % 2]);
        self.has_due.store(!due.is_empty(), Ordering::Release);
        state.spare = std::mem::take(&mut batch.spare);
        self.woken[batch.stamp as usize % 2].notify_all();
        self.rested.notify_all();
    }

    /// The batch of `stamp` is committed.
    fn acknowledge(&self, state: &State, stamp: u64) {
        self.bytes.store(state.segment.end, Ordering::Relaxed);
        self.committed.store(stamp, Ordering::Release);
        // One of those who wait for the next batch leads it.
        self.woken[(stamp + 1) as usize % 2].notify_one();
    }

    /// Refuses writes until the file is repaired, and aborts the batches that are not committed. Of several
    /// failures the one that needs the most counts: a failed fsync is never forgotten for a failed write.
    fn fail(&self, state: &mut State, failure: &Failure) {
        let remedy = failure.remedy();
        if let Some(trouble) = &mut state.trouble {
            if remedy > *trouble {
                *trouble = remedy;
                state.reason = WriteRefused(failure.to_string().into());
            }
            return;
        }
        state.trouble = Some(remedy);
        state.safe_when_failed = self.committed();
        state.stamp += 1;
        let State { due, waiters, .. } = state;
        waiters.iter_mut().for_each(|waiters| due.append(waiters));
        self.has_due.store(!due.is_empty(), Ordering::Release);
        state.led = false;
        state.pending = Pending::default();
        state.teed = false;
        self.refuse(state, failure.to_string());
    }

    fn refuse(&self, state: &mut State, reason: String) {
        state.reason = WriteRefused(reason.into());
        self.refusing.store(true, Ordering::Release);
        self.woken.iter().for_each(Condvar::notify_all);
        self.alarm.notify_all();
    }

    /// Under `everysec`, fsyncs what is written; call it each second.
    pub fn sync_second(&self) {
        if self.fsync == Fsync::Everysec {
            drop(self.sync(lock(&self.state)));
        }
    }

    /// Makes everything appended so far survive a power cut, whatever the mode.
    pub fn save(&self) -> Result<(), WriteRefused> {
        let mark = {
            let state = lock(&self.state);
            let stamp = match (state.pending.is_empty(), state.writing) {
                (false, _) => state.stamp,
                (true, true) => state.stamp - 1,
                (true, false) => self.committed(),
            };
            Mark { stamp, healed: self.healed() }
        };
        self.commit(mark)?;
        drop(self.sync(lock(&self.state)));
        self.look_at_rest();
        let state = lock(&self.state);
        match state.trouble {
            Some(_) => Err(state.reason.clone()),
            None => Ok(()),
        }
    }

    /// Once nothing has been appended since the last call, writes an empty batch whose seal marks
    /// the last records as durable, so that damage to them can be told from a crash; and looks whether
    /// the file is where it was, though nobody writes.
    ///
    /// `before` is what the last call returned, at first 0.
    pub fn mark_idle(&self, before: u64) -> u64 {
        self.look_at_rest();
        let state = lock(&self.state);
        let stamp = state.stamp;
        let idle = stamp == before && state.is_resting() && state.pending.is_empty();
        let segment = &state.segment;
        let durable = segment.last_with_records <= segment.synced;
        // After a healing it shows that the file can be written to, too.
        let due = segment.is_unmarked() || state.unproven;
        if idle && durable && due && state.check().is_ok() {
            drop(self.lead_mark(state));
        }
        stamp
    }

    /// While nobody writes: looks whether the file is where it was.
    fn look_at_rest(&self) {
        let (stamp, segment) = {
            let state = lock(&self.state);
            if !state.is_resting() || state.trouble.is_some() {
                return;
            }
            (state.stamp, state.segment.clone())
        };
        let looked = self.look(&segment, segment.end);
        let mut state = lock(&self.state);
        // Nothing was written meanwhile that would explain another length.
        let rested = state.stamp == stamp && state.is_resting() && state.trouble.is_none();
        if let (Err(failure), true) = (looked, rested) {
            self.fail(&mut state, &failure);
        }
    }

    /// Fsyncs what is committed and not yet synced, with the lock released meanwhile.
    fn sync<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while state.syncing || state.reserved {
            state = wait(&self.rested, state);
        }
        let segment = state.segment.clone();
        if state.trouble.is_some() || segment.synced >= segment.last {
            return state;
        }
        state.syncing = true;
        drop(state);
        let guard = AbortOnPanic;
        let synced = segment.file.sync_data();
        std::mem::forget(guard);
        let mut state = lock(&self.state);
        state.syncing = false;
        self.rested.notify_all();
        match synced {
            // Whatever failed before it: the file must get no further byte.
            Err(error) => self.fail(&mut state, &Failure::Sync(error)),
            Ok(()) if state.trouble.is_some() => {}
            Ok(()) => state.segment.synced = segment.last.max(state.segment.synced),
        }
        state
    }

    /// Waits for at most `timeout` until there is trouble, and says whether there is.
    pub fn wait_for_trouble(&self, timeout: Duration) -> bool {
        let state = lock(&self.state);
        let state = match state.trouble {
            Some(_) => state,
            None => wait_timeout(&self.alarm, state, timeout),
        };
        state.trouble.is_some()
    }

    /// Why writes are refused, or were just before: until one has shown that they can be made.
    pub fn trouble(&self) -> Option<WriteRefused> {
        let state = lock(&self.state);
        (state.trouble.is_some() || state.unproven).then(|| state.reason.clone())
    }

    /// Whether what was under way is lost, and memory may show it still.
    pub fn has_failed(&self) -> bool {
        lock(&self.state).trouble.is_some()
    }

    /// Panics with the state locked, for tests of what that does.
    pub fn panic_locked(&self) -> ! {
        let _state = lock(&self.state);
        panic!("asked for, with the journal locked");
    }

    /// Takes no more, commits what is pending, makes everything durable whatever the mode, and marks
    /// it so. After an error some acknowledged writes may not be durable.
    pub fn close(&self) -> Result<(), WriteRefused> {
        let mut state = lock(&self.state);
        state.closing = true;
        while state.trouble.is_none() {
            let segment = &state.segment;
            state = match () {
                () if !state.is_resting() => wait(&self.rested, state),
                () if !state.pending.is_empty() => self.lead(state),
                () if segment.synced < segment.last => self.sync(state),
                () if segment.is_unmarked() => self.lead_mark(state),
                () => break,
            };
        }
        drop(state);
        self.look_at_rest();
        let mut state = lock(&self.state);
        match state.trouble {
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

    /// Adds all of it, or nothing where there is no memory for it.
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
    stamp: u64,
    /// The durable mark of its seal.
    durable: u64,
    garbage: u64,
    flush: Option<Flush>,
    /// A buffer for other records, once its own are written.
    spare: Vec<u8>,
}

impl Batch {
    /// Frees the records, which are written or never will be: not with the lock held, as they may be large.
    fn free_records(&mut self) {
        self.spare = std::mem::take(&mut self.records).into_spare();
        self.spare.shrink_to(JOURNAL_SPARE_BYTES_MAX);
    }
}

impl State {
    fn check(&self) -> Result<(), WriteRefused> {
        match self.trouble {
            Some(_) => Err(self.reason.clone()),
            None if self.closing => Err(stopping()),
            None => Ok(()),
        }
    }

    /// Whether a leader may begin to write.
    fn is_resting(&self) -> bool {
        !self.writing && !self.reserved
    }

    /// What is pending, for its leader to write.
    fn take_batch(&mut self) -> Batch {
        assert!(!self.writing, "one leader at a time");
        self.writing = true;
        self.pending.select(0);
        let records = Records::with_spare(std::mem::take(&mut self.spare));
        let taken = std::mem::replace(&mut self.pending, Pending { records, ..Pending::default() });
        let Pending { records, count, select_bytes, garbage, flush, .. } = taken;
        let stamp = self.stamp;
        self.stamp += 1;
        self.led = false;
        self.leader = Some(thread::current().id());
        Batch {
            records,
            count,
            select_bytes,
            overhead: 0,
            length: 0,
            stamp,
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
