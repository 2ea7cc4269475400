//! The engine of one machine: keys in memory, behind one mutex per shard, and a journal on disk.
//!
//! A [`LocalTxn`] changes memory and appends its records with the shards of its keys locked, so the file has the order of
//! memory. A [`LocalSession`] remembers what its transactions wrote *or showed*; no reply leaves before that is
//! committed, so what a client has seen is not lost in a power cut. A [`Compaction`] writes memory to a new file while
//! clients go on. After a fault memory is what was committed, and [`LocalEngine::repair`] gives it a file again.
//!
//! Lock order: `repairing`, then `rolling_back`, then shards in ascending order, then the journal; the compactor's status
//! is held with none of them but the journal's. No lock is held across I/O, but for `repairing`, which no client takes.

mod closing;
mod compaction;
mod expiry_queue;
mod key_arena;
mod key_record;
mod locks;
mod prefix_index;
mod replay;
mod search;
mod shard;
pub mod store;
mod sweep;
mod table;
mod tasks;
mod txn;
mod txn_log;
mod undo;
mod verify;
mod watchers;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::engine::{Admin, Engine, PanicAt, Scope, Status, Txn, TxnError, VerifyError};
use crate::journal::{
    CommitCallback, CommitPoint, Error, Fsync, Journal, Recovery, SwitchError, WriteRefused,
};
use crate::limits::{SHARDS, UNDO_BYTES_MAX, UNDO_SPARE};
use crate::util::clock::{Clock, unix_time_ms};
use crate::util::memory;
use crate::util::sync::lock;

use locks::Locks;
use store::Store;
use undo::Undo;

pub use closing::CloseError;
pub use compaction::{Compaction, Compactor};
pub use replay::{Loaded, Loading};
pub use txn::{LocalSession, LocalTxn};

/// See the module.
#[derive(Debug)]
pub struct LocalEngine {
    store: Store,
    journal: Journal,
    /// About how much of the file is superseded, in bytes; the journal counts seals.
    garbage_bytes: AtomicU64,
    compactor: Compactor,
    /// Held while memory goes back to what was committed, and while writes are let in again.
    rolling_back: Mutex<()>,
    /// Held while the file is repaired.
    repairing: Mutex<()>,
    /// Goes up while a new file is being written.
    progress: AtomicU64,
    /// Number of keys when everything was last committed.
    committed_keys: AtomicUsize,
    /// Keys deleted because they had expired.
    expired: AtomicU64,
    /// Expired keys stay in memory, hidden.
    keeps_expired: AtomicBool,
    /// How often databases were swapped; changes with every shard locked.
    swaps: AtomicU64,
    /// The clock that keys expire by.
    clock: Clock,
    started: Instant,
    /// How long ago that was at the last tick, in seconds.
    age_s: AtomicU32,
}

/// Start, end, and what its threads do.
impl LocalEngine {
    /// Loads what `recovery` found into memory, then makes the file ready for more.
    pub fn start(recovery: Recovery, fsync: Fsync) -> Result<Self, Error> {
        Self::start_with(recovery, fsync, Store::default())
    }

    /// The same with a store of its own, which is empty.
    pub fn start_with(recovery: Recovery, fsync: Fsync, store: Store) -> Result<Self, Error> {
        let Loaded { store, live_bytes, flush } = Loading::load(&recovery, store)?;
        let journal = recovery.finish(fsync)?;
        journal.set_flush(flush);
        let garbage_bytes = AtomicU64::new(journal.bytes().saturating_sub(live_bytes));
        let committed_keys = AtomicUsize::new(store.keys());
        Ok(Self {
            store,
            journal,
            garbage_bytes,
            compactor: Compactor::default(),
            rolling_back: Mutex::default(),
            repairing: Mutex::default(),
            progress: AtomicU64::new(0),
            committed_keys,
            expired: AtomicU64::new(0),
            keeps_expired: AtomicBool::new(false),
            swaps: AtomicU64::new(0),
            clock: Clock::new(Instant::now(), unix_time_ms()),
            started: Instant::now(),
            age_s: AtomicU32::new(0),
        })
    }

    /// The data file's absolute path.
    pub fn path(&self) -> &Path {
        self.journal.path()
    }

    /// Goes up while a new file is being written: that tells a slow disk from one that hangs.
    pub fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Reads the clocks; to be called several times a second.
    pub fn tick(&self) {
        self.age_s.store(self.started.elapsed().as_secs() as u32, Ordering::Relaxed);
        if let Some(jump_ms) = self.clock.look(Instant::now(), unix_time_ms()) {
            let (seconds, direction) =
                (jump_ms.abs() / 1000, if jump_ms > 0 { "forward" } else { "back" });
            log::warn!(
                "the system's clock jumped {direction} by {seconds} s; keys expire by it, and those that expired by a \
                 jump forward are not seen, but kept for a minute in case it is put right"
            );
        }
    }

    /// See [`Journal::sync_second`].
    pub fn sync_second(&self) {
        self.journal.sync_second();
        self.run_callbacks();
    }

    /// See [`Journal::mark_idle`].
    pub fn mark_idle(&self, before: u64) -> u64 {
        let sequence = self.journal.mark_idle(before);
        self.run_callbacks();
        sequence
    }

    /// Frees the undo of committed changes, however much that is; to be called now and then, on a thread that nothing
    /// waits for.
    pub fn free_all_undo(&self) {
        let committed = self.journal.committed();
        if self.journal.check().is_ok() {
            let mut released = Vec::new();
            for number in 0..SHARDS {
                while self.store.lock(number).release_all(committed, &mut released) {
                    self.free_undo(&mut released);
                }
                self.free_undo(&mut released);
            }
        }
        memory::flush_thread_count();
    }

    /// Frees undo of committed changes, and counts the bytes of the file that they superseded.
    fn free_undo(&self, released: &mut Vec<Undo>) {
        if released.is_empty() {
            return;
        }
        let garbage: usize = released.iter().map(Undo::garbage_bytes).sum();
        released.clear();
        released.shrink_to(UNDO_SPARE);
        if garbage > 0 {
            self.garbage_bytes.fetch_add(garbage as u64, Ordering::Relaxed);
        }
    }

    /// See [`Journal::lead_gathered`].
    pub fn lead_gathered(&self) {
        self.journal.lead_gathered();
        self.run_callbacks();
    }

    fn run_callbacks(&self) {
        self.journal.run_callbacks(|| self.roll_back());
    }

    /// Takes back in memory what the journal aborted: reads go on with what is committed.
    fn roll_back(&self) {
        let _only_one = lock(&self.rolling_back);
        // Else it was repaired meanwhile, and what is not committed now is under way.
        if self.journal.is_faulted() {
            let committed = self.journal.committed();
            self.store.each().for_each(|mut shard| shard.abort_after(committed));
        }
    }

    /// Waits for at most `timeout` for a fault, and says whether there is one.
    pub fn wait_for_fault(&self, timeout: Duration) -> bool {
        self.journal.wait_for_fault(timeout)
    }

    /// Why writes are refused, if they are.
    pub fn fault(&self) -> Option<WriteRefused> {
        self.journal.fault()
    }

    /// After a fault: takes back in memory what was not committed, gives it a file that can be trusted, and takes writes
    /// again. An error says why the disk does not let it.
    pub fn repair(&self) -> Result<(), SwitchError> {
        let _only_one = lock(&self.repairing);
        if !self.journal.is_faulted() {
            return Ok(());
        }
        self.roll_back();
        self.run_callbacks();
        if !self.journal.cut_back() {
            self.rewrite()?;
        }
        let _only_one = lock(&self.rolling_back);
        self.journal.resume();
        Ok(())
    }

    /// Makes everything durable and refuses all further writes, see [`Journal::close`].
    ///
    /// After a fault it tries once more to repair the file: memory may be all there is.
    pub fn close(&self) -> Result<(), WriteRefused> {
        self.close_without_repair().or_else(|refused| match self.repair() {
            Ok(()) => self.close_without_repair(),
            Err(error) => {
                log::error!("{}: {error}", self.path().display());
                Err(refused)
            }
        })
    }

    /// The same, but after a fault nothing more is tried.
    pub fn close_without_repair(&self) -> Result<(), WriteRefused> {
        let closed = self.journal.close();
        self.run_callbacks();
        closed
    }

    /// Waits for at most `timeout` until no compaction is under way; one gives up once this is closed.
    pub fn wait_for_compaction(&self, timeout: Duration) {
        self.compactor.wait_for_end(timeout);
    }
}

impl Engine for LocalEngine {
    type Txn<'e> = LocalTxn<'e>;
    type Watched = watchers::Watched;
    type Session = LocalSession;

    #[inline]
    fn run<T, E: From<TxnError>>(
        &self,
        session: &mut LocalSession,
        scope: Scope<'_>,
        mut body: impl FnMut(&mut LocalTxn<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut txn = LocalTxn::new(self, session, Locks::new(&self.store, scope));
        let result = body(&mut txn);
        txn.finish(result)
    }

    fn take_commit_point(&self, session: &mut LocalSession) -> CommitPoint {
        std::mem::take(&mut session.point)
    }

    fn is_committed(&self, point: CommitPoint) -> bool {
        self.journal.is_committed(point)
    }

    fn is_commit_due(&self, session: &LocalSession) -> bool {
        session.undo_bytes > UNDO_BYTES_MAX
    }

    fn commit(&self, session: &mut LocalSession, point: CommitPoint) -> Result<(), WriteRefused> {
        let committed = self.journal.commit(point);
        if committed.is_err() {
            self.roll_back();
        }
        self.run_callbacks();
        if committed.is_ok() && self.is_commit_due(session) {
            self.free_all_undo();
        }
        session.undo_bytes = 0;
        committed
    }

    fn on_commit(
        &self,
        session: &mut LocalSession,
        point: CommitPoint,
        callback: &Arc<dyn CommitCallback>,
        may_gather: bool,
    ) -> bool {
        let is_registered =
            !self.is_commit_due(session) && self.journal.on_commit(point, callback, may_gather);
        if is_registered {
            session.undo_bytes = 0;
        }
        is_registered
    }
}

impl Admin for LocalEngine {
    fn databases(&self) -> usize {
        self.store.databases()
    }

    fn check_writes(&self) -> Result<(), WriteRefused> {
        self.journal.check()
    }

    fn status(&self) -> Status {
        Status {
            expired: self.expired.load(Ordering::Relaxed),
            fault: self.fault(),
            file_bytes: self.journal.bytes(),
            garbage_bytes: self.garbage() + self.journal.seal_bytes(),
            repairs: self.journal.epoch(),
            compaction: self.compactor.status(),
        }
    }

    /// As of just now, or of before a write that waits for the disk: it does not wait for that.
    fn committed_keys(&self) -> usize {
        let mut session = LocalSession::default();
        let counts = self.run(&mut session, Scope::Each, |txn| txn.counts());
        if let (Ok(counts), true) = (counts, self.is_committed(session.point)) {
            let keys = counts.iter().map(|counts| counts.keys).sum();
            self.committed_keys.store(keys, Ordering::Relaxed);
        }
        self.committed_keys.load(Ordering::Relaxed)
    }

    fn save(&self) -> Result<(), WriteRefused> {
        let saved = self.journal.save();
        self.run_callbacks();
        saved?;
        self.compactor.saved();
        Ok(())
    }

    fn request_compaction(&self) -> bool {
        self.compactor.request()
    }

    fn schedule_compaction(&self) {
        self.compactor.schedule();
    }

    fn set_active_expiry(&self, is_active: bool) {
        self.keeps_expired.store(!is_active, Ordering::Relaxed);
    }

    fn reset_expired(&self) {
        self.expired.store(0, Ordering::Relaxed);
    }

    fn verify(&self) -> Result<(), VerifyError> {
        self.compare_with_file()
    }

    fn panic_at(&self, place: PanicAt) -> ! {
        match place {
            PanicAt::Journal => self.journal.panic_locked(),
            PanicAt::Keys => {
                let _shard = self.store.lock(0);
                panic!("asked for, with a shard locked")
            }
        }
    }

    fn assert_sound(&self) {
        self.store.each().for_each(drop);
        self.journal.is_faulted();
        self.compactor.status();
        drop((lock(&self.repairing), lock(&self.rolling_back)));
    }
}
