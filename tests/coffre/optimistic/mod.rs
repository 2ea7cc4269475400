//! A second engine: keys in memory, conflicts found at the end.
//!
//! It is written as an engine over a network would be. A transaction holds no lock: it reads keys with the revisions of
//! their last changes, keeps its writes to itself, and at the end compares the revisions of all that it has read and
//! writes, in one step. If something has changed it runs again. After some conflicts in a row it keeps all others
//! from committing while it runs, so it ends.
//!
//! Two of three transactions run again though nothing has changed, so a command that cannot be repeated shows it:
//! [`suite`] runs the tests of commands and connections on a server with this engine. There is no disk: what is written
//! is committed at once, and gone with the process.
//!
//! Lock order: `commits`, then `store`.

mod conflicts;
mod store;
mod suite;
mod txn;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use coffre::config::Config;
use coffre::engine::{
    Admin, CompactionStatus, Engine, PanicAt, Scope, Status, TxnError, VerifyError,
};
use coffre::journal::{CommitCallback, CommitPoint, WriteRefused};
use coffre::limits::{EXPIRED_AT_ONCE, EXPIRY_TICK_MS};
use coffre::server::Stop;
use coffre::util::clock::{unix_time_ms, unix_time_s};
use coffre::{Error, Hosted};

use store::Store;
use txn::OptimisticTxn;

/// See the module.
pub struct Optimistic {
    // Constant after construction.
    databases: usize,
    /// Some connection watches a key as long as something else refers to it.
    watching: Arc<()>,

    // Their own synchronization.
    keeps_expired: AtomicBool,
    expired: AtomicU64,
    saved_s: AtomicU64,
    /// A compaction is asked for: there is nothing to compact, and it ends at the next tick.
    is_compacting: AtomicBool,
    transactions: AtomicU64,
    /// How often one was run again because something had changed.
    conflicts: AtomicU64,

    /// Held while something is committed.
    commits: Mutex<()>,
    store: Mutex<Store>,
}

/// What a connection remembers of a key that it watches.
pub struct Watched {
    seen: Seen,
    _watching: Arc<()>,
}

#[derive(PartialEq, Eq)]
enum Seen {
    /// The key existed, with this revision.
    There(u64),
    /// It did not, since this revision.
    Gone(u64),
}

/// After so many conflicts in a row nothing else commits until the transaction has.
const CONFLICTS_MAX: u64 = 6;

impl Optimistic {
    pub fn new(databases: usize) -> Self {
        Self {
            databases,
            watching: Arc::default(),
            keeps_expired: AtomicBool::new(false),
            expired: AtomicU64::new(0),
            saved_s: AtomicU64::new(unix_time_s()),
            is_compacting: AtomicBool::new(false),
            transactions: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            commits: Mutex::default(),
            store: Mutex::new(Store::new(databases)),
        }
    }

    /// Deletes what has expired, some keys at a time.
    fn sweep(&self) {
        loop {
            let commits = self.commits.lock().unwrap();
            let deleted = self.store.lock().unwrap().delete_expired(unix_time_ms());
            drop(commits);
            self.expired.fetch_add(deleted.len() as u64, Ordering::Relaxed);
            if deleted.len() < EXPIRED_AT_ONCE {
                return;
            }
            thread::yield_now();
        }
    }
}

impl Engine for Optimistic {
    type Txn<'e> = OptimisticTxn<'e>;
    type Watched = Watched;
    type Session = ();

    const LIKES_FEW_TRANSACTIONS: bool = true;

    fn run<T, E: From<TxnError>>(
        &self,
        _session: &mut (),
        scope: Scope<'_>,
        mut body: impl FnMut(&mut OptimisticTxn<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let number = self.transactions.fetch_add(1, Ordering::Relaxed);
        let mut to_repeat = number % 3;
        let mut conflicts = 0;
        loop {
            let is_exclusive = conflicts >= CONFLICTS_MAX;
            let exclusive = is_exclusive.then(|| self.commits.lock().unwrap());
            let mut txn = OptimisticTxn::new(self, scope, exclusive);
            let result = body(&mut txn);
            if txn.is_used() && to_repeat > 0 {
                to_repeat -= 1;
                drop(txn);
                // Seldom: beside busy processes each costs a slice of the processor's time.
                if number.is_multiple_of(64) {
                    thread::yield_now();
                }
                continue;
            }
            if txn.finish(result.is_ok()) {
                return result;
            }
            conflicts += 1;
            self.conflicts.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_micros(10 << conflicts));
        }
    }

    fn take_commit_point(&self, _session: &mut ()) -> CommitPoint {
        CommitPoint::default()
    }

    fn is_committed(&self, _point: CommitPoint) -> bool {
        true
    }

    fn is_commit_due(&self, _session: &()) -> bool {
        false
    }

    fn commit(&self, _session: &mut (), _point: CommitPoint) -> Result<(), WriteRefused> {
        Ok(())
    }

    fn on_commit(
        &self,
        _session: &mut (),
        _point: CommitPoint,
        _callback: &Arc<dyn CommitCallback>,
        _may_gather: bool,
    ) -> bool {
        false
    }
}

impl Admin for Optimistic {
    fn databases(&self) -> usize {
        self.databases
    }

    fn check_writes(&self) -> Result<(), WriteRefused> {
        Ok(())
    }

    fn status(&self) -> Status {
        let saved_s = self.saved_s.load(Ordering::Relaxed);
        let is_running = self.is_compacting.load(Ordering::Relaxed);
        let took = Some(Duration::ZERO);
        Status {
            expired: self.expired.load(Ordering::Relaxed),
            compaction: CompactionStatus { is_running, took, saved_s, ..Default::default() },
            ..Status::default()
        }
    }

    fn committed_keys(&self) -> usize {
        let store = self.store.lock().unwrap();
        store.databases.iter().map(|database| database.counts.keys).sum()
    }

    fn save(&self) -> Result<(), WriteRefused> {
        self.saved_s.store(unix_time_s(), Ordering::Relaxed);
        Ok(())
    }

    fn request_compaction(&self) -> bool {
        !self.is_compacting.swap(true, Ordering::Relaxed)
    }

    fn schedule_compaction(&self) {
        self.request_compaction();
    }

    fn set_active_expiry(&self, is_active: bool) {
        self.keeps_expired.store(!is_active, Ordering::Relaxed);
    }

    fn reset_expired(&self) {
        self.expired.store(0, Ordering::Relaxed);
    }

    fn verify(&self) -> Result<(), VerifyError> {
        Ok(())
    }

    fn panic_at(&self, place: PanicAt) -> ! {
        let (_commits, _store);
        match place {
            PanicAt::Journal => _commits = self.commits.lock().unwrap(),
            PanicAt::Keys => _store = self.store.lock().unwrap(),
        }
        panic!("asked for, with a lock held")
    }

    fn assert_sound(&self) {
        if self.commits.is_poisoned() || self.store.is_poisoned() {
            log::error!("a thread panicked inside a lock: the process ends");
            coffre::util::logging::flush();
            std::process::abort();
        }
    }
}

impl Hosted for Optimistic {
    type Opened = ();

    fn open(_config: &Config) -> Result<(), Error> {
        Ok(())
    }

    fn start(_opened: (), config: &mut Config) -> Result<Self, Error> {
        Ok(Self::new(config.databases.into()))
    }

    fn start_tasks(self: &Arc<Self>) -> io::Result<()> {
        let engine = Arc::clone(self);
        let sweep = move || {
            loop {
                thread::sleep(Duration::from_millis(EXPIRY_TICK_MS));
                if engine.is_compacting.swap(false, Ordering::Relaxed) {
                    engine.saved_s.store(unix_time_s(), Ordering::Relaxed);
                }
                if !engine.keeps_expired.load(Ordering::Relaxed) {
                    engine.sweep();
                }
            }
        };
        thread::Builder::new().name("expiry".to_owned()).spawn(sweep).map(drop)
    }

    fn close(self: &Arc<Self>, _how: Stop, _asked: Instant) -> Result<(), Error> {
        let (transactions, conflicts) = (&self.transactions, &self.conflicts);
        log::info!("optimistic engine: {transactions:?} transactions, {conflicts:?} conflicts");
        Ok(())
    }

    fn describe(&self, _config: &Config) -> String {
        "keys in memory".to_owned()
    }
}
