//! The engine of several machines: keys in an etcd cluster, in front of which any number of coffres stand.
//!
//! A coffre keeps nothing. A [transaction](EtcdTxn) reads at one revision of the cluster, through a majority, and writes by one
//! transaction of etcd that compares what was read; what has changed meanwhile makes it run again. So all coffres
//! together are as one, and a reply to a write means that a majority of machines has it on disk. [`slots`] does each
//! transaction at most once though replies may be lost, [`cluster`] finds a member that answers, [`layout`] says where
//! things stand, and a thread of each coffre is ready to [delete](sweep) what has expired.
//!
//! Lock order: none is taken while another is held. A [lane](lanes) or a [slot](slots) is no lock: a transaction that has one
//! speaks with the cluster meanwhile, and others wait for it until their own deadline.

mod batches;
mod changes;
pub mod cluster;
mod gateway;
mod lanes;
mod layout;
mod lease;
mod listing;
mod names;
mod slots;
mod sweep;
mod together;
mod transfer;
mod txn;
mod watch_members;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::engine::{
    Admin, CompactionStatus, Engine, EngineError, EngineErrorKind, Figure, PanicAt, Scope, Status,
    TxnError, VerifyError,
};
use crate::journal::{CommitCallback, CommitPoint, WriteRefused};
use crate::limits::ETCD_CONFLICTS_MAX;
use crate::util::clock::{Clock, unix_time_ms, unix_time_s};
use crate::util::random::random;
use crate::util::sync::lock;
use crate::util::tasks::spawn;

use cluster::{Access, Cluster};
use gateway::{Bytes, Compare, Operation, RangeRequest, TxnRequest};
use lanes::{Known, Lanes, TakenLane};
use layout::{ForeignLayout, Layout, Part};
use slots::Slots;
use txn::Finished;
pub use txn::{EtcdTxn, Watched};
use watch_members::Members;

/// Which keyspace of which cluster, and how it is used.
#[derive(Debug)]
pub struct Options {
    /// How the cluster is reached.
    pub access: Access,
    /// What every name begins with.
    pub prefix: String,
    /// Number of databases.
    pub databases: usize,
    /// After so long a revision is forgotten; `None` leaves that to the cluster.
    pub compact_after: Option<Duration>,
    /// A bug, for tests that show that it would be found.
    pub breakage: Option<Breakage>,
}

/// A bug that a test may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breakage {
    /// Reads do not go through a majority.
    SerializableReads,
    /// Nothing is compared before it is written.
    NothingCompared,
    /// A transaction whose reply was lost is done again.
    DoneTwice,
}

/// Why a keyspace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The cluster does not answer, or refuses.
    #[error("{0}. The members are tried in turn: is the address right, and is there a majority?")]
    Cluster(#[from] EngineError),
    /// Something else stands there.
    #[error(transparent)]
    Foreign(#[from] ForeignLayout),
}

/// See the module.
#[derive(Debug)]
pub struct EtcdEngine {
    // Constant after construction.
    databases: usize,
    prefix: String,
    compact_after: Option<Duration>,
    breakage: Option<Breakage>,

    // Their own synchronization.
    slots: Slots,
    lanes: Lanes,
    clock: Clock,
    keeps_expired: AtomicBool,
    /// Keys that this coffre deleted because they had expired.
    expired: AtomicU64,
    /// Keys when they were last counted.
    keys: AtomicUsize,
    /// How often a transaction found that something had changed, and how often it gave up because of that.
    conflicts: AtomicU64,
    gave_up: AtomicU64,

    members: Mutex<Members>,
    sweeper: Mutex<sweep::Sweeper>,
}

impl EtcdEngine {
    /// The keyspace of `options`, which is made if there is none.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let Options { access, prefix, databases, compact_after, breakage } = options;
        let cluster = Cluster::new(access);
        let layout = read_layout(&cluster, &prefix)?;
        let engine = Self {
            databases,
            prefix,
            compact_after,
            breakage,
            slots: Slots::new(cluster, layout, breakage == Some(Breakage::DoneTwice)),
            lanes: Lanes::default(),
            clock: Clock::new(Instant::now(), unix_time_ms()),
            keeps_expired: AtomicBool::new(false),
            expired: AtomicU64::new(0),
            keys: AtomicUsize::new(0),
            conflicts: AtomicU64::new(0),
            gave_up: AtomicU64::new(0),
            members: Mutex::default(),
            sweeper: Mutex::default(),
        };
        engine.count_keys()?;
        Ok(engine)
    }

    /// Starts its threads: one keeps the lease, one looks after the members, one deletes what has expired.
    pub fn start_threads(self: &Arc<Self>) -> io::Result<()> {
        spawn("etcd-lease", self, |engine| engine.slots.lease.tend(&engine.slots.cluster))?;
        spawn("etcd-members", self, |engine| {
            engine.watch_members();
            thread::sleep(Duration::from_secs(1));
        })?;
        spawn("expiry", self, |engine| {
            thread::sleep(Duration::from_millis(500));
            engine.clock.look(Instant::now(), unix_time_ms());
            engine.sweep();
        })
    }

    /// Leaves the cluster: another coffre may delete what has expired from now on.
    pub fn close(&self) {
        self.slots.lease.revoke(&self.slots.cluster);
    }

    /// How the keyspace is named in messages.
    pub fn name(&self) -> String {
        let members = self.slots.cluster.members();
        let urls: Vec<_> = members.iter().map(|member| member.url.as_str()).collect();
        format!("etcd {} under {}", urls.join(", "), self.prefix)
    }

    fn layout(&self) -> &Layout {
        &self.slots.layout
    }

    fn has(&self, breakage: Breakage) -> bool {
        self.breakage == Some(breakage)
    }

    /// Counts the keys of all databases. etcd looks at each for that.
    fn count_keys(&self) -> Result<(), EngineError> {
        let (start, end) = self.layout().whole(Part::Values);
        let (key, range_end) = (Bytes(start), Some(Bytes(end)));
        let count = RangeRequest { key, range_end, count_only: true, ..RangeRequest::default() };
        if let Some(reply) = self.slots.read(&count, self.slots.cluster.deadline())? {
            self.keys.store(reply.count as usize, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The hash of the lane in which transactions of `scope` wait for each other; none if it has many keys.
    fn lane_of(&self, scope: Scope<'_>) -> Option<u64> {
        match scope {
            Scope::One(key) => Some(self.layout().hash(key)),
            Scope::Many(keys) => keys.first().map(|key| self.layout().hash(key)),
            Scope::Each | Scope::All => None,
        }
    }

    fn contended(&self) -> EngineError {
        self.gave_up.fetch_add(1, Ordering::Relaxed);
        let reason = "others change the same keys all the time";
        EngineError::new(EngineErrorKind::Contended, reason)
    }
}

/// Reads the layout of a keyspace, which is made if there is none. What the one write does twice is the same.
fn read_layout(cluster: &Cluster, prefix: &str) -> Result<Layout, OpenError> {
    let name = Layout::description_name(prefix);
    let description = Layout::new_description([random(), random()]);
    let request = TxnRequest {
        compare: vec![Compare::is_unchanged(name.clone(), 0)],
        success: vec![Operation::put(name.clone(), description), Operation::get(name.clone(), 0)],
        failure: vec![Operation::get(name, 0)],
    };
    let deadline = cluster.deadline();
    let reply = cluster.read(&request, 0, deadline).map_err(slots::error)?;
    let found = reply.responses.into_iter().flat_map(|reply| reply.response_range.kvs).next();
    Ok(Layout::of(prefix, &found.map_or(Vec::new(), |found| found.value.0))?)
}

impl Engine for EtcdEngine {
    type Txn<'e> = EtcdTxn<'e>;
    type Watched = Watched;
    type Session = ();

    const KEEPS_FILE: bool = false;
    const LIKES_FEW_TRANSACTIONS: bool = true;

    fn run<T, E: From<TxnError>>(
        &self,
        _session: &mut (),
        scope: Scope<'_>,
        mut body: impl FnMut(&mut EtcdTxn<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let deadline = self.slots.cluster.deadline();
        let mut known = Known::default();
        let (mut conflicts, mut lane) = (0, None);
        loop {
            let mut txn = EtcdTxn::new(self, scope, deadline, std::mem::take(&mut known));
            let result = body(&mut txn);
            let may_write = result.is_ok();
            // Where another transaction has the lane this one would meet it.
            let is_late = may_write && lane.is_none() && txn.may_meet_others();
            let busy = self.lane_of(scope).filter(|hash| is_late && self.lanes.is_busy(*hash));
            let finished = match busy {
                Some(_) => Finished::Conflict(Known::default()),
                None => txn.finish(may_write).map_err(TxnError::from)?,
            };
            match finished {
                Finished::Done(written) => {
                    if let Some(lane) = &lane {
                        TakenLane::leave(lane, written);
                    }
                    return result;
                }
                Finished::Conflict(read) => known = read,
                Finished::Stale => {}
            }
            if busy.is_none() {
                self.conflicts.fetch_add(1, Ordering::Relaxed);
                conflicts += 1;
            }
            if conflicts > ETCD_CONFLICTS_MAX || Instant::now() >= deadline {
                return Err(TxnError::from(self.contended()).into());
            }
            match (&lane, self.lane_of(scope)) {
                (None, Some(hash)) => match self.lanes.take(hash, deadline) {
                    Some((taken, left)) => (lane, known) = (Some(taken), left),
                    None => return Err(TxnError::from(self.contended()).into()),
                },
                _ => {
                    let longest_us = 100 << conflicts.min(10);
                    thread::sleep(Duration::from_micros(random() % longest_us));
                }
            }
        }
    }

    fn take_commit_point(&self, _session: &mut ()) -> CommitPoint {
        CommitPoint::default()
    }

    /// A transaction that has run is committed.
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

impl Admin for EtcdEngine {
    fn databases(&self) -> usize {
        self.databases
    }

    /// Whether the cluster takes writes is seen when one is sent.
    fn check_writes(&self) -> Result<(), WriteRefused> {
        Ok(())
    }

    fn status(&self) -> Status {
        let saved_s = unix_time_s();
        let database_bytes = lock(&self.members).database_bytes();
        Status {
            expired: self.expired.load(Ordering::Relaxed),
            fault: self.fault().map(WriteRefused::new),
            file_bytes: database_bytes,
            compaction: CompactionStatus { saved_s, ..CompactionStatus::default() },
            ..Status::default()
        }
    }

    /// As they were counted last, which is done every few seconds.
    fn committed_keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    fn save(&self) -> Result<(), WriteRefused> {
        Ok(())
    }

    fn request_compaction(&self) -> bool {
        true
    }

    fn schedule_compaction(&self) {}

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
        let (_members, _sweeper);
        match place {
            PanicAt::Keys => _members = lock(&self.members),
            PanicAt::Journal => _sweeper = lock(&self.sweeper),
        }
        panic!("asked for, with a lock held")
    }

    fn assert_sound(&self) {
        if self.members.is_poisoned() || self.sweeper.is_poisoned() {
            log::error!("a thread panicked inside a lock: the process ends");
            crate::util::logging::flush();
            std::process::abort();
        }
    }

    fn figures(&self) -> Vec<Figure> {
        self.all_figures()
    }
}
